"""The undisturbed run: the same records, in the same order of each partition, through an engine to which nothing happens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.config import Config
from engine.metrics import Metrics
from engine.outbox import Outbox, Route
from engine.run import Engine
from engine.wiring import make_detectors
from streams.decode import Format
from streams.records import Message, Partition, RawBatch
from tests.e2e.chaos.workload import Record

State = tuple[str, int | None]
"""What an alert came to: its status, and when it was resolved."""


@dataclass
class Seen:
    """Alert versions as a consumer takes them: the highest sequence of an id counts."""

    last: dict[str, tuple[int, State]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    versions: set[tuple[str, int]] = field(default_factory=set)
    duplicated: int = 0
    by_clock: set[str] = field(default_factory=set)
    """Alerts of a device's silence that the clock told: rows need not know of them."""

    def take(self, alert: Mapping[str, Any]) -> None:
        """One version. That a whole partition fell silent is a fact of the wall clock, not of the rows, and is left out."""
        if alert["detector"] == "missing" and alert["key"].startswith("partition "):
            return
        ident, sequence = alert["id"], alert["sequence"]
        if alert.get("evidence", {}).get("told_by") == "clock":
            self.by_clock.add(ident)
        self.duplicated += (ident, sequence) in self.versions
        self.versions.add((ident, sequence))
        self.keys[ident] = f"{alert['detector']}: {alert['key']}"
        if ident not in self.last or sequence >= self.last[ident][0]:
            self.last[ident] = (sequence, (alert["status"], alert["resolved_us"]))

    def states(self) -> dict[str, State]:
        """What each alert came to."""
        return {ident: state for ident, (_, state) in self.last.items()}


class Silent:
    """A source that is never asked: records are handed to the engine directly, and it is not known whether more will come."""

    def lag(self, partition: Partition) -> None:
        return None

    def on_change(self, *callbacks: object) -> None: ...


class Collected:
    """A sink that keeps what the engine says."""

    def __init__(self) -> None:
        self.seen = Seen()

    def send(self, messages: Sequence[Message]) -> set[str]:
        for message in messages:
            self.seen.take(json.loads(message.value)["data"])
        return {m.id for m in messages}

    def close(self) -> None: ...


class Reference:
    """Give it what producers give the broker; `states` is what must come out at the other end."""

    def __init__(self, config: Config, topics: Mapping[str, str], partitions: int):
        self.topics = topics
        self.sink = Collected()
        self.outbox = Outbox([Route("reference", self.sink, frozenset({"alert"}))], limit=1 << 40, threads=False)
        formats = {topic: Format(stream, "json", (), 1 << 24) for stream, topic in topics.items()}
        self.engine = Engine(config, make_detectors(config), Silent(), formats, self.outbox, Metrics())  # type: ignore[arg-type]
        self.ends = {Partition(topic, p): 0 for topic in topics.values() for p in range(partitions)}
        self.engine.assigned(list(self.ends))

    def feed(self, records: Sequence[Record]) -> None:
        """More records."""
        of_partition: dict[Partition, list[bytes]] = {}
        for record in records:
            of_partition.setdefault(Partition(self.topics[record.stream], record.partition), []).append(record.value)
        for partition, values in of_partition.items():
            self.engine.process(RawBatch.of(partition, values, first_offset=self.ends[partition]))
            self.ends[partition] += len(values)
        self.engine.judge_population()
        self.outbox.flush(0)

    def states(self) -> dict[str, State]:
        """What each alert came to, so far."""
        return self.sink.seen.states()
