"""Oracle of neighbors: the whole matrix in float64, sorted."""

from __future__ import annotations

import numpy as np


def nearest(queries, reservoir, k, segments=None, starts=None):
    """Distances [n, k], ascending, infinite where there is no neighbour."""
    out = np.full((len(queries), k), np.inf)
    for i, query in enumerate(queries.astype(np.float64)):
        if segments is None:
            mine = reservoir
        else:
            mine = reservoir[starts[segments[i]] : starts[segments[i] + 1]] if segments[i] >= 0 else reservoir[:0]
        mine = mine[np.isfinite(mine).all(1)].astype(np.float64)
        if np.isfinite(query).all() and len(mine):
            found = np.sort(np.sqrt(((mine - query) ** 2).sum(1)))[:k]
            out[i, : len(found)] = found
    return out


def pairs(x, least):
    """{(i, j): cosine} of the pairs i < j with cosine >= least."""
    x = x.astype(np.float64)
    fit = np.isfinite(x).all(1)
    norm = np.sqrt((np.where(fit[:, None], x, 0) ** 2).sum(1))
    unit = np.where((norm > 0)[:, None], np.where(fit[:, None], x, 0) / np.where(norm > 0, norm, 1)[:, None], 0)
    cosine = unit @ unit.T
    alike = (cosine >= least) & (norm > 0)[:, None] & (norm > 0)
    return {(int(i), int(j)): cosine[i, j] for i, j in np.argwhere(np.triu(alike, 1))}
