"""Is a run of queries like the reference, when only a few of them may differ? Bets on the tails of per-query novelty.

A query has K numeric features (surprisal, length, distance to its neighbours, ...). Each is compared with the reference's own, which
gives an upper and a lower conformal p-value, raised to hold for this very reference with confidence (calibration-conditional p-values,
Bates et al. 2023), so that a short reference does not alarm by itself. What no single feature shows, their combination may: the
squared Mahalanobis length of the features' normal scores is feature K + 1.

An attacker who hides among ordinary queries shows as too many small p-values. For each feature and tail, a family of bets
    E = product over queries of 1 + e (f(p) - 1),   f decreasing with integral 1,  e = the share that might be the attacker's
pays off if there are; a product depends on how many p-values fell into each bin alone, so counts are the whole state. E-values of
dependent features may be averaged (Vovk and Wang 2021). The window's evidence is their power mean of exponent .1, which is at most the
plain average and so an e-value too. The plain one is the largest feature's alone, and a reference of a thousand queries always has a
feature that differs a little from all the traffic; near the geometric mean, several that differ count more. How large the evidence
becomes for benign windows of n queries is learned by half-sampling: windows drawn from the whole reference, compared with a random half,
which differs from the whole as the whole does from all benign queries (McCarthy 1969). When the reference has several principals, each is
compared with the others as well: real people differ more than draws from one pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special
from scipy.special import logsumexp

BINS = 16
RATIO = 0.6
"""Bin j holds the p-values in (RATIO^(j+1), RATIO^j]."""
MISSING = 255
"""Bin of a feature that a query does not have."""
CONFIDENCE = 0.95
POWER = 0.1
"""Exponent of the mean over features: 1 is the plain average, near 0 the geometric mean."""
LEAST_EXCESS = 0.5
SHARES = (0.02, 0.05, 0.1, 0.25, 0.6)
EXPONENTS = (0.1, 0.3, 0.6)
WINDOWS = (25, 50, 100, 200, 400, 800, 1600, 3200)
QUANTILES = np.linspace(0.0, 0.9, 19)
GRID = 512
LEAST_GROUPS, LEAST_ROWS = 8, 64


@dataclass(frozen=True)
class Novelty:
    """A fitted reference for K features.

    `scores`: float32[K, grid] quantiles of each feature, for normal scores; `mean` [K] and `precision` [K, K] of those scores;
    `edges`: float32[2, K + 1, BINS - 1], a value beyond edge j (above the upper ones, below the lower ones) is in a bin over j;
    `bets`: float64[BINS, bets], log growth of each bet by bin; `null`: float64[windows, 19 + 2], for windows of each length the
    quantiles of the log evidence of benign traffic up to .9, then the mean excess over that and how many windows it is from.
    """

    scores: np.ndarray
    mean: np.ndarray
    precision: np.ndarray
    edges: np.ndarray
    bets: np.ndarray
    null: np.ndarray

    @property
    def features(self) -> int:
        """Features that are binned: K + 1."""
        return self.edges.shape[1]

    def record(self) -> dict[str, np.ndarray]:
        """Named arrays, for checkpoints and baselines."""
        return {name: getattr(self, name) for name in ("scores", "mean", "precision", "edges", "bets", "null")}

    @classmethod
    def of(cls, record: Mapping[str, np.ndarray]) -> Novelty:
        """The reverse of `record`."""
        return cls(**{name: np.asarray(record[name]) for name in ("scores", "mean", "precision", "edges", "bets", "null")})

    def bins(self, values: np.ndarray) -> np.ndarray:
        """uint8[n, 2, K + 1] tail bins of feature values, float32[n, K]."""
        return binned(with_combination(values, self.scores, self.mean, self.precision), self.edges)

    @cached_property
    def cells(self) -> int:
        """Counters that a window needs: tails x features x bins."""
        return 2 * self.features * BINS

    def log_evidence(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(log e-value float64[w], of each feature float64[w, K + 1]) of windows, counts [w, 2, K + 1, BINS]."""
        return log_evidence(counts, self.bets)

    def log10_p(self, log_e: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """log10 of the probability that a benign window of `rows` queries has evidence of at least `log_e`.

        Under the 90 % quantile from the learned quantiles, over it by an exponential tail; between window lengths by interpolation
        in log length, beyond the shortest and the longest as there.
        """
        at = np.interp(np.log(np.maximum(rows, 1)), np.log(WINDOWS), np.arange(len(WINDOWS)))
        low = np.floor(at).astype(np.int64)
        high = np.minimum(low + 1, len(WINDOWS) - 1)
        of_length = np.stack([self._log10_p(log_e, i) for i in range(len(WINDOWS))])
        columns = np.arange(len(log_e))
        return (1 - (at - low)) * of_length[low, columns] + (at - low) * of_length[high, columns]

    def _log10_p(self, log_e: np.ndarray, window: int) -> np.ndarray:
        quantiles, excess = self.null[window, : len(QUANTILES)], self.null[window, len(QUANTILES)]
        bulk = np.log10(1 - np.interp(log_e, quantiles, QUANTILES))
        tail = np.log10(1 - QUANTILES[-1]) - (log_e - quantiles[-1]) / excess / np.log(10)
        return np.where(log_e > quantiles[-1], tail, bulk)


def fit(values: np.ndarray, groups: np.ndarray, seed: int = 0, splits: int = 100) -> Novelty:
    """Learn a reference from benign queries: float32[m, K] features (NaN: not there), and whose they were, int[m].

    Values must be what a fresh query would get (own counts left out). Raises ValueError under 100 queries.
    """
    if len(values) < 100:
        raise ValueError(f"a reference needs at least 100 queries, not {len(values)}")
    values = values.astype(np.float32)
    with np.errstate(invalid="ignore"):
        scores = np.stack([quantile_grid(column) for column in values.T])
    normal = normal_scores(values, scores)
    mean = normal.mean(0)
    precision = np.linalg.inv(np.cov(normal.T).reshape(len(mean), -1) + 0.1 * np.eye(len(mean)))
    combined = with_combination(values, scores, mean, precision)
    null = learn_null(combined, groups, np.random.default_rng(seed), splits)
    return Novelty(scores, mean, precision, tail_edges(combined, len(values)), bet_table(len(values)), null)


def quantile_grid(column: np.ndarray) -> np.ndarray:
    """float32[GRID] order statistics of a column, without its NaN; NaN for a column that has nothing else."""
    present = np.sort(column[~np.isnan(column)])
    if not len(present):
        return np.full(GRID, np.nan, np.float32)
    return present[np.linspace(0, len(present) - 1, GRID).round().astype(np.int64)]


def normal_scores(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """float64[n, K]: the standard normal quantile of each value's mid-rank in the reference; 0 for NaN, and where the reference has
    none."""
    out = np.zeros(values.shape)
    for k, known in enumerate(grid):
        rank = (np.searchsorted(known, values[:, k], "left") + np.searchsorted(known, values[:, k], "right")) / 2
        out[:, k] = special.ndtri((rank + 0.5) / (len(known) + 1))
    return np.where(np.isnan(values) | np.isnan(grid[:, 0]), 0.0, out)


def with_combination(values: np.ndarray, grid: np.ndarray, mean: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """float32[n, K + 1]: the features, and the squared Mahalanobis length of their normal scores, where none of them is missing that
    the reference has."""
    normal = normal_scores(values, grid) - mean
    combination = np.einsum("ni,ij,nj->n", normal, precision, normal)
    incomplete = (np.isnan(values) & (grid[:, 0] < grid[:, -1])).any(1) | np.isnan(values).all(1)
    combination[incomplete] = np.nan
    return np.column_stack([values, combination]).astype(np.float32)


def raised_p(m: int) -> np.ndarray:
    """float64[m + 1]: the p-value of a value that `r` of m reference values reach, raised to hold with CONFIDENCE (Clopper-Pearson)."""
    r = np.arange(m)
    return np.append(special.betaincinv(r + 1, m - r, CONFIDENCE), 1.0)


def tail_edges(values: np.ndarray, m: int) -> np.ndarray:
    """float32[2, K, BINS - 1] edges of the tail bins, by the p-values of a reference of m queries, which these are a sample of.

    A feature is compared among the queries that have it: where only some of the reference's do, it is a reference of so many fewer.
    """
    count, features = values.shape
    out = np.empty((2, features, BINS - 1), np.float32)
    out[0], out[1] = np.inf, -np.inf
    for k in range(features):
        known = np.sort(values[~np.isnan(values[:, k]), k])
        if not (has := m * len(known) // count):
            continue
        most = np.searchsorted(raised_p(has), RATIO ** np.arange(1, BINS), side="right") - 1  # reference values that may reach x
        rank = most * len(known) // has
        usable = most >= 0
        out[0, k, usable] = known[::-1][rank[usable]]
        out[1, k, usable] = known[rank[usable]]
    return out


def binned(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """uint8[n, 2, K] tail bins, MISSING where a value is NaN."""
    out = np.empty((len(values), 2, values.shape[1]), np.uint8)
    for k in range(values.shape[1]):
        out[:, 0, k] = np.searchsorted(edges[0, k], values[:, k], "left")  # how many edges lie under the value
        out[:, 1, k] = np.searchsorted(-edges[1, k], -values[:, k], "left")
    out[np.isnan(values)[:, None, :].repeat(2, 1)] = MISSING
    return out


def bet_table(m: int) -> np.ndarray:
    """float64[BINS, bets]: log(1 + e (f(bin) - 1)) for every share e and f(p) = a p^(a - 1), averaged over the bin.

    Bins that a reference of m queries can't resolve get what the last one gets: all that f holds under its upper end.
    """
    upper = RATIO ** np.arange(BINS)
    last = max(1, int(np.sum(upper >= raised_p(m)[0]) - 1))
    lower = np.append(upper[1:], 0.0)
    lower[last:] = 0.0
    upper = np.maximum(upper, upper[last])
    exponents = np.array(EXPONENTS)
    mean = (upper[:, None] ** exponents - lower[:, None] ** exponents) / (upper - lower)[:, None]
    return np.log1p(np.array(SHARES)[None, :, None] * (mean[:, None, :] - 1)).reshape(BINS, -1)


def log_evidence(counts: np.ndarray, bets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `Novelty.log_evidence`."""
    grown = counts.astype(np.float64) @ bets  # [w, 2, K, bets]
    of_feature = logsumexp(grown, axis=(1, 3)) - np.log(2 * bets.shape[1])
    return (logsumexp(POWER * of_feature, axis=1) - np.log(of_feature.shape[1])) / POWER, of_feature


def learn_null(values: np.ndarray, groups: np.ndarray, rng: np.random.Generator, splits: int) -> np.ndarray:
    """float64[windows, 21], as `Novelty.null`: by half-sampling and, with several principals, by leaving each out."""
    rows = len(values)
    drawn = [windows(values, rng, rng.permutation(rows)[: rows // 2], np.arange(rows)) for _ in range(splits)]
    names, sizes = np.unique(groups, return_counts=True)
    names = names[sizes >= LEAST_ROWS]
    if len(names) >= LEAST_GROUPS:
        grouped = [
            windows(values, rng, np.flatnonzero(groups != name), np.flatnonzero(groups == name)) for name in rng.permutation(names)[:splits]
        ]
        null = np.maximum(null_of(np.concatenate(drawn, axis=1)), null_of(np.concatenate(grouped, axis=1)))
    else:
        null = null_of(np.concatenate(drawn, axis=1))
    return null


def windows(values: np.ndarray, rng: np.random.Generator, known: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float64[windows, 4] log evidence of benign windows of each length, drawn from the rows `others`, and compared with the rows
    `known`."""
    bins = binned(values[others], tail_edges(values[known], len(values)))
    cells = np.zeros((*bins.shape, BINS), np.float32)
    present = bins < BINS
    cells[present, bins[present]] = 1
    weights = [np.bincount(rng.choice(len(others), rows), minlength=len(others)) for rows in WINDOWS for _ in range(4)]
    counts = (np.array(weights, np.float32) @ cells.reshape(len(others), -1)).reshape(-1, *bins.shape[1:], BINS)
    return log_evidence(counts, bet_table(len(values)))[0].reshape(len(WINDOWS), -1)


def null_of(log_e: np.ndarray) -> np.ndarray:
    """float64[windows, 21] from log evidence of benign windows [windows, draws]. The mean excess is widened by two standard errors,
    and is at least LEAST_EXCESS: an e-value exceeds x times any of its quantiles no more often than 1 / x, which is an excess of 1, and a
    mean of power .1 much less often."""
    quantiles = np.quantile(log_e, QUANTILES, axis=1).T
    above = log_e > quantiles[:, -1:]
    number = np.maximum(1, above.sum(1))
    excess = np.where(above, log_e - quantiles[:, -1:], 0).sum(1) / number * (1 + 2 / np.sqrt(number))
    return np.column_stack([quantiles, np.maximum(excess, LEAST_EXCESS), np.full(len(log_e), log_e.shape[1])])
