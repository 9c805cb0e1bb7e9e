"""Kafka, with each batch of messages and the group's offsets in one transaction: a reader of committed records sees each message once.

What counts as published is what stands in the topics. `mark` says from where on there may be messages that a checkpoint does not know
to be delivered; after a restart, a takeover or a transaction in doubt the topics are read from there, and what is found is confirmed
when it comes again instead of sent. Two things keep a former owner out. The transactional id goes with the first partition, so its next
owner ends an open transaction of it. And each transaction carries the offsets of all partitions under the generation in which they
were ours, which the broker refuses when the group has gone on.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors

from streams.records import Message, Partition
from streams.sinks.kafka import HOPELESS, KafkaSink
from streams.sinks.sink import Undeliverable

TRANSACTION_TIMEOUT_MS = 15_000
RECOVER_WITHIN_S = 60.0
FORGET_AFTER_S = 3600.0
"""A message that a former owner published and that is not made again by then will not be."""
FENCED = (
    kafka_errors.CommitFailedError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.UnknownMemberIdError,
    kafka_errors.FencedInstanceIdError,
    kafka_errors.RebalanceInProgressError,
)
CONNECTION = ("security_", "sasl_", "ssl_", "socket_", "bootstrap_timeout_ms", "reconnect_")
"""Options that a reader needs as a producer does."""


@dataclass(frozen=True)
class Ticket:
    """Under what a transaction is made: the group's metadata at the moment when messages were taken from the outbox, and the offset of
    the last checkpoint of each partition that was ours then."""

    group: Any
    offsets: Mapping[Partition, int]


Mark = dict[str, int]
"""`topic-partition` of the sink -> offset."""


@dataclass(frozen=True)
class Found:
    """Where a message stands that is published and that the outbox does not know to be; `at`: when that was found out."""

    place: str
    offset: int
    at: float


class TransactionalKafkaSink(KafkaSink):
    """`transactional_id`: asked whenever a producer is made, set by whoever knows the partitions. Everything else as of KafkaSink."""

    def __init__(self, bootstrap: str, topics: Mapping[str, str], options: Mapping[str, Any] | None = None):
        timeout = {"transaction_timeout_ms": TRANSACTION_TIMEOUT_MS}
        super().__init__(bootstrap, topics, timeout | dict(options or {}) | {"enable_idempotence": True})
        self.transactional_id: Callable[[], str] = lambda: f"telltale-{uuid.uuid4().hex}"
        self._found: dict[str, Found] = {}
        self._reached: Mark = {}
        self._alone = threading.RLock()

    def send(self, messages: Sequence[Message], *ticket: Ticket) -> set[str]:
        """All in one transaction, or none. Raises ConnectionError (try again; what was in doubt is then found out) and Undeliverable as
        KafkaSink does."""
        (under,) = ticket
        with self._alone:
            try:
                producer = self._connected()
                ours = [m for m in messages if m.kind in self._topics]
                if fresh := [m for m in ours if m.id not in self._found]:
                    self._transaction(producer, fresh, under)
            except HOPELESS as error:
                self._drop()
                raise Undeliverable(f"Kafka at {self._bootstrap}: {error}") from error
            except (kafka_errors.KafkaError, OSError) as error:
                self._drop()
                raise ConnectionError(f"Kafka at {self._bootstrap}: {error or type(error).__name__}") from error
            self._found = {i: f for i, f in self._found.items() if i not in {m.id for m in ours}}
        return {m.id for m in messages}

    def mark(self) -> Mark:
        """From where on there may be messages that a checkpoint made now does not know to be delivered. Raises ConnectionError."""
        if not self._reached:
            with self._alone, self._asking():
                self._reached = self._ends("read_committed")
        mark, now = dict(self._reached), time.monotonic()
        for found in self._found.values():
            if now - found.at < FORGET_AFTER_S:
                mark[found.place] = min(found.offset, mark.get(found.place, found.offset))
        return mark

    def recover(self, mark: Mark) -> None:
        """Find out what is published from there on. Ends open transactions of our transactional id first, and waits for those of others.
        Raises ConnectionError."""
        with self._alone, self._asking():
            self._drop()
            self._reached = {}
            self._connected()
            self._found = self._found | self._since(mark)

    def _connected(self) -> KafkaProducer:
        if self._producer is None:
            settings = self._settings | {"transactional_id": self.transactional_id()}
            producer = KafkaProducer(bootstrap_servers=self._bootstrap.split(","), **settings)
            self._producer = producer
            producer.init_transactions()
            if self._reached:  # this producer follows another, whose last transaction may be in doubt
                self._found = self._found | self._since(self._reached)
        return self._producer

    def _transaction(self, producer: KafkaProducer, messages: Sequence[Message], under: Ticket) -> None:
        self.mark()
        offsets = {TopicPartition(p.topic, p.number): OffsetAndMetadata(o, "", -1) for p, o in under.offsets.items()}
        producer.begin_transaction()
        futures = [self._queue(producer, m) for m in messages]
        producer.flush(timeout=self._settings["delivery_timeout_ms"] / 1000)
        written = [future.get(timeout=0.1) for future in futures]
        try:
            producer.send_offsets_to_transaction(offsets, under.group)
        except FENCED:
            with suppress(kafka_errors.KafkaError):
                producer.abort_transaction()  # at once: readers of committed records wait for it
            raise
        producer.commit_transaction()
        reached: Mark = {}
        for record in written:
            place = f"{record.topic}-{record.partition}"
            reached[place] = max(reached.get(place, 0), record.offset + 1)
        self._reached = self._reached | reached

    def _since(self, mark: Mark) -> dict[str, Found]:
        """The messages that are committed from a mark on, by id. What is still open now is waited for."""
        ends, found = self._ends("read_uncommitted"), dict[str, Found]()
        deadline = time.monotonic() + RECOVER_WITHIN_S
        with closing(self._reader("read_committed")) as reader:
            places = {TopicPartition(*named(place)): end for place, end in ends.items() if mark.get(place, end) < end}
            reader.assign(list(places))
            for place in places:
                reader.seek(place, mark[f"{place.topic}-{place.partition}"])
            while any(reader.position(place) < end for place, end in places.items()):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"a transaction of another process is open for {RECOVER_WITHIN_S:g} s")
                for records in reader.poll(timeout_ms=100).values():
                    for record in records:
                        ids = [value.decode() for key, value in record.headers if key == "telltale-id"]
                        place = f"{record.topic}-{record.partition}"
                        found |= dict.fromkeys(ids, Found(place, record.offset, time.monotonic()))
        return found

    def _ends(self, isolation: str) -> Mark:
        with closing(self._reader(isolation)) as reader:
            topics = sorted(set(self._topics.values()))
            places = [TopicPartition(t, p) for t in topics for p in sorted(reader.partitions_for_topic(t) or ())]
            return {f"{p.topic}-{p.partition}": offset for p, offset in reader.end_offsets(places).items()}

    def _reader(self, isolation: str) -> KafkaConsumer:
        settings = {k: v for k, v in self._settings.items() if k.startswith(CONNECTION)}
        return KafkaConsumer(
            bootstrap_servers=self._bootstrap.split(","), group_id=None, enable_auto_commit=False, isolation_level=isolation,
            auto_offset_reset="earliest", allow_auto_create_topics=False, metrics_enabled=False, max_poll_records=10_000, **settings,
        )  # fmt: skip

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except (kafka_errors.KafkaError, OSError) as error:
            raise ConnectionError(f"Kafka at {self._bootstrap}: {error or type(error).__name__}") from error


def named(place: str) -> tuple[str, int]:
    """Topic and partition of a mark's key."""
    topic, _, number = place.rpartition("-")
    return topic, int(number)
