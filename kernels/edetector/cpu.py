"""Numba: edetector. Steps in order; lanes without weight are skipped."""

from __future__ import annotations

import numpy as np
from numba import njit

from kernels.edetector import CAP, LOG_CAP

LOG_MOST = 700.0  # exp of more is no float64


@njit(nogil=True, cache=True)
def edetector(successes, totals, spend, time_us, slots, up, down, weights, state):
    """Entry from `kernels.edetector.edetector`, which has checked the arguments; `up`, `down`: log growth of a success, of a failure."""
    n, tests = successes.shape
    lanes = state.shape[2]
    of_test = lanes // tests
    e_values = np.full(n, np.nan)
    lane = np.full(n, -1, np.int32)
    since = np.zeros(n)
    gained = np.zeros(n)
    rows = np.zeros(n)
    for i in range(n):
        s = slots[i]
        if s < 0:
            continue
        m, cusum, start, won, seen = state[s, 0], state[s, 1], state[s, 2], state[s, 3], state[s, 4]
        e = 0.0
        most = 0.0
        for l in range(lanes):
            if weights[s, l] == 0.0:
                continue
            k = successes[i, l // of_test]
            log_growth = k * up[s, l] + (totals[i] - k) * down[s, l]
            m[l] = min(np.exp(min(log_growth, LOG_MOST)) * (m[l] + spend[i]), CAP)
            share = weights[s, l] * m[l]
            e += share
            cusum[l] = min(cusum[l] + log_growth, LOG_CAP)
            if cusum[l] <= 0.0:
                cusum[l] = 0.0
                start[l] = time_us[i]
                won[l] = 0.0
                seen[l] = 0.0
            else:
                won[l] += k
                seen[l] += totals[i]
            if share > most:
                most = share
                lane[i] = l
        e_values[i] = e
        if lane[i] >= 0:
            since[i], gained[i], rows[i] = start[lane[i]], won[lane[i]], seen[lane[i]]
        if e >= 1.0:
            m[:] = 0.0
    return e_values, lane, since, gained, rows
