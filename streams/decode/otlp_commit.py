"""A span that was read becomes a row: its operation, hence its stream, then each cell into its column. The rules of `attributes.py`."""

from __future__ import annotations

import numpy as np
from numba import njit

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
    FLAG,
    FLOAT,
    GIVEN,
    INPUT_TOKENS,
    INTEGER,
    KIND,
    MCP,
    MCP_WORD,
    METHOD,
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
from streams.decode.wire import as_double, equal, hashed, load64

ABSENT, STRING, BOOL, INT, DOUBLE, LISTED, OTHER, ODD_LIST = range(8)
"""Kinds of values: a list whose first is a text, something that no column holds as it is, a list that begins with something else."""
TRACE_ID, SPAN_ID, PARENT_ID, START, END, STATUS, MESSAGE, MESSAGE_BYTES = range(8)
FINE, ODD, NOBODY = -1, -2, -3
FAILED = 2
OFFSET, TIME, DURATION, TOKENS, TRACE, TRACE_HIGH, SPAN, PARENT = range(8)
"""What `fixed` has of each row."""
HAS_TIME, HAS_DURATION, HAS_TOKENS, HAS_TRACE, HAS_SPAN, HAS_PARENT, HAS_SESSION = range(7)
"""Rows of `valid`, for each stream, after those of the columns. The last: the session is the trace, in a dictionary after the columns'."""
LAST, DISTINCT, MASK = range(3)


@njit(nogil=True, cache=True)
def find(data, at, size, pool, places, slots, seed):
    """The entry of that name, or -1. `pool`: where the names lie, relative to `data`."""
    slot = hashed(data, at, size, seed) & (len(slots) - 1)
    while slots[slot]:
        n = slots[slot] - 1
        if places[n, 1] == size and equal(data, at, pool + places[n, 0], size):
            return np.int64(n)
        slot = (slot + 1) & (len(slots) - 1)
    return np.int64(-1)


@njit(nogil=True, cache=True, forceinline=True)
def put(cells, target, pool, words, word):
    """A word of ours as the value of a target."""
    cells[target, 0], cells[target, 1], cells[target, 2] = STRING, pool + words[word, 0], words[word, 1]


@njit(nogil=True, cache=True)
def settle(data, cells, pool, words, word_slots, seed):
    """Find the operation: named, or told by the span's kind or its protocol's method. Returns its stream, NOBODY, or ODD."""
    for target in (OPERATION, KIND, MCP, A2A):
        if cells[target, 0] > STRING:
            return ODD
    if cells[OPERATION, 0] == ABSENT or cells[OPERATION, 2] == 0:
        kind = np.int64(-1)
        if cells[KIND, 0] == STRING:
            kind = find(data, cells[KIND, 1], cells[KIND, 2], pool, words, word_slots, seed)
            kind = words[kind, 3] if kind >= 0 else kind
        if kind >= 0:
            put(cells, OPERATION, pool, words, kind)
        elif cells[MCP, 0] == STRING and cells[MCP, 2] > 0:
            if cells[MCP, 2] == words[CALL_WORD, 1] and equal(data, cells[MCP, 1], pool + words[CALL_WORD, 0], cells[MCP, 2]):
                put(cells, OPERATION, pool, words, TOOL_WORD)
            else:
                cells[OPERATION, 0], cells[OPERATION, 1], cells[OPERATION, 2] = STRING, cells[MCP, 1], cells[MCP, 2]
        elif cells[A2A, 0] == STRING:
            put(cells, OPERATION, pool, words, AGENT_WORD)
        else:
            return NOBODY
    word = find(data, cells[OPERATION, 1], cells[OPERATION, 2], pool, words, word_slots, seed)
    return words[word, 2] if word >= 0 and words[word, 2] >= 0 else AGENT


@njit(nogil=True, cache=True)
def named(cells, target):
    """Whether a target has a text that is not empty, of whatever kind it was written."""
    kind = cells[target, 0]
    return kind in (BOOL, INT, ODD_LIST) or ((kind in (STRING, LISTED)) and cells[target, 2] > 0)


@njit(nogil=True, cache=True)
def whole(kind, value, limit):
    """(whether it is a whole number from -limit to limit - 1, the number)."""
    if kind == DOUBLE:
        number = as_double(value)
        if not (-limit <= number < limit) or number != np.floor(number):
            return False, np.int64(0)
        return True, np.int64(number)
    return kind == INT and (limit >= 2.0**63 or -limit <= value < limit), value


@njit(nogil=True, cache=True)
def grow(data, c, dictionary, tables, firsts, seed):
    """Make a dictionary's hash table four times as large, or give it its first 256 places."""
    size = min(256 if dictionary[c, MASK] == 0 else 4 * (dictionary[c, MASK] + 1), tables.shape[1])
    dictionary[c, MASK] = size - 1
    tables[c, :size] = 0
    for n in range(dictionary[c, DISTINCT]):
        slot = hashed(data, firsts[c, n, 0], firsts[c, n, 1], seed) & (size - 1)
        while tables[c, slot]:
            slot = (slot + 1) & (size - 1)
        tables[c, slot] = n + 1


@njit(nogil=True, cache=True, forceinline=True)
def encoded(data, c, at, size, dictionary, tables, firsts, seed):
    """The number of a text among the distinct ones of its column.

    Entries of the table above DISTINCT are left from a record that was taken back: their places count as empty.
    """
    last = dictionary[c, LAST]
    if last >= 0 and firsts[c, last, 1] == size and (firsts[c, last, 0] == at or equal(data, at, firsts[c, last, 0], size)):
        return last
    if 2 * (dictionary[c, DISTINCT] + 1) > dictionary[c, MASK]:
        grow(data, c, dictionary, tables, firsts, seed)
    mask, distinct = dictionary[c, MASK], dictionary[c, DISTINCT]
    slot = hashed(data, at, size, seed) & mask
    while True:
        n = np.int64(tables[c, slot]) - 1
        if n < 0 or n >= distinct:
            tables[c, slot] = distinct + 1
            firsts[c, distinct, 0], firsts[c, distinct, 1] = at, size
            dictionary[c, DISTINCT] += 1
            n = distinct
            break
        if firsts[c, n, 1] == size and equal(data, at, firsts[c, n, 0], size):
            break
        slot = (slot + 1) & mask
    dictionary[c, LAST] = n
    return n


@njit(nogil=True, cache=True)
def commit(
    data, stream, row, count, cells, touched, span, pool, words, column_of, holds, seed,
    dictionary, tables, firsts, narrow, floats, contents, valid, fixed,
):  # fmt: skip
    """Write a span into row `row` of its stream. Returns FINE, or ODD where a value is one that the walk has to look at."""
    extra = len(holds) + 7 * stream
    if named(cells, GIVEN):
        cells[PRINCIPAL] = cells[GIVEN]
    elif not named(cells, PRINCIPAL):
        cells[PRINCIPAL] = cells[SERVICE]
    if not named(cells, ERROR):
        cells[ERROR, 0] = ABSENT
        if span[STATUS] == FAILED and span[MESSAGE_BYTES]:
            cells[ERROR, 0], cells[ERROR, 1], cells[ERROR, 2] = STRING, span[MESSAGE], span[MESSAGE_BYTES]
        elif span[STATUS] == FAILED:
            put(cells, ERROR, pool, words, ERROR_WORD)
    if stream == AGENT:
        cells[METHOD, 0] = cells[PROTOCOL, 0] = ABSENT
        if cells[MCP, 0] == STRING and cells[MCP, 2] > 0:
            cells[METHOD] = cells[MCP]
            put(cells, PROTOCOL, pool, words, MCP_WORD)
        elif cells[A2A, 0] == STRING:
            cells[METHOD] = cells[A2A]
            put(cells, PROTOCOL, pool, words, A2A_WORD)
    state = FINE
    for target in (OPERATION, PRINCIPAL, ERROR, METHOD, PROTOCOL):
        touched[count] = target
        count += 1
    for j in range(count):
        target = touched[j]
        c, kind = column_of[stream, target], cells[target, 0]
        if c < 0 or kind == ABSENT:
            continue
        cells[target, 0] = ABSENT
        value, size = cells[target, 1], cells[target, 2]
        if holds[c] == TEXT:
            if kind == BOOL:
                word = TRUE_WORD if value else FALSE_WORD
                value, size, kind = pool + words[word, 0], words[word, 1], STRING
            if kind in (STRING, LISTED):
                narrow[c, row] = encoded(data, c, value, size, dictionary, tables, firsts, seed)
                valid[c, row] = 1
            elif kind in (INT, ODD_LIST):
                state = ODD
        elif holds[c] == CONTENT:
            if kind == STRING:
                contents[c, row, 0], contents[c, row, 1] = value, size
                valid[c, row] = 1
            else:
                state = ODD
        elif holds[c] == FLOAT:
            if kind == INT:
                floats[c, row] = np.float32(np.float64(value))
                valid[c, row] = 1
            elif kind == DOUBLE:
                number = as_double(value)
                floats[c, row] = np.float32(number)
                valid[c, row] = np.isfinite(number)
        elif holds[c] == INTEGER:
            fits, number = whole(kind, value, 2.0**31)
            narrow[c, row] = np.int32(number)
            valid[c, row] = fits
        elif holds[c] == FLAG:
            narrow[c, row] = value
            valid[c, row] = kind == BOOL
    place = fixed[stream, row]
    time = span[END] if span[END] > 0 else span[START]
    place[TIME] = time // 1000
    valid[extra + HAS_TIME, row] = place[TIME] > 0
    known = span[START] > 0 and span[END] >= span[START]
    place[DURATION] = span[END] - span[START]
    valid[extra + HAS_DURATION, row] = known
    for k in range(3):
        at = span[k]
        valid[extra + HAS_TRACE + k, row] = at >= 0
        if at >= 0 and k == 0:
            place[TRACE], place[TRACE_HIGH] = load64(data, at), load64(data, at + 8)
        elif at >= 0:
            place[SPAN + k - 1] = load64(data, at)
    if stream == AGENT:
        taken, given = whole(cells[INPUT_TOKENS, 0], cells[INPUT_TOKENS, 1], 2.0**63)
        made, output = whole(cells[OUTPUT_TOKENS, 0], cells[OUTPUT_TOKENS, 1], 2.0**63)
        total = (given if taken else 0) + (output if made else 0)
        over = taken and made and (given >= 0) == (output >= 0) and (total >= 0) != (given >= 0)
        place[TOKENS] = total
        valid[extra + HAS_TOKENS, row] = (taken or made) and not over
        c = column_of[stream, SESSION]
        traced = not valid[c, row] and span[TRACE_ID] >= 0
        valid[extra + HAS_SESSION, row] = traced
        if traced:
            narrow[len(holds), row] = encoded(data, len(holds), span[TRACE_ID], 16, dictionary, tables, firsts, seed)
    if state == ODD:
        forget(column_of, stream, row, row + 1, valid)
    return state


@njit(nogil=True, cache=True)
def forget(column_of, stream, first, last, valid):
    """Take back rows of a stream."""
    for target in range(column_of.shape[1]):
        if column_of[stream, target] >= 0:
            valid[column_of[stream, target], first:last] = 0
