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


@njit(nogil=True, cache=True)
def powers(values, bits, low, first, most, out):
    for i in range(len(values)):
        if values[i] > 0:  # not of NaN
            exponent = np.int64(bits[i] >> np.uint64(52)) - 1023  # of a float64 over 0: floor(log2)
            out[i] = first + min(max(exponent - low, 0), most)
        else:
            out[i] = -1


@njit(nogil=True, cache=True)
def gaps(slot, time_us, edges, first, out, last_us):
    for i in range(len(slot)):
        s = slot[i]
        if s < 0:
            continue
        before = last_us[s]
        last_us[s] = time_us[i]
        if before <= 0:
            out[i] = -1
            continue
        gap, place = time_us[i] - before, 0
        while place < len(edges) and gap >= edges[place]:
            place += 1
        out[i] = first + place
