"""Is a run of queries like the reference, when only a few of them may differ? Bets on the tails of per-query novelty.

A query has K numeric features (surprisal, length, distance to its neighbours, ...). Each is compared with the reference's own, which
gives an upper and a lower conformal p-value, raised to hold for this very reference with confidence (calibration-conditional p-values,
Bates et al. 2023), so that a short reference does not alarm by itself. What no single feature shows, their combination may: the
squared Mahalanobis length of the features' normal scores, each the less the longer its memory, is feature K + 1.

An attacker who hides among ordinary queries shows as too many small p-values. For each feature and tail, a family of bets
    E = product over queries of 1 + e (f(p) - 1),   f decreasing with integral 1,  e = the share that might be the attacker's
pays off if there are; a product depends on how many p-values fell into each bin alone, so counts are the whole state. E-values of
dependent features may be averaged (Vovk and Wang 2021). The window's evidence is their power mean of exponent .1, which is at most the
plain average and so an e-value too. The plain one is the largest feature's alone, and a reference of a thousand queries always has a
feature that differs a little from all the traffic; near the geometric mean, several that differ count more.

Queries that follow each other may be alike: what a query and the reference are worth in independent ones is measured
(`engine.dependence`, over the stream and over each principal's own queries; of principals that are compared with each other, see below,
only what goes on from one to the next, as they show their own). p-values are raised as for a reference of so many fewer, bets grow by so
much less, and a feature whose memory leaves the reference under 20 queries is silent. How large the evidence becomes for benign windows of
n queries is learned by half-sampling: windows drawn from the whole reference in stretches of time, compared with a random half of its
stretches, which differs from the whole as the whole does from all benign queries (McCarthy 1969). When the reference has several
principals, each is compared with the others as well: real people differ more than draws from one pool.

What the null says of evidence that none of its windows had rests on how many independent stretches of traffic the reference is: of k, the
tail is that of an F distribution with k degrees of freedom, which for many is exponential and for two says that nothing is impossible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy import special
from scipy.special import logsumexp

from engine.dependence import memories, taking_turns
from kernels import tailcounts

BINS = 16
RATIO = 0.6
"""Bin j holds the p-values in (RATIO^(j+1), RATIO^j]."""
CONFIDENCE = 0.95
POWER = 0.1
"""Exponent of the mean over features: 1 is the plain average, near 0 the geometric mean."""
LEAST_EXCESS = 1.0
SHARES = (0.02, 0.05, 0.1, 0.25, 0.6)
EXPONENTS = (0.1, 0.3, 0.6)
WINDOWS = (25, 50, 100, 200, 400, 800, 1600, 3200)
QUANTILES = np.linspace(0.0, 0.9, 19)
GRID = 512
LEAST_GROUPS, LEAST_ROWS = 8, 64
BLOCKS, LEAST_BLOCKS = 16, 4
ENOUGH, LONG = 64, 256
LEAST_WORTH = 20


@dataclass(frozen=True)
class Novelty:
    """A fitted reference for K features.

    `scores`: float32[K, grid] quantiles of each feature, for normal scores; `mean` [K] and `precision` [K, K] of those scores;
    `edges`: float32[2, K + 1, BINS - 1], a value beyond edge j (above the upper ones, below the lower ones) is in a bin over j;
    `bets`: float64[K + 1, BINS, bets], log growth of each bet by feature and bin; `null`: float64[windows, 19 + 2], for windows of each
    length the quantiles of the log evidence of benign traffic up to .9, then the mean excess over that and how many independent
    stretches the reference is.
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

    @cached_property
    def reference(self) -> tailcounts.Reference:
        """What `kernels.tailcounts` compares with."""
        return reference(self.scores, self.mean, self.precision, self.edges)

    def bins(self, values: np.ndarray) -> np.ndarray:
        """uint8[n, 2, K + 1] tail bins of feature values, float32[n, K]."""
        return tailcounts.tail_bins(values, self.reference)

    @cached_property
    def cells(self) -> int:
        """Counters that a window needs: tails x features x bins."""
        return 2 * self.features * BINS

    def log_evidence(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(log e-value float64[w], of each feature float64[w, K + 1]) of windows, counts [w, 2, K + 1, BINS]."""
        return log_evidence(counts, self.bets)

    def log10_p(self, log_e: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """log10 of the probability that a benign window of `rows` queries has evidence of at least `log_e`.

        Under the 90 % quantile from the learned quantiles, over it by the tail of an F distribution, (1 + excess / (k / 2))^(-k / 2) with
        k stretches of reference; between window lengths by interpolation in log length, beyond the shortest and the longest as there.
        """
        at = np.interp(np.log(np.maximum(rows, 1)), np.log(WINDOWS), np.arange(len(WINDOWS)))
        low = np.floor(at).astype(np.int64)
        high = np.minimum(low + 1, len(WINDOWS) - 1)
        out = np.zeros(len(log_e))
        for window in np.unique([low, high]).tolist():  # mostly two of them
            share = np.where(low == window, 1 - (at - low), 0.0) + np.where(high == window, at - low, 0.0)
            mine = share > 0
            out[mine] += share[mine] * self._log10_p(log_e[mine], window)
        return out

    def _log10_p(self, log_e: np.ndarray, window: int) -> np.ndarray:
        quantiles, excess = self.null[window, : len(QUANTILES)], self.null[window, len(QUANTILES)]
        bulk = np.log10(1 - np.interp(log_e, quantiles, QUANTILES))
        half = self.null[window, len(QUANTILES) + 1] / 2
        over = np.maximum(0.0, log_e - quantiles[-1])
        tail = np.log10(1 - QUANTILES[-1]) - half * np.log1p(over / (half * excess)) / np.log(10)
        return np.where(log_e > quantiles[-1], tail, bulk)


def fit(
    values: np.ndarray, groups: np.ndarray, seed: int = 0, splits: int = 100, alone: int = 0, least_memory: float | np.ndarray = 1.0
) -> Novelty:
    """Learn a reference from benign queries in their order: float32[m, K] features (NaN: not there), and whose they were, int[m]. The last
    `alone` features have no part in the combination. `least_memory`: what is known of the features' memory beforehand.

    Values must be what a fresh query would get (own counts left out). Raises ValueError under 100 queries.
    """
    if len(values) < 100:
        raise ValueError(f"a reference needs at least 100 queries, not {len(values)}")
    values = values.astype(np.float32)
    with np.errstate(invalid="ignore"):
        scores = np.stack([quantile_grid(column) for column in values.T])
    normal = normal_scores(values, scores)
    mean = normal.mean(0)
    measured = memory_of(values, groups)
    memory = np.maximum(measured, least_memory)
    weight = np.where(worth(values, memory) > 0, 1 / np.sqrt(memory), 0.0)
    weight[len(weight) - alone :] = 0
    covariance = np.cov((normal * weight).T).reshape(len(mean), -1)
    precision = weight[:, None] * np.linalg.inv(covariance + 0.1 * np.eye(len(mean))) * weight
    combined = with_combination(values, scores, mean, precision)
    of_combination = memory_of(combined[:, -1:], groups)
    memory, wanders = np.append(memory, of_combination), bool(max(measured.max(), of_combination[0]) > 1)
    units = stretches_in(combined, groups)
    null = learn_null(combined, memory, wanders, units, groups, np.random.default_rng(seed), splits)
    has = worth(combined, memory)
    return Novelty(scores, mean, precision, tail_edges(combined, has), bet_table(has, memory), null)


def stretches_in(values: np.ndarray, groups: np.ndarray) -> float:
    """How many independent stretches of traffic rows are, as `fit` takes them: by the feature with the longest memory, for what makes that
    one wander may move others a little, too little to be measured and enough to alarm."""
    return len(values) / float(max(memory_of(values, groups).max(), own_memory(values, groups).max()))


def enough(values: np.ndarray, groups: np.ndarray) -> bool:
    """Whether a reference of these rows would know what it needs to: ENOUGH independent stretches, and, where a principal's queries are
    alike, for how long they stay so: LONG of each."""
    if stretches_in(values, groups) < ENOUGH:
        return False
    _, of_row, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if np.median(sizes[of_row]) >= LONG:
        return True
    order = np.argsort(groups, kind="stable")
    return bool(memories(values[order], np.zeros(len(groups), np.int64)).max() == 1)


def memory_of(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """float64[K] memory of each feature: over the stream, and over each principal's own queries; of principals that are compared with each
    other only what goes on from one to the next, as they show their own."""
    if len(compared(groups)):
        turns = taking_turns(groups)
        return memories(values[turns], groups[turns])
    return np.maximum(memories(values, groups), own_memory(values, groups))


def own_memory(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """float64[K] memory of each feature over principal after principal, each one's queries in their order."""
    order = np.argsort(groups, kind="stable")
    return memories(values[order], groups[order])


def worth(values: np.ndarray, memory: np.ndarray) -> np.ndarray:
    """int64[K]: how many independent queries the values of each feature are worth; 0 where there are too few to compare with."""
    has = np.count_nonzero(~np.isnan(values), axis=0)
    return np.where(has < LEAST_WORTH * memory, 0, has / memory).astype(np.int64)


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


def reference(scores: np.ndarray, mean: np.ndarray, precision: np.ndarray, edges: np.ndarray) -> tailcounts.Reference:
    """As `kernels.tailcounts` wants it. A feature is needed for the combination if it has a part in it, and more than one value."""
    needed = (scores[:, 0] < scores[:, -1]) & (np.diag(precision) > 0)
    ranks = scores_of_ranks(scores.shape[1])
    return tailcounts.Reference(scores, ranks, mean, precision, needed, np.ascontiguousarray(edges[0]), np.ascontiguousarray(-edges[1]))


@lru_cache(maxsize=8)
def scores_of_ranks(m: int) -> np.ndarray:
    """float64[2 m + 1]: the normal score of each mid-rank among m values, 0, 1/2, 1, ... m."""
    return np.asarray(special.ndtri((np.arange(2 * m + 1) / 2 + 0.5) / (m + 1)))


def with_combination(values: np.ndarray, scores: np.ndarray, mean: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """float32[n, K + 1]: the features, and the squared Mahalanobis length of their normal scores."""
    no_edges = np.empty((2, values.shape[1] + 1, 0), np.float32)
    return np.column_stack([values, tailcounts.combine(values, reference(scores, mean, precision, no_edges))])


@lru_cache(maxsize=64)
def raised_p(m: int) -> np.ndarray:
    """float64[m + 1]: the p-value of a value that `r` of m reference values reach, raised to hold with CONFIDENCE (Clopper-Pearson)."""
    r = np.arange(m)
    return np.append(special.betaincinv(r + 1, m - r, CONFIDENCE), 1.0)


def tail_edges(values: np.ndarray, has: np.ndarray) -> np.ndarray:
    """float32[2, K, BINS - 1] edges of the tail bins, by the p-values of a reference that is worth `has` [K] queries, which these are a
    sample of. A feature is compared among the queries that have it."""
    features = values.shape[1]
    out = np.empty((2, features, BINS - 1), np.float32)
    out[0], out[1] = np.inf, -np.inf
    for k in range(features):
        known = np.sort(values[~np.isnan(values[:, k]), k])
        if not (has[k] and len(known)):
            continue
        most = np.searchsorted(raised_p(int(has[k])), RATIO ** np.arange(1, BINS), side="right") - 1  # reference values that may reach x
        rank = most * len(known) // has[k]
        usable = most >= 0
        out[0, k, usable] = known[::-1][rank[usable]]
        out[1, k, usable] = known[rank[usable]]
    return out


def binned(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """uint8[n, 2, K] tail bins, `tailcounts.MISSING` where a value is NaN."""
    return tailcounts.binned(values, np.ascontiguousarray(edges[0]), np.ascontiguousarray(-edges[1]))


def bet_table(has: np.ndarray, memory: np.ndarray) -> np.ndarray:
    """float64[K, BINS, bets]: `bets_of` each feature, from what its reference is worth, and a query is: the growths of every `memory`-th
    query are in order; the geometric mean of so many streams is the growth of all to the power of 1 / memory, and no more than their
    mean."""
    return np.stack([bets_of(int(m)) / kept for m, kept in zip(has, memory, strict=True)])


@lru_cache(maxsize=64)
def bets_of(m: int) -> np.ndarray:
    """float64[BINS, bets]: log(1 + e (f(bin) - 1)) for every share e and f(p) = a p^(a - 1), averaged over the bin.

    Bins that a reference of m queries can't resolve get what the last one gets: all that f holds under its upper end; with none, nothing.
    """
    if not m:
        return np.zeros((BINS, len(SHARES) * len(EXPONENTS)))
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
    grown = np.einsum("wtkb,kbe->wtke", counts.astype(np.float64), bets)
    of_feature = logsumexp(grown, axis=(1, 3)) - np.log(2 * bets.shape[2])
    return (logsumexp(POWER * of_feature, axis=1) - np.log(of_feature.shape[1])) / POWER, of_feature


def learn_null(
    values: np.ndarray, memory: np.ndarray, wanders: bool, units: float, groups: np.ndarray, rng: np.random.Generator, splits: int
) -> np.ndarray:
    """float64[windows, 21], as `Novelty.null`: by half-sampling, of blocks of rows; with several principals of rows, unless what
    is alike goes on from one to the next, and by leaving each principal out, whichever is more. `units`: independent stretches."""
    rows, names = np.arange(len(values)), compared(groups)
    blocks = int(min(BLOCKS, max(LEAST_BLOCKS, units)))
    number, longest = (blocks, len(rows) * 2 // blocks) if not len(names) or wanders else (len(rows), 1)
    drawn = [windows(values, memory, rng, half(rng, number, len(rows)), rows, longest) for _ in range(splits)]
    null = null_of(np.concatenate(drawn, axis=1), units)
    if not len(names):
        return null
    grouped = [
        windows(values, memory, rng, np.flatnonzero(groups != name), mine := np.flatnonzero(groups == name), len(mine) // 2)
        for name in rng.permutation(names)[:splits]
    ]
    return np.maximum(null, null_of(np.concatenate(grouped, axis=1), units))


def compared(groups: np.ndarray) -> np.ndarray:
    """The principals that are compared with the others: those with rows enough, and none where there are few of them."""
    names, sizes = np.unique(groups, return_counts=True)
    names = names[sizes >= LEAST_ROWS]
    return names if len(names) >= LEAST_GROUPS else names[:0]


def half(rng: np.random.Generator, number: int, rows: int) -> np.ndarray:
    """int64: half of the rows, by so many blocks of rows that follow each other."""
    order = rng.permutation(number)[: number // 2]
    if number == rows:
        return order
    edges = np.linspace(0, rows, number + 1).astype(np.int64)
    return np.concatenate([np.arange(edges[i], edges[i + 1]) for i in order])


def windows(
    values: np.ndarray, memory: np.ndarray, rng: np.random.Generator, known: np.ndarray, others: np.ndarray, longest: int
) -> np.ndarray:
    """float64[windows, 4] log evidence of benign windows of each length, drawn from the rows `others` and compared with the rows `known`.

    They are drawn in stretches of at most `longest` rows that follow each other (a moving block bootstrap, Kuensch 1989): what lasts for a
    while shows in a short window as it does in traffic, and independent rows are drawn as if one by one.
    """
    has = worth(values, memory)
    bins = binned(values[others], tail_edges(values[known], has))
    wanted = np.repeat(WINDOWS, 4)
    lengths = np.minimum(wanted, max(1, longest))
    starts = rng.integers(0, len(others), int(np.sum(-(-wanted // lengths))))
    return tailcounts.drawn_evidence(bins, starts, wanted, lengths, bet_table(has, memory), POWER).reshape(len(WINDOWS), -1)


def null_of(log_e: np.ndarray, units: float) -> np.ndarray:
    """float64[windows, 21] from log evidence of benign windows [windows, draws]. The mean excess is widened by two standard errors,
    and is at least 1: an e-value exceeds x times any of its quantiles no more often than 1 / x, which is an excess of 1, and a
    mean of power .1 much less often. `units`: independent stretches."""
    quantiles = np.quantile(log_e, QUANTILES, axis=1).T
    above = log_e > quantiles[:, -1:]
    number = np.maximum(1, above.sum(1))
    excess = np.where(above, log_e - quantiles[:, -1:], 0).sum(1) / number * (1 + 2 / np.sqrt(number))
    return np.column_stack([quantiles, np.maximum(excess, LEAST_EXCESS), np.full(len(log_e), units)])
