"""What goes over the wire. Times are RFC 3339 in UTC, with microseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from engine.alerts import Severity
from engine.store_query import Filter, Order

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST_US = int((datetime(9999, 12, 31, tzinfo=UTC) - EPOCH) / timedelta(microseconds=1))
EXAMPLE: dict[str, Any] = {
    "id": "d42ea3c3c2c94f7f8f1d2e6ad1d83b1b", "detector": "rules", "stream": "hardware", "key": "node-03/gpu5 xid 79", "tenant": "",
    "status": "firing", "severity": "critical", "title": "XID 79: GPU has fallen off the bus", "summary": "XID 79 on node-03/gpu5, once",
    "onset": "2026-11-20T09:14:03.250000Z", "last_seen": "2026-11-20T09:14:03.250000Z", "resolved": None, "score": 79.0,
    "threshold": 0.0, "p_value": None, "e_value": None, "peak_score": 79.0, "count": 1, "labels": {"host": "node-03", "device": "gpu5"},
    "tags": ["xid:79"], "action": "RESTART_BM", "incident": None, "sequence": 0, "config_hash": "9a1f0c22d1b0e7aa",
    "acknowledgement": None,
}  # fmt: skip


class Acknowledgement(BaseModel):
    """Who has seen an alert, when, and what they noted."""

    at: datetime
    by: str
    note: str


class AlertSummary(BaseModel):
    """An alert without its evidence. `score` and `threshold` are in the detector's own unit, higher is more anomalous."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    id: str
    detector: str
    stream: str
    key: str
    tenant: str
    status: Literal["firing", "resolved"]
    severity: Severity
    title: str
    summary: str
    onset: datetime
    last_seen: datetime
    resolved: datetime | None
    score: float | None
    threshold: float | None
    p_value: float | None
    e_value: float | None
    peak_score: float | None
    count: int
    labels: dict[str, str]
    tags: list[str]
    action: str
    incident: str | None
    sequence: int
    config_hash: str
    acknowledgement: Acknowledgement | None


class AlertDetail(AlertSummary):
    """An alert with what a person needs to believe it; the evidence's fields depend on the detector."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE | {"evidence": {"xid": 79}}]})

    evidence: dict[str, Any]


class AlertPage(BaseModel):
    """Some alerts, and the cursor to ask for the next ones with (null: these were the last)."""

    alerts: list[AlertSummary]
    next: str | None = Field(examples=["WyItb25zZXQiLDE3NjM2MzAwNDMyNTAwMDAsImQ0MmVhM2MzIl0="])


class AlertCounts(BaseModel):
    """How many alerts there are, by severity. `unacknowledged` counts firing alerts that nobody has acknowledged."""

    firing: dict[Severity, int]
    resolved: dict[Severity, int]
    unacknowledged: int


class AcknowledgeRequest(BaseModel):
    """What a person notes when acknowledging."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"note": "Draining node-03, ticket OPS-118"}]})

    note: str = Field("", max_length=2000)


class Health(BaseModel):
    """`status` is "ok" or "unready"; `problems` says what is wrong with which part."""

    status: Literal["ok", "unready"]
    problems: dict[str, str] = {}


class ParameterError(BaseModel):
    """What is wrong with one parameter of a request."""

    parameter: str
    location: str = Field(serialization_alias="in")
    detail: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[ParameterError] = []


Names = Annotated[list[Annotated[str, Field(max_length=500)]], Field(max_length=50)]


class StreamQuery(BaseModel):
    """Which alerts a live stream carries: by what never changes in an alert. `after`: the change number to go on from."""

    model_config = ConfigDict(extra="forbid")

    detector: Names = []
    stream: Names = []
    tenant: Names = []
    key: Names = []
    after: int | None = Field(None, ge=0, lt=2**63)

    def filter(self) -> Filter:
        """As the store understands it."""
        return Filter(detector=tuple(self.detector), stream=tuple(self.stream), tenant=tuple(self.tenant), key=tuple(self.key))


class AlertQuery(BaseModel):
    """Which alerts to list. A parameter given several times asks for any of its values."""

    model_config = ConfigDict(extra="forbid")

    status: list[Literal["firing", "resolved"]] = []
    severity: list[Severity] = []
    detector: Names = []
    stream: Names = []
    tenant: Names = []
    key: Names = []
    incident: Names = []
    since: AwareDatetime | None = Field(None, description="Only alerts that were still going on at or after this time.")
    until: AwareDatetime | None = Field(None, description="Only alerts that began before this time.")
    text: str | None = Field(None, max_length=200, description="Part of the title, summary, key, detector, stream, tags or labels.")
    acknowledged: bool | None = None
    order: Order = Field("-onset", description="Newest onset first, or oldest first.")
    limit: int = Field(100, ge=1, le=500)
    cursor: str | None = Field(None, max_length=500, description="`next` of an earlier page, with the same order.")

    def filter(self) -> Filter:
        """As the store understands it."""
        return Filter(
            status=tuple(self.status), severity=tuple(self.severity), detector=tuple(self.detector), stream=tuple(self.stream),
            tenant=tuple(self.tenant), key=tuple(self.key), incident=tuple(self.incident), since_us=microseconds(self.since),
            until_us=microseconds(self.until), text=self.text, acknowledged=self.acknowledged,
        )  # fmt: skip


def summary(record: dict[str, Any]) -> AlertSummary:
    """A record of the store, without its evidence."""
    return AlertSummary.model_validate(wire(record))


def detail(record: dict[str, Any]) -> AlertDetail:
    """A record of the store, with its evidence."""
    return AlertDetail.model_validate(wire(record))


def wire(record: dict[str, Any]) -> dict[str, Any]:
    """A record with times as times."""
    seen_us = record["acknowledged_us"]
    return record | {
        "onset": moment(record["onset_us"]),
        "last_seen": moment(record["last_seen_us"]),
        "resolved": None if record["resolved_us"] is None else moment(record["resolved_us"]),
        "acknowledgement": None if seen_us is None else {"at": moment(seen_us), "by": record["acknowledged_by"], "note": record["note"]},
    }


def moment(us: int) -> datetime:
    """Microseconds since the epoch as a time. What no calendar holds (an odd producer's clock) becomes the nearest it does hold."""
    return EPOCH + timedelta(microseconds=min(max(us, -LATEST_US // 5), LATEST_US))


def microseconds(when: datetime | None) -> int | None:
    """The reverse of `moment`."""
    return None if when is None else (when - EPOCH) // timedelta(microseconds=1)
