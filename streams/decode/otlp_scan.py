"""OTLP traces straight from the wire: a Numba parser that finds spans and the attributes we know, without an object for any of them.

It takes records that are written in the usual way (each attribute a key and one plain value, as every OpenTelemetry exporter writes
them) and checks every length against what encloses it. A record with anything else in it, damage included, is left to the walk over
protobuf objects, which decides what it means; the scan says only at which byte it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from streams import names
from streams.decode.attributes import EVALUATION, RANKED

TEXT, CONTENT, NUMBER, WHOLE, FLAG = range(5)
"""What a target takes: a short text (or a list's first), content, a number, a whole number, true or false."""
STRING, BOOL, INT, DOUBLE = 1, 2, 3, 4
SERVICE, GIVEN = "service", "given"
"""Targets beside the registry's: the service's name, and the configured principal."""
WORDS = 8
SLOTS = 1024
EVENT_NAME_BYTES = len(EVALUATION)


@intrinsic
def load64(context, array, index):  # type: ignore[no-untyped-def]
    """Eight bytes of a uint8 array from any position, as a little-endian number; the caller has checked that they are there."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        view = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0])
        place = builder.bitcast(builder.gep(view.data, [arguments[1]]), ir.IntType(64).as_pointer())
        word = builder.load(place)
        word.align = 1
        return word

    return types.uint64(array, types.int64), generate


@dataclass(frozen=True)
class Known:
    """The attributes to look for, hashed. `targets`: their order in the scan's columns; `takes`: int8[targets]."""

    targets: tuple[str, ...]
    takes: np.ndarray
    slots: np.ndarray  # int16[SLOTS]: attribute + 1, by hash
    sizes: np.ndarray  # int32[attributes]
    words: np.ndarray  # uint64[attributes, WORDS]: the name, padded with zeros
    uses: np.ndarray  # int16[attributes, 3, 3]: target (-1: none), rank, whether the resource's counts


def known(principal: Sequence[str]) -> Known:
    """The registry's attributes and the configured ones, as the scan wants them. A name of more than 64 bytes is not found."""
    targets = (*RANKED, SERVICE, GIVEN)
    uses: dict[str, list[tuple[int, int, int]]] = {}
    for t, target in enumerate(targets):
        ranked = RANKED.get(target) or [(n, True) for n in (("service.name",) if target == SERVICE else principal)]
        for rank, (name, shared) in enumerate(ranked):
            uses.setdefault(name, []).append((t, rank, int(shared)))
    attributes = [name for name in uses if len(name.encode()) <= 8 * WORDS]
    sizes = np.array([len(name.encode()) for name in attributes], np.int32)
    words = np.array([np.frombuffer(name.encode().ljust(8 * WORDS, b"\0"), np.uint64) for name in attributes])
    table = np.full((len(attributes), 3, 3), -1, np.int16)
    slots = np.zeros(SLOTS, np.int16)
    for a, name in enumerate(attributes):
        table[a, : len(uses[name])] = uses[name]
        padded = np.frombuffer(name.encode() + b"\0" * 8, np.uint8)
        slot = int(hashed(padded, 0, len(name.encode()))) % SLOTS
        while slots[slot]:
            slot = (slot + 1) % SLOTS
        slots[slot] = a + 1
    return Known(targets, np.array([takes(t) for t in targets], np.int8), slots, sizes, words, table)


def takes(target: str) -> int:
    """What a target's values must be."""
    column = names.COLUMNS["evaluation"].get(target)
    for stream in names.STREAMS:
        column = names.COLUMNS[stream].get(target) or column
    kind = str(column.type) if column is not None else "string"
    return {"large_string": CONTENT, "float": NUMBER, "int32": WHOLE, "int64": WHOLE, "bool": FLAG}.get(kind, TEXT)


@njit(nogil=True, cache=True, forceinline=True)
def word_at(data, at, size):
    """Up to eight bytes as a number, zeros after `size`."""
    if at + 8 <= len(data):
        word = load64(data, at)
        return word if size >= 8 else word & ((np.uint64(1) << np.uint64(8 * size)) - np.uint64(1))
    word = np.uint64(0)
    for i in range(min(size, 8)):
        word |= np.uint64(data[at + i]) << np.uint64(8 * i)
    return word


@njit(nogil=True, cache=True, forceinline=True)
def hashed(data, at, size):
    """A hash of a name."""
    h = np.uint64(size)
    for i in range(0, size, 8):
        h = (h ^ word_at(data, at + i, size - i)) * np.uint64(0x9E3779B97F4A7C15)
        h ^= h >> np.uint64(29)
    return h


@njit(nogil=True, cache=True, forceinline=True)
def varint(data, at, end):
    """(number, next position); the position is -1 where it does not end in time."""
    if at < end and data[at] < 0x80:
        return np.int64(data[at]), at + 1
    value, shift = np.uint64(0), np.uint64(0)
    while at < end and shift < np.uint64(64):
        byte = np.uint64(data[at])
        at += 1
        value |= (byte & np.uint64(0x7F)) << shift
        if byte < np.uint64(0x80):
            return np.int64(value), at
        shift += np.uint64(7)
    return np.int64(0), np.int64(-1)


@njit(nogil=True, cache=True, forceinline=True)
def field(data, at, end):
    """(number, wire type, start, end) of the field at `at`; number 0 where there is none that fits."""
    tag, at = varint(data, at, end)
    if at < 0 or tag < 8 or tag >> 3 > 536870911:
        return 0, 0, at, at
    kind = tag & 7
    if kind == 2:
        size, at = varint(data, at, end)
        if at < 0 or size < 0 or size > end - at:
            return 0, 0, at, at
        return tag >> 3, kind, at, at + size
    if kind == 0:
        _, after = varint(data, at, end)
        return (tag >> 3, kind, at, after) if after >= 0 else (0, 0, at, at)
    size = 8 if kind == 1 else 4 if kind == 5 else -1
    if size < 0 or size > end - at:
        return 0, 0, at, at
    return tag >> 3, kind, at, at + size


@njit(nogil=True, cache=True, forceinline=True)
def find(data, at, size, slots, sizes, words):
    """The known attribute of that name, or -1."""
    if size > 64 or size == 0:
        return -1
    slot = np.int64(hashed(data, at, size) & np.uint64(len(slots) - 1))
    while slots[slot]:
        a = slots[slot] - 1
        if sizes[a] == size:
            same = True
            for i in range(0, size, 8):
                same &= words[a, i >> 3] == word_at(data, at + i, size - i)
            if same:
                return a
        slot = (slot + 1) & (len(slots) - 1)
    return -1


@njit(nogil=True, cache=True, forceinline=True)
def attribute(data, at, end, row, of_resource, slots, sizes, words, uses, takes, kinds, ranks, values, lengths):
    """Read one KeyValue into row `row` of the cells. Returns False where it is not written in the usual way."""
    number, kind, start, stop = field(data, at, end)
    if number != 1 or kind != 2:
        return False
    known_as = find(data, start, stop - start, slots, sizes, words)
    number, kind, at, stop = field(data, stop, end)
    if number != 2 or kind != 2 or stop != end:
        return False
    if known_as < 0 or at == stop:
        return True  # not ours, or without a value
    number, kind, start, after = field(data, at, stop)
    if after != stop or number == 0:
        return False
    found, value, length = np.uint8(0), np.int64(0), np.int32(0)
    if number == 1 and kind == 2:
        found, value, length = np.uint8(STRING), start, np.int32(after - start)
    elif number == 2 and kind == 0:
        flag, _ = varint(data, start, stop)
        found, value = np.uint8(BOOL), np.int64(flag != 0)
    elif number == 3 and kind == 0:
        value, _ = varint(data, start, stop)
        found = np.uint8(INT)
    elif number == 4 and kind == 1:
        found, value = np.uint8(DOUBLE), np.int64(load64(data, start))
    elif number == 5 and kind == 2:  # a list: of texts only, and the first is taken
        first = True
        while start < after:
            number, kind, inner, end_of = field(data, start, after)
            if number != 1 or kind != 2:
                return False
            number, kind, text, text_end = field(data, inner, end_of)
            if number != 1 or kind != 2 or text_end != end_of:
                return False
            if first:
                found, value, length, first = np.uint8(STRING), text, np.int32(text_end - text), False
            start = end_of
        for u in range(3):
            if uses[known_as, u, 0] >= 0 and takes[uses[known_as, u, 0]] != TEXT:
                return False
        if first:
            return False
    else:
        return False
    for u in range(3):
        target = uses[known_as, u, 0]
        if target < 0:
            break
        if of_resource and not uses[known_as, u, 2]:
            continue
        wanted = takes[target]
        fits = (
            (found == STRING and wanted <= CONTENT)
            or (found == INT and wanted >= NUMBER and wanted <= WHOLE)
            or (found == DOUBLE and wanted == NUMBER)
            or (found == BOOL and wanted == FLAG)
        )
        if not fits:
            return False
        if kinds[target, row] == 0 or uses[known_as, u, 1] < ranks[target, row]:
            kinds[target, row], ranks[target, row] = found, uses[known_as, u, 1]
            values[target, row], lengths[target, row] = value, length
    return True


@njit(nogil=True, cache=True)
def status(data, at, end, row, spans):
    """Read a span's status into `spans`."""
    while at < end:
        number, kind, start, at = field(data, at, end)
        if number == 0:
            return False
        if number == 2 and kind == 2:
            spans[row, 6], spans[row, 7] = start, at
        elif number == 3 and kind == 0:
            spans[row, 5], _ = varint(data, start, at)
    return True


@njit(nogil=True, cache=True)
def span(data, at, end, row, spans, slots, sizes, words, uses, takes, kinds, ranks, values, lengths):
    """Read one span into row `row`. Returns -1, or the byte where it is not written in the usual way.

    spans[row]: trace id, span id, parent's id (position, -1 where none), start, end (ns), status code, its message (start, end).
    """
    spans[row, 0] = spans[row, 1] = spans[row, 2] = -1
    spans[row, 3:] = 0
    while at < end:
        number, kind, start, stop = field(data, at, end)
        if number == 0:
            return at
        if kind == 2:
            if number == 9:
                if not attribute(data, start, stop, row, False, slots, sizes, words, uses, takes, kinds, ranks, values, lengths):
                    return start
            elif number == 1:
                spans[row, 0] = start if stop - start == 16 else -1
            elif number == 2:
                spans[row, 1] = start if stop - start == 8 else -1
            elif number == 4:
                spans[row, 2] = start if stop - start == 8 else -1
            elif number == 15:
                if not status(data, start, stop, row, spans):
                    return start
            elif number == 11:
                inner = start
                while inner < stop:
                    number, kind, first, after = field(data, inner, stop)
                    if number == 0 or (number == 2 and kind == 2 and after - first == EVENT_NAME_BYTES):
                        return inner  # perhaps an evaluation
                    inner = after
        elif kind == 1:
            if number == 7:
                spans[row, 3] = np.int64(load64(data, start))
            elif number == 8:
                spans[row, 4] = np.int64(load64(data, start))
            if spans[row, 3] < 0 or spans[row, 4] < 0:
                return start  # after the year 2262
        at = stop
    return np.int64(-1)


@njit(nogil=True, cache=True)
def count(data, starts, ends, index, counts):
    """Fill counts[k] with the spans of each record, as far as it can be read."""
    for k in range(len(index)):
        at, end, found = starts[index[k]], ends[index[k]], 0
        while at < end:
            number, kind, group, at = field(data, at, end)
            if number == 0:
                break
            inner = group
            while number == 1 and kind == 2 and inner < at:
                number2, kind2, scope, inner = field(data, inner, at)
                if number2 == 0:
                    break
                while number2 == 2 and kind2 == 2 and scope < inner:
                    number3, kind3, _, scope = field(data, scope, inner)
                    if number3 == 0:
                        break
                    found += number3 == 2 and kind3 == 2
        counts[k] = found


@njit(nogil=True, cache=True)
def scan(data, starts, ends, index, slots, sizes, words, uses, takes, kinds, ranks, values, lengths, spans, owner, stopped):
    """Read all records into the cells ([targets, rows]) and spans ([rows, 8]); owner[row] is the record's position in `index`.

    The last row of the cells is a scratch for resources. stopped[k] is the byte where record k was left to the walk, -1 where it was read.
    Returns the number of rows.
    """
    rows, scratch = 0, kinds.shape[1] - 1
    for k in range(len(index)):
        at, end, first = starts[index[k]], ends[index[k]], rows
        stopped[k] = -1
        while at < end and stopped[k] < 0:
            number, kind, group, after = field(data, at, end)
            if number == 0:
                stopped[k] = at
                break
            if number == 1 and kind == 2:
                kinds[:, scratch] = 0
                before, resources = rows, 0
                inner = group
                while inner < after and stopped[k] < 0:
                    number, kind, start, stop = field(data, inner, after)
                    if number == 0:
                        stopped[k] = inner
                    elif number == 1 and kind == 2:
                        resources += 1
                        if resources > 1:
                            stopped[k] = inner
                        while start < stop and stopped[k] < 0:
                            number, kind, pair, pair_end = field(data, start, stop)
                            if number == 0:
                                stopped[k] = start
                            elif (
                                number == 1
                                and kind == 2
                                and not attribute(
                                    data, pair, pair_end, scratch, True, slots, sizes, words, uses, takes, kinds, ranks, values, lengths
                                )
                            ):
                                stopped[k] = pair
                            start = pair_end
                    elif number == 2 and kind == 2:
                        while start < stop and stopped[k] < 0:
                            number, kind, thing, thing_end = field(data, start, stop)
                            if number == 0:
                                stopped[k] = start
                            elif number == 2 and kind == 2:
                                owner[rows] = k
                                rows += 1
                                stopped[k] = span(
                                    data, thing, thing_end, rows - 1, spans, slots, sizes, words, uses, takes, kinds, ranks, values, lengths
                                )
                            start = thing_end
                    inner = stop
                if stopped[k] < 0:
                    for t in range(kinds.shape[0]):
                        if kinds[t, scratch]:
                            for r in range(before, rows):
                                if kinds[t, r] == 0:
                                    kinds[t, r], values[t, r], lengths[t, r] = kinds[t, scratch], values[t, scratch], lengths[t, scratch]
            at = after
        if stopped[k] >= 0:
            kinds[:, first:rows] = 0
            rows = first
    return rows
