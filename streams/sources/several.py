"""Several sources as one, for a process that reads Kafka and scrapes as well. Their partitions must have different topics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from streams.records import Packed, Partition, RawBatch, unpacked
from streams.sources.source import Change, Source, poll_of

PART_S = 0.05
"""The longest that one source is waited for while others may have something."""


class SeveralSources:
    """Each verb goes to the source that has the partition, or to all."""

    def __init__(self, sources: Sequence[Source]):
        self.sources = list(sources)
        self.owner: dict[Partition, Source] = {}

    def on_change(self, assigned: Change, revoked: Change, lost: Change | None = None) -> None:
        """Tell of the partitions of all, and remember whose they are."""
        for source in self.sources:

            def came(partitions: Sequence[Partition], source: Source = source) -> None:
                self.owner.update(dict.fromkeys(partitions, source))
                assigned(partitions)

            source.on_change(came, revoked, lost)

    def poll(self, timeout_s: float, max_bytes: int) -> list[RawBatch]:
        """What any has; the waiting is shared out."""
        return list(unpacked(self.packed(timeout_s, max_bytes)))

    def packed(self, timeout_s: float, max_bytes: int) -> list[RawBatch | Packed]:
        """As `poll`, but what came is unpacked when it is asked for."""
        batches: list[RawBatch | Packed] = []
        for source in self.sources:
            batches += poll_of(source)(0.0 if batches else min(timeout_s, PART_S), max_bytes)
        return batches

    def pause(self) -> None:
        """Pause all."""
        for source in self.sources:
            source.pause()

    def resume(self) -> None:
        """Go on with all."""
        for source in self.sources:
            source.resume()

    def seek(self, partition: Partition, offset: int) -> None:
        """Read that offset next."""
        self.owner[partition].seek(partition, offset)

    def lag(self, partition: Partition) -> int | None:
        """As the partition's source has it."""
        return self.owner[partition].lag(partition)

    def caught_up(self, partition: Partition) -> bool:
        """As the partition's source has it."""
        return self.owner[partition].caught_up(partition)

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Tell each of its own."""
        for source in self.sources:
            if own := {p: o for p, o in offsets.items() if self.owner.get(p) is source}:
                source.commit(own)

    def close(self) -> None:
        """Close all."""
        for source in self.sources:
            source.close()

    @property
    def lapsed(self) -> bool:
        """Whether any may be held for dead."""
        return any(source.lapsed for source in self.sources)

    def confirm(self) -> bool:
        """Whether all are ours."""
        return all(source.confirm() for source in self.sources)
