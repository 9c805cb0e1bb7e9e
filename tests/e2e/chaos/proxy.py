"""A TCP proxy between an engine and its broker, that can do what networks do: cut, refuse, stall, delay, drop at random."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from contextlib import suppress

CHUNK = 1 << 16


class Proxy:
    """Listens on a port of its own and forwards to `target`, both on 127.0.0.1. `mode` says what it does with what passes:

    `pass` forward · `cut` close every connection and refuse new ones · `stall` hold everything back, connections stay open (a partition
    as TCP sees it) · `deaf` forward requests, hold answers back · `drop` reset a connection at random · `delay` hold each chunk for `delay_s`
    """

    def __init__(self, seed: int = 0):
        self.mode = "pass"
        self.delay_s, self.drop_share = 0.2, 0.05
        self.connections = 0
        self._random = random.Random(seed)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy {self.port}", daemon=True)

    def start(self, target: int) -> Proxy:
        """Forward to that port from now on."""
        self.target = target
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(10)
        return self

    def set(self, mode: str) -> None:
        """Change what happens to connections, those that are open too."""
        self.mode = mode
        if mode == "cut":
            asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    def close(self) -> None:
        """Cut everything and stop."""
        self.set("cut")
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self) -> None:
        self._server = await asyncio.start_server(self._accept, sock=self._socket)

    async def _cut(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _stop(self) -> None:
        self._server.close()
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        try:
            if self.mode == "cut":
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:  # the broker is down: so is its port
            return
        finally:
            if self.mode == "cut" or "far_writer" not in locals():
                self._open.discard(writer)
                writer.transport.abort()
        self._open.add(far_writer)
        try:
            await asyncio.gather(self._pump(reader, far_writer, "request"), self._pump(far_reader, writer, "answer"))
        finally:
            for one in (writer, far_writer):
                self._open.discard(one)
                one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                while self.mode == "stall" or (self.mode == "deaf" and way == "answer"):
                    await asyncio.sleep(0.05)
                if self.mode == "delay":
                    await asyncio.sleep(self.delay_s)
                if self.mode == "drop" and self._random.random() < self.drop_share:
                    break
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
