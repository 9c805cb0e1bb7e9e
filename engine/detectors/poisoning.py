"""Poisoning of feedback and training streams: who tries to move what a model will learn, judged on all partitions.

Some 250 documents are enough to poison a model of any size, so copies alarm by their absolute number. Six signals, against a reference:

copies       near-duplicates (MinHash buckets) within as many rows as the reference had: one source's flood, or one text from many sources
labels       a source that disagrees with the consensus more than the fleet's sources do: an e-process over its agreements
distance     squared MMD of a source's rows of a class from the class, over windows of 32, 256 and 2,048 rows
compactness  rows of a source that are more alike than the class's are, over the same windows
trigger      word n-grams that many rows have and the reference has seldom or never, and that go with one label, of all sources together
signature    the scatter of a class's sources has one direction that benign sources do not have (Tran, Li and Madry 2018), over 2,048 rows

Sources that the reference does not know are also judged together, as one: 25 with ten rows each are 250 rows of one origin.

observe   folds rows into sums of Fourier features (`kernels.rff`) per (source, class) and pane, buckets, n-grams, and counts of
          disagreement
merge     adds the panes of all partitions; a window closes with the pane that fills it
judge     p- and e-values of `poisoning_reference` against the budget: `trigger` has a twentieth of it, each other signal a fifth
          of the rest

Nothing is learned from what is judged: the reference is a baseline, or the first rows of the stream. Fails when that is poisoned already,
and where poison looks like its class in every row. A source and class cost 14 KB. Score: -log10 p (or log10 e), higher is more anomalous.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from engine import samples
from engine.batch import Batch
from engine.detectors.poisoning_findings import scores_of, to_finding
from engine.detectors.poisoning_grams import BLOCKS, gram_null, grams, learned
from engine.detectors.poisoning_labels import LabelNull, label_null
from engine.detectors.poisoning_newcomers import pooled
from engine.detectors.poisoning_reference import FEATURES, PoisoningReference, fit, hash_of
from engine.detectors.poisoning_rows import BANDS, CLASSES, disagreement, features, sketched
from engine.detectors.poisoning_trigger import Triggers
from engine.detectors.poisoning_windows import SCALES, SERIES, Windows
from engine.finding import Context, Judgement, Settings
from engine.sketch import NO_CELLS, Sketch, added, added_cells
from engine.state import ArraySpec, State
from kernels.rff import rff

SEPARATOR = "\x1f"
SAMPLES = 16
FITTING_ROWS = 20_000
TRIGGER_SHARE, SHARE = 0.05, 0.19
"""What part of the budget a signal has: a phrase's evidence is either huge or none, so little is enough; the five others share the rest."""
WIDTH = 1 + FEATURES


class PoisoningSettings(Settings):
    """`reference_rows`: rows that the reference is learned from, where no baseline gives it, and the length of the window for copies;
    `least_copies`: fewer near-duplicates, or rows with the same phrase, than that are no attack; `mmd_floor`: least squared MMD of a
    source that alarms (effect size); `quiet_s`: an alert ends after this long without evidence."""

    reference_rows: int = Field(2000, ge=200)
    least_copies: int = Field(20, ge=2)
    mmd_floor: float = Field(0.01, ge=0)
    quiet_s: float = Field(86400.0, gt=0)


class Poisoning:
    """Poisoning of the `feedback` stream. The population's state: sums per source and class, buckets, counts of labels."""

    name: ClassVar[str] = "poisoning"
    streams: ClassVar[tuple[str, ...]] = ("feedback",)

    def __init__(self, settings: PoisoningSettings, context: Context):
        self.settings = settings
        self.budget = context.budget
        self.pane_us = context.pane_us
        self.reference_rows = FITTING_ROWS if context.fitting else settings.reference_rows
        given = context.baseline.get(self.name)
        self.reference = PoisoningReference.restored(given) if given else None

    def arrays(self) -> Sequence[ArraySpec]:
        return ()  # groups of open panes come and go: free-form arrays by the hash of (source, class)

    def population_arrays(self) -> Sequence[ArraySpec]:
        return (*Windows.arrays(), *Triggers.arrays())

    def observe(self, batch: Batch, state: State) -> None:
        """Sum the rows of each source, class and pane; late rows are left out, their panes are closed."""
        rows = np.flatnonzero(~batch.late)
        if not len(rows):
            return
        pane = batch.time_us[rows] // self.pane_us
        source_codes, sources = batch.keys(("source",))
        label_codes, labels = batch.codes("label")
        pairs, of_row = np.unique(source_codes[rows].astype(np.int64) * len(labels) + label_codes[rows], return_inverse=True)
        keys = [f"{sources[p // len(labels)]}{SEPARATOR}{labels[p % len(labels)]}" for p in pairs.tolist()]
        hashes = np.array([hash_of(key) for key in keys], np.int64)
        state.records.setdefault("poisoning.keys", {}).update(zip(map(str, hashes.tolist()), keys, strict=True))
        series = hashes[of_row]
        codes_of = np.full(len(batch), -1)
        codes_of[rows] = of_row
        samples.fold(state, self.name, batch, batch.time_us // self.pane_us, self.pane_us, codes_of, keys)
        told = disagreement(batch, rows)
        append(state, "poisoning.labels", np.column_stack([pane, series, told])[told >= 0])
        of_gram, gram = grams(batch, rows)
        append(state, "poisoning.grams", np.column_stack([pane[of_gram], series[of_gram], gram]))
        vectors, buckets = sketched(batch, rows)
        usable = np.isfinite(vectors).all(1)
        if not usable.any():
            return
        groups, of_usable = np.unique(np.column_stack([pane, series])[usable], axis=0, return_inverse=True)
        of_usable = of_usable.reshape(-1).astype(np.int32)
        sums, n = np.zeros((len(groups), FEATURES), np.int64), np.zeros(len(groups), np.int64)
        rff(vectors[usable], of_usable, features(), sums, n)
        append(state, "poisoning.groups", np.column_stack([groups, n, sums]))
        has, codes = np.repeat(usable, BANDS) & (buckets.ravel() >= 0), buckets.ravel()
        places = np.column_stack([np.full(len(rows), samples.hashed(state.name)), batch.offsets[rows], batch.record_rows[rows]])
        of_bucket = np.column_stack([np.repeat(pane, BANDS), np.repeat(series, BANDS), codes, np.repeat(places, BANDS, axis=0)])
        append(state, "poisoning.buckets", of_bucket[has])
        self._remember(batch, rows, series, buckets, state)

    def _remember(self, batch: Batch, rows: np.ndarray, series: np.ndarray, buckets: np.ndarray, state: State) -> None:
        """Names of some items of each series, so that a finding can point at them: {series: {bucket: item}}."""
        item_codes, items = batch.codes("item") if "item" in batch.columns else (None, [])
        known = state.records.setdefault("poisoning.items", {})
        order = np.argsort(series, kind="stable")
        for mine in np.split(order, np.flatnonzero(np.diff(series[order])) + 1):
            mine, key = mine[-SAMPLES:], str(series[mine[0]])
            names = [f"{state.name}/{batch.offsets[rows[i]]}" if item_codes is None else items[item_codes[rows[i]]] for i in mine.tolist()]
            of_key = {str(b): str(n)[:64] for i, n in zip(mine.tolist(), names, strict=True) if n for b in buckets[i].tolist() if b >= 0}
            known[key] = dict(list({**known.get(key, {}), **of_key}.items())[-SAMPLES * BANDS :])

    def collect(self, state: State, before_us: int) -> list[Sketch]:
        """Sketches of the panes that end by then, one per source and class, and no trace of them in the state."""
        before = before_us // self.pane_us
        closed: dict[str, np.ndarray] = {}
        for name, width in (("groups", 3 + FEATURES), ("buckets", 6), ("labels", 3), ("grams", 3)):
            kept = state.arrays.pop(f"poisoning.{name}", np.empty((0, width), np.int64))
            over = kept[:, 0] < before
            if not over.all():
                state.arrays[f"poisoning.{name}"] = kept[~over]
            part = kept[over]
            closed[name] = part[np.argsort(part[:, 1], kind="stable")]
        keys, items = state.records.get("poisoning.keys", {}), state.records.get("poisoning.items", {})
        found = np.unique(np.concatenate([part[:, 1] for part in closed.values()])).tolist()
        sketches = [self._sketch(series, keys[str(series)], closed, items.pop(str(series), {})) for series in found]
        held = {
            str(s) for n in closed if f"poisoning.{n}" in state.arrays for s in np.unique(state.arrays[f"poisoning.{n}"][:, 1]).tolist()
        }
        state.records["poisoning.keys"] = {series: key for series, key in keys.items() if series in held}
        return sketches

    def _sketch(self, series: int, key: str, closed: dict[str, np.ndarray], items: dict[str, str]) -> Sketch:
        """One series' panes: rows, sums of features, counts of labels; its buckets are a column: code, and where the row stands."""
        groups, labels, buckets, words = (
            part[slice(*np.searchsorted(part[:, 1], [series, series + 1]))]
            for part in (closed[n] for n in ("groups", "labels", "buckets", "grams"))
        )
        told = np.zeros((len(labels), 2 * CLASSES), np.int64)
        told[np.arange(len(labels)), labels[:, 2]] = 1
        panes = np.concatenate([groups[:, 0], labels[:, 0]])
        counts = np.zeros((len(panes), WIDTH + 2 * CLASSES), np.int64)
        counts[: len(groups), :WIDTH] = groups[:, 2:]
        counts[len(groups) :, WIDTH:] = told
        cells = added_cells(np.column_stack([words[:, 0], words[:, 2], np.ones(len(words), np.int64)])) if len(words) else NO_CELLS
        return Sketch(
            self.name, key, *added(panes, counts), names=items, columns={"buckets": buckets[:, 2:]}, column_panes=buckets[:, 0], cells=cells
        )  # fmt: skip

    def merge(self, sketches: Sequence[Sketch], state: State) -> None:
        """Learn from the first rows; add all others to the windows. What is due goes to `judge`."""
        if self.reference is None and "poisoning.reference" in state.records:
            self.reference = PoisoningReference.restored(state.records["poisoning.reference"])
        if self.reference is None:
            last = self._learn(sketches, state)
            if last is None:
                return
            sketches = [s.since(last + 1) for s in sketches]
        sketches = [s for s in sketches if len(s.panes)]
        if sketches and self.reference is not None:
            window = Windows(state, self.reference, self.pane_us, self.settings.least_copies)
            due = window.add(sketches, pooled(sketches, self.reference.sources, window))
            if self.reference.grams is not None:
                due += Triggers(state, self.reference.grams, self.pane_us, self.settings.least_copies).add(sketches)
            state.pending.setdefault(self.name, []).extend(due)

    def _learn(self, sketches: Sequence[Sketch], state: State) -> int | None:
        """Put groups aside; the last pane of the reference once there are rows enough, and it is fitted."""
        names = state.records.setdefault("poisoning.learning", [])
        at = {name: i for i, name in enumerate(names)}
        for s in sketches:
            if s.series not in at:
                at[s.series] = len(names)
                names.append(s.series)
            index = at[s.series]
            codes = s.columns["buckets"][:, 0] if s.columns else np.empty(0, np.int64)
            append(state, "poisoning.learning", np.column_stack([s.panes, np.full(len(s.panes), index), s.counts]))
            append(state, "poisoning.learning.buckets", np.column_stack([s.column_panes, np.full(len(s.column_panes), index), codes]))
        groups = state.arrays.get("poisoning.learning", np.empty((0, 3)))
        panes, of_group = np.unique(groups[:, 0], return_inverse=True)
        enough = np.flatnonzero(np.cumsum(np.bincount(of_group, rows_of(groups), len(panes))) >= self.reference_rows)
        words = np.concatenate([NO_CELLS, *(s.cells for s in sketches)])
        learned(state.arrays, words[words[:, 0] <= panes[enough[0]]] if len(enough) else words)
        if not len(enough):
            return None
        last = int(panes[enough[0]])
        self.reference = self._fitted(state, last)
        state.records["poisoning.reference"] = self.reference.record()
        state.records.pop("poisoning.learning")
        for name in ("poisoning.learning", "poisoning.learning.buckets", BLOCKS):
            del state.arrays[name]
        return last

    def _fitted(self, state: State, last: int) -> PoisoningReference:
        groups, buckets = state.arrays["poisoning.learning"], state.arrays["poisoning.learning.buckets"]
        groups, buckets = groups[groups[:, 0] <= last], buckets[buckets[:, 0] <= last]
        names = [tuple(name.split(SEPARATOR, 1)) for name in state.records["poisoning.learning"]]
        labels = labels_of(groups, [source for source, _ in names])
        with_rows = groups[groups[:, 2] > 0]
        with_rows = with_rows[np.lexsort((with_rows[:, 1], with_rows[:, 0]))]
        codes = buckets[np.lexsort((buckets[:, 2], buckets[:, 0])), 2]
        sums = with_rows[:, 3 : 2 + WIDTH].astype(np.float64)
        known = frozenset(names[i][0] for i in np.unique(groups[:, 1]).tolist())
        words = gram_null(state.arrays[BLOCKS])
        return fit(sums, with_rows[:, 2], with_rows[:, 1], names, codes, labels, known, words)  # type: ignore[arg-type]

    def fitted(self, states: Sequence[State], population: State) -> dict[str, Any]:
        """What a baseline keeps: the reference of its first 20,000 rows, if there were 200."""
        if self.reference is not None:
            return self.reference.record()
        if "poisoning.learning" not in population.arrays or rows_of(population.arrays["poisoning.learning"]).sum() < 200:
            return {}
        return self._fitted(population, int(population.arrays["poisoning.learning"][:, 0].max())).record()

    def judge(self, state: State, now_us: int) -> Judgement:
        """Hold what is due against the budget: a part of it for each signal, shared by the tests that run side by side."""
        due = state.pending.pop(self.name, [])
        started = np.sort(state["poisoning.started_us"][sorted(state.table(SERIES).index.values())])
        judgement = Judgement()
        rows = []
        for told in sorted(due, key=lambda d: (d.last_us, d.signal, d.key)):
            live = max(1, int(np.searchsorted(started, told.last_us))) * len(SCALES)
            covers = (told.last_us - told.since_us) * (TRIGGER_SHARE if told.signal == "trigger" else SHARE)
            threshold = -float(np.log10(self.budget.alpha(self.name, covers, told.tests or live)))
            alarm = told.score > threshold and told.effect >= (self.settings.mmd_floor if told.signal == "distance" else 0.0)
            rows.append((told, threshold, alarm))
            if alarm:
                judgement.findings.append(to_finding(told, threshold, int(self.settings.quiet_s * 1e6)))
        judgement.scores += scores_of(rows)
        return judgement


def rows_of(groups: np.ndarray) -> np.ndarray:
    """Rows of groups as they are learned: those with a vector, or those with an opinion where these are more."""
    return np.maximum(groups[:, 2], groups[:, 2 + WIDTH :].sum(1))


def labels_of(groups: np.ndarray, source_of: Sequence[str]) -> LabelNull | None:
    """The null of labels from the reference's groups; None where there are fewer than five disagreements."""
    names, place = np.unique(np.array(source_of, object), return_inverse=True)
    told = groups[np.argsort(groups[:, 0], kind="stable")]
    after = told[:, 0] > told[np.searchsorted(np.cumsum(told[:, 2 + WIDTH :].sum(1)), told[:, 2 + WIDTH :].sum() // 2), 0]
    halves = np.zeros((2, len(names), 2 * CLASSES), np.int64)
    np.add.at(halves, (after.astype(np.int64), place[told[:, 1]]), told[:, 2 + WIDTH :])
    whole, later = (x.reshape(-1, CLASSES, 2) for x in (halves.sum(0), halves[1]))
    return label_null(whole, names.tolist(), later) if whole[:, :, 1].sum() >= 5 else None


def append(state: State, name: str, rows: np.ndarray) -> None:
    """Add rows to a free-form array of the state."""
    kept = state.arrays.get(name)
    if len(rows) or kept is None:
        state.arrays[name] = rows if kept is None else np.concatenate([kept, rows])
