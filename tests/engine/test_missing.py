"""Missing: single metrics at their own pace, scrape targets, whole partitions; by rows alone and, in the service, by the time that passes."""

from __future__ import annotations

import numpy as np
import orjson
import pyarrow as pa
import pytest

from engine import config as configuration
from engine.batch import Batch
from engine.detectors.missing import Missing, MissingSettings
from engine.evidence import Budget
from engine.finding import Context
from engine.metrics import Metrics
from engine.outbox import Outbox, Route
from engine.run import Engine
from engine.wiring import make_detectors
from engine.worker import Worker
from streams.decode import Format
from streams.names import SPARSE
from streams.records import Message, Partition
from streams.sources import SimulatedSource

S = 1_000_000


def run(rows: list[dict], cut: int, sparse: tuple[str, ...] = ()):
    """All alert versions of some rows."""
    worker = Worker(Partition("gpus", 3), {"missing": Missing(MissingSettings(), Context(Budget()))}, "", None, {})
    names = list({k: None for r in rows for k in r if k != "time"})
    alerts = []
    for first in range(0, len(rows), cut):
        part = rows[first : first + cut]
        arrays = [pa.array([r.get(n) for r in part], pa.string() if n in ("host", "device") else pa.float64()) for n in names]
        schema = pa.schema([pa.field(n, a.type, metadata=SPARSE if n in sparse else None) for n, a in zip(names, arrays, strict=True)])
        times = np.array([int(r["time"] * S) for r in part])
        worker.state.watermarks["hardware"] = int(times.max())
        worker.observe(Batch("hardware", pa.RecordBatch.from_arrays(arrays, schema=schema), times, np.arange(first, first + len(part))))
        alerts += worker.judge("hardware")[1]
    return alerts


def told(alerts) -> list[tuple]:
    """What does not depend on when it was noticed."""
    return sorted({(a.key, a.id, a.onset_us // S) for a in alerts}), sorted(
        (a.key, a.resolved_us // S) for a in alerts if a.status == "resolved"
    )


def fleet(times, devices: int = 3, **metrics) -> list[dict]:
    return [{"time": t, "host": "h", "device": f"g{d}", "metric.temp": 1.0, **metrics} for t in times for d in range(devices)]


CUTS = (1, 7, 10_000)


def test_a_slow_metric_is_missed_at_its_own_pace_only() -> None:
    rows = fleet(range(1200), 1)
    for r in rows:
        if r["time"] % 30 == 0 and r["time"] < 600:
            r["metric.slow"] = 1.0
    for alerts in (run(rows, cut) for cut in CUTS):
        assert told(alerts) == ([("h/g0 slow", alerts[0].id, 570 + 300)], [])


def test_an_irregular_device_is_given_more_time() -> None:
    generator = np.random.default_rng(1)
    times = np.cumsum(generator.exponential(1.0, 3000))
    rows = sorted(
        fleet(times[times < 2900].tolist(), 1) + [r | {"device": "clock"} for r in fleet(range(2900), 1)], key=lambda r: r["time"]
    )
    assert run(rows, 64) == []


def test_a_metric_that_comes_only_when_something_happens_is_never_missing() -> None:
    rows = fleet(range(300), 1)
    for r in rows[:100]:
        r["metric.burst"] = 1.0
    assert run(rows, 10, sparse=("metric.burst",)) == []
    assert {a.key for a in run(rows, 10)} == {"h/g0 burst"}


@pytest.mark.parametrize("cut", CUTS)
def test_a_whole_partition_is_one_finding_when_it_comes_back(cut: int) -> None:
    rows = fleet(range(60), 4) + [r for r in fleet(range(160, 260), 4) if r["device"] != "g3"]
    opened, resolved = told(run(rows, cut))
    assert [(k, t) for k, _, t in opened] == [("h/g3", 69), ("partition gpus-3", 69)]
    assert resolved == [("partition gpus-3", 160)]


@pytest.mark.parametrize("cut", CUTS)
def test_a_target_that_does_not_answer(cut: int) -> None:
    rows = []
    for t in range(0, 600, 5):
        down = 300 <= t < 450
        rows.append({"time": t, "host": "n1:9400", "device": "-", "metric.up": float(not down), "metric.scrape_duration": 0.1})
        if not down:
            rows[-1]["metric.requests_running"] = 3.0
    opened, resolved = told(run(rows, cut))
    assert [(k, t) for k, _, t in opened] == [("n1:9400/- up", 300)] and resolved == [("n1:9400/- up", 450)]


def test_a_target_that_never_answered_is_told() -> None:
    rows = [{"time": t, "host": "n1:9400", "device": "-", "metric.up": 0.0} for t in range(0, 30, 5)]
    assert [(a.key, a.onset_us) for a in run(rows, 2)] == [("n1:9400/- up", 0)]


class Kept:
    """A sink that keeps alerts."""

    def __init__(self) -> None:
        self.alerts: list[dict] = []

    def send(self, messages: list[Message]) -> set[str]:
        self.alerts += [orjson.loads(m.value)["data"] for m in messages]
        return {m.id for m in messages}

    def close(self) -> None: ...


def engine_over(source: SimulatedSource, kept: Kept) -> Engine:
    config = configuration.parse("detectors: {drift: null, extraction: null, hardware: null, rules: null}")
    engine = Engine(
        config, make_detectors(config), source, {"gpus": Format("hardware")}, Outbox([Route("kept", kept, frozenset({"alert"}))], threads=False),
        Metrics(),
    )  # fmt: skip
    source.on_change(engine.assigned, engine.revoked)
    return engine


def lines(times, devices: int) -> list[bytes]:
    return [
        orjson.dumps({"time": int(t * S), "host": "h", "device": f"g{d}", "metric.temp": 1.0}) for t in times for d in range(devices)
    ]  # fmt: skip


@pytest.mark.parametrize(("devices", "key"), [(4, "partition gpus-0"), (1, "h/g0")])
def test_silence_is_told_by_the_time_that_passes_with_the_id_that_rows_would_give(devices: int, key: str) -> None:
    source, kept = SimulatedSource(["gpus"]), Kept()
    engine = engine_over(source, kept)
    for line in lines(range(60), devices):
        source.put("gpus", line, 0)
    while engine.step(0.0):
        pass
    engine.population.waited_s += 9.0  # nothing came for nine seconds
    engine.step(0.0)
    engine.outbox.flush(1.0)
    assert kept.alerts == []
    engine.population.waited_s += 1.5
    engine.step(0.0)
    engine.population.waited_s += 100
    engine.step(0.0)
    engine.outbox.flush(1.0)
    (alert,) = kept.alerts
    assert (alert["key"], alert["status"], alert["evidence"]["told_by"]) == (key, "firing", "clock")
    for line in lines(range(170, 200), devices):
        source.put("gpus", line, 0)
    while engine.step(0.0):
        pass
    engine.outbox.flush(1.0)
    assert {(a["key"], a["id"]) for a in kept.alerts} == {(key, alert["id"])} and kept.alerts[-1]["status"] == "resolved"

    other, replayed = SimulatedSource(["gpus"]), Kept()
    engine = engine_over(other, replayed)
    for line in lines([*range(60), *range(170, 200)], devices):
        other.put("gpus", line, 0)
    while engine.step(0.0):
        pass
    engine.outbox.flush(1.0)
    assert {a["id"] for a in replayed.alerts} == {alert["id"]}


def test_a_source_that_can_not_be_asked_is_not_silent() -> None:
    source, kept = SimulatedSource(["gpus"]), Kept()
    source.caught_up = lambda partition: False  # type: ignore[method-assign]
    engine = engine_over(source, kept)
    for line in lines(range(60), 4):
        source.put("gpus", line, 0)
    while engine.step(0.0):
        pass
    engine.population.waited_s += 1000
    engine.step(0.0)
    engine.outbox.flush(1.0)
    assert kept.alerts == []


@pytest.mark.parametrize("devices", [1, 4])
def test_silence_by_the_clock_leaves_no_trace_in_what_rows_are_measured_by(devices: int) -> None:
    """A broker that was away gives the very next rows late: later findings have the ids that they would have had without."""
    before = np.cumsum(np.random.default_rng(1).uniform(0.5, 1.5, 100))
    after = before[-1] + np.cumsum(np.random.default_rng(2).uniform(0.5, 1.5, 100))
    gone = after[:60].tolist(), [t for t in after[60:] if t > after[60] + 30]  # the last device
    ids = []
    for silent in (True, False):
        source, kept = SimulatedSource(["gpus"]), Kept()
        engine = engine_over(source, kept)
        for line in lines(before, devices):
            source.put("gpus", line, 0)
        while engine.step(0.0):
            pass
        engine.population.waited_s += 1000.0 * silent
        engine.step(0.0)
        rows = [orjson.loads(line) for line in lines(after, devices)]
        wanted = [int(t * S) for part in gone for t in part]
        for row in rows:
            if row["device"] != f"g{devices - 1}" or row["time"] in wanted:
                source.put("gpus", orjson.dumps(row), 0)
        while engine.step(0.0):
            pass
        engine.outbox.flush(1.0)
        onset_us = max(a["onset_us"] for a in kept.alerts)
        assert onset_us > after[59] * S and (len({a["id"] for a in kept.alerts}) > 1) == silent
        ids.append({(a["id"], a["resolved_us"]) for a in kept.alerts if a["onset_us"] == onset_us and a["status"] == "resolved"})
    assert ids[0] == ids[1] and len(ids[0]) == 1
