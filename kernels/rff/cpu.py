"""Numba: rff. Threads own columns, so that sums need no lock; a block of frequencies stays in the cache while all rows pass by.
Small batches are one thread's.

Angles are in turns: their fraction is taken by rounding, and cosine and sine are polynomials of its square, which LLVM vectorises.
A row's angles are added up in one fixed order wherever it lies, so that the cut into batches cannot change them.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

COLUMNS = 128  # frequencies of a task: 192 KB at d = 384
ROWS = 4  # rows at once: each frequency that is loaded serves four of them
MANY = 1 << 28  # products: some 3 ms. Threads that wait for each other on busy cores lose more than fewer would bring
INFINITE = np.uint32(0x7F800000)
MOST_TURNS = np.float32(1 << 22)  # beyond this float32 has no fraction to speak of
SCALE = np.float32(1 << 14)
ZERO = np.float32(0)
# cos(2 pi t) and sin(2 pi t) / t by Chebyshev in t * t, |t| <= 1/2: within 7e-7, a twentieth of what rounding to 1 / SCALE loses
C0, C1, C2, C3 = np.float32(1.0), np.float32(-19.73920440673828), np.float32(64.93911743164062), np.float32(-85.45014190673828)
C4, C5, C6 = np.float32(60.16762924194336), np.float32(-25.967599868774414), np.float32(6.528658390045166)
S0, S1, S2, S3 = (
    np.float32(6.2831854820251465),
    np.float32(-41.34170150756836),
    np.float32(81.60513305664062),
    np.float32(-76.70301818847656),
)
S4, S5, S6 = np.float32(42.02592849731445), np.float32(-14.899847030639648), np.float32(3.2381374835968018)


@njit(nogil=True, cache=True)
def rounded(x, slots, bits):
    """int32[n]: the slots, -1 where a row has a value that is not finite; `bits`: uint32[n, d], the rows rounded as by `bfloat16`."""
    out = np.empty(len(slots), np.int32)
    for i in range(len(slots)):
        most = np.uint32(0)
        for j in range(x.shape[1]):
            word = x[i, j]
            most = max(most, word & np.uint32(0x7FFFFFFF))
            bits[i, j] = (word + (((word >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF))) & np.uint32(0xFFFF0000)
        out[i] = slots[i] if most < INFINITE else -1
    return out


def bfloat16(x: np.ndarray) -> np.ndarray:
    """float32 values rounded to bfloat16, to the nearest, ties to even; NaN need not stay NaN."""
    bits = x.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + (odd + np.uint32(0x7FFF))) & np.uint32(0xFFFF0000)).view(np.float32)


@njit(nogil=True, cache=True)
def packed(w):
    """float32 [blocks, d, 128] of w [d, columns]: 128 columns one after the other, so that a block fills whole pages; zeros at the end."""
    dims, half = w.shape
    blocks = (half + COLUMNS - 1) // COLUMNS
    out = np.zeros((blocks, dims, COLUMNS), np.float32)
    for block in range(blocks):
        width = min(COLUMNS, half - block * COLUMNS)
        for k in range(dims):
            out[block, k, :width] = w[k, block * COLUMNS : block * COLUMNS + width]
    return out


@njit(inline="always")
def products_of(x, rows, w, first, width, turns):
    """As `products`. Both w and turns are taken as one run of memory, so that LLVM sees what overlaps and what does not."""
    a0, a1, a2, a3 = x[rows[0]], x[rows[1]], x[rows[2]], x[rows[3]]
    t, u = turns.ravel(), w.ravel()
    t[:] = ZERO
    dims = x.shape[1]
    whole = dims - dims % 4
    for k in range(0, whole, 4):
        b00, b01, b02, b03 = a0[k], a0[k + 1], a0[k + 2], a0[k + 3]
        b10, b11, b12, b13 = a1[k], a1[k + 1], a1[k + 2], a1[k + 3]
        b20, b21, b22, b23 = a2[k], a2[k + 1], a2[k + 2], a2[k + 3]
        b30, b31, b32, b33 = a3[k], a3[k + 1], a3[k + 2], a3[k + 3]
        v = u[k * COLUMNS + first :]
        for j in range(width):
            v0, v1, v2, v3 = v[j], v[j + COLUMNS], v[j + 2 * COLUMNS], v[j + 3 * COLUMNS]
            t[j] = t[j] + b00 * v0 + b01 * v1 + b02 * v2 + b03 * v3
            t[j + COLUMNS] = t[j + COLUMNS] + b10 * v0 + b11 * v1 + b12 * v2 + b13 * v3
            t[j + 2 * COLUMNS] = t[j + 2 * COLUMNS] + b20 * v0 + b21 * v1 + b22 * v2 + b23 * v3
            t[j + 3 * COLUMNS] = t[j + 3 * COLUMNS] + b30 * v0 + b31 * v1 + b32 * v2 + b33 * v3
    for k in range(whole, dims):
        v = u[k * COLUMNS + first :]
        for j in range(width):
            t[j] += a0[k] * v[j]
            t[j + COLUMNS] += a1[k] * v[j]
            t[j + 2 * COLUMNS] += a2[k] * v[j]
            t[j + 3 * COLUMNS] += a3[k] * v[j]


@njit(nogil=True, cache=True, fastmath={"contract"})
def products(x, rows, w, first, width, turns):
    """turns[r, :width] = x[rows[r]] @ w[:, first:first + width] for four rows, dimensions one after the other, four at a time.

    w: a block of `packed`; turns float32 [4, 128].
    """
    if width == COLUMNS:  # a loop of a length that is known is half as fast again
        products_of(x, rows, w, 0, COLUMNS, turns)
    else:
        products_of(x, rows, w, first, width, turns)


@njit(nogil=True, cache=True, fastmath={"contract"})
def add_features(turns, cosines, sines):
    """Add rint(SCALE cos) and rint(SCALE sin) of the angles."""
    for j in range(len(turns)):
        u = turns[j]
        t = u - np.rint(u)
        t = t if abs(u) < MOST_TURNS else ZERO
        s = t * t
        c = C0 + s * (C1 + s * (C2 + s * (C3 + s * (C4 + s * (C5 + s * C6)))))
        q = t * (S0 + s * (S1 + s * (S2 + s * (S3 + s * (S4 + s * (S5 + s * S6))))))
        cosines[j] += np.int32(np.rint(c * SCALE))
        sines[j] += np.int32(np.rint(q * SCALE))


@njit(nogil=True, cache=True)
def fold_block(x, slots, rows, block, first, half, sums):
    """Add a block of features, from column `first` on, of all rows."""
    width = min(COLUMNS, half - first)
    turns = np.empty((ROWS, COLUMNS), np.float32)
    quad = np.empty(ROWS, np.int64)
    for start in range(0, len(rows), ROWS):
        filled = min(ROWS, len(rows) - start)
        for r in range(ROWS):
            quad[r] = rows[start + min(r, filled - 1)]  # the last rows again where there are no four
        products(x, quad, block, 0, width, turns)
        for r in range(filled):
            state = sums[slots[quad[r]]]
            add_features(turns[r, :width], state[first : first + width], state[half + first : half + first + width])


@njit(nogil=True, cache=True)
def fold(x, slots, w, sums, counts):
    rows, blocks = np.flatnonzero(slots >= 0), packed(w)
    for i in rows:
        counts[slots[i]] += 1
    for task in range(len(blocks)):
        fold_block(x, slots, rows, blocks[task], task * COLUMNS, w.shape[1], sums)


@njit(nogil=True, cache=True, parallel=True)
def fold_by_all(x, slots, w, sums, counts):
    """As `fold`, by all threads."""
    rows, blocks = np.flatnonzero(slots >= 0), packed(w)
    for i in rows:
        counts[slots[i]] += 1
    for task in prange(len(blocks)):
        fold_block(x, slots, rows, blocks[task], task * COLUMNS, w.shape[1], sums)
