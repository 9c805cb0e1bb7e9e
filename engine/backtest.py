"""Backtest: the engine, the same code as the service, over files in event time, as fast as it can. And fitting baselines from files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from engine.baseline import Baseline, data_versions
from engine.config import Config
from engine.metrics import Metrics
from engine.outbox import Outbox, Route
from engine.run import Engine
from engine.scores import ScoreFile
from engine.wiring import make_detectors
from streams.decode import Format
from streams.sinks import FileSink
from streams.sources import FileSource


def backtest(config: Config, stream: str, inputs: Sequence[Path], out: Path, reference: Path | None = None) -> dict[str, Any]:
    """Run, and write `scores.parquet`, `alerts.jsonl`, `dead_letters.jsonl` and `summary.json` into `out`; returns the summary.

    `reference`: a file of known good rows; baselines are fitted from it first. Without it, and without a baseline in the
    configuration, the detectors learn from the stream. Raises ValueError or OSError naming the file.
    """
    out.mkdir(parents=True, exist_ok=True)
    if reference is not None:
        fit(config, stream, [reference], out / "baseline")
        config = config.model_copy(update={"baseline": out / "baseline"})
    for name in ("alerts.jsonl", "dead_letters.jsonl"):
        (out / name).write_bytes(b"")
    routes = [
        Route("alerts", FileSink(out / "alerts.jsonl"), frozenset({"alert"})),
        Route("dead letters", FileSink(out / "dead_letters.jsonl"), frozenset({"dead_letter"})),
    ]
    outbox = Outbox(routes, limit=10_000, threads=False)
    started = time.perf_counter()
    with closing(outbox), ScoreFile(out / "scores.parquet") as scores:
        engine = over_files(config, stream, inputs, outbox, scores)
        rows = drain(engine)
        seconds = time.perf_counter() - started
        outbox.flush(60.0)
        score_rows = scores.rows
    summary = {
        "stream": stream,
        "rows": rows,
        "seconds": round(seconds, 3),
        "rows_per_s": round(rows / seconds) if seconds else 0,
        "score_rows": score_rows,
        "alerts": engine.opened,
        "rejected": engine.rejected,
        "late": int(engine.metrics.late.labels(stream)._value.get()),
        "config_hash": config.hash,
    }
    (out / "summary.json").write_bytes(orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    return summary


def over_files(
    config: Config, stream: str, inputs: Sequence[Path], outbox: Outbox, scores: ScoreFile | None, fitting: bool = False
) -> Engine:
    """An engine whose source is files; nothing is kept."""
    source = FileSource(stream, inputs)
    formats = {p.topic: Format(stream, source.encoding(p), (), config.limits.record_bytes) for p in source.partitions}
    engine = Engine(config, make_detectors(config, fitting), source, formats, outbox, Metrics(), score_log=scores)
    return engine


def drain(engine: Engine) -> int:
    """Take in everything the files hold, then close the last panes; returns the rows that were used."""
    while engine.step(timeout_s=0.0):
        if engine.outbox.full:
            engine.outbox.flush(60.0)
    engine.judge_population(final=True)
    return engine.rows


def fit(
    config: Config, stream: str, inputs: Sequence[Path], out: Path, sources: Sequence[Path] = (), versions: Mapping[str, str] | None = None
) -> Baseline:  # fmt: skip
    """Fit a baseline from known good rows and save it. The detectors learn as they do from a stream; nothing they say is published.

    `sources`: what the inputs were made from, where they are copies; `versions`: what else the baseline is to say of itself.
    """
    free = config.model_copy(update={"baseline": None})
    outbox = Outbox([], threads=False)
    engine = over_files(free, stream, inputs, outbox, None, fitting=True)
    rows = drain(engine)
    parts = {}
    for name, detector in engine.detectors.items():
        if stream in detector.streams and (fitted := getattr(detector, "fitted", None)) is not None:
            states = [w.state for w in engine.workers.values()]
            parts[name] = fitted(states, engine.population.state)
    about = {
        "stream": stream,
        "rows": rows,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": data_versions(sources or inputs),
        "config_hash": config.hash,
    } | dict(versions or {})
    baseline = Baseline(parts, about)
    baseline.save(out)
    return baseline
