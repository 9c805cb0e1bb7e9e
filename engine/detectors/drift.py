"""Drift: does a model's traffic still look like its reference? One histogram test per (model, feature), judged on all partitions.

observe   bins all features of a model by their references' frozen edges, per pane of event time, in one call (values, while a reference
          is learned)
merge     adds the panes of all partitions; a window closes when it has 256, 1,024 or 4,096 rows (three windows run side by side)
judge     G-test of window against reference. Real traffic wanders by itself: how much is learned from blocks of the reference
          (a between-block variance tau, as in Rao and Scott 1981, how many degrees of freedom are worth it, and how sure that is), and
          the p-value is that of G / (1 + n tau) by an F distribution. An alarm needs
          p < alpha, which follows from the false-alarm budget, and a population stability index over a floor, net of its bias

A reference of two weeks or more is stratified by hour of the week, and a window is compared with what its hours would make of it. With
`segments` (columns) each segment of a model is a series of its own (`m{feature.region=eu}/input_tokens`), and a change of a model's
feature is told apart into a change of the mix and one within the segments.

A reference that was learned is never updated by itself: only an approval (`telltale baseline approve`) lets a series learn anew.

Fails when the reference is not representative (learned during an incident), and is blind to a change that keeps every feature's
own distribution. Score: -log10 p, higher is more anomalous.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from engine import samples, tally
from engine.batch import Batch
from engine.detectors import drift_finding, drift_rows
from engine.detectors.drift_reference import BINS, HOUR_US, HOURS, KEPT_PER_PANE, Reference, category_code, learn
from engine.detectors.drift_windows import SCALES, Full, Tests, Windows, fill, judged, windows_of
from engine.evidence import MIN_ALPHA
from engine.finding import Context, Finding, Judgement, Settings
from engine.sketch import Sketch, added
from engine.state import ArraySpec, State

log = logging.getLogger(__name__)

LEARNING_PANES = 8
DOUBLINGS, LEAST_WORTH = 3, 16
"""A reference whose rows are worth less than a sixteenth of the rows that were asked for is doubled, up to three times."""
FITTING_ROWS = 1 << 40
NUMERIC = (
    "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "max_tokens", "temperature", "top_p", "duration_s", "ttft_s",
    "confidence",
)  # fmt: skip
CATEGORICAL = ("operation", "finish_reason", "error", "predicted")
SEGMENT = re.compile(r"^(.*?)\{(.*)\}(/[^/]*)$", re.S)


Parts = dict[int, dict[str, tuple[np.ndarray, np.ndarray]]]
"""Panes and counts of a series' segments: by column, by segment."""


class DriftSettings(Settings):
    """`reference_rows`: rows of a series that its reference is learned from, where no baseline gives it (up to eight times as many, where
    rows depend on each other); `psi_floor`: least effect.
    `features`: columns to watch besides `feature.*` (default: tokens, parameters, durations, confidence, categories).
    `segments`: columns whose values split a model's traffic into series of their own, at most `max_segments` of a column.
    `hour_of_week`: stratify references of two weeks or more. `max_series`: series learned at most; rows of further ones are counted and
    left out."""

    reference_rows: int = Field(2048, ge=256)
    psi_floor: float = Field(0.1, ge=0)
    quiet_s: float = Field(3600.0, gt=0)
    features: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    max_segments: int = Field(64, gt=0)
    hour_of_week: bool = True
    max_series: int = Field(5000, gt=0)


class Drift:
    """Distribution drift of inference traffic. The population's state: a reference and three windows per series."""

    name: ClassVar[str] = "drift"
    streams: ClassVar[tuple[str, ...]] = ("inference",)

    def __init__(self, settings: DriftSettings, context: Context):
        self.settings = settings
        self.budget = context.budget
        self.pane_us = context.pane_us
        self.approvals = context.approvals
        self.reference_rows = FITTING_ROWS if context.fitting else settings.reference_rows
        self.unusable: set[str] = set()
        self.references: dict[str, Reference] = {}
        for series, record in context.baseline.get(self.name, {}).items():
            self._know(series, Reference.of(record | {"about": record.get("about", {}) | context.about}))

    def arrays(self) -> Sequence[ArraySpec]:
        return ()  # panes come and go: they are free-form arrays, see `drift_rows`

    def population_arrays(self) -> Sequence[ArraySpec]:
        channels = 1 + len(self.settings.segments)
        return (
            ArraySpec("drift.window", "int64", ("drift.series", len(SCALES), BINS)),
            ArraySpec("drift.expected", "float64", ("drift.series", len(SCALES), channels, BINS + 1)),
            ArraySpec("drift.since_us", "int64", ("drift.series", len(SCALES)), 0),
            ArraySpec("drift.started_us", "int64", ("drift.series",), 0),
        )

    def observe(self, batch: Batch, state: State) -> None:
        """Bin the rows by series and pane; late rows are left out, their panes are closed."""
        wanted = self.settings.features or (*NUMERIC, *CATEGORICAL)
        columns = [c for c in batch.table.schema.names if c in wanted or c.startswith("feature.")]
        features = [c for c in columns if drift_rows.usable(batch.array(c).type)]
        for column in set(columns) - set(features) - self.unusable:
            self.unusable.add(column)
            log.warning("%s is neither numbers nor text but %s: not followed for drift", column, batch.array(column).type)
        if batch.late.all() or not features:
            return
        rows = drift_rows.Rows(batch, features, self.settings.segments, self.pane_us)
        codes, models = batch.keys(("model",))
        codes = np.where(batch.late, -1, codes)
        samples.fold(state, self.name, batch, rows.pane, self.pane_us, codes, models)
        segments = [(c, *batch.codes(c)) for c in self.settings.segments if c in batch.columns]
        order, sizes = np.empty(len(batch), np.int64), np.zeros(len(models), np.int64)
        tally.grouped(tally.plain(codes, np.int64), sizes, order)
        ends = np.cumsum(sizes)
        for code in np.flatnonzero(sizes).tolist():
            mine = order[ends[code] - sizes[code] : ends[code]]
            index: np.ndarray | slice = slice(None) if len(mine) == len(batch) else mine
            known = {f: r for f in features if (r := self.references.get(f"{models[code]}/{f}")) is not None}
            if known:
                drift_rows.fold(state, models[code], rows, index, known)
            for feature in features:
                series = f"{models[code]}/{feature}"
                if feature not in known:
                    drift_rows.keep_values(state, series, rows, feature, mine, self.settings.max_series)
                else:
                    drift_rows.note_unseen(state, series, rows.unseen(feature, known[feature]), int(batch.time_us[mine].max()))
            for column, of_row, words in segments if known else ():
                for at in np.unique(of_row[mine]).tolist():
                    name = drift_rows.segment(column, words[at])
                    if name in next(iter(known.values())).parts:
                        drift_rows.fold(state, f"{models[code]}{{{name}}}", rows, mine[of_row[mine] == at], known)

    def collect(self, state: State, before_us: int) -> list[Sketch]:
        """Sketches of the panes that end by then, and no trace of them in the state."""
        return drift_rows.collect(state, self.name, before_us // self.pane_us)

    def follow(self, state: State) -> None:
        """Know what the group's population has learned, so that rows leave as counts instead of values."""
        for series, record in state.records.get("drift.references", {}).items():
            if series not in self.references:
                self._know(series, Reference.of(record))

    def accepts(self, sketch: Sketch) -> bool:
        """Whether its counts are by the bins of our reference: after an approval another process may go by the former one for a while."""
        known = self.references.get(sketch.series)
        return not len(sketch.counts) or (known is not None and known.basis == sketch.basis)

    def merge(self, sketches: Sequence[Sketch], state: State) -> None:
        """Add merged panes to what is being learned or to the windows; full windows go to `judge`."""
        self._restore(state)
        parts: dict[str, Parts] = {}
        for sketch in sketches:
            segment = SEGMENT.match(sketch.series) if self.settings.segments else None
            if segment and (column := self._column(segment[2])) is not None:
                parts.setdefault(segment[1] + segment[3], {}).setdefault(column, {})[segment[2]] = sketch.panes, sketch.counts
        for sketch in sketches:
            if self.settings.segments and SEGMENT.match(sketch.series):
                continue
            panes, counts, within = sketch.panes, sketch.counts, parts.get(sketch.series, {})
            if len(sketch.values):
                learned = self._learned(state, sketch)
                if learned is None:
                    continue
                panes, counts = added(np.concatenate([panes, learned[0]]), np.concatenate([counts, learned[1]]))
                for column, of_name in learned[2].items():
                    for name, (more_panes, more) in of_name.items():
                        had = within.setdefault(column, {}).get(name, (np.empty(0, np.int64), np.empty((0, BINS), np.int64)))
                        within[column][name] = added(np.concatenate([had[0], more_panes]), np.concatenate([had[1], more]))
            reference = self.references.get(sketch.series)
            if not len(panes) or reference is None:
                continue
            if sketch.unseen:
                state.records.setdefault("drift.unseen", {})[sketch.series] = sketch.unseen
            self._add(state, sketch.series, panes, counts, self._expected(reference, panes, counts, within))
            model, feature = sketch.series.rsplit("/", 1)
            for of_name in within.values():
                for name, (its_panes, its_counts) in sorted(of_name.items()):
                    if name in reference.parts and len(its_panes):
                        nothing = np.empty((len(its_panes), 0, BINS + 1))
                        self._add(state, f"{model}{{{name}}}/{feature}", its_panes, its_counts, nothing)

    def judge(self, state: State, now_us: int) -> Judgement:
        """Test the windows that are full."""
        full: list[Full] = state.pending.pop(self.name, [])
        if not full:
            return Judgement()
        windows = windows_of(full, self.references)
        tests = judged(windows, self.references)
        started = np.sort(state["drift.started_us"][list(state.table("drift.series").index.values())])
        shared = np.maximum(1, np.searchsorted(started, windows.end_us) * len(SCALES))
        a_second = self.budget.alpha("drift", 1e6)
        threshold = -np.log10(np.clip(a_second * (windows.end_us - windows.since_us) / 1e6 / shared, MIN_ALPHA, 0.5))
        alarm = (-tests.log10_p > threshold) & (tests.psi_net >= self.settings.psi_floor)
        findings = []
        if alarm.any():
            expected = [one.expected[i] for one in full for i in range(len(one.scale))]
            findings = [self._finding(state, windows, at, tests, threshold, expected[at]) for at in np.flatnonzero(alarm).tolist()]
        return Judgement(drift_finding.scores(self.name, windows, tests, threshold, alarm), findings)

    def _finding(self, state: State, windows: Windows, at: int, tests: Tests, thresholds: np.ndarray, expected: np.ndarray) -> Finding:
        series, threshold = windows.names[windows.series[at]], float(thresholds[at])
        reference = self.references[series]
        quiet_us = max(
            int(self.settings.quiet_s * 1e6), 2 * int(windows.end_us[at] - windows.since_us[at])
        )  # until the next window may be full

        def more() -> tuple[list[dict[str, Any]], list[str]]:
            mixes = [
                drift_finding.mix(column, windows.counts[at], one, reference, 10**-threshold)
                for column, one in zip(self.settings.segments, expected[1:], strict=False)
                if one[BINS] > 0 and not series.endswith(f"/{column}")
            ]
            unseen = state.records.get("drift.unseen", {}).get(series, {})
            return mixes, sorted(word for word, last_us in unseen.items() if last_us >= windows.since_us[at])

        return drift_finding.finding(self.name, windows, at, tests, threshold, reference, quiet_us, more)

    def fitted(self, states: Sequence[State], population: State) -> dict[str, Any]:
        """What a baseline keeps: a reference of every series."""
        references = {}
        for name, kept in population.arrays.items():
            if name.startswith("drift.learning/"):
                series = name.removeprefix("drift.learning/")
                references[series] = self._reference(kept, population.records.get("drift.names", {}).get(series, {})).record()
        return references

    def _learned(self, state: State, sketch: Sketch) -> tuple[np.ndarray, np.ndarray, Parts] | None:
        """Values into the series' bins: panes, counts, and those of segments. None while the reference is still being learned."""
        values, panes = sketch.values, sketch.value_panes
        reference = self.references.get(sketch.series)
        if reference is None:
            last = self._learn(state, sketch)
            if last is None:
                return None
            reference = self.references[sketch.series]
            self._start(state, sketch.series, (last + 1) * self.pane_us)
            values, panes = values[panes > last], panes[panes > last]
        parts: Parts = {}
        for column in range(len(self.settings.segments)):
            codes = {category_code(name): name for name in reference.parts if self._column(name) == column}
            for code in np.unique(values[:, 1 + column]).tolist():
                if code in codes:
                    mine = values[:, 1 + column] == code
                    parts.setdefault(column, {})[codes[code]] = drift_rows.binned(reference, values[mine, 0], panes[mine])
        return *drift_rows.binned(reference, values[:, 0], panes), parts

    def _learn(self, state: State, sketch: Sketch) -> int | None:
        """Make the reference once the series has given enough rows over enough panes; returns the last pane it was learned from."""
        name = f"drift.learning/{sketch.series}"
        names = state.records.setdefault("drift.names", {})
        names.setdefault(sketch.series, {}).update(sketch.names)
        kept = thinned(sketch)
        held = state.arrays.get(name)
        if held is not None and held.shape[1] == kept.shape[1]:  # else `segments` was changed: learning begins again
            kept = np.concatenate([held, kept])
        panes, rows = np.unique(kept[:, 0], return_counts=True)
        sums, tried = np.cumsum(rows), state.records.setdefault("drift.tried", {})
        for doubling in range(tried.get(sketch.series, 0), DOUBLINGS + 1):
            enough = np.flatnonzero((sums >= self.reference_rows << doubling) & (np.arange(1, len(panes) + 1) >= LEARNING_PANES))
            if not len(enough):
                state.arrays[name] = kept
                return None
            last = int(panes[enough[0]])
            reference = self._reference(kept[kept[:, 0] <= last], names[sketch.series])
            if reference.worth >= self.reference_rows / LEAST_WORTH:
                break
            tried[sketch.series] = doubling + 1
        state.arrays.pop(name, None)
        tried.pop(sketch.series, None)
        del names[sketch.series]
        reference.about = {"source": "stream", "from_us": int(panes[0]) * self.pane_us, "to_us": (last + 1) * self.pane_us}
        self._know(sketch.series, reference)
        state.records.setdefault("drift.references", {})[sketch.series] = reference.record()
        return last

    def _reference(self, kept: np.ndarray, names: dict[str, str]) -> Reference:
        """A reference of rows (pane, value, segments), with a part for each segment that has enough of them."""
        segments = {}
        for column in range(kept.shape[1] - 2):
            codes, rows = np.unique(kept[:, 2 + column], return_counts=True)
            largest = np.argsort(-rows, kind="stable")[: self.settings.max_segments]
            for code, n in zip(codes[largest].tolist(), rows[largest].tolist(), strict=True):
                if n >= SCALES[0] and (not np.isnan(code) and (name := names.get(str(int(code))))):
                    segments[name] = kept[:, 2 + column] == code
        named = np.isin(kept[:, 1], np.array([float(code) for code in names]))
        panes, categorical = kept[:, 0].astype(np.int64), bool(named.any())
        reference = learn(kept[:, 1], panes, self.pane_us, segments, self.settings.hour_of_week, categorical)
        values = {str(int(v)) for v in reference.points.tolist()} if reference.exact else set()
        reference.names = {code: word for code, word in names.items() if code in values}
        for part in reference.parts.values():
            part.names = reference.names
        return reference

    def _know(self, series: str, reference: Reference) -> None:
        self.references[series] = reference
        model, feature = series.rsplit("/", 1)
        for name, part in reference.parts.items():
            part.about = reference.about
            self.references[f"{model}{{{name}}}/{feature}"] = part

    def _restore(self, state: State) -> None:
        """References that the population's state holds, and approvals to let them go."""
        self.follow(state)
        done: dict[str, list[str]] = state.records.setdefault("drift.approved", {})
        for approval in self.approvals:
            if approval["id"] not in done:
                told = [s for s in self.references if fnmatchcase(s, approval["series"])]
                done[approval["id"]] = sorted(told)
                self._forget(state, told)
                log.info("approved by %s: %d series learn a new reference (%s)", approval["by"], len(told), approval["series"])
        for series in {s for told in done.values() for s in told} - state.records.get("drift.references", {}).keys():
            self.references.pop(series, None)  # a baseline's, which was let go

    def _forget(self, state: State, series: Sequence[str]) -> None:
        table = state.table("drift.series")
        state.release("drift.series", [table.index[s] for s in series if s in table.index])
        for one in series:
            self.references.pop(one, None)
            state.records.get("drift.references", {}).pop(one, None)
            state.records.get("drift.unseen", {}).pop(one, None)

    def _column(self, name: str) -> int | None:
        """Which of the configured columns a segment's name belongs to."""
        return next((i for i, column in enumerate(self.settings.segments) if name.startswith(f"{column}=")), None)

    def _expected(self, reference: Reference, panes: np.ndarray, counts: np.ndarray, within: Parts) -> np.ndarray:
        """float64[P, C, 36]: what the rows of each pane would be by their hour and by their segments; C is 0 where neither is known."""
        if reference.hours is None and not reference.parts:
            return np.empty((len(panes), 0, BINS + 1))
        rows = counts.sum(axis=1)
        out = np.zeros((len(panes), 1 + len(self.settings.segments), BINS + 1))
        if reference.hours is not None:
            out[:, 0] = rows[:, None] * reference.by_hour[panes * self.pane_us // HOUR_US % HOURS]
        for column in range(len(self.settings.segments)):
            left = rows.copy()
            for name, (its_panes, its_counts) in sorted(within.get(column, {}).items()):
                if name in reference.by_part:
                    at = np.searchsorted(panes, its_panes)
                    its_rows = its_counts.sum(axis=1)
                    out[at, 1 + column] += its_rows[:, None] * reference.by_part[name]
                    left[at] -= its_rows
            out[:, 1 + column] += left[:, None] * reference.overall
        return out

    def _start(self, state: State, series: str, at_us: int) -> int:
        known = series in state.table("drift.series").index
        slot = int(state.slots("drift.series", [series], at_us)[0])
        if not known:
            state["drift.since_us"][slot] = at_us
            state["drift.started_us"][slot] = at_us
        return slot

    def _add(self, state: State, series: str, panes: np.ndarray, counts: np.ndarray, expected: np.ndarray) -> None:
        """Add panes in their order to the series' windows; those that come full go to `judge`."""
        slot = self._start(state, series, int(panes[0]) * self.pane_us)
        held = state["drift.window"][slot], state["drift.since_us"][slot], state["drift.expected"][slot]
        full = fill(series, (panes, counts, expected), self.pane_us, held)
        if full is not None:
            state.pending.setdefault(self.name, []).append(full)


def thinned(sketch: Sketch) -> np.ndarray:
    """float64[n, 1 + columns] pane and values, at most 4,096 of each pane, chosen by series and pane alone (the values come sorted)."""
    panes, first, rows = np.unique(sketch.value_panes, return_index=True, return_counts=True)
    chosen = []
    for pane, start, n in zip(panes.tolist(), first.tolist(), rows.tolist(), strict=True):
        index = np.arange(start, start + n)
        if n > KEPT_PER_PANE:
            seed = int(category_code(f"{sketch.series}/{pane}"))
            index = start + np.random.default_rng(seed).choice(n, KEPT_PER_PANE, replace=False)
        chosen.append(index)
    kept = np.concatenate(chosen)
    return np.column_stack([sketch.value_panes[kept].astype(np.float64), sketch.values[kept]])
