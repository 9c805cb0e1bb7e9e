"""Oracle of peers: NumPy's medians, group by group and metric by metric."""

from __future__ import annotations

import numpy as np


def peers(x, group, groups, least):
    """(deviation, median, mad, count)."""
    x = np.where(np.isfinite(x), x, np.nan).astype(np.float64)
    n, p = x.shape
    deviation, median, mad, count = (
        np.full((n, p), np.nan),
        np.full((groups, p), np.nan),
        np.full((groups, p), np.nan),
        np.zeros((groups, p)),
    )
    for g in range(groups):
        for j in range(p):
            members = np.flatnonzero((group == g) & ~np.isnan(x[:, j]))
            count[g, j] = len(members)
            if len(members):
                median[g, j] = np.median(x[members, j])
                mad[g, j] = np.median(np.abs(x[members, j] - median[g, j]))
                scale = max(1.4826022185056018 * mad[g, j], least)
                off = x[members, j] - median[g, j]
                deviation[members, j] = off / scale if scale else np.where(off == 0, 0, np.copysign(np.inf, off))
    return deviation, median, mad, count
