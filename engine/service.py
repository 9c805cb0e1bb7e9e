"""The service: the engine on Kafka, with the REST API beside it in the same process."""

from __future__ import annotations

import importlib
import logging
import threading
from contextlib import ExitStack
from typing import Any

from rich.logging import RichHandler

from engine import heap
from engine.config import Config, ConfigError
from engine.metrics import Metrics
from engine.redact import Redact
from engine.store import Store
from engine.wiring import make_detectors, make_engine, make_remediation, make_source

log = logging.getLogger(__name__)


def api_module() -> Any:
    """The `api` package, imported by name: it imports the engine, so the engine must not need it to be imported."""
    return importlib.import_module("api.main")


def serve(config: Config, stop: threading.Event) -> None:
    """Run until told to stop. A fault of the engine ends the process; a restart restores from the checkpoint."""
    start_logging(config)
    heap.keep()
    source = make_source(config)
    with ExitStack() as parts:
        store = Store(config.store.url) if config.store else None
        if store is not None:
            parts.callback(store.close)
        metrics = Metrics()
        engine = make_engine(config, source, store, metrics=metrics)
        if config.api is not None:
            if store is None:
                raise ConfigError("api: the REST API needs a store")
            api = api_module()
            application = api.create_app(store, config.api, metrics.registry, lambda: engine.ready)
            parts.callback(api.serve_in_thread(application, config.api.host, config.api.port).close)
        engine.run(stop)


def serve_api(config: Config) -> None:
    """Only the REST API."""
    start_logging(config)
    if config.api is None or config.store is None:
        raise ConfigError("api: the file has no `api` section, or no store")
    api = api_module()
    api.serve(api.create_app(Store(config.store.url), config.api, Metrics().registry, lambda: True), config.api.host, config.api.port)


def check(config: Config) -> None:
    """What can be checked without connecting: the baseline is there, the signing key is one, the detectors can be made."""
    make_detectors(config)
    make_remediation(config)


def start_logging(config: Config) -> None:
    """One line a thing on stderr, without what looks like a secret."""
    handler = RichHandler(show_path=False)
    handler.addFilter(Redact())
    logging.basicConfig(level=config.log_level.upper(), format="%(message)s", handlers=[handler])
    logging.getLogger("kafka").setLevel(logging.WARNING)
