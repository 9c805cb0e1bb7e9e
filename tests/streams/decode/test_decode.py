"""Which decoder gets which record, and what becomes of records that nobody can read."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.decode import DECODERS, Format, decode
from streams.records import Partition, RawBatch

LINE = b'{"time": 1, "host": "h", "device": "d", "metric.gpu_temp": 40}'


def ipc(**columns: list) -> bytes:
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


ARROW = ipc(time=[1, 2], host=["h", "h"], device=["d", "e"], unknown=[0, 0])


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([*DECODERS, "auto", "nonsense"]), st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=4))
def test_no_bytes_make_a_decoder_raise(encoding: str, values: list[bytes]) -> None:
    decoded = decode(RawBatch.of(Partition("t"), values), Format("hardware", encoding))
    assert all(r.reason and r.detail for r in decoded.rejects)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_arrow_is_rejected_or_read_never_worse(data: st.DataObject) -> None:
    damaged = bytearray(ARROW)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    decoded = decode(RawBatch.of(Partition("t"), [bytes(damaged), ARROW]), Format("hardware", "arrow"))
    assert sum(part.table.num_rows for part in decoded.rows if (part.offsets == 1).all() or (part.offsets == 1).any()) >= 2


def test_kinds_in_one_batch_are_told_apart() -> None:
    decoded = decode(RawBatch.of(Partition("t"), [LINE, ARROW, b"\x00\x01garbage", b""]), Format("hardware"))
    assert sorted((part.stream, part.offsets.tolist()) for part in decoded.rows) == [("hardware", [0]), ("hardware", [1, 1])]
    assert [(r.offset, r.reason) for r in decoded.rejects] == [(2, "format")]
    assert "unknown" not in decoded.rows[1].table.schema.names


def test_headers_say_what_a_record_is() -> None:
    raw = RawBatch.of(Partition("t"), [LINE, ARROW], headers=[(("telltale-format", b"arrow"),), (("content-type", b"application/json"),)])
    assert {(r.offset, r.reason) for r in decode(raw, Format("hardware")).rejects} == {(0, "arrow"), (1, "json")}


def test_the_topics_setting_stands_above_the_content() -> None:
    assert [r.reason for r in decode(RawBatch.of(Partition("t"), [LINE]), Format("hardware", "arrow")).rejects] == ["arrow"]


@pytest.mark.parametrize("size", [50 << 20])
def test_a_record_that_is_too_large_is_not_read(size: int) -> None:
    decoded = decode(RawBatch.of(Partition("t"), [b"{" + b" " * size, LINE]), Format("hardware"))
    assert [(r.offset, r.reason) for r in decoded.rejects] == [(0, "too_large")]
    assert decoded.rows[0].offsets.tolist() == [1]


def test_an_empty_batch_is_nothing() -> None:
    decoded = decode(RawBatch.of(Partition("t"), []), Format("hardware"))
    assert decoded.rows == [] and decoded.rejects == []


def test_rows_come_in_the_order_of_their_records_however_each_was_read() -> None:
    values = [b'{"time": %d, "host": "h", "device": "d", "metric.x": %d}' % (i, i) for i in range(6)]
    values[2] = ipc(time=[2], host=["h"], device=["d"])
    values[4] = ipc(time=[4], host=["h"], device=["d"])
    (part,) = decode(RawBatch.of(Partition("t"), values), Format("hardware")).rows
    assert part.offsets.tolist() == list(range(6))
    assert part.table.column("metric.x").to_pylist() == [0, 1, None, 3, None, 5]
