"""The REST API and the console: made of a store, and served in the foreground or beside the engine."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from prometheus_client import CollectorRegistry

from api import problems
from api.context import Context, Readiness
from api.feed import ChangeFeed
from api.middleware import SecurityHeaders, Timed
from api.routes import alerts, operations, stream
from api.schemas import Problem
from engine.api_config import ApiConfig, is_loopback
from engine.store import Store

CONSOLE = Path(__file__).parent / "console"
VERSION = "1"


def create_app(store: Store, settings: ApiConfig, metrics_registry: CollectorRegistry, readiness: Readiness) -> FastAPI:
    """The application. `readiness`: whether the engine beside it works; the store is asked besides."""
    app = FastAPI(title="Telltale", version=VERSION, summary="Alerts on AI serving telemetry", docs_url=None, redoc_url=None,
                  openapi_url="/api/v1/openapi.json")  # fmt: skip
    app.state.context = Context(store, settings, metrics_registry, readiness, ChangeFeed(store))
    problems.install(app)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Timed, registry=metrics_registry)
    app.include_router(operations.router)
    app.include_router(stream.router)  # before alerts, whose /{alert_id} would take /stream
    app.include_router(alerts.router)
    described = app.openapi

    def openapi() -> dict[str, Any]:
        schema = described()
        problem = Problem.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
        schema["components"]["schemas"] |= problem.pop("$defs", {}) | {"Problem": problem}
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
    app.mount("/", StaticFiles(directory=CONSOLE, html=True), name="console")
    return app


@dataclass
class Running:
    """An API that is served by a thread."""

    url: str
    server: Server
    thread: threading.Thread

    def close(self) -> None:
        """Stop it: live streams end, requests are finished."""
        self.server.stop()
        self.thread.join()


class Server(uvicorn.Server):
    """Ends live streams when it is told to stop; it would wait for them otherwise."""

    def __init__(self, app: FastAPI):
        super().__init__(uvicorn.Config(app, log_config=None, access_log=False, server_header=False, lifespan="off", ws="none",
                                        timeout_graceful_shutdown=5))  # fmt: skip
        self.feed: ChangeFeed = app.state.context.feed

    def stop(self) -> None:
        """Ask it to end; from any thread."""
        self.feed.close()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGINT or SIGTERM, where it runs in the main thread."""
        self.feed.close()
        super().handle_exit(sig, frame)


def serve(app: FastAPI, host: str, port: int) -> None:
    """Serve until a signal ends it. Raises ValueError when the address needs tokens and there are none, OSError when it is taken."""
    with listening(app, host, port) as sock:
        Server(app).run(sockets=[sock])


def serve_in_thread(app: FastAPI, host: str, port: int) -> Running:
    """Serve in a thread of its own; port 0 takes a free one. Raises as `serve` does, before the thread starts."""
    sock = listening(app, host, port)
    server = Server(app)

    def run() -> None:
        with sock:
            server.run(sockets=[sock])

    thread = threading.Thread(target=run, name="api", daemon=True)
    thread.start()
    taken = sock.getsockname()[1]
    return Running(f"http://{f'[{host}]' if ':' in host else host}:{taken}", server, thread)


def listening(app: FastAPI, host: str, port: int) -> socket.socket:
    """A socket that listens there, so that whoever connects from now on is answered."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    settings: ApiConfig = app.state.context.settings
    if not settings.tokens and not is_loopback(str(address[0])):
        raise ValueError(f"api.tokens: at least one is required, since host {host} is reachable from other machines")
    return socket.create_server(address[:2], family=family, backlog=128)
