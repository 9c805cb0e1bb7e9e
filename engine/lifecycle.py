"""From findings to alerts: open at the onset, extend while findings go on, resolve after the quiet time.

What is open lives in the partition's records and so in its checkpoint. Everything follows event time, and nothing depends on how
rows were cut into batches except how often an extension is published.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from engine.alerts import SEVERITY_NUMBER, Alert, alert_id
from engine.finding import Finding
from engine.state import State

REPUBLISH_RATIO = 2.0
"""An open alert is published again when its peak has grown by this factor, or its severity has risen."""
MOST_OPEN = 20_000
CLOSED_FOR_ROOM = "closed for room"
"""The tag of an alert that was closed because too many were open, not because it was over."""


@dataclass
class Open:
    """An open alert and what its lifecycle needs to know besides."""

    alert: Alert
    quiet_us: int
    subject: str
    published_peak: float

    def record(self) -> dict[str, Any]:
        return {"alert": self.alert.record(), "quiet_us": self.quiet_us, "subject": self.subject, "published_peak": self.published_peak}

    @classmethod
    def of(cls, record: dict[str, Any]) -> Open:
        return cls(Alert(**record["alert"]), record["quiet_us"], record["subject"], record["published_peak"])


class Lifecycle:
    """The open alerts of one state. `apply` returns the alert versions to publish, oldest first."""

    def __init__(self, state: State, config_hash: str = ""):
        self.state = state
        self.config_hash = config_hash
        self.open: dict[str, Open] = {k: Open.of(r) for k, r in state.records.get("alerts", {}).items()}
        self._protect()

    def apply(self, findings: Iterable[Finding], stream: str, now_us: int) -> list[Alert]:
        """Take the findings of one batch of a stream, those of one key in their order, and close what has been quiet until `now_us`,
        the stream's watermark. No later row of the stream is older than that, so when to close does not depend on the batches."""
        changed: list[Alert] = []
        for finding in findings:
            ident = f"{finding.detector}\x00{finding.key}"
            known = self.open.get(ident)
            if known and finding.first_us > known.alert.last_seen_us + known.quiet_us:
                changed.append(self._resolve(ident, known.alert.last_seen_us + known.quiet_us))
                known = None
            if known is None:
                known = self.open[ident] = self._opened(finding.whole())
                changed.append(snapshot(known.alert))
            elif self._extended(known, finding):
                changed.append(snapshot(known.alert))
            if finding.resolved_us is not None:
                changed.append(self._resolve(ident, finding.resolved_us))
        for ident, known in sorted(self.open.items()):
            if known.alert.stream == stream and now_us > known.alert.last_seen_us + known.quiet_us:
                changed.append(self._resolve(ident, known.alert.last_seen_us + known.quiet_us))
        changed += self._make_room()
        self._protect()
        return changed

    def save(self) -> None:
        """Write the open alerts into the state's records, for the checkpoint."""
        self.state.records["alerts"] = {k: o.record() for k, o in self.open.items()}

    def _opened(self, f: Finding) -> Open:
        tenant = f.labels.get("tenant", "")
        alert = Alert(
            id=alert_id(f.detector, f.key, f.first_us), detector=f.detector, stream=f.stream, key=f.key, tenant=tenant,
            status="firing", severity=f.severity, title=f.title, summary=f.summary, onset_us=f.first_us, last_seen_us=f.last_us,
            resolved_us=None, score=f.score, threshold=f.threshold, p_value=f.p_value, e_value=f.e_value, peak_score=f.score,
            count=f.count, evidence=f.evidence, labels=dict(f.labels), tags=list(f.tags), action=f.action, config_hash=self.config_hash,
        )  # fmt: skip
        return Open(alert, f.quiet_us, f.subject or f.key, f.score)

    def _extended(self, known: Open, f: Finding) -> bool:
        """Fold one more finding in; whether that is news worth publishing."""
        a = known.alert
        a.last_seen_us = max(a.last_seen_us, f.last_us)
        a.count += f.count
        a.score = f.score
        known.quiet_us = max(known.quiet_us, f.quiet_us)
        worse = SEVERITY_NUMBER[f.severity] > SEVERITY_NUMBER[a.severity]
        if f.score > a.peak_score or worse:
            f = f.whole()
            a.peak_score, a.evidence, a.summary = max(a.peak_score, f.score), f.evidence, f.summary
            a.p_value, a.e_value = f.p_value, f.e_value
        if worse:
            a.severity, a.title, a.action = f.severity, f.title, f.action
        if not worse and a.peak_score < REPUBLISH_RATIO * known.published_peak:
            return False
        known.published_peak = a.peak_score
        a.sequence = max(a.sequence + 1, a.last_seen_us - a.onset_us)
        return True

    def _make_room(self) -> list[Alert]:
        """Close what has been quiet longest where more is open than may be: it was published, and what goes on is not quiet."""
        excess = len(self.open) - self.state.limits.get("open_alerts", MOST_OPEN)
        if excess <= 0:
            return []
        oldest = sorted(self.open.items(), key=lambda item: (item[1].alert.last_seen_us, item[0]))[:excess]
        for _, known in oldest:
            known.alert.tags.append(CLOSED_FOR_ROOM)
        return [self._resolve(ident, known.alert.last_seen_us) for ident, known in oldest]

    def _resolve(self, ident: str, at_us: int) -> Alert:
        alert = self.open.pop(ident).alert
        alert.status, alert.resolved_us = "resolved", at_us
        alert.sequence = max(alert.sequence + 1, at_us - alert.onset_us + 1)
        return alert

    def _protect(self) -> None:
        self.state.protected.clear()
        self.state.protected.update(o.subject for o in self.open.values())


def snapshot(alert: Alert) -> Alert:
    """The alert as it is now; the open one goes on changing."""
    return Alert(**alert.record())
