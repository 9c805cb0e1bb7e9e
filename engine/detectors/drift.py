"""Drift: does a model's traffic still look like its reference? One histogram test per (model, feature), judged on all partitions.

observe   bins each feature by the reference's frozen edges, per pane of event time (raw values while the reference is learned)
merge     adds the panes of all partitions; a window closes when it has 256, 1,024 or 4,096 rows (three windows run side by side)
judge     G-test of window against reference. Real traffic wanders by itself: how much is learned from blocks of the reference
          (a between-block variance tau, as in Rao and Scott 1981), and the p-value is that of G / (1 + n tau). An alarm needs
          p < alpha, which follows from the false-alarm budget, and a population stability index over a floor, net of its bias

Fails when the reference is not representative (learned during an incident), and is blind to a change that keeps every feature's
own distribution. Score: -log10 p, higher is more anomalous.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field
from scipy import special

from engine.batch import Batch
from engine.detectors.drift_reference import BINS, KEPT_PER_PANE, Reference, category_code, learn, table_of
from engine.finding import Context, Finding, Judgement, Scores, Settings
from engine.sketch import Sketch, added
from engine.state import ArraySpec, State

SCALES = (256, 1024, 4096)
LEARNING_PANES = 8
NAMES_KEPT = 64
FITTING_ROWS = 1 << 40
NUMERIC = (
    "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "max_tokens", "temperature", "top_p", "duration_s", "ttft_s",
    "confidence",
)  # fmt: skip
CATEGORICAL = ("operation", "finish_reason", "error", "predicted")


class DriftSettings(Settings):
    """`reference_rows`: rows of a series that its reference is learned from, where no baseline gives it; `psi_floor`: least effect.
    `features`: columns to watch besides `feature.*` (default: tokens, parameters, durations, confidence, categories).
    `max_series`: series learned at most; rows of further ones are counted and left out."""

    reference_rows: int = Field(2048, ge=256)
    psi_floor: float = Field(0.1, ge=0)
    quiet_s: float = Field(3600.0, gt=0)
    features: tuple[str, ...] = ()
    max_series: int = Field(5000, gt=0)


class Drift:
    """Distribution drift of inference traffic. The population's state: a reference and three windows per series."""

    name: ClassVar[str] = "drift"
    streams: ClassVar[tuple[str, ...]] = ("inference",)

    def __init__(self, settings: DriftSettings, context: Context):
        self.settings = settings
        self.budget = context.budget
        self.pane_us = context.pane_us
        self.reference_rows = FITTING_ROWS if context.fitting else settings.reference_rows
        self.references: dict[str, Reference] = {
            series: Reference.of(record) for series, record in context.baseline.get(self.name, {}).items()
        }

    def arrays(self) -> Sequence[ArraySpec]:
        return ()  # panes come and go: they are free-form arrays, see `observe`

    def population_arrays(self) -> Sequence[ArraySpec]:
        return (
            ArraySpec("drift.window", "int64", ("drift.series", len(SCALES), BINS)),
            ArraySpec("drift.since_us", "int64", ("drift.series", len(SCALES)), 0),
            ArraySpec("drift.started_us", "int64", ("drift.series",), 0),
        )

    def observe(self, batch: Batch, state: State) -> None:
        """Bin the rows by series and pane; late rows are left out, their panes are closed."""
        rows = np.flatnonzero(~batch.late)
        if not len(rows):
            return
        model_codes, models = batch.keys(("model",))
        pane = batch.time_us // self.pane_us
        for code in np.unique(model_codes[rows]).tolist():
            mine = rows[model_codes[rows] == code]
            panes, of_row = np.unique(pane[mine], return_inverse=True)
            for feature in self._features(batch):
                self._observe_feature(batch, state, f"{models[code]}/{feature}", feature, mine, panes, of_row)

    def _features(self, batch: Batch) -> list[str]:
        wanted = self.settings.features or (*NUMERIC, *CATEGORICAL)
        return [c for c in batch.table.schema.names if c in wanted or c.startswith("feature.")]

    def _observe_feature(
        self, batch: Batch, state: State, series: str, feature: str, rows: np.ndarray, panes: np.ndarray, of_row: np.ndarray
    ) -> None:
        values, names = feature_values(batch, feature)
        values = values[rows]
        reference = self.references.get(series)
        if reference is None:
            known = state.records.setdefault("drift.names", {})
            if series not in known and len(known) >= self.settings.max_series:
                state.records["drift.refused"] = state.records.get("drift.refused", 0) + len(rows)
                return
            known.setdefault(series, {}).update(dict(list(names.items())[:NAMES_KEPT]))
            append(state, f"drift.values/{series}", np.column_stack([panes[of_row], values]))
            return
        counts = np.zeros((len(panes), BINS), np.int64)
        reference.fold(values, of_row.astype(np.int32), counts)
        append(state, f"drift.counts/{series}", np.column_stack([panes, counts]))

    def collect(self, state: State, before_us: int) -> list[Sketch]:
        """Sketches of the panes that end by then, and no trace of them in the state."""
        before = before_us // self.pane_us
        found: dict[str, dict[str, np.ndarray]] = {}
        for name in [n for n in state.arrays if n.startswith(("drift.values/", "drift.counts/"))]:
            kept = state.arrays.pop(name)
            closed = kept[:, 0] < before
            if not closed.all():
                state.arrays[name] = kept[~closed]
            if closed.any():
                kind, series = name.split("/", 1)
                found.setdefault(series, {})[kind] = kept[closed]
        sketches = []
        for series, parts in found.items():
            counts = parts.get("drift.counts", np.empty((0, 1 + BINS), np.int64))
            values = parts.get("drift.values", np.empty((0, 2)))
            names = state.records.get("drift.names", {}).get(series, {})
            whole = added(counts[:, 0], counts[:, 1:])
            sketches.append(Sketch(self.name, series, *whole, values[:, 1], values[:, 0].astype(np.int64), names))
        return sketches

    def merge(self, sketches: Sequence[Sketch], state: State) -> None:
        """Add merged panes to what is being learned or to the windows; full windows go to `judge`."""
        self._restore_references(state)
        for sketch in sketches:
            panes, counts = sketch.panes, sketch.counts
            if len(sketch.values):
                values, value_panes = sketch.values, sketch.value_panes
                reference = self.references.get(sketch.series)
                if reference is None:
                    learned = self._learn(state, sketch)
                    if learned is None:
                        continue
                    reference, last = learned
                    self._start(state, sketch.series, (last + 1) * self.pane_us)
                    values, value_panes = values[value_panes > last], value_panes[value_panes > last]
                late_panes, of_value = np.unique(value_panes, return_inverse=True)
                binned = np.zeros((len(late_panes), BINS), np.int64)
                reference.fold(values, of_value.astype(np.int32), binned)
                panes, counts = added(np.concatenate([panes, late_panes]), np.concatenate([counts, binned]))
            if len(panes):
                self._add(state, sketch.series, panes, counts)

    def _learn(self, state: State, sketch: Sketch) -> tuple[Reference, int] | None:
        """The reference and the last pane it was learned from, once the series has given enough rows over enough panes."""
        name = f"drift.learning/{sketch.series}"
        state.records.setdefault("drift.names", {}).setdefault(sketch.series, {}).update(sketch.names)
        kept = np.concatenate([state.arrays.get(name, np.empty((0, 2))), thinned(sketch)])
        panes, rows = np.unique(kept[:, 0], return_counts=True)
        enough = np.flatnonzero((np.cumsum(rows) >= self.reference_rows) & (np.arange(1, len(panes) + 1) >= LEARNING_PANES))
        if not len(enough):
            state.arrays[name] = kept
            return None
        state.arrays.pop(name, None)
        last = int(panes[enough[0]])
        kept = kept[kept[:, 0] <= last]
        reference = self.references[sketch.series] = learn(kept[:, 1], kept[:, 0])
        reference.names = state.records["drift.names"].pop(sketch.series, {})
        state.records.setdefault("drift.references", {})[sketch.series] = reference.record()
        return reference, last

    def _restore_references(self, state: State) -> None:
        for series, record in state.records.get("drift.references", {}).items():
            if series not in self.references:
                self.references[series] = Reference.of(record)

    def _start(self, state: State, series: str, at_us: int) -> int:
        known = series in state.table("drift.series").index
        slot = int(state.slots("drift.series", [series], at_us)[0])
        if not known:
            state["drift.since_us"][slot] = at_us
            state["drift.started_us"][slot] = at_us
        return slot

    def _add(self, state: State, series: str, panes: np.ndarray, counts: np.ndarray) -> None:
        """Add panes in their order; a window closes with the pane that fills it."""
        slot = self._start(state, series, int(panes[0]) * self.pane_us)
        window, since = state["drift.window"][slot], state["drift.since_us"][slot]
        sums = np.concatenate([np.zeros((1, BINS), np.int64), np.cumsum(counts, axis=0)])
        rows = sums.sum(axis=1)
        pending = state.pending.setdefault(self.name, [])
        for i, scale in enumerate(SCALES):
            done, held = 0, int(window[i].sum())
            while (last := int(np.searchsorted(rows, rows[done] + scale - held))) < len(rows):
                end_us = (int(panes[last - 1]) + 1) * self.pane_us
                pending.append((series, scale, int(since[i]), end_us, window[i] + sums[last] - sums[done]))
                window[i], since[i], done, held = 0, end_us, last, 0
            window[i] += sums[-1] - sums[done]

    def fitted(self, states: Sequence[State], population: State) -> dict[str, Any]:
        """What a baseline keeps: a reference of every series."""
        names = population.records.get("drift.names", {})
        references = {}
        for name, kept in population.arrays.items():
            if name.startswith("drift.learning/"):
                series = name.removeprefix("drift.learning/")
                reference = learn(kept[:, 1], kept[:, 0])
                reference.names = names.get(series, {})
                references[series] = reference.record()
        return references

    def judge(self, state: State, now_us: int) -> Judgement:
        """Test the windows that are full."""
        full = state.pending.pop(self.name, [])
        if not full:
            return Judgement()
        rows: list[tuple[str, int, float, float, bool, int]] = []
        findings = []
        started = state["drift.started_us"][: len(state.table("drift.series").keys)]
        for series, scale, since_us, end_us, window in full:
            said = test(self.references[series], window)
            shared = int((started < end_us).sum()) * len(SCALES)
            alpha = self.budget.alpha("drift", end_us - since_us, shared)
            score, threshold = -said["log10_p"], -np.log10(alpha)
            alarm = bool(score > threshold and said["psi_net"] >= self.settings.psi_floor)
            rows.append((series, end_us, score, threshold, alarm, scale))
            if alarm:
                findings.append(self._finding(series, since_us, end_us, score, threshold, window, said))
        return Judgement(scores(self.name, rows), findings)

    def _finding(
        self, series: str, since_us: int, end_us: int, score: float, threshold: float, window: np.ndarray, said: dict[str, Any]
    ) -> Finding:
        model, feature = series.rsplit("/", 1)
        reference = self.references[series]
        evidence = {k: v for k, v in said.items() if k != "log10_p"}
        evidence |= {"window": {"from_us": since_us, "to_us": end_us, "rows": int(window.sum())}, "histogram": table_of(reference, window)}
        return Finding(
            self.name, "inference", series, end_us, end_us, "warning" if said["psi_net"] < 0.5 else "error",
            title=f"{feature} of {model} drifted from its reference",
            summary=f"PSI {said['psi']:.2f} over {int(window.sum())} rows (p = {10 ** -min(score, 300):.1e}); {reference.change(window)}.",
            score=score, threshold=threshold, p_value=10 ** -min(score, 300), evidence=evidence,
            labels={"model": model, "feature": feature}, quiet_us=int(self.settings.quiet_s * 1e6),
        )  # fmt: skip


def feature_values(batch: Batch, feature: str) -> tuple[np.ndarray, dict[str, str]]:
    """(float64[n], names): numbers as they are, categories as stable codes, NaN where null; `names`: what each code stands for."""
    if not is_text(batch.array(feature).type):
        return batch.floats(feature).astype(np.float64), {}
    codes, values = batch.codes(feature)
    numbers = np.array([np.nan if v is None else category_code(v) for v in values])
    names = {str(int(c)): str(v) for c, v in zip(numbers, values, strict=True) if v is not None}
    return (numbers[codes] if len(numbers) else np.full(len(batch), np.nan)), names


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds categories."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def append(state: State, name: str, rows: np.ndarray) -> None:
    """Add rows to a free-form array of the state."""
    kept = state.arrays.get(name)
    state.arrays[name] = rows if kept is None else np.concatenate([kept, rows])


def thinned(sketch: Sketch) -> np.ndarray:
    """float64[n, 2] pane and value, at most 4,096 of each pane, chosen by series and pane alone (the values come sorted)."""
    panes, first, rows = np.unique(sketch.value_panes, return_index=True, return_counts=True)
    chosen = []
    for pane, start, n in zip(panes.tolist(), first.tolist(), rows.tolist(), strict=True):
        index = np.arange(start, start + n)
        if n > KEPT_PER_PANE:
            seed = int(category_code(f"{sketch.series}/{pane}"))
            index = start + np.random.default_rng(seed).choice(n, KEPT_PER_PANE, replace=False)
        chosen.append(index)
    rows_kept = np.concatenate(chosen)
    return np.column_stack([sketch.value_panes[rows_kept].astype(np.float64), sketch.values[rows_kept]])


def test(reference: Reference, window: np.ndarray) -> dict[str, Any]:
    """G-test of a window's bin counts against the reference's, with the distances people know, all from the same two histograms."""
    keep = (reference.counts + window) > 0
    a, b = reference.counts[keep].astype(np.float64), window[keep].astype(np.float64)
    m, n = a.sum(), b.sum()
    pooled = (a + b) / (m + n)
    with np.errstate(divide="ignore", invalid="ignore"):
        g = 2 * (np.where(a > 0, a * np.log(a / (m * pooled)), 0).sum() + np.where(b > 0, b * np.log(b / (n * pooled)), 0).sum())
    df = max(1, int(keep.sum()) - 1)
    wander = 1 + reference.tau * m * n / (m + n)
    p, q = (a + 0.5) / (m + 0.5 * len(a)), (b + 0.5) / (n + 0.5 * len(b))
    psi = float(((q - p) * np.log(q / p)).sum())
    mean = (p + q) / 2
    return {
        "log10_p": log_tail(float(g / wander), df) / np.log(10),
        "g": float(g), "degrees_of_freedom": df, "wander": float(wander),
        "psi": psi, "psi_net": psi - df * (1 / n + 1 / m) - df * reference.tau,
        "jensen_shannon": float(np.sqrt(max(0.0, ((p * np.log(p / mean) + q * np.log(q / mean)) / 2).sum() / np.log(2)))),
        "total_variation": float(np.abs(p - q).sum() / 2),
    }  # fmt: skip


def log_tail(x: float, df: int) -> float:
    """ln P(chi2 >= x), by the first two terms of its asymptotic series where the tail itself is zero in float64."""
    tail = float(special.chdtrc(df, x))
    if tail > 0:
        return float(np.log(tail))
    a, half = df / 2, x / 2
    return float((a - 1) * np.log(half) - half - special.gammaln(a) + np.log1p((a - 1) / half))


def scores(name: str, rows: list[tuple[str, int, float, float, bool, int]]) -> list[Scores]:
    """Score rows: one block for the detector (the worst scale at each instant), one per scale as its part."""
    keys = sorted({r[0] for r in rows})
    index = {k: i for i, k in enumerate(keys)}

    def block(detector: str, chosen: list[tuple[str, int, float, float, bool, int]]) -> Scores:
        return Scores(
            detector, "inference", keys, np.array([index[r[0]] for r in chosen], np.int32), np.array([r[1] for r in chosen], np.int64),
            np.array([r[2] for r in chosen]), np.array([r[3] for r in chosen]), np.array([r[4] for r in chosen], np.bool_),
        )  # fmt: skip

    worst: dict[tuple[str, int], tuple[str, int, float, float, bool, int]] = {}
    for row in rows:
        held = worst.get(row[:2])
        if held is None or (row[4], row[2] - row[3]) > (held[4], held[2] - held[3]):
            worst[row[:2]] = row
    blocks = [block(name, list(worst.values()))]
    return blocks + [block(f"{name}.rows_{s}", part) for s in SCALES if (part := [r for r in rows if r[5] == s])]
