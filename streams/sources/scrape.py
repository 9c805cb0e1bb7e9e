"""Scraping: HTTP targets that answer with Prometheus text (exporters, vLLM, SGLang, Triton Inference Server), for those without a
collector.

What is promised: a target is asked every `interval_s`; its answer, or that there was none (`up` 0), is one record with the time at which
it was complete. There is nothing to seek in: what was scraped after the last checkpoint is gone when the process dies, and a restart goes
on with new scrapes; counters bridge the gap. A target that is down, too slow, too large or no Prometheus is `up` 0, never a fault.
"""

from __future__ import annotations

import http.client
import logging
import ssl
import threading
import time
import urllib.request
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np
import orjson

from streams.decode.prometheus import LABELS_HEADER
from streams.records import Headers, Partition, RawBatch
from streams.sources.source import Change

log = logging.getLogger(__name__)

ACCEPT = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
WAITING_BYTES = 64 << 20
THREADS = 32
TICK_S = 0.05
PIECE_BYTES = 64 << 10


@dataclass(frozen=True)
class Target:
    """One address. `labels`: of all its samples, `instance` is HOST:PORT unless they say other; `headers`: asked for before each scrape,
    so that a secret may rotate; `tls`: for https."""

    url: str
    labels: Mapping[str, str] = field(default_factory=dict)
    headers: Callable[[], Mapping[str, str]] = dict
    interval_s: float = 15.0
    timeout_s: float = 5.0
    tls: ssl.SSLContext | None = None

    @property
    def name(self) -> str:
        """HOST:PORT."""
        return urlsplit(self.url).netloc.rpartition("@")[2]


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect might carry the headers to somebody else; it counts as no answer."""

    def redirect_request(self, *args: object) -> None:  # type: ignore[override]
        return None


class ScrapeSource:
    """Targets as one partition. Scrapes go on in threads of their own; at most `WAITING_BYTES` of answers wait to be polled, and while
    they do, or the source is paused, targets are not asked. What a `headers` raises, `poll` raises. Raises ValueError for an address that
    is none.
    """

    def __init__(self, targets: Sequence[Target], name: str = "scrape", max_bytes: int = 16 << 20):
        for target in targets:
            if urlsplit(target.url).scheme not in ("http", "https") or not urlsplit(target.url).hostname:
                raise ValueError(f"{target.url!r} is not an http or https address")
        self.partition = Partition(name)
        self.max_bytes = max_bytes
        self._waiting: deque[tuple[bytes, int, Headers]] = deque()
        self._waiting_bytes = 0
        self._offset = 0
        self._changed = threading.Condition()
        self._paused = self._closed = self._told = False
        self._fault: BaseException | None = None
        self._trouble: dict[int, str] = {}
        self._busy: set[int] = set()
        self._targets = list(targets)
        self._pool = ThreadPoolExecutor(min(THREADS, max(1, len(targets))), thread_name_prefix="scrape")
        self._thread = threading.Thread(target=self._schedule, name="scrape", daemon=True)
        self._on_assigned: Change = lambda partitions: None
        self._on_revoked: Change = lambda partitions: None

    def on_change(self, assigned: Change, revoked: Change, lost: Change | None = None) -> None:
        """Whom to tell of the one partition: assigned at the first poll, revoked on closing; it is never lost."""
        self._on_assigned, self._on_revoked = assigned, revoked

    def poll(self, timeout_s: float, max_bytes: int) -> list[RawBatch]:
        """Answers that have come, at most about `max_bytes`."""
        if not self._told:
            self._told = True
            self._on_assigned([self.partition])
            self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._fault or self._closed or (self._waiting and not self._paused), timeout_s)
            if self._fault is not None:
                raise self._fault
            taken: list[tuple[bytes, int, Headers]] = []
            size = 0
            while self._waiting and not self._paused and (not taken or size + len(self._waiting[0][0]) <= max_bytes):
                taken.append(self._waiting.popleft())
                size += len(taken[-1][0])
            self._waiting_bytes -= size
        if not taken:
            return []
        values, stamps, headers = zip(*taken, strict=True)
        first, self._offset = self._offset, self._offset + len(taken)
        stamps_ms = np.array(stamps, np.int64)
        return [RawBatch.of(self.partition, values, first_offset=first, timestamps_ms=stamps_ms, headers=headers)]

    def pause(self) -> None:
        """Ask nobody until `resume`."""
        self._paused = True

    def resume(self) -> None:
        """Go on."""
        self._paused = False

    def seek(self, partition: Partition, offset: int) -> None:
        """Number the next scrape so; those before it are gone."""
        self._offset = offset

    def lag(self, partition: Partition) -> int | None:
        """Answers that wait to be polled."""
        return len(self._waiting)

    def caught_up(self, partition: Partition) -> bool:
        """Whether none waits; while it is paused nobody was asked, so that nothing comes means nothing."""
        return not self._waiting and not self._paused

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Nobody keeps offsets."""

    lapsed = False

    def confirm(self) -> bool:
        """The targets are this process's own."""
        return True

    def close(self) -> None:
        """Ask nobody any more, and give the partition back."""
        with self._changed:
            closed, self._closed = self._closed, True
            self._changed.notify_all()
        if closed:
            return
        if self._thread.ident is not None:
            self._thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._told:
            self._told = False
            self._on_revoked([self.partition])

    def _schedule(self) -> None:
        """Hand out what is due. First scrapes are spread over an interval, always alike for a target."""
        due = [time.monotonic() + t.interval_s * (zlib.crc32(t.url.encode()) % 997) / 997 for t in self._targets]
        while not self._closed:
            now = time.monotonic()
            for k, target in enumerate(self._targets):
                if due[k] > now:
                    continue
                due[k] = max(due[k] + target.interval_s, now)
                if k not in self._busy and not self._paused and self._waiting_bytes < WAITING_BYTES:
                    self._busy.add(k)
                    self._pool.submit(self._ask, k, target)
            with self._changed:
                self._changed.wait_for(lambda: self._closed, TICK_S)

    def _ask(self, k: int, target: Target) -> None:
        """One scrape, whatever comes of it; a fault of ours is raised by `poll`."""
        try:
            record = self._scraped(k, target)
        except BaseException as fault:  # noqa: BLE001 - raised again by poll
            with self._changed:
                self._fault = fault
                self._changed.notify_all()
            return
        with self._changed:
            self._waiting.append((record[0], int(time.time() * 1000), record[1]))
            self._waiting_bytes += len(record[0])
            self._busy.discard(k)
            self._changed.notify_all()

    def _scraped(self, k: int, target: Target) -> tuple[bytes, Headers]:
        """The record of one scrape."""
        started, problem = time.monotonic(), ""
        headers = target.headers()
        try:
            body, kind = answer(target, headers, self.max_bytes)
        except (OSError, http.client.HTTPException, ValueError) as error:
            body, kind, problem = b"", b"text/plain; version=0.0.4", f"{getattr(error, 'reason', error)}"
        if problem != self._trouble.get(k, ""):
            self._trouble[k] = problem
            log.warning("scrape of %s: %s", target.name, problem or "answers again")
        value = b"%s\nup %d\nscrape_duration_seconds %.6f\n" % (body, not problem, time.monotonic() - started)
        labels = orjson.dumps({"instance": target.name, **target.labels})
        return value, (("telltale-format", b"prometheus"), ("content-type", kind), (LABELS_HEADER, labels))


def answer(target: Target, headers: Mapping[str, str], max_bytes: int) -> tuple[bytes, bytes]:
    """(body, content type) of a GET. Raises OSError, HTTPException or ValueError: no answer, not in time, too large, or no Prometheus
    text."""
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), NoRedirects(), urllib.request.HTTPSHandler(context=target.tls or ssl.create_default_context())
    )
    request = urllib.request.Request(target.url, headers={"Accept": ACCEPT, "User-Agent": "telltale", **headers})
    deadline = time.monotonic() + target.timeout_s
    with opener.open(request, timeout=target.timeout_s) as response:
        kind = response.headers.get("content-type", "text/plain")
        if response.status != 200 or kind.split(";")[0].strip().lower() not in ("text/plain", "application/openmetrics-text"):
            raise ValueError(f"answered {response.status} with {kind[:80]}")
        pieces, size = [], 0
        while piece := response.read1(PIECE_BYTES):
            pieces.append(piece)
            size += len(piece)
            if size > max_bytes:
                raise ValueError(f"the answer has more than {max_bytes} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError(f"no whole answer within {target.timeout_s} s")
        if response.length:
            raise ConnectionError(f"the answer ends {response.length} bytes too early")
    return b"".join(pieces), kind.encode("latin-1", "replace")
