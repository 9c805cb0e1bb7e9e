"""What it costs processes of a group to share one population: bytes on the topic of sketches and time on either side.

    python -m benchmarks.sketches [--rates N ...] [--seconds N] [--out FILE]

Inference rows as in `benchmarks.detectors` (20 features), `--rates` a second of event time, all detectors of a population at their defaults. One
process hands over, another receives, merges and judges; at first the series' references are unknown and values travel, then counts do.
The rows themselves, as compressed Arrow, stand beside.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import detectors as rows_of
from engine.config import parse
from engine.exchange import SharedPopulation
from engine.wiring import make_detectors
from engine.worker import Worker
from streams.records import Message, Partition, RawBatch

FOLLOWED = 0.4
"""Of the run: what comes before teaches the references, and travels as values."""


def process(sent: list[Message]) -> SharedPopulation:
    """One of the group."""
    config = parse("{}")
    return SharedPopulation(
        make_detectors(config),
        "",
        config.pane_us,
        config.lateness_us,
        1e9,
        "sketches",
        lambda: ["t-0"],
        lambda owner, queued: sent.extend(queued),
    )


def size_of(table: pa.RecordBatch) -> int:
    """Bytes of the rows as a compressed Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(table)
    return sink.getvalue().size


def measured(rate: int, seconds: int) -> dict[str, Any]:
    """Per row: bytes and microseconds, of values and of counts."""
    rows_of.RATE = rate
    sent: list[Message] = []
    near, far = process(sent), process([])
    worker, offset = Worker(Partition("t"), near.detectors, "", None, {}, "inference"), 0
    of_phase: dict[str, np.ndarray] = {"values": np.zeros(5), "counts": np.zeros(5)}
    every = rows_of.batches(rate * seconds, rate, content=False)
    for at, batch in enumerate(every):
        if at == int(len(every) * FOLLOWED):
            near.follow(far.state)
        phase = "values" if at < len(every) * FOLLOWED else "counts"
        worker.observe(batch)
        worker.state.watermarks["inference"] = int(batch.time_us[-1]) - 1
        start = time.perf_counter()
        near.advance([worker], lambda partition: 1)
        handed = time.perf_counter()
        raw = RawBatch.of(Partition("sketches"), [m.value for m in sent], first_offset=offset, headers=[m.headers for m in sent])
        far.receive(raw)
        received = time.perf_counter()
        far.judge_received()
        of_phase[phase] += (
            len(batch), sum(len(m.value) for m in sent), handed - start, received - handed, time.perf_counter() - received
        )  # fmt: skip
        offset += len(sent)
        sent.clear()
    said: dict[str, Any] = {"rate": rate, "row_bytes": round(sum(size_of(b.table) for b in every) / (rate * seconds), 1)}
    for phase, (rows, size, hand, receive, judge) in of_phase.items():
        said[phase] = {"bytes": round(size / rows, 2)} | {
            f"{verb}_us": round(1e6 * s / rows, 3) for verb, s in (("hand_over", hand), ("receive", receive), ("merge_and_judge", judge))
        }
    return said


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sketches", description=__doc__)
    parser.add_argument("--rates", type=int, nargs="+", default=[1_000, 20_000])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    said = [measured(rate, chosen.seconds) for rate in chosen.rates]
    print(json.dumps(said, indent=1))
    if chosen.out:
        chosen.out.write_text(json.dumps(said, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
