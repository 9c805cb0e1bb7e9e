"""What every sink can do, and what can go wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from streams.records import Message


class Undeliverable(Exception):
    """What can never succeed, however often it is tried: refused credentials, a forbidden topic, an address that is none."""


class Sink(Protocol):
    """Somewhere messages go."""

    def send(self, messages: Sequence[Message]) -> set[str]:
        """Deliver within a bounded time; returns the ids that were confirmed. ConnectionError, TimeoutError, OSError: not now, try
        again. Undeliverable: never."""
        ...

    def close(self) -> None:
        """Let go of connections; what was not confirmed is not delivered."""
