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


def powers(values: np.ndarray, low: int, columns: slice, out: np.ndarray) -> None:
    """Which of the columns each value falls into, by the power of two that it reaches: the first under 2**(low + 1), the last from
    2**(low + last place) on. `values`: float64[n]. `out`: int16[n], -1 where a value is NaN or not over 0.

    >>> out = np.zeros(5, np.int16)
    >>> powers(np.array([0.0, 1, 8, 9e9, np.nan]), 2, slice(10, 14), out)
    >>> out.tolist()
    [-1, 10, 11, 13, -1]
    """
    cpu.powers(values, values.view(np.uint64), low, columns.start, columns.stop - columns.start - 1, out)


def gaps(slot: np.ndarray, time_us: np.ndarray, columns: slice, out: np.ndarray, last_us: np.ndarray) -> None:
    """Which of the columns the time since the slot's last row falls into, by the power of e that its seconds reach (the first under e,
    the last all beyond). `slot`: int32[n], < 0 is passed over; `time_us`: int64[n]. `out`: int16[n], -1 for a slot's first row.
    `last_us`: int64[S], 0 for none yet, is brought up to date.

    >>> out, last_us = np.zeros(3, np.int16), np.zeros(1, np.int64)
    >>> gaps(np.int32([0, 0, 0]), np.array([1_000_000, 3_000_000, 6_000_000]), slice(5, 13), out, last_us)
    >>> out.tolist(), last_us.tolist()
    ([-1, 5, 6], [6000000])
    """
    edges = np.ceil(1e6 * np.exp(np.arange(1.0, columns.stop - columns.start))).astype(np.int64)
    cpu.gaps(slot, time_us, edges, columns.start, out, last_us)
