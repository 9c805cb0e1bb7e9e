"""Several engine processes of one group on a real broker, each behind a proxy of its own, with one folder of checkpoints."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors

from engine.config import Config
from tests.e2e.chaos import workload
from tests.e2e.chaos.proxy import Proxy
from tests.e2e.chaos.reference import Reference, Seen
from tests.e2e.service import ROOT
from tests.support.kafka import Broker, unique_group

PARTITIONS = 4
SESSION_MS = 2000
LIMITS = {"idle_s": 3600.0}
"""No partition counts as idle or silent while a fault lasts, however busy the machine: what a producer could not write is not absent."""
BROKER = {"group.min.session.timeout.ms": "1000", "group.max.session.timeout.ms": "600000"}


class Member:
    """One `telltale run` process; it may be killed, paused, stopped and started again."""

    def __init__(self, folder: Path, config: dict[str, Any], environment: dict[str, str] | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.environment = folder, environment or {}
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "telltale.yaml").write_text(yaml.safe_dump(config))

    def start(self) -> None:
        """Start it; does not wait."""
        command = [sys.executable, "-m", "engine.cli", "run", "-c", str(self.folder / "telltale.yaml")]
        environment = {**os.environ, "COLUMNS": "300", **self.environment}
        with open(self.folder / "log.txt", "ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)

    def signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self.alive:
            self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, seconds: float = 60) -> int | None:
        """Its exit code."""
        return self.process.wait(seconds) if self.process is not None else None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def said(self) -> str:
        """The end of its log."""
        path = self.folder / "log.txt"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""


class Group:
    """The broker, its proxies, the members and what came out so far. `members`: how many; several share one population."""

    def __init__(self, folder: Path, members: int, seed: int, checkpoints: Path | None = None):
        self.folder, self.seed, self.random = folder, seed, random.Random(seed)
        self.checkpoints = checkpoints or folder / "checkpoints"
        self.proxies = [Proxy(seed + i) for i in range(members)]
        self.sink_proxy = Proxy(seed + 1000)
        every = [*self.proxies, self.sink_proxy]
        self.broker = Broker(folder / "broker", settings=BROKER, advertised=[p.port for p in every])
        self.cluster = self.broker.start()
        for proxy, port in zip(every, self.broker.behind, strict=True):
            proxy.start(port)
        self.topics = {s: self.cluster.topic(PARTITIONS, s) for s in ("hardware", "inference")}
        self.sketches = self.cluster.topic(1, "sketches") if members > 1 else None
        self.alerts, self.dead, self.group = self.cluster.topic(1, "alerts"), self.cluster.topic(1, "dead"), unique_group()
        self.members = [Member(folder / f"member{i}", self.config(i)) for i in range(members)]
        self.reference = Reference(Config(detectors=workload.DETECTORS, limits=LIMITS), self.topics, PARTITIONS)
        self.seen, self.dead_letters, self.ends, self.number = Seen(), 0, dict[TopicPartition, int](), 0
        self._producer: KafkaProducer | None = None
        self._consumer: KafkaConsumer | None = None

    def config(self, number: int, **more: Any) -> dict[str, Any]:
        """The file of a member."""
        options = {"session_timeout_ms": SESSION_MS, "heartbeat_interval_ms": 400, "request_timeout_ms": 5000}
        return {
            "name": "chaos",
            "source": {
                "kafka": {
                    "bootstrap": f"127.0.0.1:{self.proxies[number].port}", "group": self.group, "options": options, "sketches": self.sketches,
                    "topics": [{"name": topic, "stream": stream, "encoding": "json"} for stream, topic in self.topics.items()],
                }
            },
            "sinks": {
                "out": {
                    "type": "kafka", "bootstrap": f"127.0.0.1:{self.sink_proxy.port}",
                    "alerts": self.alerts, "triggers": None, "dead_letters": self.dead,
                }
            },
            "store": None,
            "checkpoint": {"dir": str(self.checkpoints), "interval_s": 0.5},
            "detectors": workload.DETECTORS,
            "limits": LIMITS,
        } | more  # fmt: skip

    def start(self) -> None:
        """Start every member that does not run."""
        for member in self.members:
            if not member.alive:
                member.start()

    def records(self) -> list[workload.Record]:
        """The next segment's."""
        self.number += 1
        return workload.segment(self.seed, self.number - 1, PARTITIONS)

    def produce(self, records: Sequence[workload.Record], seconds: float) -> threading.Thread:
        """Write records over about so many seconds, each partition's in order whatever happens, in a thread of its own."""
        self.reference.feed(records)
        for record in records:
            place = TopicPartition(self.topics[record.stream], record.partition)
            self.ends[place] = self.ends.get(place, 0) + 1
        thread = threading.Thread(target=self._write, args=(records, seconds), name="producer")
        thread.start()
        return thread

    def _write(self, records: Sequence[workload.Record], seconds: float) -> None:
        if self._producer is None:
            self._producer = KafkaProducer(
                bootstrap_servers=self.cluster.bootstrap, acks="all", linger_ms=5, request_timeout_ms=5000, reconnect_backoff_max_ms=500
            )
        slices = 40
        size = -(-len(records) // slices)
        for first in range(0, len(records), size):
            for record in records[first : first + size]:
                self._producer.send(self.topics[record.stream], record.value, partition=record.partition)
            time.sleep(seconds / slices)
        self._producer.flush(120)

    def settled(self) -> bool:
        """Whether the group has taken in all that was written and every expected alert is out in its final state."""
        self.collect()
        return self.lag() == 0 and not self.verdict()["lost"]

    def settle(self, seconds: float) -> bool:
        """Wait for that, and then a little for what should not come."""
        deadline = time.monotonic() + seconds
        while not self.settled():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        time.sleep(0.8)
        self.collect()
        return True

    def lag(self) -> int:
        """Records that the group has not committed."""
        if not hasattr(self, "_admin"):
            self._admin = KafkaAdminClient(bootstrap_servers=self.cluster.bootstrap, reconnect_backoff_max_ms=500)
        try:
            committed = self._admin.list_group_offsets(self.group)
        except kafka_errors.KafkaError:
            return -1
        places = committed.get(self.group, committed) if isinstance(committed, dict) else {}
        return sum(end - max(0, places[p].offset if p in places else 0) for p, end in self.ends.items())

    def collect(self) -> None:
        """Take in what was published since."""
        if self._consumer is None:
            self._consumer = KafkaConsumer(
                bootstrap_servers=self.cluster.bootstrap, enable_auto_commit=False, isolation_level="read_committed",
                reconnect_backoff_max_ms=500,
            )  # fmt: skip
            places = [TopicPartition(self.alerts, 0), TopicPartition(self.dead, 0)]
            self._consumer.assign(places)
            self._consumer.seek_to_beginning(*places)
        while polled := self._consumer.poll(timeout_ms=150):
            for place, batch in polled.items():
                for record in batch:
                    if place.topic == self.dead:
                        self.dead_letters += 1
                    else:
                        self.seen.take(json.loads(record.value)["data"])

    def verdict(self) -> dict[str, list[str]]:
        """What differs from the undisturbed run: `lost` (absent, or not in its final state) and `invented`."""
        wanted, found = self.reference.states(), self.seen.states()
        lost = [i for i, state in wanted.items() if found.get(i) != state]
        invented = [i for i in found if i not in wanted and i not in self.seen.by_clock]
        return {"lost": lost, "invented": invented}

    def told(self, idents: Sequence[str]) -> list[str]:
        """What these alerts are, and how they stand on either side."""
        keys = self.reference.sink.seen.keys | self.seen.keys
        wanted, found = self.reference.states(), self.seen.states()
        return [f"{keys[i]}: expected {wanted.get(i)}, found {found.get(i)}" for i in idents]

    def close(self) -> None:
        """Stop everything."""
        for member in self.members:
            member.signal(signal.SIGCONT)
            member.kill()
        for client in (self._producer, self._consumer, getattr(self, "_admin", None)):
            if client is not None:
                client.close()
        for proxy in (*self.proxies, self.sink_proxy):
            proxy.close()
        self.broker.stop()
