"""A real store behind a real server on loopback."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from api.main import Running, create_app, serve_in_thread
from engine.alerts import Alert, alert_id
from engine.api_config import ApiConfig, TokenConfig
from engine.store import Store

T0 = 1_763_630_043_250_000
TOKENS = {"viewer": "v" * 40, "responder": "r" * 40}


def record(i: int = 0, **changes: Any) -> dict[str, Any]:
    """An alert's record, its onset `i` seconds after T0."""
    onset = T0 + i * 1_000_000
    values: dict[str, Any] = {
        "id": alert_id("hardware", f"h{i}/gpu0", onset), "detector": "hardware", "stream": "hardware", "key": f"h{i}/gpu0", "tenant": "",
        "status": "firing", "severity": "error", "title": "Unlike itself", "summary": f"number {i}", "onset_us": onset,
        "last_seen_us": onset, "resolved_us": None, "score": 5.0, "threshold": 3.0, "evidence": {"rows": 7},
    }  # fmt: skip
    return Alert(**values | changes).record()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path}/alerts.db")
    yield opened
    opened.close()


@pytest.fixture
def launch(store: Store) -> Iterator[Callable[..., Running]]:
    """Start a server; `tokens=True` with one of each role."""
    with ExitStack() as running:

        def launched(tokens: bool = False, readiness: Callable[[], bool] = lambda: True) -> Running:
            known = [TokenConfig(name=r, sha256=hashlib.sha256(t.encode()).hexdigest(), role=r) for r, t in TOKENS.items()]  # type: ignore[arg-type]
            settings = ApiConfig(tokens=tuple(known) if tokens else ())
            app = create_app(store, settings, CollectorRegistry(), readiness)
            server = serve_in_thread(app, "127.0.0.1", 0)
            running.callback(server.close)
            return server

        yield launched


@pytest.fixture
def client(launch: Callable[..., Running]) -> Iterator[httpx.Client]:
    """A client of a server without tokens."""
    with httpx.Client(base_url=launch().url, timeout=20) as opened:
        yield opened
