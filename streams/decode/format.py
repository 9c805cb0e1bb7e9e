"""How the records of one topic are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streams.records import RawBatch, Reject


@dataclass(frozen=True)
class Format:
    """How to read a topic's records.

    `stream`: whose rows they are, for encodings that do not say so themselves (json, arrow, sagemaker, payload logs); None: they say it.
    `encoding`: `auto` looks at each record's headers, then at its content. `principal`: attributes to try, in order, before the
    registry's (`user.id`, `enduser.id`). `max_record_bytes`: a larger record is rejected unread.
    """

    stream: str | None = None
    encoding: str = "auto"
    principal: tuple[str, ...] = ()
    max_record_bytes: int = 16 << 20


def reject(raw: RawBatch, record: int, reason: str, detail: str, row: int = -1) -> Reject:
    """A record of this batch, or one row of it, that can't be used."""
    return Reject(raw.partition, int(raw.offsets[record]), reason, detail, raw.value(record), row)


def reject_all(raw: RawBatch, records: Sequence[int] | np.ndarray, reason: str, detail: str) -> list[Reject]:
    """The same complaint about several records."""
    return [reject(raw, int(i), reason, detail) for i in records]
