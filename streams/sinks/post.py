"""One HTTP POST, with the standard library."""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping

from streams.sinks.sink import Undeliverable

REFUSED = frozenset({400, 413, 415, 422})
"""Answers that speak of the message. All others speak of the receiver, or of our right to it, and may be mended there."""


def checked(url: str) -> str:
    """The address, if it is one of HTTP. Raises ValueError."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not an http or https address")
    return url


def post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> None:
    """Return when the receiver said 2xx. Raises Undeliverable (400, 413, 415, 422: it won't take this), ConnectionError (no answer, or any
    other one: try again)."""
    request = urllib.request.Request(url, data=body, headers=dict(headers), method="POST")
    try:
        with OPENER.open(request, timeout=timeout_s):
            return
    except urllib.error.HTTPError as error:
        with error:
            if error.code in REFUSED:
                raise Undeliverable(f"{url} answered {error.code}") from error
            raise ConnectionError(f"{url} answered {error.code}") from error
    except OSError as error:  # URLError, timeouts, resets
        raise ConnectionError(f"{url}: {getattr(error, 'reason', error)}") from error


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would lose its body, and might carry its headers to somebody else."""

    def redirect_request(self, *args: object) -> None:  # type: ignore[override]
        return None


OPENER = urllib.request.build_opener(NoRedirects)
