"""Numba: edetector. Steps in order; lanes without weight are skipped. State is M, CUSUM, start, successes and rows since then."""

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
    grown_up, grown_down = np.exp(np.minimum(up, LOG_MOST)), np.exp(np.minimum(down, LOG_MOST))
    for i in range(n):
        s = slots[i]
        if s < 0:
            continue
        total = totals[i]
        e = 0.0
        most = 0.0
        best = -1
        for t in range(tests):
            k = successes[i, t]
            failed, succeeded = total == 1.0 and k == 0.0, total == 1.0 and k == 1.0  # one row grows by one of two factors
            for l in range(t * of_test, (t + 1) * of_test):
                weight = weights[s, l]
                if weight == 0.0:
                    continue
                if failed:
                    log_growth, growth = down[s, l], grown_down[s, l]
                elif succeeded:
                    log_growth, growth = up[s, l], grown_up[s, l]
                else:
                    log_growth = k * up[s, l] + (total - k) * down[s, l]
                    growth = np.exp(min(log_growth, LOG_MOST))
                m = min(growth * (state[s, 0, l] + spend[i]), CAP)
                state[s, 0, l] = m
                share = weight * m
                e += share
                cusum = min(state[s, 1, l] + log_growth, LOG_CAP)
                if cusum <= 0.0:
                    state[s, 1, l] = 0.0
                    state[s, 2, l] = time_us[i]
                    state[s, 3, l] = 0.0
                    state[s, 4, l] = 0.0
                else:
                    state[s, 1, l] = cusum
                    state[s, 3, l] += k
                    state[s, 4, l] += total
                if share > most:
                    most = share
                    best = l
        e_values[i] = e
        lane[i] = best
        if best >= 0:
            since[i], gained[i], rows[i] = state[s, 2, best], state[s, 3, best], state[s, 4, best]
        if e >= 1.0:
            state[s, 0, :] = 0.0
    return e_values, lane, since, gained, rows
