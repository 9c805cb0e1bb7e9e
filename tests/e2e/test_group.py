"""Several real processes of one group on a real broker and one folder of checkpoints."""

from __future__ import annotations

import json
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.service import QUIET, Service, alerts, committed, produce, until
from tests.support.kafka import Cluster, unique_group
from tests.support.s3 import s3

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
T0 = 1_760_000_000_000_000


def rows(first: int, count: int, every: int = 10) -> list[bytes]:
    """Rows of as many devices; one in so many reports an error, which is one alert."""
    out = [
        {"time": T0 + i * 1000, "host": f"h{i}", "device": "gpu0", "xid": 79 if i % every == 0 else 0} for i in range(first, first + count)
    ]
    return [json.dumps(row).encode() for row in out]


def keys(service: Service) -> set[str]:
    """The alerts' keys on the topic."""
    return {a["key"] for a in alerts(service.cluster, service.alerts).values()}


def expected(count: int, every: int = 10) -> set[str]:
    return {f"h{i}/gpu0 xid 79" for i in range(0, count, every)}


def changes(service: Service, verb: str) -> list[str]:
    """The partitions of which a process said that they were assigned, or lost, in order."""
    return re.findall(rf"{verb} (\S+-\d+)", (service.folder / "log.txt").read_text(errors="replace"))


Make = Callable[..., Service]


@pytest.fixture
def group(kafka: Cluster, tmp_path: Path) -> Iterator[Make]:
    """Makes members of one group that share topics and checkpoints."""
    made: list[Service] = []
    name = unique_group()

    def make(topic: str, options: dict[str, Any] | None = None, more: dict[str, Any] | None = None) -> Service:
        folder = tmp_path / f"member{len(made)}"
        folder.mkdir()
        one = Service(
            folder,
            kafka,
            [{"name": topic, "stream": "hardware"}],
            detectors=QUIET,
            checkpoint={"dir": str(tmp_path / "checkpoints"), "interval_s": 0.5},
        )
        source = one.config["source"]["kafka"]
        source["group"] = name
        source["options"] = {"session_timeout_ms": 6000, "heartbeat_interval_ms": 500} | (options or {})
        if made:
            one.alerts, one.config["sinks"]["out"] = made[0].alerts, made[0].config["sinks"]["out"]
        one.config["sinks"] = one.config["sinks"] | (more or {})
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


class Hook:
    """A webhook that refuses until it is told to accept; counts what it accepted by path."""

    def __init__(self) -> None:
        self.accepted, self.refused, self.accepts = Counter[str](), Counter[str](), False
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                (hook.accepted if hook.accepts else hook.refused)[self.path] += 1
                self.send_response(200 if hook.accepts else 503)
                self.end_headers()

            def log_message(self, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_a_stopped_owner_overwrites_nothing_sends_nothing_and_ends_itself(kafka, group, tmp_path):
    topic, hook = kafka.topic(1), Hook()
    old = group(topic, more={"hook": {"type": "webhook", "url": f"{hook.url}/old"}}).start()
    new = group(topic, more={"hook": {"type": "webhook", "url": f"{hook.url}/new"}})
    try:
        until(lambda: changes(old, "assigned"), "the partition", old)
        produce(kafka, topic, rows(0, 100))
        until(lambda: keys(old) == expected(100) and hook.refused["/old"], "the first alerts", old)
        new.start()
        until(lambda: changes(old, "assigned") or changes(new, "assigned"), "the group", new)
        owner, other = (old, new) if f"{topic}-0" in changes(old, "assigned")[-1:] and not changes(new, "assigned") else (new, old)
        owner.process.send_signal(signal.SIGSTOP)
        before = len(changes(other, "assigned"))
        produce(kafka, topic, rows(100, 100))
        until(lambda: len(changes(other, "assigned")) > before, "the takeover", other)
        until(lambda: keys(other) == expected(200), "the alerts of the new owner", other)
        hook.accepts = True
        path = "/old" if owner is old else "/new"
        owner.process.send_signal(signal.SIGCONT)
        assert owner.process.wait(60) == 1, owner.said()
        assert re.search(r"belongs to another process now|taken by another process", " ".join(owner.said().split())), owner.said()
        assert not hook.accepted[path], "what it had not delivered is the new owner's to deliver"
        until(lambda: sum(hook.accepted.values()) >= len(expected(200)), "all alerts at the webhook", other)
        other.kill()
        produce(kafka, topic, rows(200, 100))
        other.start()
        until(lambda: keys(other) == expected(300), "what the new owner restored, and more", other)
        assert other.stop() == 0, other.said()
    finally:
        hook.close()


def test_static_members_and_cooperative_rebalances_leave_alone_what_stays(kafka, group):
    topic = kafka.topic(4)
    both = {"partition_assignment_strategy": "cooperative-sticky", "session_timeout_ms": 30_000}
    first = group(topic, both | {"group_instance_id": "first"}).start()
    second = group(topic, both | {"group_instance_id": "second"})
    until(lambda: len(set(changes(first, "assigned"))) == 4, "four partitions", first)
    stop, produced = threading.Event(), [0]

    def feed() -> None:
        while not stop.is_set():
            produce(kafka, topic, rows(produced[0], 100))
            produced[0] += 100
            time.sleep(0.1)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        second.start()
        until(lambda: len(set(changes(second, "assigned"))) == 2, "two partitions", second)
        assert len(changes(first, "assigned")) == 4, "those that stay are not assigned again"
        given, kept = set(changes(second, "assigned")), len(changes(second, "assigned"))
        first.kill()
        first.start()
        until(lambda: len(changes(first, "assigned")) >= 6, "its two partitions again", first)
        assert set(changes(first, "assigned")[4:]).isdisjoint(given)
        assert len(changes(second, "assigned")) == kept, "a static member that comes back within its session moves nothing"
    finally:
        stop.set()
        feeder.join()
    until(lambda: keys(first) == expected(produced[0]), "all alerts", first)
    assert (first.stop(), second.stop()) == (0, 0), first.said() + second.said()


@pytest.mark.parametrize(
    "pauses", [[0, 7], pytest.param([0, 0, 7] * 4, marks=[pytest.mark.slow, pytest.mark.timeout(900)])], ids=["short", "long"]
)
def test_each_version_is_published_once_through_kills_and_rebalances(kafka, group, pauses):
    """As a reader of committed records sees it; the processes die at random, also within a transaction, and come back at once or when
    the other has taken over."""
    topic, generator = kafka.topic(3), random.Random()
    members = [group(topic) for _ in range(2)]
    for member in members:
        member.config["sinks"]["out"]["transactional"] = True
        member.start()
    total = 0
    for pause in pauses:
        for _ in range(4):
            produce(kafka, topic, rows(total, 100, every=2), [b"%d" % i for i in range(100)])
            total += 100
            time.sleep(generator.uniform(0, 0.4))
        victim = generator.choice(members)
        victim.kill()
        time.sleep(pause)
        victim.start()
    until(lambda: keys(members[0]) == expected(total, every=2), "all alerts", members[0], seconds=120)
    time.sleep(1.0)
    ids = Counter(dict(r.headers)["telltale-id"].decode() for r in committed(kafka, members[0].alerts))
    assert len(ids) >= total / 2
    assert {i: n for i, n in ids.items() if n > 1} == {}
    assert [m.stop() for m in members] == [0, 0], "".join(m.said() for m in members)


def test_a_restart_goes_on_from_a_bucket(kafka, tmp_path, monkeypatch):
    topic = kafka.topic(1)
    with s3() as options:
        monkeypatch.setenv("TEST_S3_KEY", options.pop("aws_secret_access_key"))
        place = {"dir": "s3://checkpoints/a/b", "interval_s": 0.5, "options": options | {"aws_secret_access_key": "env:TEST_S3_KEY"}}
        one = Service(tmp_path, kafka, [{"name": topic, "stream": "hardware"}], detectors=QUIET, checkpoint=place).start()
        try:
            produce(kafka, topic, rows(0, 100))
            until(lambda: keys(one) == expected(100), "the first alerts", one)
            time.sleep(2.0)
            one.kill()
            produce(kafka, topic, rows(100, 100))
            one.start()
            until(lambda: keys(one) == expected(200), "the alerts after the restart", one)
            assert re.findall(rf"assigned {topic}-0, from (\d+)", " ".join(one.said().split())) == ["100"]
            assert one.stop() == 0, one.said()
        finally:
            one.close()
