"""Decoding ahead: while detectors fold one batch of a poll, a thread decodes the next. Its loops hold no lock, so a second core does it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from streams.decode import Format, decode
from streams.records import Decoded, RawBatch

LEAST_BYTES = 1 << 18
"""A smaller batch is decoded sooner than a thread takes it up."""


class Ahead:
    """Decodes the batches of a poll in their order, one ahead of the one that was asked for."""

    def __init__(self, formats: Mapping[str, Format]):
        self.formats = formats
        self._coming: deque[RawBatch] = deque()
        self._begun: tuple[RawBatch, Future[Decoded]] | None = None
        self._thread = ThreadPoolExecutor(1, "decode")

    def expect(self, batches: Sequence[RawBatch]) -> None:
        """These will be asked for, as far as they are telemetry."""
        self._coming = deque(raw for raw in batches if raw.partition.topic in self.formats)

    def decoded(self, raw: RawBatch) -> Decoded:
        """Its rows and rejects. Raises what decoding raises."""
        if self._coming and self._coming[0] is raw:
            self._coming.popleft()
        begun, self._begun = self._begun, None
        if self._coming and len((following := self._coming[0]).data) >= LEAST_BYTES:
            self._begun = following, self._thread.submit(decode, following, self.formats[following.partition.topic])
        if begun is not None and begun[0] is raw:
            return begun[1].result()
        return decode(raw, self.formats[raw.partition.topic])

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()
