"""Oracle of rff: the n x D matrix in float64, with the definition's cosines and sines, summed by a loop over rows."""

from __future__ import annotations

import numpy as np


def bfloat16(value):
    """Nearest number with 8 significant bits, ties to even."""
    fraction, exponent = np.frexp(np.float64(value))
    return np.ldexp(np.rint(fraction * 256) / 256, exponent)


def rff(x, slots, w, keys):
    """float64 sums [keys, D] of cosines, then sines, and counts."""
    sums, counts = np.zeros((keys, 2 * w.shape[1])), np.zeros(keys, np.int64)
    for row, slot in zip(bfloat16(x), slots, strict=True):
        if slot >= 0 and np.isfinite(row).all():
            angle = 2 * np.pi * (row @ w.astype(np.float64))
            sums[slot] += np.concatenate([np.cos(angle), np.sin(angle)])
            counts[slot] += 1
    return sums, counts


def kernel(x, y, sigma):
    """Mean of RBF kernels at sigma times 1/2, 1, 2 and 4."""
    distance2 = ((x - y) ** 2).sum()
    return np.mean([np.exp(-distance2 / (2 * (b * sigma) ** 2)) for b in (0.5, 1, 2, 4)])
