"""Loops over the rows of a batch: which bin a number falls into, how many rows each cell has, which row of each cell came first."""

from __future__ import annotations

import numpy as np
from numba import njit

OCTAVE = 8
LOW, HIGH = -14, 12  # exponents of two: 61 millionths to 4,096
MAGNITUDES = OCTAVE * (HIGH - LOW) + 1
FRACTION = np.uint64((1 << 52) - 1)
POSITIVE = np.uint64((1 << 63) - 1)
EIGHTHS = np.ceil(np.ldexp(2.0 ** (np.arange(1, OCTAVE) / OCTAVE) - 1, 52)).astype(np.uint64)
"""Fractions of a float64 from which on it is 1/8, 2/8 ... 7/8 of an octave over its power of two."""


def plain(array: np.ndarray, dtype: type) -> np.ndarray:
    """The array as these loops take it: of this type, in one piece, not to be written to. So each loop is compiled once."""
    out: np.ndarray = np.ascontiguousarray(array, dtype).view()
    out.flags.writeable = False
    return out


@njit(nogil=True, cache=True)
def bin_of(value):
    """The bin of a number, of its sign and 1/8 octave, 0 to 2 * MAGNITUDES - 2; -1 for NaN. Exact: it reads the bits."""
    number = np.float64(value)
    if np.isnan(number):
        return np.int64(-1)
    bits = number.view(np.uint64) & POSITIVE
    place = (np.int64(bits >> np.uint64(52)) - 1023 - LOW) * OCTAVE + 1
    fraction = bits & FRACTION
    for edge in EIGHTHS:
        place += fraction >= edge
    place = min(max(place, np.int64(0)), np.int64(MAGNITUDES - 1))
    return np.int64(MAGNITUDES - 1 - place if number < 0 else MAGNITUDES - 1 + place)


@njit(nogil=True, cache=True)
def bins(values, out):
    """The bin of each number, into int64[n]."""
    for i in range(len(values)):
        out[i] = bin_of(values[i])


@njit(nogil=True, cache=True)
def cells(codes, panes, low, span, width, out):
    """The first cell of each row, (code * span + pane - low) * width, into int64[n]; -1 for rows that are left out (code < 0)."""
    for i in range(len(codes)):
        out[i] = (np.int64(codes[i]) * span + panes[i] - low) * width if codes[i] >= 0 else -1


@njit(nogil=True, cache=True)
def add_numbers(cells, first, values, counts):
    """Count rows by the bin of their number, in columns from `first` on of their cell. `counts`: int32."""
    for i in range(len(cells)):
        if cells[i] >= 0:
            at = bin_of(values[i])
            if at >= 0:
                counts[cells[i] + first + at] += 1


@njit(nogil=True, cache=True)
def add_shares(cells, first, values, counts):
    """Count rows that have a value, and those whose value is 1, in the columns `first` and the next of their cell."""
    for i in range(len(cells)):
        if cells[i] >= 0 and not np.isnan(values[i]):
            counts[cells[i] + first] += 1
            counts[cells[i] + first + 1] += values[i] == 1


@njit(nogil=True, cache=True)
def filled(counts, places, sizes):
    """The places of counts over 0, in order, and these counts; returns how many. `places`, `sizes`: int64, as long as need be."""
    n = 0
    for i in range(len(counts)):
        if counts[i]:
            places[n], sizes[n] = i, counts[i]
            n += 1
    return n


@njit(nogil=True, cache=True)
def first_rows(codes, panes, low, span, first):
    """The first row of each (code, pane), into int64[codes * span], which held -1; rows with a code < 0 are left out."""
    for i in range(len(codes)):
        if codes[i] >= 0:
            at = np.int64(codes[i]) * span + panes[i] - low
            if first[at] < 0:
                first[at] = i


@njit(nogil=True, cache=True)
def reach(codes, panes):
    """(rows that are not left out, their least pane, their greatest)."""
    rows, low, high = 0, np.int64(0), np.int64(0)
    for i in range(len(codes)):
        if codes[i] >= 0:
            low = panes[i] if rows == 0 else min(low, panes[i])
            high = panes[i] if rows == 0 else max(high, panes[i])
            rows += 1
    return rows, low, high


@njit(nogil=True, cache=True)
def ranks(codes, places, of_row):
    """The distinct codes in order, int64; and each row's position among them, into `of_row`. `places`: int64, -1 for each possible code."""
    for i in range(len(codes)):
        places[codes[i]] = 0
    n = 0
    for code in range(len(places)):
        if places[code] == 0:
            places[code] = n
            n += 1
    for i in range(len(codes)):
        of_row[i] = places[codes[i]]
    found = np.empty(n, np.int64)
    for code in range(len(places)):
        if places[code] >= 0:
            found[places[code]] = code
    return found


@njit(nogil=True, cache=True)
def grouped(codes, sizes, order):
    """The rows of each code one after the other, in their order, into int64[n]; returns how many that are, as rows with a code < 0 are left
    out. `sizes`: int64, 0 for each possible code, becomes how many rows it has."""
    for i in range(len(codes)):
        if codes[i] >= 0:
            sizes[codes[i]] += 1
    at = np.cumsum(sizes) - sizes
    n = 0
    for i in range(len(codes)):
        if codes[i] >= 0:
            order[at[codes[i]]] = i
            at[codes[i]] += 1
            n += 1
    return n


@njit(nogil=True, cache=True)
def climbed(start, values, out):
    """The greatest of `start` and the values before each place, and after the last: int64[n + 1] of int64[n]."""
    most = np.int64(start)
    for i in range(len(values)):
        out[i] = most
        most = max(most, values[i])
    out[len(values)] = most
