"""Alerts as they change: server-sent events that can be resumed.

An event's id is a change number. A client that comes back with `Last-Event-ID` (or `?after=`) gets every alert that changed since,
each once and as it is now; so nothing is buffered for a slow client, and one that was away for long is sent no history twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Query
from fastapi.responses import StreamingResponse

from api.auth import Viewer
from api.context import Context, Parts
from api.problems import refused, responses
from api.schemas import StreamQuery, summary
from engine.store import StoreUnavailable
from engine.store_query import Filter

HEARTBEAT_S = 15.0
PAGE = 200
EVENTS = {"text/event-stream": {"schema": {"type": "string"}, "example": 'id: 42\nevent: alert\ndata: {"id": "d42ea3c3...", ...}\n\n'}}

router = APIRouter(prefix="/api/v1/alerts", tags=["alerts"], responses=responses(401, 403, 422, 503))
LastEventId = Annotated[str | None, Header(alias="Last-Event-ID", description="The id of the last event that was seen.")]


@router.get(
    "/stream",
    summary="Follow alerts live",
    response_class=StreamingResponse,
    responses={200: {"description": "Server-sent events, named `alert`, with an alert without its evidence as data.", "content": EVENTS}},
)
async def stream_alerts(
    parts: Parts, _who: Viewer, query: Annotated[StreamQuery, Query()], last_event_id: LastEventId = None
) -> StreamingResponse:
    """Begins with what changes from now on, or after `Last-Event-ID` or `after`. A comment is sent when nothing happens for 15 s."""
    if parts.feed.full:
        raise HTTPException(503, f"{parts.feed.max_streams} streams are open, which is the limit", {"Retry-After": "5"})
    after = query.after
    if last_event_id is not None:
        if not last_event_id.isascii() or not last_event_id.isdigit() or len(last_event_id) > 18:
            raise refused("Last-Event-ID", "header", "not an id that this stream gave")
        after = int(last_event_id)
    if after is None:
        after = await asyncio.to_thread(parts.store.last_change)
    return StreamingResponse(events(parts, query.filter(), after), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def events(parts: Context, filters: Filter, after: int) -> AsyncIterator[str]:
    """The text of the stream. It ends when the server stops or the database is away; the client comes back by itself."""
    async with parts.feed.stream():
        yield f"id: {after}\nretry: 2000\n\n"  # the id alone makes even a client that never saw an event resume from here
        while not parts.feed.closing:
            if not await parts.feed.wait(after, HEARTBEAT_S):
                yield ": nothing new\n\n"
                continue
            try:
                seen = await asyncio.to_thread(parts.store.last_change)
                changes = await asyncio.to_thread(parts.store.changes, after, filters, PAGE)
            except StoreUnavailable:
                return
            for change in changes:
                yield f"id: {change.number}\nevent: alert\ndata: {summary(change.alert).model_dump_json()}\n\n"
            after = changes[-1].number if changes else max(after, seen)
