"""What feedback and training rows look like when nobody poisons them, class by class, and what the sums of a source's rows may be then.

A row is a unit vector phi (`kernels.rff` of its embedding or text), a group the sum S of n rows of one source and class in one pane.
With mu and Sigma the mean and covariance of a class, Q = |S - n mu|^2 / n is n times a source's squared MMD from its class. For benign rows
Q is a sum of chi-squares weighted by Sigma's eigenvalues, of which the traces of Sigma, its square and cube tell enough (Pearson's three
moments; Imhof 1961). Sources differ without malice, and traffic wanders: that adds n rho tr(Sigma) in some direction, taken to be a single
one, which is the worst case. rho is learned from the reference's own sources and blocks of time; a reference of N rows adds n / N.

The traces come from inner products of different groups, unbiased and without the D x D matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from engine.detectors.poisoning_grams import GramNull
from engine.detectors.poisoning_labels import LabelNull
from kernels.rff import SCALE

FEATURES = 512
UNIT = np.sqrt(2.0 / FEATURES) / SCALE
"""What one count in a sum of features is worth."""
LEAST_ROWS = 100
MOST_GROUPS = 1500
SIMULATED = 64
BLOCKS = 8
KNOWN_BUCKETS = 50_000
SOURCES = (4, 16, 64, 256, 1024)


@dataclass(frozen=True)
class ClassNull:
    """A class when nobody poisons it. `rows`: N; `mean`: float64[D]; `traces`: of Sigma, its square and cube; `largest`: Sigma's largest
    eigenvalue; `along`: mu' Sigma mu; `rho`: variance between sources, relative to tr(Sigma); `top_mean`, `top_var` [5]: the largest
    eigenvalue of the scatter of 4 to 1,024 sources (normalised by their rows), from draws of the reference's own groups."""

    rows: int
    mean: np.ndarray
    traces: np.ndarray
    largest: float
    along: float
    rho: float
    top_mean: np.ndarray
    top_var: np.ndarray

    def record(self) -> dict[str, Any]:
        """Named arrays, for checkpoints and baselines."""
        return {
            "mean": self.mean, "numbers": np.array([self.rows, *self.traces, self.largest, self.along, self.rho]),
            "top_mean": self.top_mean, "top_var": self.top_var,
        }  # fmt: skip

    @classmethod
    def of(cls, record: Mapping[str, np.ndarray]) -> ClassNull:
        """The reverse of `record`."""
        rows, *traces, largest, along, rho = np.asarray(record["numbers"]).tolist()
        mean, top_mean, top_var = (np.asarray(record[n]) for n in ("mean", "top_mean", "top_var"))
        return cls(int(rows), mean, np.array(traces), largest, along, rho, top_mean, top_var)

    def distance(self, sums: np.ndarray, n: int) -> tuple[float, float]:
        """(p-value, unbiased squared MMD) of a source's `sums` [D] over n rows against the class."""
        moved = sums * UNIT - n * self.mean
        q = float(moved @ moved) / n
        a, b, top = 1 + n / self.rows, n * self.rho * self.traces[0], self.largest
        c1 = a * self.traces[0] + b
        c2 = a**2 * self.traces[1] + 2 * a * b * top + b**2
        c3 = a**3 * self.traces[2] + 3 * a**2 * b * top**2 + 3 * a * b**2 * top + b**3
        degrees = c2**3 / c3**2
        x = (q - c1) * np.sqrt(degrees / c2) + degrees
        return float(special.gammaincc(degrees / 2, max(x, 0.0) / 2)), (q - self.traces[0]) / n

    def compactness(self, sums: np.ndarray, n: int) -> tuple[float, float, float]:
        """(p-value, mean inner product of different rows, what benign rows have): are these rows more alike than the class's?"""
        s = sums * UNIT
        alike, usual = (float(s @ s) - n) / (n * (n - 1)), float(self.mean @ self.mean)
        between = self.rho * self.traces[0]
        variance = 4 * (self.along * (1 + n / self.rows) / n + between * usual) + 2 * (self.traces[1] / n**2 + between**2)
        z = max(0.0, (alike - usual - between) / np.sqrt(variance))
        return float(np.exp(-z * z / 2)), alike, usual

    def signature(self, sums: np.ndarray, n: np.ndarray) -> tuple[float, float, np.ndarray]:
        """Spectral signature of a class's sources: (p-value, largest eigenvalue over its mean, weight of each source in its direction).

        sums: [m, D], n: [m]. Rows that share a poisoned direction give the scatter of sources one eigenvalue that benign ones do not.
        """
        own = sums.sum(0) * UNIT / n.sum()  # not the reference's mean: its error would be a direction that all sources share
        moved = (sums * UNIT - n[:, None] * own) / np.sqrt(n)[:, None]
        top, weight = leading(moved)
        m = len(n)
        at = np.log(np.clip(m, SOURCES[0], None))
        mean = np.exp(np.interp(at, np.log(SOURCES), np.log(self.top_mean))) * max(1.0, m / SOURCES[-1])
        variance = np.exp(np.interp(at, np.log(SOURCES), np.log(self.top_var))) * max(1.0, m / SOURCES[-1])
        by_rows = special.gammaincc(mean**2 / variance, top * mean / variance)
        between = float(np.mean(n)) * self.rho * self.traces[0] + self.largest
        by_sources = special.gammaincc(m / 2, top / between / 2) if self.rho else 0.0
        return float(min(1.0, by_rows + by_sources)), top / mean, weight


def class_null(sums: np.ndarray, n: np.ndarray, source: np.ndarray) -> ClassNull:
    """Fit a class from groups in the order of their panes: sums [G, D], rows n [G], source int [G]. Needs 100 rows in 8 groups; ValueError
    otherwise."""
    total, rows = sums.sum(0) * UNIT, int(n.sum())
    if rows < LEAST_ROWS or len(n) < 8:
        raise ValueError(f"a class needs {LEAST_ROWS} rows in 8 groups, not {rows} in {len(n)}")
    mean = total / rows
    if len(n) > MOST_GROUPS:
        chosen = np.sort(np.random.default_rng(0).choice(len(n), MOST_GROUPS, replace=False))
        sums, n, source = sums[chosen], n[chosen], source[chosen]
    moved = (sums * UNIT - n[:, None] * mean) / np.sqrt(n)[:, None]
    gram = moved @ moved.T
    g = len(n)
    largest = leading(moved)[0] / g
    hollow = gram - np.diag(np.diag(gram))
    square = hollow @ hollow
    c1 = max(1e-6, 1.0 - float(total @ total - rows) / (rows * (rows - 1.0)))
    c2 = max(c1**2 / FEATURES, float(np.trace(square)) / (g * (g - 1)))
    c3 = max(c2**2 / c1, float((square * hollow).sum()) / (g * (g - 1) * (g - 2)))
    along = float(np.mean((moved @ mean) ** 2))
    block = np.cumsum(n) * BLOCKS // (n.sum() + 1)
    rho = between(sums, n, source, mean, c1, c2) + between(sums, n, block, mean, c1, c2)
    top_mean, top_var = simulated(moved, gram)
    return ClassNull(rows, mean, np.array([c1, c2, c3]), largest, along, rho, top_mean, top_var)


def leading(rows: np.ndarray, vectors: int = 8, rounds: int = 12) -> tuple[float, np.ndarray]:
    """(largest eigenvalue of the scatter rows' rows, share of each row in its direction, [m], summing to 1).

    By subspace iteration with eight vectors (Golub and Van Loan, 8.2): hundreds of these are wanted, of which a full decomposition of each
    would take minutes.
    """
    block = np.linalg.qr(rows.T @ np.random.default_rng(0).standard_normal((len(rows), min(vectors, *rows.shape))))[0]
    for _ in range(rounds):
        block = np.linalg.qr(rows.T @ (rows @ block))[0]
    values, turn = np.linalg.eigh((rows @ block).T @ (rows @ block))
    along = (rows @ block @ turn[:, -1]) ** 2
    return float(values[-1]), along / max(float(values[-1]), 1e-300)


def between(sums: np.ndarray, n: np.ndarray, part: np.ndarray, mean: np.ndarray, c1: float, c2: float) -> float:
    """rho of sources, or of blocks of time: the parts' extra scatter, by the method of moments, and two standard errors on top."""
    names, of_group = np.unique(part, return_inverse=True)
    rows = np.bincount(of_group, n)
    of_source = np.zeros((len(names), sums.shape[1]))
    np.add.at(of_source, of_group, sums * UNIT)
    kept = rows >= 2
    if not kept.any():
        return 0.0
    rows = rows[kept]
    moved = of_source[kept] - rows[:, None] * mean
    excess = (moved**2).sum(1) / rows / c1 - 1
    weight = rows / (rows**2).sum()
    error = np.sqrt((weight**2 * 2 * c2 / c1**2 * (1 + np.maximum(excess, 0)) ** 2).sum())
    return max(0.0, float((weight * excess).sum()) + 2 * float(error))


def simulated(moved: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the largest eigenvalue of the scatter of m sources, m in SOURCES: groups of the reference, `moved` [G, D], drawn
    with replacement; few of them by their inner products `gram` [G, G], all draws at once. Single groups stand for sources, since sums of
    few rows are the farthest from normal."""
    rng = np.random.default_rng(0)
    moments = []
    for m in SOURCES:
        drawn = rng.integers(len(moved), size=(SIMULATED if m < 256 else SIMULATED // 4, m))
        if m <= 64:
            top = np.linalg.eigvalsh(gram[drawn[:, :, None], drawn[:, None, :]])[:, -1].tolist()
        else:
            top = [leading(moved[z])[0] for z in drawn]
        moments.append((np.mean(top), np.var(top)))
    mean, variance = np.array(moments).T.copy()  # in one piece each: a checkpoint writes no strided array
    return mean, np.maximum(variance, 1e-12)


@dataclass(frozen=True)
class CopiesNull:
    """How often benign rows repeat a near-duplicate within `rows` rows. `known`: copies of the buckets that the reference repeats, each of
    which may come as often again; of a bucket that is new, P(copies >= c) = share (c / 3)^-index, c >= 4."""

    rows: int
    share: float
    index: float
    known: Mapping[str, int]

    def expected(self, code: str, copies: int, buckets: int) -> float:
        """How many of so many buckets reach as many copies: by a Poisson law where the reference has this one, upper end of its rate."""
        before = self.known.get(code, 0)
        if before:
            return len(self.known) * float(special.gammainc(copies, before + 3 * np.sqrt(before)))
        return buckets * self.share * (copies / 3.0) ** -self.index


def copies_null(codes: np.ndarray, rows: int) -> CopiesNull:
    """Fit from the bucket codes of `rows` rows, in their order. What is new is learned from the second half's buckets that the first has
    not (in twice as many rows they have about twice the copies); five buckets of index 1.5 on top keep the tail heavy."""
    first, second = np.array_split(codes, 2)
    distinct, copies = np.unique(second, return_counts=True)
    copies = copies[~np.isin(distinct, first)]
    repeated = np.log(copies[copies >= 2] / 1.5)
    share, index = (len(repeated) + 1) / (len(copies) + 1), (len(repeated) + 5) / (float(repeated.sum()) + 5 / 1.5)
    distinct, copies = np.unique(codes, return_counts=True)
    often = np.argsort(-copies, kind="stable")[:KNOWN_BUCKETS]
    known = {str(int(c)): int(k) for c, k in zip(distinct[often].tolist(), copies[often].tolist(), strict=True) if k >= 2}
    return CopiesNull(rows, share, index, known)


@dataclass(frozen=True)
class PoisoningReference:
    """All of it: classes ("" for all together, and for a class that the reference does not know), copies, labels, known sources, n-grams
    (None: too few rows with words)."""

    classes: Mapping[str, ClassNull]
    copies: CopiesNull
    labels: LabelNull | None
    sources: frozenset[str]
    grams: GramNull | None = None

    def of(self, label: str) -> ClassNull | None:
        """The class's null, or the whole's."""
        return self.classes.get(label, self.classes.get(""))

    def record(self) -> dict[str, Any]:
        """Nested plain data and arrays, for baselines and checkpoints."""
        return {
            "classes": {f"class {name}": null.record() for name, null in self.classes.items()},
            "copies": [self.copies.rows, self.copies.share, self.copies.index, dict(self.copies.known)],
            "odds": [] if self.labels is None else self.labels.odds.tolist(),
            "spread": 0.0 if self.labels is None else self.labels.spread,
            "own": {} if self.labels is None else {f"source {name}": list(own) for name, own in self.labels.own.items()},
            "sources": sorted(self.sources),
            "grams": {} if self.grams is None else self.grams.record(),
        }

    @classmethod
    def restored(cls, record: Mapping[str, Any]) -> PoisoningReference:
        """The reverse of `record`."""
        classes = {name.removeprefix("class "): ClassNull.of(null) for name, null in record["classes"].items()}
        rows, share, index, known = record["copies"]
        own = {name.removeprefix("source "): (float(own[0]), float(own[1])) for name, own in record.get("own", {}).items()}
        labels = LabelNull(np.array(record["odds"]), record["spread"], own) if record["odds"] else None
        grams = GramNull.of(record["grams"]) if record.get("grams") else None
        return cls(classes, CopiesNull(int(rows), share, index, known), labels, frozenset(record["sources"]), grams)


def fit(
    sums: np.ndarray,
    n: np.ndarray,
    series: np.ndarray,
    names: Sequence[tuple[str, str]],
    codes: np.ndarray,
    labels: LabelNull | None,
    known: frozenset[str],
    grams: GramNull | None,
) -> PoisoningReference:
    """From groups in the order of their panes (sums [G, D], n [G], series [G] into `names` of (source, class)), bucket codes in theirs,
    the nulls of labels and of n-grams, and all sources that had rows."""
    source = np.array([hash_of(names[s][0]) for s in series.tolist()], np.int64)
    of_class: dict[str, list[int]] = {}
    for i, s in enumerate(series.tolist()):
        of_class.setdefault(names[s][1], []).append(i)
    classes = {}
    for name, index in {**of_class, "": list(range(len(n)))}.items():
        try:
            classes[name] = class_null(sums[index], n[index], source[index])
        except ValueError:
            continue  # too few rows: the whole stands for this class
    return PoisoningReference(classes, copies_null(codes, int(n.sum())), labels, known, grams)


def hash_of(text: str) -> int:
    """62 bits of a name, the same everywhere."""
    import hashlib

    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 2
