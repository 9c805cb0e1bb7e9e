"""Kafka's codecs, within a limit: what a producer compressed may be larger than memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

import lz4.frame
import snappy
import zstandard
from kafka.codec import snappy_decode
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatch


class TooLargeError(Exception):
    """Decompressed, it would be larger than allowed."""


STEP_RATIO, LEAST_STEP = 8, 1 << 16
"""What is asked for at a time, in lengths of what came, and at least: the codecs take memory for as much as they are asked for."""


def decompressed(data: bytes | memoryview, codec: int, limit: int) -> bytes:
    """The bytes behind Kafka's codecs (1 gzip, 2 snappy, 3 lz4, 4 zstd), never more than `limit` of them in memory.

    Raises TooLargeError, CorruptRecordError where they can't be decompressed.
    """
    try:
        if codec == DefaultRecordBatch.CODEC_GZIP:
            out = zlib.decompressobj(wbits=31).decompress(data, limit + 1)
        elif codec == DefaultRecordBatch.CODEC_LZ4:
            out = joined(lz4_parts(data, STEP_RATIO * len(data) + LEAST_STEP), limit)
        elif codec == DefaultRecordBatch.CODEC_ZSTD:
            with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
                step = min(STEP_RATIO * len(data) + LEAST_STEP, limit + 1)
                out = joined(iter(lambda: reader.read(step), b""), limit)
        elif codec != DefaultRecordBatch.CODEC_SNAPPY:
            raise CorruptRecordError(f"codec {codec} is not known")
        elif snappy_bytes(data) > limit:
            raise TooLargeError
        else:
            out = snappy_decode(bytes(data))
    except (zlib.error, RuntimeError, zstandard.ZstdError, snappy.UncompressError, ValueError, EOFError) as error:
        raise CorruptRecordError(f"a record batch can't be decompressed: {error}") from error
    if len(out) > limit:
        raise TooLargeError
    return out


def joined(parts: Iterable[bytes], limit: int) -> bytes:
    """All parts as one; none is taken any more once they are longer than `limit`."""
    taken, size = [], 0
    for part in parts:
        taken.append(part)
        size += len(part)
        if size > limit:
            break
    return taken[0] if len(taken) == 1 else b"".join(taken)


def lz4_parts(data: bytes | memoryview, step: int) -> Iterator[bytes]:
    """What the first frame holds, at most `step` bytes at a time; of a frame that is cut off, what is there of it."""
    context, at, ended = lz4.frame.create_decompression_context(), 0, False
    while not ended:
        part, read, ended = lz4.frame.decompress_chunk(context, memoryview(data)[at:], max_length=step)
        if not part and not read:
            break
        at += read
        yield part


def snappy_bytes(data: bytes | memoryview) -> int:
    """How large snappy's blocks say that they are; alone, or in the frames of Java's library."""
    if data[:8] != b"\x82SNAPPY\x00":
        return block_bytes(data, 0)
    total, at = 0, 16
    while at + 4 <= len(data):
        total += block_bytes(data, at + 4)
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    return total


def block_bytes(data: bytes | memoryview, at: int) -> int:
    """The size that stands at the beginning of a block, 7 bits a byte."""
    size = 0
    for shift, byte in enumerate(data[at : at + 5]):
        size |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            break
    return size
