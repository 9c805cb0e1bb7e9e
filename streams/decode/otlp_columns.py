"""From scanned spans to Arrow columns."""

from __future__ import annotations

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
from streams.decode.otlp_names import AGENT, CONTENT, FLAG, SEED, STREAMS, TEXT, Column, known
from streams.decode.otlp_scan import count, scan
from streams.decode.wire import DEPTH, load8, schema_of
from streams.records import RawBatch, Rows

HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


@lru_cache(maxsize=1)
def schema() -> tuple[np.ndarray, np.ndarray]:
    """What the verifier knows of requests of traces, and the numbers of the messages that the scan names to it."""
    table, numbers = schema_of(ExportTraceServiceRequest)
    return table, np.array([numbers[m] for m in ("Resource", "Span", "KeyValue", "AnyValue", "ScopeSpans")], np.int64)


class Spans:
    """The spans of some records, scanned.

    `stopped`: int64[records], the byte where a record was left to the walk, -1 where it was read. `odd`: int64[n, 5], the spans of read
    records that the walk must see: record (position in `index`), where its resource lies (with its tag), where it lies itself.
    """

    def __init__(self, raw: RawBatch, index: np.ndarray, principal: Sequence[str]):
        self.data = np.frombuffer(raw.data, np.uint8)
        k = self.known = known(tuple(principal))
        room, columns, texts = count(self.data, raw.starts, raw.ends, index) + 1, len(k.columns), len(k.columns) + 1
        self.dictionary = np.zeros((texts, 3), np.int64)  # last, distinct, mask: a hash table per column of texts
        self.dictionary[:, 0] = -1
        self.firsts = np.empty((texts, room, 2), np.int64)  # where each distinct text lies
        self.narrow = np.empty((texts, room), np.int32)  # numbers of texts, whole numbers, flags; floats in the same place
        self.contents = np.empty((columns, room, 2), np.int64)  # where each content lies
        self.valid = np.zeros((columns + 7 * len(STREAMS), room), np.uint8)
        self.fixed = np.empty((len(STREAMS), room, 8), np.int64)
        self.rows = np.zeros(len(STREAMS), np.int64)
        self.stopped = np.empty(len(index), np.int64)
        odd, targets = np.empty((room, 5), np.int64), len(k.targets)
        table, messages = schema()
        pool = k.pool.ctypes.data - self.data.ctypes.data
        found = scan(
            self.data, raw.starts, raw.ends, index, raw.offsets, pool, k.attributes, k.attribute_slots, k.words, k.word_slots, SEED, k.uses,
            k.column_of, k.holds, table, messages, np.zeros((2, targets, 4), np.int64), np.empty((2, targets + 5), np.int64),
            np.empty(8, np.int64), np.empty((DEPTH, 2), np.int64), np.zeros(len(k.attributes) + 1, np.int64), self.dictionary,
            np.empty((texts, max(256, 1 << int(2 * room + 2).bit_length())), np.int32), self.firsts, self.narrow,
            self.narrow.view(np.float32), self.contents, self.valid, self.fixed, self.rows, odd, self.stopped,
        )  # fmt: skip
        self.odd = odd[:found]

    def tables(self) -> list[Rows]:
        """Rows of `inference` and `agent`."""
        found = []
        for stream, name in enumerate(STREAMS):
            n = int(self.rows[stream])
            if n:
                columns = {key: column for key, column in self.columns(stream, n).items() if column is not None}
                found.append(Rows(name, pa.RecordBatch.from_pydict(columns), self.fixed[stream, :n, OFFSET].copy()))
        return found

    def columns(self, stream: int, n: int) -> dict[str, pa.Array | None]:
        """All columns; None for one without a value."""
        fixed, flags = self.fixed[stream, :n], self.valid[len(self.known.columns) + 7 * stream :, :n]
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
        valid = self.valid[c, :n]
        if column.holds == TEXT:
            codes = built(pa.int32(), self.narrow[c, :n], valid)
            return codes and pa.DictionaryArray.from_arrays(codes, self.distinct(c, pa.string()), safe=False)
        if column.holds == CONTENT:
            return texts(self.data, self.contents[c, :n], valid, column.type)
        if column.holds == FLAG:
            return built(pa.int32(), self.narrow[c, :n], valid) and pa.array(self.narrow[c, :n] != 0, mask=valid == 0)
        return built(column.type, self.narrow[c, :n], valid)

    def distinct(self, c: int, kind: pa.DataType) -> pa.Array:
        """The texts of a column's dictionary."""
        places = self.firsts[c, : self.dictionary[c, 1]]
        return texts(self.data, places, np.ones(len(places), np.uint8), kind)

    def traced(self, session: pa.Array | None, traced: np.ndarray, n: int) -> pa.Array:
        """Sessions, the hexadecimal trace id where there is none."""
        c = len(self.known.columns)
        ids = self.firsts[c, : self.dictionary[c, 1]]
        digits = np.empty((len(ids), 32), np.uint8)
        hexadecimal(self.data, ids, HEX, digits)
        bounds = np.arange(len(ids) + 1, dtype=np.int32) * 32
        spelled = pa.Array.from_buffers(pa.string(), len(ids), [None, pa.py_buffer(bounds), pa.py_buffer(digits)])
        codes = built(pa.int32(), self.narrow[c, :n], traced)
        traces = pa.DictionaryArray.from_arrays(codes, spelled, safe=False)
        return traces if session is None else pc.coalesce(session.dictionary_decode(), traces.dictionary_decode())


def built(kind: pa.DataType, values: np.ndarray, valid: np.ndarray) -> pa.Array | None:
    """A column of fixed width from its values and a byte for each that says whether it is one; None where none is."""
    present = np.count_nonzero(valid)
    if not present:
        return None
    bits = None if present == len(valid) else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(kind, len(valid), [bits, pa.py_buffer(np.ascontiguousarray(values))], len(valid) - present)


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
