"""Kafka's record batches (format v2) taken whole: one object a batch instead of one a record, then offsets and bounds by Numba.

This reaches into kafka-python: the fetcher's class that unpacks batches is replaced, for one consumer, by one that yields each batch
decompressed. `install` does so only for the versions it was tested with. Everything else (fetching, positions, checksums, aborted
transactions, control batches) stays the client's own code.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import kafka
import numpy as np
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError, KafkaConnectionError
from kafka.net.transport import KafkaTCPTransport
from kafka.protocol.consumer import IsolationLevel
from kafka.record.default_records import DefaultRecordBatch
from numba import njit

from streams.records import Headers, Partition, RawBatch

log = logging.getLogger(__name__)

TESTED = ("3.0.12",)
READ_BYTES = 1 << 18
READS_AT_ONCE = 64


def install(consumer: Any) -> bool:
    """Make a consumer yield `Whole` batches; False, and nothing changed, for an untested kafka-python."""
    if kafka.__version__ not in TESTED:
        log.warning("kafka-python %s is not one that raw batches were tested with (%s)", kafka.__version__, ", ".join(TESTED))
        return False
    consumer._fetcher.PartitionRecords = WholeBatches
    KafkaTCPTransport._sock_recv = large_reads
    return True


def large_reads(transport: Any) -> tuple[bytes, Exception | None]:
    """What waits in the socket, by reads of up to `READ_BYTES` (the client's own are of 4 KiB): large records come 2.5 times as fast."""
    received: list[bytes] = []
    try:
        while len(received) < READS_AT_ONCE and (data := transport._sock.recv(READ_BYTES)):
            received.append(data)
            if len(data) < READ_BYTES:
                break
        else:
            if len(received) < READS_AT_ONCE:
                return b"".join(received), KafkaConnectionError("socket disconnected")
    except (BlockingIOError, InterruptedError):
        pass  # nothing more for now
    except OSError as error:
        return b"".join(received), KafkaConnectionError(error)
    return b"".join(received), None


@dataclass(frozen=True, slots=True)
class Whole:
    """One decompressed record batch. `offset` is its last record's, which is what the fetcher compares with the position it asked for."""

    offset: int
    first_offset: int
    wanted: int
    """Records before this offset were not asked for: the fetch began in the middle of the batch."""
    next_offset: int
    count: int
    first_timestamp: int
    append_timestamp: int
    """The broker's time for all records, -1 when they have their own."""
    data: bytearray
    start: int


class WholeBatches(Fetcher.PartitionRecords):
    """What a fetch brought for one partition, batch by batch. Follows the client's own `_unpack_records` but for the records."""

    def _unpack_records(self, tp: Any, records: Any, key_deserializer: Any, value_deserializer: Any) -> Iterator[Whole]:
        last = None
        while (batch := records.next_batch()) is not None:
            last = batch
            if self.check_crcs and not batch.validate_crc():
                raise CorruptRecordError(f"record batch of {tp} at offset {batch.base_offset} failed its checksum")
            if batch.magic != 2:
                raise CorruptRecordError(f"record batch of {tp} at offset {batch.base_offset} is of the old format {batch.magic}")
            self.leader_epoch = batch.leader_epoch
            if not self._skipped(batch):
                yield self._whole(batch)
            self.next_fetch_offset = batch.next_offset
        if last is not None:
            self.next_fetch_offset = last.next_offset
        self.drain()

    def _skipped(self, batch: DefaultRecordBatch) -> bool:
        """Whether it is a marker, or belongs to an aborted transaction."""
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return batch.is_control_batch

    def _whole(self, batch: DefaultRecordBatch) -> Whole:
        batch._maybe_uncompress()
        self.records_read += batch.records_count
        self.bytes_read += len(batch._buffer)
        self.next_fetch_offset = batch.next_offset
        appended = batch.max_timestamp if batch.timestamp_type == batch.LOG_APPEND_TIME else -1
        return Whole(
            batch.last_offset, batch.base_offset, self.fetch_offset, batch.next_offset, batch.records_count, batch.first_timestamp,
            appended, batch._buffer, batch._pos,
        )  # fmt: skip


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
def bounds(data, at, first_offset, first_timestamp, append_timestamp, starts, ends, offsets, timestamps, headers):
    """Fill where each record's value lies, its offset and time, and where its headers are (-1: none). Returns the position after the
    last record, or -1 where the batch is not what it says."""
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
        for _ in range(2):  # the key, then the value
            size, at = varint(data, at, stop)
            if at < 0 or at + max(size, 0) > stop:
                return -1
            starts[i] = at
            at += max(size, 0)
            ends[i] = at
        count, after = varint(data, at, stop)
        if after < 0 or count < 0 or (count == 0 and after != stop):
            return -1
        headers[i] = at if count else -1
        at = stop
    return at


def raw_batches(partition: Partition, batches: Sequence[Whole], max_bytes: int) -> list[RawBatch]:
    """Record batches as RawBatches of at most about `max_bytes`. Raises CorruptRecordError where one is not what it says."""
    groups: list[list[Whole]] = []
    size = 0
    for batch in batches:
        if groups and size + len(batch.data) <= max_bytes:
            groups[-1].append(batch)
            size += len(batch.data)
        else:
            groups.append([batch])
            size = len(batch.data)
    return [raw for group in groups if len(raw := gathered(partition, group))]


def gathered(partition: Partition, batches: Sequence[Whole]) -> RawBatch:
    """Some record batches as one RawBatch."""
    n = sum(b.count for b in batches)
    starts, ends, offsets, timestamps, headers = (np.empty(n, np.int64) for _ in range(5))
    row = base = 0
    for batch in batches:
        here = slice(row, row + batch.count)
        buffer = np.frombuffer(batch.data, np.uint8)
        part = starts[here], ends[here], offsets[here], timestamps[here], headers[here]
        after = bounds(buffer, batch.start, batch.first_offset, batch.first_timestamp, batch.append_timestamp, *part)
        if after != len(buffer):
            raise CorruptRecordError(f"record batch of {partition} at offset {batch.first_offset} is not what it says")
        starts[here] += base
        ends[here] += base
        headers[here] += np.where(headers[here] >= 0, base, 0)
        base += len(buffer)
        row += batch.count
    data = memoryview(batches[0].data) if len(batches) == 1 else memoryview(b"".join(b.data for b in batches))
    wanted = np.repeat([b.wanted for b in batches], [b.count for b in batches])
    if (early := offsets < wanted).any():
        starts, ends, offsets, timestamps, headers = (a[~early] for a in (starts, ends, offsets, timestamps, headers))
    with_headers = [read_headers(data, at) for at in headers.tolist()] if (headers >= 0).any() else None
    return RawBatch(partition, data, starts, ends, offsets, timestamps, with_headers, next_offset=batches[-1].next_offset)


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
