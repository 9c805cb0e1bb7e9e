"""The outbox: everything leaves through it, and nothing is forgotten until every sink that wants it has confirmed it.

One thread per sink sends in order. A sink that is down is tried again with growing pauses and holds nobody else up; what it has
not confirmed stays in the outbox and in the checkpoint. When the outbox is full the engine stops polling.
"""

from __future__ import annotations

import base64
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Any, Protocol

from streams.records import Message

log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.2
RETRY_LIMIT_S = 15.0
SEND_AT_MOST = 500


class Sink(Protocol):
    """Somewhere messages go."""

    def send(self, messages: Sequence[Message], *ticket: Any) -> set[str]:
        """Deliver, and return the ids that were confirmed. ConnectionError, TimeoutError or OSError: not now, try again."""
        ...

    def close(self) -> None: ...


@dataclass
class Entry:
    """One message of one owner (a partition), and the sinks that have still to confirm it."""

    owner: str
    message: Message
    waiting: set[str]
    held: bool = False
    """Not to be sent before a checkpoint holds it."""

    def record(self) -> dict[str, Any]:
        m = self.message
        return {
            "id": m.id, "kind": m.kind, "key": m.key, "value": base64.b64encode(m.value).decode(),
            "headers": [[k, base64.b64encode(v).decode()] for k, v in m.headers], "record": m.record, "waiting": sorted(self.waiting),
        }  # fmt: skip

    @classmethod
    def of(cls, owner: str, record: Mapping[str, Any]) -> Entry:
        headers = tuple((k, base64.b64decode(v)) for k, v in record["headers"])
        message = Message(record["id"], record["kind"], record["key"], base64.b64decode(record["value"]), headers, record["record"])
        return cls(owner, message, set(record["waiting"]))


@dataclass
class Route:
    """A sink, the kinds of message it takes, and what has happened there."""

    name: str
    sink: Sink
    kinds: frozenset[str]
    queue: OrderedDict[tuple[str, str], Entry] = field(default_factory=OrderedDict)
    delivered: dict[str, int] = field(default_factory=dict)
    failures: int = 0
    last_error: str = ""
    thread: threading.Thread | None = None
    ticket: Callable[[], Any] | None = None
    """For a sink that publishes in transactions: under what. Asked at the moment when messages are taken for it."""
    ordered: bool = False
    """Whether what was confirmed after something that was not is sent again behind it."""


class Outbox:
    """Messages on their way. `put` queues; `pending(owner)` is what a checkpoint must keep.

    With `threads=False` nothing is sent until `flush`, which then sends in the caller's thread (backtests and tests). `allowed`: asked
    before each attempt to send; a process that its group may hold for dead sends nothing.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        limit: int = 100_000,
        threads: bool = True,
        allowed: Callable[[], bool] = lambda: True,
        limit_bytes: int = 64 << 20,
    ):
        self.routes = {r.name: r for r in routes}
        self.limit, self.limit_bytes = limit, limit_bytes
        self.bytes = 0
        """Of the values of messages that at least one sink has not confirmed."""
        self.allowed = allowed
        self.entries: dict[str, OrderedDict[str, Entry]] = {}
        self.fault: BaseException | None = None
        self._lock = threading.Condition()
        self._closing = False
        self._held: list[Entry] = []
        for route in routes if threads else ():
            route.thread = threading.Thread(target=self._run, args=(route,), name=f"sink {route.name}", daemon=True)
            route.thread.start()

    def put(self, owner: str, messages: Sequence[Message], held: bool = False) -> None:
        """Queue messages of one owner for every sink that takes their kind. One that is queued already is not queued twice.

        `held` ones wait for `release_held`: what must be on disk as an intent before the world hears of it.
        """
        if messages:  # else no sink is woken
            self._queue([Entry(owner, m, {r.name for r in self.routes.values() if m.kind in r.kinds}, held) for m in messages])

    def release_held(self) -> None:
        """A checkpoint has been written: everything may go."""
        with self._lock:
            for entry in self._held:
                entry.held = False
                self._enqueue(entry)
            self._held.clear()
            self._lock.notify_all()

    def restore(self, owner: str, records: Sequence[Mapping[str, Any]]) -> None:
        """Take back what a checkpoint held; sinks that are no longer configured are dropped from it, with a line in the log."""
        entries = [Entry.of(owner, r) for r in records]
        for entry in entries:
            if gone := entry.waiting - self.routes.keys():
                log.warning("message %s was waiting for %s, no longer configured", entry.message.id, ", ".join(sorted(gone)))
                entry.waiting -= gone
        self._queue(entries)

    def pending(self, owner: str) -> list[dict[str, Any]]:
        """Undelivered messages of one owner, as plain data, in order."""
        with self._lock:
            return [e.record() for e in self.entries.get(owner, {}).values()]

    def forget(self, owner: str) -> None:
        """Drop an owner's messages: the partition went elsewhere, its checkpoint has them."""
        with self._lock:
            self._held = [e for e in self._held if e.owner != owner]
            for message_id, entry in self.entries.pop(owner, OrderedDict[str, Entry]()).items():
                self.bytes -= len(entry.message.value)
                for route in self.routes.values():
                    route.queue.pop((owner, message_id), None)

    @property
    def size(self) -> int:
        """Messages that at least one sink has not confirmed."""
        return sum(len(e) for e in self.entries.values())

    @property
    def full(self) -> bool:
        """Whether the engine should stop polling."""
        return self.size >= self.limit or self.bytes >= self.limit_bytes

    def check(self) -> None:
        """Raise what a sink's thread died of, if one did."""
        if self.fault is not None:
            raise self.fault

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything is delivered, or the time is up; whether it is."""
        for route in self.routes.values():
            if route.thread is None:
                while route.queue and self._send(route):
                    pass
        with self._lock:
            self._lock.wait_for(lambda: not self.size or self.fault is not None, timeout_s)
        self.check()
        return not self.size

    def close(self) -> None:
        """Stop the threads and close the sinks. What is undelivered stays in the checkpoint."""
        with self._lock:
            self._closing = True
            self._lock.notify_all()
        for route in self.routes.values():
            if route.thread is not None:
                route.thread.join(timeout=RETRY_LIMIT_S)
            route.sink.close()

    def _queue(self, entries: Sequence[Entry]) -> None:
        with self._lock:
            for entry in entries:
                mine = self.entries.setdefault(entry.owner, OrderedDict())
                if not entry.waiting or entry.message.id in mine:
                    continue
                mine[entry.message.id] = entry
                self.bytes += len(entry.message.value)
                if entry.held:
                    self._held.append(entry)
                else:
                    self._enqueue(entry)
            self._lock.notify_all()

    def _enqueue(self, entry: Entry) -> None:
        for name in entry.waiting:
            self.routes[name].queue[(entry.owner, entry.message.id)] = entry

    def _run(self, route: Route) -> None:
        pause = RETRY_FIRST_S
        while True:
            with self._lock:
                self._lock.wait_for(lambda: route.queue or self._closing)
                if self._closing:
                    return
                if not self.allowed():
                    self._lock.wait_for(lambda: self._closing, RETRY_FIRST_S)
                    continue
            try:
                sent = self._send(route)
            except BaseException as fault:  # noqa: BLE001 - handed to the main thread, which ends the process with it
                with self._lock:
                    self.fault = fault
                    self._lock.notify_all()
                return
            if sent:
                pause = RETRY_FIRST_S
                continue
            with self._lock:
                self._lock.wait_for(lambda: self._closing, pause)
            pause = min(RETRY_LIMIT_S, pause * 2)

    def _send(self, route: Route) -> bool:
        """Try the oldest messages of a route; whether any was confirmed."""
        with self._lock:
            batch = list(islice(route.queue.items(), SEND_AT_MOST))
            tickets = () if route.ticket is None else (route.ticket(),)
        try:
            confirmed = route.sink.send([entry.message for _, entry in batch], *tickets)
        except (ConnectionError, TimeoutError, OSError) as error:
            route.failures += 1
            if str(error) != route.last_error:
                log.warning("sink %s: %s; %d messages wait", route.name, error, len(route.queue))
            route.last_error = str(error)
            return False
        route.last_error = ""
        if route.ordered:
            confirmed = {entry.message.id for _, entry in takewhile(lambda item: item[1].message.id in confirmed, list(batch))}
        with self._lock:
            for key, entry in batch:
                if entry.message.id in confirmed and route.queue.pop(key, None) is not None:
                    route.delivered[entry.message.kind] = route.delivered.get(entry.message.kind, 0) + 1
                    entry.waiting.discard(route.name)
                    mine = self.entries.get(entry.owner)
                    if not entry.waiting and mine is not None and mine.pop(entry.message.id, None) is not None:
                        self.bytes -= len(entry.message.value)
            self._lock.notify_all()
        return bool(confirmed)
