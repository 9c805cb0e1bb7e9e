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
def powers(values, low, first, most, out):
    for i in range(len(values)):
        value = values[i]
        if value > 0:  # not of NaN
            edge, place = low, 0
            while place < most and value >= edge:
                edge *= 2.0
                place += 1
            out[i] = first + place
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
