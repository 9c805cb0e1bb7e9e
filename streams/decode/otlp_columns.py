"""From scanned spans to Arrow columns."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit
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
from streams.decode.otlp_names import AGENT, CONTENT, FLAG, SEED, STREAMS, TEXT, Column, Known, known
from streams.decode.otlp_scan import count, scan
from streams.decode.wire import DEPTH, load8, schema_of
from streams.records import RawBatch, Rows

HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


@lru_cache(maxsize=1)
def schema() -> tuple[np.ndarray, np.ndarray]:
    """What the verifier knows of requests of traces, and the numbers of the messages that the scan names to it."""
    table, numbers = schema_of(ExportTraceServiceRequest)
    return table, np.array([numbers[m] for m in ("Resource", "Span", "KeyValue", "AnyValue", "ScopeSpans")], np.int64)


class Room:
    """Memory that a scan writes to, for so many spans. It is used again and again: fresh memory would cost a fifth of the scan."""

    def __init__(self, spans: int, k: Known):
        texts, streams, self.spans = len(k.columns) + 1, len(STREAMS), spans
        self.dictionary = np.empty((texts, 3), np.int64)  # last, distinct, mask: a hash table per column of texts
        self.tables = np.empty((texts, max(256, 1 << int(2 * spans + 2).bit_length())), np.int64)
        self.firsts = np.empty((texts, spans, 2), np.int64)  # where each distinct text lies
        self.narrow = np.empty((texts, spans), np.int32)  # numbers of texts, whole numbers, flags; floats in the same place
        self.contents = np.empty((len(k.columns), spans, 2), np.int64)  # where each content lies
        self.valid = np.empty((len(k.columns) + 7 * streams, spans), np.uint8)
        self.fixed = np.empty((streams, spans, 8), np.int64)
        self.odd = np.empty((spans, 5), np.int64)
        self.cells, self.touched = np.zeros(2 * 4 * len(k.targets), np.int64), np.empty(2 * (len(k.targets) + 5), np.int64)
        self.span, self.stack = np.empty(8, np.int64), np.empty((DEPTH, 2), np.int64)
        self.follows = np.zeros(len(k.attributes) + 1, np.int64)


ROOMS = threading.local()
KEPT_SPANS = 1 << 16


def room_for(spans: int, k: Known) -> Room:
    """A thread's room of at least that size, emptied. Columns do not begin at multiples of a power of two: those share cache lines."""
    rooms = ROOMS.__dict__.setdefault("of", {})
    room = rooms.get(len(k.attributes))
    if room is None or room.spans < spans:
        room = Room((1 << spans.bit_length()) + 272, k)
        if spans <= KEPT_SPANS:
            rooms[len(k.attributes)] = room
    room.dictionary[:] = (-1, 0, 0)
    room.valid[:, :spans] = 0
    return room


class Spans:
    """The spans of some records, scanned.

    `stopped`: int64[records], the byte where a record was left to the walk, -1 where it was read. `odd`: int64[n, 5], the spans of read
    records that the walk must see: record (position in `index`), where its resource lies (with its tag), where it lies itself. Only one
    scan of a thread can be looked at: the next one writes to the same memory. What `tables` returned stays.
    """

    def __init__(self, raw: RawBatch, index: np.ndarray, principal: Sequence[str]):
        self.data = np.frombuffer(raw.data, np.uint8)
        k = self.known = known(tuple(principal))
        r = self.room = room_for(count(self.data, raw.starts, raw.ends, index) + 1, k)
        self.rows = np.zeros(len(STREAMS), np.int64)
        self.stopped = np.empty(len(index), np.int64)
        table, messages = schema()
        pool = k.pool.ctypes.data - self.data.ctypes.data
        found = scan(
            self.data, raw.starts, raw.ends, index, raw.offsets, pool, k.attributes, k.attribute_slots, k.words, k.word_slots, SEED, k.uses,
            k.column_of, k.holds, table, messages, r.cells, r.touched, r.span, r.stack, r.follows, r.dictionary, r.tables, r.firsts,
            r.narrow, r.narrow.view(np.float32), r.contents, r.valid, r.fixed, self.rows, r.odd, self.stopped,
        )  # fmt: skip
        self.odd = r.odd[:found].copy()

    def tables(self) -> list[Rows]:
        """Rows of `inference` and `agent`."""
        found = []
        for stream, name in enumerate(STREAMS):
            n = int(self.rows[stream])
            if n:
                columns = {key: column for key, column in self.columns(stream, n).items() if column is not None}
                found.append(Rows(name, pa.RecordBatch.from_pydict(columns), self.room.fixed[stream, :n, OFFSET].copy()))
        return found

    def columns(self, stream: int, n: int) -> dict[str, pa.Array | None]:
        """All columns; None for one without a value."""
        fixed, flags = self.room.fixed[stream, :n], self.room.valid[len(self.known.columns) + 7 * stream :, :n]
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
        valid = self.room.valid[c, :n]
        if column.holds == TEXT:
            codes = built(pa.int32(), self.room.narrow[c, :n], valid)
            return codes and pa.DictionaryArray.from_arrays(codes, self.distinct(c, pa.string()), safe=False)
        if column.holds == CONTENT:
            return texts(self.data, self.room.contents[c, :n], valid, column.type)
        if column.holds == FLAG:
            return built(pa.int32(), self.room.narrow[c, :n], valid) and pa.array(self.room.narrow[c, :n] != 0, mask=valid == 0)
        return built(column.type, self.room.narrow[c, :n], valid)

    def distinct(self, c: int, kind: pa.DataType) -> pa.Array:
        """The texts of a column's dictionary."""
        places = self.room.firsts[c, : self.room.dictionary[c, 1]]
        return texts(self.data, places, np.ones(len(places), np.uint8), kind)

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


def built(kind: pa.DataType, values: np.ndarray, valid: np.ndarray) -> pa.Array | None:
    """A column of fixed width from its values and a byte for each that says whether it is one; None where none is."""
    present = np.count_nonzero(valid)
    if not present:
        return None
    bits = None if present == len(valid) else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(kind, len(valid), [bits, pa.py_buffer(values.copy())], len(valid) - present)


def texts(data: np.ndarray, places: np.ndarray, valid: np.ndarray, kind: pa.DataType) -> pa.Array | None:
    """Texts from where they lie in `data` (int64[n, 2]: position, size), which were checked to be UTF-8; None where there are none."""
    present = np.count_nonzero(valid)
    if not present:
        return None
    bounds = np.empty(len(places) + 1, np.int64)
    out = np.empty(measure(places, valid, bounds), np.uint8)
    copy(data, places, valid, bounds, out)
    bits = None if present == len(valid) else pa.py_buffer(np.packbits(valid, bitorder="little"))
    if pa.types.is_string(kind):
        bounds = bounds.astype(np.int32)
    return pa.Array.from_buffers(kind, len(valid), [bits, pa.py_buffer(bounds), pa.py_buffer(out)], len(valid) - present)


@njit(nogil=True, cache=True)
def measure(places, valid, bounds):
    """Fill bounds[i + 1] with the bytes of the first i + 1 texts; returns the bytes of all."""
    total = 0
    bounds[0] = 0
    for i in range(len(places)):
        total += places[i, 1] if valid[i] else 0
        bounds[i + 1] = total
    return total


@njit(nogil=True, cache=True)
def copy(data, places, valid, bounds, out):
    """Copy texts one after the other."""
    for i in range(len(places)):
        if valid[i]:
            at, start, size = places[i, 0], bounds[i], places[i, 1]
            for j in range(size):
                out[start + j] = load8(data, at + j)


@njit(nogil=True, cache=True)
def hexadecimal(data, ids, digits, out):
    """Spell the 16 bytes at ids[i, 0] in hexadecimal."""
    for i in range(len(ids)):
        for j in range(16):
            byte = load8(data, ids[i, 0] + j)
            out[i, 2 * j], out[i, 2 * j + 1] = digits[byte >> 4], digits[byte & 15]
