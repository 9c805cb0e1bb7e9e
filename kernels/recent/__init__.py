"""How near a query is to the same key's last queries. Iterative attacks step around a point; people rarely do."""

from __future__ import annotations

import numpy as np

from kernels.recent import cpu

FEATURES = ("nearest", "near_mean", "median", "step")
NEAR = 8
LEAST = 16
GRAIN = 1000.0
"""Points are kept in steps of 1 / GRAIN, up to 32 on either side."""


def fold(slot: np.ndarray, points: np.ndarray, seen: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """float32[n, 4] root-mean-square distances of each row's point to the points its key sent before, then remember it.

    `slot`: int32[n], < 0 is passed over. `points`: float32[n, d], of unit scale. State, in place: `seen` int64[S] and
    `ring` int16[S, H, d], the last H points of each key. Columns: to the nearest; mean of the 8 nearest; median; to the one just before.
    Exact repeats do not count, as retries repeat (step: NaN). NaN until a key has sent H points,
    since the nearest of few are farther than those of many, and unless 16 of them are others.

    >>> ring, seen = np.zeros((1, 16, 1), np.int16), np.zeros(1, np.int64)
    >>> d = fold(np.zeros(20, np.int32), np.arange(20, dtype=np.float32)[:, None] / 10, seen, ring)
    >>> bool(np.isnan(d[15, 0])), d[16].round(2).astype(str).tolist()
    (True, ['0.1', '0.45', '0.9', '0.1'])
    """
    if ring.shape[2] != points.shape[1]:
        raise ValueError(f"points of {points.shape[1]} dimensions do not fit a ring of {ring.shape[2]}")
    out = np.empty((len(slot), len(FEATURES)), np.float32)
    grains = np.clip(np.rint(np.nan_to_num(points) * GRAIN), -32767, 32767).astype(np.int16)
    cpu.fold(slot, grains, seen, ring, NEAR, LEAST, GRAIN, out)
    return out


def repeats(slot: np.ndarray, hashes: np.ndarray, seen: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """bool[n]: whether the same key sent the same item among its last different ones, then remember it.

    `slot`: int32[n], < 0 is passed over. `hashes`: uint64[n]. State, in place: `seen` int64[S] and `ring` uint64[S, H].

    >>> items = np.array([7, 7, 8, 9, 7], np.uint64)
    >>> repeats(np.zeros(5, np.int32), items, np.zeros(1, np.int64), np.zeros((1, 2), np.uint64)).tolist()
    [False, True, False, False, False]
    """
    out = np.zeros(len(slot), np.bool_)
    cpu.repeats(slot, hashes, seen, ring, out)
    return out
