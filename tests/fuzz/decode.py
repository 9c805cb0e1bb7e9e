"""Fuzzing what reads hostile bytes: `python -m tests.fuzz.decode otlp|json|kafka [libFuzzer's options]`, all three by `make fuzz`.

The fast ways must not fall, must not read past the end, and must say what the slow ways say: OTLP as OpenTelemetry's protobuf classes,
JSON lines as the row-by-row way, whole record batches as kafka-python's own records.
"""

from __future__ import annotations

import json
import sys

import atheris
import numpy as np
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.record.memory_records import MemoryRecords

from streams.decode import Format, decode, json_rows, otlp
from streams.decode import json as fast
from streams.records import Decoded, Partition, RawBatch
from streams.sources import kafka_raw
from tests.streams.decode import test_json as lines
from tests.streams.decode import test_otlp_scan as spans
from tests.streams.sources import test_kafka_raw as batches

LINE = json.dumps(lines.GOOD | {"time": "2026-01-02T03:04:05.25Z", "prompt": "h\u00e9", "feature.age": -1.25e3, "x": None}).encode()
LOG = b"".join(batches.batch_of([(k, k, b"k", b"%d" % k, [("h", None)]) for k in range(3)], codec, 3 * codec) for codec in batches.CODECS)


def otlp_as_protobuf(data: bytes) -> None:
    """The same rows and the same refusals."""
    raw = RawBatch.of(Partition("t"), [data, spans.GOOD])
    decoded = otlp.traces(raw, np.flatnonzero(raw.ends > raw.starts), spans.FORMAT)
    rows, rejected = spans.walked(raw)
    assert sorted(r.offset for r in decoded.rejects) == rejected
    assert spans.table(decoded.rows) == rows


def json_as_rows(data: bytes) -> None:
    """What the scan takes, the slow way gives alike; and no bytes make the decoder fall."""
    values = data.replace(b"\n", b" ").split(b"\r") if data else [b"{}"]
    raw = RawBatch.of(Partition("t"), values)
    taken, odd = fast.scanned(raw, np.flatnonzero(raw.ends > raw.starts), "inference", (("feature.age", False),), len(values) + 2)
    left = set(odd[:, 0].tolist())
    kept = [value for k, value in enumerate(values) if k not in left and value.strip()]
    slow = [json_rows.decode(RawBatch.of(Partition("t"), [value]), np.arange(1), "inference") for value in kept]
    assert not any(part.rejects for part in slow)
    assert [row for _, row in lines.rows(Decoded(taken, []))] == [row for part in slow for _, row in lines.rows(part)]
    decode(raw, Format("hardware"))


def placed(data: bytes) -> bool:
    """Whether the batches' offsets, which the broker gives, can be offsets."""
    records = MemoryRecords(data)
    found = iter(records.next_batch, None)
    return all(batch.magic != 2 or (batch.base_offset >= 0 and batch.last_offset_delta >= 0) for batch in found)


def kafka_as_client(data: bytes) -> None:
    """The client's own records, or a dead letter for a batch; where the client stops at a damaged batch, anything but a fall."""
    place = TopicPartition("t", 0)
    own = Fetcher.PartitionRecords(0, place, MemoryRecords(data), check_crcs=False)
    whole = kafka_raw.WholeBatches(0, place, MemoryRecords(data), check_crcs=False)
    try:
        expected = [(r.offset, r.value or b"") for r in own.take(None)]
        offsets = [offset for offset, _ in expected]  # a batch's own offset is under no checksum either
        clean = own._next_inline_exception is None and placed(data) and offsets == sorted({o for o in offsets if o >= 0})
    except Exception:  # noqa: BLE001 - whatever the client raises of what no checksum held back here
        expected, clean = [], False
    try:
        raws = kafka_raw.raw_batches(Partition("t"), whole.take(None), 1 << 20)
    except Exception:  # noqa: BLE001 - from the client's own reading of a batch's header, or of an old format
        assert not clean
        return
    found = [record[:2] for record in batches.listed(raws)]
    refused = any(raw.refused for raw in raws)
    assert not clean or refused or found == expected
    assert not clean or set(found) <= set(expected)


TARGETS = {"otlp": (otlp_as_protobuf, spans.GOOD), "json": (json_as_rows, LINE), "kafka": (kafka_as_client, LOG)}


def main() -> None:
    target, seed = TARGETS[sys.argv.pop(1)]
    target(seed)  # compiles

    def mutate(data: bytes, most: int, number: int) -> bytes:
        """Bytes changed in what is valid, so that most of it goes on being read."""
        changed = bytearray(data if len(data) > 8 else seed)
        generator = np.random.default_rng(number)
        for _ in range(int(generator.integers(1, 4))):
            if generator.random() < 0.3:
                changed = bytearray(atheris.Mutate(bytes(changed), max(most, len(changed))))[: most or None]
            if changed:
                changed[int(generator.integers(len(changed)))] = int(
                    generator.choice([0, 1, 0x0A, 0x12, 0x22, 0x2C, 0x7F, 0x80, 0xFF, generator.integers(256)])
                )
        return bytes(changed)

    atheris.Setup(sys.argv, target, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
