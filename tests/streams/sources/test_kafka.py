"""The Kafka source and sink against a real broker."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaProducer

from streams.records import Message, Partition, RawBatch, unpacked
from streams.sinks import KafkaSink
from streams.sources import KafkaSource, SourceUnavailable
from tests.support.kafka import Broker, Cluster, unique_group
from tests.support.kafka_home import find_home

CODECS = (None, "gzip", "snappy", "lz4", "zstd")


def records(batches: list[RawBatch]) -> list[tuple]:
    """(partition, offset, value, time, headers) of every record."""
    return [
        (raw.partition, int(raw.offsets[i]), raw.value(i), int(raw.timestamps_ms[i]), tuple(raw.headers[i]) if raw.headers else ())
        for raw in batches
        for i in range(len(raw))
    ]


def read(source: KafkaSource, count: int, within_s: float = 30.0) -> list[tuple]:
    """Poll until so many records came; fails when they do not."""
    found: list[tuple] = []
    deadline = time.monotonic() + within_s
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} records came"
        found += records(source.poll(0.2, 1 << 20))
    return found


def watched(source: KafkaSource) -> tuple[list[Partition], list[Partition]]:
    assigned: list[Partition] = []
    revoked: list[Partition] = []
    source.on_change(assigned.extend, revoked.extend)
    return assigned, revoked


def owned(source: KafkaSource) -> set[Partition]:
    """The partitions that a source has, kept up while it is polled."""
    have: set[Partition] = set()
    source.on_change(have.update, have.difference_update)
    return have


def turns(sources: list[KafkaSource], reached: Callable[[], bool], busy_s: float, within_s: float = 120.0) -> None:
    """Let members poll in turn, each busy for a while after its poll, until something is reached."""
    deadline = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < deadline
        for source in sources:
            source.poll(0.1, 1 << 20)
            time.sleep(busy_s)


@pytest.mark.kafka
@pytest.mark.parametrize("codec", CODECS)
def test_raw_batches_hold_what_the_stock_consumer_gives(kafka: Cluster, codec: str | None) -> None:
    topic = kafka.topic(2)
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, compression_type=codec, linger_ms=20)
    for i in range(2_000):
        headers = [("h", b"%d" % i), ("empty", b"")] if i % 7 == 0 else []
        producer.send(topic, value=None if i % 11 == 0 else b"value %d" % i * (i % 5), key=b"k%d" % i, partition=i % 2, headers=headers)
    producer.close()
    found = {}
    for raw in (True, False):
        source = KafkaSource(kafka.bootstrap, unique_group(), [topic], raw=raw)
        assert source.raw is raw
        assigned, revoked = watched(source)
        found[raw] = sorted(read(source, 2_000))
        assert sorted(assigned) == [Partition(topic, 0), Partition(topic, 1)]
        assert [source.lag(p) for p in assigned] == [0, 0]
        assert source.positions() == source.end_offsets() == dict.fromkeys(assigned, 1_000)
        source.close()
        assert sorted(revoked) == sorted(assigned)
    assert found[True] == found[False]


@pytest.mark.kafka
def test_the_broker_says_whether_all_was_read(kafka: Cluster) -> None:
    topic = kafka.topic(1)
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)
    source = KafkaSource(kafka.bootstrap, unique_group(), [topic])
    assigned, _ = watched(source)
    for _ in range(2):
        producer.send(topic, b"x").get(10)
        assert not any(source.caught_up(p) for p in assigned)  # nothing is assigned the first time
        read(source, 1)
        assert source.caught_up(Partition(topic))
    producer.close()
    source.close()


@pytest.mark.kafka
@pytest.mark.parametrize("raw", [True, False])
def test_reading_goes_on_where_it_is_told(kafka: Cluster, raw: bool) -> None:
    topic = kafka.topic(1)
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, linger_ms=50)
    for i in range(100):
        producer.send(topic, b"%d" % i)
    producer.close()
    source = KafkaSource(kafka.bootstrap, unique_group(), [topic], raw=raw)
    source.on_change(lambda partitions: [source.seek(p, 37) for p in partitions] and None, lambda partitions: None)
    assert [r[1] for r in read(source, 63)] == list(range(37, 100))
    source.pause()
    source.seek(Partition(topic), 90)
    assert records(source.poll(0.3, 1 << 20)) == []
    source.resume()
    assert [r[1] for r in read(source, 10)] == list(range(90, 100))
    source.close()


@pytest.mark.kafka
@pytest.mark.parametrize("raw", [True, False])
def test_more_is_what_has_come_since_and_no_partition_changes_hands_in_it(kafka: Cluster, raw: bool) -> None:
    topic, group = kafka.topic(2), unique_group()
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, linger_ms=5)
    source = KafkaSource(kafka.bootstrap, group, [topic], raw=raw)
    have = owned(source)
    producer.send(topic, b"first", partition=0).get(10)
    found = read(source, 1)
    for i in range(200):
        producer.send(topic, b"%d" % i, partition=i % 2)
    producer.flush()
    deadline = time.monotonic() + 30
    while len(found) < 201:
        assert time.monotonic() < deadline, len(found)
        found += records(list(unpacked(source.more(1 << 20))))
    assert sorted(r[1] for r in found) == sorted([*range(101), *range(100)])
    source.pause()
    assert source.more(1 << 20) == []
    source.resume()
    other = KafkaSource(kafka.bootstrap, group, [topic], raw=raw)
    others = owned(other)
    for _ in range(10):
        other.poll(0.1, 1 << 20)  # asks to join; whoever only asks for more does not see it
        assert records(list(unpacked(source.more(1 << 20)))) == [] and len(have) == 2
    turns([source, other], lambda: len(have) == len(others) == 1, 0.0)
    producer.close()
    source.close()
    other.close()


@pytest.mark.kafka
@pytest.mark.parametrize("raw", [True, False])
def test_aborted_transactions_and_markers_are_left_out(kafka: Cluster, raw: bool) -> None:
    topic = kafka.topic(1)
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=unique_group())
    producer.init_transactions()
    for word, end in (
        (b"kept", producer.commit_transaction),
        (b"dropped", producer.abort_transaction),
        (b"kept too", producer.commit_transaction),
    ):
        producer.begin_transaction()
        producer.send(topic, word)
        producer.flush()
        end()
    producer.close()
    source = KafkaSource(kafka.bootstrap, unique_group(), [topic], {"isolation_level": "read_committed"}, raw=raw)
    watched(source)
    assert [r[2] for r in read(source, 2)] == [b"kept", b"kept too"]
    source.close()


@pytest.mark.kafka
@pytest.mark.parametrize("busy_s", [0.0, 0.3], ids=["idle", "busy"])
@pytest.mark.parametrize("strategy", ["range", "cooperative-sticky"])
def test_two_members_share_a_topic_and_one_takes_over(kafka: Cluster, strategy: str, busy_s: float) -> None:
    """Also when each does something else for longer than a join takes between its polls."""
    topic, group = kafka.topic(2), unique_group()
    options = {"heartbeat_interval_ms": 300, "partition_assignment_strategy": strategy}
    first, second = (KafkaSource(kafka.bootstrap, group, [topic], options) for _ in range(2))
    everything = {Partition(topic, 0), Partition(topic, 1)}
    with closing(first):
        of_first = owned(first)
        with closing(second):
            of_second = owned(second)
            turns([first, second], lambda: len(of_first) == len(of_second) == 1, busy_s)
            assert of_first | of_second == everything
        turns([first], lambda: of_first == everything, busy_s)


@pytest.mark.kafka
def test_partitions_that_stay_give_records_while_a_cooperative_group_rebalances(kafka: Cluster) -> None:
    topic, group = kafka.topic(2), unique_group()
    options = {"heartbeat_interval_ms": 300, "partition_assignment_strategy": "cooperative-sticky"}
    first, second = (KafkaSource(kafka.bootstrap, group, [topic], options) for _ in range(2))
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)
    with closing(first), closing(second), closing(producer):
        assigned, revoked = watched(first)
        turns([first], lambda: len(assigned) == 2, 0.0)
        taken, _ = watched(second)
        second.poll(0.3, 1 << 20)  # asks to join; the group now waits for it to come back to its poll, and for the first to join again
        came, deadline = 0, time.monotonic() + 150
        while not came:  # the second does not come back meanwhile, so the rebalance can't end
            for number in range(2):
                producer.send(topic, b"x", partition=number)
            producer.flush()
            assert time.monotonic() < deadline
            came += len(records(first.poll(0.1, 1 << 20)))
        while not (revoked and taken):
            assert time.monotonic() < deadline
            first.poll(0.1, 1 << 20)
            second.poll(0.1, 1 << 20)
        assert len(revoked) == 1 and len(assigned) == 2 and taken == revoked
        assert first.confirm() and second.confirm()


@pytest.mark.kafka
def test_what_a_callback_raises_ends_polling(kafka: Cluster) -> None:
    topic = kafka.topic(1)
    source = KafkaSource(kafka.bootstrap, unique_group(), [topic])

    def fail(partitions: object) -> None:
        raise OSError("the checkpoint can't be read")

    source.on_change(fail, lambda partitions: None)
    with pytest.raises(OSError, match="checkpoint"):
        read(source, 1)
    source.close()


@pytest.mark.kafka
@pytest.mark.slow  # recovery of the secured listener takes as long as the machine's disk lets it
def test_a_crashed_broker_delays_and_loses_nothing(tmp_path: Path) -> None:
    if find_home() is None:
        pytest.skip("needs a Kafka home to crash a broker of")
    broker = Broker(tmp_path / "kafka", secure=True)
    cluster = broker.start()
    try:
        topic = cluster.topic(1)
        sink = KafkaSink(cluster.secure_bootstrap or "", {"alert": topic}, cluster.secure)
        source = KafkaSource(cluster.secure_bootstrap or "", unique_group(), [topic], cluster.secure)
        watched(source)
        messages = [Message(f"m{i}", "alert", "k", b"%d" % i) for i in range(20)]
        assert sink.send(messages[:10]) == {m.id for m in messages[:10]}
        assert len(read(source, 10)) == 10
        broker.kill()
        with pytest.raises((ConnectionError, TimeoutError)):
            sink.send(messages[10:])
        assert source.poll(0.2, 1 << 20) == []
        broker.start()
        waiting, deadline = messages[10:], time.monotonic() + 60
        while waiting and time.monotonic() < deadline:
            try:
                confirmed = sink.send(waiting)
            except (ConnectionError, TimeoutError):
                continue
            waiting = [m for m in waiting if m.id not in confirmed]
        assert not waiting
        assert {r[2] for r in read(source, 10, 60)} == {b"%d" % i for i in range(10, 20)}
        source.close()
        sink.close()
    finally:
        broker.stop()


def test_no_broker_at_the_start_is_said_clearly() -> None:
    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1:1"):
        KafkaSource("127.0.0.1:1", "g", ["t"], {"bootstrap_timeout_ms": 300})


def test_an_option_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="fetch_max_bites"):
        KafkaSource("127.0.0.1:1", "g", ["t"], {"fetch_max_bites": 1})
    with pytest.raises(ValueError, match="'sticki'; there are cooperative-sticky, range"):
        KafkaSource("127.0.0.1:1", "g", ["t"], {"partition_assignment_strategy": "sticki"})
    with pytest.raises(ValueError, match="ackz"):
        KafkaSink("127.0.0.1:1", {}, {"ackz": 1})
