"""How many rows of a stream are worth one. Rows that follow each other may be alike: sessions, hours, a model that has a bad day.

The mean of b rows in a row varies `memory` / b times as much as one row does; independent rows have a memory of 1. It is measured on
blocks of 1, 2, 4, ... rows, each corrected as an AR(1) of blocks (prewhitening: Andrews and Monahan 1992), and the largest counts, if
chance does not explain it.
"""

from __future__ import annotations

import numpy as np
from scipy import special, stats

LEAST_BLOCKS = 16
LEAST_GROUP = 8
CHANCE = 1e-4


def memories(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """float64[K], 1 <= memory <= n, of each column of float[n, K] in the order of the rows; NaN is not there.

    The memory may be taken for up to twice what it is, where it ends at once. What groups (int[n]) differ in is no memory: each value
    counts as its distance from its group's mean. Ranks count, not values.

    >>> rng = np.random.default_rng(0)
    >>> alone, held = rng.normal(size=2000), np.repeat(rng.normal(size=200), 10)
    >>> memories(np.column_stack([alone, held]), np.zeros(2000, int)).round(1).tolist()
    [1.0, 19.1]
    """
    return np.array([memory(within_groups(column, groups)) for column in values.T])


def within_groups(column: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """float64: the normal scores of a column, each without its group's mean; groups of few rows are one."""
    there = ~np.isnan(column)
    if not there.any():
        return np.empty(0)
    scores = special.ndtri((stats.rankdata(column[there]) - 0.5) / there.sum())
    _, of_row, sizes = np.unique(groups[there], return_inverse=True, return_counts=True)
    of_row = np.where(sizes[of_row] < LEAST_GROUP, len(sizes), of_row)
    rows = np.bincount(of_row)
    return scores - (np.bincount(of_row, scores) / np.maximum(rows, 1))[of_row]


def taking_turns(groups: np.ndarray) -> np.ndarray:
    """int64: rows of which none is of the group of the one before it, the first of each run of a group.

    >>> taking_turns(np.array([3, 3, 5, 3, 3])).tolist()
    [0, 2, 3]
    """
    return np.flatnonzero(np.diff(groups, prepend=groups[0] - 1))


def memory(scores: np.ndarray) -> float:
    """As `memories`, of one column of scores."""
    n, most = len(scores), 1.0
    spread = float(scores.var()) if n else 0.0
    blocks, length = n, 1
    while spread > 0 and blocks >= LEAST_BLOCKS:
        means = scores[: blocks * length].reshape(blocks, length).mean(1)
        inflated = float(means.var(ddof=1)) * length / spread
        kept = float(np.corrcoef(means[:-1], means[1:])[0, 1]) if means.var() > 0 else 0.0
        alike = kept > stats.norm.ppf(1 - CHANCE) / np.sqrt(blocks)
        if alike or inflated > stats.chi2.ppf(1 - CHANCE, blocks - 1) / (blocks - 1):
            kept = min(max(0.0, kept) + (1 + 3 * max(0.0, kept)) / blocks, 1 - 1 / n) if alike else 0.0
            most = max(most, inflated * (1 + kept) / (1 - kept))
        blocks, length = blocks // 2, length * 2
    return max(1.0, min(most, float(n)))
