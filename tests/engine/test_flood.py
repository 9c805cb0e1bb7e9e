"""Hostile cardinality: the state stays within its bytes, and what alarms, or was about to, is still there afterwards."""

import numpy as np
import pyarrow as pa
import pytest

from engine.batch import Batch
from engine.detectors.extraction import TABLE, Extraction, ExtractionSettings
from engine.detectors.hardware import Hardware, HardwareSettings
from engine.detectors.missing import Missing, MissingSettings
from engine.evidence import Budget
from engine.finding import Context
from engine.state import ArraySpec, KeyTable, State
from engine.worker import Worker
from streams.records import Partition

S = 1_000_000
MB = 1 << 20
FEATURES = 8


def queries(names, generator, start_s, spread=1.0) -> Batch:
    """A query of each of these principals, ten a second."""
    n = len(names)
    columns = {"principal": pa.array(names)}
    columns |= {f"feature.x{i}": pa.array((generator.normal(size=n) * spread).astype(np.float32)) for i in range(FEATURES)}
    return Batch("inference", pa.RecordBatch.from_pydict(columns), start_s * S + np.arange(n) * (S // 10), np.arange(n))


def take(worker: Worker, batch: Batch):
    worker.state.watermarks["inference"] = int(batch.time_us.max())
    worker.observe(batch)
    return worker.judge("inference")[1]


@pytest.fixture
def worker() -> Worker:
    context = Context(Budget())
    made = {"extraction": Extraction(ExtractionSettings(reference_rows=400), context)}
    one = Worker(Partition("t"), made, "", None, {"default": 1_000_000, "bytes": 32 * MB}, "inference")
    generator = np.random.default_rng(0)
    take(one, queries([f"p{i % 20}" for i in range(1000)], generator, 0))
    return one


def flood(worker: Worker, generator, principals: int, start_s: int, batch: int = 1000) -> None:
    for first in range(0, principals, batch):
        alerts = take(worker, queries([f"flood{start_s}-{i}" for i in range(first, first + batch)], generator, start_s))
        assert not [a for a in alerts if a.key.startswith("flood")]


def test_a_flood_of_principals_hides_no_attacker_and_takes_no_more_than_its_bytes(worker):
    generator = np.random.default_rng(1)
    opened = [a for _ in range(8) for a in take(worker, queries(["eve"] * 50, generator, 100, spread=6.0))]
    assert [a.key for a in opened if a.sequence == 0] == ["eve"]
    take(worker, queries(["mallory"] * 24, generator, 200))  # one query short of being judged for the first time
    take(worker, queries(["mallory"] * 24, generator, 210))
    before = {name: int(worker.state["extraction.vector.rows"][worker.state.table(TABLE).index[name]]) for name in ("eve", "mallory")}
    flood(worker, generator, 40_000, 300)
    table = worker.state.table(TABLE)
    assert worker.state.nbytes <= 32 * MB
    assert table.evicted > 30_000
    after = {name: int(worker.state["extraction.vector.rows"][table.index[name]]) for name in ("eve", "mallory")}
    assert after == before == {"eve": 400, "mallory": 48}
    more = [a for _ in range(3) for a in take(worker, queries(["eve"] * 50, generator, 900, spread=60.0))]
    assert {a.id for a in more} <= {opened[0].id}
    assert [o.alert.id for o in worker.lifecycle.open.values()] == [opened[0].id]
    assert int(worker.state["extraction.vector.rows"][table.index["eve"]]) == 550


def test_a_flood_of_one_kind_of_key_leaves_the_others_their_part():
    state = State({"default": 1 << 30, "bytes": 4 * MB})
    state.declare([ArraySpec("a", "float64", ("principal", 100)), ArraySpec("b", "float64", ("device", 100))])
    for i in range(0, 20_000, 500):
        state.slots("principal", [f"p{j}" for j in range(i, i + 500)], i)
    devices = state.slots("device", [f"d{j}" for j in range(900)], 1)
    assert (devices >= 0).all()
    assert state.nbytes <= 4 * MB
    for i in range(0, 20_000, 500):
        state.slots("device", [f"e{j}" for j in range(i, i + 500)], i)
    assert state.nbytes <= 4 * MB
    assert state.table("principal").evicted and state.table("device").evicted


def test_a_flood_of_metric_names_is_refused_and_costs_nothing_more():
    context = Context(Budget())
    detectors = {"hardware": Hardware(HardwareSettings(), context), "missing": Missing(MissingSettings(), context)}
    one = Worker(Partition("t"), detectors, "", None, {"default": 1_000_000, "metric": 32, "bytes": 64 * MB}, "hardware")
    for burst in range(20):
        names = ["metric.real", *(f"metric.x{burst}_{i}" for i in range(200))]
        columns = {"host": pa.array(["h"] * 8), "device": pa.array(["gpu0"] * 8)}
        columns |= {name: pa.array(np.full(8, float(i), np.float32)) for i, name in enumerate(names)}
        batch = Batch("hardware", pa.RecordBatch.from_pydict(columns), (burst * 8 + np.arange(8)) * S, np.arange(8))
        one.state.watermarks["hardware"] = int(batch.time_us.max())
        one.observe(batch)
        one.judge("hardware")
    table = one.state.table("metric")
    assert len(table) == 32 and "metric.real" in table.index
    assert one.state.nbytes <= 64 * MB and table.refused > 3000


def test_metrics_stop_where_the_bytes_do():
    state = State({"default": 1 << 20, "metric": 10_000, "bytes": 4 * MB})
    state.declare([ArraySpec("cov", "float64", ("device", "metric", "metric"))])
    state.slots("device", [f"d{i}" for i in range(16)], 0)
    slots = state.slots("metric", [f"m{i}" for i in range(1000)], 0)
    assert 100 < (slots >= 0).sum() < 200
    assert state.nbytes <= 4 * MB


def test_keys_that_come_again_outlive_a_flood_of_those_that_do_not():
    table = KeyTable("k", limit=1000)
    usual = [f"u{i}" for i in range(400)]
    table.slots(usual, 0)
    table.slots(usual, 1)
    for i in range(0, 50_000, 250):
        table.slots([f"f{j}" for j in range(i, i + 250)], 2 + i)
    assert all(u in table.index for u in usual)
    for i in range(0, 5000, 100):  # and a table full of keys that came again goes by age
        table.slots([f"g{j}" for j in range(i, i + 100)], 60_000 + i)
        table.slots([f"g{j}" for j in range(i, i + 100)], 60_000 + i)
    assert not any(u in table.index for u in usual)


def test_hot_keys_cost_one_place():
    table = KeyTable("k", limit=10)
    for i in range(1000):
        assert table.slots(["hot"] * 50, i).tolist() == [0] * 50
    assert len(table) == 1


def test_long_keys_are_cut_and_stay_apart():
    long = "x" * 100_000
    columns = {"principal": pa.array([long + "a", long + "b", "é" * 300, long + "a"]), "tenant": pa.array(["t" * 300] * 4)}
    for chosen in (columns, {"principal": columns["principal"]}):
        batch = Batch("inference", pa.RecordBatch.from_pydict(chosen), np.arange(4), np.arange(4))
        codes, keys = batch.keys(("principal",))
        assert max(map(len, keys)) == 256
        assert len({keys[c] for c in codes.tolist()}) == 3
