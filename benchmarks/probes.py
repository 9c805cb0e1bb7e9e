"""Probes of a soak: single hardware rows, each of which must become an alert, and the account of what became of every one of them.

A probe is *found* when an alert has its time as onset. One that is not is explained by what the broker, the topics of alerts and dead letters,
the committed offset and the store say, or it is *lost*. Alerts count the rows that they stand for, so rows that an open alert took in as
its repeats are known by number, device by device, and none can hide behind another.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.future import Future

from tests.e2e.service import Service, records

LINES, PARTITIONS, PROBES_A_SECOND = 50, 4, 20
TICK_S = 0.02
QUIET_S = 5
REST_S = 9.0
"""A device is not probed again sooner: its alert has resolved by then, whatever stood still meanwhile, so each row is an alert of its own."""
ARREARS_S = 0.5
"""A producer that stood still writes no more than this of the probes that were due."""


@dataclass
class Probe:
    """One row: its device, and the producer's word on where the broker has it."""

    device: str
    written: Future


class Traffic:
    """Writes rows at a rate until stopped; `sent`: rows; `probes`: by time in microseconds, each row that must become an alert."""

    def __init__(self, bootstrap: str, topics: Mapping[str, str]):
        self.producer = KafkaProducer(bootstrap_servers=bootstrap, acks=1, linger_ms=5, batch_size=1 << 18, compression_type="lz4")
        self.topics, self.sent, self.probes = topics, 0, dict[int, Probe]()
        self.held = threading.Event()
        """Set: write nothing for now."""
        generator = np.random.default_rng(0)
        self.bodies = [
            orjson.dumps({"principal": f"p{p}", "model": f"m{p % 4}", "input_tokens": int(t), "duration_s": round(float(d), 3)})[1:]
            for p, t, d in zip(
                generator.integers(0, 500, 5000), generator.lognormal(6, 1, 5000), generator.gamma(2, 0.5, 5000), strict=True
            )
        ]
        self._next = self._probed = 0
        self._rested: deque[tuple[float, str]] = deque()
        self.devices = 0

    def record(self) -> None:
        """Fifty rows of now."""
        start = b'{"time":%d,' % (time.time_ns() // 1000)
        first = self._next % (len(self.bodies) - LINES)
        self.producer.send(
            self.topics["inference"], b"\n".join([start + b for b in self.bodies[first : first + LINES]]), partition=self._next % PARTITIONS
        )
        self._next += 1
        self.sent += LINES

    def probe(self) -> None:
        """One row that must become an alert, of the device that has rested longest; of a new one where none has rested enough."""
        now = time.monotonic()
        if self._rested and self._rested[0][0] <= now - REST_S:
            device = self._rested.popleft()[1]
        else:
            device, self.devices = f"h{self.devices}", self.devices + 1
        self._rested.append((now, device))
        at_us = self._probed = max(time.time_ns() // 1000, self._probed + 1)
        row = {"time": at_us, "host": device, "device": "gpu0", "xid": 79, "log": "NVRM: Xid (PCI:0): 79"}
        self.probes[at_us] = Probe(f"{device}/gpu0", self.producer.send(self.topics["hardware"], orjson.dumps(row), partition=0))

    def run(self, rate: float, seconds: float, probes_a_second: float = PROBES_A_SECOND) -> None:
        """So many rows a second for so long."""
        started = time.monotonic()
        base_rows, due, before = self.sent, 0.0, started
        while (now := time.monotonic()) - started < seconds:
            while self.held.is_set():
                time.sleep(TICK_S)
            while self.sent - base_rows < rate * (now - started):
                self.record()
            due = min(due + probes_a_second * (now - before), probes_a_second * ARREARS_S)
            before = now
            while due >= 1:
                self.probe()
                due -= 1
            time.sleep(TICK_S)
        self.producer.flush()

    def end(self) -> None:
        """A last row, late enough that every alert of a probe is over."""
        time.sleep(QUIET_S + 3)
        row = {"time": time.time_ns() // 1000, "host": "end", "device": "gpu0", "xid": 0}
        self.producer.send(self.topics["hardware"], orjson.dumps(row), partition=0)
        self.producer.flush()


class Arrivals:
    """Reads the alerts topic; when each onset of a rule's alert arrived, which have resolved, and how often a version came twice."""

    def __init__(self, bootstrap: str, topic: str):
        self.consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, fetch_max_wait_ms=20)
        self.consumer.assign([TopicPartition(topic, 0)])
        self.consumer.seek_to_beginning()
        self.at, self.resolved, self.versions, self.duplicates = dict[int, float](), set[int](), set[tuple[str, int]](), 0
        self.stop, self.fault = threading.Event(), ""
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while not self.stop.is_set():
                for batch in self.consumer.poll(timeout_ms=50).values():
                    now = time.time()
                    for record in batch:
                        self._take(json.loads(record.value)["data"], now)
        except BaseException as fault:
            self.fault = repr(fault)
            raise

    def _take(self, alert: dict[str, Any], now: float) -> None:
        version = (alert["id"], alert["sequence"])
        self.duplicates += version in self.versions
        self.versions.add(version)
        if alert["detector"] == "rules":
            self.at.setdefault(alert["onset_us"], now)
            if alert["status"] == "resolved":
                self.resolved.add(alert["onset_us"])


def account(service: Service, topic: str, probes: Mapping[int, Probe], folder: Path) -> dict[str, Any]:
    """{fate: probes} of all probes, after the service has stopped. `lost` is what nothing explains."""
    last: dict[str, dict[str, Any]] = {}
    for record in records(service.cluster, service.alerts):
        alert = orjson.loads(record.value)["data"]
        if alert["detector"] == "rules" and alert["sequence"] >= last.get(alert["id"], alert)["sequence"]:
            last[alert["id"]] = alert
    dead = {orjson.loads(r.value.split(b"\n")[0])["time"] for r in records(service.cluster, service.dead)}
    read_to = committed(service, topic)
    with sqlite3.connect(folder / "alerts.db") as database:
        stored = {onset for (onset,) in database.execute("select onset_us from telltale_alerts where detector = 'rules'")}
    return {"alerts_expected": len(probes), "fates": fates(probes, list(last.values()), dead, read_to, stored)}


def fates(
    probes: Mapping[int, Probe], alerts: Sequence[Mapping[str, Any]], dead: set[int], read_to: int, stored: set[int]
) -> dict[str, int]:
    """How many probes had which fate. `alerts`: the last version of each; `dead`: times of rows in dead letters; `read_to`: the offset
    that was committed; `stored`: onsets in the store."""
    onsets = {a["onset_us"] for a in alerts}
    fate: dict[int, str] = {}
    taken: defaultdict[str, list[int]] = defaultdict(list)
    for at_us, probe in probes.items():
        if not probe.written.succeeded():
            fate[at_us] = "never written: " + repr(probe.written.exception)
        elif at_us in dead:
            fate[at_us] = "dead letter"
        elif probe.written.value.offset >= read_to:
            fate[at_us] = "not read yet"
        elif at_us in onsets:
            fate[at_us] = "found"
            taken[probe.device].append(at_us)
        else:
            fate[at_us] = "in the store, not in the topic" if at_us in stored else "lost"
            taken[probe.device].append(at_us)
    of_device: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for alert in alerts:
        of_device[alert["labels"]["device"]].append(alert)
    for device, times in taken.items():
        missing = [t for t in times if fate[t] == "lost"]
        counted = sum(a["count"] for a in of_device[device])
        if missing and counted == len(times):
            for t in missing:
                inside = any(a["onset_us"] < t <= a["last_seen_us"] for a in of_device[device])
                fate[t] = "a repeat within an open alert" if inside else "its time was moved: late"
    strange = sum(a["onset_us"] not in probes for a in alerts)
    return dict(Counter(fate.values())) | ({"onsets of no probe": strange} if strange else {})


def committed(service: Service, topic: str) -> int:
    """The offset that the service has committed of the probes' partition; 0 where there is none."""
    consumer = KafkaConsumer(
        bootstrap_servers=service.cluster.bootstrap, group_id=service.config["source"]["kafka"]["group"], enable_auto_commit=False
    )
    try:
        return consumer.committed(TopicPartition(topic, 0)) or 0
    finally:
        consumer.close()
