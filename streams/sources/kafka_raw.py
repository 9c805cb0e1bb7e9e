"""Kafka's record batches (format v2) taken whole: one object a batch instead of one a record, then offsets and bounds by Numba.

This reaches into kafka-python: the fetcher's class that unpacks batches is replaced, for one consumer, by one that yields each batch
decompressed. `install` does so only for the versions it was tested with. Everything else (fetching, positions, checksums, aborted
transactions, control batches) stays the client's own code. A batch that is not as expected (an old format, records that we read
differently) is read by the client's own code too; it is logged and counted.

Batches are decompressed when their records are asked for, one RawBatch after the other, so a thread can do that. Memory is bounded: a
batch that would be more than `BATCH_BYTES` decompressed is refused as one dead letter, and a poll ends when about `POLL_BYTES` have come.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import kafka
import numpy as np
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError, KafkaError
from kafka.protocol.consumer import IsolationLevel
from kafka.record.default_records import DefaultRecordBatch
from numba import njit

from streams.records import Headers, Packed, Partition, RawBatch, Reject
from streams.sources import kafka_frames
from streams.sources.kafka_codecs import TooLargeError, decompressed

log = logging.getLogger(__name__)

SURPRISES = Counter[str]()
"""What the client's own code had to read, by kind, since the process began."""
TESTED = ("3.0.12",)
BATCH_BYTES = 128 << 20
POLL_BYTES, USUAL_RATIO = 64 << 20, 8
"""How much a poll takes of a partition, where compressed bytes count for so many."""
KEPT_BYTES = 900_000
"""Of a batch that is refused."""


def install(consumer: Any) -> bool:
    """Make a consumer yield `Whole` batches; False, and nothing changed, for an untested kafka-python."""
    if kafka.__version__ not in TESTED:
        log.warning("kafka-python %s is not one that raw batches were tested with (%s)", kafka.__version__, ", ".join(TESTED))
        return False
    consumer._fetcher.PartitionRecords = WholeBatches
    kafka_frames.install()
    return True


@dataclass(frozen=True, slots=True)
class Closed:
    """One record batch as it came. `offset` is its last record's, which is what the fetcher compares with the position it asked for;
    `wanted`: the first offset that was asked for."""

    offset: int
    wanted: int
    batch: DefaultRecordBatch

    @property
    def nbytes(self) -> int:
        """Its size, compressed as it may be."""
        return len(self.batch._buffer)

    def open(self) -> Whole:
        """Decompressed, unless it was refused."""
        batch, refused = self.batch, ""
        data = batch._buffer
        if batch.compression_type and not batch._decompressed:
            compressed = memoryview(batch._buffer)[batch._pos :]
            try:
                data = decompressed(compressed, batch.compression_type, BATCH_BYTES)
            except TooLargeError:
                refused, data = f"more than {BATCH_BYTES} bytes when decompressed", bytes(compressed[:KEPT_BYTES])
            except CorruptRecordError as error:
                refused, data = str(error), bytes(compressed[:KEPT_BYTES])
            else:
                batch._buffer, batch._pos, batch._decompressed = data, 0, True
        appended = batch.max_timestamp if batch.timestamp_type == batch.LOG_APPEND_TIME else -1
        return Whole(
            self.offset, batch.base_offset, self.wanted, batch.next_offset, batch.records_count, batch.first_timestamp, appended, data,
            batch._pos, batch, refused,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Whole:
    """One decompressed record batch."""

    offset: int
    first_offset: int
    wanted: int
    """Records before this offset were not asked for: the fetch began in the middle of the batch."""
    next_offset: int
    count: int
    first_timestamp: int
    append_timestamp: int
    """The broker's time for all records, -1 when they have their own."""
    data: bytes | bytearray | memoryview
    start: int
    batch: DefaultRecordBatch
    refused: str = ""
    """Why it can't be read; `data` is then the beginning of what is compressed."""


class WholeBatches(Fetcher.PartitionRecords):
    """What a fetch brought for one partition, batch by batch. Follows the client's own `_unpack_records` but for the records."""

    def take(self, n: int | None = None) -> list[Any]:
        """At most n batches, or so many as make `POLL_BYTES`; then None for the others, so that the client takes no more in this poll."""
        self._maybe_raise_next_inline_exception()
        taken: list[Any] = []
        size = 0
        try:
            for batch in itertools.islice(self.record_iterator, n):
                taken.append(batch)
                size += counted(batch)
                if n is not None and size >= POLL_BYTES:
                    return taken + [None] * (n - len(taken))
        except Exception as error:
            if not taken:
                raise
            self._next_inline_exception = error
        return taken

    def _unpack_records(self, tp: Any, records: Any, key_deserializer: Any, value_deserializer: Any) -> Iterator[Any]:
        last = None
        while (batch := kafka_frames.next_batch(records)) is not None:
            last = batch if batch.magic == 2 else None
            if self.check_crcs and not batch.validate_crc():
                raise CorruptRecordError(f"record batch of {tp} at offset {batch.base_offset} failed its checksum")
            if batch.magic == 2:
                self.leader_epoch = batch.leader_epoch
                if not self._skipped(batch):
                    yield self._closed(batch)
            else:
                surprised(f"a record batch of the old format {batch.magic}", f"{tp} at offset {batch.base_offset}")
                for record in batch:
                    if self.check_crcs and not record.validate_crc():
                        raise CorruptRecordError(f"record of {tp} at offset {record.offset} failed its checksum")
                    self.next_fetch_offset = record.offset + 1
                    yield record
            if last is not None:
                self.next_fetch_offset = last.next_offset
        if last is not None:
            self.next_fetch_offset = last.next_offset
        self.drain()

    def _skipped(self, batch: DefaultRecordBatch) -> bool:
        """Whether it is a marker, or belongs to an aborted transaction."""
        if batch.is_control_batch:
            kafka_frames.readable(batch)
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return batch.is_control_batch

    def _closed(self, batch: DefaultRecordBatch) -> Closed:
        self.records_read += batch.records_count
        self.bytes_read += len(batch._buffer)
        self.next_fetch_offset = batch.next_offset
        return Closed(max(batch.last_offset, batch.base_offset), self.fetch_offset, batch)


def surprised(kind: str, where: str) -> None:
    """Count what was not as expected, and log the first of each kind."""
    SURPRISES[kind] += 1
    if SURPRISES[kind] == 1:
        log.warning("%s: %s; kafka-python's own code reads it, and others of this kind", where, kind)


@njit(nogil=True, cache=True)
def varint(data, at, end):
    """(value, next position) of a zigzag varint; the position is -1 when it does not end before `end`."""
    value, shift = np.uint64(0), np.uint64(0)
    while at < end and shift < np.uint64(64):
        byte = np.uint64(data[at])
        at += 1
        value |= (byte & np.uint64(0x7F)) << shift
        if byte < np.uint64(0x80):
            return np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1)), at
        shift += np.uint64(7)
    return np.int64(0), np.int64(-1)


@njit(nogil=True, cache=True)
def bounds(data, at, base, first_offset, first_timestamp, append_timestamp, starts, ends, offsets, timestamps, headers):
    """Fill where each record's value lies, its offset and time, and where its headers are (-1: none), with `base` more bytes before them.
    Returns the position after the last record, or -1 where the batch is not what it says."""
    end = len(data)
    for i in range(len(starts)):
        length, at = varint(data, at, end)
        if at < 0 or length < 0 or at + length > end:
            return -1
        stop = at + length
        delta, at = varint(data, at + 1, stop)
        if at < 0:
            return -1
        timestamps[i] = append_timestamp if append_timestamp >= 0 else first_timestamp + delta
        delta, at = varint(data, at, stop)
        if at < 0:
            return -1
        offsets[i] = first_offset + delta
        if delta < 0 or (i and offsets[i] <= offsets[i - 1]):
            return -1
        for _ in range(2):  # the key, then the value
            size, at = varint(data, at, stop)
            if at < 0 or at + max(size, 0) > stop:
                return -1
            starts[i] = base + at
            at += max(size, 0)
            ends[i] = base + at
        count, after = varint(data, at, stop)
        if after < 0 or count < 0:
            return -1
        headers[i] = base + at if count else -1
        for part in range(2 * count):  # a name, then a value that may be null
            size, after = varint(data, after, stop)
            if after < 0 or after + max(size, 0) > stop or (size < 0 and part % 2 == 0):
                return -1
            after += max(size, 0)
        if after != stop:
            return -1
        at = stop
    return at


def counted(batch: Any) -> int:
    """Bytes of a batch, or of one of the client's own records, about as many as they become."""
    if isinstance(batch, Closed):
        return batch.nbytes * (USUAL_RATIO if batch.batch.compression_type else 1)
    return len(batch.value or b"")


def packed(partition: Partition, batches: Sequence[Any], max_bytes: int) -> Packed:
    """Record batches that nobody has looked into yet; RawBatches of at most about `max_bytes`."""
    taken = list(itertools.takewhile(lambda batch: batch is not None, batches))  # then the poll was full
    size = sum(b.nbytes if isinstance(b, Closed) else len(b.value or b"") for b in taken)
    return Packed(partition, size, lambda: unpacked(partition, taken, max_bytes))


def raw_batches(partition: Partition, batches: Sequence[Any], max_bytes: int) -> list[RawBatch]:
    """Record batches as RawBatches of at most about `max_bytes`."""
    return list(unpacked(partition, batches, max_bytes))


def unpacked(partition: Partition, batches: Sequence[Any], max_bytes: int) -> Iterator[RawBatch]:
    """The same, each made when it is asked for."""
    group: list[Any] = []
    size = 0
    for batch in batches:
        if batch is None:
            break  # the poll was full
        one: Any = batch.open() if isinstance(batch, Closed) else batch
        whole = isinstance(one, Whole)
        length = len(one.data) if whole else len(one.value or b"")
        alike = bool(group) and isinstance(group[0], Whole) == whole
        if group and not (alike and (not whole or (size + length <= max_bytes and not one.refused))):
            yield from usable(partition, group)
            group, size = [], 0
        group.append(one)
        size = max_bytes if whole and one.refused else size + length
    if group:
        yield from usable(partition, group)


def usable(partition: Partition, group: Sequence[Any]) -> list[RawBatch]:
    """Batches that go together, or the client's own records, as RawBatches that have something to tell."""
    found = read(partition, group) if isinstance(group[0], Whole) else [stock(partition, group, -1, 0)]
    return [raw for raw in found if len(raw) or raw.refused]


def read(partition: Partition, batches: Sequence[Whole]) -> list[RawBatch]:
    """Some record batches, together if they are as expected; else one by one, by the client's own code, or as dead letters."""
    if batches[0].refused:
        return [refusal(partition, batches[0], "too_large" if "when decompressed" in batches[0].refused else "kafka", batches[0].refused)]
    try:
        return [gathered(partition, batches)]
    except CorruptRecordError as error:
        if len(batches) > 1:
            return [raw for batch in batches for raw in read(partition, [batch])]
        surprised("a record batch is not what it says", f"{partition} at offset {batches[0].first_offset} ({error})")
    try:
        records = list(kafka_frames.readable(batches[0].batch))
        if any(b.offset <= a.offset for a, b in itertools.pairwise(records)) or any(r.offset < batches[0].first_offset for r in records):
            raise CorruptRecordError("its records are not in the order of their offsets")
        return [stock(partition, records, batches[0].next_offset, batches[0].wanted)]
    except (KafkaError, ValueError) as error:
        return [refusal(partition, batches[0], "kafka", str(error))]


def gathered(partition: Partition, batches: Sequence[Whole]) -> RawBatch:
    """Some record batches as one RawBatch. Raises CorruptRecordError where one is not what it says."""
    n = sum(b.count for b in batches)
    if any(b.count < 0 or b.count > len(b.data) for b in batches):
        raise CorruptRecordError("it can't have so many records")
    starts, ends, offsets, timestamps, headers = (np.empty(n, np.int64) for _ in range(5))
    row = base = 0
    for batch in batches:
        here = slice(row, row + batch.count)
        buffer = np.frombuffer(memoryview(batch.data).toreadonly(), np.uint8)  # one kind of array, so that Numba compiles once
        part = starts[here], ends[here], offsets[here], timestamps[here], headers[here]
        after = bounds(buffer, batch.start, base, batch.first_offset, batch.first_timestamp, batch.append_timestamp, *part)
        if after != len(buffer):
            raise CorruptRecordError("its records do not end where it ends")
        base += len(buffer)
        row += batch.count
    data = memoryview(batches[0].data if len(batches) == 1 else b"".join(b.data for b in batches)).toreadonly()
    if any(b.first_offset < b.wanted for b in batches):
        early = offsets < np.repeat([b.wanted for b in batches], [b.count for b in batches])
        starts, ends, offsets, timestamps, headers = (a[~early] for a in (starts, ends, offsets, timestamps, headers))
    with_headers = [read_headers(data, at) for at in headers.tolist()] if (headers >= 0).any() else None
    return RawBatch(partition, data, starts, ends, offsets, timestamps, with_headers, next_offset=batches[-1].next_offset)


def refusal(partition: Partition, batch: Whole, reason: str, detail: str) -> RawBatch:
    """A batch that can't be read, as a batch without records and one dead letter."""
    said = f"a record batch of {batch.count} records, offsets {batch.first_offset} to {batch.offset}: {detail}"
    refused = (Reject(partition, batch.first_offset, reason, said, bytes(batch.data[:KEPT_BYTES])),)
    return RawBatch.of(partition, [], next_offset=batch.next_offset, refused=refused)


def stock(partition: Partition, records: Sequence[Any], next_offset: int, wanted: int) -> RawBatch:
    """kafka-python's own records as one batch. A record without a value has an empty one."""
    records = [r for r in records if r.offset >= wanted]
    return RawBatch.of(
        partition,
        [r.value or b"" for r in records],
        offsets=np.fromiter((r.offset for r in records), np.int64, len(records)),
        timestamps_ms=np.fromiter((-1 if r.timestamp is None else r.timestamp for r in records), np.int64, len(records)),
        headers=[tuple((k, v or b"") for k, v in r.headers) for r in records] if any(r.headers for r in records) else None,
        next_offset=next_offset if next_offset >= 0 else int(records[-1].offset) + 1,
    )


def read_headers(data: memoryview, at: int) -> Headers:
    """The headers that stand at a position; none for -1. Raises CorruptRecordError."""
    if at < 0:
        return ()
    buffer = np.frombuffer(data, np.uint8)
    count, at = varint(buffer, at, len(buffer))
    found = []
    for _ in range(count):
        parts = []
        for _ in range(2):
            size, at = varint(buffer, at, len(buffer))
            if at < 0 or at + max(size, 0) > len(buffer):
                raise CorruptRecordError("a record's headers are not what they say")
            parts.append(bytes(data[at : at + max(size, 0)]))
            at += max(size, 0)
        found.append((parts[0].decode("utf-8", "replace"), parts[1]))
    return tuple(found)
