"""Numba: peers. A task is one group; its columns are copied out, sorted, and the median of the deviations found among them."""

from __future__ import annotations

import numpy as np
from numba import njit, prange


@njit(nogil=True, cache=True)
def middle(ordered):
    """Median of ascending values; the mean of the middle two of an even number."""
    half = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[half]
    return 0.5 * ordered[half - 1] + 0.5 * ordered[half]


@njit(nogil=True, cache=True, parallel=True)
def compare(x, order, starts, gaussian, least, deviation, median, mad, count):
    for g in prange(len(starts) - 1):
        rows = order[starts[g] : starts[g + 1]]
        values = np.empty(len(rows))
        for j in range(x.shape[1]):
            n = 0
            for i in rows:
                if abs(x[i, j]) < np.inf:
                    values[n] = x[i, j]
                    n += 1
            count[g, j] = n
            if n == 0:
                continue
            found = np.sort(values[:n])
            center = middle(found)
            for i in range(n):
                found[i] = abs(found[i] - center)
            spread = middle(np.sort(found))
            median[g, j] = center
            mad[g, j] = spread
            scale = max(gaussian * spread, least[j])
            for i in rows:
                if abs(x[i, j]) < np.inf:
                    d = x[i, j] - center
                    if scale > 0.0:
                        deviation[i, j] = d / scale
                    else:
                        deviation[i, j] = 0.0 if d == 0.0 else np.copysign(np.inf, d)
