"""How often benign sources of labels disagree with the consensus: the fleet's rate, how far sources differ, and each source's own rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import special

NODES = np.linspace(-3.0, 3.0, 25)
WEIGHT = np.exp(-0.5 * NODES**2) / np.exp(-0.5 * NODES**2).sum()
LARGER = np.geomspace(0.15, 5.0, 16)
LEAST_OF_HALF = 30
LEAST_WANDER = 0.25
"""Log odds that an honest source's rate may move by (standard deviation) though the reference was too short to show it."""


@dataclass(frozen=True)
class LabelNull:
    """How often benign sources disagree: `odds` [classes] of a disagreement, and `spread`, the standard deviation of sources' log odds.
    `own`: for sources with a history their log odds against the fleet's, and how sure that is (standard deviation, wandering included)."""

    odds: np.ndarray
    spread: float
    own: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def log_e(self, counts: np.ndarray, source: str = "") -> float:
        """log e-value of a source, counts [classes, 2] of (agreed, disagreed): odds larger than it may have against those that it may.

        A source's own factor is averaged over, under the null around its history (without one: by the fleet's spread) and under the
        alternative over factors that are larger, so the ratio is an e-process under sources like the reference's, however long one waits.
        """
        centre, deviation = self.own.get(source, (0.0, self.spread))
        larger = centre + 2 * deviation + (LARGER if source in self.own else np.linspace(0.4, 5.0, 16))
        null = special.logsumexp(self.log_likelihood(counts, centre + NODES * deviation), b=WEIGHT)
        return float(special.logsumexp(self.log_likelihood(counts, larger)) - np.log(len(larger)) - null)

    def expected(self, counts: np.ndarray, source: str = "") -> float:
        """How many of these labels would differ at the source's usual rate."""
        odds = self.odds * np.exp(self.own.get(source, (0.0, 0.0))[0])
        return float((counts.sum(1) * odds / (1 + odds)).sum())

    def log_likelihood(self, counts: np.ndarray, log_factor: np.ndarray) -> np.ndarray:
        """Of counts [classes, 2], for each log factor of the odds."""
        odds = self.odds * np.exp(log_factor)[:, None]
        return (counts[:, 1] * np.log(odds / (1 + odds)) - counts[:, 0] * np.log1p(odds)).sum(1)


def label_null(counts: np.ndarray, names: Sequence[str] = (), later: np.ndarray | None = None) -> LabelNull:
    """Fit from the reference's sources, counts int [sources, classes, 2] of (agreed, disagreed). `names`: of the sources, whose own rates
    are learned then; `later`: what of the counts is of the reference's second half.

    A class with few rows is drawn towards the fleet's rate; the spread is the likeliest of a grid, wider where the rates are uncertain.
    """
    agreed, disagreed = counts.sum(0).T.astype(np.float64)
    fleet = (disagreed.sum() + 0.5) / (disagreed.sum() + agreed.sum() + 1.0)
    rate = (disagreed + 20 * fleet) / (agreed + disagreed + 20)
    odds = rate / (1 - rate)
    grid = np.array([0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5])
    rated = [c for c in counts if c.sum() >= 10]
    plain = LabelNull(odds, 0.0)
    likelihood = [sum(special.logsumexp(plain.log_likelihood(c, NODES * s), b=WEIGHT) for c in rated) - 0.5 * s for s in grid]
    spread = float(grid[int(np.argmax(likelihood))]) if len(rated) >= 5 else 0.5
    spread = float(np.sqrt(spread**2 + 1 / (disagreed.sum() + 1)))
    wander = spread if later is None else wandering(plain, counts - later, later, spread)
    return LabelNull(odds, spread, {name: history(plain, c, spread, wander) for name, c in zip(names, counts, strict=bool(len(names)))})


def history(null: LabelNull, counts: np.ndarray, spread: float, wander: float) -> tuple[float, float]:
    """(mean, standard deviation) of a source's log factor, after counts [classes, 2] of its labels, and `wander` on top."""
    factors = np.linspace(-4.0, 4.0, 401) * spread
    log_weight = null.log_likelihood(counts, factors) - 0.5 * (factors / spread) ** 2
    weight = np.exp(log_weight - log_weight.max())
    mean = float((weight * factors).sum() / weight.sum())
    variance = float((weight * (factors - mean) ** 2).sum() / weight.sum())
    return mean, min(float(np.sqrt(variance + wander**2)), spread)


def wandering(null: LabelNull, first: np.ndarray, second: np.ndarray, spread: float) -> float:
    """Standard deviation of how far a source's log odds move from one half of the reference to the other: by the method of moments with two
    standard errors on top; at least .25 and at most what sources differ by."""
    moved, error = [], []
    for a, b in zip(first, second, strict=True):
        if min(a.sum(), b.sum()) >= LEAST_OF_HALF:
            (x, v), (y, w) = log_factor(null, a), log_factor(null, b)
            moved.append((y - x) ** 2 - v - w)
            error.append(v + w)
    if len(moved) < 3:
        return spread
    weight = 1 / np.array(error) ** 2
    estimate = float((weight * moved).sum() / weight.sum())
    doubt = float(np.sqrt((weight**2 * 2 * (np.array(error) + max(0.0, estimate)) ** 2).sum()) / weight.sum())
    return min(spread, max(LEAST_WANDER, float(np.sqrt(max(0.0, estimate + 2 * doubt)))))


def log_factor(null: LabelNull, counts: np.ndarray) -> tuple[float, float]:
    """(a source's log odds against the fleet's, its sampling variance), from counts [classes, 2]."""
    wrong, n, usual = float(counts[:, 1].sum()), float(counts.sum()), null.expected(counts)
    logit = np.log((wrong + 0.5) / (n - wrong + 0.5)) - np.log((usual + 0.5) / (n - usual + 0.5))
    return float(logit), 1 / (wrong + 0.5) + 1 / (n - wrong + 0.5)
