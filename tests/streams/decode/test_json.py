"""JSON lines: the fast way and the row-by-row way give the same rows, and only what is at fault is rejected."""

from __future__ import annotations

import json
import math
from datetime import datetime

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.decode import Format, decode, json_rows
from streams.decode import json as fast
from streams.decode.room import MOST_ROWS
from streams.records import Decoded, Partition, RawBatch, Rows

GOOD = {"time": 1_700_000_000_000_000, "principal": "p", "model": "m", "input_tokens": 3, "temperature": 0.5, "stream": True}


def raw_of(*values: bytes) -> RawBatch:
    return RawBatch.of(Partition("t"), values, first_offset=100)


def rows(decoded: Decoded) -> list[tuple[int, dict]]:
    """(offset, row without nulls) in order."""
    found = []
    for part in decoded.rows:
        schema = pa.schema([f.with_type(pa.int64()) if pa.types.is_timestamp(f.type) else f for f in part.table.schema])
        table = part.table.cast(schema)  # a time that Python's datetime can't hold is one nevertheless
        dicts = [{k: v for k, v in row.items() if v is not None} for row in table.to_pylist()]
        found += list(zip(part.offsets.tolist(), dicts, strict=True))
    return found


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=True), st.text(max_size=8),
    st.lists(st.integers(), max_size=2),
    st.just("2026-01-02T03:04:05Z"), st.just("2026-01-02T03:04:05.123456789+02:00"),
)  # fmt: skip
KEYS = st.sampled_from([*GOOD, "prompt", "feature.age", "feature.colour", "trace_id", "logit_bias_tokens", "embedding", "unknown"])
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=6).map(lambda changes: GOOD | changes)
LINES = st.one_of(OBJECTS.map(lambda o: json.dumps(o).encode()), st.binary(max_size=12), st.just(b'{"time": 1}{"time": 2}'))
RECORDS = st.lists(st.lists(LINES, min_size=1, max_size=3).map(b"\n".join), min_size=1, max_size=6)


@settings(max_examples=300, deadline=None)
@given(RECORDS)
def test_what_the_reader_accepts_the_slow_way_gives_alike(records: list[bytes]) -> None:
    raw = raw_of(*records)
    index = np.flatnonzero(raw.ends > raw.starts)
    text, owner = fast.joined(raw.data, raw.starts, raw.ends, index)
    if owner is None:
        return
    try:
        table = fast.parse(text, owner, "inference")
    except fast.Misfit:
        return
    slow = json_rows.decode(raw, index, "inference")
    assert not slow.rejects
    assert rows(slow) == rows(Decoded([Rows("inference", table, raw.offsets[owner])], []))


TIMES = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)).flatmap(
    lambda t: st.sampled_from(
        [t.isoformat(), t.isoformat() + "Z", t.isoformat() + "+05:30", t.isoformat(timespec="milliseconds") + "-08:00", t.isoformat(" ")]
    )
)
WRITTEN = st.one_of(
    st.integers(-(2**70), 2**70).map(str), st.floats(allow_nan=False, allow_infinity=False).map(repr), st.floats(width=32).map(repr),
    st.decimals(-1000, 1000, allow_nan=False, places=20).map(str), st.decimals(-10, 10, allow_nan=False, places=17).map(str),
    st.text(st.characters(codec="utf-8"), max_size=20).map(json.dumps), st.text(max_size=20).map(lambda t: json.dumps(t, ensure_ascii=False)),
    TIMES.map(json.dumps), st.sampled_from(["null", "true", "false", "-0", "-0.0", "0.10", "01", "1.", "1e5", "+1", "-", "nul", "[1]", "{}", '"\x01"']),
)  # fmt: skip
SPACE = st.sampled_from(["", "", "", " ", "\t ", "\r"])


@st.composite
def written_lines(draw: st.DrawFn) -> bytes:
    """A line of JSON, nearly, as any writer may have written it."""
    keys = st.sampled_from(
        ["time", "principal", "model", "input_tokens", "temperature", "stream", "prompt", "feature.age", "unknown", "resource"]
    )
    pairs = [json.dumps(k) + draw(SPACE) + ":" + draw(SPACE) + draw(WRITTEN) for k in draw(st.lists(keys, max_size=5))]
    line = "{" + draw(SPACE) + ("," + draw(SPACE)).join(pairs) + draw(SPACE) + "}" + draw(SPACE)
    changed = bytearray(line.encode("utf-8", "surrogatepass"))
    if draw(st.integers(0, 4)) == 0:
        changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
    return bytes(changed).replace(b"\n", b" ")


@settings(max_examples=500, deadline=None)
@given(st.lists(st.lists(written_lines(), min_size=1, max_size=3), min_size=1, max_size=4))
def test_what_the_scan_takes_the_slow_way_gives_alike(records: list[list[bytes]]) -> None:
    raw = raw_of(*(b"\n".join(lines) for lines in records))
    index = np.flatnonzero(raw.ends > raw.starts)
    taken, odd = fast.scanned(raw, index, "inference", (("feature.age", False),), 100)
    left = {(int(record), int(start)) for record, start, _ in odd}
    whole = {int(record) for record, start, stop in odd if start == raw.starts[record] and stop == raw.ends[record]}
    expected = []
    for k in index.tolist():
        at = int(raw.starts[k])
        for line in raw.value(k).split(b"\n"):
            if line.strip() and k not in whole and (k, at + len(line) - len(line.lstrip())) not in left:
                slow = json_rows.decode(raw_of(line), np.arange(1), "inference")
                assert not slow.rejects, line
                expected += [(k + 100, row) for _, row in rows(slow)]
            at += len(line) + 1
    found = [(int(np.searchsorted(raw.starts, place, "right")) + 99, row) for place, row in rows(Decoded(taken, []))]
    assert found == [e for e in expected if e[0] - 100 not in whole]


def test_usual_lines_are_left_to_nobody() -> None:
    lines = [
        orjson.dumps(GOOD | {"time": "2026-01-02T03:04:05.25Z", "prompt": "h\u00e9", "temperature": 0.1234567890123456, "x": None})
    ] * 3
    taken, odd = fast.scanned(raw_of(*lines, b"\n".join(lines)), np.arange(4), "inference", (), 10)
    assert [len(part.offsets) for part in taken] == [6] and not len(odd)


def test_a_line_that_is_taken_back_leaves_no_text_behind() -> None:
    lines = [orjson.dumps(GOOD | {"principal": f"p{i}"}) for i in range(3)]
    lines[1] = lines[1][:-1] + b',"input_tokens":"x"}'
    (part,) = fast.scanned(raw_of(*lines), np.arange(3), "inference", (), 10)[0]
    assert part.table.column("principal").dictionary.to_pylist() == ["p0", "p2"]


def test_more_rows_than_one_scan_takes_are_all_read() -> None:
    line = orjson.dumps(GOOD)
    counts = [1, MOST_ROWS - 5, 10, MOST_ROWS + 3, 2]
    decoded = decode(raw_of(*(b"\n".join([line] * n) for n in counts)), Format("inference"))
    assert not decoded.rejects
    assert np.bincount(np.concatenate([part.offsets for part in decoded.rows]) - 100).tolist() == counts


@settings(max_examples=100, deadline=None)
@given(st.lists(OBJECTS.filter(lambda o: all(not isinstance(v, float) or math.isfinite(v) for v in o.values())), min_size=1, max_size=20))
def test_rows_do_not_depend_on_how_they_are_cut_into_records(objects: list[dict]) -> None:
    lines = [json.dumps(o).encode() for o in objects if not any(k.startswith("feature.") for k in o)]
    one_each = [row for _, row in rows(decode(raw_of(*lines), Format("inference", "json")))]
    together = [row for _, row in rows(decode(raw_of(b"\n".join(lines)), Format("inference", "json")))]
    assert one_each == together


def test_one_bad_row_costs_no_other() -> None:
    lines = [orjson.dumps(GOOD | {"input_tokens": i}) for i in range(50)]
    lines[7] = b'{"time": 17'
    lines[9] = orjson.dumps(GOOD | {"input_tokens": "many"})
    decoded = decode(raw_of(*lines), Format("inference"))
    assert [row["input_tokens"] for _, row in rows(decoded)] == [i for i in range(50) if i not in (7, 9)]
    assert {(r.offset, r.reason) for r in decoded.rejects} == {(107, "json"), (109, "type")}
    assert "input_tokens" in next(r.detail for r in decoded.rejects if r.offset == 109)
    assert next(r.value for r in decoded.rejects if r.offset == 107) == lines[7]


def test_a_record_may_hold_many_lines_or_a_list() -> None:
    line = orjson.dumps(GOOD)
    decoded = decode(
        raw_of(line + b"\n" + line + b"\n", b"[" + line + b"," + line + b"]", b'{\n"time": 5,\n"principal": "p"\n}'), Format("inference")
    )
    assert [offset for offset, _ in rows(decoded)] == [100, 100, 101, 101, 102]


@pytest.mark.parametrize("written", ["NaN", "Infinity", "-Infinity", "1e300"])
def test_what_is_no_float32_counts_as_null(written: str) -> None:
    line = orjson.dumps(GOOD).replace(b"0.5", written.encode())
    decoded = decode(raw_of(line, orjson.dumps(GOOD)), Format("inference"))
    assert not decoded.rejects
    assert ["temperature" in row for _, row in rows(decoded)] == [False, True]


def test_the_stream_must_be_known() -> None:
    assert [r.reason for r in decode(raw_of(orjson.dumps(GOOD)), Format()).rejects] == ["format"]
    headers = [(("telltale-stream", b"inference"),)]
    named = RawBatch.of(Partition("t"), [orjson.dumps(GOOD)], headers=headers)
    assert len(rows(decode(named, Format()))) == 1
