"""countsketch: long vectors as short ones that keep lengths and distances, by adding signed coordinates up (CPU alone).

Coordinate j of d goes to place j mod w of w, with a sign that is a hash of j. Over the signs, the squared length of the sketch is that of
the vector on average, and its standard deviation at most sqrt(2 / w) of it for a vector whose length is spread over many coordinates:
what dense random directions (Johnson and Lindenstrauss) give as well, at d multiplications instead of d w. A vector of no more than w
coordinates is its own sketch. A sketch is linear: sketches add, and a sketch of a sketch of 2 w places is one of w.

Charikar, Chen and Farach-Colton 2002; Weinberger et al. 2009 (arXiv 0902.2206), Feature Hashing for Large Scale Multitask Learning.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from kernels.countsketch import cpu


@lru_cache(maxsize=64)
def signs(dims: int, width: int) -> np.ndarray:
    """float32[d] of -1 and 1, a hash of the place (splitmix64); all 1 where no two coordinates share a place, d <= w.

    >>> signs(3, 4).tolist(), signs(6, 4).tolist()
    ([1.0, 1.0, 1.0], [1.0, -1.0, -1.0, 1.0, -1.0, -1.0])
    """
    if dims <= width:
        return np.ones(dims, np.float32)
    h = (np.arange(dims, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.where((h ^ (h >> np.uint64(31))) >> np.uint64(63), np.float32(1), np.float32(-1))


def sketched(vectors: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(sketches float32[n, min(d, w)], lengths float64[n]) of float32[n, d]. The length of a row that has NaN or infinity in it is NaN or
    infinite, that of any other row is finite. A row's result does not depend on the others'.

    >>> short, lengths = sketched(np.float32([[3, 0, 4, 0, 0, 1]]), 4)
    >>> short.tolist(), lengths.round(3).tolist()
    ([[3.0, -1.0, -4.0, 0.0]], [5.099])
    """
    n, d = vectors.shape
    out, lengths = np.empty((n, min(d, width)), np.float32), np.empty(n)
    cpu.sketched(vectors, signs(d, width), out, lengths)
    return out, lengths
