"""Rules: facts that need no statistics. NVIDIA XID errors, by number or from kernel-log lines, with the catalogue's action; and what a GPU
says of its own clocks (thermal and power slowdowns).

A repeat of the same XID on the same device extends its alert and is counted, so 800,000 lines make one alert; an XID that a gauge
goes on showing (DCGM keeps the last one) is one occurrence, not one a tick. XID 45 alone is what follows a killed process, and is
told as information. A number that the catalogue does not know is an alert too: severity warning, action UNKNOWN.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from engine.alerts import Severity, time_text
from engine.batch import Batch
from engine.finding import Context, Finding, Judgement, Scores, Settings
from engine.runs import runs
from engine.state import ArraySpec, State
from streams.names import XID, XidCode

XID_LINE = re.compile(r"\bNVRM: Xid \(([^)]*)\): (\d{1,6})\b")
CLEAN_UP = 45
SEVERITY: dict[str, Severity] = {
    "NONE": "info", "RESTART_APP": "warning", "UNKNOWN": "warning", "CONTACT_SUPPORT": "error", "COMPONENT_RESET": "error",
    "RUN_FIELDDIAG": "error", "RUN_DCGMEUD": "error", "RESTART_VM": "critical", "RESTART_BM": "critical", "REPLACE_VM": "critical",
}  # fmt: skip


THROTTLES: dict[int, tuple[str, Severity]] = {
    0x08: ("hardware slowdown", "error"), 0x20: ("software thermal slowdown", "warning"),
    0x40: ("hardware thermal slowdown", "error"), 0x80: ("hardware power brake", "error"),
}  # fmt: skip
"""Bits of DCGM's clock event reasons that are no choice of the operator's (a power cap is)."""
REASONS = "metric.clocks_event_reasons"


class RulesSettings(Settings):
    """`quiet_s`: an XID that does not come again for this long is over. `ignore`: numbers that raise nothing.
    `throttle_quiet_s`: the same for a slowdown."""

    quiet_s: float = Field(3600.0, gt=0)
    ignore: tuple[int, ...] = ()
    throttle_quiet_s: float = Field(60.0, gt=0)


class Rules:
    """XID errors per device. State: the number that each device's gauge last showed."""

    name: ClassVar[str] = "rules"
    streams: ClassVar[tuple[str, ...]] = ("hardware",)

    def __init__(self, settings: RulesSettings, context: Context):
        self.settings = settings

    def arrays(self) -> Sequence[ArraySpec]:
        return (ArraySpec("rules.gauge", "int32", ("device",), 0),)

    def observe(self, batch: Batch, state: State) -> None:
        """Find the occurrences, in order: gauges that changed to a number, and log lines."""
        found: list[tuple[int, int, str]] = []  # row, number, line
        if "xid" in batch.columns:
            numbers = np.nan_to_num(batch.floats("xid"), nan=0).astype(np.int64)
            gauges = "log" not in batch.columns
            rows = np.flatnonzero(numbers) if not gauges else np.arange(len(batch))
            slots = batch.slots(state, "device", ("host", "device"))
            for row in rows.tolist() if numbers.any() or state["rules.gauge"].any() else ():
                number, slot = int(numbers[row]), int(slots[row])
                if gauges and slot >= 0:
                    if number == int(state["rules.gauge"][slot]):
                        continue
                    state["rules.gauge"][slot] = number
                if number:
                    found.append((row, number, ""))
        if "log" in batch.columns:
            for row, line in enumerate(batch.array("log").to_pylist()):
                if line and (match := XID_LINE.search(line)):
                    found.append((row, int(match[2]), line[:500]))
        if REASONS in batch.columns:
            self._throttles(batch, state)
        if found:
            codes, keys = batch.keys(("host", "device"))
            pending = state.pending.setdefault(self.name, [])
            for row, number, line in found:
                if number not in self.settings.ignore:
                    pending.append(self._finding(keys[codes[row]], int(batch.time_us[row]), number, line))

    def _throttles(self, batch: Batch, state: State) -> None:
        """A finding for each run of rows of a device that show one of the bits."""
        reasons = np.nan_to_num(batch.floats(REASONS), nan=0, posinf=0, neginf=0).astype(np.int64)
        quiet_us = int(self.settings.throttle_quiet_s * 1e6)
        for bit, (name, severity) in THROTTLES.items():
            if not (shown := (reasons & bit) != 0).any():
                continue
            codes, keys = batch.keys(("host", "device"))
            for run in runs(codes, shown, batch.time_us, np.ones(len(batch)), quiet_us):
                device, first, last = keys[run.key], int(batch.time_us[run.rows[0]]), int(batch.time_us[run.rows[-1]])
                finding = Finding(
                    self.name, "hardware", f"{device} {name}", first, last, severity, title=f"{name} on {device}",
                    summary=f"The GPU says that it slows its clocks down: {name}.", score=1.0, threshold=1.0, count=len(run.rows),
                    evidence={"clocks_event_reasons": int(reasons[run.rows[0]]), "bit": bit, "rows": len(run.rows)},
                    labels={"device": device}, action="RUN_FIELDDIAG", quiet_us=quiet_us, subject=device,
                )  # fmt: skip
                state.pending.setdefault(self.name, []).append(finding)

    def judge(self, state: State, now_us: int) -> Judgement:
        """The occurrences of this batch; a score row for each."""
        findings: list[Finding] = state.pending.pop(self.name, [])
        if not findings:
            return Judgement()
        keys = sorted({f.subject for f in findings})
        scores = Scores(
            self.name, "hardware", keys, np.array([keys.index(f.subject) for f in findings], np.int32),
            np.array([f.first_us for f in findings], np.int64), np.array([f.score for f in findings]),
            np.ones(len(findings)), np.ones(len(findings), np.bool_),
        )  # fmt: skip
        return Judgement([scores], findings)

    def _finding(self, device: str, time_us: int, number: int, line: str) -> Finding:
        code = XID.get(number)
        action = code.action if code else "UNKNOWN"
        severity = "info" if number == CLEAN_UP else SEVERITY[action]
        meaning = describe(number, code)
        evidence: dict[str, object] = {"xid": number, "catalogue_action": code.catalogue if code else None, "seen": time_text(time_us)}
        if line:
            evidence["line"] = line
        return Finding(
            self.name, "hardware", f"{device} xid {number}", time_us, time_us, severity,
            title=f"XID {number} on {device}", summary=f"{meaning} Recommended: {action}.", score=1.0, threshold=1.0, evidence=evidence,
            labels={"device": device, "xid": str(number)}, action=action, quiet_us=int(self.settings.quiet_s * 1e6), subject=device,
        )  # fmt: skip


def describe(number: int, code: XidCode | None) -> str:
    """One sentence on a number."""
    if code is None:
        return f"XID {number} is not in NVIDIA's catalogue."
    return f"{code.meaning}." if code.meaning else f"NVIDIA's catalogue says {code.catalogue} for XID {number}."
