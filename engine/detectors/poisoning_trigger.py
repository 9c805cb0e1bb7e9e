"""Trigger phrases: word n-grams that many rows of a window have and the reference has not, or seldom, and that go with one label.

One window over the rows of all sources, looked at after 256, 512, 1,024 and 2,048 rows, after which it starts anew: counts of buckets
(`poisoning_grams`), and of buckets with each label. An n-gram that comes more often than it may is remembered with its last sources, so
that a finding can say how many there are and where rows stand. The phrase itself is never kept.
The counts take half a megabyte, whatever comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from engine import samples
from engine.detectors.poisoning_grams import BUCKETS, LOOKS, ROWS, GramNull, pane_rows, upper
from engine.detectors.poisoning_reference import hash_of
from engine.detectors.poisoning_rows import CLASSES, crc
from engine.detectors.poisoning_windows import SEPARATOR, SERIES, Due
from engine.sketch import Sketch
from engine.state import ArraySpec, State
from kernels import cardinality

GRAM, COUNTS, WINDOW = "poisoning.gram", "poisoning.grams", "poisoning.gram_window"
ASSOCIATED, OTHERS = 1e-3, 0.5
"""An n-gram goes with a label if rows drawn at random had as many of that label with at most this probability, and at most half as many
of its rows have another label as of all rows: topics lean towards a label, triggers are put on rows of one."""
CANDIDATES = 256
TURN = 40503
"""Odd: where a bucket's rows of a label are counted is turned by that much for each label."""


class Triggers:
    """The window of one population's state."""

    def __init__(self, state: State, null: GramNull, pane_us: int, least_rows: int):
        self.state, self.null, self.pane_us, self.least_rows = state, null, pane_us, least_rows
        self.due: list[Due] = []
        if COUNTS not in state.arrays:
            state.arrays[COUNTS] = np.zeros((2, BUCKETS + 1), np.int32)
        self.counts = state.arrays[COUNTS]

    @staticmethod
    def arrays() -> Sequence[ArraySpec]:
        """What is kept of an n-gram that comes often: its sources (HyperLogLog), and (series, pane) of its last rows."""
        return (
            ArraySpec("poisoning.gram_sources", "uint8", (GRAM, 64)),
            ArraySpec("poisoning.gram_places", "int64", (GRAM, samples.SHOWN, 2), -1),
        )

    def add(self, sketches: Sequence[Sketch]) -> list[Due]:
        """Fold merged sketches in; the looks that came due."""
        sketches = [s for s in sketches if len(s.cells)]
        if not sketches:
            return []
        cells = np.concatenate([np.column_stack([s.cells, np.full(len(s.cells), i)]) for i, s in enumerate(sketches)])
        names = [s.series.split(SEPARATOR, 1) for s in sketches]
        order = np.array([samples.hashed(s.series) for s in sketches], np.int64)
        cells = cells[np.lexsort((order[cells[:, 3]], cells[:, 1], cells[:, 0]))]
        panes, rows, _ = pane_rows(cells)
        window = self.state.records.setdefault(WINDOW, {"since_us": int(panes[0]) * self.pane_us, "labels": {}})
        first, held = 0, int(self.counts[0, ROWS])
        for i, new in enumerate(rows.tolist()):
            due = next(look for look in LOOKS if look > held) <= held + new
            held += new
            if due or i == len(panes) - 1:
                self._fold(cells[slice(*np.searchsorted(cells[:, 0], [panes[first], panes[i] + 1]))], names, order, window["labels"])
                first = i + 1
            if due:
                self._look(window, (int(panes[i]) + 1) * self.pane_us)
            if held >= LOOKS[-1]:
                held = 0
                self.counts[:] = 0
                self.state.release(GRAM, sorted(self.state.table(GRAM).index.values()))
                window |= {"since_us": (int(panes[i]) + 1) * self.pane_us, "labels": {}}
        return self.due

    def _fold(self, cells: np.ndarray, names: Sequence[Sequence[str]], series: np.ndarray, labels: dict[str, str]) -> None:
        """Add cells (pane, bucket, count, sketch) of the same window."""
        _, rows, at = pane_rows(cells)
        until = int(self.counts[0, ROWS]) + np.cumsum(rows)[at]
        bucket, count, of = cells[:, 1], cells[:, 2], cells[:, 3]
        classes = np.array([crc(label) % CLASSES for _, label in names])
        for i in np.unique(of).tolist():  # labels that share a place: the first by name, whatever came first
            labels[str(classes[i])] = min(labels.get(str(classes[i]), names[i][1]), names[i][1])
        order = np.argsort(bucket, kind="stable")
        running = np.cumsum(count[order])
        begins = samples.starts(bucket[order])
        before = np.maximum.accumulate(np.where(begins, running - count[order], 0))
        copies = np.empty(len(cells), np.int64)
        copies[order] = self.counts[0, bucket[order]] + running - before
        np.add.at(self.counts[0], bucket, count)
        np.add.at(self.counts[1], turned(bucket, classes[of]), count)
        expected = upper(self.null.counts[bucket]) * until / self.null.counts[ROWS]
        often = np.flatnonzero((copies >= 4) & (copies > 3 * expected) & (bucket != ROWS))
        if not len(often):
            return
        often = often[np.argsort(bucket[often], kind="stable")]
        found, of_cell = np.unique(bucket[often], return_inverse=True)
        slots = self.state.slots(GRAM, [str(b) for b in found.tolist()], (int(cells[-1, 0]) + 1) * self.pane_us)
        sources = np.array([hash_of(source) for source, _ in names], np.uint64)
        cardinality.add_distinct(sources[of[often]], slots[of_cell].astype(np.int32), self.state["poisoning.gram_sources"])
        places = self.state["poisoning.gram_places"]
        new = np.column_stack([series[of[often]], cells[often, 0]])
        for slot, mine in zip(slots.tolist(), np.split(new, np.flatnonzero(np.diff(of_cell)) + 1), strict=True):
            if slot >= 0:
                places[slot] = np.concatenate([places[slot], mine])[-samples.SHOWN :]

    def _look(self, window: dict[str, Any], end_us: int) -> None:
        """Test the window: the most surprising bucket that goes with a label."""
        counts, n = self.counts[0], int(self.counts[0, ROWS])
        scores = self.null.scores(counts)
        labels = [int(c) for c in window["labels"]]
        shares = np.array([self.counts[1, turned(np.array([ROWS]), np.array([c]))[0]] for c in labels]) / n
        best: tuple[float, int, int, int, float] = (0.0, 0, 0, 0, 1.0)
        likely = np.argsort(-scores, kind="stable")[:CANDIDATES]
        told = []
        for bucket in likely[(scores[likely] > 0) & (counts[likely] >= self.least_rows)].tolist():
            k = int(counts[bucket])
            with_label = np.array([min(k, int(self.counts[1, turned(np.array([bucket]), np.array([c]))[0]])) for c in labels])
            p = stats.binom.sf(with_label - 1, k, np.minimum(shares, 1.0))
            i = int(np.argmin(p))
            if p[i] <= ASSOCIATED and k - with_label[i] <= OTHERS * k * (1 - shares[i]):
                told.append(bucket)
                if len(told) == 1:
                    best = (float(scores[bucket]), bucket, labels[i], int(with_label[i]), float(shares[i]))
        score, bucket, of_class, with_label_n, share = best
        label = window["labels"].get(str(of_class), "") if told else ""
        p_value = 10 ** -min(score, 300.0)
        evidence = self._evidence(bucket, end_us) if told else {}
        k, before, reference_rows = int(counts[bucket]), int(self.null.counts[bucket]), int(self.null.counts[ROWS])
        evidence |= {
            "statistic": "rows of the window that have the same word n-gram",
            "null": f"Poisson at the upper end of the rate in {reference_rows} rows, evidence divided by {self.null.dispersion:.1f} "
            "for bursts of benign rows, all n-grams tested",
            "n_gram": f"{bucket:04x}", "rows_with_it": k, "n_grams": len(told), "rows_in_reference": before,
            "reference_rate": round(before / reference_rows, 5), "expected": round(before * n / reference_rows, 2),
            "label": label, "with_label": with_label_n, "label_share": round(share, 4),
            "histogram": [{"bin": "rows with the n-gram", "reference": round(before * n / reference_rows, 2), "window": k}],
        }  # fmt: skip
        key = f"trigger{SEPARATOR}{label}"
        self.due.append(Due("trigger", key, window["since_us"], end_us, score, k, n, p_value=p_value, tests=2, evidence=evidence))

    def _evidence(self, bucket: int, end_us: int) -> dict[str, Any]:
        """Who had the n-gram, and where rows stand: the first row of the series and pane that had it."""
        slot = self.state.table(GRAM).index.get(str(bucket), -1)
        if slot < 0:
            return {"distinct_sources": None, "sources": [], "samples": []}
        last = self.state["poisoning.gram_places"][slot]
        last = last[last[:, 1] >= 0][::-1]
        keys = {samples.hashed(key): key for key in self.state.table(SERIES).index}
        table = self.state.arrays.get(samples.HELD + "poisoning", np.empty((0, 5), np.int64))
        wanted = {(s, (p + 1) * self.pane_us): i for i, (s, p) in enumerate(last.tolist())}
        table = table[np.isin(table[:, samples.KEY], last[:, 0]) & (table[:, samples.UNTIL] <= end_us)]
        ranked = [(wanted.get((row[samples.KEY], row[samples.UNTIL]), -1), row) for row in table.tolist()]
        ranked = sorted((r for r in ranked if r[0] >= 0), key=lambda r: (r[0], r[1]))
        places = np.array([row for _, row in ranked], np.int64).reshape(-1, 5)[: samples.SHOWN, samples.PARTITION :]
        distinct = cardinality.distinct(self.state["poisoning.gram_sources"][slot : slot + 1])[0]
        return {
            "distinct_sources": max(1, round(float(distinct))),
            "sources": list(dict.fromkeys(keys[s].split(SEPARATOR, 1)[0] for s in last[:, 0].tolist() if s in keys)),
            "samples": samples.places(places, self.state),
        }  # fmt: skip


def turned(bucket: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Where a bucket's rows of a class are counted."""
    return (bucket + (classes + 1) * TURN) % (BUCKETS + 1)
