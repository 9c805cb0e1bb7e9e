"""What Kafka answers, on its way from the socket to record batches, copied as little as may be: it costs large records most of their time.

kafka-python reads 4 KiB at a time and copies what came six times before a batch is decompressed. Here the rest of a response is read
into the place where the client collects it, parts of it are not copied twice, and a record batch is a view of what was fetched. This
reaches into the client as `kafka_raw` does, for the versions that that one was tested with.
"""

from __future__ import annotations

from typing import Any

import kafka.protocol.parser
from kafka.errors import KafkaConnectionError
from kafka.net.transport import KafkaTCPTransport
from kafka.protocol.frame import KafkaBytes
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords

READ_BYTES = 1 << 16
"""What is read where it is not known yet how much will come: of a response its size and its beginning."""
LARGE_BYTES = 1 << 17
READS_AT_ONCE = 64


def install() -> None:
    """Read responses so in all of the process's clients; what they are told stays the same."""
    KafkaTCPTransport._sock_recv = received
    kafka.protocol.parser.KafkaBytes = Frame


class Frame(KafkaBytes):
    """A response. Large parts are views, which whoever wants bytes copies once."""

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice) and at.start is not None and at.stop is not None and at.stop - at.start >= LARGE_BYTES:
            return memoryview(self)[at]
        return super().__getitem__(at)


def received(transport: Any) -> tuple[bytes, Exception | None]:
    """What waits in the socket, for the client's parser. Of a long response all but the last byte is put where the parser collects it, and
    the parser is told of the rest."""
    parts: list[bytes] = []
    parser = getattr(transport._protocol, "parser", None)
    frame = parser._rbuffer if parser is not None and parser._receiving else None
    try:
        for _ in range(READS_AT_ONCE):
            if frame is not None and not parts and (left := len(frame) - frame.tell() - 1) >= READ_BYTES:
                with memoryview(frame) as whole:
                    size = transport._sock.recv_into(whole[frame.tell() : frame.tell() + left])
                frame.seek(frame.tell() + size)
            else:
                data = transport._sock.recv(READ_BYTES)
                parts.append(data)
                size = len(data)
                if 0 < size < READ_BYTES:
                    break
            if not size:
                return b"".join(parts), KafkaConnectionError("socket disconnected")
    except (BlockingIOError, InterruptedError):
        pass  # nothing more for now
    except OSError as error:
        return b"".join(parts), KafkaConnectionError(error)
    return b"".join(parts), None


def next_batch(records: MemoryRecords) -> Any:
    """The next record batch, None after the last; as the client's own verb, but that it is a view of what was fetched and no copy."""
    part, header = records._next_slice, DefaultRecordBatch.HEADER_STRUCT.size
    if part is None or len(part) < header or part[MemoryRecords.MAGIC_OFFSET] != 2:
        return records.next_batch()
    records._cache_next()
    batch = DefaultRecordBatch(part[:header])
    batch._buffer = part
    return batch


def readable(batch: DefaultRecordBatch) -> DefaultRecordBatch:
    """The batch, so that the client's own code can read its records."""
    if isinstance(batch._buffer, memoryview):
        batch._buffer = bytearray(batch._buffer)
    return batch
