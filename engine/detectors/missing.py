"""Missing: a device, one metric of it, a scrape target or a whole partition that stopped arriving. Absence is a signal: a GPU that fell
off the bus shows only so.

A device's usual interval, and each metric's, is learned from its own rows. A device is missing when the stream has moved on by
`intervals` of them (and at least `least_s`; longer where it comes irregularly) since its last row; it ends when the device is back. A
metric is missing when its device goes on without it. A target is down when its scrapes say so. These are facts of event time: noticed by
the next rows of other devices, or at the latest when the device returns.

When nothing comes from a partition at all, that is one finding, of the partition. Its next rows show it; in the service it is told before,
by the time that passes while the source has nothing to give (`silent`). A backtest has no such time, and its onset and id are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from engine.alerts import Severity, time_text
from engine.arrivals import DEVICE, LEARNED, METRIC, NEWEST, PARTITION, SKIPPED, TOLD, awake, fold, limit_of
from engine.batch import Batch
from engine.finding import Context, Finding, Judgement, Scores, Settings
from engine.state import NEVER, ArraySpec, State

UP = "metric.up"
NAMED = 20
"""Devices that a finding about a partition names; of more it has the number."""
BY_DEVICE = ("last_us", "skipped_us", "interval_us", "jitter_us", "rows", "told")
BY_METRIC = ("metric_us", "metric_skipped_us", "metric_interval_us", "metric_jitter_us", "metric_rows", "metric_told")
BY_TARGET = ("down_us", "down_rows", "down_told")


class MissingSettings(Settings):
    """`intervals`: usual intervals without a row; `least_s`: and at least this long; `forget_s`: after this it is retired, not missing."""

    intervals: float = Field(10.0, gt=1)
    least_s: float = Field(5.0, ge=0)
    forget_s: float = Field(86_400.0, gt=0)


class Missing:
    """What vanished. State: last time, mean interval, its jitter and rows of each device and of each metric of it; the partition's
    silence."""

    name: ClassVar[str] = "missing"
    streams: ClassVar[tuple[str, ...]] = ("hardware",)

    def __init__(self, settings: MissingSettings, context: Context):
        self.settings = settings
        self.limits = settings.intervals, settings.least_s * 1e6

    def arrays(self) -> Sequence[ArraySpec]:
        kinds = {name: "float64" if "interval" in name or "jitter" in name else "int64" for name in (*BY_DEVICE, *BY_METRIC, *BY_TARGET)}
        return (
            *(ArraySpec(f"missing.{n}", kinds[n], ("device",), NEVER if n == "last_us" else 0) for n in (*BY_DEVICE, *BY_TARGET)),
            *(ArraySpec(f"missing.{n}", kinds[n], ("device", "metric"), NEVER if n == "metric_us" else 0) for n in BY_METRIC),
            ArraySpec("missing.partition", "int64", (4,), 0),
        )

    def observe(self, batch: Batch, state: State) -> None:
        """Note when each device and each metric was last seen; returns after a gap go to `judge`."""
        metrics = [c for c in batch.table.schema.names if c.startswith("metric.")]
        if not metrics:
            return
        slots = batch.slots(state, "device", ("host", "device"))
        columns = state.slots("metric", metrics, int(batch.time_us.max())).tolist()
        present = np.zeros((len(batch), len(state.table("metric"))), np.bool_)
        regular = np.ones(len(state.table("metric")), np.bool_)
        for metric, column in zip(metrics, columns, strict=True):
            if column < 0:
                continue  # more metrics than `limits.metrics`
            present[:, column] = batch.arrived[metric] if metric in batch.arrived else ~np.isnan(batch.floats(metric))
            regular[column] = metric not in batch.sparse
        up = batch.doubles(UP) if UP in metrics else np.full(len(batch), np.nan)
        arrays = [state[f"missing.{n}"] for n in (*BY_DEVICE, *BY_METRIC, *BY_TARGET, "partition")]
        events, whose = fold(slots, batch.time_us, present, regular, up, *arrays, *self.limits)
        for k, (kind, row, device, metric, last_us, interval_us, limit, back) in enumerate(events):
            back_us = int(batch.time_us[row]) if back else None
            if kind == PARTITION:
                found = self._partition(state, [d for e, d in whose if e == k], last_us, limit, back_us)
            elif kind == DEVICE:
                found = self._device(state, device, last_us, interval_us, limit, back_us)
            elif kind == METRIC:
                found = self._metric(state, device, metric, last_us, interval_us, limit, back_us)
            else:
                found = self._target(state, device, last_us, int(batch.time_us[row]), back_us)
            state.pending.setdefault(self.name, []).append(found)

    def judge(self, state: State, now_us: int) -> Judgement:
        """Who is overdue at the watermark. A score row for each device that is newly missing: its gap in usual intervals."""
        findings: list[Finding] = state.pending.pop(self.name, [])
        last, skipped, interval, jitter, count, told = (state[f"missing.{n}"] for n in BY_DEVICE)
        intervals, least_us = self.limits
        limit = np.maximum(np.maximum(intervals * interval, interval + 4 * intervals * jitter), least_us)
        known = count >= LEARNED
        here = now_us - int(state["missing.partition"][SKIPPED])
        silent = np.where(known, here - np.where(known, last - skipped, here), 0)
        for slot in np.flatnonzero(known & (silent > limit) & (told == 0)).tolist():
            told[slot] = 1
            findings.append(self._device(state, slot, int(last[slot]), interval[slot], limit[slot], None))
        gone = np.flatnonzero(known & (silent > self.settings.forget_s * 1e6))
        if len(gone):
            state.release("device", [s for s in gone.tolist() if state.table("device").keys[s]])
        return Judgement([self._scores(findings)] if findings else [], findings)

    def silent_from(self, state: State) -> int | None:
        """The event time at which silence of the whole partition is a finding; None where it is none, or was told."""
        partition = state["missing.partition"]
        devices, limit = self._awake(state)
        if partition[TOLD] or not len(devices) or (len(devices) == 1 and state["missing.told"][devices[0]]):
            return None
        if len(devices) == 1:
            return int(state["missing.last_us"][devices[0]] + self._limit(state, int(devices[0]))) + 1
        return int(partition[NEWEST] + limit) + 1

    def silent(self, state: State) -> Judgement:
        """The silence that `silent_from` foretold has come: the partition's, or that of the only device in it."""
        devices, limit = self._awake(state)
        if len(devices) == 1:
            slot = int(devices[0])
            state["missing.told"][slot] = 1
            last_us, interval_us = int(state["missing.last_us"][slot]), float(state["missing.interval_us"][slot])
            finding = self._device(state, slot, last_us, interval_us, self._limit(state, slot), None)
        else:
            state["missing.partition"][TOLD] = 1
            finding = self._partition(state, devices.tolist(), int(state["missing.partition"][NEWEST]), limit, None)
        finding.evidence["told_by"] = "clock"  # not by rows, which may be on their way
        return Judgement([self._scores([finding])], [finding])

    def _awake(self, state: State) -> tuple[np.ndarray, float]:
        partition = state["missing.partition"]
        last, skipped, interval, jitter, count, _ = (state[f"missing.{n}"] for n in BY_DEVICE)
        return awake(partition[NEWEST], partition[SKIPPED], last, skipped, interval, jitter, count, *self.limits)

    def _limit(self, state: State, slot: int) -> float:
        return limit_of(state["missing.interval_us"][slot], state["missing.jitter_us"][slot], *self.limits)

    def _device(self, state: State, slot: int, last_us: int, interval_us: float, limit: float, back_us: int | None) -> Finding:
        device = state.table("device").keys[slot]
        return self._finding(device, device, f"{device} stopped arriving", "error", last_us, interval_us, limit, back_us, {"metric": None},
                             "RUN_FIELDDIAG")  # fmt: skip

    def _metric(
        self, state: State, slot: int, column: int, last_us: int, interval_us: float, limit: float, back_us: int | None
    ) -> Finding:  # fmt: skip
        device, metric = state.table("device").keys[slot], state.table("metric").keys[column].removeprefix("metric.")
        title = f"{metric} of {device} stopped arriving"
        return self._finding(f"{device} {metric}", device, title, "warning", last_us, interval_us, limit, back_us, {"metric": metric})

    def _partition(self, state: State, devices: Sequence[int], last_us: int, limit: float, back_us: int | None) -> Finding:
        keys = [state.table("device").keys[d] for d in devices]
        title = f"Nothing arrives from {state.name or 'the partition'}: {len(keys)} devices fell silent at once"
        evidence = {"devices": keys[:NAMED], "devices_count": len(keys)}
        return self._finding(f"partition {state.name}", "", title, "error", last_us, limit / self.limits[0], limit, back_us, evidence)

    def _target(self, state: State, slot: int, since_us: int, now_us: int, back_us: int | None) -> Finding:
        device = state.table("device").keys[slot]
        return Finding(
            self.name, "hardware", f"{device} up", since_us, max(now_us, since_us), "error", title=f"{device}: the scrape target is down",
            summary=f"It has not answered since {time_text(since_us)}.", score=(now_us - since_us) / 1e6, threshold=self.limits[1] / 1e6,
            evidence={"down_since": time_text(since_us), "returned": time_text(back_us) if back_us else None}, labels={"device": device},
            quiet_us=int(self.settings.forget_s * 1e6), resolved_us=back_us, subject=device,
        )  # fmt: skip

    def _finding(
        self, key: str, device: str, title: str, severity: Severity, last_us: int, interval_us: float, limit: float, back_us: int | None,
        evidence: dict[str, Any], action: str = "NONE",
    ) -> Finding:  # fmt: skip
        onset = last_us + int(limit)
        until = onset if back_us is None else max(back_us, onset)
        usual = max(float(interval_us), 1.0)
        returned = time_text(back_us) if back_us else None
        return Finding(
            self.name, "hardware", key, onset, until, severity, title=title,
            summary=f"Last seen {time_text(last_us)}; it used to come every {interval_us / 1e6:.3g} s.",
            score=(until - last_us) / usual, threshold=limit / usual,
            evidence={"last_seen": time_text(last_us), "usual_interval_s": float(interval_us) / 1e6, "returned": returned} | evidence,
            labels={"device": device} if device else {}, action=action, quiet_us=int(self.settings.forget_s * 1e6),
            resolved_us=until if back_us is not None else None, subject=device,
        )  # fmt: skip

    def _scores(self, findings: list[Finding]) -> Scores:
        """A row for each finding; for each device that it names, where that is a partition's."""
        rows = [(key, f) for f in findings for key in f.evidence.get("devices", [f.key])]
        keys = sorted({key for key, _ in rows})
        return Scores(
            self.name, "hardware", keys, np.array([keys.index(key) for key, _ in rows], np.int32),
            np.array([f.last_us for _, f in rows], np.int64), np.array([f.score for _, f in rows]),
            np.array([f.threshold for _, f in rows]), np.ones(len(rows), np.bool_),
        )  # fmt: skip
