"""The transactional Kafka sink against a real broker: once, or not at all."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka import ConsumerGroupMetadata

from streams.records import Message, Partition
from streams.sinks import Ticket, TransactionalKafkaSink
from streams.sources import KafkaSource
from tests.e2e.service import committed
from tests.support.kafka import Cluster, unique_group

pytestmark = pytest.mark.kafka


@pytest.fixture
def member(kafka: Cluster) -> Iterator[KafkaSource]:
    """A member of a group that has a partition."""
    source, assigned = KafkaSource(kafka.bootstrap, unique_group(), [kafka.topic(1)]), list[Partition]()
    source.on_change(assigned.extend, lambda partitions: None)
    deadline = time.monotonic() + 30
    while not assigned:
        assert time.monotonic() < deadline
        source.poll(0.1, 1 << 20)
    yield source
    source.close()


def sink_on(kafka: Cluster, topic: str, ident: str) -> TransactionalKafkaSink:
    sink = TransactionalKafkaSink(kafka.bootstrap, {"alert": topic})
    sink.transactional_id = lambda: ident
    return sink


def messages(*idents: str) -> list[Message]:
    return [Message(i, "alert", i, i.encode()) for i in idents]


def in_time(read: Callable[[], Any], wanted: Any) -> Any:
    """What is read at last: a broker answers a commit when it is decided, and shows what is committed a moment later."""
    deadline = time.monotonic() + 20
    while (found := read()) != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def ids(kafka: Cluster, topic: str) -> Counter[str]:
    return Counter(dict(r.headers)["telltale-id"].decode() for r in committed(kafka, topic))


def ticket(member: KafkaSource) -> Ticket:
    (place,) = member._consumer.assignment()
    return Ticket(member.group(), {Partition(place.topic, place.partition): 5})


def test_what_a_dead_owner_published_is_confirmed_and_what_it_left_open_is_ended(kafka: Cluster, member: KafkaSource) -> None:
    topic, ident = kafka.topic(2), unique_group()
    old, new = sink_on(kafka, topic, ident), sink_on(kafka, topic, ident)
    mark = old.mark()
    assert set(mark.values()) == {0}
    assert old.send(messages("a", "b"), ticket(member)) == {"a", "b"}
    kept = old.mark()
    assert sum(kept.values()) >= 2
    producer = old._connected()
    producer.begin_transaction()
    producer.send(topic, b"left open", headers=[("telltale-id", b"c")])
    producer.flush()
    new.recover(mark)
    of_both = [place for place, reached in kept.items() if reached]
    assert {new.mark()[place] for place in of_both} == {0}, "the next checkpoint must find a and b again, until they were made again"
    assert new.send(messages("b", "c"), ticket(member)) == {"b", "c"}
    with pytest.raises(ConnectionError):
        old.send(messages("d"), ticket(member))
    assert new.send(messages("a"), ticket(member)) == {"a"}
    assert all(new.mark()[place] >= kept[place] for place in of_both)
    everything = {"a": 1, "b": 1, "c": 1}
    assert in_time(lambda: ids(kafka, topic), everything) == everything
    (place,) = member._consumer.assignment()
    assert in_time(lambda: member._consumer.committed(place), 5) == 5, "the group's offsets are in the transaction"
    new.close()
    old.close()


def test_a_generation_that_is_over_publishes_nothing(kafka: Cluster, member: KafkaSource) -> None:
    topic = kafka.topic(1)
    sink, now = sink_on(kafka, topic, unique_group()), ticket(member)
    stale = Ticket(
        ConsumerGroupMetadata(now.group.group_id, now.group.generation_id - 1, now.group.member_id, None, now.group.state), now.offsets
    )
    with pytest.raises(ConnectionError):
        sink.send(messages("a"), stale)
    assert ids(kafka, topic) == {}
    assert sink.send(messages("a"), now) == {"a"}
    assert in_time(lambda: ids(kafka, topic), {"a": 1}) == {"a": 1}
    sink.close()


def test_a_transaction_in_doubt_is_looked_up(kafka: Cluster, member: KafkaSource, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = kafka.topic(1)
    sink = sink_on(kafka, topic, unique_group())
    assert sink.send(messages("a"), ticket(member)) == {"a"}
    commit = sink._connected().commit_transaction

    def answer_lost() -> None:
        commit()
        raise OSError("connection reset")

    monkeypatch.setattr(sink._connected(), "commit_transaction", answer_lost)
    with pytest.raises(ConnectionError, match="reset"):
        sink.send(messages("b"), ticket(member))
    assert sink.send(messages("b", "c"), ticket(member)) == {"b", "c"}
    everything = {"a": 1, "b": 1, "c": 1}
    assert in_time(lambda: ids(kafka, topic), everything) == everything
    sink.close()
