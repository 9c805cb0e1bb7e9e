"""OTLP traces straight from the wire, in one pass: spans and the attributes we know into columns, without an object for any of them.

Every length is checked against what encloses it, every text is checked to be UTF-8, and what is skipped is verified, so a record that
the scan takes is one that protobuf takes. A span with something unusual in it (a list where a text is wanted, an evaluation event) is
noted as *odd* and left to the walk over protobuf objects; a record that is damaged, or may be, is left to it whole. What becomes of a
span that was read stands in `otlp_commit`.
"""

# ruff: noqa: PLR1714 - Numba compares faster than it looks into tuples

from __future__ import annotations

import numpy as np

from streams.decode.otlp_commit import (
    ABSENT,
    BOOL,
    DISTINCT,
    DISTINCT_BEFORE,
    DOUBLE,
    END,
    FINE,
    INT,
    LAST,
    LISTED,
    MESSAGE,
    MESSAGE_BYTES,
    ODD,
    ODD_LIST,
    OTHER,
    PARENT_ID,
    SPAN_ID,
    START,
    STATUS,
    STRING,
    TRACE_ID,
    commit,
    find,
    forget,
    settle,
)  # fmt: skip
from streams.decode.otlp_names import OWN, SHARED_ONLY
from streams.decode.wire import compiled, equal, get, is_ascii, is_utf8, load8, load64, put, skip, varint, verify

LEAST_BYTES = 20
EVENT_NAME_BYTES = len("gen_ai.evaluation.result")


@compiled(forceinline=True)
def block(data, at, end):
    """(start, stop) of what stands behind the one-byte tag at `at`, by its length; start is -1 where it does not fit."""
    if at + 2 > end:
        return np.int64(-1), at
    size, start = load8(data, at + 1), at + 2
    if size >= 0x80:
        size, start = varint(data, at + 1, end)
        if start - at > 6 or size < 0:
            return np.int64(-1), at
    if start < 0 or size > end - start:
        return np.int64(-1), at
    return start, start + size


@compiled()
def listed(data, at, end):
    """(kind, start, size) of an AnyValue, verified before, whose only field is a list, bytes or pairs; kind is ABSENT where it is not."""
    number, kind, start, stop = skip(data, at, end)
    if stop != end or kind != 2 or number < 5 or number > 7:
        return ABSENT, at, at
    if number > 5 or start == stop:
        return OTHER, at, at
    number, kind, start, stop = skip(data, start, stop)
    if number == 1 and kind == 2 and start < stop:
        number, kind, text, text_end = skip(data, start, stop)
        if number == 1 and kind == 2 and text_end == stop:
            return LISTED, text, text_end - text
    return ODD_LIST, at, at


@compiled()
def odd_field(data, tag, start, stop, span):
    """What a verified field of a span other than an attribute makes of it: FINE, or ODD for an evaluation. A status goes to `span`."""
    at = start
    while at < stop:
        number, kind, first, at = skip(data, at, stop)
        if tag == 0x5A and number == 2 and kind == 2 and at - first == EVENT_NAME_BYTES:
            return ODD  # perhaps an evaluation
        if tag == 0x7A and number == 2 and kind == 2:
            span[MESSAGE], span[MESSAGE_BYTES] = first, at - first
        elif tag == 0x7A and number == 3 and kind == 0:
            code, _ = varint(data, first, at)
            span[STATUS] = np.int64(np.int32(code))
    return FINE


@compiled(forceinline=True)
def read(data, at, end, of_resource, pool, places, slots, seed, uses, follows, cells, touched, span, schema, messages, stack):
    """Read the attributes of a span, or of a resource, into `cells` (kind, value or position, size, rank), and a span's own fields.

    Returns (FINE, ODD or the byte where it is not what protobuf takes for sure, number of cells touched). `span`: positions of the ids
    (-1: none), times, status. `follows`: which attribute came after which the last time, tried before the hash table. A resource's cells
    and touched targets are the second half of both.
    """
    half, base = of_resource * (len(cells) >> 1), of_resource * (len(touched) >> 1)
    wanted, message = (0x0A, messages[0]) if of_resource else (0x4A, messages[1])
    count, state, last = np.int64(0), np.int64(FINE), np.int64(0)
    for i in range(8):
        put(span, i, -1 if i < 3 else 0)
    while at < end:
        tag = load8(data, at)
        if (tag == 0x39 or tag == 0x41) and end - at >= 9 and not of_resource:
            time = load64(data, at + 1)
            if time < 0:
                return at, count  # after the year 2262
            put(span, START if tag == 0x39 else END, time)
            at += 9
            continue
        if tag == 0x30 and end - at >= 2 and load8(data, at + 1) < 0x80:
            at += 2
            continue
        if tag & 7 != 2 or tag > 0x7F:
            number, kind, start, stop = skip(data, at, end)
            if number == 0 or (number < 16 and tag > 0x7F):
                return at, count  # perhaps a field of ours, its tag written at length
            if kind == 2:
                stopped = verify(data, at, stop, message, schema, stack)
                if stopped >= 0:
                    return stopped, count
            at = stop
            continue
        start, stop = block(data, at, end)
        if start < 0:
            return at, count
        if tag != wanted:
            size = stop - start
            if tag == 0x0A and not of_resource:
                put(span, TRACE_ID, start if size == 16 else -1)
            elif tag == 0x12 and not of_resource:
                put(span, SPAN_ID, start if size == 8 else -1)
            elif tag == 0x22 and not of_resource:
                put(span, PARENT_ID, start if size == 8 else -1)
            elif tag == 0x2A and not of_resource:
                if not is_ascii(data, start, size) and not is_utf8(data, start, size):
                    return start, count
            else:
                stopped = verify(data, at, stop, message, schema, stack)
                if stopped >= 0:
                    return stopped, count
                if tag in (0x5A, 0x7A) and not of_resource and odd_field(data, tag, start, stop, span) == ODD:
                    state = np.int64(ODD)
            at = stop
            continue
        at = stop
        usual, key, key_bytes, value, value_bytes = False, start + 2, np.int64(0), start, np.int64(0)
        if stop - start >= 4 and load8(data, start) == 0x0A:
            key_bytes = load8(data, start + 1)
            value = key + key_bytes
            if key_bytes < 0x80 and value + 2 <= stop and load8(data, value) == 0x12:
                value_bytes = load8(data, value + 1)
                if value_bytes < 0x80:
                    value += 2
                else:
                    value_bytes, value = varint(data, value + 1, stop)
                usual = value > 0 and value_bytes == stop - value
        if not usual:  # a part is missing, or stands twice
            stopped = verify(data, start, stop, messages[2], schema, stack)
            if stopped >= 0:
                return stopped, count
            state = np.int64(ODD)
            continue
        a = get(follows, last) - 1
        if a < 0 or get(places, 2 * a + 1) != key_bytes or not equal(data, key, pool + get(places, 2 * a), key_bytes):
            a = find(data, key, key_bytes, pool, places, 2, slots, seed)
            if a < 0 and not is_utf8(data, key, key_bytes):
                return key, count
            if a >= 0:
                put(follows, last, a + 1)
        if a >= 0:
            last = a + 1
        if value_bytes == 0:
            continue
        kind, content, size, first = np.int64(ABSENT), value, np.int64(0), load8(data, value)
        if first == 0x0A and value_bytes >= 2:
            size, content = load8(data, value + 1), value + 2
            if size >= 0x80:
                size, content = varint(data, value + 1, stop)
            if content > 0 and size == stop - content:
                kind = np.int64(STRING)
                if not is_ascii(data, content, size) and not is_utf8(data, content, size):
                    return content, count
        elif first == 0x18 or first == 0x10:
            if value_bytes == 2 and load8(data, value + 1) < 0x80:
                content, kind = load8(data, value + 1), np.int64(INT)
            else:
                content, after = varint(data, value + 1, stop)
                kind = np.int64(INT if after == stop else ABSENT)
            if first == 0x10 and kind == INT:
                content, kind = np.int64(content != 0), np.int64(BOOL)
        elif first == 0x21 and value_bytes == 9:
            content, kind = load64(data, value + 1), np.int64(DOUBLE)
        if kind == ABSENT:
            stopped = verify(data, value, stop, messages[3], schema, stack)
            if stopped >= 0:
                return stopped, count
            if a >= 0:
                kind, content, size = listed(data, value, stop)
                if kind == ABSENT:
                    state = np.int64(ODD)
                    continue
        if a < 0:
            continue
        for use in range(6 * a, 6 * a + 6, 3):
            target, rank = get(uses, use), get(uses, use + 1)
            if target < 0:
                break
            if get(uses, use + 2) == (OWN if of_resource else SHARED_ONLY):
                continue
            cell = half + 4 * target
            if get(cells, cell) == ABSENT:
                put(touched, base + count, target)
                count += 1
            elif rank >= get(cells, cell + 3):
                continue
            put(cells, cell, kind)
            put(cells, cell + 1, content)
            put(cells, cell + 2, size)
            put(cells, cell + 3, rank)
    return state, count


@compiled()
def count(data, at, end):
    """No fewer spans of a record than `scan` makes rows of: those with room for an attribute that tells of an operation."""
    found = 0
    while at < end:
        inner, at = block(data, at, end)
        if inner < 0:
            break
        while inner < at:
            tag = load8(data, inner)
            scope, inner = block(data, inner, at)
            if scope < 0:
                break
            while tag == 0x12 and scope < inner:
                tag3 = load8(data, scope)
                thing, scope = block(data, scope, inner)
                if thing < 0:
                    break
                found += tag3 == 0x12 and scope - thing >= LEAST_BYTES
    return found


@compiled()
def scan(
    data, starts, ends, index, offsets, pool, places, slots, words, word_slots, seed, uses, column_of, holds, schema, messages,
    cells, touched, span, operation, stack, follows, dictionary, tables, firsts, narrow, floats, contents, valid, fixed, rows, most, odd,
    stopped,
):  # fmt: skip
    """Read all records into columns. `cells`: int64[2 * targets * 4], of a span and of its resource; the rest is said in `otlp_columns`.

    stopped[k] is the byte where record k was left to the walk, -1 where it was read; odd[j] says where the j-th odd span and its resource
    lie. Returns (records scanned, odd spans): the record whose spans would come to more than `most` rows is not begun, nor are those after.
    """
    odd_count, half, base = 0, len(cells) >> 1, len(touched) >> 1
    for k in range(len(index)):
        at, end, stop, full = starts[index[k]], ends[index[k]], np.int64(FINE), False
        first_odd = odd_count
        for stream in range(2):
            rows[2 + stream] = rows[stream]
        for c in range(len(dictionary)):
            dictionary[c, DISTINCT_BEFORE] = dictionary[c, DISTINCT]
        while at < end and stop == FINE:
            group, after = block(data, at, end)
            if group < 0 or load8(data, at) != 0x0A:
                stop = at
                break
            resource, resource_end, of_resource, scopes, inner = group, group, np.int64(0), False, group
            while inner < after and stop == FINE:
                tag, place = load8(data, inner), inner
                first, inner = block(data, inner, after)
                if first < 0 or tag not in (0x0A, 0x12, 0x1A):
                    stop, first = place, inner
                elif tag == 0x1A:
                    stop = np.int64(FINE) if is_utf8(data, first, inner - first) else first
                    first = inner
                elif tag == 0x12:
                    scopes = True
                elif resource != resource_end or scopes:  # a second resource, or one after its spans
                    stop, first = place, inner
                else:
                    resource, resource_end, first = place, inner, place  # the resource is read as the only thing in itself
                while first < inner and stop == FINE:
                    kind, place = load8(data, first), first
                    thing, first = block(data, first, inner)
                    if thing < 0 or (kind != 0x12 and kind != 0x0A and kind != 0x1A):
                        stop = place
                        break
                    if kind != 0x12 and tag == 0x12:
                        stop = verify(data, place, first, messages[4], schema, stack)
                        continue
                    stop, n = read(
                        data, thing, first, np.int64(tag == 0x0A), pool, places, slots, seed, uses, follows, cells, touched, span, schema,
                        messages, stack,
                    )  # fmt: skip
                    if tag == 0x0A:
                        of_resource, stop = n, thing if stop == ODD else stop
                        continue
                    if stop == FINE:
                        for j in range(of_resource):
                            t = get(touched, base + j)
                            if get(cells, 4 * t) == ABSENT:
                                for i in range(4):
                                    put(cells, 4 * t + i, get(cells, half + 4 * t + i))
                                put(touched, n, t)
                                n += 1
                        stream = settle(data, cells, pool, words, word_slots, seed, operation)
                        if stream >= 0 and get(rows, stream) == most:
                            full, stop = True, thing
                        elif stream >= 0:
                            row = get(rows, stream)
                            stop = np.int64(commit(
                                data, stream, row, n, cells, touched, span, pool, words, column_of, holds, seed,
                                dictionary, tables, firsts, narrow, floats, contents, valid, fixed,
                            ))  # fmt: skip
                            if stop == FINE:
                                put(fixed, 8 * (stream * valid.shape[1] + row), get(offsets, index[k]))
                                put(rows, stream, row + 1)
                        elif stream == ODD:
                            stop = stream
                    for j in range(n):
                        put(cells, 4 * get(touched, j), ABSENT)
                    if stop == ODD and odd_count == len(odd):
                        stop = place  # many that are too small to be anything: the walk sees the whole record
                    elif stop == ODD:
                        odd[odd_count, 0], odd[odd_count, 1], odd[odd_count, 2] = k, resource, resource_end
                        odd[odd_count, 3], odd[odd_count, 4] = place, first
                        odd_count += 1
                        stop = np.int64(FINE)
            for j in range(of_resource):
                put(cells, half + 4 * get(touched, base + j), ABSENT)
            at = after
        stopped[k] = stop
        if stop != FINE:  # forget what came before in this record
            for stream in range(2):
                forget(column_of, stream, rows[2 + stream], rows[stream], valid)
                rows[stream] = rows[2 + stream]
            odd_count = first_odd
            for c in range(len(dictionary)):
                dictionary[c, DISTINCT], dictionary[c, LAST] = dictionary[c, DISTINCT_BEFORE], -1
        if full and k:
            return k, odd_count
    return len(index), odd_count
