"""Tail bins of features against a reference's quantiles, their counts per key over its last rows, judged every so many rows of the key by
log growth of bets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernels.tailcounts import cpu

MISSING = 255
"""Bin of a feature that a row does not have."""


@dataclass(frozen=True)
class Reference:
    """What rows are compared with. `grid`: float32[K, G] ascending quantiles of each feature (NaN: the reference has none); `quantiles`:
    float64[2 G + 1], the normal score of a value by how many of the grid lie under it plus how many do not lie over it; `mean` [K] and
    `precision` [K, K] of those scores; `needed`: bool[K], features without which there is no combination; `upper`, `lower`: float32[K + 1,
    E] ascending edges of the tail bins, of values and of their negatives."""

    grid: np.ndarray
    quantiles: np.ndarray
    mean: np.ndarray
    precision: np.ndarray
    needed: np.ndarray
    upper: np.ndarray
    lower: np.ndarray


def combine(values: np.ndarray, reference: Reference) -> np.ndarray:
    """float32[n]: the squared Mahalanobis length of each row's normal scores; NaN where a needed feature is missing, or all of them are.

    `values`: float32[n, K].

    >>> half = np.array([-0.7, -0.5, 0.0, 0.5, 0.7])
    >>> edges = np.float32([[2], [9]])
    >>> one = Reference(np.float32([[1, 2]]), half, np.zeros(1), np.eye(1), np.array([True]), edges, edges)
    >>> combine(np.float32([[0], [1], [1.5], [3], [np.nan]]), one).astype(str).tolist()
    ['0.49', '0.25', '0.0', '0.49', 'nan']
    """
    r, out = reference, np.empty(len(values), np.float32)
    cpu.combine(values, r.grid, r.quantiles, r.mean, r.precision, r.needed, out)
    return out


def tail_bins(values: np.ndarray, reference: Reference) -> np.ndarray:
    """uint8[n, 2, K + 1]: how many edges each value (and the combination, last) lies over, and how many it lies under; MISSING for NaN.

    `values`: float32[n, K].
    """
    r, out = reference, np.empty((len(values), 2, len(reference.upper)), np.uint8)
    if values.shape[1] != len(r.grid) or len(r.upper) != len(r.grid) + 1 or len(r.quantiles) != 2 * r.grid.shape[1] + 1:
        raise ValueError(f"values {values.shape} do not fit a reference of {len(r.grid)} features")
    cpu.tail_bins(values, r.grid, r.quantiles, r.mean, r.precision, r.needed, r.upper, r.lower, MISSING, out)
    return out


def binned(values: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """uint8[n, 2, K]: as `tail_bins`, of values float32[n, K] and edges float32[K, E] alone.

    >>> binned(np.float32([[0.5], [np.nan]]), np.float32([[0, 1]]), np.float32([[-1, 0]])).tolist()
    [[[1], [1]], [[255], [255]]]
    """
    out = np.empty((len(values), 2, values.shape[1]), np.uint8)
    cpu.binned(values, upper, lower, MISSING, out)
    return out


def drawn_evidence(
    bins: np.ndarray, starts: np.ndarray, wanted: np.ndarray, lengths: np.ndarray, bets: np.ndarray, power: float
) -> np.ndarray:
    """float64[w] log evidence (see `Rule`) of windows that are drawn from rows, uint8[n, 2, F] bins: window w holds wanted[w] of them, in
    stretches of lengths[w] neighbours (the last may be cut short, and what passes the last row goes on at the first), each from the next
    of `starts` on, int64, under n. `bets`: float64[F, B, K].

    >>> bins = np.array([[[1], [0]], [[0], [0]]], np.uint8)
    >>> e = drawn_evidence(bins, np.array([0, 1]), np.array([1, 3]), np.array([1, 3]), np.log([[[0.5], [3.0]]]), 1)
    >>> np.exp(e).round(3).tolist()
    [1.75, 0.438]
    """
    weights = np.zeros((len(bins), len(wanted)), np.int32)
    if len(starts) < np.sum(-(-wanted // lengths)) or (len(starts) and not 0 <= starts.min() <= starts.max() < len(bins)):
        raise ValueError(f"{len(starts)} starts in {len(bins)} rows do not fit windows of {wanted.tolist()} rows")
    counts, out = np.zeros((2, bins.shape[2], bets.shape[1], len(wanted)), np.int32), np.empty(len(wanted))
    cpu.drawn(starts, wanted, lengths, weights)
    cpu.weighed(bins, weights, counts)
    cpu.evidence(counts, bets, power, out)
    return out


@dataclass(frozen=True)
class Due:
    """Windows that came due, in order of their rows.

    `row`: int64[d] position in the batch; `length`: int64[d, L] rows in each of the L windows, `since_us`: int64[d, L] when they began,
    `told`: int64[d, L] those of them with any feature, in windows that are looked at; `log_e`: float64[d, L], NaN for a window that is not
    looked at; `counts`: int32[d, 2, F, B] tail bins of the longest window; `samples`: int64[d, N] offsets of the key's last unusual rows,
    -1 where there are fewer."""

    row: np.ndarray
    length: np.ndarray
    since_us: np.ndarray
    told: np.ndarray
    log_e: np.ndarray
    counts: np.ndarray
    samples: np.ndarray


@dataclass(frozen=True)
class Rule:
    """How windows are judged. Window l spans between halves[l] and 2 halves[l] of a key's last rows (all of them, while there are fewer),
    and is looked at after every steps[l] of its rows, multiples of the first. `bets`: float64[F, B, K] log growth of K bets by feature and
    bin; the evidence of a window is the average over bets and tails of the products, and over features their mean of `power`, 0 < power <=
    1. `unusual`: a row is a sample if one of its bins is at least this."""

    halves: np.ndarray
    steps: np.ndarray
    bets: np.ndarray
    power: float = 1.0
    unusual: int = MISSING


@dataclass(frozen=True)
class Windows:
    """The state of S keys, updated in place. `rows`: int64[S]; `counts`: int16[S, L, 2, 2, F, B], for each window a past and a present
    half, and `since_us`: int64[S, L, 2], when those began; `samples`: int64[S, N + 1], offsets of the last N unusual rows and how many
    there were."""

    rows: np.ndarray
    counts: np.ndarray
    since_us: np.ndarray
    samples: np.ndarray


def fold(slot: np.ndarray, bins: np.ndarray, time_us: np.ndarray, offsets: np.ndarray, windows: Windows, rule: Rule) -> Due:
    """Fold rows into their keys' windows, and judge a key after each steps[0] of its rows.

    `slot`: int32[n], < 0 is passed over. `bins`: uint8[n, 2, F], values >= B are missing. `time_us`: int64[n]; `offsets`: int64[n], what
    samples are named by. The result does not depend on how rows are cut into batches.

    >>> counts, since_us = np.zeros((1, 1, 2, 2, 1, 2), np.int16), np.zeros((1, 1, 2), np.int64)
    >>> windows = Windows(np.zeros(1, np.int64), counts, since_us, np.zeros((1, 3), np.int64))
    >>> bins = np.array([[[1], [0]], [[1], [0]]], np.uint8)
    >>> rule = Rule(np.array([4]), np.array([2]), np.log([[[0.5], [3.0]]]), unusual=1)
    >>> due = fold(np.zeros(2, np.int32), bins, np.array([50, 60]), np.array([7, 8]), windows, rule)
    >>> due.length.tolist(), due.since_us.tolist(), np.exp(due.log_e).round(3).tolist(), due.samples.tolist()
    ([[2]], [[50]], [[4.625]], [[7, 8]])
    """
    n, _, features = bins.shape
    size, shape = rule.bets.shape[1], windows.counts.shape[1:]
    fits = shape == (len(rule.halves), 2, 2, features, size) and len(rule.bets) == features
    if not fits or not len(slot) == len(offsets) == len(time_us) == n:
        raise ValueError(f"counts {windows.counts.shape} do not fit bins {bins.shape}, {len(rule.halves)} windows, bets {rule.bets.shape}")
    most, lengths = cpu.count_due(slot, windows.rows, rule.steps[0]), len(rule.halves)
    due = Due(
        np.empty(most, np.int64),
        np.empty((most, lengths), np.int64),
        np.empty((most, lengths), np.int64),
        np.zeros((most, lengths), np.int64),
        np.full((most, lengths), np.nan),
        np.zeros((most, 2, features, size), np.int32),
        np.empty((most, windows.samples.shape[1] - 1), np.int64),
    )
    cpu.fold(
        slot, bins, offsets, time_us, windows.rows, windows.counts, windows.samples, windows.since_us, rule.halves, rule.steps, rule.bets,
        rule.power, rule.unusual, due.row, due.length, due.since_us, due.told, due.log_e, due.counts, due.samples,
    )  # fmt: skip
    return due
