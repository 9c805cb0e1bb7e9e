"""The live stream: resume, filters, heartbeats, bounds."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from api.main import Running
from api.routes import stream
from engine.store import Store
from tests.api.conftest import record


def events(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """The blocks of a stream; a comment is a block {"": text}."""
    block: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            block[name] = value.strip()
        elif block:
            yield block
            block = {}


def follow(client: httpx.Client, n: int, query: str = "", headers: dict[str, str] | None = None, ready: Any = None) -> list[Any]:
    """The first `n` alerts of a stream: (event id, summary of the alert)."""
    seen = []
    with client.stream("GET", f"/api/v1/alerts/stream?{query}", headers=headers or {}) as response:
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
        if ready:
            ready.set()
        for event in events(response.iter_lines()):
            if event.get("event") == "alert":
                seen.append((event["id"], json.loads(event["data"])["summary"]))
                if len(seen) == n:
                    return seen
    return seen


def test_new_versions_arrive_in_order_and_nothing_from_before(client: httpx.Client, store: Store) -> None:
    store.upsert([record(0)])
    ready, seen = threading.Event(), []
    reader = threading.Thread(target=lambda: seen.extend(follow(client, 3, ready=ready)))
    reader.start()
    assert ready.wait(20)
    store.upsert([record(1)])
    store.upsert([record(2)])
    store.acknowledge(record(0)["id"], "ann", "", 1)
    reader.join(20)
    assert [s for _, s in seen] == ["number 1", "number 2", "number 0"]
    assert [int(i) for i, _ in seen] == sorted({int(i) for i, _ in seen})


def test_resume_after_an_event_gets_exactly_what_came_since(client: httpx.Client, store: Store) -> None:
    store.upsert([record(i) for i in range(450)])  # more than a page
    whole = follow(client, 450, "after=0")
    assert [s for _, s in whole] == [f"number {i}" for i in range(450)]
    for cut in (0, 1, 199, 200, 448):
        assert follow(client, 449 - cut, headers={"Last-Event-ID": whole[cut][0]}) == whole[cut + 1 :]


def test_a_client_that_saw_no_event_resumes_from_the_id_it_was_given(client: httpx.Client, store: Store) -> None:
    store.upsert([record(0)])
    with client.stream("GET", "/api/v1/alerts/stream") as response:
        first = next(events(response.iter_lines()))
    store.upsert([record(1)])
    assert [s for _, s in follow(client, 1, headers={"Last-Event-ID": first["id"]})] == ["number 1"]


def test_filters(client: httpx.Client, store: Store) -> None:
    store.upsert([record(i, detector="drift" if i % 2 else "rules", tenant="acme" if i < 3 else "") for i in range(6)])
    assert [s for _, s in follow(client, 3, "after=0&detector=drift")] == ["number 1", "number 3", "number 5"]
    assert [s for _, s in follow(client, 1, "after=0&detector=drift&tenant=acme")] == ["number 1"]


@pytest.mark.parametrize("last", ["x", "-1", "1" * 19, "1.5"])
def test_a_wrong_last_event_id_is_named(client: httpx.Client, last: str) -> None:
    answer = client.get("/api/v1/alerts/stream", headers={"Last-Event-ID": last})
    assert answer.status_code == 422 and answer.json()["errors"][0]["parameter"] == "Last-Event-ID"


def test_a_quiet_stream_sends_heartbeats(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.05)
    with client.stream("GET", "/api/v1/alerts/stream") as response:
        blocks = events(response.iter_lines())
        assert set(next(blocks)) == {"id", "retry"}
        assert next(blocks) == {"": "nothing new"}


def test_streams_are_bounded_and_places_are_given_back(launch: Callable[..., Running]) -> None:
    server = launch()
    server.server.feed.max_streams = 1
    with httpx.Client(base_url=server.url) as client:
        with client.stream("GET", "/api/v1/alerts/stream") as response:
            lines = response.iter_lines()
            next(lines)
            refused = client.get("/api/v1/alerts/stream")
            assert refused.status_code == 503 and refused.headers["retry-after"] == "5"
        while server.server.feed.streams:  # the server notices a moment later that the client went away
            threading.Event().wait(0.01)
        with client.stream("GET", "/api/v1/alerts/stream") as response:
            assert response.status_code == 200


def test_a_server_that_stops_ends_its_streams(launch: Callable[..., Running]) -> None:
    server = launch()
    with httpx.stream("GET", server.url + "/api/v1/alerts/stream", timeout=20) as response:
        lines = response.iter_lines()
        next(lines)
        server.close()
        assert not any(line.startswith("event") for line in lines)
    assert not server.thread.is_alive()
