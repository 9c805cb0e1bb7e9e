"""Oracle of `kernels.evidence`: one slot at a time, closed forms in logarithms instead of recursions.

Shiryaev-Roberts: M_t = sum over starts s <= t of prod(growth[s..t]); CUSUM: the largest such product; product: the one from the first
row. An unseen slot has M = 0 (product: the given initial value).
"""

from __future__ import annotations

import numpy as np


def evidence(values, slots, null_mean, bets, rows, kind, weights=None, cap=1e15):
    """(processes [rows, 8], e-value of each row) from a fresh state."""
    null_mean = np.broadcast_to(np.asarray(null_mean, float), (rows,))
    bets = np.broadcast_to(np.asarray(bets, float), (rows, 8))
    weights = np.full(8, 1 / 8) if weights is None else np.asarray(weights)
    state = np.full((rows, 8), 1.0 if kind == "product" else 0.0)
    out = np.full(len(values), np.nan)
    for row in range(rows):
        mine = np.flatnonzero(np.broadcast_to(slots, len(values)) == row)
        x = np.asarray(values, float)[mine]
        with np.errstate(divide="ignore"):
            growth = np.log(1 + np.clip(np.where(np.isnan(x), 0, x), 0, 1)[:, None] * bets[row] - null_mean[row] * bets[row])
        history = np.empty((0, 8))
        for t, i in enumerate(mine):
            if not np.isnan(x[t]):
                history = np.vstack([history, growth[t]])
                from_each_start = np.cumsum(history[::-1], axis=0)
                if kind == "shiryaev-roberts":
                    state[row] = np.exp(np.minimum(np.logaddexp.reduce(from_each_start, axis=0), np.log(cap)))
                elif kind == "cusum":
                    state[row] = np.exp(np.minimum(from_each_start.max(axis=0), np.log(cap)))
                else:
                    state[row] = np.exp(np.clip(from_each_start[-1], np.log(1e-300), np.log(cap)))
            out[i] = float(np.dot(weights, state[row]))
    return state, out
