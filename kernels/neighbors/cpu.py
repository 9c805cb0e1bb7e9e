"""Numba: neighbors. Four queries meet 128 rows of the reservoir at a time; what is near enough is kept, the rest is forgotten."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from kernels.rff.cpu import COLUMNS, packed, products

ROWS = 4
TASK = 64  # queries of a task


@njit(nogil=True, cache=True)
def squared_norms(x):
    """float32[n]: infinite for rows that have NaN or infinity, so that they are near to nobody."""
    out = np.empty(len(x), np.float32)
    for i in range(len(x)):
        s = np.float32(0)
        for j in range(x.shape[1]):
            s += x[i, j] * x[i, j]
        out[i] = s if s < np.inf else np.inf
    return out


@njit(nogil=True, cache=True)
def insert(value, index, values, indices):
    """Insert into the ascending `values` before those greater; the greatest falls out."""
    j = len(values) - 1
    while j > 0 and values[j - 1] > value:
        values[j] = values[j - 1]
        indices[j] = indices[j - 1]
        j -= 1
    values[j] = value
    indices[j] = index


@njit(nogil=True, cache=True)
def settle(query, reservoir, distance, index):
    """Replace distances by those computed in float64, in ascending order."""
    for j in range(len(index)):
        if index[j] < 0:
            return
        s = 0.0
        for c in range(len(query)):
            off = np.float64(query[c]) - np.float64(reservoir[index[j], c])
            s += off * off
        at = index[j]
        value = np.float32(np.sqrt(s))
        i = j
        while i > 0 and (distance[i - 1] > value or (distance[i - 1] == value and index[i - 1] > at)):
            distance[i] = distance[i - 1]
            index[i] = index[i - 1]
            i -= 1
        distance[i] = value
        index[i] = at


@njit(nogil=True, cache=True)
def blocks_of(rows):
    """float32 [blocks, d, 128]: 128 rows as columns, one block after the other; zeros at the end."""
    n, dims = rows.shape
    blocks = (n + COLUMNS - 1) // COLUMNS
    out = np.zeros((blocks, dims, COLUMNS), np.float32)
    for i in range(n):
        block, j = i // COLUMNS, i % COLUMNS
        for k in range(dims):
            out[block, k, j] = rows[i, k]
    return out


@njit(nogil=True, cache=True, parallel=True)
def nearest(queries, reservoir, order, segments, starts, distance, index):
    """Queries in the order of their segments."""
    blocks = blocks_of(reservoir)
    norms = squared_norms(reservoir)
    own = squared_norms(queries)
    n = len(order)
    for task in prange((n + TASK - 1) // TASK):
        dots = np.empty((ROWS, COLUMNS), np.float32)
        quad = np.empty(ROWS, np.int64)
        at = task * TASK
        end = min(n, at + TASK)
        while at < end:
            segment = segments[order[at]]
            filled = 1
            while filled < ROWS and at + filled < end and segments[order[at + filled]] == segment:
                filled += 1
            for r in range(ROWS):
                quad[r] = order[at + min(r, filled - 1)]
            at += filled
            if segment < 0:
                continue
            first, stop = starts[segment], starts[segment + 1]
            while first < stop:
                block, inside = first // COLUMNS, first % COLUMNS
                width = min(COLUMNS - inside, stop - first)
                products(queries, quad, blocks[block], inside, width, dots)
                for r in range(filled):
                    i = quad[r]
                    if not own[i] < np.inf:
                        continue
                    worst = distance[i, -1]
                    for j in range(width):
                        value = own[i] + norms[first + j] - np.float32(2) * dots[r, j]
                        if value < worst:
                            insert(value, first + j, distance[i], index[i])
                            worst = distance[i, -1]
                first += width
            for r in range(filled):
                settle(queries[quad[r]], reservoir, distance[quad[r]], index[quad[r]])


@njit(nogil=True, cache=True, parallel=True)
def count_pairs(unit, there, blocks, least):
    """int64[n]: later rows that each row is like. there: bool[n], rows that can be like others; blocks: of `blocks_of`."""
    n = len(unit)
    counts = np.zeros(n, np.int64)
    for task in prange((n + ROWS - 1) // ROWS):
        dots = np.empty((ROWS, COLUMNS), np.float32)
        quad = np.minimum(task * ROWS + np.arange(ROWS), n - 1)
        filled = min(ROWS, n - task * ROWS)
        for first in range(task * ROWS // COLUMNS * COLUMNS, n, COLUMNS):
            width = min(COLUMNS, n - first)
            products(unit, quad, blocks[first // COLUMNS], 0, width, dots)
            for r in range(filled):
                if there[quad[r]]:
                    hits = 0
                    for j in range(width):
                        hits += (dots[r, j] >= least) & (first + j > quad[r]) & there[first + j]
                    counts[quad[r]] += hits
    return counts


@njit(nogil=True, cache=True, parallel=True)
def write_pairs(unit, there, blocks, least, places, first_out, second_out, similarity):
    """The pairs of row i from places[i] on, as far as there is room."""
    n = len(unit)
    room = len(first_out)
    for task in prange((n + ROWS - 1) // ROWS):
        if places[task * ROWS] >= room:
            continue
        dots = np.empty((ROWS, COLUMNS), np.float32)
        quad = np.minimum(task * ROWS + np.arange(ROWS), n - 1)
        filled = min(ROWS, n - task * ROWS)
        at = places[quad].copy()
        for first in range(task * ROWS // COLUMNS * COLUMNS, n, COLUMNS):
            width = min(COLUMNS, n - first)
            products(unit, quad, blocks[first // COLUMNS], 0, width, dots)
            for r in range(filled):
                for j in range(width):
                    if dots[r, j] >= least and first + j > quad[r] and there[quad[r]] and there[first + j]:
                        if at[r] < room:
                            first_out[at[r]] = quad[r]
                            second_out[at[r]] = first + j
                            similarity[at[r]] = dots[r, j]
                        at[r] += 1


@njit(nogil=True, cache=True, parallel=True)
def band_codes(unit, there, directions, bands, bits):
    """int64[n, bands]: signs along the directions, `bits` of them a number; -1 for rows that are like nobody."""
    n = len(unit)
    codes = np.zeros((n, bands), np.int64)
    blocks = packed(directions)
    for task in prange((n + ROWS - 1) // ROWS):
        dots = np.empty((ROWS, COLUMNS), np.float32)
        quad = np.minimum(task * ROWS + np.arange(ROWS), n - 1)
        for first in range(0, bands * bits, COLUMNS):
            width = min(COLUMNS, bands * bits - first)
            products(unit, quad, blocks[first // COLUMNS], 0, width, dots)
            for r in range(min(ROWS, n - task * ROWS)):
                for j in range(width):
                    band = (first + j) // bits
                    codes[quad[r], band] = 2 * codes[quad[r], band] + (dots[r, j] > 0)
        for r in range(min(ROWS, n - task * ROWS)):
            if not there[quad[r]]:
                codes[quad[r]] = -1
    return codes


@njit(nogil=True, cache=True)
def dot(a, b):
    s = 0.0
    for j in range(len(a)):
        s += np.float64(a[j]) * np.float64(b[j])
    return s


@njit(nogil=True, cache=True)
def check_runs(unit, codes, order, widest, least):
    """int64: i * n + j of the pairs i < j that are alike, of rows with equal codes no more than `widest` places apart."""
    n = len(order)
    out = np.empty(1024, np.int64)
    used = 0
    for a in range(n):
        if codes[a] < 0:
            continue
        for b in range(a + 1, min(n, a + 1 + widest)):
            if codes[b] != codes[a]:
                break
            if dot(unit[order[a]], unit[order[b]]) >= least:
                if used == len(out):
                    out = np.concatenate((out, np.empty(used, np.int64)))
                out[used] = min(order[a], order[b]) * n + max(order[a], order[b])
                used += 1
    return out[:used].copy()


@njit(nogil=True, cache=True)
def cosines(unit, first, second):
    """float32[c]: dot products of the pairs' rows."""
    out = np.empty(len(first), np.float32)
    for c in range(len(first)):
        out[c] = dot(unit[first[c]], unit[second[c]])
    return out
