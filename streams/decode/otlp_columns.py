"""From scanned spans to Arrow columns."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from streams import names
from streams.decode.otlp_commit import (
    DURATION,
    HAS_DURATION,
    HAS_PARENT,
    HAS_SESSION,
    HAS_SPAN,
    HAS_TIME,
    HAS_TOKENS,
    HAS_TRACE,
    OFFSET,
    PARENT,
    SPAN,
    TIME,
    TOKENS,
    TRACE,
)  # fmt: skip
from streams.decode.otlp_names import AGENT, CONTENT, FLAG, SEED, STREAMS, TEXT, Column, known
from streams.decode.otlp_scan import count, scan
from streams.decode.room import MOST_ROWS, built, room_for, texts
from streams.decode.wire import DEPTH, compiled, load8, schema_of
from streams.records import RawBatch, Rows

HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


@lru_cache(maxsize=1)
def schema() -> tuple[np.ndarray, np.ndarray]:
    """What the verifier knows of requests of traces, and the numbers of the messages that the scan names to it."""
    table, numbers = schema_of(ExportTraceServiceRequest)
    return table, np.array([numbers[m] for m in ("Resource", "Span", "KeyValue", "AnyValue", "ScopeSpans")], np.int64)


class SpanRoom(threading.local):
    """What a scan of spans needs beside its columns, each thread its own."""

    def __init__(self) -> None:
        self.fixed = np.empty((len(STREAMS), 0, 8), np.int64)
        self.odd = np.empty((0, 5), np.int64)
        self.span, self.stack = np.empty(8, np.int64), np.empty((DEPTH, 2), np.int64)

    def fit(self, rows: int) -> None:
        """Have places for as many rows as the columns have."""
        if self.fixed.shape[1] != rows:
            self.fixed, self.odd = np.empty((len(STREAMS), rows, 8), np.int64), np.empty((rows, 5), np.int64)


BESIDE = SpanRoom()


class Spans:
    """The spans of some records, scanned, as many records as have at most `most` spans together.

    `stopped`: int64[records scanned], the byte where a record was left to the walk, -1 where it was read. `odd`: int64[n, 5], the spans of
    read records that the walk must see: record (position in `index`), where its resource lies (with its tag), where it lies itself. Only
    one scan of a thread can be looked at: the next one writes to the same memory. What `tables` returned stays.
    """

    def __init__(self, raw: RawBatch, index: np.ndarray, principal: Sequence[str], most: int = MOST_ROWS):
        self.data = np.frombuffer(raw.data, np.uint8)
        k = self.known = known(tuple(principal))
        r = self.room = room_for(most, len(k.columns) + 1, 7 * len(STREAMS))
        BESIDE.fit(r.rows)
        rows = np.zeros(2 * len(STREAMS), np.int64)  # now, and before the record
        self.rows = rows[: len(STREAMS)]
        stopped = np.empty(len(index), np.int64)
        table, messages = schema()
        pool = k.pool.ctypes.data - self.data.ctypes.data
        targets = len(k.targets)
        done, found = scan(
            self.data, raw.starts, raw.ends, index, raw.offsets, pool, k.attributes, k.attribute_slots, k.words, k.word_slots, SEED, k.uses,
            k.column_of, k.holds, table, messages, np.zeros(2 * 4 * targets, np.int64), np.empty(2 * (targets + 5), np.int64), BESIDE.span,
            np.zeros(3, np.int64), BESIDE.stack, np.zeros(len(k.attributes) + 1, np.int64), r.dictionary, r.tables, r.firsts, r.narrow,
            r.narrow.view(np.float32), r.contents, r.valid, BESIDE.fixed, rows, most, BESIDE.odd, stopped,
        )  # fmt: skip
        self.stopped, self.odd = stopped[:done], BESIDE.odd[:found].copy()

    def tables(self) -> list[Rows]:
        """Rows of `inference` and `agent`."""
        found = []
        for stream, name in enumerate(STREAMS):
            n = int(self.rows[stream])
            if n:
                columns = {key: column for key, column in self.columns(stream, n).items() if column is not None}
                found.append(Rows(name, pa.RecordBatch.from_pydict(columns), BESIDE.fixed[stream, :n, OFFSET].copy()))
        return found

    def columns(self, stream: int, n: int) -> dict[str, pa.Array | None]:
        """All columns; None for one without a value."""
        fixed, flags = BESIDE.fixed[stream, :n], self.room.valid[len(self.known.columns) + 7 * stream :, :n]
        found: dict[str, pa.Array | None] = {"time": built(names.TIME, fixed[:, TIME], flags[HAS_TIME])}
        found["trace_id"] = built(pa.binary(16), fixed[:, TRACE : TRACE + 2], flags[HAS_TRACE])
        found["span_id"] = built(pa.binary(8), fixed[:, SPAN], flags[HAS_SPAN])
        found["parent_span_id"] = built(pa.binary(8), fixed[:, PARENT], flags[HAS_PARENT])
        for c, column in enumerate(self.known.columns):
            if column.stream == stream:
                found[column.name] = self.column(c, column, n)
        if stream == AGENT:
            found["tokens"] = built(pa.int64(), fixed[:, TOKENS], flags[HAS_TOKENS])
            if flags[HAS_SESSION].any():
                found["session"] = self.traced(found["session"], flags[HAS_SESSION], n)
        else:
            found["duration_s"] = built(pa.float32(), (fixed[:, DURATION] / 1e9).astype(np.float32), flags[HAS_DURATION])
        return found

    def column(self, c: int, column: Column, n: int) -> pa.Array | None:
        """One column that the scan filled."""
        if column.holds == TEXT:
            return self.room.codes(self.data, c, n)
        if column.holds == FLAG:
            return self.room.flags(c, n)
        valid = self.room.valid[c, :n]
        if column.holds == CONTENT:
            return texts(self.data, self.room.contents[c, :n], valid, column.type)
        return built(column.type, self.room.narrow[c, :n], valid)

    def traced(self, session: pa.Array | None, traced: np.ndarray, n: int) -> pa.Array:
        """Sessions, the hexadecimal trace id where there is none."""
        c = len(self.known.columns)
        ids = self.room.firsts[c, : self.room.dictionary[c, 1]]
        digits = np.empty((len(ids), 32), np.uint8)
        hexadecimal(self.data, ids, HEX, digits)
        bounds = np.arange(len(ids) + 1, dtype=np.int32) * 32
        spelled = pa.Array.from_buffers(pa.string(), len(ids), [None, pa.py_buffer(bounds), pa.py_buffer(digits)])
        codes = built(pa.int32(), self.room.narrow[c, :n], traced)
        traces = pa.DictionaryArray.from_arrays(codes, spelled, safe=False)
        return traces if session is None else pc.coalesce(session.dictionary_decode(), traces.dictionary_decode())


@compiled()
def hexadecimal(data, ids, digits, out):
    """Spell the 16 bytes at ids[i, 0] in hexadecimal."""
    for i in range(len(ids)):
        for j in range(16):
            byte = load8(data, ids[i, 0] + j)
            out[i, 2 * j], out[i, 2 * j + 1] = digits[byte >> 4], digits[byte & 15]


def rows_for(raw: RawBatch, index: np.ndarray) -> int:
    """The rows that a scan of these records should have room for: all that the first may have, a quarter more than all have if they are
    like it, or as many as one scan takes. To count them all would take a tenth of the scan's time."""
    first = count(np.frombuffer(raw.data, np.uint8), raw.starts[index[0]], raw.ends[index[0]])
    size = max(int(raw.ends[index[0]] - raw.starts[index[0]]), 1)
    alike = 5 * first * int((raw.ends[index] - raw.starts[index]).sum()) // (4 * size)
    return max(first + 1, min(alike, MOST_ROWS))
