"""What the demo's producers make: bytes for a topic, as a collector would write them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Record:
    """One record. `time_us`: event time of its last row, which is also the time it is stamped with; `rows`: rows inside."""

    topic: str
    time_us: int
    value: bytes
    rows: int
