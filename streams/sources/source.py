"""What every source can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from streams.records import Packed, Partition, RawBatch

Change = Callable[[Sequence[Partition]], None]


class SourceUnavailable(ConnectionError):
    """The source can't be reached at the start; the message says what was tried."""


class Fenced(Exception):
    """Another process owns now what this one owned (it was stopped or cut off meanwhile). It must end, and write nothing more."""


class Source(Protocol):
    """Somewhere records come from. All verbs are called from one thread, and callbacks are called in that thread, inside `poll`."""

    def on_change(self, assigned: Change, revoked: Change, lost: Change | None = None) -> None:
        """Whom to tell of partitions that are ours now, before any of their records; of those that we give up; and of those that were
        taken from us while we were held for dead, which another may own already (`revoked`, when there is no `lost`)."""

    def poll(self, timeout_s: float, max_bytes: int) -> list[RawBatch]:
        """Records that have come, in offset order within a partition; waits up to `timeout_s` when there are none."""
        ...

    def pause(self) -> None:
        """Give nothing until `resume`; membership is kept up by polling."""

    def resume(self) -> None:
        """Go on."""

    def seek(self, partition: Partition, offset: int) -> None:
        """Read that offset next."""

    def lag(self, partition: Partition) -> int | None:
        """Records between our position and the end; None where that is not known yet."""
        ...

    def caught_up(self, partition: Partition) -> bool:
        """Whether the place where records are kept says, now, that we have read all of them; False where it can't be asked."""
        ...

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Tell the source how far we are, for whoever looks there."""

    def close(self) -> None:
        """Give up all partitions and leave."""

    @property
    def lapsed(self) -> bool:
        """Whether others may hold us for dead, and own already what was ours: nothing should be sent meanwhile."""
        ...

    def confirm(self) -> bool:
        """Whether we own, now, what was assigned to us. Raises OSError when that can't be told."""
        ...


def poll_of(source: Any) -> Callable[[float, int], Sequence[RawBatch | Packed]]:
    """How to poll a source so that what comes is unpacked when it is asked for: `packed` where it has that verb, as `poll`."""
    found: Callable[[float, int], Sequence[RawBatch | Packed]] = source.packed if hasattr(source, "packed") else source.poll
    return found


def more_of(source: Any) -> Callable[[int], Sequence[RawBatch | Packed]] | None:
    """How to take what has come since a poll of this source, where it has that verb: `more`, in which no partition changes hands."""
    return getattr(source, "more", None)
