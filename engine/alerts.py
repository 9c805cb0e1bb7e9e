"""Alerts: what a finding becomes. Opened at its onset, extended while it lasts, resolved when it ends.

The id is a function of detector, key and onset alone: a replay after a crash makes the same alerts again, with the same ids.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import orjson

from streams.records import Message

Severity = Literal["info", "warning", "error", "critical"]
SEVERITY_NUMBER = {"info": 9, "warning": 13, "error": 17, "critical": 21}  # OpenTelemetry's severity numbers


@dataclass
class Alert:
    """One thing that is going wrong, from onset to end. Times are microseconds since the epoch, event time, UTC.

    `sequence` orders the published versions of this alert: 0 when it is opened, later the event time passed since its onset in
    microseconds, so a replay that publishes at other instants still orders them right. A consumer keeps the highest.
    `score` and `threshold` are in the detector's own unit, higher is more anomalous. `p_value` or `e_value` say how sure the
    detector is, where it has a null to say it by; rules have neither. `evidence` is what a person needs to believe it.
    """

    id: str
    detector: str
    stream: str
    key: str
    tenant: str
    status: Literal["firing", "resolved"]
    severity: Severity
    title: str
    summary: str
    onset_us: int
    last_seen_us: int
    resolved_us: int | None
    score: float
    threshold: float
    p_value: float | None = None
    e_value: float | None = None
    peak_score: float = 0.0
    count: int = 1
    evidence: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    action: str = "NONE"
    incident: str | None = None
    sequence: int = 0
    config_hash: str = ""

    def record(self) -> dict[str, Any]:
        """Plain data, as the store and the checkpoint keep it."""
        return asdict(self)


def alert_id(detector: str, key: str, onset_us: int) -> str:
    """128 bits in hex, the same for the same detector, key and onset.

    >>> alert_id("hardware", "h1/gpu0", 1_700_000_000_000_000)
    'ed57cc051fefbda8a1ad2c904ed4ca47'
    """
    text = f"{detector}\x00{key}\x00{onset_us}".encode()
    return hashlib.blake2b(text, digest_size=16, person=b"telltale.alert").hexdigest()


def time_text(us: int) -> str:
    """RFC 3339 with microseconds, UTC."""
    from datetime import UTC, datetime, timedelta

    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)).isoformat().replace("+00:00", "Z")


def cloud_event(alert: Alert, source: str) -> dict[str, Any]:
    """CloudEvents 1.0, structured mode: one version of one alert. `id` repeats on a replay, `partitionkey` orders an alert's versions."""
    return {
        "specversion": "1.0",
        "id": f"{alert.id}.{alert.sequence}",
        "source": source,
        "type": f"dev.telltale.alert.{alert.status}",
        "subject": f"{alert.stream}/{alert.key}",
        "time": time_text(alert.resolved_us if alert.resolved_us is not None else alert.last_seen_us),
        "datacontenttype": "application/json",
        "severitytext": alert.severity.upper(),
        "severitynumber": SEVERITY_NUMBER[alert.severity],
        "partitionkey": alert.id,
        "sequence": f"{alert.sequence:019d}",
        "data": alert.record(),
    }


CLOUD_EVENT_HEADERS = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)


def message(alert: Alert, source: str) -> Message:
    """The alert's present version, ready for the outbox."""
    event = cloud_event(alert, source)
    return Message(
        event["id"], "alert", alert.id, orjson.dumps(event, option=orjson.OPT_SERIALIZE_NUMPY), CLOUD_EVENT_HEADERS, event["data"]
    )
