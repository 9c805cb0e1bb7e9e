"""Numba loop of the rowsums op."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def fold(slot, values, bins, grain, sums):
    for i in range(len(slot)):
        s = slot[i]
        if s < 0:
            continue
        for j in range(values.shape[1]):
            value = values[i, j] * grain
            if not np.isnan(value):
                sums[s, j] += np.int32(np.rint(value))
        for k in range(bins.shape[1]):
            if bins[i, k] >= 0:
                sums[s, bins[i, k]] += 1
