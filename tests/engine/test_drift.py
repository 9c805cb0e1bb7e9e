"""Drift: finds what changed, is silent on what did not, whatever the cut of batches and the spread over partitions."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from engine.batch import Batch
from engine.detectors.drift import Drift, DriftSettings
from engine.detectors.drift_reference import BINS, FEW, Reference, category_code, learn
from engine.detectors.drift_windows import Windows, judged
from engine.evidence import Budget
from engine.finding import Context
from engine.population import Population
from engine.worker import Worker
from streams.records import Partition

S = 1_000_000


def log10_p(reference: Reference, counts: np.ndarray) -> float:
    one = np.zeros(1, np.int64)
    window = Windows(["s"], one, one, one, one + S, counts[None].astype(float), reference.counts[None].astype(float))
    return float(judged(window, {"s": reference}).log10_p[0])


def traffic(n: int, generator: np.random.Generator, shift: float = 0.0, reason: str = "stop") -> dict[str, np.ndarray]:
    return {
        "input_tokens": generator.lognormal(6 + shift, 1, n).astype(np.int32),
        "feature.kind": np.where(generator.random(n) < 0.8, reason, "other").astype(object),
        "temperature": generator.choice([0.0, 0.7, 1.0], n).astype(np.float32),
    }


def lag(partition: Partition) -> int:
    return 0


def run(columns: dict[str, np.ndarray], time_us: np.ndarray, cut: int = 500, partitions: int = 1, seed: int = 0):
    """Alert versions and score rows of rows spread over partitions and cut into batches."""
    detectors = {"drift": Drift(DriftSettings(), Context(Budget()))}
    workers = [Worker(Partition("t", i), detectors, "", None, {}, "inference") for i in range(partitions)]
    population = Population(detectors, "", None, S, 2 * S, 1e9)
    home = np.random.default_rng(seed).integers(0, partitions, len(time_us))
    alerts, scores = [], []
    for worker in workers:
        population.heard_from(worker)
    for first in range(0, len(time_us), cut):
        for i, worker in enumerate(workers):
            rows = np.arange(first, min(first + cut, len(time_us)))
            rows = rows[home[rows] == i]
            if not len(rows):
                continue
            table = {"model": pa.array(["m"] * len(rows))} | {k: pa.array(v[rows]) for k, v in columns.items()}
            worker.state.watermarks["inference"] = int(time_us[rows].max()) - 2 * S
            worker.observe(Batch("inference", pa.RecordBatch.from_pydict(table), time_us[rows], rows))
        said, changed = population.advance(workers, lag)
        scores += said
        alerts += changed
    said, changed = population.advance(workers, lag, final=True)
    return alerts + changed, scores + said


def joined(*parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def flat(scores) -> list[tuple]:
    return sorted(
        (s.detector, s.keys[k], int(t), round(float(x), 6), round(float(limit), 6), bool(a))
        for s in scores
        for k, t, x, limit, a in zip(s.key, s.time_us, s.score, s.threshold, s.alarm, strict=True)
    )


def test_a_shift_is_found_and_named():
    generator = np.random.default_rng(1)
    columns = joined(traffic(4000, generator), traffic(2000, generator, shift=0.7))
    time_us = np.arange(6000) * S // 4
    alerts, _ = run(columns, time_us)
    assert {a.key for a in alerts} == {"m/input_tokens"}
    first = alerts[0]
    assert 0 < np.searchsorted(time_us, first.onset_us) - 4000 <= 600
    assert first.p_value < 1e-5
    assert sum(b["window"] for b in first.evidence["histogram"]) == first.evidence["window"]["rows"]


def test_an_unseen_category_is_found_and_named():
    generator = np.random.default_rng(2)
    columns = joined(traffic(4000, generator), traffic(2000, generator, reason="tool_calls"))
    alerts, _ = run(columns, np.arange(6000) * S // 4)
    assert {a.key for a in alerts} == {"m/feature.kind"}
    assert any(b["bin"] == "unseen" and b["window"] > 100 for b in alerts[-1].evidence["histogram"])
    assert any(b["bin"] == "stop" for b in alerts[-1].evidence["histogram"])


@pytest.mark.parametrize("seed", range(5))
def test_no_drift_no_alarm(seed):
    alerts, scores = run(traffic(12000, np.random.default_rng(seed)), np.arange(12000) * S // 4)
    assert alerts == []
    assert len(flat(scores)) > 50


@settings(max_examples=8, deadline=None)
@given(st.integers(100, 3000), st.integers(1, 5), st.integers(0, 100))
def test_cuts_and_partitions_change_nothing(cut, partitions, seed):
    generator = np.random.default_rng(3)
    columns = joined(traffic(3000, generator), traffic(1500, generator, shift=0.7))
    time_us = np.arange(4500) * S // 7
    one_alerts, one_scores = run(columns, time_us, cut=4500)
    alerts, scores = run(columns, time_us, cut, partitions, seed)
    assert flat(scores) == flat(one_scores)
    assert {a.id for a in alerts} == {a.id for a in one_alerts} != set()


def test_p_values_are_uniform_enough_without_drift():
    generator = np.random.default_rng(4)
    p_values = []
    for _ in range(400):
        reference = learn(generator.normal(size=4096), np.repeat(np.arange(64), 64))
        p_values.append(10 ** log10_p(reference, reference.histogram(generator.normal(size=1024))))
    assert np.mean(np.array(p_values) < 0.05) < 0.08
    assert np.mean(np.array(p_values) < 0.01) < 0.03


def test_a_wandering_stream_has_wide_p_values():
    generator = np.random.default_rng(5)
    blocks = np.repeat(np.arange(16), 256)
    reference = learn(generator.normal(size=4096) + generator.normal(size=16)[blocks] * 0.5, blocks)
    steady = learn(generator.normal(size=4096), blocks)
    assert reference.tau > 10 * steady.tau
    window = reference.histogram(generator.normal(size=1024) + 0.5)
    assert log10_p(reference, window) > -3


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32) | st.just(float("nan")), max_size=60))
def test_few_and_many_values_are_binned_alike(values):
    reference = learn(np.random.default_rng(6).normal(size=3000) * 1e3, np.arange(3000))
    few = np.array(values)
    many = np.concatenate([few, np.full(FEW, np.nan)])
    expected = reference.histogram(few)
    expected[BINS - 1] += FEW
    assert reference.histogram(many).tolist() == expected.tolist()


def test_categories_are_binned_by_value():
    codes = np.array([category_code(c) for c in ("a", "b", "c")])
    reference = learn(np.repeat(codes, [50, 30, 20]), np.arange(100))
    counts = reference.histogram(np.array([codes[0], codes[0], category_code("new"), np.nan]))
    assert (counts.sum(), counts[BINS - 1], counts[BINS - 2]) == (4, 1, 1)
    assert Reference.of(reference.record()).histogram(codes).tolist() == reference.histogram(codes).tolist()


@pytest.mark.parametrize("kept", [0.9, 0.98])
def test_rows_that_depend_on_each_other_are_worth_fewer(kept):
    generator = np.random.default_rng(7)
    walk = signal.lfilter([np.sqrt(1 - kept**2)], [1, -kept], generator.normal(size=20_000))
    reference = learn(walk[:2048], np.arange(2048), seasonal=False)
    steady = learn(generator.normal(size=2048), np.arange(2048), seasonal=False)
    assert reference.worth < 0.3 * steady.worth and steady.worth > 1000
    assert reference.shape < 0.6 * steady.shape and reference.scale_df < steady.scale_df
    columns = {"input_tokens": np.exp(6 + walk), "feature.kind": np.where(walk > 1.3, "a", "b").astype(object)}
    alerts, scores = run(columns, np.arange(20_000) * 20 * S)
    assert alerts == []
    first = min(int(s.time_us.min()) for s in scores) // (20 * S)
    assert first > (4000 if kept > 0.95 else 2000)  # learned for longer, where there is more memory


def test_a_new_value_needs_more_rows_where_the_reference_has_one_value_only():
    reference = learn(np.zeros(2048), np.arange(2048), seasonal=False)
    assert (reference.events, reference.least_wander) == (0, 8.0)
    rare = np.where(np.arange(2048) % 100 == 0, 1.0, 0.0)
    assert learn(rare, np.arange(2048), seasonal=False).least_wander == 1.0
    generator = np.random.default_rng(3)
    kinds = np.where((np.arange(4000) > 3000) & (generator.random(4000) < 0.5), "new", "usual").astype(object)
    alerts, _ = run({"feature.kind": kinds}, np.arange(4000) * S // 4)
    assert alerts[0].key == "m/feature.kind" and alerts[0].onset_us < 3600 * S // 4
