"""The lines of Prometheus' text formats: where name, labels, value and timestamp of each sample lie, without an object for any of them."""

from __future__ import annotations

import numpy as np

from streams.decode.wire import compiled

FIELDS = 8
"""Columns of a line's row: start and end of name, labels (-1: none), value, timestamp (-1: none)."""
SAID = ("", "no metric name", "labels that do not end", "no value", "more than a value and a timestamp")
"""What is wrong with a line, by code."""


@compiled()
def blanks(data, at, end):
    """The next position that is no blank."""
    while at < end and (data[at] == 32 or data[at] == 9):
        at += 1
    return at


@compiled()
def token(data, at, end):
    """The end of a word."""
    while at < end and data[at] != 32 and data[at] != 9:
        at += 1
    return at


@compiled()
def quoted(data, at, end):
    """The position after the quoted text that begins at `at`, or -1 where it does not end."""
    at += 1
    while at < end:
        if data[at] == 92:
            at += 1
        elif data[at] == 34:
            return at + 1
        at += 1
    return -1


@compiled()
def sample(data, at, end, row):
    """Read one line that is no comment into `row`. Returns a code of `SAID` and the position where reading stopped."""
    row[:] = -1
    start = at
    while at < end:
        c = data[at]
        if not (97 <= c <= 122 or 65 <= c <= 90 or c in (95, 58) or (48 <= c <= 57 and at > start)):
            break
        at += 1
    row[0], row[1] = start, at
    at = blanks(data, at, end)
    if at < end and data[at] == 123:
        at = blanks(data, at + 1, end)
        if row[1] == row[0] and at < end and data[at] == 34:  # a name in quotes, within the braces
            after = quoted(data, at, end)
            if after < 0:
                return 2, at
            row[0], row[1] = at + 1, after - 1
            at = blanks(data, after, end)
            if at < end and data[at] == 44:
                at += 1
        row[2] = at
        while at < end and data[at] != 125:
            if data[at] == 34:
                at = quoted(data, at, end)
                if at < 0:
                    return 2, end
            else:
                at += 1
        if at >= end:
            return 2, end
        row[3] = at
        at = blanks(data, at + 1, end)
    elif at == row[1] and at < end:
        return 1, at
    if row[1] == row[0]:
        return 1, at
    row[4], row[5] = at, token(data, at, end)
    if row[4] == row[5]:
        return 3, at
    at = blanks(data, row[5], end)
    if at < end and data[at] != 35:
        row[6], row[7] = at, token(data, at, end)
        at = blanks(data, row[7], end)
    if at < end and data[at] != 35:
        return 4, at
    return 0, at


@compiled()
def scan(data, start, end, rows, lines):
    """Fill rows[k] (int64[8]) and lines[k] with each sample and its line's number (from 1), in order.

    Returns (samples, lines that are none, code, byte and line of the first of those, whether `# EOF` stands there).
    """
    n = wrong = line = 0
    code, place, where = 0, np.int64(0), 0
    closed = False
    at = start
    while at < end:
        stop = at
        while stop < end and data[stop] != 10:
            stop += 1
        line += 1
        last = stop - 1 if stop > at and data[stop - 1] == 13 else stop
        first = blanks(data, at, last)
        if first < last and data[first] == 35:
            closed |= last - first == 5 and data[first + 2] == 69 and data[first + 3] == 79 and data[first + 4] == 70
        elif first < last:
            found, stopped = sample(data, first, last, rows[n])
            if found == 0:
                lines[n] = line
                n += 1
            else:
                if wrong == 0:
                    code, place, where = found, stopped - start, line
                wrong += 1
        at = stop + 1
    return n, wrong, code, place, where, closed
