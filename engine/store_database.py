"""Connections for the store: SQLite in a file or PostgreSQL, set up so that the same code is safe on both."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

WAIT_S = 30.0


class StoreError(Exception):
    """A database that can't be used as it is: the wrong kind, or another version of the schema."""


def open_engine(url: str) -> sa.Engine:
    """An engine for a SQLite file or a PostgreSQL server. Raises StoreError for anything else."""
    try:
        parsed = sa.make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() == "postgresql":
            return sa.create_engine(parsed, pool_pre_ping=True, connect_args={"connect_timeout": 5})
        if parsed.get_backend_name() != "sqlite":
            raise StoreError(f"{parsed.drivername}: alerts are kept in sqlite or postgresql+psycopg")
        if parsed.database in (None, "", ":memory:"):
            raise StoreError("sqlite:// in memory would be a new database for each thread; name a file: sqlite:///telltale.db")
        engine = sa.create_engine(parsed, connect_args={"timeout": 30})
    except ArgumentError as error:
        raise StoreError("not a database URL, which looks like sqlite:///telltale.db or postgresql+psycopg://user@host/name") from error
    except (ImportError, NoSuchModuleError) as error:
        raise StoreError(f"the driver is not installed ({error}); pip install 'telltale-engine[postgresql]'") from error
    sa.event.listen(engine, "connect", _sqlite_connected)
    sa.event.listen(engine, "begin", _sqlite_begin)
    return engine


def _sqlite_connected(connection: Any, _record: Any) -> None:
    """WAL, so that readers don't wait for writers; the driver's own transaction control off, see `_sqlite_begin`."""
    connection.isolation_level = None
    for pragma in ("busy_timeout=30000", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:  # another process does the same: SQLite does not wait for that by itself
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _sqlite_begin(connection: sa.Connection) -> None:
    """A transaction that will write takes the lock at once: upgrading a read lock later fails instead of waiting."""
    immediate = connection.get_execution_options().get("telltale_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
