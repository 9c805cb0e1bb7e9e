"""`telltale bench`: the engine end to end on this machine, over rows that it makes, and what each stage costs."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from engine.backtest import drain, over_files
from engine.config import parse
from engine.outbox import Outbox

DEVICES = 64
MODELS = 4
PRINCIPALS = 2000
STAGES = ("decode", "observe", "judge")


def run_bench(out: Console, rows: int) -> None:
    """Print rows/s of a hardware and an inference stream from Parquet, with the share of each stage; compilation comes first, untimed."""
    table = Table("stream", "rows", "seconds", "rows/s", *STAGES, "rest", box=None)
    with tempfile.TemporaryDirectory() as folder:
        for stream, make in (("hardware", hardware_rows), ("inference", inference_rows)):
            for n in (20_000, rows):  # the first run compiles
                path = Path(folder) / f"{stream}-{n}.parquet"
                pq.write_table(make(n), path)
                seconds, stages = timed(stream, path)
            shares = [f"{stages[s] / seconds:.0%}" for s in STAGES]
            table.add_row(
                stream, f"{rows:,}", f"{seconds:.2f}", f"{rows / seconds:,.0f}", *shares, f"{1 - sum(stages.values()) / seconds:.0%}"
            )
    out.print(table)


def timed(stream: str, path: Path) -> tuple[float, dict[str, float]]:
    """Seconds of one run in all, and by stage."""

    engine = over_files(parse("{}"), stream, [path], Outbox([], threads=False), None)
    started = time.perf_counter()
    drain(engine)
    seconds = time.perf_counter() - started
    samples = next(iter(engine.metrics.stage_s.collect())).samples
    return seconds, {s: sum(x.value for x in samples if x.name.endswith("_sum") and x.labels["stage"] == s) for s in STAGES}


def hardware_rows(n: int) -> pa.Table:
    """A fleet that ticks once a second, eight metrics."""
    generator = np.random.default_rng(0)
    columns = {
        "time": pa.array(1_700_000_000_000_000 + np.arange(n) // DEVICES * 1_000_000, pa.timestamp("us", tz="UTC")),
        "host": pa.array([f"host{d // 8}" for d in range(DEVICES)]).take(pa.array(np.arange(n) % DEVICES)),
        "device": pa.array([f"gpu{d % 8}" for d in range(DEVICES)]).take(pa.array(np.arange(n) % DEVICES)),
    }
    return pa.table(columns | {f"metric.m{i}": pa.array(generator.normal(size=n).astype(np.float32)) for i in range(8)})


def inference_rows(n: int) -> pa.Table:
    """Requests without content, a thousand a second, two thousand principals."""
    generator = np.random.default_rng(1)
    columns = {
        "time": pa.array(1_700_000_000_000_000 + np.arange(n) * 1000, pa.timestamp("us", tz="UTC")),
        "principal": pa.array([f"p{i}" for i in range(PRINCIPALS)]).take(pa.array(generator.integers(0, PRINCIPALS, n))),
        "model": pa.array([f"m{i}" for i in range(MODELS)]).take(pa.array(generator.integers(0, MODELS, n))),
        "input_tokens": pa.array(generator.lognormal(6, 1, n).astype(np.int32)),
        "output_tokens": pa.array(generator.lognormal(5, 1, n).astype(np.int32)),
        "duration_s": pa.array(generator.gamma(2, 1, n).astype(np.float32)),
        "temperature": pa.array(generator.choice([0.0, 0.7, 1.0], n).astype(np.float32)),
    }
    return pa.table(columns)
