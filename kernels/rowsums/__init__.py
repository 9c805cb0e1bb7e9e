"""Sums of row vectors, and counts of the bins that rows fall into, per slot: integers, so that order and batches do not matter."""

from __future__ import annotations

import numpy as np

from kernels.rowsums import cpu

GRAIN = 256.0
"""A value is added as rint(GRAIN * value); of values up to 1, int32 holds 8 million rows of a slot."""


def fold(slot: np.ndarray, values: np.ndarray, bins: np.ndarray, sums: np.ndarray) -> None:
    """Add rows to their slots, in place: the values to the first d columns, and 1 to each column that is one of the row's bins.

    `slot`: int32[n], < 0 is passed over. `values`: float32[n, d], NaN counts as 0. `bins`: int16[n, k] columns of `sums`, < 0 for none.
    `sums`: int32[S, w], w > d.

    >>> sums = np.zeros((1, 4), np.int32)
    >>> fold(np.int32([0, 0, -1]), np.float32([[0.5], [0.25], [9]]), np.int16([[2, -1], [2, 3], [3, 3]]), sums)
    >>> sums.tolist()
    [[192, 0, 2, 1]]
    """
    n, d = values.shape
    if slot.shape != (n,) or len(bins) != n or bins.ndim != 2 or sums.ndim != 2 or not d < sums.shape[1]:
        raise ValueError(f"slots {slot.shape}, values {values.shape}, bins {bins.shape} and sums {sums.shape} do not fit")
    if len(bins) and bins.size and not bins.max() < sums.shape[1]:
        raise ValueError(f"bins must be columns of sums, under {sums.shape[1]}, not {int(bins.max())}")
    if n and not slot.max() < len(sums):
        raise ValueError(f"slots must be rows of sums, under {len(sums)}, not {int(slot.max())}")
    cpu.fold(slot, values, bins, np.float32(GRAIN), sums)
