"""Oracle of `kernels.edetector`: one slot and lane at a time, sums over all possible starts of a change instead of recursions.

Since the last alarm, M_t = sum over starts s <= t of spend_s G_s ... G_t; the CUSUM is the largest log growth of s..t over all s up to t + 1
(none: 0), and its start is the latest s that reaches it.
"""

from __future__ import annotations

import numpy as np


def edetector(successes, totals, spend, time_us, slots, null, alternative, power, weights):
    """(e, lane, since_us, successes, rows) of each step, from a fresh state; without caps."""
    n, tests = successes.shape
    lanes = null.shape[1]
    out = [np.full(n, np.nan), np.full(n, -1), np.zeros(n), np.zeros(n), np.zeros(n)]
    for slot in range(len(null)):
        mine = np.flatnonzero(slots == slot)
        alarmed = 0  # steps of this slot before which everything is forgotten
        for t in range(len(mine)):
            shares = np.zeros(lanes)
            story = {}
            for lane in np.flatnonzero(weights[slot] > 0):
                k = successes[mine[: t + 1], lane // (lanes // tests)]
                fails = totals[mine[: t + 1]] - k
                a, b = alternative[slot, lane], null[slot, lane]
                log_g = power[slot, lane] * (k * np.log(a / b) + fails * np.log((1 - a) / (1 - b)))
                grown = np.cumsum(log_g[::-1])[::-1]
                shares[lane] = weights[slot, lane] * np.sum(spend[mine[alarmed : t + 1]] * np.exp(grown[alarmed:]))
                suffix = np.append(grown, 0.0)  # log growth of s..t, s = 0..t+1
                s = t + 1 - int(np.argmax(suffix[::-1]))
                before = mine[s - 1] if s else None
                story[lane] = (time_us[before] if before is not None else 0.0, k[s:].sum(), (k + fails)[s:].sum())
            i = mine[t]
            out[0][i] = shares.sum()
            if shares.max() > 0:
                out[1][i] = int(np.argmax(shares))
                out[2][i], out[3][i], out[4][i] = story[out[1][i]]
            if shares.sum() >= 1:
                alarmed = t + 1
    return out
