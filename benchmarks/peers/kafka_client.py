"""Clients that do nothing but read, and a producer: `kafka_client.py produce|drop|stock BOOTSTRAP TOPIC COUNT [FILE]`. `produce` and `drop`
are confluent-kafka's, in an environment of its own; `stock` is kafka-python's consumer as it comes."""

from __future__ import annotations

import sys
import time
from pathlib import Path


def produce(bootstrap: str, topic: str, file: str, partitions: int, codec: str) -> None:
    """Write the file's records (4 bytes of length, then the record) to the partitions in turn."""
    from confluent_kafka import Producer

    data = memoryview(Path(file).read_bytes())
    producer = Producer({
        "bootstrap.servers": bootstrap, "linger.ms": 50, "batch.size": 1 << 20, "compression.type": codec, "message.max.bytes": 16 << 20,
        "queue.buffering.max.messages": 2_000_000, "queue.buffering.max.kbytes": 1 << 20,
    })  # fmt: skip
    at = number = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        while True:
            try:
                producer.produce(topic, bytes(data[at + 4 : at + 4 + size]), partition=number % partitions)
                break
            except BufferError:
                producer.poll(0.1)
        at, number = at + 4 + size, number + 1
        if number % 1000 == 0:
            producer.poll(0)
    producer.flush()


def drop(bootstrap: str, topic: str, count: int, partitions: int) -> None:
    """Print records a second from the assignment to the last, and of the second half, of a consumer that does nothing with them."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({
        "bootstrap.servers": bootstrap, "group.id": "drop", "enable.auto.commit": False, "auto.offset.reset": "earliest",
        "fetch.message.max.bytes": 8 << 20, "queued.max.messages.kbytes": 1 << 20, "queued.min.messages": 1_000_000, "check.crcs": True,
    })  # fmt: skip
    seen, started, half = 0, time.perf_counter(), (0, 0.0)
    consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
    while seen < count:
        seen += len(consumer.consume(min(10_000, count - seen), 1.0))
        if not half[0] and 2 * seen >= count:
            half = seen, time.perf_counter()
    ended = time.perf_counter()
    print(seen / (ended - started), (seen - half[0]) / (ended - half[1]))
    consumer.close()


def stock(bootstrap: str, topic: str, count: int, partitions: int) -> None:
    """The same of kafka-python's."""
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, group_id=None, auto_offset_reset="earliest", max_partition_fetch_bytes=4 << 20, fetch_max_bytes=32 << 20,
        receive_buffer_bytes=1 << 20, metrics_enabled=False,
    )  # fmt: skip
    seen, started, half = 0, time.perf_counter(), (0, 0.0)
    consumer.assign([TopicPartition(topic, p) for p in range(partitions)])
    while seen < count:
        seen += sum(map(len, consumer.poll(timeout_ms=1000, max_records=20_000).values()))
        if not half[0] and 2 * seen >= count:
            half = seen, time.perf_counter()
    ended = time.perf_counter()
    print(seen / (ended - started), (seen - half[0]) / (ended - half[1]))
    consumer.close()


if __name__ == "__main__":
    verb, bootstrap, topic = sys.argv[1:4]
    if verb == "produce":
        produce(bootstrap, topic, sys.argv[4], int(sys.argv[5]), sys.argv[6])
    else:
        (drop if verb == "drop" else stock)(bootstrap, topic, int(sys.argv[4]), int(sys.argv[5]))
