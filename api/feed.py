"""One watch on the store's change number, shared by all live streams: a hundred open consoles cost one small query, four times a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine.store import Store, StoreUnavailable

POLL_S = 0.25
MAX_STREAMS = 100


class ChangeFeed:
    """Wakes streams when something was written. Used from one event loop; `close` may be called from any thread."""

    def __init__(self, store: Store, max_streams: int = MAX_STREAMS):
        self.store = store
        self.max_streams = max_streams
        self.streams = 0
        self.closing = False
        self._latest = -1
        self._changed = asyncio.Condition()
        self._watch: asyncio.Task[None] | None = None

    @property
    def full(self) -> bool:
        """Whether another stream must be refused."""
        return self.streams >= self.max_streams

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[None]:
        """Counts a stream while it is open. The watch runs while there is one."""
        self.streams += 1
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self.streams -= 1

    async def wait(self, after: int, timeout_s: float) -> bool:
        """Until there is a change after that number or the feed closes; False when the time is up first."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self._latest > after or self.closing)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """End all streams, within POLL_S."""
        self.closing = True

    async def _run(self) -> None:
        while self.streams and not self.closing:
            try:
                latest = await asyncio.to_thread(self.store.last_change)
            except StoreUnavailable:
                latest = self._latest  # streams go on with heartbeats, and see what was written once the database is back
            if latest != self._latest:
                self._latest = latest
                await self._wake()
            await asyncio.sleep(POLL_S)
        await self._wake()

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()
