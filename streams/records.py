"""What travels between a source, the decoders and a sink: plain records, no behaviour.

A record's position is its `Partition` and offset. Offsets grow by one or more from record to record (a compacted or transactional
topic has gaps), and one record may decode to many rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, order=True)
class Partition:
    """One ordered log: a Kafka topic's partition, or a file."""

    topic: str
    number: int = 0

    def __str__(self) -> str:
        return f"{self.topic}-{self.number}"


@dataclass(frozen=True)
class RawBatch:
    """Undecoded records of one partition, in offset order: one buffer and where each value lies in it.

    `starts`, `ends`: int64[n], byte positions of each value in `data`. `offsets`: int64[n]. `timestamps_ms`: int64[n], as the
    broker has them (-1: none). `headers`: one sequence per record, or None when no record has any.
    """

    partition: Partition
    data: bytes | memoryview
    starts: np.ndarray
    ends: np.ndarray
    offsets: np.ndarray
    timestamps_ms: np.ndarray
    headers: Sequence[Headers] | None = None
    next_offset: int = -1
    """Where the source goes on after this batch; past the last offset where a log has gaps."""
    refused: Sequence[Reject] = ()
    """What the source could not take in at all, for the dead letters."""

    def __len__(self) -> int:
        return len(self.offsets)

    def value(self, i: int) -> bytes:
        """The bytes of record `i` (a copy)."""
        return bytes(self.data[self.starts[i] : self.ends[i]])

    @property
    def resume_at(self) -> int:
        """The offset to read next once this whole batch is accounted for."""
        return self.next_offset if self.next_offset >= 0 else int(self.offsets[-1]) + 1

    @classmethod
    def of(
        cls,
        partition: Partition,
        values: Sequence[bytes],
        *,
        first_offset: int = 0,
        offsets: np.ndarray | None = None,
        timestamps_ms: np.ndarray | None = None,
        headers: Sequence[Headers] | None = None,
        next_offset: int = -1,
        refused: Sequence[Reject] = (),
    ) -> RawBatch:
        """Gather separate values into one buffer.

        >>> batch = RawBatch.of(Partition("t"), [b"a", b"bc"], first_offset=7)
        >>> batch.value(1), batch.offsets.tolist(), batch.resume_at
        (b'bc', [7, 8], 9)
        """
        ends = np.cumsum(np.fromiter((len(v) for v in values), np.int64, len(values)), dtype=np.int64)
        starts = np.concatenate([np.zeros(min(1, len(values)), np.int64), ends[:-1]])
        if offsets is None:
            offsets = np.arange(first_offset, first_offset + len(values), dtype=np.int64)
        if timestamps_ms is None:
            timestamps_ms = np.full(len(values), -1, np.int64)
        data = values[0] if len(values) == 1 else b"".join(values)
        return cls(partition, data, starts, ends, offsets, timestamps_ms, headers, next_offset, refused)


@dataclass(frozen=True)
class Packed:
    """Records of one partition as they came, `nbytes` of them, perhaps compressed. `unpack`: makes them batches, in offset order, one at a
    time and whenever that is asked for, in any thread; so no more of them than one needs be in memory unpacked."""

    partition: Partition
    nbytes: int
    unpack: Callable[[], Iterator[RawBatch]]


def unpacked(batches: Iterable[RawBatch | Packed]) -> Iterator[RawBatch]:
    """Batches in their order, each unpacked when it is asked for."""
    for batch in batches:
        if isinstance(batch, Packed):
            yield from batch.unpack()
        else:
            yield batch


@dataclass(frozen=True)
class Reject:
    """A record, or one row of it, that can't be used. It goes to the dead-letter topic; the other rows go on.

    `reason` is a short code that is counted (`json`, `protobuf`, `schema`, `format`, `too_large`, `time`, `type`, ...);
    `detail` names the field, byte position or value. `row`: the row inside the record, -1 when the whole record is meant.
    """

    partition: Partition
    offset: int
    reason: str
    detail: str
    value: bytes
    row: int = -1


@dataclass(frozen=True)
class Rows:
    """Decoded rows of one stream. `table` has the stream's columns, as far as the producer sent them (not yet checked or cast);
    `offsets`: int64[rows], the record each row came from, ascending."""

    stream: str
    table: pa.RecordBatch
    offsets: np.ndarray


@dataclass
class Decoded:
    """All that a raw batch held: rows by stream, and what was rejected."""

    rows: list[Rows] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


@dataclass(frozen=True)
class Message:
    """Something to deliver. `id` is deterministic, so that a replay repeats it and a consumer can drop the repeat.

    `kind`: alert, trigger, dead_letter; `key` orders messages of one alert in a Kafka topic; `value` is the JSON or original bytes;
    `record` is the same thing as plain data for sinks that render it themselves (store, webhook, Alertmanager).
    """

    id: str
    kind: str
    key: str
    value: bytes
    headers: Headers = ()
    record: dict | None = None
