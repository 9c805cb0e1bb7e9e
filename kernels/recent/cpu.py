"""Numba loop of the recent op."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def squared(ring, point, out):
    """Squared distances of a point to each row of a ring, whole numbers: sums of integers, which the compiler may take in any order."""
    for h in range(ring.shape[0]):
        total = np.int64(0)
        for d in range(ring.shape[1]):
            difference = np.int64(ring[h, d]) - np.int64(point[d])
            total += difference * difference
        out[h] = total


@njit(nogil=True, cache=True)
def select(values, count, k):
    """The k-th smallest (from 0) of values[:count], which is rearranged (Hoare's quickselect)."""
    low, high = 0, count - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return values[k]


@njit(nogil=True, cache=True)
def fold(slot, points, seen, ring, near, least, grain, out):
    held, dims = ring.shape[1], ring.shape[2]
    squares = np.empty(held, np.int64)
    nearest = np.empty(near, np.int64)
    for i in range(len(slot)):
        out[i, :] = np.nan
        s = slot[i]
        if s < 0:
            continue
        if seen[s] >= held:
            squared(ring[s], points[i], squares)
            step = squares[(seen[s] - 1) % held]
            others = 0
            for h in range(held):
                if squares[h] > 0:
                    squares[others] = squares[h]
                    others += 1
            if others >= least:
                kept = 0
                for h in range(others):
                    value = squares[h]
                    if kept < near:
                        kept += 1
                    elif value >= nearest[near - 1]:
                        continue
                    place = kept - 1
                    while place > 0 and nearest[place - 1] > value:
                        nearest[place] = nearest[place - 1]
                        place -= 1
                    nearest[place] = value
                mean = 0.0
                for h in range(kept):
                    mean += np.sqrt(nearest[h] / dims) / grain
                out[i, 0] = np.sqrt(nearest[0] / dims) / grain
                out[i, 1] = mean / kept
                out[i, 2] = np.sqrt(select(squares, others, others // 2) / dims) / grain
                if step > 0:
                    out[i, 3] = np.sqrt(step / dims) / grain
        ring[s, seen[s] % held] = points[i]
        seen[s] += 1


@njit(nogil=True, cache=True)
def repeats(slot, hashes, seen, ring, out):
    held = ring.shape[1]
    for i in range(len(slot)):
        s = slot[i]
        if s < 0:
            continue
        for h in range(min(seen[s], held)):
            if ring[s, h] == hashes[i]:
                out[i] = True
                break
        if not out[i]:
            ring[s, seen[s] % held] = hashes[i]
            seen[s] += 1
