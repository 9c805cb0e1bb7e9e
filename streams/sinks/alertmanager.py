"""Prometheus Alertmanager, API v2: alerts with labels, so that its routing, silencing and paging apply."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from streams.records import Message
from streams.sinks.post import checked, post
from streams.sinks.sink import Undeliverable

log = logging.getLogger(__name__)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LASTS = timedelta(hours=4)
"""How long a firing alert is kept when nothing more is heard of it: Alertmanager would resolve it after five minutes."""


class AlertmanagerSink:
    """`url`: of Alertmanager itself (`http://alertmanager:9093`). Raises ValueError for an address that is not HTTP."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, timeout_s: float = 5.0):
        base = checked(url).rstrip("/")
        self.url = base if base.endswith("/api/v2/alerts") else f"{base}/api/v2/alerts"
        self.headers = {"content-type": "application/json"} | dict(headers or {})
        self.timeout_s = timeout_s

    def send(self, messages: Sequence[Message]) -> set[str]:
        """All alerts in one request; ConnectionError: try again. Where Alertmanager refuses it, each goes by itself, and the one that is
        refused is logged and counts as delivered, or it would hold up all others."""
        alerts = {m.id: rendered(m.record) for m in messages if m.kind == "alert" and m.record is not None}
        try:
            self._post(list(alerts.values()))
        except Undeliverable:
            for message_id, alert in alerts.items():
                try:
                    self._post([alert])
                except Undeliverable as refused:
                    log.error("%s; message %s is given up", refused, message_id)
        return {m.id for m in messages}

    def _post(self, alerts: Sequence[Mapping[str, Any]]) -> None:
        if alerts:
            post(self.url, orjson.dumps(alerts), self.headers, self.timeout_s)

    def close(self) -> None:
        """Nothing is kept open."""


def rendered(alert: Mapping[str, Any]) -> dict[str, Any]:
    """A `postableAlert`. Its labels name the alert and must not change while it lasts, so score and summary are annotations."""
    labels = {name: str(value) for name, value in alert["labels"].items()}
    labels |= {
        "alertname": f"telltale_{alert['detector']}", "id": alert["id"], "detector": alert["detector"], "key": alert["key"],
        "stream": alert["stream"], "severity": alert["severity"],
    }  # fmt: skip
    if alert["tenant"]:
        labels["tenant"] = alert["tenant"]
    annotations = {"title": alert["title"], "summary": alert["summary"], "score": f"{alert['score']:g}", "action": alert["action"]}
    ended = alert["resolved_us"]
    ends = time_text(ended) if ended is not None else (EPOCH + timedelta(microseconds=alert["last_seen_us"]) + LASTS).isoformat()
    return {"labels": labels, "annotations": annotations, "startsAt": time_text(alert["onset_us"]), "endsAt": ends}


def time_text(us: int) -> str:
    """RFC 3339, UTC."""
    return (EPOCH + timedelta(microseconds=us)).isoformat()
