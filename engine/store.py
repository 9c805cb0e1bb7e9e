"""The store: alerts in SQL, for the REST API and for whoever comes later. SQLite in a file, or PostgreSQL; the same statements for both.

Every write takes the next change number by updating one row, which both databases lock until the transaction ends. Change numbers so
become visible in their order: a reader that has seen number n never meets a smaller one later.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from engine.store_database import StoreError, open_engine
from engine.store_query import Filter, Order, Page, clean, conditions, cursor_condition, next_cursor
from streams.records import Message

SCHEMA_VERSION = 1
DAY_S = 86_400
PRUNE_EVERY_S = 3_600

metadata = sa.MetaData()
META = sa.Table(
    "telltale_meta", metadata, sa.Column("name", sa.String(64), primary_key=True), sa.Column("value", sa.BigInteger, nullable=False)
)
ALERTS = sa.Table(
    "telltale_alerts",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("change", sa.BigInteger, nullable=False),
    sa.Column("written_us", sa.BigInteger, nullable=False),
    *(sa.Column(n, sa.Text, nullable=False) for n in ("detector", "stream", "key", "tenant")),
    *(sa.Column(n, sa.String(16), nullable=False) for n in ("status", "severity")),
    sa.Column("incident", sa.Text),
    *(sa.Column(n, sa.BigInteger, nullable=False) for n in ("onset_us", "last_seen_us")),
    sa.Column("search", sa.Text, nullable=False),
    sa.Column("record", sa.Text, nullable=False),
    sa.Column("acknowledged_us", sa.BigInteger),
    sa.Column("acknowledged_by", sa.Text),
    sa.Column("note", sa.Text),
    sa.Index("telltale_alerts_onset", "onset_us", "id"),
    sa.Index("telltale_alerts_change", "change", unique=True),
    sa.Index("telltale_alerts_status", "status", "onset_us", "id"),
    sa.Index("telltale_alerts_written", "status", "written_us"),
)
VERSIONED = ("sequence", "change", "written_us", "detector", "stream", "key", "tenant", "status", "severity", "incident", "onset_us",
             "last_seen_us", "search", "record")  # fmt: skip


class StoreUnavailable(ConnectionError):
    """The database does not answer now; trying again later is right."""


@dataclass(frozen=True)
class Change:
    """One alert as it is now, and the number of its latest change."""

    number: int
    alert: dict[str, Any]


class Store:
    """Alerts by id. What it returns are `Alert.record()` dicts with `acknowledged_us`, `acknowledged_by` and `note` added (None: not yet).

    Safe for threads, and for several processes on one database. Every method raises StoreUnavailable when the database is away.
    """

    def __init__(self, url: str):
        """Open, and create the schema if there is none. Raises StoreError, StoreUnavailable."""
        self.engine = open_engine(url)
        self.url = self.engine.url.render_as_string(hide_password=True)
        self._insert = importlib.import_module(f"sqlalchemy.dialects.{self.engine.dialect.name}").insert
        try:
            self._create()
        except (StoreError, StoreUnavailable):
            self.close()
            raise

    def upsert(self, records: Sequence[dict[str, Any]]) -> None:
        """Write alert versions; of each id the highest `sequence` stays, so replays and stragglers change nothing."""
        latest: dict[str, dict[str, Any]] = {}
        for record in records:
            if record["id"] not in latest or record["sequence"] > latest[record["id"]]["sequence"]:
                latest[record["id"]] = record
        if not latest:
            return
        insert = self._insert(ALERTS)
        newer = insert.excluded.sequence > ALERTS.c.sequence
        statement = insert.on_conflict_do_update(
            index_elements=["id"], set_={name: insert.excluded[name] for name in VERSIONED}, where=newer
        )
        with self._writing() as connection:
            first = self._next_change(connection, len(latest))
            now_us = time.time_ns() // 1000
            connection.execute(statement, [row(r, first + i, now_us) for i, r in enumerate(latest.values())])

    def get(self, alert_id: str) -> dict[str, Any] | None:
        """One alert, or None."""
        with self._reading() as connection:
            found = connection.execute(sa.select(ALERTS).where(ALERTS.c.id == alert_id)).mappings().first()
        return None if found is None else alert(found)

    def list(self, filters: Filter | None = None, *, cursor: str | None = None, limit: int = 100, order: Order = "-onset") -> Page:
        """One page, by onset and id, which never change: no alert is lost or repeated between pages while others are written.

        `cursor` is a previous page's `next`; ValueError when it is not one for this order.
        """
        direction = sa.desc if order == "-onset" else sa.asc
        query = sa.select(ALERTS).where(*conditions(ALERTS, filters or Filter()), *cursor_condition(ALERTS, cursor, order))
        query = query.order_by(direction(ALERTS.c.onset_us), direction(ALERTS.c.id)).limit(limit + 1)
        with self._reading() as connection:
            rows = connection.execute(query).mappings().all()
        return Page([alert(r) for r in rows[:limit]], next_cursor(rows[limit - 1], order) if len(rows) > limit else None)

    def acknowledge(self, alert_id: str, by: str, note: str, at_us: int) -> dict[str, Any] | None:
        """Note that a person has seen it; the latest acknowledgement stands. The alert, or None if there is none of that id."""
        with self._writing() as connection:
            change = self._next_change(connection, 1)
            values = {"acknowledged_us": at_us, "acknowledged_by": clean(by), "note": clean(note), "change": change}
            connection.execute(sa.update(ALERTS).where(ALERTS.c.id == alert_id).values(values))
            found = connection.execute(sa.select(ALERTS).where(ALERTS.c.id == alert_id)).mappings().first()
        return None if found is None else alert(found)

    def changes(self, after: int, filters: Filter | None = None, limit: int = 200) -> Sequence[Change]:
        """Alerts changed since number `after`, oldest change first, each once and as it is now; not those that have left the filter."""
        query = sa.select(ALERTS).where(ALERTS.c.change > after, *conditions(ALERTS, filters or Filter())).order_by(ALERTS.c.change)
        with self._reading() as connection:
            return [Change(r["change"], alert(r)) for r in connection.execute(query.limit(limit)).mappings()]

    def last_change(self) -> int:
        """The highest change number that was given out; 0 at the start."""
        with self._reading() as connection:
            return int(connection.execute(sa.select(META.c.value).where(META.c.name == "change")).scalar_one())

    def counts(self) -> dict[str, Any]:
        """{"firing": {severity: n}, "resolved": {severity: n}, "unacknowledged": n}; unacknowledged counts firing alerts."""
        by = (ALERTS.c.status, ALERTS.c.severity, ALERTS.c.acknowledged_us.is_(None).label("open"))
        out: dict[str, Any] = {"firing": {}, "resolved": {}, "unacknowledged": 0}
        with self._reading() as connection:
            for status, severity, unseen, n in connection.execute(sa.select(*by, sa.func.count()).group_by(*by)):
                out[status][severity] = out[status].get(severity, 0) + n
                out["unacknowledged"] += n if unseen and status == "firing" else 0
        return out

    def prune(self, written_before_us: int) -> int:
        """Delete resolved alerts that were last written before that wall-clock time; how many."""
        old = (ALERTS.c.status == "resolved") & (ALERTS.c.written_us < written_before_us)
        with self._writing() as connection:
            return connection.execute(sa.delete(ALERTS).where(old)).rowcount

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    def _create(self) -> None:
        with self._writing() as connection:
            if self.engine.dialect.name == "postgresql":  # two processes that start at once would both create the tables
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(7234017283807667300)"))
            metadata.create_all(connection)
            start = [{"name": "schema_version", "value": SCHEMA_VERSION}, {"name": "change", "value": 0}]
            connection.execute(self._insert(META).on_conflict_do_nothing(), start)
            version = connection.execute(sa.select(META.c.value).where(META.c.name == "schema_version")).scalar_one()
        if version != SCHEMA_VERSION:
            raise StoreError(f"{self.url}: schema version {version}, this version of Telltale reads {SCHEMA_VERSION}")

    def _next_change(self, connection: sa.Connection, n: int) -> int:
        """The first of `n` new numbers. The first statement of every write: it makes writers wait for each other."""
        taken = sa.update(META).where(META.c.name == "change").values(value=META.c.value + n).returning(META.c.value)
        return int(connection.execute(taken).scalar_one()) - n + 1

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._guarded(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._guarded(), self.engine.connect().execution_options(telltale_write=True) as connection, connection.begin():
            yield connection

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, InterfaceError) as error:
            raise StoreUnavailable(f"database {self.url}: {reason(error)}") from error


def reason(error: DBAPIError) -> str:
    """The driver's own words, in one line."""
    return " ".join(str(error.orig).split())


def row(record: dict[str, Any], change: int, now_us: int) -> dict[str, Any]:
    """A record as a table row."""
    search = [record["title"], record["summary"], record["key"], record["detector"], record["stream"], *record["tags"]]
    out = {name: record[name] for name in ("sequence", "status", "severity", "onset_us", "last_seen_us")}
    out |= {name: clean(record[name]) for name in ("id", "detector", "stream", "key", "tenant")}
    out["incident"] = None if record["incident"] is None else clean(record["incident"])
    out["search"] = clean("\n".join([*search, *record["labels"].values()]).casefold())
    out["record"] = orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode()
    return out | {"change": change, "written_us": now_us}


def alert(found: Any) -> dict[str, Any]:
    """A table row as a record."""
    return orjson.loads(found["record"]) | {name: found[name] for name in ("acknowledged_us", "acknowledged_by", "note")}


class StoreSink:
    """Writes alert messages to the store. `retention_days`: how long resolved alerts are kept after their last version (None: for ever)."""

    def __init__(self, store: Store, retention_days: float | None = None):
        self.store = store
        self.retention_days = retention_days
        self._pruned_at = -float("inf")

    def send(self, messages: Sequence[Message]) -> set[str]:
        """Write and confirm; one transaction for all. Raises StoreUnavailable (a ConnectionError): not now."""
        self.store.upsert([m.record for m in messages if m.record is not None])
        if self.retention_days is not None and time.monotonic() - self._pruned_at > PRUNE_EVERY_S:
            self.store.prune(int((time.time() - self.retention_days * DAY_S) * 1e6))
            self._pruned_at = time.monotonic()
        return {m.id for m in messages}

    def close(self) -> None:
        """The store is closed by whoever opened it: the API reads it too."""
