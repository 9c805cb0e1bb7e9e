"""A real `telltale run` process on a real broker, for the end-to-end tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from tests.support.kafka import Cluster, free_ports, unique_group

ROOT = Path(__file__).resolve().parent.parent.parent
QUIET = {"drift": None, "extraction": None, "hardware": None, "missing": None}
"""Detectors off but the rules: what each row must say is then known exactly."""


class Service:
    """One configuration in a folder of its own; the process may be started, killed and started again."""

    def __init__(self, folder: Path, cluster: Cluster, topics: Sequence[dict[str, Any]], **more: Any):
        self.folder, self.cluster = folder, cluster
        self.alerts, self.dead = cluster.topic(name="alerts"), cluster.topic(name="dead")
        self.triggers = cluster.topic(name="triggers")
        (self.port,) = free_ports(1)
        self.config = {
            "source": {
                "kafka": {
                    "bootstrap": cluster.bootstrap, "group": unique_group(), "topics": list(topics),
                    # a static member that comes back is given its partitions at once, instead of after the dead one's session
                    "options": {"group_instance_id": "only", "session_timeout_ms": 6000, "heartbeat_interval_ms": 1000},
                }
            },
            "sinks": {
                "out": {
                    "type": "kafka", "bootstrap": cluster.bootstrap,
                    "alerts": self.alerts, "triggers": self.triggers, "dead_letters": self.dead,
                }
            },
            "store": {"url": f"sqlite:///{folder}/alerts.db"},
            "api": {"host": "127.0.0.1", "port": self.port},
            "checkpoint": {"dir": str(folder / "checkpoints"), "interval_s": 0.5},
            "limits": {"idle_s": 1.0},
        } | more  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, ready_s: float = 60.0) -> Service:
        """Start it, and wait until the API says it is ready."""
        path = self.folder / "telltale.yaml"
        path.write_text(yaml.safe_dump(self.config))
        self.log = open(self.folder / "log.txt", "ab")  # noqa: SIM115 - the process writes to it
        command = [sys.executable, "-m", "engine.cli", "run", "-c", str(path)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=self.log, stderr=self.log, env={**os.environ, "COLUMNS": "300"})
        deadline = time.monotonic() + ready_s
        while not self._ready():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.1)
        return self

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()
        self.log.close()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        self.log.close()
        return code

    def close(self) -> None:
        """Whatever state it is in."""
        if self.process is not None:
            if self.process.poll() is None:
                self.kill()
            self.log.close()

    def said(self) -> str:
        """The log."""
        return (self.folder / "log.txt").read_text(errors="replace")[-6000:]

    def get(self, path: str) -> Any:
        """A REST answer."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            body = answer.read()
        return json.loads(body) if body.startswith((b"{", b"[")) else body.decode()

    def _ready(self) -> bool:
        try:
            self.get("/readyz")
        except OSError:
            return False
        return True


def produce(cluster: Cluster, topic: str, values: Sequence[bytes], keys: Sequence[bytes] | None = None, headers: Any = None) -> None:
    """Write records, and wait until the broker has them."""
    producer = KafkaProducer(bootstrap_servers=cluster.bootstrap, acks="all", max_request_size=64 << 20, linger_ms=20)
    for i, value in enumerate(values):
        producer.send(topic, value, key=keys[i] if keys else None, headers=headers)
    producer.flush(60)
    producer.close()


def records(cluster: Cluster, topic: str, isolation: str = "read_uncommitted") -> list[Any]:
    """All that is in a topic now."""
    consumer = KafkaConsumer(bootstrap_servers=cluster.bootstrap, enable_auto_commit=False, isolation_level=isolation)
    places = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)]
    consumer.assign(places)
    consumer.seek_to_beginning(*places)
    ends = consumer.end_offsets(places)
    out: list[Any] = []
    deadline = time.monotonic() + 30
    while any(consumer.position(p) < ends[p] for p in places) and time.monotonic() < deadline:
        for batch in consumer.poll(timeout_ms=200).values():
            out += batch
    consumer.close()
    return out


def committed(cluster: Cluster, topic: str) -> list[Any]:
    """All that is in a topic now, without what transactions in the end did not commit."""
    return records(cluster, topic, "read_committed")


def alerts(cluster: Cluster, topic: str) -> dict[str, dict[str, Any]]:
    """The last version of each alert in a topic, by id."""
    last: dict[str, dict[str, Any]] = {}
    for record in records(cluster, topic):
        event = json.loads(record.value)
        data = event["data"]
        if data["sequence"] >= last.get(data["id"], data)["sequence"]:
            last[data["id"]] = data
    return last


def until(condition: Callable[[], Any], what: str, service: Service, seconds: float = 60.0) -> Any:
    """Wait for something, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited for {what}\n{service.said()}"
        time.sleep(0.25)
    return found
