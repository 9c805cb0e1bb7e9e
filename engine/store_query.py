"""How alerts are looked for: filters, and cursors that stay right while alerts are written."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Literal

import orjson
import sqlalchemy as sa

Order = Literal["-onset", "onset"]


@dataclass(frozen=True)
class Filter:
    """What an alert must meet. Several values of one field are alternatives; an empty tuple or None asks for nothing.

    `since_us`, `until_us`: the alert was going on at some time in [since, until). `text`: part of the title, summary, key,
    detector, stream, tags or label values, in any case.
    """

    status: tuple[str, ...] = ()
    severity: tuple[str, ...] = ()
    detector: tuple[str, ...] = ()
    stream: tuple[str, ...] = ()
    tenant: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    incident: tuple[str, ...] = ()
    since_us: int | None = None
    until_us: int | None = None
    text: str | None = None
    acknowledged: bool | None = None


@dataclass(frozen=True)
class Page:
    """Alerts, and the cursor of the page after them (None: there is none)."""

    alerts: list[dict[str, Any]]
    next: str | None


def conditions(table: sa.Table, wanted: Filter) -> list[sa.ColumnElement[bool]]:
    """The filter as SQL."""
    out: list[sa.ColumnElement[bool]] = []
    for name in ("status", "severity", "detector", "stream", "tenant", "key", "incident"):
        if values := getattr(wanted, name):
            out.append(table.c[name].in_([clean(v) for v in values]))
    if wanted.since_us is not None:
        out.append(table.c.last_seen_us >= wanted.since_us)
    if wanted.until_us is not None:
        out.append(table.c.onset_us < wanted.until_us)
    if wanted.text:
        out.append(table.c.search.contains(clean(wanted.text.casefold()), autoescape=True))
    if wanted.acknowledged is not None:
        out.append(table.c.acknowledged_us.is_not(None) if wanted.acknowledged else table.c.acknowledged_us.is_(None))
    return out


def cursor_condition(table: sa.Table, cursor: str | None, order: Order) -> list[sa.ColumnElement[bool]]:
    """What comes after the cursor's alert. Raises ValueError for what is not a cursor, or one of another order."""
    if cursor is None:
        return []
    try:
        made_for, onset_us, alert_id = orjson.loads(base64.urlsafe_b64decode(cursor.encode()))
    except (ValueError, TypeError, binascii.Error) as error:
        raise ValueError("not a cursor that an earlier page gave") from error
    if made_for != order:
        raise ValueError(f"the cursor belongs to order {made_for!r}, not {order!r}")
    if not isinstance(onset_us, int) or isinstance(onset_us, bool) or abs(onset_us) >= 2**63 or not isinstance(alert_id, str):
        raise ValueError("not a cursor that an earlier page gave")
    here = sa.tuple_(table.c.onset_us, table.c.id)
    there = sa.tuple_(sa.literal(onset_us, sa.BigInteger), sa.literal(clean(alert_id), sa.String))
    return [here < there if order == "-onset" else here > there]


def next_cursor(last: Any, order: Order) -> str:
    """The cursor after this row."""
    return base64.urlsafe_b64encode(orjson.dumps([order, last["onset_us"], last["id"]])).decode()


def clean(text: str) -> str:
    """PostgreSQL has no NUL in text, and telemetry may: it must neither stop the delivery of an alert nor break a query."""
    return text.replace("\0", "\ufffd")
