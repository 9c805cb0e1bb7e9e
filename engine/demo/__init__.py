"""`telltale demo`: the main job with nothing installed but Telltale.

Real inference (a digits classifier that is really attacked and really copied), a simulated fleet with faults and a traffic drift are
encoded to bytes (Arrow IPC, OTLP, JSON lines) and go through the same decoders, engine, outbox and store as in the service, from a
source inside the process or through a real broker. Event time runs faster than wall time, so that up to forty minutes fit.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from engine import config as configuration
from engine.config import Config
from engine.demo import terminal
from engine.demo.feed import Feed, InProcess, ThroughKafka, Wire
from engine.demo.prepare import STREAMS, fit_baseline
from engine.demo.scenario import Scenario, judged, span_s
from engine.metrics import Metrics
from engine.outbox import Outbox, Route
from engine.run import Engine
from engine.service import api_module
from engine.store import Store
from engine.wiring import make_detectors, make_formats, make_kafka_source, make_routes
from streams.decode import Format
from streams.records import Message
from streams.sources.simulated import SimulatedSource

BACKLOG_ROWS = 20_000
WIDTH = 150
"""Columns, where the output goes to a file or a pipe."""


class Listener:
    """A sink that hears each alert as it is opened, with the event time that the demo had then."""

    def __init__(self, console: Console):
        self.console = console
        self.feed: Feed | None = None
        self.heard: list[tuple[int, dict[str, Any]]] = []
        self._seen: set[str] = set()

    def send(self, messages: Sequence[Message]) -> set[str]:
        """Show alerts that are new."""
        for message in messages:
            alert = message.record
            if alert is not None and alert["id"] not in self._seen:
                self._seen.add(alert["id"])
                self.heard.append((self.feed.reached_us if self.feed else alert["last_seen_us"], alert))
                self.console.print(terminal.told(alert))
        return {m.id for m in messages}

    def close(self) -> None:
        """Nothing to close."""


def run_demo(seconds: float, kafka: str | None, port: int, seed: int, console: Console | None = None) -> int:
    """Run for `seconds` (after warming up), show what happens, and return the exit code: 0 when all went its way.

    Missed injections and false alarms are shown, not failures of the program. Raises OSError when the port is taken or the broker away.
    """
    console = console or Console(width=None if sys.stdout.isatty() else WIDTH)
    logging.getLogger("engine").setLevel(logging.WARNING)
    span = span_s(seconds)
    scenario = Scenario(int((time.time() - span) * 1e6), span, seed)
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="telltale-demo-")))
        fit_baseline(console, scenario, folder)
        config, names = settings(folder, kafka)
        assert config.store is not None and config.api is not None
        store = Store(config.store.url)
        closing.callback(store.close)
        listener = Listener(console)
        wire: Wire
        if kafka is None:
            source = SimulatedSource(list(STREAMS))
            wire = InProcess(source)
            engine = assembled(config, source, {topic: Format(stream) for topic, stream in STREAMS.items()}, store, listener)
        else:
            wire = ThroughKafka(kafka, names)
            closing.callback(wire.close)
            engine = assembled(config, make_kafka_source(config), make_formats(config), store, listener)
        closing.callback(engine.close)
        feed = listener.feed = Feed(scenario, wire, span / seconds, lambda: feed.rows - engine.rows > BACKLOG_ROWS)
        api = api_module()
        server = api.serve_in_thread(
            api.create_app(store, config.api, engine.metrics.registry, lambda: engine.ready), config.api.host, port
        )
        closing.callback(server.close)
        console.print(f"Event time runs {feed.speed:.0f} times as fast as wall time. Console and REST API: {server.url}", highlight=False)
        play(console, engine, feed, seconds, server.url)
        engine.judge_population(final=True)
        engine.outbox.flush(10.0)
        finish(console, scenario, listener, feed)
    return 0


def settings(folder: Path, kafka: str | None) -> tuple[Config, dict[str, str]]:
    """The configuration that the demo runs with, default detectors and budgets, and the topics' names if a broker is used."""
    run = uuid.uuid4().hex[:8]
    names = {topic: f"telltale.{topic}.{run}" for topic in STREAMS}
    text: dict[str, Any] = {
        "name": "demo",
        "store": {"url": f"sqlite:///{folder}/alerts.db"},
        "api": {"host": "127.0.0.1"},
        "baseline": str(folder / "baseline"),
        "checkpoint": {"dir": str(folder / "checkpoints")},
    }
    if kafka is not None:
        topics = [{"name": names[topic]} | ({"stream": stream} if stream else {}) for topic, stream in STREAMS.items()]
        text["source"] = {"kafka": {"bootstrap": kafka, "group": f"telltale-demo-{run}", "topics": topics}}
    return configuration.parse(configuration.yaml.safe_dump(text), "demo"), names


def assembled(config: Config, source: Any, formats: dict[str, Format], store: Store | None, listener: Listener) -> Engine:
    """The service's engine, with the terminal as one more sink."""
    routes = [*make_routes(config, store), Route("terminal", listener, frozenset({"alert"}))]
    return Engine(config, make_detectors(config), source, formats, Outbox(routes), Metrics())


def play(console: Console, engine: Engine, feed: Feed, seconds: float, url: str) -> None:
    """Let it run until the time is up, and take in what was sent by then."""
    feed.start()
    begin = time.monotonic()
    marks = [(begin, engine.rows)]
    try:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while (now := time.monotonic()) < begin + seconds and (feed.running or feed.rows > engine.rows):
                engine.step(0.05)
                feed.check()
                if now - marks[-1][0] >= 0.25:
                    marks = [*marks[-8:], (now, engine.rows)]
                    rate = (marks[-1][1] - marks[0][1]) / (marks[-1][0] - marks[0][0])
                    alerts = sum(engine.opened.values())
                    line = terminal.status(feed.reached_us, begin + seconds - now, engine.rows, url, rows_per_s=rate, alerts=alerts)
                    live.update(line, refresh=True)
    finally:
        feed.stop()
    while engine.step(0.2):
        pass
    wall = time.monotonic() - begin
    reached = (feed.reached_us - feed.scenario.start_us) / (feed.scenario.end_us - feed.scenario.start_us)
    console.print(f"\n{engine.rows:,} rows in {wall:.1f} s: {engine.rows / wall:,.0f} rows/s, all rows judged.", highlight=False)
    if reached < 1:
        console.print(f"The engine held the producers back: {reached:.0%} of the script was played.", highlight=False)


def finish(console: Console, scenario: Scenario, listener: Listener, feed: Feed) -> None:
    """The reckoning: what was injected, what was found, what the attacks got, honestly."""
    outcomes, explained, false = judged(scenario.injections, listener.heard, feed.reached_us)
    console.print(terminal.reckoning(outcomes, explained, false))
    results = {name: (thief.asked, thief.fidelity(scenario.server, scenario.seed)) for name, thief in scenario.thieves.items()}
    terminal.thefts(console, results, scenario.server.accuracy)
