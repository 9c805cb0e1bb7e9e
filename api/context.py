"""What the routes work with: made once at start, found through the request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from prometheus_client import CollectorRegistry

from api.feed import ChangeFeed
from engine.api_config import ApiConfig
from engine.store import Store

Readiness = Callable[[], bool]
"""Whether the engine beside the API takes records in."""


@dataclass(frozen=True)
class Context:
    """The parts of a running API."""

    store: Store
    settings: ApiConfig
    registry: CollectorRegistry
    readiness: Readiness
    feed: ChangeFeed


def context(request: Request) -> Context:
    """The context of the application that serves this request."""
    return request.app.state.context


Parts = Annotated[Context, Depends(context)]
