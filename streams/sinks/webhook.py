"""A webhook: each message POSTed as it is, with its own content type and an idempotency key."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from streams.records import Message
from streams.sinks.post import checked, post
from streams.sinks.sink import Undeliverable

log = logging.getLogger(__name__)


class WebhookSink:
    """`headers` go with every request (authorisation, for example). Raises ValueError for an address that is not HTTP."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, timeout_s: float = 5.0):
        self.url, self.headers, self.timeout_s = checked(url), dict(headers or {}), timeout_s

    def send(self, messages: Sequence[Message]) -> set[str]:
        """One request each, in order, until the receiver fails; ConnectionError when it fails at the first. What it refuses for good
        (400, 413, 415, 422) is logged and counts as delivered, or it would hold up everything behind it."""
        delivered: set[str] = set()
        for message in messages:
            own = {name: value.decode("latin-1") for name, value in message.headers}
            headers = {"content-type": "application/json"} | own | {"idempotency-key": message.id} | self.headers
            try:
                post(self.url, message.value, headers, self.timeout_s)
            except Undeliverable as refused:
                log.error("%s; message %s is given up", refused, message.id)
            except ConnectionError:
                if not delivered:
                    raise
                return delivered
            delivered.add(message.id)
        return delivered

    def close(self) -> None:
        """Nothing is kept open."""
