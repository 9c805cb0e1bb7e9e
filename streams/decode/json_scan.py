"""JSON lines in one pass, without an object for any of them: flat objects of a stream's columns straight into columns.

It takes the rows that it is sure about, and reads them as the row-by-row way would. A line with anything else in it (an escape, a nested
value, a key twice, a number that it can't round for sure, damage) is noted and left to the other readers, alone.
"""

# ruff: noqa: PLR1714, SIM109 - Numba compares faster than it looks into tuples

from __future__ import annotations

import numpy as np

from streams.decode.json_names import TIME
from streams.decode.otlp_commit import encoded, find
from streams.decode.otlp_names import CONTENT, FLAG, FLOAT, INTEGER, LONG, TEXT
from streams.decode.wire import HIGH_BITS, compiled, equal, get, is_utf8, load8, load64, lowest, put

TOPS, ZEROS, SIXES = np.int64(-0x0F0F0F0F0F0F0F10), np.int64(0x3030303030303030), np.int64(0x0606060606060606)
LOWS, PAIRS, QUADS = np.int64(0x0F0F0F0F0F0F0F0F), np.int64(0x00FF00FF00FF00FF), np.int64(0x0000FFFF0000FFFF)
POWERS = 10.0 ** np.arange(23)
QUOTES, BACKSLASHES, ONES = np.int64(0x2222222222222222), np.int64(0x5C5C5C5C5C5C5C5C), np.int64(0x0101010101010101)
CONTROLS = np.int64(0x2020202020202020)
WORD = 0xFFFFFFFF
TRUE, ALSE, NULL = np.int64(0x65757274), np.int64(0x65736C61), np.int64(0x6C6C756E)
TWO_UNITS = 2.0**-51


@compiled(forceinline=True)
def blank(data, at, end):
    """The position of the next byte that is no blank within a line."""
    while at < end:
        c = load8(data, at)
        if c != 0x20 and c != 0x09 and c != 0x0D:
            break
        at += 1
    return at


@compiled(forceinline=True)
def closing(data, at, end):
    """Where the text that begins at `at` has its closing quote; -1 where an escape, a control character or the end comes first, or it is
    not UTF-8."""
    start, high = at, np.int64(0)
    while at + 8 <= end:
        word = load64(data, at)
        quotes, escapes = word ^ QUOTES, word ^ BACKSLASHES
        # the lowest of these bits stands at a quote, a backslash or a control character; those above it may be wrong
        found = (((quotes - ONES) & ~quotes) | ((escapes - ONES) & ~escapes) | ((word - CONTROLS) & ~word)) & HIGH_BITS
        if found:
            at += lowest(found) >> 3
            high |= word & (found ^ (found - 1))
            break
        high |= word
        at += 8
    while at < end:
        c = load8(data, at)
        if c == 0x22:
            return at if high & HIGH_BITS == 0 or is_utf8(data, start, at - start) else np.int64(-1)
        if c == 0x5C or c < 0x20:
            return np.int64(-1)
        high |= c
        at += 1
    return np.int64(-1)


@compiled(forceinline=True)
def number(data, at, end):
    """(digits as a whole number, power of ten, next position) of a JSON number; the position is -1 where it is none, or has more than 18
    digits. A number without a point or an exponent has the power 0, any other a power below it: 1.0 is (10, -1)."""
    negative = load8(data, at) == 0x2D
    at += negative
    first, whole, power = at, np.int64(0), np.int64(0)
    while at + 8 <= end:  # eight digits at once
        word = load64(data, at)
        if (word & TOPS) != ZEROS or ((word + SIXES) & TOPS) != ZEROS or at - first > 8:
            break
        word = (word & LOWS) * 2561 >> 8
        word = (word & PAIRS) * 6553601 >> 16
        whole = whole * 100_000_000 + ((word & QUADS) * 42949672960001 >> 32)
        at += 8
    while at < end and 0x30 <= load8(data, at) <= 0x39:
        whole = whole * 10 + load8(data, at) - 0x30
        at += 1
    digits = at - first
    if digits == 0 or (digits > 1 and load8(data, first) == 0x30):
        return whole, power, np.int64(-1)
    if at < end and load8(data, at) == 0x2E:
        at += 1
        point = at
        while at < end and 0x30 <= load8(data, at) <= 0x39:
            whole = whole * 10 + load8(data, at) - 0x30
            at += 1
        power = point - at
        digits -= power
        if power == 0:
            return whole, power, np.int64(-1)
    if digits > 18 or (at < end and load8(data, at) | 0x20 == 0x65):
        return whole, power, np.int64(-1)
    return -whole if negative else whole, power, at


@compiled(forceinline=True)
def narrow_of(whole, power):
    """(float32, whether it is certain) of whole * 10 ** power, rounded to float64 first: of more than 53 bits it may be two units off, and
    where that could change the float32, it is not certain."""
    if power < -22:
        return np.float32(0), False
    value = np.float64(whole) / POWERS[-power]
    if power == 0 or abs(whole) < 1 << 53:
        return np.float32(value), True
    return np.float32(value), np.float32(value * (1 - TWO_UNITS)) == np.float32(value * (1 + TWO_UNITS))


@compiled()
def two(data, at):
    """Two digits as a number, -1 where they are none."""
    tens, units = load8(data, at) - 0x30, load8(data, at + 1) - 0x30
    return tens * 10 + units if 0 <= tens <= 9 and 0 <= units <= 9 else np.int64(-1)


@compiled()
def moment(data, at, end):
    """(microseconds since the epoch, whether it is certain) of RFC 3339 text, YYYY-MM-DDTHH:MM:SS[.digits][Z or +HH:MM]."""
    if end - at < 19:
        return np.int64(0), False
    century, year, month, day = two(data, at), two(data, at + 2), two(data, at + 5), two(data, at + 8)
    hour, minute, second = two(data, at + 11), two(data, at + 14), two(data, at + 17)
    marks = load8(data, at + 4) == 0x2D and load8(data, at + 7) == 0x2D and load8(data, at + 13) == 0x3A and load8(data, at + 16) == 0x3A
    if not marks or load8(data, at + 10) != 0x54 or min(century, year, day, hour, minute, second) < 0 or century < 17:
        return np.int64(0), False
    year += 100 * century
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not 1 <= month <= 12 or hour > 23 or minute > 59 or second > 59:
        return np.int64(0), False
    days = 29 if month == 2 and leap else 28 if month == 2 else 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31
    if not 1 <= day <= days:
        return np.int64(0), False
    at += 19
    micros, scale = np.int64(0), np.int64(1_000_000)
    if at < end and load8(data, at) == 0x2E:
        at += 1
        first = at
        while at < end and 0x30 <= load8(data, at) <= 0x39:
            scale //= 10
            micros += (load8(data, at) - 0x30) * scale
            at += 1
        if at == first or at - first > 9:
            return np.int64(0), False
    ahead = np.int64(0)
    if at < end and load8(data, at) != 0x5A:
        sign, hours, minutes = load8(data, at), np.int64(-1), np.int64(-1)
        if end - at == 6 and load8(data, at + 3) == 0x3A:
            hours, minutes = two(data, at + 1), two(data, at + 4)
        if hours < 0 or hours > 23 or minutes < 0 or minutes > 59 or (sign != 0x2B and sign != 0x2D):
            return np.int64(0), False
        ahead = (hours * 60 + minutes) * (60 if sign == 0x2B else -60)
    elif end - at > 1:
        return np.int64(0), False
    y = year - (month <= 2)  # days since the epoch in the proleptic Gregorian calendar, years beginning in March
    days = 365 * y + y // 4 - y // 100 + y // 400 + (153 * ((month + 9) % 12) + 2) // 5 + day - 1 - 719468
    return (((days * 24 + hour) * 60 + minute) * 60 + second - ahead) * 1_000_000 + micros, True


@compiled(forceinline=True)
def row_of(
    data, at, end, row, pool, places, prefixes, slots, holds, seed, follows, seen, mark,
    dictionary, tables, firsts, narrow, floats, contents, valid,
):  # fmt: skip
    """Read the object that begins at `at` into row `row`. Returns the position after it, -1 where it is left to others.

    `seen`: int64[columns], `mark` where a key stood in this row. `contents` holds positions and sizes, and whole numbers of 64 bits.
    """
    room, last = narrow.shape[1], np.int64(0)
    at = blank(data, at + 1, end)
    if at < end and load8(data, at) == 0x7D:
        return np.int64(-1)
    while True:
        if at >= end or load8(data, at) != 0x22:
            return np.int64(-1)
        key = at + 1
        c, stop = get(follows, last) - 1, np.int64(-1)
        if c >= 0:
            size = get(places, 2 * c + 1)
            if key + size < end and load8(data, key + size) == 0x22 and equal(data, key, pool + get(places, 2 * c), size):
                stop = key + size
        if stop < 0:
            stop = closing(data, key, end)
            if stop < 0:
                return np.int64(-1)
            c = find(data, key, stop - key, pool, places, 2, slots, seed)
            if c < 0:
                for f in range(len(prefixes)):
                    size = prefixes[f, 1]
                    if stop - key > size and equal(data, key, pool + prefixes[f, 0], size):
                        return np.int64(-1)  # a member of a family that the sample did not show
            else:
                put(follows, last, c + 1)
        if c >= 0:
            last = c + 1
            if get(seen, c) == mark:
                return np.int64(-1)
            put(seen, c, mark)
        at = blank(data, stop + 1, end)
        if at >= end or load8(data, at) != 0x3A:
            return np.int64(-1)
        at = blank(data, at + 1, end)
        if at >= end:
            return np.int64(-1)
        first, what = load8(data, at), get(holds, c) if c >= 0 else np.int64(-1)
        cell = c * room + row
        if first == 0x22:
            start = at + 1
            at = closing(data, start, end)
            if at < 0:
                return np.int64(-1)
            if what == TEXT:
                put(narrow, cell, encoded(data, c, start, at - start, dictionary, tables, firsts, seed))
            elif what == CONTENT:
                put(contents, 2 * cell, start)
                put(contents, 2 * cell + 1, at - start)
            elif what == TIME:
                value, certain = moment(data, start, at)
                if not certain:
                    return np.int64(-1)
                put(contents, 2 * cell, value)
            elif c >= 0:
                return np.int64(-1)
            at += 1
        elif first == 0x2D or 0x30 <= first <= 0x39:
            whole, power, at = number(data, at, end)
            if at < 0:
                return np.int64(-1)
            if what == FLOAT:
                floats[c, row], certain = narrow_of(whole, power)
                if not certain or (first == 0x2D and whole == 0):
                    return np.int64(-1)
            elif what == INTEGER and power == 0 and -(1 << 31) <= whole < 1 << 31:
                put(narrow, cell, whole)
            elif (what == LONG or what == TIME) and power == 0:
                put(contents, 2 * cell, whole)
            elif c >= 0:
                return np.int64(-1)
        elif end - at > 4 and load64(data, at - 4) >> 32 & WORD == NULL:
            at += 4
            c = np.int64(-1)
        elif end - at > 4 and (
            load64(data, at - 4) >> 32 & WORD == TRUE or (first == 0x66 and end - at > 5 and load64(data, at - 3) >> 32 & WORD == ALSE)
        ):
            if c >= 0 and what != FLAG:
                return np.int64(-1)
            if c >= 0:
                put(narrow, cell, np.int64(first == 0x74))
            at += 4 if first == 0x74 else 5
        else:
            return np.int64(-1)
        if c >= 0:
            put(valid, cell, 1)
        at = blank(data, at, end)
        if at >= end:
            return np.int64(-1)
        first = load8(data, at)
        at = blank(data, at + 1, end)
        if first == 0x7D:
            return at
        if first != 0x2C:
            return np.int64(-1)


@compiled()
def lines_in(data, starts, ends, index, counts):
    """Fill counts[k] with the rows that there can be at most in each record."""
    for k in range(len(index)):
        found = np.int64(1)
        for at in range(starts[index[k]], ends[index[k]]):
            found += load8(data, at) == 0x0A
        counts[k] = found


@compiled()
def take_back(start, first, last, dictionary, firsts, valid):
    """Forget rows, and the texts that only they had: those that lie at `start` or after it."""
    for c in range(len(dictionary)):
        valid[c, first:last] = 0
        while dictionary[c, 1] and firsts[c, dictionary[c, 1] - 1, 0] >= start:
            dictionary[c, 1] -= 1
        dictionary[c, 0] = -1


@compiled()
def scan(
    data, starts, ends, index, pool, places, prefixes, slots, holds, seed, follows, seen,
    dictionary, tables, firsts, narrow, floats, contents, valid, begins, odd,
):  # fmt: skip
    """Read the rows of all records. begins[row] is where the row begins; odd[j] (record, start, stop) is a line, or a whole record, left to
    others; it has room for a line of each row and each record. Returns (rows, how many are left)."""
    rows, left, mark = np.int64(0), 0, np.int64(0)
    for k in range(len(index)):
        record, end = index[k], ends[index[k]]
        at, first_row, first_left, whole = starts[record], rows, left, True
        while at < end:
            c = load8(data, at)
            if c == 0x20 or c == 0x09 or c == 0x0D or c == 0x0A:
                at += 1
                continue
            after = np.int64(-1)
            if c == 0x7B and rows < len(begins):
                mark += 1
                after = row_of(
                    data, at, end, rows, pool, places, prefixes, slots, holds, seed, follows, seen, mark,
                    dictionary, tables, firsts, narrow, floats, contents, valid,
                )  # fmt: skip
            if after == end or (after >= 0 and load8(data, after) == 0x0A):
                put(begins, rows, at)
                rows += 1
                at = after
                continue
            take_back(at, rows, rows + 1, dictionary, firsts, valid)
            stop = at
            while stop < end and load8(data, stop) != 0x0A:
                stop += 1
            last = stop
            while last > at and (load8(data, last - 1) == 0x20 or load8(data, last - 1) == 0x09 or load8(data, last - 1) == 0x0D):
                last -= 1
            if c != 0x7B or load8(data, last - 1) != 0x7D or left >= len(odd) - len(index):
                whole = False  # not a line an object: the record has a form of its own
                break
            odd[left, 0], odd[left, 1], odd[left, 2] = record, at, last
            left += 1
            at = stop
        if not whole:
            take_back(starts[record], first_row, rows, dictionary, firsts, valid)
            rows, left = first_row, first_left
            odd[left, 0], odd[left, 1], odd[left, 2] = record, starts[record], end
            left += 1
    return rows, left
