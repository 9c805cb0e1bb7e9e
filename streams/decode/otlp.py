"""OTLP in protobuf, as a collector's Kafka exporter writes it: traces, metrics and logs, told apart by their content."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from streams.decode.format import Format, reject
from streams.decode.otlp_walk import REQUESTS, walk
from streams.decode.tables import Gathered
from streams.records import Decoded, RawBatch

SCAN_BYTES = 1 << 16


def decode(raw: RawBatch, index: np.ndarray, fmt: Format, stream: str | None) -> Decoded:
    """Rows of `inference`, `agent`, `evaluation` (traces, logs) and `hardware` (metrics, logs). A record is one export request.

    Reject: `protobuf`, for a record that is not one; `detail` has what is wrong with it.
    """
    gathered, out = Gathered(), Decoded()
    for i in index.tolist():
        value = raw.value(i)
        signal = signal_of(value)
        request = REQUESTS[signal]()
        try:
            request.ParseFromString(value)
        except DecodeError as error:
            out.rejects.append(reject(raw, i, "protobuf", f"not an OTLP request of {signal}: {error}"))
            continue
        walk(signal, request, fmt, int(raw.offsets[i]), gathered)
    out.rows = gathered.done()
    return out


def signal_of(value: bytes) -> str:
    """`traces`, `metrics` or `logs`, by the first fields of the first thing in the request; `traces` where nothing says otherwise.

    Requests have the same outer shape. Inside, a log record begins with a time (fixed 64 bits), a span with its ids (16 and 8 bytes), a
    metric with its name.
    """
    for number, kind, group in fields(value, 0, len(value)):
        if number != 1 or kind != 2:
            continue
        for inner, kind2, scope in fields(value, *group):
            if inner != 2 or kind2 != 2:
                continue
            for number3, kind3, thing in fields(value, *scope):
                if number3 == 2 and kind3 == 2:
                    return kind_of(value, *thing)
    return "traces"


def kind_of(value: bytes, start: int, end: int) -> str:
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


def fields(value: bytes, start: int, end: int) -> Iterator[tuple[int, int, tuple[int, int]]]:
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


def varint(value: bytes, at: int, end: int) -> tuple[int, int]:
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
