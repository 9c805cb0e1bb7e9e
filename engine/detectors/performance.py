"""Performance: is a model still as often right as it was? Estimated before outcomes are known, and realised when they come.

observe   counts rows by pane, predicted class, confidence and outcome. An outcome is a column `outcome` of the inference row, or the
          `label` of a feedback row that repeats what was predicted
merge     adds the panes of all partitions, and closes blocks of at least 128 rows; the last 1, 2, 4, ... 32 blocks are a window each
judge     estimated: the expected accuracy of the window's predictions (CBPE, see `performance_reference`) against the reference's, one
          sided, with the variance that blocks of the reference have. An alarm needs a drop that is over `floor` by a standard error
          realised: right and wrong, within each class and quarter of confidence, by a G-test against the reference: a model that is as
          unsure as its confidence says is no alarm, one that is wrong where it was right is. An alarm needs an effect over
          `floor`: the share of rows whose outcome differs from what the reference says, net of chance and of a standard error

A change after a change: while a model deviates from its reference, the 2,048 rows after the alarm are a *regime*, against which windows are
judged as well. A further change is an alert of its own (`model/realised#2`), a return to the reference ends it. The reference itself stays
as it is until an approval (`telltale baseline approve`) lets it be learned anew.

Fails where neither confidences nor outcomes come; estimates are blind to a change of what is right for the same confidence, which only
outcomes show. Score: -log10 p, higher is more anomalous.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from scipy import special

from engine import samples
from engine.batch import Batch
from engine.detectors import performance_reference as reference
from engine.detectors.drift_reference import category_code
from engine.detectors.drift_statistics import log10_tail
from engine.detectors.performance_finding import Verdict, finding, scores
from engine.detectors.performance_reference import CONFIDENCES, NONE, Known
from engine.evidence import MIN_ALPHA
from engine.finding import Context, Finding, Judgement, Settings
from engine.sketch import Sketch
from engine.state import ArraySpec, State

ROWS = 128
WINDOWS = np.array([1, 2, 4, 8, 16, 32])
"""Blocks of a window."""
REGIME_BLOCKS = 16
FLOOR_ROWS = 1024
"""Rows that an effect of the floor must show over; a shorter window needs as many more of its rows."""
LEARNING_PANES = 8
KEPT_ROWS = 1 << 17
PANES_AT_ONCE = 1024
COLUMNS = 6
"""Of a row put aside: pane, predicted class, confidence bin, outcome (NaN: not known), whether it counts for the estimate, how many."""


class PerformanceSettings(Settings):
    """`reference_rows`: outcomes that a reference is learned from, where no baseline gives it. `floor`: the least drop of estimated
    accuracy, and the least share of rows whose outcome is another one than their prediction meant before. `max_models`: followed at
    most in a partition; rows of further ones are counted and left out."""

    reference_rows: int = Field(2048, ge=256)
    floor: float = Field(0.05, ge=0)
    max_models: int = Field(1000, gt=0)
    quiet_s: float = Field(3600.0, gt=0)


class Performance:
    """Estimated and realised performance of models. The population's state: a reference and two rings of blocks per model."""

    name: ClassVar[str] = "performance"
    streams: ClassVar[tuple[str, ...]] = ("inference", "feedback")

    def __init__(self, settings: PerformanceSettings, context: Context):
        self.settings = settings
        self.budget = context.budget
        self.pane_us = context.pane_us
        self.approvals = context.approvals
        self.reference_rows = 1 << 40 if context.fitting else settings.reference_rows
        self.known: dict[str, Known] = {m: Known.of(r | {"about": context.about}) for m, r in context.baseline.get(self.name, {}).items()}

    def arrays(self) -> Sequence[ArraySpec]:
        return ()

    def population_arrays(self) -> Sequence[ArraySpec]:
        return ()  # rings of blocks are free-form arrays: their width is the model's number of classes

    def observe(self, batch: Batch, state: State) -> None:
        """Count the rows by pane and cell; late rows are left out."""
        told = "outcome" if batch.stream == "inference" else "label"
        if "predicted" not in batch.columns or not {"confidence", told} & batch.columns:
            return
        said, words = batch.codes("predicted")
        here = ~batch.late & np.array([w is not None for w in words] or [False])[said]
        confidence = batch.floats("confidence") if "confidence" in batch.columns else np.full(len(batch), np.nan, np.float32)
        bins = np.where(np.isnan(confidence), NONE, np.clip(confidence * NONE, 0, NONE - 1)).astype(np.int64)
        outcome, results = batch.codes(told) if told in batch.columns else (np.zeros(len(batch), np.int32), [None])
        here &= (bins != NONE) | np.array([w is not None for w in results] or [False])[outcome]
        models, names = batch.keys(("model",))
        pane = batch.time_us // self.pane_us
        samples.fold(state, self.name, batch, pane, self.pane_us, np.where(here, models, -1), names)
        for model in np.unique(models[here]).tolist():
            mine, seen = np.flatnonzero(here & (models == model)), state.records.setdefault("performance.names", {})
            if names[model] not in seen and len(seen) >= self.settings.max_models:
                state.records["performance.refused"] = state.records.get("performance.refused", 0) + len(mine)
                continue
            low = int(pane[mine].min())
            shape = int(pane[mine].max()) - low + 1, len(words), CONFIDENCES, len(results)
            place = np.ravel_multi_index((pane[mine] - low, said[mine], bins[mine], outcome[mine]), shape)
            cell, count = np.unique(place, return_counts=True)
            at, estimates = np.unravel_index(cell, shape), np.full(len(cell), batch.stream == "inference")
            rows = np.column_stack([at[0] + low, codes_of(words)[at[1]], at[2], codes_of(results)[at[3]], estimates, count])
            name = f"performance.rows/{names[model]}"
            kept = state.arrays.get(name)
            state.arrays[name] = rows if kept is None else condensed(np.concatenate([kept, rows]), KEPT_ROWS)
            known = seen.setdefault(names[model], {})
            for word in [str(w) for w in (*words, *results) if w is not None][: max(0, 4 * reference.CLASSES - len(known))]:
                known[str(int(category_code(word)))] = word

    def collect(self, state: State, before_us: int) -> list[Sketch]:
        """Rows of the panes that end by then, and no trace of them in the state."""
        sketches = []
        for name in [n for n in state.arrays if n.startswith("performance.rows/")]:
            model, kept = name.removeprefix("performance.rows/"), state.arrays.pop(name)
            closed = kept[:, 0] < before_us // self.pane_us
            if not closed.all():
                state.arrays[name] = kept[~closed]
            if closed.any():
                names = state.records.get("performance.names", {}).get(model, {})
                none = np.empty(0, np.int64), np.empty((0, 1), np.int64)
                sketches.append(Sketch(self.name, model, *none, kept[closed, 1:], kept[closed, 0].astype(np.int64), names))
        return sketches

    def merge(self, sketches: Sequence[Sketch], state: State) -> None:
        """Learn, or add the rows to the model's blocks; blocks that close go to `judge`."""
        self._restore(state)
        for sketch in sketches:
            rows = np.column_stack([sketch.value_panes.astype(np.float64), sketch.values])
            if sketch.series not in self.known:
                left = self._learn(state, sketch, rows)
                if left is None:
                    continue
                rows = left
            known, starts = self.known[sketch.series], np.flatnonzero(np.diff(rows[:, 0], prepend=-1.0))
            for part in np.split(rows, starts[PANES_AT_ONCE::PANES_AT_ONCE]) if len(rows) else ():
                panes, outcomes, predicted, confusion = reference.cells(known, part)
                if outcomes.any():
                    by_stratum = known.by_stratum(outcomes).reshape(len(panes), -1)
                    realised = np.column_stack([by_stratum, confusion.reshape(len(panes), -1)])
                    self._close(state, f"{sketch.series}/realised", panes, realised, by_stratum.sum(axis=1))
                estimated = predicted.reshape(len(panes), -1)
                self._close(state, f"{sketch.series}/estimated", panes, estimated, estimated.sum(axis=1))

    def judge(self, state: State, now_us: int) -> Judgement:
        """Judge the blocks that closed, in their order."""
        closed = state.pending.pop(self.name, [])
        if not closed:
            return Judgement()
        judgement, rows = Judgement(), []
        for series, ring in closed:
            model, _, kind = series.rpartition("/")
            alpha = self._alpha(state, ring)
            verdict = (self._realised if kind == "realised" else self._estimated)(self.known[model], ring, alpha)
            rows.append((series, int(ring[-1, 1]), verdict.score, -np.log10(alpha), verdict.alarm))
            judgement.findings += self._told(state, series, self.known[model], ring, verdict, alpha)
        judgement.scores = scores(self.name, rows)
        return judgement

    def fitted(self, states: Sequence[State], population: State) -> dict[str, Any]:
        """What a baseline keeps: a reference of every model."""
        names, out = population.records.get("performance.names", {}), {}
        for name, rows in population.arrays.items():
            if name.startswith("performance.learning/"):
                model = name.removeprefix("performance.learning/")
                out[model] = reference.learn(rows, names.get(model, {}), {}).record()
        return out

    def _learn(self, state: State, sketch: Sketch, rows: np.ndarray) -> np.ndarray | None:
        """Put rows aside until there are enough outcomes (or, where none come, four times as many predictions); then make the reference
        and return the rows after it."""
        name, names = f"performance.learning/{sketch.series}", state.records.setdefault("performance.names", {})
        names.setdefault(sketch.series, {}).update(sketch.names)
        rows = np.concatenate([state.arrays[name], rows]) if name in state.arrays else rows
        panes, at = np.unique(rows[:, 0], return_inverse=True)
        told = np.cumsum(np.bincount(at, ~np.isnan(rows[:, 3]) * rows[:, 5]))
        predicted = np.cumsum(np.bincount(at, rows[:, 4] * rows[:, 5]))
        done = (told >= self.reference_rows) | ((told == 0) & (predicted >= 4 * self.reference_rows))
        enough = np.flatnonzero(done & (np.arange(1, len(panes) + 1) >= LEARNING_PANES))
        if not len(enough):
            state.arrays[name] = rows
            return None
        state.arrays.pop(name, None)
        last = panes[enough[0]]
        about = {"source": "stream", "from_us": int(panes[0]) * self.pane_us, "to_us": (int(last) + 1) * self.pane_us}
        known = self.known[sketch.series] = reference.learn(rows[rows[:, 0] <= last], names.pop(sketch.series, {}), about)
        state.records.setdefault("performance.known", {})[sketch.series] = known.record()
        return rows[rows[:, 0] > last]

    def _restore(self, state: State) -> None:
        for model, record in state.records.get("performance.known", {}).items():
            if model not in self.known:
                self.known[model] = Known.of(record)
        done: dict[str, list[str]] = state.records.setdefault("performance.approved", {})
        for approval in self.approvals:
            if approval["id"] not in done:
                told = done[approval["id"]] = sorted(m for m in self.known if fnmatchcase(f"{m}/performance", approval["series"]))
                for model in told:
                    state.records.get("performance.regimes", {}).pop(f"{model}/realised", None)
                    del self.known[model]
                    state.records.get("performance.known", {}).pop(model, None)
                    for name in [n for n in state.arrays if n.startswith(("performance.ring/", "performance.open/"))]:
                        if name.partition("/")[2].rpartition("/")[0] == model:
                            del state.arrays[name]
        for model in {m for told in done.values() for m in told} - state.records.get("performance.known", {}).keys():
            self.known.pop(model, None)

    def _close(self, state: State, series: str, panes: np.ndarray, cells: np.ndarray, rows: np.ndarray) -> None:
        """Add panes to the open block of a series; every block that closes goes to `judge` with the ring of those before it.

        A ring is int64[blocks, 3 + cells]: since_us, end_us, rows, cells. It holds the last 32.
        """
        open_name, ring_name = f"performance.open/{series}", f"performance.ring/{series}"
        block = state.arrays.get(open_name, np.zeros(3 + cells.shape[1], np.int64))
        ring = state.arrays.get(ring_name, np.zeros((0, 3 + cells.shape[1]), np.int64))
        for i in np.flatnonzero(rows).tolist():
            if not block[2]:
                block[0] = panes[i] * self.pane_us
            block[2] += rows[i]
            block[3:] += cells[i]
            if block[2] >= ROWS:
                block[1] = (panes[i] + 1) * self.pane_us
                ring = np.concatenate([ring[-(WINDOWS[-1] - 1) :], block[None]])
                state.pending.setdefault(self.name, []).append((series, ring))
                block = np.zeros_like(block)
        state.arrays[open_name], state.arrays[ring_name] = block, ring

    def _alpha(self, state: State, ring: np.ndarray) -> float:
        """What one window of this block may spend: its event time, shared by the windows of all series and both comparisons."""
        series = sum(n.startswith("performance.ring/") for n in state.arrays)
        covers = int(ring[-1, 1] - (ring[-2, 1] if len(ring) > 1 else ring[-1, 0]))
        return max(MIN_ALPHA, self.budget.alpha(self.name, covers, 2 * series * len(WINDOWS)))

    def _realised(self, known: Known, ring: np.ndarray, alpha: float) -> Verdict:
        """The window that most surely deviates from the reference, of those that do by more than the floor."""
        outcomes = known.by_stratum(known.outcomes)
        return against(outcomes, ring, known.tau, alpha, self.settings.floor)

    def _estimated(self, known: Known, ring: np.ndarray, alpha: float) -> Verdict:
        before, variance = reference.estimate(known, known.predicted)
        m = max(1, known.predicted.sum())
        blocks = WINDOWS[: 1 + int(np.log2(len(ring)))]
        cells = np.cumsum(ring[::-1, 3:], axis=0)[blocks - 1].reshape(len(blocks), -1, CONFIDENCES)
        n = cells.sum(axis=(1, 2))
        now, spread = reference.estimates(known, cells)
        sd = np.sqrt(variance * (1 / n + 1 / m) * (1 + known.tau_estimate * n * m / (n + m)) + 1e-12)
        score = -special.log_ndtr((now - before) / sd) / np.log(10)
        surely = before - now - np.sqrt(spread / n + variance / m)
        alarm = (score > -np.log10(alpha)) & (surely * n >= self.settings.floor * np.maximum(n, FLOOR_ROWS))
        at = int(np.lexsort((score, alarm))[-1])
        drop = float(before - now[at])
        return Verdict(float(score[at]), bool(alarm[at]), int(blocks[at]), drop, {"z": -drop / float(sd[at])})

    def _told(self, state: State, series: str, known: Known, ring: np.ndarray, verdict: Verdict, alpha: float) -> list[Finding]:
        """The findings of a block: deviation from the reference, and a further change from the regime after it."""
        quiet_us, threshold = max(int(self.settings.quiet_s * 1e6), 2 * int(ring[-1, 1] - ring[-1, 0])), -float(np.log10(alpha))
        said = [finding(self.name, series, series, known, ring, verdict, threshold, quiet_us, None)] if verdict.alarm else []
        if not series.endswith("/realised"):
            return said
        regimes = state.records.setdefault("performance.regimes", {})
        regime = regimes.get(series)
        if regime is None:
            if verdict.alarm:
                regimes[series] = {"number": 1, "blocks": 0, "from_us": int(ring[-1, 1]), "counts": None}
            return said
        width = known.by_stratum(known.outcomes).size
        if regime["blocks"] < REGIME_BLOCKS:
            counts = ring[-1, 3 : 3 + width] + (np.array(regime["counts"]) if regime["counts"] else 0)
            regime |= {"blocks": regime["blocks"] + 1, "counts": counts.tolist(), "from_us": int(ring[-1, 1])}
            return said
        since = ring[ring[:, 0] >= regime["from_us"]]
        again = against(np.array(regime["counts"]).reshape(-1, 2), since, known.tau, alpha, self.settings.floor)
        if again.alarm:
            back = against(known.by_stratum(known.outcomes), since[-again.blocks :], known.tau, 1e-3, self.settings.floor / 2)
            if not back.alarm:
                del regimes[series]
                return said
            number = regime["number"] + 1
            said.append(finding(self.name, series, f"{series}#{number}", known, ring, again, threshold, quiet_us, regime))
            regimes[series] = {"number": number, "blocks": 0, "from_us": int(ring[-1, 1]), "counts": None}
        return said


def against(outcomes: np.ndarray, ring: np.ndarray, tau: float, alpha: float, floor: float) -> Verdict:
    """The last windows of a ring against outcomes by stratum [S, 2]: the one that alarms most surely, else the least likely one."""
    blocks = WINDOWS[: 1 + int(np.log2(len(ring)))] if len(ring) else WINDOWS[:0]
    if not len(blocks):
        return Verdict(0.0, False, 1, 0.0, {})
    sums = np.cumsum(ring[::-1, 3 : 3 + outcomes.size], axis=0)[blocks - 1].reshape(-1, *outcomes.shape)
    g, df = reference.g_within(np.broadcast_to(outcomes, sums.shape), sums)
    m, n = float(max(1, outcomes.sum())), sums.sum(axis=(1, 2)).astype(np.float64)
    score = -log10_tail(g / (1 + tau * m * n / (m + n)), df)
    effect = effects(outcomes, sums)
    alarm = (score > -np.log10(alpha)) & (effect * n >= floor * np.maximum(n, FLOOR_ROWS))
    at = int(np.lexsort((score, alarm))[-1])
    return Verdict(
        float(score[at]), bool(alarm[at]), int(blocks[at]), float(effect[at]), {"g": float(g[at]), "degrees_of_freedom": int(df[at])}
    )


def effects(outcomes: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """float64[W]: the share of rows whose outcome is another one than the reference's strata say, less what chance makes of it."""
    m, n = outcomes.sum(axis=-1), sums.sum(axis=-1)
    p, q = outcomes[:, 1] / np.maximum(1, m), sums[..., 1] / np.maximum(1, n)
    both, share = (m > 0) & (n > 0), n / np.maximum(1, n.sum(axis=-1, keepdims=True))
    chance = np.sqrt(2 / np.pi * p * (1 - p) * (1 / np.maximum(1, n) + 1 / np.maximum(1, m)))
    return np.where(both, share * (np.abs(q - p) - chance), 0).sum(axis=-1)


def codes_of(words: Sequence[Any]) -> np.ndarray:
    """float64: the stable code of each class, NaN for none."""
    return np.array([np.nan if w is None else category_code(str(w)) for w in words] or [np.nan])


def condensed(rows: np.ndarray, above: int) -> np.ndarray:
    """Rows that are alike but for their number as one, where there are more than `above`."""
    if len(rows) <= above:
        return rows
    alike, at = np.unique(np.nan_to_num(rows[:, : COLUMNS - 1], nan=-1.0), axis=0, return_inverse=True)
    alike[:, 3] = np.where(alike[:, 3] < 0, np.nan, alike[:, 3])
    return np.column_stack([alike, np.bincount(at.reshape(-1), rows[:, COLUMNS - 1])])
