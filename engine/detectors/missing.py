"""Missing: a device, or one metric of it, that stopped arriving. Absence is a signal: a GPU that fell off the bus shows only so.

A device's usual interval is learned from its own rows. It is missing when the stream has moved on by `intervals` of them (and at
least `least_s`) since its last row; it ends when the device is back. A metric is missing when its device goes on without it.
Both are facts of event time: noticed by the next rows of other devices, or at the latest when the device returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numba
import numpy as np
from pydantic import Field

from engine.alerts import time_text
from engine.batch import Batch
from engine.finding import Context, Finding, Judgement, Scores, Settings
from engine.state import NEVER, ArraySpec, State

LEARNED = 8
"""Rows of a device before its interval is believed."""


class MissingSettings(Settings):
    """`intervals`: usual intervals without a row; `least_s`: and at least this long; `forget_s`: after this it is retired, not missing."""

    intervals: float = Field(10.0, gt=1)
    least_s: float = Field(5.0, ge=0)
    forget_s: float = Field(86_400.0, gt=0)


class Missing:
    """Devices and metrics that vanished. State per device: last time, mean interval, rows; per metric: last time, rows."""

    name: ClassVar[str] = "missing"
    streams: ClassVar[tuple[str, ...]] = ("hardware",)

    def __init__(self, settings: MissingSettings, context: Context):
        self.settings = settings

    def arrays(self) -> Sequence[ArraySpec]:
        return (
            ArraySpec("missing.last_us", "int64", ("device",), NEVER),
            ArraySpec("missing.interval_us", "float64", ("device",), 0),
            ArraySpec("missing.rows", "int64", ("device",), 0),
            ArraySpec("missing.told", "int64", ("device",), 0),
            ArraySpec("missing.metric_last_us", "int64", ("device", "metric"), NEVER),
            ArraySpec("missing.metric_rows", "int64", ("device", "metric"), 0),
            ArraySpec("missing.metric_told", "int64", ("device", "metric"), 0),
        )

    def observe(self, batch: Batch, state: State) -> None:
        """Note when each device and each metric was last seen; returns after a gap go to `judge`."""
        metrics = [c for c in batch.table.schema.names if c.startswith("metric.")]
        if not metrics:
            return
        slots = batch.slots(state, "device", ("host", "device"))
        columns = state.slots("metric", metrics, int(batch.time_us.max()))
        present = np.zeros((len(batch), len(state.table("metric"))), np.bool_)
        for metric, column in zip(metrics, columns.tolist(), strict=True):
            present[:, column] = ~np.isnan(batch.floats(metric))
        gaps = fold(
            slots, batch.time_us, present, state["missing.last_us"], state["missing.interval_us"], state["missing.rows"],
            state["missing.told"], state["missing.metric_last_us"], state["missing.metric_rows"], state["missing.metric_told"],
            self.settings.intervals, self.settings.least_s * 1e6,
        )  # fmt: skip
        returns = [
            self._finding(
                state, int(slots[row]), None if column < 0 else column, last_us, interval_us, int(batch.time_us[row]) if back else None
            )
            for row, column, last_us, interval_us, back in gaps
        ]
        state.pending.setdefault(self.name, []).extend(returns)

    def judge(self, state: State, now_us: int) -> Judgement:
        """Who is overdue at the watermark. A score row for each device that is newly missing: its gap in usual intervals."""
        findings: list[Finding] = state.pending.pop(self.name, [])
        last, interval, count = state["missing.last_us"], state["missing.interval_us"], state["missing.rows"]
        limit = np.maximum(self.settings.intervals * interval, self.settings.least_s * 1e6)
        known = count >= LEARNED
        silent = np.where(known, now_us - np.where(known, last, now_us), 0)
        overdue = known & (silent > limit) & (state["missing.told"] == 0)
        for slot in np.flatnonzero(overdue).tolist():
            state["missing.told"][slot] = 1
            findings.append(self._finding(state, slot, None, int(last[slot]), interval[slot], None))
        gone = np.flatnonzero(known & (silent > self.settings.forget_s * 1e6))
        if len(gone):
            state.release("device", [s for s in gone.tolist() if state.table("device").keys[s]])
        return Judgement([self._scores(findings)] if findings else [], findings)

    def _limit_us(self, interval_us: float) -> float:
        return max(self.settings.intervals * interval_us, self.settings.least_s * 1e6)

    def _finding(self, state: State, slot: int, column: int | None, last_us: int, interval_us: float, back_us: int | None) -> Finding:
        device = state.table("device").keys[slot]
        metric = None if column is None else state.table("metric").keys[column].removeprefix("metric.")
        limit = self._limit_us(interval_us)
        what = f"{device} {metric}" if metric else device
        onset = last_us + int(limit)
        return Finding(
            self.name, "hardware", what, onset, back_us or onset,
            severity="warning" if metric else "error",
            title=f"{metric} of {device} stopped arriving" if metric else f"{device} stopped arriving",
            summary=f"Last seen {time_text(last_us)}; it used to come every {interval_us / 1e6:.3g} s.",
            score=((back_us or onset) - last_us) / max(interval_us, 1.0), threshold=limit / max(interval_us, 1.0),
            evidence={"last_seen": time_text(last_us), "usual_interval_s": interval_us / 1e6, "metric": metric,
                      "returned": time_text(back_us) if back_us else None},
            labels={"device": device}, action="NONE" if metric else "RUN_FIELDDIAG",
            quiet_us=int(self.settings.forget_s * 1e6), resolved_us=back_us, subject=device,
        )  # fmt: skip

    def _scores(self, findings: list[Finding]) -> Scores:
        keys = sorted({f.key for f in findings})
        return Scores(
            self.name, "hardware", keys, np.array([keys.index(f.key) for f in findings], np.int32),
            np.array([f.last_us for f in findings], np.int64), np.array([f.score for f in findings]),
            np.array([f.threshold for f in findings]), np.ones(len(findings), np.bool_),
        )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def fold(slots, time_us, present, last_us, interval_us, rows, told, metric_last_us, metric_rows, metric_told, intervals, least_us):
    """Fold rows in order; returns what went missing or came back, as (row, metric or -1, last seen, usual interval, whether back).

    `slots`: int32[n] device of each row; `present`: bool[n, m] which metrics it has; the rest is state, by device or by device and
    metric. A gap is no part of the interval that it is measured by. A device says itself, by its rows, which metrics it goes on
    without; its own absence shows when it returns, or to `judge`.
    """
    events = [(0, 0, 0, 0.0, False) for _ in range(0)]
    for i in range(len(slots)):
        d = slots[i]
        if d < 0 or not present[i].any():
            continue
        now = time_us[i]
        gap = now - last_us[d] if rows[d] > 0 else 0
        limit = max(intervals * interval_us[d], least_us)
        if rows[d] >= LEARNED and gap > limit:
            events.append((i, -1, last_us[d], interval_us[d], True))
            told[d] = 0
        elif rows[d] > 0 and gap > 0:
            interval_us[d] += (gap - interval_us[d]) / min(rows[d], 64)
        for c in range(present.shape[1]):
            if present[i, c]:
                if metric_told[d, c]:
                    events.append((i, c, metric_last_us[d, c], interval_us[d], True))
                metric_told[d, c] = 0
                metric_rows[d, c] += 1
                metric_last_us[d, c] = max(metric_last_us[d, c], now)
            elif metric_rows[d, c] >= LEARNED and not metric_told[d, c] and last_us[d] - metric_last_us[d, c] > limit:
                events.append((i, c, metric_last_us[d, c], interval_us[d], False))
                metric_told[d, c] = 1
        rows[d] += 1
        last_us[d] = max(last_us[d], now)
    return events
