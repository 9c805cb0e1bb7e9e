"""Ahead: while detectors fold one batch, a thread unpacks, decodes and checks the next two, of this poll or of the one after it. Its loops
hold no lock, so a second core does it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from engine.schema import checked
from streams.decode import Format, decode
from streams.records import Decoded, Packed, Partition, RawBatch, unpacked
from streams.sources import Source
from streams.sources.source import more_of, poll_of

LEAST_BYTES = 1 << 16
"""A poll that brought less is read sooner than a thread takes it up."""
DEPTH = 2
"""Batches that are read ahead: with one, the thread and the detectors would wait for each other wherever a batch takes longer than most."""
POLL_EVERY_S = 1.0
"""However much comes: a member of a group must look after the group."""
Read = tuple[RawBatch, Decoded | None]
"""A batch with its rows and rejects; None for what is no telemetry."""


class Coming:
    """What a poll brought, on its way to the detectors."""

    def __init__(self, batches: Sequence[RawBatch | Packed]):
        self.partitions = {batch.partition for batch in batches}
        self.large = sum(b.nbytes if isinstance(b, Packed) else len(b.data) for b in batches) >= LEAST_BYTES
        self.raws = unpacked(batches)
        self.begun: deque[Future[Read | None]] = deque()
        """The batches that a thread reads or has read, in their order."""
        self.after: Coming | None = None
        self.read_out = False


class Ahead:
    """Reads the batches of polls in their order, `DEPTH` ahead of the one that was asked for."""

    def __init__(self, formats: Mapping[str, Format]):
        self.formats = formats
        self._thread, self._lock = ThreadPoolExecutor(1, "decode"), threading.Lock()

    def read(self, now: Coming) -> Iterator[Read]:
        """Each batch that came. Raises what unpacking or decoding raises, in its turn."""
        if not now.large and not now.begun:
            while (found := self._next(now.raws)) is not None:
                yield found
            return
        self._begin(now)
        while (found := now.begun.popleft().result()) is not None:
            now.begun.append(self._thread.submit(self._turn, now))
            yield found

    def follow(self, now: Coming, after: Coming) -> None:
        """What will be read next: begun when the last batch of the present poll has been read."""
        now.after = after
        if now.read_out:
            self._begin(after)

    def _begin(self, coming: Coming) -> None:
        with self._lock:
            if coming.large and not coming.begun:
                coming.begun.extend(self._thread.submit(self._turn, coming) for _ in range(DEPTH))

    def _turn(self, now: Coming) -> Read | None:
        """The next batch; where there is none, begin with what comes after."""
        found = self._next(now.raws)
        if found is None:
            now.read_out = True  # first said, then looked: who follows does it the other way round, so one of both begins
            if now.after is not None:
                self._begin(now.after)
        return found

    def _next(self, raws: Iterator[RawBatch]) -> Read | None:
        raw = next(raws, None)
        if raw is None:
            return None
        format = self.formats.get(raw.partition.topic)
        if format is None:
            return raw, None
        decoded = decode(raw, format)
        decoded.rows = [checked(rows) for rows in decoded.rows]
        return raw, decoded

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()


class Intake:
    """Polls a source and reads what comes. Where there is much, what has come meanwhile is taken before the present poll is done with, so
    that the thread always has something to read. Partitions change hands in a true poll alone, and nothing is held in one.

    `polled`: told after each poll how long that took, and of which partitions something is here. `stage`: takes the seconds that were
    waited for each batch.
    """

    def __init__(
        self, source: Source, ahead: Ahead, max_bytes: int, polled: Callable[[float, set[Partition]], None], stage: Callable[[float], None]
    ):
        self.source, self.ahead, self.max_bytes, self.polled, self.stage = source, ahead, max_bytes, polled, stage
        self.coming: Coming | None = None
        """What is held: it is in no state and in no checkpoint yet."""
        self._polled_at = 0.0

    def turn(self, timeout_s: float) -> Iterator[Read]:
        """The batches of one poll, or of what was held."""
        now, self.coming = self.coming or self._poll(timeout_s), None
        more = more_of(self.source) if now.large and time.monotonic() - self._polled_at < POLL_EVERY_S else None
        asked = time.perf_counter()
        for raw, decoded in self.ahead.read(now):
            self.stage(time.perf_counter() - asked)
            if more is not None and self.coming is None and (batches := more(self.max_bytes)):
                self.coming = Coming(batches)
                self.polled(0.0, self.coming.partitions)
                self.ahead.follow(now, self.coming)
            yield raw, decoded
            asked = time.perf_counter()

    def _poll(self, timeout_s: float) -> Coming:
        asked = time.monotonic()
        coming = Coming(poll_of(self.source)(timeout_s, self.max_bytes))
        self._polled_at = time.monotonic()
        self.polled(self._polled_at - asked, coming.partitions)
        return coming
