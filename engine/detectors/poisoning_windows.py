"""Windows over merged panes of a feedback stream: per source and class, per class, over all rows for copies; and what is due in them.

Series by series everything is a sum, so a window's content at the end of a pane does not depend on how rows came in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine import samples
from engine.detectors.poisoning_reference import FEATURES, PoisoningReference, hash_of
from engine.detectors.poisoning_rows import CLASSES
from engine.sketch import Sketch
from engine.state import ArraySpec, State
from kernels import cardinality

SERIES, SOURCE, BUCKET = "poisoning.series", "poisoning.source", "poisoning.bucket"
SCALES = (32, 256, 2048)
CLASS_ROWS = 2048
LABELS_EVERY = 16
LEAST_SOURCES = 4
TOTALS, MEMBERS = "poisoning.totals", "poisoning.members"
LAST_MEMBERS = 16
SEPARATOR = "\x1f"
WIDTH = 1 + FEATURES


@dataclass(frozen=True)
class Due:
    """One test that is due. `score`: -log10 p or log10 e; `effect`: in the signal's own unit; `tests`: how many run side by side
    (0: as many as there are series). `sampled`: the series whose rows are its samples, the most telling first."""

    signal: str
    key: str
    since_us: int
    last_us: int
    score: float
    effect: float
    rows: int
    p_value: float | None = None
    e_value: float | None = None
    tests: int = 0
    sampled: tuple[str, ...] = ()
    evidence: dict[str, Any] = field(default_factory=dict)


class Windows:
    """The windows of one population's state."""

    def __init__(self, state: State, reference: PoisoningReference, pane_us: int, least_copies: int):
        self.state, self.reference, self.pane_us, self.least_copies = state, reference, pane_us, least_copies
        self.due: list[Due] = []
        self.members: dict[str, list[tuple[int, str]]] = {}

    @staticmethod
    def arrays() -> Sequence[ArraySpec]:
        """What the windows keep: [rows, sums] per series and scale and for the class's window; labels per source; copies per bucket."""
        return (
            ArraySpec("poisoning.window", "int64", (SERIES, len(SCALES) + 1, WIDTH)),
            ArraySpec("poisoning.since_us", "int64", (SERIES, len(SCALES))),
            ArraySpec("poisoning.started_us", "int64", (SERIES,)),
            ArraySpec("poisoning.label_counts", "int64", (SOURCE, 2 * CLASSES)),
            ArraySpec("poisoning.label_since_us", "int64", (SOURCE,)),
            ArraySpec("poisoning.copies", "int64", (BUCKET,)),
            ArraySpec("poisoning.bucket_sources", "uint8", (BUCKET, 64)),
            ArraySpec("poisoning.bucket_places", "int64", (BUCKET, samples.SHOWN, 3)),
        )

    def add(self, sketches: Sequence[Sketch], pooled: Sequence[Sketch] = ()) -> list[Due]:
        """Fold merged sketches in, and `pooled` ones, of sources that are judged as one too; the tests that came due."""
        every = [*sketches, *pooled]
        self._samples(every)
        for sketch in every:
            self._start(sketch.series, int(sketch.panes[0]))
        self._classes(sketches)
        self._copies(sketches)
        for sketch in every:
            self._series(sketch)
        by_source: dict[str, list[Sketch]] = {}
        for sketch in every:
            by_source.setdefault(sketch.series.split(SEPARATOR, 1)[0], []).append(sketch)
        for source, members in sorted(by_source.items()):
            self._labels(source, members)
        return self.due

    def note_members(self, key: str, pairs: Sequence[tuple[int, str]], last: int) -> None:
        """Remember whose rows a pooled series has: (pane, series) in order, and so many of the last for the next panes."""
        kept = self.state.records.setdefault(MEMBERS, {})
        self.members[key] = [*map(tuple, kept.get(key, [])), *pairs]  # type: ignore[list-item]
        kept[key] = self.members[key][-last:]

    def behind(self, keys: Sequence[str], end_us: int) -> tuple[str, ...]:
        """The series whose rows a test was of, the last first where they were pooled; none if those are of one source."""
        out: list[str] = []
        for key in keys:
            if key in self.members:
                until = [series for pane, series in self.members[key] if self.end_us(pane) <= end_us][-LAST_MEMBERS:]
                out += dict.fromkeys(until[::-1])
            else:
                out.append(key)
        single = len({series.split(SEPARATOR, 1)[0] for series in out}) < 2
        return () if single and any(key in self.members for key in keys) else tuple(out)

    def end_us(self, pane: int) -> int:
        """When a pane ends."""
        return (int(pane) + 1) * self.pane_us

    def _start(self, key: str, pane: int) -> int:
        known = key in self.state.table(SERIES).index
        slot = int(self.state.slots(SERIES, [key], self.end_us(pane))[0])
        if not known and slot >= 0:
            self.state["poisoning.since_us"][slot] = self.state["poisoning.started_us"][slot] = pane * self.pane_us
        return slot

    def _series(self, sketch: Sketch) -> None:
        """Distance and compactness of a source's rows of a class, whenever one of its windows is full."""
        slot = self._start(sketch.series, int(sketch.panes[0]))
        null = self.reference.of(sketch.series.split(SEPARATOR, 1)[1])
        if slot < 0 or null is None:
            return
        window, since = self.state["poisoning.window"][slot], self.state["poisoning.since_us"][slot]
        sums = np.concatenate([np.zeros((1, WIDTH), np.int64), np.cumsum(sketch.counts[:, :WIDTH], axis=0)])
        for i, scale in enumerate(SCALES):
            done = 0
            while (last := int(np.searchsorted(sums[:, 0], sums[done, 0] + scale - window[i, 0]))) < len(sums):
                end_us, whole = self.end_us(sketch.panes[last - 1]), window[i] + sums[last] - sums[done]
                self._judge_series(sketch.series, null, int(since[i]), end_us, whole)
                window[i], since[i], done = 0, end_us, last
            window[i] += sums[-1] - sums[done]

    def _judge_series(self, key: str, null: Any, since_us: int, end_us: int, whole: np.ndarray) -> None:
        sampled, n, sums = self.behind([key], end_us), int(whole[0]), whole[1:].astype(np.float64)
        if not sampled:
            return
        p, mmd2 = null.distance(sums, n)
        evidence = {"statistic": "squared MMD of the source's rows from their class", "null": self._said(null), "mmd2": round(mmd2, 4),
                    "histogram": [{"bin": "squared MMD from the class", "reference": 0.0, "window": round(mmd2, 4)}]}  # fmt: skip
        self.due.append(self._due("distance", key, since_us, end_us, p, mmd2, n, evidence, sampled))
        p, alike, usual = null.compactness(sums, n)
        evidence = {
            "statistic": "mean kernel between different rows of the source", "null": self._said(null), "alike": round(alike, 4),
            "usual": round(usual, 4), "histogram": [{"bin": "mean kernel", "reference": round(usual, 4), "window": round(alike, 4)}],
        }  # fmt: skip
        self.due.append(self._due("compactness", key, since_us, end_us, p, alike - usual, n, evidence, sampled))

    def _said(self, null: Any) -> str:
        return f"rows of the reference's class ({null.rows} rows), sources differing by rho = {null.rho:.2g}"

    def _due(
        self, signal: str, key: str, since_us: int, end_us: int, p: float, effect: float, n: int, evidence: dict[str, Any], sampled: Any
    ) -> Due:
        evidence |= {"items": self._items([key])} | ({"sources": sources_of(sampled)} if key in self.members else {})
        score = -float(np.log10(max(p, 1e-300)))
        return Due(signal, key, since_us, end_us, score, effect, n, p_value=p, sampled=sampled, evidence=evidence)

    def _items(self, keys: Sequence[str], most: int = 8) -> list[str]:
        """Some items of these series, those of the first keys first."""
        kept = self.state.records["poisoning.samples"]
        return [item for key in keys for item in kept.get(key, [])][:most]

    def _classes(self, sketches: Sequence[Sketch]) -> None:
        """Spectral signature of a class, whenever it has had 2,048 rows; then its window starts anew."""
        of_class: dict[str, list[Sketch]] = {}
        for sketch in sketches:
            of_class.setdefault(sketch.series.split(SEPARATOR, 1)[1], []).append(sketch)
        held: dict[str, list[int]] = {}
        for key, slot in self.state.table(SERIES).index.items():
            held.setdefault(key.split(SEPARATOR, 1)[1], []).append(slot)
        totals = self.state.records.setdefault(TOTALS, {})
        for label, members in of_class.items():
            first_us = min(int(m.panes[0]) for m in members) * self.pane_us
            totals.setdefault(label, {"since_us": first_us, "first_us": first_us})
        for label, members in sorted(of_class.items()):
            self._class(label, members, held.get(label, []))

    def _class(self, label: str, members: list[Sketch], slots: list[int]) -> None:
        window = self.state["poisoning.window"]
        totals = self.state.records[TOTALS][label]
        rows = {k: (window[s, -1].copy()) for s in slots if window[s, -1, 0] for k in [self.state.table(SERIES).keys[s]]}
        panes, at = np.unique(np.concatenate([m.panes for m in members]), return_inverse=True)
        per_pane = np.bincount(at, np.concatenate([m.counts[:, 0] for m in members]), len(panes))
        held, first = sum(int(r[0]) for r in rows.values()), 0
        for i, new in enumerate(per_pane.tolist()):
            held += int(new)
            if held < CLASS_ROWS:
                continue
            added_rows(rows, members, int(panes[first]), int(panes[i]))
            self._judge_class(label, rows, totals["since_us"], self.end_us(panes[i]))
            rows, held, first, totals["since_us"] = {}, 0, i + 1, self.end_us(panes[i])
        if first < len(panes):
            added_rows(rows, members, int(panes[first]), int(panes[-1]))
        window[slots, -1] = 0
        for key, whole in rows.items():
            slot = self.state.table(SERIES).index.get(key, -1)
            if slot >= 0:
                self.state["poisoning.window"][slot, -1] = whole

    def _judge_class(self, label: str, rows: dict[str, np.ndarray], since_us: int, end_us: int) -> None:
        null = self.reference.of(label)
        keys = sorted(k for k, whole in rows.items() if whole[0])
        if null is None or len(keys) < LEAST_SOURCES:
            return
        whole = np.stack([rows[k] for k in keys])
        p, ratio, weight = null.signature(whole[:, 1:].astype(np.float64), whole[:, 0].astype(np.float64))
        order = np.argsort(-weight)[:10]
        evidence = {
            "statistic": "largest eigenvalue of the scatter of the class's sources, over its mean under the null",
            "null": self._said(null), "ratio": round(ratio, 3), "sources": len(keys),
            "strongest": [
                {"source": keys[i].split(SEPARATOR, 1)[0], "share": round(float(weight[i]), 3), "rows": int(whole[i, 0])}
                for i in order.tolist()
            ],
            "items": self._items([keys[i] for i in order.tolist()]),
            "histogram": [{"bin": "eigenvalue over its mean", "reference": 1.0, "window": round(ratio, 3)}],
        }  # fmt: skip
        score = -float(np.log10(max(p, 1e-300)))
        n, classes = int(whole[:, 0].sum()), sum(t["first_us"] < end_us for t in self.state.records[TOTALS].values())
        self.due.append(
            Due(
                "signature",
                label,
                since_us,
                end_us,
                score,
                ratio,
                n,
                p_value=p,
                tests=classes,
                sampled=tuple(keys[i] for i in order.tolist()),
                evidence=evidence,
            )
        )

    def _labels(self, source: str, members: list[Sketch]) -> None:
        """A source's disagreements, every 16 rows that have an opinion to compare with."""
        null = self.reference.labels
        panes, at = np.unique(np.concatenate([m.panes for m in members]), return_inverse=True)
        counts = np.zeros((len(panes), 2 * CLASSES), np.int64)
        np.add.at(counts, at, np.concatenate([m.counts[:, WIDTH:] for m in members]))
        if null is None or not counts.any():
            return
        known = source in self.state.table(SOURCE).index
        slot = int(self.state.slots(SOURCE, [source], self.end_us(panes[-1]))[0])
        if slot < 0:
            return
        if not known:
            self.state["poisoning.label_since_us"][slot] = int(panes[0]) * self.pane_us
        keys = [m.series for m in members]
        kept, since = self.state["poisoning.label_counts"], self.state["poisoning.label_since_us"]
        first = 0
        while first < len(panes):
            running = kept[slot] + np.cumsum(counts[first:], axis=0)
            total = np.concatenate([[kept[slot].sum()], running.sum(1)])
            last = min(int(np.searchsorted(total[1:], SCALES[-1])), len(running) - 1)
            for i in np.flatnonzero(np.diff(total[: last + 2] // LABELS_EVERY)).tolist():
                self._judge_labels(source, keys, running[i].reshape(CLASSES, 2), int(since[slot]), self.end_us(panes[first + i]))
            kept[slot] = running[last]
            first += last + 1
            if total[last + 1] >= SCALES[-1]:
                kept[slot], since[slot] = 0, self.end_us(panes[first - 1])

    def _judge_labels(self, source: str, keys: Sequence[str], counts: np.ndarray, since_us: int, end_us: int) -> None:
        null, sampled = self.reference.labels, self.behind(keys, end_us)
        assert null is not None
        if not sampled:
            return
        log_e = null.log_e(counts, source)
        n, disagreed = int(counts.sum()), int(counts[:, 1].sum())
        expected = null.expected(counts, source)
        evidence = {
            "statistic": "e-value of the source's disagreements with the consensus",
            "null": f"the fleet's rate in each class, sources' log odds differing by {null.spread:.2f}"
            + (f"; its own differ by {null.own[source][0]:+.2f} +- {null.own[source][1]:.2f}" if source in null.own else ""),
            "disagreed": disagreed, "expected": round(expected, 1), "rows": n,
            "items": self._items(keys), **({"sources": sources_of(sampled)} if keys[0] in self.members else {}),
            "histogram": [
                {"bin": "disagree", "reference": round(expected, 1), "window": disagreed},
                {"bin": "agree", "reference": round(n - expected, 1), "window": n - disagreed},
            ],
        }  # fmt: skip
        score = log_e / np.log(10)
        self.due.append(
            Due(
                "labels",
                source,
                since_us,
                end_us,
                score,
                disagreed - expected,
                n,
                e_value=float(np.exp(min(log_e, 700.0))),
                sampled=sampled,
                evidence=evidence,
            )
        )

    def _copies(self, sketches: Sequence[Sketch]) -> None:
        """Near-duplicates over all rows, in windows of as many rows as the reference had; tested at 20, 40, 80, ... copies."""
        totals = self.state.records.setdefault(
            f"{TOTALS}.copies", {"rows": 0, "since_us": min(int(s.panes[0]) for s in sketches) * self.pane_us}
        )
        panes, at = np.unique(np.concatenate([s.panes for s in sketches]), return_inverse=True)
        per_pane = np.bincount(at, np.concatenate([s.counts[:, 0] for s in sketches]), len(panes))
        found = np.concatenate([s.column_panes for s in sketches])
        buckets = np.concatenate([s.columns["buckets"] for s in sketches if len(s.column_panes)] or [np.empty((0, 4), np.int64)])
        order = np.lexsort((buckets[:, 3], buckets[:, 2], buckets[:, 1], found))
        found, buckets = found[order], buckets[order]
        series = np.repeat(np.arange(len(sketches)), [len(s.column_panes) for s in sketches])[order]
        first = 0
        for i, rows in enumerate(per_pane.tolist()):
            totals["rows"] += int(rows)
            full = totals["rows"] >= self.reference.copies.rows
            if full or i == len(panes) - 1:
                part = slice(*np.searchsorted(found, [panes[first], panes[i] + 1]))
                self._count(found[part], buckets[part], series[part], totals["since_us"], sketches)
                first = i + 1
            if full:
                self.state.release(BUCKET, sorted(self.state.table(BUCKET).index.values()))
                totals |= {"rows": 0, "since_us": self.end_us(panes[i])}

    def _count(self, panes: np.ndarray, buckets: np.ndarray, series: np.ndarray, since_us: int, sketches: Sequence[Sketch]) -> None:
        """Add rows in their order; a bucket is tested at each number of copies that it reaches."""
        if not len(buckets):
            return
        codes, places = buckets[:, 0], buckets[:, 1:]
        sources = np.array([hash_of(s.series.split(SEPARATOR, 1)[0]) for s in sketches], np.uint64)
        distinct, of_row, fresh = np.unique(codes, return_inverse=True, return_counts=True)
        keys = [str(int(c)) for c in distinct.tolist()]
        slots = self.state.slots(BUCKET, keys, self.end_us(panes[-1]))
        kept = slots >= 0
        before = np.where(kept, self.state["poisoning.copies"][slots], 0)
        np.add.at(self.state["poisoning.copies"], slots[kept], fresh[kept])
        held = self.state["poisoning.bucket_places"]
        last = np.split(np.argsort(of_row, kind="stable"), np.cumsum(fresh)[:-1])
        cardinality.add_distinct(sources[series], slots[of_row].astype(np.int32), self.state["poisoning.bucket_sources"])
        for j in np.flatnonzero(kept & (before + fresh >= self.least_copies)).tolist():
            copies, rows = self.least_copies, last[j]
            while copies <= before[j] + fresh[j]:
                if copies > before[j]:
                    row = rows[copies - int(before[j]) - 1]
                    label = sketches[series[row]].series.split(SEPARATOR, 1)[1]
                    where = np.concatenate([held[slots[j]][: before[j]], places[rows[: copies - int(before[j])]]])[-samples.SHOWN :]
                    self._judge_copies(keys[j], label, int(slots[j]), copies, since_us, self.end_us(panes[row]), sketches, where)
                copies *= 2
        for j in np.flatnonzero(kept).tolist():
            new = places[last[j][-samples.SHOWN :]]
            n = min(int(before[j]), samples.SHOWN)
            whole = np.concatenate([held[slots[j]][:n], new])[-samples.SHOWN :]
            held[slots[j]][: len(whole)] = whole

    def _judge_copies(
        self, code: str, label: str, slot: int, copies: int, since_us: int, end_us: int, sketches: Sequence[Sketch], where: np.ndarray
    ) -> None:
        null = self.reference.copies
        expected = null.expected(code, copies, null.rows)  # the bands of a near-duplicate agree: one bucket a row, not eight
        distinct = round(float(cardinality.distinct(self.state["poisoning.bucket_sources"][slot : slot + 1])[0]))
        holders = [s for s in sketches if code in s.names]
        sources = sorted({s.series.split(SEPARATOR, 1)[0] for s in holders})
        evidence = {
            "statistic": f"rows that share a near-duplicate bucket, within {null.rows} rows",
            "null": f"copies in the reference: {null.share:.2g} of buckets repeat, tail index {null.index:.2f}",
            "copies": copies, "label": label, "bucket": code, "distinct_sources": max(1, distinct),
            "sources": sources[:10], "new_sources": [s for s in sources if s not in self.reference.sources][:10],
            "items": [s.names[code] for s in holders][:8], "samples": samples.places(where[::-1], self.state),
            "histogram": [{"bin": "rows in this bucket", "reference": round(null.rows * null.share / max(1, copies), 3), "window": copies}],
        }  # fmt: skip
        score, p_value = -float(np.log10(max(expected, 1e-300))), min(1.0, expected)
        self.due.append(
            Due("copies", f"{code}{SEPARATOR}{label}", since_us, end_us, score, copies, copies, p_value, tests=1, evidence=evidence)
        )

    def _samples(self, sketches: Sequence[Sketch]) -> None:
        """The last items of each series that is held."""
        kept = self.state.records.setdefault("poisoning.samples", {})
        index = self.state.table(SERIES).index
        for sketch in sketches:
            if sketch.names:
                items = list(dict.fromkeys([*kept.get(sketch.series, []), *sketch.names.values()]))
                kept[sketch.series] = items[-8:]
        if len(kept) > 2 * len(index) + 16:
            self.state.records["poisoning.samples"] = {k: v for k, v in kept.items() if k in index}


def sources_of(series: Sequence[str]) -> list[str]:
    """The sources of series, each once."""
    return list(dict.fromkeys(key.split(SEPARATOR, 1)[0] for key in series))


def added_rows(rows: dict[str, np.ndarray], members: Sequence[Sketch], first: int, last: int) -> None:
    """Add the panes from `first` to `last` of each member to its sum."""
    for m in members:
        lo, hi = np.searchsorted(m.panes, [first, last + 1])
        if hi > lo:
            rows[m.series] = rows.get(m.series, 0) + m.counts[lo:hi, :WIDTH].sum(0)
