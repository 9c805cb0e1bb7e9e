"""A series' reference: frozen bins, their counts, and how much the series wanders by itself; by hour of the week and by segment as well."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numba import njit

from engine.detectors.drift_statistics import g_tests
from kernels import profile

WIDTH = 32
BINS = WIDTH + 3
"""A histogram as the `profile` op has it: below, the bins, above, null. Of exact values, `above` holds the unseen ones."""
NULL = BINS - 1
BLOCK_ROWS = 256
KEPT_PER_PANE = 4096
FEW = 2048
HOURS = 168
HOUR_US = 3_600_000_000
SEASONAL_US = (2 * HOURS - 1) * HOUR_US
"""A reference that covers two weeks (its last hour may be cut short) is stratified by hour of the week (UTC, from Thursday 0:00)."""
FEW_EVENTS, UNKNOWN, LEAST_SCALE_DF = 8, 8.0, 8.0
MEMORY_ROWS = (64, 128, 256)
"""Rows of the blocks in which memory is looked for."""
LEARNED = ("tau", "shape", "worth", "events")
SHRUNK_BY = 64
"""Rows of the whole reference that are added to a stratum's own, so that a thin one does not claim to know its distribution."""


@lru_cache(maxsize=1 << 16)
def category_code(value: str) -> float:
    """A stable number for a category: 52 bits of a hash, exact in a float64."""
    return float(int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "little") >> 12)


@dataclass
class Reference:
    """`exact`: each bin is one value (a category, or a number that takes few values); else the bins lie between quantiles.

    `points`: float64, ascending: the values, or the edges. `counts`: int64[35]. `tau`: variance between blocks of the reference, per
    degree of freedom and row, beyond what chance explains. `shape`, `worth`, `events`: see `wandering`. `names`: what a category's code
    stands for.
    `hours`: int64[168, 35] counts by hour of the week, where they are known; `parts`: references by segment (`region=eu`), of the same
    points. `about`: what it was made from.
    """

    exact: bool
    points: np.ndarray
    counts: np.ndarray
    tau: float = 0.0
    names: dict[str, str] = field(default_factory=dict)
    hours: np.ndarray | None = None
    parts: dict[str, Reference] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    shape: float = 1.0
    worth: float = np.inf
    events: float = np.inf

    @property
    def scale_df(self) -> float:
        """Degrees of freedom of what the reference says of its own wandering: independent rows by 8, more where G has more than 16 degrees
        of freedom itself; and no more than it has events, if it has any."""
        own = (np.count_nonzero(self.counts) - 1) * self.shape
        return max(1.0, min(self.worth / 8 * max(1.0, own / 16), self.events if self.events >= 1 else LEAST_SCALE_DF))

    @property
    def least_wander(self) -> float:
        """Of so few independent events nobody can say whether they come in clusters: a row then counts an eighth."""
        return UNKNOWN if self.events < FEW_EVENTS else 1.0

    @cached_property
    def edges(self) -> profile.Edges:
        """The bins as the `profile` op takes them; exact values are binned by their rank among `points`."""
        return profile.from_edges(np.arange(len(self.points) + 1) - 0.5 if self.exact else self.points, width=WIDTH)

    @cached_property
    def basis(self) -> str:
        """What tells these bins from others: counts of different ones do not add."""
        return hashlib.blake2b(self.points.tobytes(), digest_size=8, person=b"exact" if self.exact else b"edges").hexdigest()

    @cached_property
    def thresholds(self) -> np.ndarray:
        """float64: a value's bin is how many of them are not greater; see `kernels.profile.Edges`."""
        return self.edges.thresholds[0, : self.edges.bins[0] + 1]

    @cached_property
    def places(self) -> np.ndarray | None:
        """float64[35]: where each bin lies on the line, NaN where nowhere; None for categories."""
        if self.names:
            return None
        places = np.full(BINS, np.nan)
        if self.exact:
            places[1 : len(self.points) + 1] = self.points
        else:
            places[0], places[NULL - 1] = self.points[0], self.points[-1]
            places[1 : len(self.points)] = (self.points[1:] + self.points[:-1]) / 2
        return places

    @cached_property
    def points32(self) -> np.ndarray:
        """float32: the points, to look float32 values up among them."""
        return self.points.astype(np.float32)

    @cached_property
    def by_hour(self) -> np.ndarray:
        """float64[168, 36]: the share of each bin in each hour of the week, drawn towards that of the same hour of all days; then 1 / rows
        known of the hour."""
        assert self.hours is not None
        of_day = self.hours.reshape(7, 24, BINS).sum(axis=0)
        return shares(self.hours, np.tile(of_day, (7, 1)) + self.counts / max(1, self.counts.sum()))

    @cached_property
    def by_part(self) -> dict[str, np.ndarray]:
        """float64[36] of each segment: as `by_hour`."""
        return {name: shares(part.counts, self.counts) for name, part in self.parts.items()}

    @cached_property
    def overall(self) -> np.ndarray:
        """float64[36]: the same of all rows, for segments that the reference does not know."""
        return np.append(self.counts / max(1, self.counts.sum()), 1 / max(1, self.counts.sum()))

    def fold(self, values: np.ndarray, slots: np.ndarray | int, counts: np.ndarray) -> None:
        """Count values (NaN is null) into the rows `slots` of `counts`; numbers count as the float32 that they come as."""
        profile.profile(self.ranked(values).astype(np.float32, copy=False), slots, self.edges, profile.Profile(counts))

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
        return ranks(values, self.points32 if values.dtype == np.float32 else self.points)

    def label(self, index: int) -> str:
        """What a bin holds, for people."""
        last = self.edges.bins[0]
        if index == NULL:
            return "null"
        if self.exact:
            if not 1 <= index <= len(self.points):
                return "other" if self.counts[NULL - 1] else "unseen"
            return self.names.get(str(int(self.points[index - 1])), f"{self.points[index - 1]:g}")
        if index == 0:
            return f"< {self.points[0]:g}"
        return f"> {self.points[-1]:g}" if index > last else f"{self.points[index - 1]:g} to {self.points[index]:g}"

    def change(self, window: np.ndarray, expected: np.ndarray) -> str:
        """The bin whose share changed most against what was expected, in words."""
        before, after = expected / max(1, expected.sum()), window / max(1, window.sum())
        most = int(np.argmax(np.abs(after - before)))
        return f"the share of {self.label(most)} went from {before[most]:.1%} to {after[most]:.1%}"

    def record(self) -> dict[str, Any]:
        """Plain data, for checkpoints and baselines."""
        out: dict[str, Any] = {
            "exact": self.exact, "points": self.points.tolist(), "counts": self.counts.tolist(), "tau": self.tau, "names": self.names,
            "shape": self.shape, "worth": min(self.worth, float(self.counts.sum())), "events": min(self.events, float(self.counts.sum())),
        }  # fmt: skip
        if self.hours is not None:
            out["hours"] = self.hours.tolist()
        if self.parts:
            out["parts"] = {
                name: {"counts": part.counts.tolist()} | {f: getattr(part, f) for f in LEARNED} for name, part in self.parts.items()
            }
        if self.about:
            out["about"] = self.about
        return out

    @classmethod
    def of(cls, record: dict[str, Any]) -> Reference:
        """The reverse of `record`."""
        exact, points, names = record["exact"], np.array(record["points"], np.float64), record["names"]
        parts = {
            name: cls(exact, points, np.array(part["counts"], np.int64), names=names, **{f: part[f] for f in LEARNED if f in part})
            for name, part in record.get("parts", {}).items()
        }
        hours = np.array(record["hours"], np.int64) if "hours" in record else None
        counts = np.array(record["counts"], np.int64)
        learned = {f: record[f] for f in LEARNED if f in record}
        return cls(exact, points, counts, names=names, hours=hours, parts=parts, about=record.get("about", {}), **learned)


@njit(nogil=True, cache=True)
def ranks(values, points):
    """float32: each value's place among ascending points, len(points) where it is none of them, NaN where it is NaN."""
    out = np.empty(len(values), np.float32)
    for i in range(len(values)):
        v = values[i]
        at = 0
        for j in range(len(points)):
            at += points[j] < v
        out[i] = np.nan if np.isnan(v) else at if at < len(points) and points[at] == v else len(points)
    return out


def shares(counts: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """float64[..., 36]: shares of the bins, shrunk towards those of the whole, then 1 / rows that they rest on."""
    rows = counts.sum(axis=-1, keepdims=True) + SHRUNK_BY
    towards = SHRUNK_BY * whole / np.maximum(1, whole.sum(axis=-1, keepdims=True))
    return np.concatenate([(counts + towards) / rows, 1 / rows], axis=-1)


def learn(
    values: np.ndarray, blocks: np.ndarray, pane_us: int = 1_000_000, segments: dict[str, np.ndarray] | None = None, seasonal: bool = True,
    categorical: bool = False,
) -> Reference:  # fmt: skip
    """A reference from values (float64[n], NaN is null) and the pane each came from; consecutive panes make blocks of 256 rows.

    `tau` follows from the G statistics of block against rest: their mean is (1 + tau n m / (n + m)) degrees of freedom. One standard
    error is added, so that a short reference errs on the careful side. `segments`: bool[n] by name, whose rows get a part of their own.
    `categorical`: values are codes; of more than 32 the commonest have a bin each, and the others share one.
    """
    present = values[np.isfinite(values)]
    distinct, rows = np.unique(present, return_counts=True)
    if categorical and len(distinct) > WIDTH:
        distinct = np.sort(distinct[np.argsort(-rows, kind="stable")[:WIDTH]])
    exact = len(distinct) <= WIDTH
    points = distinct if exact else np.unique(np.quantile(present, np.linspace(0, 1, WIDTH + 1)))
    reference = Reference(exact, points if len(points) else np.zeros(1), np.zeros(BINS, np.int64))
    of_pane = by_pane(reference, values, blocks)
    panes = np.unique(blocks)
    reference.counts = of_pane.sum(axis=0)
    hour = (panes * pane_us // HOUR_US % HOURS).astype(np.int64)
    if seasonal and len(panes) and (panes[-1] - panes[0] + 1) * pane_us >= SEASONAL_US:
        reference.hours = np.zeros((HOURS, BINS), np.int64)
        np.add.at(reference.hours, hour, of_pane)
        expected = of_pane.sum(axis=1, keepdims=True) * reference.by_hour[hour, :BINS]
        learned = wandering(of_pane, expected)
    else:
        learned = wandering(of_pane)
    reference.tau, reference.shape, reference.worth, reference.events = learned
    for name, mine in (segments or {}).items():
        histograms = by_pane(reference, values[mine], blocks[mine])
        tau, shape, worth, events = wandering(histograms)
        part = Reference(
            exact,
            reference.points,
            histograms.sum(axis=0),
            max(reference.tau, tau),
            shape=min(reference.shape, shape),
            worth=worth,
            events=events,
        )
        reference.parts[name] = part
    return reference


def by_pane(reference: Reference, values: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """int64[P, 35]: the histogram of each pane, in their order."""
    panes, at = np.unique(blocks, return_inverse=True)
    counts = np.zeros((len(panes), BINS), np.int64)
    if len(panes):
        reference.fold(values, at.astype(np.int32), counts)
    return counts


def wandering(of_pane: np.ndarray, expected: np.ndarray | None = None) -> tuple[float, float, float, float]:
    """(tau, shape, worth, events) of a reference, from histograms of its panes in their order; `expected`: float64, the same as the hours
    of the panes would have it (None: as the rest of the blocks has it).

    Rows that depend on each other are fewer than they seem, and the bins' deviations are of one piece, so G has a larger scale and a longer
    tail than its chi-square. tau: as `learn` describes it, from blocks of 256 rows. shape: the degrees of freedom that G has, as a share
    of the nominal ones, by the first two moments of its eigenvalues (Satterthwaite 1946); the second one's comes from inner products of
    different blocks, which do not contain a block's own noise. worth: independent rows; the mean eigenvalue, weighted by itself, is the
    number of rows that are worth one. All by blocks of 64, 128 and 256 rows, whichever says worst: memory shows in those that are
    longer than it, and long blocks are few. events: independent rows that are not in the commonest bin.
    """
    g, df, weight = between_blocks(of_pane, expected, BLOCK_ROWS)
    tau, shape, apart, inflation, rows = 0.0, 1.0, 1.0, 1.0, float(of_pane.sum())
    for least in MEMORY_ROWS:
        mean, second, nominal = eigenvalues(of_pane, expected, least)
        if nominal and mean > 0:
            inflation, shape = max(inflation, mean), min(shape, max(mean**2 / max(second, 1e-9), 1 / nominal))
            apart = max(apart, second / mean, mean)
    worth, counts = rows / apart, of_pane.sum(axis=0)
    events = float(counts.sum() - counts.max(initial=0)) / inflation
    if len(g) >= 2:
        ratio = float((g / df).mean()) * (1 + np.sqrt(2 / df.sum()))
        spread = inflation * (1 + np.sqrt(2 / (max(1.0, worth / 8) * float(df.mean()) * shape))) if inflation > 1 else 1.0
        tau = max(0.0, (max(ratio, spread) - 1) / float(weight.mean()))
    return tau, float(shape), worth, events


def eigenvalues(of_pane: np.ndarray, expected: np.ndarray | None, least: int) -> tuple[float, float, int]:
    """(mean, mean square, number) of the eigenvalues of the blocks' covariance, in units of what it would be for independent rows."""
    cuts = cuts_of(of_pane, least)
    if len(cuts) < 5:
        return 1.0, 1.0, 0
    blocks = np.add.reduceat(of_pane[: cuts[-1]], cuts[:-1]).astype(np.float64)
    n, k = blocks.sum(axis=1, keepdims=True), len(blocks)
    share = blocks.sum(axis=0, keepdims=True) / max(1.0, blocks.sum())
    if expected is not None:
        share = np.add.reduceat(expected[: cuts[-1]], cuts[:-1]) / n
    used = blocks.any(axis=0)
    number = int(used.sum()) - 1
    if number < 1:
        return 1.0, 1.0, 0
    usual = np.maximum((n * share)[:, used], 1e-9)
    away = (blocks[:, used] - usual) / np.sqrt(usual)
    gram = away @ away.T
    first = float(np.trace(gram)) / (k - 1)
    other = gram[~np.eye(k, dtype=np.bool_)]  # about -first / k each: the blocks' deviations add up to nothing
    second = float(other.var()) * (k / (k - 1)) ** 2
    return first / number, second / number, number


def cuts_of(of_pane: np.ndarray, least: int) -> list[int]:
    """Where blocks of consecutive panes of at least so many rows begin and end; what is left over is in none."""
    cuts, held = [0], 0
    for i, rows in enumerate(of_pane.sum(axis=1).tolist()):
        held += rows
        if held >= least:
            cuts.append(i + 1)
            held = 0
    return cuts


def between_blocks(of_pane: np.ndarray, expected: np.ndarray | None, least: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(G, degrees of freedom, n m / (n + m)) of each block of at least so many rows against what is expected of it, float64[B]."""
    cuts = cuts_of(of_pane, least)
    if len(cuts) < 3:
        return np.empty(0), np.empty(0), np.empty(0)
    histograms = np.add.reduceat(of_pane[: cuts[-1]], cuts[:-1]).astype(np.float64)
    n = histograms.sum(axis=1, keepdims=True)
    rest = histograms.sum(axis=0) - histograms
    if expected is not None:
        rest = np.add.reduceat(expected[: cuts[-1]], cuts[:-1]) / n * (n.sum() - n)
    g, df, _ = g_tests(rest, histograms).T
    return g, df, (n * (n.sum() - n) / n.sum())[:, 0]


def table_of(reference: np.ndarray, window: np.ndarray, label: Callable[[int], str]) -> list[dict[str, Any]]:
    """The two histograms side by side, bins that neither has left out, for an alert's evidence."""
    bins = [i for i in range(BINS) if reference[i] or window[i]]
    return [{"bin": label(i), "reference": round(float(reference[i])), "window": int(window[i])} for i in bins]
