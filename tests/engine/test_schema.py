"""Align: bad rows are rejected one by one, late rows are marked, and the cut of batches changes nothing."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clocks import LIMIT, Clocks
from engine.metrics import Metrics
from engine.schema import align, cast
from engine.state import State
from streams import names
from streams.records import Partition, RawBatch, Rows

S = 1_000_000
TIME = pa.timestamp("us", tz="UTC")


def rows_of(columns: dict, offsets=None, stamped_ms: int = -1):
    n = len(next(iter(columns.values())))
    offsets = np.arange(n, dtype=np.int64) if offsets is None else np.array(offsets)
    unique = np.unique(offsets)
    raw = RawBatch.of(Partition("t"), [b"record %d" % o for o in unique], offsets=unique, timestamps_ms=np.full(len(unique), stamped_ms))
    return Rows("hardware", pa.RecordBatch.from_pydict(columns), offsets), raw


def times(*seconds):
    return pa.array([None if s is None else int(s * S) for s in seconds], TIME)


def test_good_rows_pass_and_unknown_columns_go():
    batch, rejects = align(
        *rows_of({"time": times(1, 2), "host": ["a", "b"], "device": ["x", "y"], "metric.t": [1.0, 2.0], "junk": [1, 2]}), State(), S, S
    )
    assert rejects == []
    assert batch.columns == {"time", "host", "device", "metric.t"}
    assert batch.floats("metric.t").tolist() == [1, 2]


def test_each_bad_row_is_rejected_alone_with_its_reason_and_bytes():
    columns = {
        "time": times(1, None, 3, 4, 5), "host": ["a", "a", None, "a", "a"], "device": ["x"] * 5, "xid": ["79", "1", "2", "many", "48"],
    }  # fmt: skip
    batch, rejects = align(*rows_of(columns, offsets=[7, 7, 8, 9, 9]), State(), S, S)
    assert [(r.offset, r.row, r.reason) for r in rejects] == [(7, 1, "schema"), (8, 0, "schema"), (9, 0, "type")]
    assert [r.value for r in rejects] == [b"record 7", b"record 8", b"record 9"]
    assert "xid" in rejects[2].detail and "time" in rejects[0].detail
    assert batch.floats("xid").tolist() == [79, 48]
    assert batch.offsets.tolist() == [7, 9]


def test_a_missing_required_column_rejects_all_rows():
    batch, rejects = align(*rows_of({"time": times(1, 2), "host": ["a", "b"]}), State(), S, S)
    assert batch is None
    assert len(rejects) == 2 and "device is missing" in rejects[0].detail


def test_a_time_ahead_of_its_record_is_rejected_and_moves_no_watermark():
    state = State()
    source = rows_of({"time": times(99, 9_999_999, 100), "host": ["a"] * 3, "device": ["x"] * 3}, stamped_ms=100_000)
    batch, rejects = align(*source, state, 60 * S, 0)
    assert [r.reason for r in rejects] == ["time"]
    assert batch.time_us.tolist() == [99 * S, 100 * S]
    assert state.watermarks["hardware"] == 100 * S


def test_a_producer_whose_clock_is_ahead_makes_no_other_s_rows_late_and_is_named():
    state, metrics = State(), Metrics()
    clocks = Clocks(5 * S, metrics)
    for second in range(100, 110):
        columns = {
            "time": times(second, second + 200, second - 1, second - 90),
            "host": ["good", "ahead", "good", "behind"],
            "device": ["x"] * 4,
        }
        batch, rejects = align(*rows_of(columns, stamped_ms=second * 1000), state, 300 * S, 2 * S)
        assert rejects == []
        assert batch.late.tolist() == [False, False, False, True]
        clocks.observe(batch)
        skew = {m.labels["producer"]: m.value for m in next(iter(metrics.clock_skew_s.collect())).samples}
        assert skew["ahead"] == 200 and -91 < skew["behind"] < -85 and len(skew) == 2
    assert state.watermarks["hardware"] == 107 * S + 999
    columns = {"time": times(110, 110), "host": ["ahead", "behind"], "device": ["x"] * 2}
    clocks.observe(align(*rows_of(columns, stamped_ms=110_000), state, 300 * S, 2 * S)[0])
    assert clocks.off == {}


def test_a_replay_of_old_rows_is_no_skew():
    clocks = Clocks(5 * S, Metrics())
    columns = {"time": times(*range(100)), "host": ["a", "b"] * 50, "device": ["x"] * 100}
    clocks.observe(align(*rows_of(columns, stamped_ms=9_000_000), State(), S, 2 * S)[0])
    assert clocks.off == {}


def test_rows_that_were_exported_together_are_no_skew_and_a_clock_that_wavers_is_told_once(caplog):
    clocks, generator = Clocks(5 * S, Metrics()), np.random.default_rng(0)
    for second in range(1000, 1400, 40):
        seconds = np.sort(generator.integers(second - 40, second + 1, 60)).tolist()
        columns = {"time": times(*seconds), "host": [f"h{i}" for i in generator.integers(0, 40, 60)], "device": ["x"] * 60}
        clocks.observe(align(*rows_of(columns, stamped_ms=second * 1000), State(), S, 2 * S)[0])
        assert clocks.off == {}
    for second in range(2000, 2040):
        columns = {"time": times(second, second + 20 * (second % 2), second), "host": ["a", "b", "c"], "device": ["x"] * 3}
        clocks.observe(align(*rows_of(columns, stamped_ms=second * 1000), State(), 300 * S, 2 * S)[0])
        assert list(clocks.off) == ["b"] * (second % 2)
    assert [r.message for r in caplog.records] == ["the clock of b is 20.0 s ahead"]


def test_names_without_end_are_not_all_reported():
    clocks = Clocks(5 * S, Metrics())
    columns = {"time": times(*[300] * 500), "host": [f"h{i}" for i in range(500)], "device": ["x"] * 500}
    clocks.observe(align(*rows_of(columns, stamped_ms=100_000), State(), 300 * S, 2 * S)[0])
    assert len(clocks.off) == LIMIT


def test_late_rows_are_moved_up_and_marked():
    batch, _ = align(*rows_of({"time": times(10, 9, 20, 5), "host": ["a"] * 4, "device": ["x"] * 4}), State(), S, 2 * S)
    assert batch.late.tolist() == [False, False, False, True]
    assert batch.time_us.tolist() == [10 * S, 9 * S, 20 * S, 18 * S]


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.data())
def test_the_cut_changes_nothing(seconds, data):
    cuts = sorted({0, len(seconds), *data.draw(st.lists(st.integers(0, len(seconds)), max_size=5))})

    def run(cuts):
        state, out = State(), []
        for a, b in zip(cuts[:-1], cuts[1:], strict=True):
            part = rows_of({"time": times(*seconds[a:b]), "host": ["a"] * (b - a), "device": ["x"] * (b - a)})
            batch, _ = align(*part, state, S, 3 * S)
            out += list(zip(batch.time_us.tolist(), batch.late.tolist(), strict=True))
        return out, state.watermarks

    assert run(cuts) == run([0, len(seconds)])


def test_an_empty_batch_is_nothing():
    assert align(*rows_of({"time": times(), "host": pa.array([], pa.string())}), State(), S, S) == (None, [])


ODD = [
    pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int64())),
    pa.array([[1.0], None, [2.0]], pa.list_view(pa.float32())),
    pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2)),
    pa.array([[[1.0]], None, [[2.0]]]),
    pa.array([{"a": 1}, None, {"a": 2}]),
    pa.array([b"a", None, b"12345678"]),
    pa.array([2**63, None, 2], pa.uint64()),
    pa.array([True, None, False]),
    pa.nulls(3),
    pa.RunEndEncodedArray.from_arrays([2, 3], [1, 2]),
    pa.UnionArray.from_sparse(pa.array([0, 1, 0], pa.int8()), [pa.array([1, 2, 3]), pa.array(["a", "b", "c"])]),
]
WANTED = sorted({column.type for columns in names.COLUMNS.values() for column in columns.values() if column.type is not None}, key=str)


@pytest.mark.parametrize("column", ODD, ids=lambda column: str(column.type).partition("<")[0])
def test_no_type_that_a_producer_sends_ends_the_process(column):
    for to in WANTED:
        made, failed = cast(column, to)
        made.validate(full=True)
        assert made.type == to and len(made) == 3
        missing = [i for i, value in enumerate(column) if not value.is_valid or value.as_py() is None]
        assert made.null_count >= len(failed) and not set(failed.tolist()) & set(missing)
