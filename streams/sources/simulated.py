"""A source inside the process: producers in other threads put bytes in, the engine polls them as it would poll Kafka."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from streams.records import Partition, RawBatch
from streams.sources.source import Change


@dataclass
class Log:
    """One partition's records from `base` on; those before it are committed and gone."""

    base: int = 0
    position: int = 0
    values: list[bytes] = field(default_factory=list)
    timestamps_ms: list[int] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The offset that the next record gets."""
        return self.base + len(self.values)


class SimulatedSource:
    """One partition per topic. `limit_bytes`: what may wait to be polled; `put` then waits, as a producer does for a broker.

    Records are kept until their offset is committed, so `seek` can go back as far as that.
    """

    def __init__(self, topics: Sequence[str], limit_bytes: int = 64 << 20):
        self.logs = {Partition(topic): Log() for topic in topics}
        self.limit_bytes = limit_bytes
        self.closed = False
        self.paused = False
        self._waiting_bytes = 0
        self._assigned = False
        self._on_assigned: Change = lambda partitions: None
        self._on_revoked: Change = lambda partitions: None
        self._changed = threading.Condition()

    def put(self, topic: str, value: bytes, timestamp_ms: int) -> bool:
        """Append a record; False when the source was closed instead. Raises KeyError for a topic that it does not have."""
        log = self.logs[Partition(topic)]
        with self._changed:
            self._changed.wait_for(lambda: self._waiting_bytes < self.limit_bytes or self.closed)
            if self.closed:
                return False
            log.values.append(value)
            log.timestamps_ms.append(timestamp_ms)
            self._waiting_bytes += len(value)
            self._changed.notify_all()
        return True

    def on_change(self, assigned: Change, revoked: Change, lost: Change | None = None) -> None:
        """Whom to tell of partitions: all are assigned at the first poll, and revoked on closing."""
        self._on_assigned, self._on_revoked = assigned, revoked

    def poll(self, timeout_s: float, max_bytes: int) -> list[RawBatch]:
        """What waits, at most about `max_bytes` of each partition; waits up to `timeout_s` when there is nothing."""
        if not self._assigned:
            self._assigned = True
            self._on_assigned(list(self.logs))
        with self._changed:
            self._changed.wait_for(lambda: self.closed or (self._waiting_bytes and not self.paused), timeout_s)
            return [] if self.paused else [b for p, log in self.logs.items() if (b := self._take(p, log, max_bytes)) is not None]

    def _take(self, partition: Partition, log: Log, max_bytes: int) -> RawBatch | None:
        first = log.position - log.base
        ends = np.cumsum([len(v) for v in log.values[first:]])
        n = max(1, bisect_left(ends, max_bytes)) if len(ends) else 0
        if not n:
            return None
        values = log.values[first : first + n]
        batch = RawBatch.of(
            partition, values, first_offset=log.position, timestamps_ms=np.array(log.timestamps_ms[first : first + n], np.int64)
        )
        log.position += n
        self._waiting_bytes -= int(ends[n - 1])
        self._changed.notify_all()
        return batch

    def pause(self) -> None:
        """Give nothing until `resume`."""
        self.paused = True

    def resume(self) -> None:
        """Go on."""
        self.paused = False

    def lag(self, partition: Partition) -> int | None:
        """Records that wait to be polled."""
        log = self.logs[partition]
        return log.end - log.position

    def caught_up(self, partition: Partition) -> bool:
        """Whether nothing waits to be polled."""
        return self.lag(partition) == 0

    def seek(self, partition: Partition, offset: int) -> None:
        """Poll from that offset next. Raises ValueError when it is gone, or not there yet."""
        log = self.logs[partition]
        with self._changed:
            if not log.base <= offset <= log.end:
                raise ValueError(f"{partition}: offset {offset} is not within [{log.base}, {log.end}]")
            log.position = offset
            self._waiting_bytes = sum(len(v) for g in self.logs.values() for v in g.values[g.position - g.base :])

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Forget what came before these offsets."""
        with self._changed:
            for partition, offset in offsets.items():
                log = self.logs[partition]
                done = min(offset, log.position) - log.base
                del log.values[:done], log.timestamps_ms[:done]
                log.base += max(0, done)

    lapsed = False

    def confirm(self) -> bool:
        """Nobody else can own them."""
        return True

    def close(self) -> None:
        """Wake everybody who waits; nothing more is taken in or given."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
        if self._assigned:
            self._assigned = False
            self._on_revoked(list(self.logs))
