"""Counts of tail bins per key over its last rows, judged every so many rows of the key, by log growth of bets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernels.tailcounts import cpu


@dataclass(frozen=True)
class Due:
    """Windows that came due, in order of their rows.

    `row`: int64[d] position in the batch; `length`: int64[d, L] rows in each of the L windows, and `told`: int64[d, L] those of them with
    any feature; `log_e`: float64[d, L]; `counts`: int32[d, 2, F, B] tail bins of the longest window.
    """

    row: np.ndarray
    length: np.ndarray
    told: np.ndarray
    log_e: np.ndarray
    counts: np.ndarray


def fold(
    slot: np.ndarray,
    bins: np.ndarray,
    rows: np.ndarray,
    counts: np.ndarray,
    halves: np.ndarray,
    every: int,
    bets: np.ndarray,
    power: float = 1.0,
) -> Due:
    """Fold rows into their keys' windows, and judge a key after each `every` of its rows.

    `slot`: int32[n], < 0 is passed over. `bins`: uint8[n, 2, F], values >= B are missing. State, updated in place: `rows` int64[S], and
    `counts` int16[S, L, 2, 2, F, B]: for each window a past and a present half. Window l spans between halves[l] and 2 halves[l] of the
    key's last rows (all of them, while there are fewer). `bets`: float64[B, K] log growth of K bets by bin; the evidence of a window is the
    average over bets and tails of the products, and over features their mean of that `power`, 0 < power <= 1. The result does not depend
    on how rows are cut into batches.

    >>> rows, counts = np.zeros(1, np.int64), np.zeros((1, 1, 2, 2, 1, 2), np.int16)
    >>> bins = np.array([[[1], [0]], [[1], [0]]], np.uint8)
    >>> due = fold(np.zeros(2, np.int32), bins, rows, counts, np.array([4]), 2, np.log([[0.5], [3.0]]))
    >>> due.length.tolist(), np.exp(due.log_e).round(3).tolist()
    ([[2]], [[4.625]])
    """
    n, _, features = bins.shape
    if counts.shape[1:] != (len(halves), 2, 2, features, len(bets)) or len(slot) != n:
        raise ValueError(f"counts {counts.shape} do not fit bins {bins.shape}, {len(halves)} windows and {len(bets)} bins")
    most = cpu.count_due(slot, rows, every)
    due = Due(
        np.empty(most, np.int64),
        np.empty((most, len(halves)), np.int64),
        np.empty((most, len(halves)), np.int64),
        np.empty((most, len(halves))),
        np.zeros((most, 2, features, len(bets)), np.int32),
    )
    cpu.fold(slot, bins, rows, counts, halves, every, bets, power, due.row, due.length, due.told, due.log_e, due.counts)
    return due
