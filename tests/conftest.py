"""What all tests share: a Kafka broker, when there is one to be had; and a word at the end about what was left out."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator

import pytest

from tests.support import kafka_home
from tests.support.kafka import Cluster, connect


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-gpu-code", action="store_true", help="leave out the tests that run Triton kernels")


def pytest_configure(config: pytest.Config) -> None:
    # kafka-python leaves sockets of connections that failed to the garbage collector
    config.addinivalue_line("filterwarnings", "ignore:unclosed <socket:ResourceWarning")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--no-gpu-code"):
        skip = pytest.mark.skip(reason="--no-gpu-code")
        for item in items:
            if item.get_closest_marker("gpu_code"):
                item.add_marker(skip)
    if any(item.get_closest_marker("kafka") for item in items) and (why := kafka_home.absent()) is not None:
        config.stash[NO_KAFKA] = why
        for item in items:
            if item.get_closest_marker("kafka"):
                item.add_marker(pytest.mark.skip(reason=f"no Kafka: {why}"))


def pytest_sessionfinish() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(5):
            gc.collect()


NO_KAFKA = pytest.StashKey[str]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if why := config.stash.get(NO_KAFKA, None):
        terminalreporter.write_line(f"Kafka tests were skipped: {why}", yellow=True)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A broker for the whole run; make topics with `kafka.topic()`."""
    cluster, broker = connect(tmp_path_factory.mktemp("kafka"))
    yield cluster
    if broker is not None:
        broker.stop()
