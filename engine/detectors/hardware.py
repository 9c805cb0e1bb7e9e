"""Hardware: devices whose metrics move as they never did together. Guarded exponentially weighted Mahalanobis distance per device.

observe   the `mahalanobis` op scores each row against what the device's metrics usually do, and learns from it, hardly from outliers
judge     a row alarms when its score exceeds the device's threshold. Thresholds follow from the false-alarm budget: the maxima of
          blocks of 16 rows make a histogram (integers), its tail is Pareto, and the budget says how far out the threshold lies.
          Blocks with an alarm in them are not learned from

Blind to a fault that is there from a device's first row on, and to what moves every device alike and slowly. Without a baseline a
device is judged after some 850 rows. Score: trailing mean of the squared distance over 30 rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numba
import numpy as np
from pydantic import Field

from engine.batch import Batch
from engine.evidence import MIN_ALPHA, WEEK_US, LogHistogram, tail_of
from engine.finding import Context, Finding, Judgement, Scores, Settings
from engine.runs import Run, runs
from engine.state import ArraySpec, State
from kernels import mahalanobis

OP_ARRAYS: tuple[tuple[str, str, tuple[str | int, ...]], ...] = (
    ("weight", "float64", ("device", "metric")),
    ("mean", "float64", ("device", "metric")),
    ("cov", "float64", ("device", "metric", "metric")),
    ("low", "float64", ("device", "metric")),
    ("high", "float64", ("device", "metric")),
    ("scale", "float64", ("device", "metric")),
    ("precision", "float64", ("device", "metric", "metric")),
    ("ticks", "int64", ("device",)),
    ("recent", "float64", ("device", 30)),
)
"""The state of the `mahalanobis` op, in its order."""
FITTING_ROWS = 1 << 40
BLOCK_ROWS = 16
PEAKS = LogHistogram(1e-3, 1e9, 240)
QUANTILE, LEAST = 0.8, 8
WARMUP_ROWS = 200
TOP = 5


class HardwareSettings(Settings):
    """`learning_rows`: a device's first rows, from which its scales come (a baseline gives them at once);
    `quiet_s`: an alert ends after this long without an alarming row. `error_ratio`: a score this many times the threshold is an error."""

    learning_rows: int = Field(10_000, ge=1)
    quiet_s: float = Field(300.0, gt=0)
    error_ratio: float = Field(10.0, gt=1)


class Hardware:
    """Anomalies of devices over all their `metric.*` columns. State per device: the op's, a histogram of block maxima, a threshold."""

    name: ClassVar[str] = "hardware"
    streams: ClassVar[tuple[str, ...]] = ("hardware",)

    def __init__(self, settings: HardwareSettings, context: Context):
        self.settings = settings
        self.per_us = context.budget.per_week.get(self.name, context.budget.default) / WEEK_US
        self.baseline: dict[str, Any] = context.baseline.get(self.name, {})
        self.learning_rows = FITTING_ROWS if context.fitting else settings.learning_rows

    def arrays(self) -> Sequence[ArraySpec]:
        return (
            *(ArraySpec(f"hardware.{name}", dtype, dims) for name, dtype, dims in OP_ARRAYS),
            ArraySpec("hardware.peaks", "int64", ("device", PEAKS.bins)),
            ArraySpec("hardware.threshold", "float64", ("device",), np.inf),
            ArraySpec("hardware.tail", "float64", ("device", 3)),
            ArraySpec("hardware.block", "float64", ("device", 4)),
        )

    def observe(self, batch: Batch, state: State) -> None:
        """Score the rows and learn from them."""
        metrics = [c for c in batch.table.schema.names if c.startswith("metric.")]
        if not metrics or not len(batch):
            return
        known = set(state.table("device").index)
        slots = batch.slots(state, "device", ("host", "device"))
        columns = state.slots("metric", metrics, int(batch.time_us.max()))
        self._start_from_baseline(state, known)
        x = np.full((len(batch), len(state.table("metric"))), np.nan, np.float32)
        for name, column in zip(metrics, columns.tolist(), strict=True):
            if column < 0:
                continue  # more metrics than `limits.metrics`
            x[:, column] = batch.floats(name)
        count = len(state.table("device").keys)
        seen = devices_so_far(slots, state["hardware.ticks"][:count] > 0)
        op_state = mahalanobis.Mahalanobis(*(state[f"hardware.{name}"] for name, *_ in OP_ARRAYS))
        result = mahalanobis.mahalanobis(x, slots, op_state, warmup=WARMUP_ROWS, learning_ticks=self.learning_rows, parts=True)
        threshold, alarm, p_value = calibrate(
            slots, batch.time_us, result.score, seen, state["hardware.peaks"], state["hardware.threshold"], state["hardware.tail"],
            state["hardware.block"], self.per_us, PEAKS.low, PEAKS.width,
        )  # fmt: skip
        state.pending.setdefault(self.name, []).append((batch, slots, x, result, threshold, alarm, p_value))

    def judge(self, state: State, now_us: int) -> Judgement:
        """A score row for each row, a finding for each run of alarming rows of a device."""
        judgement = Judgement()
        for batch, slots, x, result, threshold, alarm, p_value in state.pending.pop(self.name, []):
            keys = state.table("device").keys
            rows = np.flatnonzero((slots >= 0) & ~np.isnan(x).all(axis=1))
            score = np.nan_to_num(result.score[rows], nan=0.0)
            judgement.scores.append(
                Scores(self.name, "hardware", keys, slots[rows], batch.time_us[rows], score, threshold[rows], alarm[rows])
            )
            for run in runs(slots, alarm, batch.time_us, result.score, int(self.settings.quiet_s * 1e6)):
                judgement.findings.append(self._finding(state, batch, run, x, result, threshold, p_value))
        return judgement

    def fitted(self, states: Sequence[State], population: State) -> dict[str, Any]:
        """What a baseline keeps: every device's arrays, stacked, with the names of devices and metrics."""
        devices: list[str] = []
        kept: dict[str, list[np.ndarray]] = {name: [] for name in self._kept()}
        metrics = sorted({m for s in states for m in s.table("metric").keys})
        for state in states:
            place = np.array([metrics.index(m) for m in state.table("metric").keys], np.int64)
            for device, slot in state.table("device").index.items():
                devices.append(device)
                for name, dims in self._kept().items():
                    row = state[name][slot]
                    if "metric" in dims:
                        wide = np.zeros((len(metrics),) * dims.count("metric"), row.dtype)
                        wide[np.ix_(*(place,) * dims.count("metric"))] = row
                        row = wide
                    kept[name].append(row)
        return {"devices": devices, "metrics": metrics, "arrays": {n: np.array(rows) for n, rows in kept.items()}}

    def _kept(self) -> dict[str, tuple[str | int, ...]]:
        return {spec.name: spec.dims[1:] for spec in self.arrays() if spec.name != "hardware.block"}

    def _start_from_baseline(self, state: State, known: set[str]) -> None:
        """Give devices that are new here, and known to the baseline, what it learned of them."""
        if not self.baseline:
            return
        table = state.table("device")
        places = {device: i for i, device in enumerate(self.baseline["devices"])}
        new = [(slot, places[key]) for key, slot in table.index.items() if key not in known and key in places]
        if not new:
            return
        columns = state.slots("metric", self.baseline["metrics"], 0).astype(np.int64)
        fits = np.flatnonzero(columns >= 0)
        columns = columns[fits]
        for name, dims in self._kept().items():
            for slot, place in new:
                row = self.baseline["arrays"][name][place]
                if "metric" in dims:
                    axes = dims.count("metric")
                    state[name][slot][np.ix_(*(columns,) * axes)] = row[np.ix_(*(fits,) * axes)]
                else:
                    state[name][slot] = row

    def _finding(
        self, state: State, batch: Batch, run: Run, x: np.ndarray, result: Any, threshold: np.ndarray, p_value: np.ndarray
    ) -> Finding:
        device = state.table("device").keys[run.key]
        peak = run.peak
        score, limit = float(result.score[peak]), float(threshold[peak])
        metrics = self._worst(state, run.key, x[peak], result.parts[peak])
        first = metrics[0] if metrics else {"metric": "the metrics", "value": np.nan, "usual": np.nan, "spread": np.nan}
        return Finding(
            self.name, "hardware", device, int(batch.time_us[run.rows[0]]), int(batch.time_us[run.rows[-1]]),
            severity="error" if score > self.settings.error_ratio * limit else "warning",
            title=f"{device} behaves as it never did",
            summary=f"{first['metric']} is {first['value']:.4g}, usually {first['usual']:.4g} (spread {first['spread']:.2g}); "
            f"distance {score:.3g}, threshold {limit:.3g}.",
            score=score, threshold=limit, count=len(run.rows), p_value=float(p_value[peak]),
            evidence={"metrics": metrics, "null": "maxima of 16 rows, Pareto tail", "rows": len(run.rows)},
            labels={"device": device}, action="RUN_FIELDDIAG", quiet_us=int(self.settings.quiet_s * 1e6),
        )  # fmt: skip

    def _worst(self, state: State, slot: int, values: np.ndarray, parts: np.ndarray) -> list[dict[str, Any]]:
        """The metrics that contribute most to the distance, with what is usual for this device."""
        names = state.table("metric").keys
        order = np.argsort(-np.nan_to_num(parts, nan=-np.inf))[:TOP]
        mean, spread = state["hardware.mean"][slot], state["hardware.scale"][slot]
        return [
            {"metric": names[j].removeprefix("metric."), "value": float(values[j]), "usual": float(mean[j]), "spread": float(spread[j]),
             "share": float(parts[j] / max(np.nansum(parts), 1e-12))}
            for j in order.tolist() if np.isfinite(parts[j]) and parts[j] > 0
        ]  # fmt: skip


def devices_so_far(slots: np.ndarray, had_rows: np.ndarray) -> np.ndarray:
    """int64[n]: how many devices had a row up to and including each row; they share the false-alarm budget.

    >>> devices_so_far(np.array([2, 0, 2, 1]), np.array([True, False, False])).tolist()
    [2, 2, 2, 3]
    """
    present, first = np.unique(slots, return_index=True)
    new = np.sort(first[(present >= 0) & ~had_rows[np.maximum(present, 0)]])
    return int(had_rows.sum()) + np.searchsorted(new, np.arange(len(slots)), side="right")


@numba.njit(cache=True, nogil=True)
def calibrate(slots, time_us, score, seen, peaks, threshold, tail, block, per_us, low, width):
    """Compare each row with its device's threshold, and learn the tail from blocks that held no alarm.

    `seen`: int64[n] devices that share the budget at each row; `per_us`: false alarms tolerated per microsecond by all of them;
    state by device: `peaks` int64[d, bins], `threshold` float64[d], `tail` float64[d, 3] (start, share, scale), `block` float64[d, 4]
    (rows, maximum, start, whether it alarmed). Returns float64[n] threshold, bool[n] alarm, float64[n] P(a block's maximum >= score).
    """
    n = len(slots)
    limit = np.full(n, np.inf)
    alarm = np.zeros(n, np.bool_)
    p_value = np.ones(n)
    for i in range(n):
        d = slots[i]
        if d < 0 or np.isnan(score[i]):
            continue
        limit[i] = threshold[d]
        alarm[i] = score[i] > threshold[d]
        x = np.log10(max(score[i], 1e-300))
        if tail[d, 2] > 0.0 and x > tail[d, 0]:
            p_value[i] = tail[d, 1] * np.exp(-(x - tail[d, 0]) / tail[d, 2])
        if block[d, 0] == 0.0:
            block[d, 1] = 0.0
            block[d, 2] = time_us[i]
            block[d, 3] = 0.0
        block[d, 0] += 1.0
        block[d, 1] = max(block[d, 1], score[i])
        if alarm[i]:
            block[d, 3] = 1.0
        if block[d, 0] < BLOCK_ROWS:
            continue
        block[d, 0] = 0.0
        if block[d, 3] > 0.0:
            continue
        at = np.int64((np.log10(max(block[d, 1], 1e-300)) - low) / width)
        peaks[d, min(max(at, 0), peaks.shape[1] - 1)] += 1
        start, share, scale, count = tail_of(peaks[d], low, width, QUANTILE, LEAST)
        if count:
            tail[d, 0], tail[d, 1], tail[d, 2] = start, share, scale
            covers = max(time_us[i] - block[d, 2], 1) * BLOCK_ROWS / (BLOCK_ROWS - 1)
            alpha = min(max(per_us * covers / seen[i], MIN_ALPHA), 0.5)
            threshold[d] = 10.0 ** (start + scale * max(0.0, np.log(share / alpha)))
    return limit, alarm, p_value
