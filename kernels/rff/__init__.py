"""rff: sums of random Fourier features per key, so that the distance between two keys' distributions is that of two vectors.

The kernel is the mean of RBF kernels exp(-|x - y|**2 / (2 s**2)) at bandwidths s = sigma * {1/2, 1, 2, 4}. With frequencies w drawn for it,
phi(x) = sqrt(2/D) [cos(2 pi w_j x), sin(2 pi w_j x), j < D/2] has |phi| = 1 and E[phi(x) phi(y)] = kernel(x, y), to about 1/sqrt(D).

The state of S keys is two arrays that a fold updates in place:

- sums int64 or int32 [S, D]: sum of rint(SCALE cos), then of rint(SCALE sin). Integers: the result does not depend on the order of the
  rows, the cut into batches or the threads. int32 holds 131,071 rows of a key
- counts int64[S]: rows of the key

Both add. Rows and frequencies are rounded to bfloat16, so that a GPU multiplies at its full rate and gets what a CPU gets. That moves a
row by 1/500 of its length at most, nothing against the distances between embeddings (take out a common mean that is much longer).

A row with NaN or infinity in it is left out; where an angle is beyond 2**22 turns, its feature is that of angle 0.

Rahimi and Recht 2007, Random Features for Large-Scale Kernel Machines; Sutherland and Schneider 2015 (arXiv 1506.02785) on why pairs
of cosine and sine are better than cosines of random phase; Gretton et al. 2012, A Kernel Two-Sample Test (MMD).
"""

from __future__ import annotations

import numpy as np

__all__ = ["SCALE", "empty", "frequencies", "mean_features", "median_distance", "mmd2", "rff"]

SCALE = 1 << 14
BANDWIDTHS = (0.5, 1.0, 2.0, 4.0)


def frequencies(dims: int, features: int = 4096, sigma: float = 1.0, seed: int = 0) -> np.ndarray:
    """float32 [d, D/2], in turns per unit of x. Column j has bandwidth sigma * BANDWIDTHS[j % 4].

    Normal by Box and Muller from a hash of (seed, place), rounded to bfloat16, so that they stay what they are whatever NumPy's
    generators become. Raises ValueError unless D, `features`, is a multiple of 8 and sigma is positive.
    """
    if features < 8 or features % 8 or dims < 1 or not 0 < sigma < np.inf:
        raise ValueError(f"frequencies need dims >= 1, features a positive multiple of 8, sigma > 0; not {dims}, {features}, {sigma}")
    from kernels.rff.cpu import bfloat16

    half = features // 2
    place = np.arange(dims * half, dtype=np.uint64) + (np.uint64(seed) << np.uint64(40))
    radius = np.sqrt(-2.0 * np.log((mix(2 * place) + 1.0) / 2.0**53))
    normal = radius * np.cos(2.0 * np.pi * mix(2 * place + 1) / 2.0**53)
    bandwidth = sigma * np.array(BANDWIDTHS)[np.arange(half) % len(BANDWIDTHS)]
    return bfloat16((normal.reshape(dims, half) / (2.0 * np.pi * bandwidth)).astype(np.float32))


def mix(h: np.ndarray) -> np.ndarray:
    """splitmix64 of uint64, its upper 53 bits."""
    h = (h + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (h ^ (h >> np.uint64(31))) >> np.uint64(11)


def median_distance(x: np.ndarray, limit: int = 1000) -> float:
    """Median Euclidean distance between distinct rows, of `limit` rows evenly taken: the usual sigma. NaN if there are not two."""
    x = x[np.isfinite(x).all(1)]
    x = x[:: max(1, len(x) // limit)][:limit].astype(np.float64)
    squares = (x * x).sum(1)
    distance2 = np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0)[np.triu_indices(len(x), 1)]
    return float(np.sqrt(np.median(distance2))) if len(distance2) else float("nan")


def empty(keys: int, features: int = 4096, dtype=np.int64) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts of keys that have no rows."""
    return np.zeros((keys, features), dtype), np.zeros(keys, np.int64)


def rff(x, slots, w, sums, counts):
    """Add the features of each row to its key's sums, in place; returns (sums, counts). The n x D matrix is never written.

    x: float32 [n, d]; slots: int32[n], the state row of each row, -1 to leave it out; w: float32 [d, D/2] from `frequencies`.

    Raises ValueError for shapes or types that do not fit.

    >>> w = frequencies(2, 1024)
    >>> sums, counts = rff(np.float32([[0, 0], [0, 0], [3, 4], [np.nan, 0]]), np.int32([0, 1, 2, 0]), w, *empty(3, 1024))
    >>> counts.tolist(), round(float(mmd2(sums[0], 1, sums[1], 1)), 3), round(float(mmd2(sums[0], 1, sums[2], 1)), 1)
    ([1, 1, 1], 0.0, 1.8)
    """
    if type(x).__module__.partition(".")[0] == "torch":
        from kernels.rff import gpu

        return gpu.rff(x, slots, w, sums, counts)
    from kernels.rff import cpu

    check(x, slots, w, sums, counts)
    if len(x):
        near = np.empty(x.shape, np.float32)
        usable = cpu.rounded(np.ascontiguousarray(x).view(np.uint32), slots, near.view(np.uint32))
        fold = cpu.fold_by_all if x.size * w.shape[1] >= cpu.MANY else cpu.fold
        fold(near, usable, np.ascontiguousarray(w), sums, counts)
    return sums, counts


def check(x, slots, w, sums, counts) -> None:
    """ValueError unless the arguments of `rff` fit together."""
    if x.dtype != np.float32 or x.ndim != 2:
        raise ValueError(f"x must be float32 [n, d], not {x.dtype}{list(x.shape)}")
    if w.dtype != np.float32 or w.ndim != 2 or w.shape[0] != x.shape[1] or not w.shape[1] or w.shape[1] % 4:
        raise ValueError(f"w must be float32 [{x.shape[1]}, multiple of 4], not {w.dtype}{list(w.shape)}")
    if sums.dtype not in (np.int32, np.int64) or sums.shape != (len(counts), 2 * w.shape[1]):
        raise ValueError(f"sums must be int32 or int64 [{len(counts)}, {2 * w.shape[1]}], not {sums.dtype}{list(sums.shape)}")
    if counts.dtype != np.int64 or counts.ndim != 1:
        raise ValueError(f"counts must be int64 [S], not {counts.dtype}{list(counts.shape)}")
    if slots.dtype != np.int32 or slots.shape != (len(x),):
        raise ValueError(f"slots must be int32[{len(x)}], not {slots.dtype}{list(slots.shape)}")
    if len(slots) and not -1 <= slots.min() <= slots.max() < len(counts):
        raise ValueError(f"slots must be in a state of {len(counts)} rows, or -1")


def mean_features(sums, counts) -> np.ndarray:
    """float64 [..., D]: mean phi of each key, NaN where it has no rows."""
    features = sums.shape[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums * (np.sqrt(2.0 / features) / SCALE) / np.asarray(counts, np.float64)[..., None]


def mmd2(sums, counts, other_sums, other_counts):
    """Squared distance of two keys' mean features (or of rows of keys, by broadcasting): the V-statistic of the squared MMD.

    An unbiased one takes the rows' own kernels, 1 each, out: n/(n-1) (|mean|**2 - 1/n) in place of |mean|**2 for either side.
    """
    return ((mean_features(sums, counts) - mean_features(other_sums, other_counts)) ** 2).sum(-1)
