"""The store, on a real SQLite file and a real PostgreSQL server: the same tests for both."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.alerts import Alert, alert_id, message
from engine.store import Store, StoreSink, StoreUnavailable
from engine.store_database import StoreError
from engine.store_query import Filter
from tests.support import postgres

T0 = 1_763_630_043_250_000


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.PostgresServer]:
    with postgres.postgres_server() as running:
        yield running


DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/alerts.db"
    if why := postgres.missing():
        pytest.skip(why)
    running: postgres.PostgresServer = request.getfixturevalue("server")
    name = f"t{abs(hash(request.node.nodeid))}"
    engine = sa.create_engine(running.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return running.url.replace("/postgres", f"/{name}")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store(url)
    yield opened
    opened.close()


def record(i: int = 0, **changes: Any) -> dict[str, Any]:
    """An alert's record, its onset `i` seconds after T0."""
    onset = T0 + i * 1_000_000
    values: dict[str, Any] = {
        "id": alert_id("hardware", f"h{i}/gpu0", onset), "detector": "hardware", "stream": "hardware", "key": f"h{i}/gpu0", "tenant": "",
        "status": "firing", "severity": "error", "title": "Unlike itself", "summary": f"number {i}", "onset_us": onset,
        "last_seen_us": onset, "resolved_us": None, "score": 5.0, "threshold": 3.0,
    }  # fmt: skip
    return Alert(**values | changes).record()


def test_an_alert_comes_back_as_it_was_written(store: Store) -> None:
    given_record = record(evidence={"histogram": [1, 2], "né": "ü\0"}, labels={"host": "h0"}, tags=["AML.T0024"], p_value=1e-9)
    store.upsert([given_record])
    assert store.get(given_record["id"]) == given_record | {"acknowledged_us": None, "acknowledged_by": None, "note": None}
    assert store.get("0" * 32) is None


def test_hostile_text_and_numpy_evidence_are_stored(store: Store) -> None:
    """NUL bytes, SQL, NaN and arrays arrive in telemetry; none of them may stop delivery."""
    hostile = record(key="a\0b'; DROP TABLE telltale_alerts; --", score=float("nan"), evidence={"counts": np.arange(3)})
    store.upsert([hostile])
    found = store.get(hostile["id"])
    assert found is not None and found["score"] is None and found["evidence"] == {"counts": [0, 1, 2]}
    assert [a["id"] for a in store.list(Filter(key=(hostile["key"],))).alerts] == [hostile["id"]]
    assert [a["id"] for a in store.list(Filter(text="A\0B'; drop")).alerts] == [hostile["id"]]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(list(range(6))), cuts=st.sets(st.integers(1, 5)))
def test_any_order_and_any_cut_of_versions_leaves_the_highest(tmp_path: Path, order: list[int], cuts: set[int]) -> None:
    store = Store(f"sqlite:///{tmp_path}/alerts.db")
    store.prune(2**62)
    with store.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM telltale_alerts"))
    versions = [record(0, sequence=s, count=s + 1, status="resolved" if s == 5 else "firing") for s in order]
    edges = [0, *sorted(cuts), 6]
    for first, last in itertools.pairwise(edges):
        store.upsert(versions[first:last])
    (found,) = store.list().alerts
    assert (found["sequence"], found["count"], found["status"]) == (5, 6, "resolved")
    store.close()


def test_a_replay_changes_nothing_and_is_no_news(store: Store) -> None:
    first, second = record(0), record(0, sequence=7, summary="grew")
    store.upsert([first])
    store.upsert([second])
    seen = store.changes(0)
    assert len(seen) == 1 and seen[0].alert["summary"] == "grew"
    store.upsert([first, second])
    store.upsert([])
    assert store.changes(seen[-1].number) == []
    assert store.get(first["id"])["summary"] == "grew"  # type: ignore[index]


def test_filters(store: Store) -> None:
    store.upsert(
        [
            record(0, severity="critical", tags=["xid:79"], labels={"sku": "H100"}, incident="i1"),
            record(1, status="resolved", tenant="acme", summary="100% full_up"),
            record(2, detector="drift", stream="inference", key="m/x", last_seen_us=T0 + 9_000_000),
        ]
    )
    store.acknowledge(alert_id("hardware", "h1/gpu0", T0 + 1_000_000), "ann", "", T0)

    def found(**wanted: Any) -> list[int]:
        return [(a["onset_us"] - T0) // 1_000_000 for a in store.list(Filter(**wanted), order="onset").alerts]

    assert found() == [0, 1, 2]
    assert found(status=("firing",)) == [0, 2]
    assert found(severity=("critical", "warning")) == [0]
    assert found(detector=("drift",)) == [2] == found(stream=("inference",)) == found(key=("m/x",))
    assert found(tenant=("acme",)) == [1] == found(acknowledged=True)
    assert found(acknowledged=False) == [0, 2]
    assert found(incident=("i1",)) == [0]
    assert found(since_us=T0 + 2_000_000) == [2]
    assert found(until_us=T0 + 1_000_000) == [0]
    assert found(since_us=T0 + 1_000_000, until_us=T0 + 2_000_000) == [1]
    assert found(text="h100") == [0] == found(text="XID:79")
    assert found(text="0% FULL_") == [1] and found(text="100_") == [] and found(text="%") == [1]
    assert found(status=("firing",), detector=("hardware",)) == [0]


def test_acknowledgement_survives_new_versions(store: Store) -> None:
    alert = record(0)
    store.upsert([alert])
    before = store.last_change()
    acknowledged = store.acknowledge(alert["id"], "ann", "on it", T0 + 5)
    assert acknowledged is not None and acknowledged["note"] == "on it"
    assert [c.alert["acknowledged_by"] for c in store.changes(before)] == ["ann"]
    store.upsert([record(0, sequence=9, status="resolved")])
    found = store.get(alert["id"])
    assert found is not None and (found["status"], found["acknowledged_by"], found["acknowledged_us"]) == ("resolved", "ann", T0 + 5)
    assert store.acknowledge("f" * 32, "ann", "", T0) is None


def test_counts(store: Store) -> None:
    assert store.counts() == {"firing": {}, "resolved": {}, "unacknowledged": 0}
    store.upsert([record(0), record(1, severity="critical"), record(2, status="resolved"), record(3)])
    store.acknowledge(record(3)["id"], "ann", "", T0)
    assert store.counts() == {"firing": {"error": 2, "critical": 1}, "resolved": {"error": 1}, "unacknowledged": 2}


@pytest.mark.parametrize("order", ["-onset", "onset"])
def test_pages_under_writes_lose_and_repeat_nothing(store: Store, order: Any) -> None:
    """What was there when paging began comes exactly once, while other alerts are inserted before, between and after, and extended."""
    there = [record(10 * i) for i in range(40)] + [record(10 * i, id=f"{i:032x}", key="same onset") for i in range(40)]
    store.upsert(there)
    seen: list[str] = []
    cursor, turn = None, 0
    while True:
        page = store.list(cursor=cursor, limit=7, order=order)
        seen += [a["id"] for a in page.alerts]
        turn += 1
        store.upsert([record(10 * i + turn) for i in (0, turn, 39)])
        store.upsert([there[turn] | {"sequence": turn, "last_seen_us": T0 + 10**9}])
        if page.next is None:
            break
        cursor = page.next
    assert len(seen) == len(set(seen))
    assert {a["id"] for a in there} <= set(seen)
    onsets = [store.get(i)["onset_us"] for i in seen]  # type: ignore[index]
    assert onsets == sorted(onsets, reverse=order == "-onset")


@pytest.mark.parametrize("cursor", ["", "x", "é", "bnVsbA==", "WzEsMiwzXQ==", "WyItb25zZXQiLCJhIiwxXQ==", "eyJhIjoxfQ=="])
def test_what_is_not_a_cursor_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        store.list(cursor=cursor)


def test_a_cursor_is_bound_to_its_order(store: Store) -> None:
    store.upsert([record(i) for i in range(3)])
    with pytest.raises(ValueError, match="belongs to order"):
        store.list(cursor=store.list(limit=1).next, order="onset")


def test_concurrent_writers_and_a_reader_of_changes(url: str) -> None:
    """Four writers, two stores; the reader follows change numbers and ends with everyone's last version, having missed nothing."""
    stores = [Store(url), Store(url)]
    per_writer, versions = 12, 4
    done = threading.Event()

    def write(writer: int) -> None:
        for version in range(versions):
            for i in range(per_writer):
                # Every alert is written by two writers, so their versions race.
                stores[writer % 2].upsert([record((writer // 2) * per_writer + i, sequence=2 * version + writer % 2)])

    def follow() -> dict[str, int]:
        after, seen = 0, {}
        while True:
            last_round = done.is_set()
            changes = stores[0].changes(after, limit=5)
            for change in changes:
                assert change.number > after
                after = change.number
                assert change.alert["sequence"] > seen.get(change.alert["id"], -1)
                seen[change.alert["id"]] = change.alert["sequence"]
            if last_round and not changes:
                return seen

    with ThreadPoolExecutor(5) as pool:
        reader = pool.submit(follow)
        for writer in [pool.submit(write, w) for w in range(4)]:
            writer.result()
        done.set()
        seen = reader.result()
    assert seen == {record(i)["id"]: 2 * versions - 1 for i in range(2 * per_writer)}
    for store in stores:
        store.close()


def test_two_processes_may_create_the_schema_at_once(url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        for opened in pool.map(lambda _: Store(url), range(4)):
            assert opened.last_change() == 0
            opened.close()


def test_what_is_there_survives_a_reopen_and_another_schema_version_is_refused(url: str) -> None:
    store = Store(url)
    store.upsert([record(0)])
    store.close()
    store = Store(url)
    assert len(store.list().alerts) == 1
    with store.engine.begin() as connection:
        connection.execute(sa.text("UPDATE telltale_meta SET value = 99 WHERE name = 'schema_version'"))
    store.close()
    with pytest.raises(StoreError, match="schema version 99"):
        Store(url)


def test_prune_deletes_old_resolved_alerts_only(store: Store) -> None:
    store.upsert([record(0), record(1, status="resolved")])
    assert store.prune(0) == 0
    assert store.prune(2**62) == 1
    assert [a["key"] for a in store.list().alerts] == ["h0/gpu0"]


def test_the_sink_confirms_what_it_wrote(store: Store) -> None:
    sink = StoreSink(store, retention_days=30)
    messages = [message(Alert(**record(i)), "test") for i in range(3)]
    assert sink.send(messages) == {m.id for m in messages} == sink.send(messages)
    assert len(store.list().alerts) == 3


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("mysql://x/y", "sqlite or postgresql"),
        ("nonsense", "not a database URL"),
        ("sqlite://", "name a file"),
        ("oracle+cx://x", "sqlite or"),
    ],
)
def test_a_wrong_url_is_refused(url: str, complaint: str) -> None:
    with pytest.raises(StoreError, match=complaint):
        Store(url)


def test_an_unreachable_database_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"nowhere/alerts.db"):
        Store(f"sqlite:///{tmp_path}/nowhere/alerts.db")
    with pytest.raises(StoreUnavailable, match=r"u:\*\*\*@127\.0\.0\.1:1/") as caught:
        Store("postgresql://u:secret@127.0.0.1:1/alerts")
    assert "secret" not in str(caught.value)


@pytest.mark.postgresql
@pytest.mark.skipif(postgres.missing() is not None, reason=str(postgres.missing()))
def test_a_server_that_goes_away_and_comes_back() -> None:
    with postgres.postgres_server() as server:
        store = Store(server.url)
        sink = StoreSink(store)
        server.stop()
        with pytest.raises(StoreUnavailable):
            sink.send([message(Alert(**record(0)), "test")])
        server.start()
        assert len(sink.send([message(Alert(**record(0)), "test")])) == 1
        assert len(store.list().alerts) == 1
        store.close()
