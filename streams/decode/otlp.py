"""OTLP in protobuf, as a collector's Kafka exporter writes it: traces, metrics and logs, told apart by their content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from streams.decode.format import Format, reject
from streams.decode.otlp_columns import Spans, rows_for
from streams.decode.otlp_walk import REQUESTS, walk
from streams.decode.room import MOST_ROWS
from streams.decode.tables import Gathered
from streams.records import Decoded, RawBatch, Rows


def decode(raw: RawBatch, index: np.ndarray, fmt: Format, stream: str | None) -> Decoded:
    """Rows of `inference`, `agent`, `evaluation` (traces, logs) and `hardware` (metrics, logs). A record is one export request.

    Traces written in the usual way are read from the wire, a column at a time; the rest goes through protobuf objects. Reject:
    `protobuf`, for a record that is no request; `detail` has the byte where reading stopped.
    """
    signals = {i: signal_of(raw, i) for i in index.tolist()}
    out = traces(raw, np.array([i for i, signal in signals.items() if signal == "traces"], np.int64), fmt)
    other = walked(raw, {i: signal for i, signal in signals.items() if signal != "traces"}, fmt, {})
    return Decoded(out.rows + other.rows, out.rejects + other.rejects)


def traces(raw: RawBatch, index: np.ndarray, fmt: Format) -> Decoded:
    """Records that are requests of traces."""
    out = Decoded()
    while len(index):
        part, left, most = index[:1], np.zeros(1, np.int64), rows_for(raw, index)
        if most <= MOST_ROWS:
            spans = Spans(raw, index, fmt.principal, most)
            part, left = index[: len(spans.stopped)], spans.stopped
            out.rows += spans.tables() + odd_spans(raw, part, spans.odd, fmt)
        places = dict(zip(part.tolist(), (left - raw.starts[part]).tolist(), strict=True))
        rest = walked(raw, dict.fromkeys(part[left >= 0].tolist(), "traces"), fmt, places)
        out.rows += rest.rows
        out.rejects += rest.rejects
        index = index[len(part) :]
    return out


def odd_spans(raw: RawBatch, index: np.ndarray, odd: np.ndarray, fmt: Format) -> list[Rows]:
    """The rows of single spans that the scan left to the walk; neighbours of one resource together."""
    gathered = Gathered()
    for (record, first, last), group in groupby(odd.tolist(), key=lambda span: tuple(span[:3])):
        scope = b"".join(bytes(raw.data[start:stop]) for *_, start, stop in group)
        request = REQUESTS["traces"]()
        spans = request.resource_spans.add()
        spans.MergeFromString(bytes(raw.data[first:last]))
        spans.scope_spans.add().MergeFromString(scope)
        walk("traces", request, fmt, int(raw.offsets[index[record]]), gathered)
    return gathered.done()


def walked(raw: RawBatch, signals: Mapping[int, str], fmt: Format, stopped: Mapping[int, int]) -> Decoded:
    """Records by protobuf objects. `stopped`: the byte where the scan stopped, for those that it tried."""
    gathered, rejects = Gathered(), []
    for i, signal in signals.items():
        request = REQUESTS[signal]()
        try:
            request.ParseFromString(raw.value(i))
        except DecodeError:
            where = f", stopped at byte {stopped[i]}" if stopped.get(i, -1) >= 0 else ""
            rejects.append(reject(raw, i, "protobuf", f"not an OTLP request of {signal}{where}"))
            continue
        walk(signal, request, fmt, int(raw.offsets[i]), gathered)
    return Decoded(gathered.done(), rejects)


def signal_of(raw: RawBatch, record: int) -> str:
    """`traces`, `metrics` or `logs`, by the first fields of the first thing in the request; `traces` where nothing says otherwise.

    Requests have the same outer shape. Inside, a log record begins with a time (fixed 64 bits), a span with its ids (16 and 8 bytes), a
    metric with its name.
    """
    value = raw.data
    for number, kind, group in fields(value, int(raw.starts[record]), int(raw.ends[record])):
        if number != 1 or kind != 2:
            continue
        for inner, kind2, scope in fields(value, *group):
            if inner != 2 or kind2 != 2:
                continue
            for number3, kind3, thing in fields(value, *scope):
                if number3 == 2 and kind3 == 2:
                    return kind_of(value, *thing)
    return "traces"


def kind_of(value: bytes | memoryview, start: int, end: int) -> str:
    """What one span, metric or log record is."""
    lengths: dict[int, int] = {}
    for number, kind, (first, last) in fields(value, start, end):
        if kind == 1 and number in (1, 11):
            return "logs"
        if kind == 2:
            lengths.setdefault(number, last - first)
        if len(lengths) >= 3:
            break
    if 5 in lengths and 1 in lengths and lengths.get(2) == 8 and lengths[1] == 16:
        return "traces"
    if lengths.get(1) == 16 and lengths.get(2) == 8:
        return "traces"
    if lengths.keys() & {5, 7, 9, 10, 11} and 1 in lengths and lengths[1] != 16:
        return "metrics"
    return "logs" if lengths.keys() & {9} and 1 not in lengths else "metrics" if 1 in lengths and 2 not in lengths else "traces"


def fields(value: bytes | memoryview, start: int, end: int) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """(number, wire type, (start, end) of the content) of a message's fields, as far as they can be read."""
    at = start
    while at < end:
        tag, at = varint(value, at, end)
        if at < 0:
            return
        kind = tag & 7
        if kind == 2:
            size, at = varint(value, at, end)
            if at < 0 or at + size > end:
                return
        elif kind == 0:
            before = at
            _, at = varint(value, at, end)
            if at < 0:
                return
            size, at = at - before, before
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            return
        yield tag >> 3, kind, (at, at + size)
        at += size


def varint(value: bytes | memoryview, at: int, end: int) -> tuple[int, int]:
    """(number, next position); the position is -1 where it does not end."""
    number = shift = 0
    while at < end and shift < 64:
        byte = value[at]
        number |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return number, at
        shift += 7
    return 0, -1
