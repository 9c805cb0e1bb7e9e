"""Kafka: a member of a consumer group. Offsets are kept in our checkpoints; those committed to Kafka only follow, for dashboards."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka import errors as kafka_errors
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.future import Future
from kafka.protocol.consumer import IsolationLevel

from streams.records import Packed, Partition, RawBatch, unpacked
from streams.sources import kafka_raw
from streams.sources.kafka_group import Membership, assignors
from streams.sources.source import Change, Fenced, SourceUnavailable

log = logging.getLogger(__name__)

DEFAULTS: Mapping[str, Any] = {
    "auto_offset_reset": "earliest",
    "fetch_max_bytes": 32 << 20,
    "max_partition_fetch_bytes": 4 << 20,  # large batches cost less a row; but partitions take turns: all are judged as far as the slowest
    "fetch_max_wait_ms": 500,  # a broker answers sooner when it has something
    "receive_buffer_bytes": 1 << 20,
    "bootstrap_timeout_ms": 15_000,
    "reconnect_backoff_max_ms": 5_000,
    "metadata_max_age_ms": 5_000,  # how soon a topic or a partition that is new is noticed
    "allow_auto_create_topics": False,
    "metrics_enabled": False,
}
RECORDS_A_POLL = 20_000
BATCHES_A_POLL = 2_000
CLOSE_TIMEOUT_MS = 5_000
ASK_TIMEOUT_MS = 1_000
ASK_EVERY_S = 5.0
CONFIRM_WITHIN_S = 30.0
SETTLE_TIMEOUT_MS = 60_000


class KafkaSource:
    """Topics of one cluster, shared with the other members of `group`.

    `options` goes to kafka-python's consumer as it is (`security_protocol`, `sasl_*`, `ssl_*`, `group_instance_id`,
    `partition_assignment_strategy`, ...) over our `DEFAULTS`. `raw`: take record batches whole, without an object per record, where
    kafka-python is the version this was tested with. A broker that is away later is tried again for ever, with growing pauses.
    Raises SourceUnavailable when no broker answers at the start, ValueError for an option that the client does not have.
    """

    def __init__(self, bootstrap: str, group: str, topics: Sequence[str], options: Mapping[str, Any] | None = None, raw: bool = True):
        settings = {**DEFAULTS, **(options or {}), "enable_auto_commit": False}
        if "partition_assignment_strategy" in settings:
            settings["partition_assignment_strategy"] = assignors(settings["partition_assignment_strategy"])
        try:
            self._consumer = KafkaConsumer(bootstrap_servers=bootstrap.split(","), group_id=group, **settings)
        except kafka_errors.KafkaConfigurationError as error:
            raise ValueError(f"Kafka consumer: {error}") from error
        except (kafka_errors.KafkaError, OSError) as error:
            raise SourceUnavailable(f"no Kafka broker answers at {bootstrap}: {error or type(error).__name__}") from error
        self.raw = raw and kafka_raw.install(self._consumer)
        self.membership = Membership(self._consumer)
        self._topics, self._group, self._instance = list(topics), group, settings.get("group_instance_id")
        self._on_assigned: Change = lambda partitions: None
        self._on_revoked: Change = lambda partitions: None
        self._on_lost: Change = lambda partitions: None
        self._paused = False
        self._asked, self._asked_at = dict[TopicPartition, int](), 0.0
        self._closing = False
        self._fault: BaseException | None = None
        self._trouble = ""

    def on_change(self, assigned: Change, revoked: Change, lost: Change | None = None) -> None:
        """Join the group. Changes are told while `poll` waits for the rebalance, from another thread, so heartbeats go on meanwhile;
        what a callback raises, `poll` raises."""
        self._on_assigned, self._on_revoked, self._on_lost = assigned, revoked, lost or revoked
        self._consumer.subscribe(topics=self._topics, listener=Listener(self))
        for topic in self._topics:  # known before we join: who leads a group and does not know a topic yet gives nobody its partitions
            self._consumer.partitions_for_topic(topic)

    def partitions(self, topics: Sequence[str]) -> list[Partition]:
        """All partitions of these topics, whoever of the group has them, as the client knows them now."""
        return [Partition(t, n) for t in topics for n in sorted(self._consumer.partitions_for_topic(t))]

    def poll(self, timeout_s: float, max_bytes: int) -> list[RawBatch]:
        """Records that have come, at most about `fetch_max_bytes` in all; RawBatches of at most about `max_bytes` each."""
        return list(unpacked(self.packed(timeout_s, max_bytes)))

    def packed(self, timeout_s: float, max_bytes: int) -> list[RawBatch | Packed]:
        """As `poll`, but what came is unpacked when it is asked for."""
        found = self._taken(lambda limit: self._polled(int(timeout_s * 1000), limit), max_bytes)
        if self._paused:
            self._ask()
        return found

    def more(self, max_bytes: int) -> list[RawBatch | Packed]:
        """What has come since, of the same partitions, at once and without a look at the group: none changes hands. Nothing while the group
        rebalances. It does not stand for polls: who only asks for more is taken for dead."""
        if self._paused or self.membership.joining or self.membership.fenced:
            return []
        return self._taken(lambda limit: self.membership.records_meanwhile(limit, 0), max_bytes)

    def _taken(self, fetch: Callable[[int], dict[TopicPartition, list[Any]]], max_bytes: int) -> list[RawBatch | Packed]:
        """What the client has, of partitions that are ours."""
        try:
            polled = fetch(BATCHES_A_POLL if self.raw else RECORDS_A_POLL)
        except kafka_errors.FencedInstanceIdError as error:
            raise Fenced(f"another process is member {self._instance!r} of group {self._group} now") from error
        except kafka_errors.KafkaError as error:
            if self._fault is not None:
                raise self._fault from error
            if not (error.retriable or isinstance(error, kafka_errors.KafkaConnectionError)):
                raise
            self._tell(error)
            return []
        assigned = self._consumer.assignment()
        batches: list[RawBatch | Packed] = []
        for place, records in polled.items():
            if place not in assigned:
                continue  # revoked while we were waiting: whoever has it now reads these again
            partition = Partition(place.topic, place.partition)
            if self.raw:
                batches.append(kafka_raw.packed(partition, records, max_bytes))
            else:
                batches.append(kafka_raw.stock(partition, records, self._consumer.position(place), 0))
        if batches:
            self._trouble = ""
        return batches

    def _polled(self, timeout_ms: int, limit: int) -> dict[TopicPartition, list[Any]]:
        """The client's records; while a cooperative group rebalances, those of the partitions that stay."""
        if self.membership.fenced:
            raise kafka_errors.FencedInstanceIdError(self._instance)
        if not (self.membership.cooperative and self.membership.joining):
            return self._consumer.poll(timeout_ms=timeout_ms, max_records=limit)
        return self._consumer.poll(timeout_ms=0, max_records=limit) or self.membership.records_meanwhile(limit, min(timeout_ms, 50))

    @property
    def lapsed(self) -> bool:
        """Whether a session has passed without a heartbeat that the broker took, or we are no member."""
        return self.membership.lapsed

    def confirm(self) -> bool:
        """Whether the broker says, now, that we are a member of the group's present generation. Raises ConnectionError when it does not
        say for `CONFIRM_WITHIN_S`."""
        deadline = time.monotonic() + CONFIRM_WITHIN_S
        while True:
            try:
                return self.membership.confirm()
            except kafka_errors.KafkaError as error:
                if time.monotonic() > deadline:
                    said = error or type(error).__name__
                    raise ConnectionError(f"the broker does not say whether we are a member of {self._group}: {said}") from error
                time.sleep(0.1)

    def group(self) -> Any:
        """The group's metadata as of now, for transactions that the group fences."""
        return self._consumer.group_metadata()

    def settle(self, partitions: Sequence[Partition]) -> None:
        """Wait until no transaction of a former owner holds an offset of these partitions open. Raises TimeoutError."""
        self._consumer._coordinator._isolation_level = IsolationLevel.READ_COMMITTED  # a fetch of offsets waits for transactions then
        places = [TopicPartition(p.topic, p.number) for p in partitions]
        try:
            self._consumer._coordinator.fetch_committed_offsets(places, timeout_ms=SETTLE_TIMEOUT_MS)
        except kafka_errors.KafkaTimeoutError as error:
            raise TimeoutError(f"a transaction of a former owner is open for {SETTLE_TIMEOUT_MS / 1000:g} s") from error

    def pause(self) -> None:
        """Fetch nothing more until `resume`."""
        if not self._paused:
            self._paused = True
            self._consumer.pause(*self._consumer.assignment())

    def resume(self) -> None:
        """Go on fetching."""
        if self._paused:
            self._paused = False
            self._consumer.resume(*self._consumer.paused())

    def seek(self, partition: Partition, offset: int) -> None:
        """Read that offset next; one that the topic no longer has becomes the oldest that it has (`auto_offset_reset`)."""
        self._consumer.seek(TopicPartition(partition.topic, partition.number), offset)

    def lag(self, partition: Partition) -> int | None:
        """Records not read yet, as of the last fetch, or, while that is paused, as the broker said in the last `ASK_EVERY_S`."""
        place = TopicPartition(partition.topic, partition.number)
        state = self._consumer._subscription.assignment.get(place)
        if state is None or state.position is None or (state.highwater is None and place not in self._asked):
            return None
        return max(0, max(state.highwater or 0, self._asked.get(place, 0)) - state.position.offset)

    def _ask(self) -> None:
        """Ask the broker how far its partitions go; one that does not answer is logged."""
        if time.monotonic() - self._asked_at < ASK_EVERY_S:
            return
        self._asked_at = time.monotonic()
        try:
            self._asked = self._consumer.end_offsets(list(self._consumer.assignment()), timeout_ms=ASK_TIMEOUT_MS)
        except (kafka_errors.KafkaError, OSError) as error:
            self._tell(error)

    def caught_up(self, partition: Partition) -> bool:
        """Whether the broker says, now, that there is nothing to read; False where it does not answer, which is logged."""
        place = TopicPartition(partition.topic, partition.number)
        state = self._consumer._subscription.assignment.get(place)
        if state is None or state.position is None:
            return False
        try:
            end = self._consumer.end_offsets([place], timeout_ms=ASK_TIMEOUT_MS)[place]
        except (kafka_errors.KafkaError, OSError) as error:
            self._tell(error)
            return False
        return state.position.offset >= end

    def positions(self) -> dict[Partition, int]:
        """The offset read next of each assigned partition, where it is known."""
        states = self._consumer._subscription.assignment.items()
        return {Partition(p.topic, p.partition): s.position.offset for p, s in states if s.position is not None}

    def end_offsets(self) -> dict[Partition, int]:
        """One past the last record of each assigned partition, asked from the broker. Raises TimeoutError when it does not answer."""
        try:
            ends = self._consumer.end_offsets(list(self._consumer.assignment()), timeout_ms=CLOSE_TIMEOUT_MS)
        except kafka_errors.KafkaTimeoutError as error:
            raise TimeoutError("the broker does not tell its end offsets") from error
        return {Partition(p.topic, p.partition): offset for p, offset in ends.items()}

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Send offsets to Kafka without waiting. A failure is logged only: nothing is read from them."""
        assigned = self._consumer.assignment()
        wanted = {TopicPartition(p.topic, p.number): OffsetAndMetadata(o, "", -1) for p, o in offsets.items()}
        wanted = {place: offset for place, offset in wanted.items() if place in assigned}
        if wanted:
            self._consumer.commit_async(wanted, callback=self._committed)

    def close(self) -> None:
        """Hand over the partitions, commit nothing more, leave the group."""
        if self._closing:
            return
        self._closing = True
        places = self._consumer.assignment()
        if places:
            tell = self._on_lost if self.membership.lapsed else self._on_revoked
            tell([Partition(p.topic, p.partition) for p in sorted(places)])
        self._consumer.close(autocommit=False, timeout_ms=CLOSE_TIMEOUT_MS)

    def _told(self, change: str, places: Sequence[TopicPartition]) -> None:
        """Tell of partitions that came or went; remember what the callback raised."""
        partitions = [Partition(p.topic, p.partition) for p in sorted(places)]
        try:
            {"assigned": self._on_assigned, "revoked": self._on_revoked, "lost": self._on_lost}[change](partitions)
            if change == "assigned" and self._paused:
                self._consumer.pause(*places)
        except BaseException as fault:
            self._fault = fault
            raise

    def _committed(self, offsets: Any, response: Any) -> None:
        if isinstance(response, Exception):
            log.warning("offsets could not be committed: %s", response)

    def _tell(self, error: Exception) -> None:
        if str(error) != self._trouble:
            self._trouble = str(error)
            log.warning("Kafka: %s; trying again", error or type(error).__name__)


class Listener(AsyncConsumerRebalanceListener):
    """Runs the callbacks beside the client's event loop. The thread that polls waits in `poll` meanwhile, so nothing runs twice at once."""

    def __init__(self, source: KafkaSource):
        self._source = source

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        await self._tell("assigned", assigned)

    async def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        await self._tell("revoked", revoked)

    async def on_partitions_lost(self, lost: Sequence[TopicPartition]) -> None:
        await self._tell("lost", lost)

    async def _tell(self, change: str, places: Sequence[TopicPartition]) -> None:
        if not places or self._source._closing:
            return
        done, loop = Future(), self._source._consumer._client._manager._net

        def run() -> None:
            try:
                self._source._told(change, list(places))
            except BaseException as fault:  # noqa: BLE001 - raised again by poll
                loop.call_soon_threadsafe(lambda fault=fault: done.failure(fault))
            else:
                loop.call_soon_threadsafe(lambda: done.success(None))

        threading.Thread(target=run, name=f"partitions {change}", daemon=True).start()
        await done
