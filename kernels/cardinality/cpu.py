"""Numba: cardinality. One pass over the items; a sketch's row is touched in as few places as the item has hashes."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def mixed(item):
    """SplitMix64's finaliser: every bit of the result depends on every bit of the item. Source: Steele, Lea, Flood 2014."""
    h = np.uint64(item) + np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@njit(nogil=True, cache=True)
def strides(item):
    """Two 32-bit halves of an item's hash; place j is (first + j * second) modulo the size. The second is odd."""
    h = mixed(item)
    return h & np.uint64(0xFFFFFFFF), (h >> np.uint64(32)) | np.uint64(1)


@njit(nogil=True, cache=True)
def add_distinct(items, slots, registers):
    """Entry from `kernels.cardinality`, which has checked the arguments; so are the other verbs here."""
    precision = 0
    while 1 << precision < registers.shape[1]:
        precision += 1
    left = np.uint64(64 - precision)
    for i in range(len(items)):
        if slots[i] < 0:
            continue
        h = mixed(items[i])
        rest = h << np.uint64(precision)
        rank = np.uint8(min(leading_zeros(rest), 64 - precision) + 1)
        place = h >> left
        registers[slots[i], place] = max(registers[slots[i], place], rank)


@njit(nogil=True, cache=True)
def leading_zeros(x):
    """Zeros above the highest set bit of a uint64; 64 for zero."""
    zeros = 64
    for shift in (32, 16, 8, 4, 2, 1):
        upper = x >> np.uint64(shift)
        if upper:
            zeros -= shift
            x = upper
    return zeros - 1 if x else zeros


@njit(nogil=True, cache=True)
def distinct(registers):
    m = registers.shape[1]
    longest = 64
    while 1 << (64 - longest) < m:
        longest -= 1
    out = np.empty(len(registers))
    for row in range(len(registers)):
        having = np.zeros(longest + 2, np.int64)  # registers of each value
        for j in range(m):
            having[registers[row, j]] += 1
        z = m * tau(1 - having[longest + 1] / m)
        for k in range(longest, 0, -1):
            z = (z + having[k]) / 2
        if having[0] == m or having[longest + 1] == m:
            out[row] = 0.0 if having[0] == m else np.inf
        else:
            out[row] = m * m / (2 * np.log(2)) / (z + m * sigma(having[0] / m))
    return out


@njit(nogil=True, cache=True)
def sigma(x):
    """x + sum of x**(2**k) * 2**(k - 1): what registers still at zero contribute (Ertl 2017, algorithm 6)."""
    y, z, before = 1.0, x, -1.0
    while z != before:
        x *= x
        before = z
        z += x * y
        y += y
    return z


@njit(nogil=True, cache=True)
def tau(x):
    """(1 - x - sum of (1 - x**(2**-k))**2 * 2**-k) / 3: what full registers contribute (Ertl 2017, algorithm 6)."""
    if x in (0.0, 1.0):
        return 0.0
    y, z, before = 1.0, 1 - x, -1.0
    while z != before:
        x = np.sqrt(x)
        before = z
        y /= 2
        z -= (1 - x) ** 2 * y
    return z / 3


def add_counts(items, slots, counts, weights):
    add_weighted(items, slots, counts, np.ones(1, np.int32) if weights is None else weights, 0 if weights is None else 1)


@njit(nogil=True, cache=True)
def add_weighted(items, slots, counts, weights, stride):
    mask = np.uint64(counts.shape[2] - 1)
    for i in range(len(items)):
        if slots[i] >= 0:
            first, second = strides(items[i])
            for j in range(counts.shape[1]):
                counts[slots[i], j, (first + np.uint64(j) * second) & mask] += weights[i * stride]


@njit(nogil=True, cache=True)
def counts_of(items, slots, counts):
    mask = np.uint64(counts.shape[2] - 1)
    out = np.zeros(len(items), np.int32)
    for i in range(len(items)):
        if slots[i] >= 0:
            first, second = strides(items[i])
            least = np.iinfo(np.int32).max
            for j in range(counts.shape[1]):
                least = min(least, counts[slots[i], j, (first + np.uint64(j) * second) & mask])
            out[i] = least
    return out


@njit(nogil=True, cache=True)
def add_members(items, slots, bits, hashes):
    mask = np.uint64(64 * bits.shape[1] - 1)
    for i in range(len(items)):
        if slots[i] >= 0:
            first, second = strides(items[i])
            for j in range(hashes):
                place = (first + np.uint64(j) * second) & mask
                bits[slots[i], place >> np.uint64(6)] |= np.uint64(1) << (place & np.uint64(63))


@njit(nogil=True, cache=True)
def members(items, slots, bits, hashes):
    mask = np.uint64(64 * bits.shape[1] - 1)
    out = np.zeros(len(items), np.bool_)
    for i in range(len(items)):
        if slots[i] >= 0:
            first, second = strides(items[i])
            found = True
            for j in range(hashes):
                place = (first + np.uint64(j) * second) & mask
                found &= (bits[slots[i], place >> np.uint64(6)] >> (place & np.uint64(63))) & np.uint64(1) == np.uint64(1)
            out[i] = found
    return out
