"""List alerts, read one with its evidence, acknowledge."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query

from api.auth import Responder, Viewer
from api.context import Parts
from api.problems import refused, responses
from api.schemas import AcknowledgeRequest, AlertCounts, AlertDetail, AlertPage, AlertQuery, detail, summary

router = APIRouter(prefix="/api/v1/alerts", tags=["alerts"], responses=responses(401, 403, 422, 503))
AlertId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", examples=["d42ea3c3c2c94f7f8f1d2e6ad1d83b1b"])]


@router.get("", summary="List alerts")
def list_alerts(parts: Parts, _who: Viewer, query: Annotated[AlertQuery, Query()]) -> AlertPage:
    """One page, without evidence. Follow `next` to the end: no alert is lost or repeated while others are written."""
    try:
        page = parts.store.list(query.filter(), cursor=query.cursor, limit=query.limit, order=query.order)
    except ValueError as error:
        raise refused("cursor", "query", str(error)) from error
    return AlertPage(alerts=[summary(a) for a in page.alerts], next=page.next)


@router.get("/counts", summary="Count alerts")
def count_alerts(parts: Parts, _who: Viewer) -> AlertCounts:
    """How many are firing and resolved, by severity."""
    return AlertCounts.model_validate(parts.store.counts())


@router.get("/{alert_id}", summary="Read one alert", responses=responses(404))
def get_alert(parts: Parts, _who: Viewer, alert_id: AlertId) -> AlertDetail:
    """With its evidence."""
    found = parts.store.get(alert_id)
    if found is None:
        raise HTTPException(404, f"there is no alert {alert_id}")
    return detail(found)


@router.post("/{alert_id}/acknowledge", summary="Acknowledge an alert", responses=responses(404))
def acknowledge_alert(parts: Parts, who: Responder, alert_id: AlertId, body: AcknowledgeRequest) -> AlertDetail:
    """Note that a person has seen it; needs the role responder. The latest acknowledgement stands."""
    found = parts.store.acknowledge(alert_id, who.name, body.note, time.time_ns() // 1000)
    if found is None:
        raise HTTPException(404, f"there is no alert {alert_id}")
    return detail(found)
