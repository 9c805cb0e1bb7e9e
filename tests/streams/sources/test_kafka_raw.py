"""Whole record batches against kafka-python's own records, from the same bytes of a fetch: no broker needed."""

from __future__ import annotations

import struct
import zlib
from types import SimpleNamespace

import lz4.frame
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.codec import snappy_encode
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.protocol.consumer import IsolationLevel
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.legacy_records import LegacyRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords
from kafka.record.util import calc_crc32c

from streams.decode import Format, decode
from streams.records import Partition, RawBatch
from streams.sources import kafka_raw

PLACE = TopicPartition("t", 0)
CODECS = (0, 1, 2, 3, 4)
BYTES = st.none() | st.binary(max_size=30)
HEADERS = st.lists(st.tuples(st.text(max_size=5), BYTES), max_size=2)
RECORD = st.tuples(st.integers(0, 3), st.integers(0, 5000), BYTES, BYTES, HEADERS)


def batch_of(
    records: list, codec: int = 0, base: int = 0, producer: int = -1, transactional: bool = False, last: int | None = None
) -> bytes:
    """A v2 batch whose records have these offset deltas; `last` as after compaction, beyond the records that are left."""
    builder = DefaultRecordBatchBuilder(2, codec, transactional, producer, 0 if producer >= 0 else -1, 0 if producer >= 0 else -1, 1 << 30)
    for delta, time, key, value, headers in records:
        builder.append(delta, 1_000_000 + time, key, value, headers)
    out = bytearray(builder.build())
    struct.pack_into(">q", out, 0, base)
    if last is not None:
        struct.pack_into(">i", out, 23, last)
        struct.pack_into(">I", out, 17, calc_crc32c(memoryview(out)[21:]))
    return bytes(out)


def marker(base: int, producer: int, abort: bool) -> bytes:
    """A control batch that ends a transaction."""
    out = bytearray(batch_of([(0, 0, struct.pack(">hh", 0, 0 if abort else 1), b"\0" * 6, [])], 0, base, producer, True))
    struct.pack_into(">h", out, 21, struct.unpack_from(">h", out, 21)[0] | 0x20)
    struct.pack_into(">I", out, 17, calc_crc32c(memoryview(out)[21:]))
    return bytes(out)


@st.composite
def logs(draw: st.DrawFn) -> tuple[bytes, list[SimpleNamespace], int]:
    """(bytes of a fetch, aborted transactions, the offset asked for): all codecs, gaps, empty batches, transactions, markers, old formats."""
    out, aborted, base, open_since = bytearray(), [], draw(st.integers(0, 10)), {}
    for _ in range(draw(st.integers(1, 6))):
        deltas, records = 0, []
        for step, time, key, value, headers in draw(st.lists(RECORD, max_size=5)):
            records.append((deltas, time, key, value, headers))
            deltas += 1 + step
        producer = draw(st.sampled_from([-1, -1, 7, 8]))
        if producer >= 0 and producer in open_since and draw(st.booleans()):
            abort = draw(st.booleans())
            if abort:
                aborted.append(SimpleNamespace(producer_id=producer, first_offset=open_since[producer]))
            del open_since[producer]
            out += marker(base, producer, abort)
            base += 1
        elif draw(st.integers(0, 9)) == 0 and records:
            old = LegacyRecordBatchBuilder(1, 0, 1 << 30)
            for k, (_, time, key, value, _) in enumerate(records):
                old.append(base + k, 1_000_000 + time, key, value)
            out += old.build()
            base += len(records)
        else:
            if producer >= 0:
                open_since.setdefault(producer, base)
            last = deltas + draw(st.integers(0, 2))
            out += batch_of(records, draw(st.sampled_from(CODECS)), base, producer, producer >= 0, last)
            base += last + 1
    return bytes(out), aborted, draw(st.integers(0, base))


def unpacked(kind: type, log: bytes, aborted: list, wanted: int, isolation: int, n: int | None = None) -> tuple[list, int]:
    part = kind(wanted, PLACE, MemoryRecords(log), isolation_level=isolation, aborted_transactions=aborted)
    return part.take(n), part.next_fetch_offset


def listed(batches: list[RawBatch]) -> list[tuple]:
    return [
        (int(raw.offsets[i]), raw.value(i), int(raw.timestamps_ms[i]), tuple(raw.headers[i]) if raw.headers else ())
        for raw in batches
        for i in range(len(raw))
    ]


@settings(max_examples=300, deadline=None)
@given(logs(), st.sampled_from([IsolationLevel.READ_UNCOMMITTED, IsolationLevel.READ_COMMITTED]), st.sampled_from([1, 200, 1 << 20]))
def test_whole_batches_hold_the_clients_own_records(log: tuple, isolation: int, max_bytes: int) -> None:
    own, own_next = unpacked(Fetcher.PartitionRecords, *log, isolation)
    whole, whole_next = unpacked(kafka_raw.WholeBatches, *log, isolation)
    expected = [(r.offset, r.value or b"", r.timestamp, tuple((k, v or b"") for k, v in r.headers)) for r in own]
    found = kafka_raw.raw_batches(Partition("t"), whole, max_bytes)
    assert listed(found) == expected
    assert whole_next == own_next
    assert all(raw.resume_at > int(raw.offsets[-1]) for raw in found)


def test_a_surprise_is_read_by_the_clients_own_code_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    log = batch_of([(k, k, None, b"%d" % k, []) for k in range(5)], 4, base=10)
    whole, _ = unpacked(kafka_raw.WholeBatches, log, [], 12, IsolationLevel.READ_UNCOMMITTED)
    expected = listed(kafka_raw.raw_batches(Partition("t"), whole, 1 << 20))
    whole, _ = unpacked(kafka_raw.WholeBatches, log, [], 12, IsolationLevel.READ_UNCOMMITTED)
    monkeypatch.setattr(kafka_raw, "bounds", lambda *arguments: -1)
    before = kafka_raw.SURPRISES.total()
    assert listed(kafka_raw.raw_batches(Partition("t"), whole, 1 << 20)) == expected and len(expected) == 3
    assert kafka_raw.SURPRISES.total() == before + 1


def test_a_batch_that_nobody_can_read_is_a_dead_letter() -> None:
    log = bytearray(batch_of([(0, 0, None, b"value", [("h", b"x")])], 0, base=4) + batch_of([(0, 0, None, b"next", [])], 0, base=5))
    log[61 + 12] = 0x7E  # the header's key says that it is longer than the record
    struct.pack_into(">I", log, 17, calc_crc32c(memoryview(log)[21 : 12 + struct.unpack_from(">i", log, 8)[0]]))
    whole, position = unpacked(kafka_raw.WholeBatches, bytes(log), [], 0, IsolationLevel.READ_UNCOMMITTED)
    raws = kafka_raw.raw_batches(Partition("t"), whole, 1 << 20)
    assert [r[:2] for r in listed(raws)] == [(5, b"next")] and position == 6
    assert [(r.offset, r.reason) for raw in raws for r in raw.refused] == [(4, "kafka")]


def test_a_damaged_batch_is_refused_by_its_checksum() -> None:
    log = bytearray(batch_of([(0, 0, None, b"value", [])]))
    log[-3] ^= 1
    with pytest.raises(CorruptRecordError, match="offset 0"):
        unpacked(kafka_raw.WholeBatches, bytes(log), [], 0, IsolationLevel.READ_UNCOMMITTED)


@pytest.mark.parametrize("codec", CODECS[1:])
def test_a_bomb_is_a_dead_letter_and_its_neighbours_are_read(codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_raw, "BATCH_BYTES", 1 << 20)
    good = [batch_of([(0, 0, None, b'{"time": 1}', [])], codec, base) for base in (0, 9)]
    bomb = batch_of([(k, 0, None, bytes(1 << 20), []) for k in range(4)], codec, base=1, last=7)
    whole, position = unpacked(kafka_raw.WholeBatches, good[0] + bomb + good[1], [], 0, IsolationLevel.READ_UNCOMMITTED)
    raws = kafka_raw.raw_batches(Partition("t"), whole, 1 << 20)
    assert [r[0] for r in listed(raws)] == [0, 9] and position == 10
    (reject,) = [r for raw in raws for r in decode(raw, Format("inference")).rejects if raw.refused]
    assert (reject.offset, reject.reason) == (1, "too_large") and "offsets 1 to 8" in reject.detail


@pytest.mark.parametrize(
    ("codec", "compress"), [(1, lambda d: zlib.compress(d, wbits=31)), (2, snappy_encode), (3, lz4.frame.compress), (4, zstandard.compress)]
)
@pytest.mark.parametrize("size", [1000, 3 << 20])  # in one step, and in several
def test_no_more_than_the_limit_is_decompressed(codec: int, compress, size: int) -> None:
    data = bytes(size)
    assert kafka_raw.decompressed(memoryview(compress(data)), codec, size) == data
    with pytest.raises(kafka_raw.TooLargeError):
        kafka_raw.decompressed(memoryview(compress(data)), codec, size - 1)
    with pytest.raises(CorruptRecordError):
        kafka_raw.decompressed(b"\x05nonsense" * 3, codec, 1000)


@pytest.mark.parametrize("codec", [0, 4])
def test_a_poll_ends_when_enough_has_come(codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = [batch_of([(0, 0, None, bytes(400), [])], codec, base) for base in range(10)]
    usual = kafka_raw.USUAL_RATIO if codec else 1  # of what is compressed, what it may become
    monkeypatch.setattr(kafka_raw, "POLL_BYTES", 2 * usual * len(logs[0]) + 1)
    log = b"".join(logs)
    part = kafka_raw.WholeBatches(0, PLACE, MemoryRecords(log))
    polls = []
    while part:
        taken = part.take(50)
        assert len(taken) == 50 or not part
        polls.append([r[0] for r in listed(kafka_raw.raw_batches(Partition("t"), taken, 1 << 20))])
    assert polls[0] == [0, 1, 2] and [offset for poll in polls for offset in poll] == list(range(10))


def test_the_batch_type_is_as_expected() -> None:
    """What `WholeBatches` uses of the client's private parts."""
    batch = DefaultRecordBatch(batch_of([(0, 0, None, b"v", [])]))
    assert batch._pos == DefaultRecordBatch.HEADER_STRUCT.size and not batch._decompressed
