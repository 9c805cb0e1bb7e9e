"""Kafka's codecs, within a limit: what a producer compressed may be larger than memory."""

from __future__ import annotations

import zlib

import lz4.frame
import snappy
import zstandard
from kafka.codec import snappy_decode
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatch


class TooLargeError(Exception):
    """Decompressed, it would be larger than allowed."""


def decompressed(data: bytes, codec: int, limit: int) -> bytes:
    """The bytes behind Kafka's codecs (1 gzip, 2 snappy, 3 lz4, 4 zstd), never more than `limit` of them in memory.

    Raises TooLargeError, CorruptRecordError where they can't be decompressed.
    """
    try:
        if codec == DefaultRecordBatch.CODEC_GZIP:
            out = zlib.decompressobj(wbits=31).decompress(data, limit + 1)
        elif codec == DefaultRecordBatch.CODEC_LZ4:
            out = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=limit + 1)
        elif codec == DefaultRecordBatch.CODEC_ZSTD:
            with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
                out = reader.read(limit + 1)
        elif codec != DefaultRecordBatch.CODEC_SNAPPY:
            raise CorruptRecordError(f"codec {codec} is not known")
        elif snappy_bytes(data) > limit:
            raise TooLargeError
        else:
            out = snappy_decode(data)
    except (zlib.error, RuntimeError, zstandard.ZstdError, snappy.UncompressError, ValueError, EOFError) as error:
        raise CorruptRecordError(f"a record batch can't be decompressed: {error}") from error
    if len(out) > limit:
        raise TooLargeError
    return out


def snappy_bytes(data: bytes) -> int:
    """How large snappy's blocks say that they are; alone, or in the frames of Java's library."""
    if data[:8] != b"\x82SNAPPY\x00":
        return block_bytes(data, 0)
    total, at = 0, 16
    while at + 4 <= len(data):
        total += block_bytes(data, at + 4)
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    return total


def block_bytes(data: bytes, at: int) -> int:
    """The size that stands at the beginning of a block, 7 bits a byte."""
    size = 0
    for shift, byte in enumerate(data[at : at + 5]):
        size |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            break
    return size
