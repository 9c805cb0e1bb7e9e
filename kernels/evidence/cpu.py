"""Numba: evidence. Rows in order; the loop over a row's eight bets is unrolled into vector operations."""

from __future__ import annotations

import numpy as np
from numba import njit

from kernels.evidence import BETS


@njit(nogil=True, cache=True)
def evidence(values, slots, null_mean, bets, weights, state, rule, cap):
    """Entry from `kernels.evidence.evidence`, which has checked the arguments; `rule` is a row of `RULES`."""
    add, least, floor = rule
    out = np.empty(len(values))
    own_mean, own_bets = int(len(null_mean) > 1), int(len(bets) > 1)
    for i in range(len(values)):
        row = slots[i]
        if row < 0:
            out[i] = np.nan
            continue
        e = 0.0
        x = np.float64(values[i])
        if np.isnan(x):
            for j in range(BETS):
                e += weights[j] * state[row, j]
            out[i] = e
            continue
        x = x if x > 0.0 else np.float64(0.0)
        x = x if x < 1.0 else np.float64(1.0)
        surprise = x - null_mean[own_mean * row]
        for j in range(BETS):
            held = state[row, j] + add
            held = held if held > least else least
            m = (1.0 + bets[own_bets * row, j] * surprise) * held
            m = m if m > floor else floor
            m = m if m < cap else cap
            state[row, j] = m
            e += weights[j] * m
        out[i] = e
    return out
