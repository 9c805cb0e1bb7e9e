"""A span that was read becomes a row: its operation, hence its stream, then each cell into its column. The rules of `attributes.py`."""

# ruff: noqa: PLR1714, SIM109 - Numba compares faster than it looks into tuples

from __future__ import annotations

import numpy as np

from streams.decode.otlp_names import (
    A2A,
    A2A_WORD,
    AGENT,
    AGENT_WORD,
    CALL_WORD,
    CONTENT,
    ERROR,
    ERROR_WORD,
    FALSE_WORD,
    FLOAT,
    GIVEN,
    INPUT_TOKENS,
    INTEGER,
    KIND,
    MCP,
    MCP_WORD,
    METHOD,
    NAME,
    OPERATION,
    OUTPUT_TOKENS,
    PRINCIPAL,
    PROTOCOL,
    SERVICE,
    SESSION,
    TEXT,
    TOOL_WORD,
    TRUE_WORD,
)  # fmt: skip
from streams.decode.room import LEAST_PLACES
from streams.decode.wire import as_double, compiled, equal, get, hashed, load64, put

ABSENT, STRING, BOOL, INT, DOUBLE, LISTED, OTHER, ODD_LIST = range(8)
"""Kinds of values: a list whose first is a text, something that no column holds as it is, a list that begins with something else."""
TRACE_ID, SPAN_ID, PARENT_ID, START, END, STATUS, MESSAGE, MESSAGE_BYTES = range(8)
FINE, ODD, NOBODY = -1, -2, -3
FAILED = 2
OFFSET, TIME, DURATION, TOKENS, TRACE, TRACE_HIGH, SPAN, PARENT = range(8)
"""What `fixed` has of each row."""
HAS_TIME, HAS_DURATION, HAS_TOKENS, HAS_TRACE, HAS_SPAN, HAS_PARENT, HAS_SESSION = range(7)
"""Rows of `valid`, for each stream, after those of the columns. The last: the session is the trace, in a dictionary after the columns'."""
LAST, DISTINCT, MASK, DISTINCT_BEFORE = range(4)
ENTRY = 0xFFFFFFFF


@compiled()
def find(data, at, size, pool, places, width, slots, seed):
    """The entry of that name, or -1. `pool`: where the names lie, relative to `data`. `places`: position and size begin each `width`."""
    slot = hashed(data, at, size, seed) & (len(slots) - 1)
    while get(slots, slot):
        n = get(slots, slot) - 1
        if get(places, width * n + 1) == size and equal(data, at, pool + get(places, width * n), size):
            return n
        slot = (slot + 1) & (len(slots) - 1)
    return np.int64(-1)


@compiled(forceinline=True)
def move(cells, to, source):
    """Give a target the value of another cell."""
    for i in range(3):
        put(cells, 4 * to + i, get(cells, 4 * source + i))


@compiled(forceinline=True)
def say(cells, target, at, size):
    """Give a target a text."""
    put(cells, 4 * target, STRING)
    put(cells, 4 * target + 1, at)
    put(cells, 4 * target + 2, size)


@compiled()
def settle(data, cells, pool, words, word_slots, seed, before):
    """Find the operation: named, or told by the span's kind or its protocol's method. Returns its stream, NOBODY, or ODD.

    `before`: int64[3], where the operation found before lies, its size, its stream.
    """
    kind, mcp, a2a = get(cells, 4 * KIND), get(cells, 4 * MCP), get(cells, 4 * A2A)
    if get(cells, 4 * OPERATION) > STRING or kind > STRING or mcp > STRING or a2a > STRING or get(cells, 4 * NAME) != ABSENT:
        return np.int64(ODD)
    if get(cells, 4 * OPERATION) == ABSENT or get(cells, 4 * OPERATION + 2) == 0:
        word = np.int64(-1)
        if kind == STRING:
            word = find(data, get(cells, 4 * KIND + 1), get(cells, 4 * KIND + 2), pool, words, 4, word_slots, seed)
            word = get(words, 4 * word + 3) if word >= 0 else word
        if word < 0 and mcp == STRING and get(cells, 4 * MCP + 2) > 0:
            at, size, call = get(cells, 4 * MCP + 1), get(cells, 4 * MCP + 2), pool + get(words, 4 * CALL_WORD)
            if size == get(words, 4 * CALL_WORD + 1) and equal(data, at, call, size):
                word = np.int64(TOOL_WORD)
            else:
                say(cells, OPERATION, at, size)
        elif word < 0 and a2a == STRING:
            word = np.int64(AGENT_WORD)
        elif word < 0:
            return np.int64(NOBODY)
        if word >= 0:
            say(cells, OPERATION, pool + get(words, 4 * word), get(words, 4 * word + 1))
    at, size = get(cells, 4 * OPERATION + 1), get(cells, 4 * OPERATION + 2)
    if size == get(before, 1) and equal(data, at, get(before, 0), size):
        return get(before, 2)
    word = find(data, at, size, pool, words, 4, word_slots, seed)
    stream = get(words, 4 * word + 2) if word >= 0 else np.int64(-1)
    put(before, 0, at)
    put(before, 1, size)
    put(before, 2, stream if stream >= 0 else AGENT)
    return get(before, 2)


@compiled(forceinline=True)
def named(cells, target):
    """Whether a target has a text that is not empty, of whatever kind it was written."""
    kind = get(cells, 4 * target)
    return kind == BOOL or kind == INT or kind == ODD_LIST or ((kind == STRING or kind == LISTED) and get(cells, 4 * target + 2) > 0)


@compiled()
def whole(kind, value, limit):
    """(whether it is a whole number from -limit to limit - 1, the number)."""
    if kind == DOUBLE:
        number = as_double(value)
        if not (-limit <= number < limit) or number != np.floor(number):
            return False, np.int64(0)
        return True, np.int64(number)
    return kind == INT and (limit >= 2.0**63 or -limit <= value < limit), value


@compiled()
def grow(data, c, dictionary, tables, firsts, seed):
    """Make a dictionary's hash table twice as large, or give it its first places."""
    size = min(max(2 * (dictionary[c, MASK] + 1), LEAST_PLACES), tables.shape[1])
    dictionary[c, MASK] = size - 1
    for slot in range(size):
        tables[c, slot] = 0
    for n in range(dictionary[c, DISTINCT]):
        h = hashed(data, firsts[c, n, 0], firsts[c, n, 1], seed) & ~np.int64(ENTRY)
        slot = (h >> 32) & (size - 1)
        while tables[c, slot]:
            slot = (slot + 1) & (size - 1)
        tables[c, slot] = h | (n + 1)


@compiled(forceinline=True)
def encoded(data, c, at, size, dictionary, tables, firsts, seed):
    """The number of a text among the distinct ones of its column.

    An entry of the table is half of the text's hash over its number + 1. Entries above DISTINCT are left from a record that was taken
    back: their places count as empty.
    """
    first, table = 2 * c * firsts.shape[1], c * tables.shape[1]
    n = get(dictionary, 4 * c + LAST)
    if n >= 0 and get(firsts, first + 2 * n + 1) == size:
        before = get(firsts, first + 2 * n)
        if before == at or equal(data, at, before, size):
            return n
    if 2 * (get(dictionary, 4 * c + DISTINCT) + 1) > get(dictionary, 4 * c + MASK):
        grow(data, c, dictionary, tables, firsts, seed)
    mask, distinct = get(dictionary, 4 * c + MASK), get(dictionary, 4 * c + DISTINCT)
    h = hashed(data, at, size, seed) & ~np.int64(ENTRY)
    slot = (h >> 32) & mask
    while True:
        entry = get(tables, table + slot)
        n = (entry & ENTRY) - 1
        if n < 0 or n >= distinct:
            n = distinct
            put(tables, table + slot, h | (n + 1))
            put(firsts, first + 2 * n, at)
            put(firsts, first + 2 * n + 1, size)
            put(dictionary, 4 * c + DISTINCT, n + 1)
            break
        if entry & ~np.int64(ENTRY) == h and get(firsts, first + 2 * n + 1) == size and equal(data, at, get(firsts, first + 2 * n), size):
            break
        slot = (slot + 1) & mask
    put(dictionary, 4 * c + LAST, n)
    return n


@compiled(forceinline=True)
def commit(
    data, stream, row, count, cells, touched, span, pool, words, column_of, holds, seed,
    dictionary, tables, firsts, narrow, floats, contents, valid, fixed,
):  # fmt: skip
    """Write a span into row `row` of its stream. Returns FINE, or ODD where a value is one that the walk has to look at."""
    room, extra, texts = narrow.shape[1], len(holds) + 7 * stream, len(holds)
    if named(cells, GIVEN):
        move(cells, PRINCIPAL, GIVEN)
    elif not named(cells, PRINCIPAL):
        move(cells, PRINCIPAL, SERVICE)
    if not named(cells, ERROR):
        put(cells, 4 * ERROR, ABSENT)
        if get(span, STATUS) == FAILED and get(span, MESSAGE_BYTES):
            say(cells, ERROR, get(span, MESSAGE), get(span, MESSAGE_BYTES))
        elif get(span, STATUS) == FAILED:
            say(cells, ERROR, pool + get(words, 4 * ERROR_WORD), get(words, 4 * ERROR_WORD + 1))
    put(cells, 4 * METHOD, ABSENT)
    put(cells, 4 * PROTOCOL, ABSENT)
    if stream == AGENT:
        if get(cells, 4 * MCP) == STRING and get(cells, 4 * MCP + 2) > 0:
            move(cells, METHOD, MCP)
            say(cells, PROTOCOL, pool + get(words, 4 * MCP_WORD), get(words, 4 * MCP_WORD + 1))
        elif get(cells, 4 * A2A) == STRING:
            move(cells, METHOD, A2A)
            say(cells, PROTOCOL, pool + get(words, 4 * A2A_WORD), get(words, 4 * A2A_WORD + 1))
        taken, given = whole(get(cells, 4 * INPUT_TOKENS), get(cells, 4 * INPUT_TOKENS + 1), 2.0**63)
        made, output = whole(get(cells, 4 * OUTPUT_TOKENS), get(cells, 4 * OUTPUT_TOKENS + 1), 2.0**63)
        total = (given if taken else 0) + (output if made else 0)
        over = taken and made and (given >= 0) == (output >= 0) and (total >= 0) != (given >= 0)
        fixed[stream, row, TOKENS] = total
        valid[extra + HAS_TOKENS, row] = (taken or made) and not over
    for target in (OPERATION, PRINCIPAL, ERROR, METHOD, PROTOCOL):
        put(touched, count, target)
        count += 1
    state = FINE
    for j in range(count):
        target = get(touched, j)
        c, kind = get(column_of, stream * column_of.shape[1] + target), get(cells, 4 * target)
        put(cells, 4 * target, ABSENT)
        if c < 0 or kind == ABSENT:
            continue
        value, size, what, fits = get(cells, 4 * target + 1), get(cells, 4 * target + 2), get(holds, c), True
        if what == TEXT:
            if kind == BOOL:
                word = TRUE_WORD if value else FALSE_WORD
                value, size, kind = pool + get(words, 4 * word), get(words, 4 * word + 1), np.int64(STRING)
            fits = kind == STRING or kind == LISTED
            if fits:
                put(narrow, c * room + row, encoded(data, c, value, size, dictionary, tables, firsts, seed))
            elif kind == INT or kind == ODD_LIST:
                state = ODD
        elif what == INTEGER:
            if kind == INT:
                fits = -(1 << 31) <= value < 1 << 31
            else:
                fits, value = whole(kind, value, 2.0**31)
            put(narrow, c * room + row, value)
        elif what == FLOAT:
            number = as_double(value) if kind == DOUBLE else np.float64(value)
            fits = (kind == DOUBLE and np.isfinite(number)) or kind == INT
            floats[c, row] = np.float32(number)
        elif what == CONTENT:
            contents[c, row, 0], contents[c, row, 1] = value, size
            if kind != STRING:
                state = ODD
        else:
            fits = kind == BOOL
            put(narrow, c * room + row, value)
        put(valid, c * room + row, np.int64(fits))
    place, flag = 8 * (stream * room + row), extra * room + row
    start, end = get(span, START), get(span, END)
    time = (end if end > 0 else start) // 1000
    put(fixed, place + TIME, time)
    put(valid, flag + HAS_TIME * room, np.int64(time > 0))
    put(fixed, place + DURATION, end - start)
    put(valid, flag + HAS_DURATION * room, np.int64(start > 0 and end >= start))
    trace, own, parent = get(span, TRACE_ID), get(span, SPAN_ID), get(span, PARENT_ID)
    put(valid, flag + HAS_TRACE * room, np.int64(trace >= 0))
    put(valid, flag + HAS_SPAN * room, np.int64(own >= 0))
    put(valid, flag + HAS_PARENT * room, np.int64(parent >= 0))
    if trace >= 0:
        put(fixed, place + TRACE, load64(data, trace))
        put(fixed, place + TRACE_HIGH, load64(data, trace + 8))
    if own >= 0:
        put(fixed, place + SPAN, load64(data, own))
    if parent >= 0:
        put(fixed, place + PARENT, load64(data, parent))
    if stream == AGENT:
        traced = not valid[column_of[stream, SESSION], row] and trace >= 0
        valid[extra + HAS_SESSION, row] = traced
        if traced:
            narrow[texts, row] = spelled(data, texts, trace, dictionary, tables, firsts, seed)
    if state == ODD:
        forget(column_of, stream, row, row + 1, valid)
    return state


@compiled()
def spelled(data, c, trace, dictionary, tables, firsts, seed):
    """The number of a trace id among the distinct ones."""
    return encoded(data, c, trace, 16, dictionary, tables, firsts, seed)


@compiled()
def forget(column_of, stream, first, last, valid):
    """Take back rows of a stream."""
    for target in range(column_of.shape[1]):
        if column_of[stream, target] >= 0:
            valid[column_of[stream, target], first:last] = 0
