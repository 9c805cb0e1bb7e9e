"""Before the clock starts: a baseline from the calm prelude, as `telltale baseline fit` makes one, and every kernel compiled."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from engine import config as configuration
from engine.baseline import Baseline
from engine.config import Config
from engine.demo import fleet, traffic
from engine.demo.record import Record
from engine.demo.scenario import PRELUDE_S, Scenario
from engine.metrics import Metrics
from engine.outbox import Outbox
from engine.run import Engine
from engine.wiring import make_detectors
from streams.decode import Format
from streams.sources.simulated import SimulatedSource

STREAMS = {traffic.DIGITS_TOPIC: "inference", traffic.LLM_TOPIC: None, fleet.TOPIC: "hardware"}
"""The demo's topics, and whose rows they hold where the encoding does not say it itself."""


def fit_baseline(console: Console, scenario: Scenario, folder: Path) -> None:
    """Write a baseline of the scenario's prelude into `folder / "baseline"`."""
    started = time.monotonic()
    with console.status("Fitting a baseline and compiling kernels (the first time takes a while)"):
        records = list(scenario.records(scenario.start_us))
        known_good = taken_in(configuration.parse("{}"), records, fitting=True)
        Baseline(fitted(known_good), {"from": "the demo's prelude", "rows": known_good.rows}).save(folder / "baseline")
        config = configuration.parse(configuration.yaml.safe_dump({"baseline": str(folder / "baseline")}))
        taken_in(config, records[-len(records) // 4 :])  # so that what only judges is compiled too
    seconds = time.monotonic() - started
    console.print(
        f"Ready after {seconds:.1f} s: {known_good.rows:,} rows of {PRELUDE_S / 60:.0f} calm minutes are the baseline.", highlight=False
    )


def taken_in(config: Config, records: Sequence[Record], fitting: bool = False) -> Engine:
    """An engine that has taken in these records and told nobody."""
    source = SimulatedSource(list(STREAMS), limit_bytes=1 << 40)
    formats = {topic: Format(stream) for topic, stream in STREAMS.items()}
    engine = Engine(config, make_detectors(config, fitting), source, formats, Outbox([], threads=False), Metrics())
    for record in records:
        source.put(record.topic, record.value, record.time_us // 1000)
    while engine.step(0.0):
        pass
    engine.judge_population(final=True)
    return engine


def fitted(engine: Engine) -> dict[str, object]:
    """What each detector keeps as its baseline, from the partitions that hold rows of its streams."""
    parts = {}
    for name, detector in engine.detectors.items():
        if (fit := getattr(detector, "fitted", None)) is not None:
            states = [w.state for w in engine.workers.values() if w.state.watermarks.keys() & set(detector.streams)]
            parts[name] = fit(states, engine.population.state)
    return parts
