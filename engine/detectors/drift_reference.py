"""A series' reference: frozen bins, their counts, and how much the series wanders by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from kernels import profile

WIDTH = 32
BINS = WIDTH + 3
"""A histogram as the `profile` op has it: below, the bins, above, null. Of exact values, `above` holds the unseen ones."""
NULL = BINS - 1
BLOCK_ROWS = 256
KEPT_PER_PANE = 4096
FEW = 2048


def category_code(value: str) -> float:
    """A stable number for a category: 52 bits of a hash, exact in a float64."""
    return float(int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "little") >> 12)


@dataclass
class Reference:
    """`exact`: each bin is one value (a category, or a number that takes few values); else the bins lie between quantiles.

    `points`: float64, ascending: the values, or the edges. `counts`: int64[35]. `tau`: variance between blocks of the reference, per
    degree of freedom and row, beyond what chance explains. `names`: what a category's code stands for.
    """

    exact: bool
    points: np.ndarray
    counts: np.ndarray
    tau: float = 0.0
    names: dict[str, str] = field(default_factory=dict)

    @cached_property
    def edges(self) -> profile.Edges:
        """The bins as the `profile` op takes them; exact values are binned by their rank among `points`."""
        return profile.from_edges(np.arange(len(self.points) + 1) - 0.5 if self.exact else self.points, width=WIDTH)

    @cached_property
    def thresholds(self) -> np.ndarray:
        """float64: a value's bin is how many of them are not greater; see `kernels.profile.Edges`."""
        return self.edges.thresholds[0, : self.edges.bins[0] + 1]

    def fold(self, values: np.ndarray, slots: np.ndarray | int, counts: np.ndarray) -> None:
        """Count values (float32 or float64, NaN is null) into the rows `slots` of `counts`."""
        profile.profile(self.ranked(values), slots, self.edges, profile.Profile(counts))

    def histogram(self, values: np.ndarray) -> np.ndarray:
        """int64[35] of the values, by a binary search where there are too few for the op to pay."""
        if len(values) < FEW:
            bins = np.searchsorted(self.thresholds, self.ranked(values), side="right")
            return np.bincount(np.where(np.isnan(values), NULL, np.where(bins > self.edges.bins[0], NULL - 1, bins)), minlength=BINS)
        counts = np.zeros((1, BINS), np.int64)
        self.fold(values, 0, counts)
        return counts[0]

    def ranked(self, values: np.ndarray) -> np.ndarray:
        """Exact values as ranks, unseen ones beyond the last; others as they are."""
        if not self.exact:
            return values
        at = np.searchsorted(self.points, values)
        found = self.points[np.minimum(at, len(self.points) - 1)] == values
        return np.where(np.isnan(values), np.nan, np.where(found, at, len(self.points))).astype(np.float32)

    def label(self, index: int) -> str:
        """What a bin holds, for people."""
        last = self.edges.bins[0]
        if index == NULL:
            return "null"
        if self.exact:
            if not 1 <= index <= len(self.points):
                return "unseen"
            return self.names.get(str(int(self.points[index - 1])), f"{self.points[index - 1]:g}")
        if index == 0:
            return f"< {self.points[0]:g}"
        return f"> {self.points[-1]:g}" if index > last else f"{self.points[index - 1]:g} to {self.points[index]:g}"

    def change(self, window: np.ndarray) -> str:
        """The bin whose share changed most, in words."""
        before, after = self.counts / max(1, self.counts.sum()), window / max(1, window.sum())
        most = int(np.argmax(np.abs(after - before)))
        return f"the share of {self.label(most)} went from {before[most]:.1%} to {after[most]:.1%}"

    def record(self) -> dict[str, Any]:
        """Plain data, for checkpoints and baselines."""
        return {
            "exact": self.exact, "points": self.points.tolist(), "counts": self.counts.tolist(), "tau": self.tau, "names": self.names,
        }  # fmt: skip

    @classmethod
    def of(cls, record: dict[str, Any]) -> Reference:
        """The reverse of `record`."""
        return cls(record["exact"], np.array(record["points"]), np.array(record["counts"], np.int64), record["tau"], record["names"])


def learn(values: np.ndarray, blocks: np.ndarray) -> Reference:
    """A reference from values (float64[n], NaN is null) and the pane each came from; consecutive panes make blocks of 256 rows.

    `tau` follows from the G statistics of block against rest: their mean is (1 + tau n m / (n + m)) degrees of freedom. One standard
    error is added, so that a short reference errs on the careful side.
    """
    present = values[np.isfinite(values)]
    distinct = np.unique(present)
    exact = len(distinct) <= WIDTH
    points = distinct if exact else np.unique(np.quantile(present, np.linspace(0, 1, WIDTH + 1)))
    reference = Reference(exact, points if len(points) else np.zeros(1), np.zeros(BINS, np.int64))
    order = np.argsort(blocks, kind="stable")
    panes, first = np.unique(blocks[order], return_index=True)
    of_pane = [reference.histogram(values[rows]) for rows in np.split(order, first[1:])] if len(panes) else []
    reference.counts = np.array(of_pane, np.int64).reshape(-1, BINS).sum(axis=0)
    reference.tau = between_blocks(of_pane)
    return reference


def between_blocks(of_pane: Sequence[np.ndarray]) -> float:
    """The variance between blocks, as `learn` describes it; `of_pane`: histograms of panes, in their order."""
    histograms, block = [], np.zeros(BINS, np.int64)
    for counts in of_pane:
        block = block + counts
        if block.sum() >= BLOCK_ROWS:
            histograms.append(block)
            block = np.zeros(BINS, np.int64)
    if len(histograms) < 2:
        return 0.0
    total = np.sum(histograms, axis=0)
    excess, weight, degrees = [], [], 0
    for one in histograms:
        a, b = one.astype(np.float64), (total - one).astype(np.float64)
        keep = (a + b) > 0
        a, b = a[keep], b[keep]
        n, m = a.sum(), b.sum()
        pooled = (a + b) / (n + m)
        with np.errstate(divide="ignore", invalid="ignore"):
            g = 2 * (np.where(a > 0, a * np.log(a / (n * pooled)), 0).sum() + np.where(b > 0, b * np.log(b / (m * pooled)), 0).sum())
        df = max(1, len(a) - 1)
        excess.append(g / df)
        weight.append(n * m / (n + m))
        degrees += df
    ratio = float(np.mean(excess)) * (1 + np.sqrt(2 / degrees))
    return max(0.0, (ratio - 1) / float(np.mean(weight)))


def table_of(reference: Reference, window: np.ndarray) -> list[dict[str, Any]]:
    """The two histograms side by side, bins that neither has left out, for an alert's evidence."""
    return [
        {"bin": reference.label(i), "reference": int(reference.counts[i]), "window": int(window[i])}
        for i in range(BINS)
        if reference.counts[i] or window[i]
    ]
