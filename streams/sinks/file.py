"""JSON lines in a file: each message's value as one line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import orjson

from streams.records import Message


class FileSink:
    """Appends to a file, and syncs it before anything counts as delivered. Raises OSError where the file can't be opened or written."""

    def __init__(self, path: Path):
        self._file = open(path, "ab")  # noqa: SIM115 - closed in close()

    def send(self, messages: Sequence[Message]) -> set[str]:
        """Write all, or raise OSError; a part of a line that a full disk cut off is taken back."""
        before = self._file.tell()
        try:
            self._file.write(b"".join(line(m) for m in messages))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError:
            os.truncate(self._file.fileno(), before)
            raise
        return {m.id for m in messages}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def line(message: Message) -> bytes:
    """One line of JSON: the record of a dead letter (its value may be any bytes), the value of everything else."""
    value = orjson.dumps(message.record) if message.kind == "dead_letter" and message.record is not None else message.value
    return value.replace(b"\n", b" ") + b"\n"
