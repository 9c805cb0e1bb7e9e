"""Counters to rates: resets, gaps, histograms, and the cut of batches."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import counters
from engine.batch import Batch
from engine.checkpoint import Checkpoints, Snapshot
from engine.state import State

S = 1_000_000


def state() -> State:
    fresh = State()
    fresh.declare(counters.ARRAYS)
    return fresh


def a_batch(times: list[int], **columns: list) -> Batch:
    table = {"host": ["h"] * len(times), "device": columns.pop("device", ["d"] * len(times))}
    arrays = {k: pa.array(v) for k, v in table.items()} | {f"metric.{k}": pa.array(v, pa.float64()) for k, v in columns.items()}
    return Batch("hardware", pa.RecordBatch.from_pydict(arrays), np.array(times) * S, np.arange(len(times)))


def test_rates_resets_and_what_came_but_says_nothing_yet() -> None:
    batch = counters.rated(a_batch([0, 10, 20, 30, 40], x_total=[100.0, 150.0, None, 30.0, 30.0]), state())
    assert batch.columns == {"host", "device", "metric.x"}
    np.testing.assert_allclose(batch.floats("metric.x"), [np.nan, 5.0, np.nan, 1.5, 0.0])  # 30 s and a reset: 30 in 20 s
    assert batch.arrived["metric.x"].tolist() == [True, True, False, True, True]


def test_a_large_counter_keeps_its_small_steps() -> None:
    batch = counters.rated(a_batch([0, 1, 2], x_total=[1e12, 1e12 + 1, 1e12 + 3]), state())
    np.testing.assert_allclose(batch.floats("metric.x"), [np.nan, 1.0, 2.0])


def test_a_histogram_is_the_mean_of_what_came_in_between() -> None:
    batch = a_batch([0, 1, 2, 3], ttft_sum_total=[10.0, 12.0, 12.0, 20.0], ttft_count_total=[100.0, 104.0, 104.0, 10.0])
    out = counters.rated(batch, state())  # the server began again between the last two, though its sum has grown
    np.testing.assert_allclose(out.floats("metric.ttft"), [np.nan, 0.5, np.nan, 2.0])
    assert out.arrived["metric.ttft"].all() and "metric.ttft_count" not in out.columns


def test_devices_are_told_apart_and_a_repeated_time_is_not_used() -> None:
    batch = a_batch([0, 0, 1, 1, 1], device=["a", "b", "a", "b", "b"], x_total=[0.0, 10.0, 1.0, 30.0, 99.0])
    np.testing.assert_allclose(counters.rated(batch, state()).floats("metric.x"), [np.nan, np.nan, 1.0, 20.0, np.nan])


def test_a_rate_that_comes_as_such_counts() -> None:
    batch = a_batch([0, 1], x_total=[0.0, 5.0], x=[None, 7.0])
    np.testing.assert_allclose(counters.rated(batch, state()).floats("metric.x"), [np.nan, 7.0])


def test_other_streams_and_batches_without_counters_pass_as_they_are() -> None:
    batch = a_batch([0], x=[1.0])
    assert counters.rated(batch, state()) is batch


def test_a_restart_goes_on_where_it_was(tmp_path) -> None:
    before, batch = state(), a_batch([0, 10], x_total=[1.0, 2.0])
    counters.rated(batch, before)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.claim(["p"])
    checkpoints.save("p", Snapshot(before, 0))
    snapshot, _ = Checkpoints(tmp_path).load("p", {})
    snapshot.state.declare(counters.ARRAYS)
    assert counters.rated(a_batch([20], x_total=[22.0]), snapshot.state).floats("metric.x").tolist() == [2.0]


VALUES = st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ab"), st.one_of(st.none(), st.integers(0, 50))), min_size=1, max_size=40)


@pytest.mark.parametrize("cut", [1, 3])
@settings(max_examples=60, deadline=None)
@given(steps=VALUES)
def test_the_cut_changes_nothing(cut: int, steps) -> None:
    times = np.cumsum([s[0] for s in steps]).tolist()
    devices, values = [s[1] for s in steps], [None if s[2] is None else float(s[2]) for s in steps]

    def run(size: int) -> np.ndarray:
        kept, out = state(), []
        for i in range(0, len(steps), size):
            part = slice(i, i + size)
            batch = a_batch(times[part], device=devices[part], x_total=values[part], y_sum_total=values[part], y_count_total=values[part])
            out.append(np.stack([counters.rated(batch, kept).floats(n) for n in ("metric.x", "metric.y")]))
        return np.concatenate(out, axis=1)

    np.testing.assert_array_equal(run(cut), run(len(steps)))
