"""The store as a sink: the outbox delivers alerts to it as to any other."""

from __future__ import annotations

import time
from collections.abc import Sequence

from engine.store import Store
from streams.records import Message

DAY_S = 86_400
PRUNE_EVERY_S = 3_600


class StoreSink:
    """Writes alert messages to the store. `retention_days`: how long resolved alerts are kept after their last version (None: for ever)."""

    def __init__(self, store: Store, retention_days: float | None = None):
        self.store = store
        self.retention_days = retention_days
        self._pruned_at = -float("inf")

    def send(self, messages: Sequence[Message]) -> set[str]:
        """Write and confirm; one transaction for all. Raises StoreUnavailable (a ConnectionError): not now."""
        self.store.upsert([m.record for m in messages if m.record is not None])
        if self.retention_days is not None and time.monotonic() - self._pruned_at > PRUNE_EVERY_S:
            self.store.prune(int((time.time() - self.retention_days * DAY_S) * 1e6))
            self._pruned_at = time.monotonic()
        return {m.id for m in messages}

    def close(self) -> None:
        """The store is closed by whoever opened it: the API reads it too."""
