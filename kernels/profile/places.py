"""Numba: places of values in a histogram row, by cells (see `cells`), and by comparison with every threshold where cells do not serve.

A block's cells are computed by a loop that LLVM vectorises; the loop that counts is scalar, and adds to four histograms in turn. What it
counts is the cell and the side of the threshold in it, which are many: values that follow one another seldom add to the same counter.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from kernels.prefetch import prefetch
from kernels.profile.edges import LANES

COUNTERS = 4
AHEAD = 2048  # values: while one block is counted, the next one is fetched
FETCHED = 16  # values at once: two cache lines of float64, one of float32
ONE = np.uint32(1)


@njit(nogil=True, cache=True)
def cells_of_block(x, low, scale, last, cells):
    """cells[i]: the cell of x[i], the last for NaN."""
    zero = x.dtype.type(0)
    for i in range(len(x)):
        u = (x[i] - low) * scale
        u = u if u < last else last
        cells[i] = np.int32(u if u > zero else zero)


@njit(nogil=True, cache=True)
def uniform_places(x, low, scale, first, last, doubt, places):
    """places[i]: the place of x[i] among bins of one width, NaN above. Whether none of them is in doubt."""
    unsure = np.int32(0)
    for i in range(len(x)):
        u = (x[i] - low) * scale
        u = u if u < last else last
        u = u if u > first else first
        unsure |= np.int32(abs(u - np.rint(u)) <= doubt)
        places[i] = np.int32(u)
    return unsure == 0


@njit(nogil=True, cache=True)
def count_sides(x, cells, edge, ahead, held):
    """Add to held uint32[4, 2C] the values by cell and side: 2 * cell if x reaches the threshold, 2 * cell + 1 if not.

    ahead: of `count_block`.
    """
    h0, h1, h2, h3 = held[0], held[1], held[2], held[3]
    whole = len(x) // FETCHED * FETCHED
    for start in range(0, whole, FETCHED):
        prefetch(ahead, start + AHEAD)
        prefetch(ahead, start + AHEAD + FETCHED // 2)
        for i in range(start, start + FETCHED, COUNTERS):
            a, b, c, d = np.uintp(cells[i]), np.uintp(cells[i + 1]), np.uintp(cells[i + 2]), np.uintp(cells[i + 3])
            h0[a + a + np.uintp(x[i] < edge[a])] += ONE
            h1[b + b + np.uintp(x[i + 1] < edge[b])] += ONE
            h2[c + c + np.uintp(x[i + 2] < edge[c])] += ONE
            h3[d + d + np.uintp(x[i + 3] < edge[d])] += ONE
    for i in range(whole, len(x)):
        a = np.uintp(cells[i])
        h0[a + a + np.uintp(x[i] < edge[a])] += ONE


@njit(nogil=True, cache=True)
def count_places(places, n, ahead, held):
    """Add to held uint32[4, >= 3 + bins] the first n places. ahead: of `count_block`."""
    h0, h1, h2, h3 = held[0], held[1], held[2], held[3]
    whole = n // FETCHED * FETCHED
    for start in range(0, whole, FETCHED):
        prefetch(ahead, start + AHEAD)
        prefetch(ahead, start + AHEAD + FETCHED // 2)
        for i in range(start, start + FETCHED, COUNTERS):
            h0[np.uintp(places[i])] += ONE
            h1[np.uintp(places[i + 1])] += ONE
            h2[np.uintp(places[i + 2])] += ONE
            h3[np.uintp(places[i + 3])] += ONE
    for i in range(whole, n):
        h0[np.uintp(places[i])] += ONE


@njit(nogil=True, cache=True)
def count_reached(x, b, thresholds, first, reached):
    """Add to reached[first + j] the number of values >= thresholds[first + j], for the 11 lanes j.

    Eleven named counters stay in registers; each is as wide as a value, so that a comparison's mask is subtracted as it is.
    """
    one = b.dtype.type
    t0, t1, t2, t3 = thresholds[first], thresholds[first + 1], thresholds[first + 2], thresholds[first + 3]
    t4, t5, t6, t7 = thresholds[first + 4], thresholds[first + 5], thresholds[first + 6], thresholds[first + 7]
    t8, t9, t10 = thresholds[first + 8], thresholds[first + 9], thresholds[first + 10]
    n0 = n1 = n2 = n3 = n4 = n5 = n6 = n7 = n8 = n9 = n10 = one(0)
    for i in range(len(x)):
        v = x[i]
        n0 = one(n0 + one(v >= t0))
        n1 = one(n1 + one(v >= t1))
        n2 = one(n2 + one(v >= t2))
        n3 = one(n3 + one(v >= t3))
        n4 = one(n4 + one(v >= t4))
        n5 = one(n5 + one(v >= t5))
        n6 = one(n6 + one(v >= t6))
        n7 = one(n7 + one(v >= t7))
        n8 = one(n8 + one(v >= t8))
        n9 = one(n9 + one(v >= t9))
        n10 = one(n10 + one(v >= t10))
    for j, n in enumerate((n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10)):
        reached[first + j] += n


@njit(nogil=True, cache=True)
def count_block(x, b, e, thresholds, bins, cells, ahead, scratch, held, plain, reached):
    """Add a block's values of edge row e to the counters of the way they are counted: `held`, `plain` or `reached`.

    ahead: the values where they came from, of which those of the next block are fetched meanwhile; the processor's own prefetching leaves
    two thirds of what memory gives (on a virtual EPYC, 10 of 35 GB/s).
    """
    number = x.dtype.type
    low, scale, edge, _, uniform_low, uniform_scale, doubt = cells
    if doubt[e] > 0:
        first, last = number(0.5), number(bins[e] + 1.5)
        if uniform_places(x, uniform_low[e], uniform_scale[e], first, last, doubt[e], scratch):
            count_places(scratch, len(x), ahead, plain)
            return
    if scale[e] > 0:
        cells_of_block(x, low[e], scale[e], number(edge.shape[1] - 1), scratch)
        count_sides(x, scratch, edge[e], ahead, held)
    else:
        for start in range(0, thresholds.shape[1], LANES):
            count_reached(x, b, thresholds[e], start, reached)


@njit(nogil=True, cache=True)
def settle_counts(e, bins, width, cells, held, plain, reached, rows, nan, counts):
    """Add the counters of a run of `rows` values, of which `nan` are NaN, to a histogram row."""
    places = cells[3]
    for c in range(COUNTERS):
        for j in range(held.shape[1]):
            counts[places[e, j]] += held[c, j]
        for j in range(bins[e] + 1):
            counts[j] += plain[c, j]
        counts[width + 1] += plain[c, bins[e] + 1]
    if not cells[1][e] > 0:  # by comparison, which finds NaN below
        counts[0] += rows - reached[0]
        for j in range(bins[e]):
            counts[j + 1] += reached[j] - reached[j + 1]
        counts[width + 1] += reached[bins[e]]
    counts[width + 1 if cells[1][e] > 0 else 0] -= nan
    counts[width + 2] += nan


@njit(nogil=True, cache=True)
def places_by_cells(x, slots, edge_rows, e, cells, width, out):
    """out[i]: the place of x[i] by the edges of its state row, or by row e of the edges if that is not negative."""
    low, scale, edge, places, _, _, _ = cells
    zero, last = x.dtype.type(0), x.dtype.type(edge.shape[1] - 1)
    for i in range(len(x)):
        r = np.uintp(e if e >= 0 else edge_rows[max(slots[i], 0)])
        u = (x[i] - low[r]) * scale[r]
        u = u if u < last else last
        c = np.uintp(np.int32(u if u > zero else zero))
        place = places[r, c + c + np.uintp(x[i] < edge[r, c])]
        out[i] = place if x[i] == x[i] else width + 2


@njit(nogil=True, cache=True)
def places_by_halving(x, slots, edge_rows, thresholds, bins, width, out):
    """The same by a search without branches, of as many steps for every value."""
    step = 1
    while 2 * step <= thresholds.shape[1]:
        step *= 2
    for i in range(len(x)):
        v = x[i]
        e = edge_rows[max(slots[i], 0)]
        reached = 0
        half = step
        while half:
            next_up = min(reached + half, thresholds.shape[1])
            reached = next_up if thresholds[e, next_up - 1] <= v else reached
            half //= 2
        reached = reached if reached <= bins[e] else width + 1
        out[i] = width + 2 if np.isnan(v) else reached
