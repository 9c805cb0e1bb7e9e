"""How near a query is to the same key's last queries. Iterative attacks step around a point; people rarely do."""

from __future__ import annotations

import numpy as np

from kernels import countsketch
from kernels.recent import cpu

FEATURES = ("nearest", "near_mean", "mean_distance", "step", "class_nearest")
NEAR = 8
LEAST = 16
GRAIN = 1000.0
"""Points are kept in steps of 1 / GRAIN, up to 32 on either side."""
NO_CLASS = -1


def fold(slot: np.ndarray, points: np.ndarray, classes: np.ndarray, seen: np.ndarray, ring: np.ndarray, of_class: np.ndarray) -> np.ndarray:
    """float32[n, 5] root-mean-square distances of each row's point to the points its key sent before, then remember it.

    `slot`: int32[n], < 0 is passed over. `points`: float32[n, d], of unit scale. `classes`: int32[n], what was predicted, NO_CLASS where
    nothing was. State, in place: `seen` int64[S], and of the last H points of each key `ring` int16[S, d, H] and `of_class` int32[S, H].
    H is a multiple of 8. Columns: to the nearest; mean over eight parts of the history (every eighth point) of the distance to the nearest
    in it; mean; to the one just before; to the nearest of the same class (Juuti et al. 2019, PRADA). Exact repeats do not count, as
    retries repeat (step, class_nearest: NaN). NaN until a key has sent H points, since the nearest of few are farther than those of many,
    and unless 16 of them are others.

    >>> ring, of_class, seen = np.zeros((1, 1, 16), np.int16), np.zeros((1, 16), np.int32), np.zeros(1, np.int64)
    >>> points, classes = np.arange(20, dtype=np.float32)[:, None] / 10, np.arange(20, dtype=np.int32) % 3
    >>> d = fold(np.zeros(20, np.int32), points, classes, seen, ring, of_class)
    >>> bool(np.isnan(d[15, 0])), d[16].round(2).astype(str).tolist()
    (True, ['0.1', '0.45', '0.85', '0.1', '0.3'])
    """
    if ring.shape[1] != points.shape[1] or ring.shape[2] % NEAR or of_class.shape != (len(ring), ring.shape[2]):
        raise ValueError(f"points of {points.shape[1]} dimensions do not fit a ring {ring.shape} and classes {of_class.shape}")
    out = np.empty((len(slot), len(FEATURES)), np.float32)
    cpu.fold(slot, points, classes, seen, ring, of_class, NEAR, LEAST, np.float32(GRAIN), out)
    return out


def whole(vectors: np.ndarray) -> np.ndarray:
    """bool[n]: which rows of float32[n, d] have no NaN and nothing infinite.

    >>> whole(np.float32([[1, 2], [1, np.nan], [np.inf, 2]])).tolist()
    [True, False, False]
    """
    out = np.empty(len(vectors), np.bool_)
    cpu.whole(vectors, out)
    return out


def placed(
    vectors: np.ndarray, center: np.ndarray, spread: np.ndarray, directions: np.ndarray, most: float
) -> tuple[np.ndarray, np.ndarray]:
    """(points float32[n, p], distance float32[n]): vectors in units of `spread` [d] around `center` [d], at most `most` of them,
    sketched to w coordinates (`kernels.countsketch`) and projected by `directions` [w, p], w <= d; and the root mean square of those units.
    `vectors`: float32[n, d]. A row's result does not depend on the others'.

    >>> points, distance = placed(np.float32([[3, 1]]), np.float32([1, 1]), np.float32([2, 1]), np.float32([[1, -1], [1, 1]]), 20)
    >>> points.tolist(), distance.round(3).tolist()
    ([[1.0, -1.0]], [0.7070000171661377])
    """
    n, d = vectors.shape
    if not len(center) == len(spread) == d >= len(directions):
        raise ValueError(
            f"vectors {vectors.shape} do not fit a center of {len(center)}, a spread of {len(spread)}, directions {directions.shape}"
        )
    points, distance = np.empty((n, directions.shape[1]), np.float32), np.empty(n, np.float32)
    signs = countsketch.signs(d, len(directions))
    cpu.placed(vectors, center, (1 / spread).astype(np.float32), signs, directions, np.float32(most), points, distance)
    return points, distance


def likeness(slot: np.ndarray, minhash: np.ndarray, seen: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """float32[n, 2] how like each row's text is to those its key sent before, then remember it: most, and on average.

    `slot`: int32[n], < 0 is passed over. `minhash`: uint16[n, k], 0 for an empty class; of classes that two texts do not both leave empty,
    the share with equal hashes estimates their Jaccard similarity (Li, Owen and Zhang 2012; Li and Koenig 2010, b-bit MinHash).
    State, in place: `seen` int64[S] and `ring` uint16[S, H, k], the last H texts of each key. NaN until a key has sent H texts.

    >>> seen, ring = np.zeros(1, np.int64), np.zeros((1, 2, 4), np.uint16)
    >>> texts = np.array([[1, 2, 3, 4], [1, 2, 9, 9], [1, 2, 3, 4]], np.uint16)
    >>> likeness(np.zeros(3, np.int32), texts, seen, ring).astype(str).tolist()
    [['nan', 'nan'], ['nan', 'nan'], ['1.0', '0.75']]
    """
    if ring.shape[2] != minhash.shape[1]:
        raise ValueError(f"{minhash.shape[1]} hashes do not fit a ring of {ring.shape[2]}")
    out = np.full((len(slot), 2), np.nan, np.float32)
    cpu.likeness(slot, minhash, seen, ring, out)
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
