"""Numba loop of the recent op."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def fold(slot, points, seen, ring, near, least, grain, out):
    held, dims = ring.shape[1], ring.shape[2]
    squares = np.empty(held)
    for i in range(len(slot)):
        out[i, :] = np.nan
        s = slot[i]
        if s < 0:
            continue
        number = min(seen[s], held)
        last = (seen[s] - 1) % held
        others = 0
        step = 0.0
        for h in range(number):
            total = 0.0
            for d in range(dims):
                difference = float(ring[s, h, d]) - float(points[i, d])
                total += difference * difference
            if h == last:
                step = total
            if total > 0:
                squares[others] = total
                others += 1
        if number == held and others >= least:
            ordered = np.sort(squares[:others])
            distance = np.sqrt(ordered / dims) / grain
            out[i, 0] = distance[0]
            out[i, 1] = distance[:near].mean()
            out[i, 2] = distance[others // 2]
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
