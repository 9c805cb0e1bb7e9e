"""From scores to alarms: the false-alarm budget, and thresholds that follow from it.

The operator states how many false alarms a week each family of detectors may raise. A test that covers `dt` of event time, one of
`m` that share the family's budget, may then err with probability alpha = budget * dt / (week * m): the expected number of false
alarms is at most the budget, whatever the tests' dependence, since expectations add.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numba
import numpy as np

WEEK_US = 7 * 24 * 3600 * 1_000_000
MIN_ALPHA = 1e-300


@dataclass(frozen=True)
class Budget:
    """False alarms a week that are tolerable, by family of detectors."""

    per_week: Mapping[str, float] = field(default_factory=dict)
    default: float = 1.0

    def alpha(self, family: str, covers_us: float, shared_by: int = 1) -> float:
        """The error probability that one test of this family may spend.

        >>> round(Budget({"drift": 2.0}).alpha("drift", WEEK_US / 100, shared_by=4), 6)
        0.005
        """
        spend = self.per_week.get(family, self.default) * max(0.0, covers_us) / (WEEK_US * max(1, shared_by))
        return float(min(0.5, max(MIN_ALPHA, spend)))


class LogHistogram:
    """Bins of equal width in log10(score), shared by everything that remembers a score's distribution as integer counts.

    Scores at or under `low` fall into the first bin, over `high` into the last.

    >>> h = LogHistogram(0.01, 1e6, 256)
    >>> int(h.bin(np.array([0.0]))[0]), int(h.bin(np.array([1e9]))[0])
    (0, 255)
    """

    def __init__(self, low: float, high: float, bins: int):
        self.low, self.high, self.bins = np.log10(low), np.log10(high), bins
        self.width = (self.high - self.low) / bins

    def bin(self, score: np.ndarray) -> np.ndarray:
        """int64 bin of each score."""
        with np.errstate(divide="ignore"):
            position = (np.log10(np.maximum(score, 0.0)) - self.low) / self.width
        return np.clip(np.nan_to_num(position, nan=0.0, neginf=0.0, posinf=self.bins), 0, self.bins - 1).astype(np.int64)

    @property
    def upper(self) -> np.ndarray:
        """float64[bins]: the upper edge of each bin, in log10."""
        return self.low + self.width * np.arange(1, self.bins + 1)


@dataclass(frozen=True)
class Tail:
    """The upper tail of a score: P(log10 S > x) = share * exp(-(x - start) / scale) for x >= start: a Pareto tail of S.

    Fitted to the exceedances over a high quantile (peaks over threshold), by their median and not, as Hill's estimator does, by their
    mean: a fault that grows slowly puts a few huge scores into the tail before it alarms, and must not raise its own threshold.
    Source: Pickands 1975; Siffer et al., KDD 2017, use peaks over threshold for streams.
    """

    start: float
    share: float
    scale: float
    count: int

    def threshold(self, alpha: float) -> float:
        """The score that is exceeded with probability `alpha` (or the tail's start, if alpha is larger than its share)."""
        return float(10 ** (self.start + self.scale * max(0.0, np.log(self.share / alpha))))

    def p_value(self, score: np.ndarray | float) -> np.ndarray:
        """P(S >= score), at most 1; within the bulk (under the tail's start) the tail's share is an upper bound that is good enough."""
        x = np.log10(np.maximum(score, 1e-12))
        return np.where(x <= self.start, 1.0, self.share * np.exp(-(x - self.start) / self.scale))


def fit_tail(counts: np.ndarray, bins: LogHistogram, quantile: float = 0.8, least: int = 8) -> Tail | None:
    """The tail of a histogram of log scores, or None when fewer than `least` counts lie in it.

    `counts`: [bins]. The scale carries its own sampling error: it is widened by two standard errors (1.44 / sqrt(n) each, relative), so
    that a threshold from few counts is on the careful side.
    """
    start, share, scale, n = tail_of(counts, bins.low, bins.width, quantile, least)
    return None if n == 0 else Tail(start, share, scale, n)


@numba.njit(cache=True, nogil=True)
def tail_of(counts, low, width, quantile, least):
    """(start, share, scale, n) as `Tail` has them, log10 units; n = 0: too few counts. `low`, `width`: of the bins, in log10."""
    total = 0
    for c in counts:
        total += c
    wanted = (1.0 - quantile) * total
    if wanted < least:
        return 0.0, 0.0, 0.0, 0
    first, n = len(counts), 0
    while first > 0 and n < wanted:
        first -= 1
        n += counts[first]
    start = low + width * first
    half, above, median = n / 2.0, 0, 0.0
    for i in range(first, len(counts)):
        if above + counts[i] >= half:
            median = low + width * (i + (half - above) / counts[i]) - start
            break
        above += counts[i]
    scale = max(median / np.log(2.0) * (1.0 + 2.9 / np.sqrt(n)), width / 2)
    return start, n / total, scale, n
