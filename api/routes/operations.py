"""What an orchestrator and Prometheus ask for."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client.exposition import choose_encoder

from api.auth import Viewer
from api.context import Parts
from api.problems import responses
from api.schemas import Health
from engine.store import StoreUnavailable

UNREADY: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "Something is missing"}}
METRICS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Prometheus text or OpenMetrics, as the Accept header asks", "content": {"text/plain": {}}}
}

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> Health:
    """Answers as long as the process can; it depends on nothing else, so a database that is away does not get it restarted."""
    return Health(status="ok")


@router.get("/readyz", summary="Can it work?", response_model=Health, responses=UNREADY)
def readyz(parts: Parts) -> Response:
    """200, or 503 and what is wrong with which part."""
    problems = {} if parts.readiness() else {"engine": "it has no partition to read yet"}
    try:
        parts.store.last_change()
    except StoreUnavailable:
        problems["store"] = "the database does not answer"
    body = Health(status="unready" if problems else "ok", problems=problems)
    return JSONResponse(body.model_dump(), 503 if problems else 200)


@router.get(
    "/metrics",
    summary="Metrics",
    response_class=Response,
    responses=responses(401, 403) | METRICS,
)
def metrics(request: Request, parts: Parts, _who: Viewer) -> Response:
    """For Prometheus. Needs a viewer's token where tokens are configured."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(parts.registry), media_type=None, headers={"Content-Type": content_type})
