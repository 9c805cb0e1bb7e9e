"""Errors as RFC 9457 problem details; what is wrong with a request names the parameter."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from api.schemas import ParameterError, Problem
from engine.store import StoreUnavailable

MEDIA_TYPE = "application/problem+json"


def problem(status: int, detail: str, errors: tuple[ParameterError, ...] = (), headers: dict[str, str] | None = None) -> Response:
    """A problem as a response."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=list(errors))
    return JSONResponse(body.model_dump(by_alias=True), status, headers, MEDIA_TYPE)


def refused(parameter: str, where: str, detail: str) -> RequestValidationError:
    """The error to raise for a parameter that only the route can judge."""
    return RequestValidationError([{"type": "value_error", "loc": (where, parameter), "msg": detail, "input": None}])


def install(app: FastAPI) -> None:
    """Make every error of the application a problem."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(StoreUnavailable, _unavailable)
    app.add_exception_handler(Exception, _fault)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route says of its errors in OpenAPI."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = []
    for e in error.errors():
        where, *path = (str(p) for p in e["loc"])
        message = e["msg"].removeprefix("Value error, ")
        message = "unknown parameter" if e["type"] == "extra_forbidden" else message
        errors.append(ParameterError(parameter=".".join(path) or where, location=where, detail=message))
    detail = "; ".join(f"{e.location} parameter {e.parameter}: {e.detail}" for e in errors)
    return problem(422, detail, tuple(errors))


async def _http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, error.detail, headers=dict(error.headers or {}))


async def _unavailable(_request: Request, _error: Exception) -> Response:
    return problem(503, "the alert store does not answer", headers={"Retry-After": "5"})


async def _fault(_request: Request, _error: Exception) -> Response:
    return problem(500, "a fault in the server; its log has the details")
