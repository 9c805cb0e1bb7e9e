"""From the scenario to the engine's source: a thread that lets event time run, inside the process or through a real broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic
from kafka.errors import KafkaError

from engine.demo.record import Record
from engine.demo.scenario import Scenario
from streams.sources.simulated import SimulatedSource

CHUNK_S = 0.1


class Wire(Protocol):
    """Where records are put."""

    def put(self, record: Record) -> None: ...

    def close(self) -> None: ...


class InProcess:
    """Straight into the engine's source."""

    def __init__(self, source: SimulatedSource):
        self.source = source

    def put(self, record: Record) -> None:
        self.source.put(record.topic, record.value, record.time_us // 1000)

    def close(self) -> None:
        """The engine closes its source."""


class ThroughKafka:
    """Through a broker. `names`: the real topic of each of the demo's; they are made, and deleted on closing.

    Raises ConnectionError when no broker answers, or it refuses the topics.
    """

    def __init__(self, bootstrap: str, names: dict[str, str]):
        self.names = names
        try:
            self.admin = KafkaAdminClient(bootstrap_servers=bootstrap)
            self.admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1) for name in names.values()])
            self.producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=20)
        except KafkaError as error:
            raise ConnectionError(f"Kafka at {bootstrap}: {error or type(error).__name__}") from error

    def put(self, record: Record) -> None:
        self.producer.send(self.names[record.topic], record.value, timestamp_ms=record.time_us // 1000)

    def close(self) -> None:
        """Send what is left, and remove the topics."""
        self.producer.close(timeout=10)
        self.admin.delete_topics(list(self.names.values()))
        self.admin.close()


class Feed:
    """Event time, `speed` times as fast as wall time. When the engine is slower than that, event time slows down and nothing is lost."""

    def __init__(self, scenario: Scenario, wire: Wire, speed: float, backlog: Callable[[], bool]):
        self.scenario, self.wire, self.speed, self.backlog = scenario, wire, speed, backlog
        self.reached_us = scenario.start_us
        self.rows = 0
        self.fault: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="demo producers", daemon=True)

    def start(self) -> None:
        """Let time run."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the script goes on."""
        return self._thread.is_alive()

    def check(self) -> None:
        """Raise what the producers died of, if they did."""
        if self.fault is not None:
            raise self.fault

    def stop(self) -> None:
        """End it, at the next chunk."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._produce()
        except BaseException as fault:  # noqa: BLE001 - handed to the main thread, which ends the process with it
            self.fault = fault

    def _produce(self) -> None:
        due = time.monotonic()
        while self.reached_us < self.scenario.end_us and not self._stop.is_set():
            until_us = min(self.scenario.end_us, self.reached_us + int(CHUNK_S * self.speed * 1e6))
            for record in self.scenario.records(until_us):
                self.wire.put(record)
                self.rows += record.rows
            self.reached_us = until_us
            due = max(due + CHUNK_S, time.monotonic() - 1.0)  # after a stall it catches up for a second, not more
            while not self._stop.wait(max(0.0, due - time.monotonic())) and self.backlog():
                due = time.monotonic() + CHUNK_S
