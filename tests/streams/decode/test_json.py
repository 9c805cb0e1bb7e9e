"""JSON lines: the fast way and the row-by-row way give the same rows, and only what is at fault is rejected."""

from __future__ import annotations

import json
import math

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.decode import Format, decode, json_rows
from streams.decode import json as fast
from streams.records import Decoded, Partition, RawBatch

GOOD = {"time": 1_700_000_000_000_000, "principal": "p", "model": "m", "input_tokens": 3, "temperature": 0.5, "stream": True}


def raw_of(*values: bytes) -> RawBatch:
    return RawBatch.of(Partition("t"), values, first_offset=100)


def rows(decoded: Decoded) -> list[tuple[int, dict]]:
    """(offset, row without nulls) in order."""
    found = []
    for part in decoded.rows:
        dicts = [{k: v for k, v in row.items() if v is not None} for row in part.table.to_pylist()]
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
def test_what_the_fast_way_accepts_the_slow_way_gives_alike(records: list[bytes]) -> None:
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
    assert rows(slow) == [
        (int(raw.offsets[o]), {k: v for k, v in row.items() if v is not None}) for o, row in zip(owner, table.to_pylist(), strict=True)
    ]


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
