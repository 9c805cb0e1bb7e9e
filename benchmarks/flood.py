"""An attack on memory: an alarming principal, then a flood of principals that nobody has seen before, then the first one goes on.

    python -m benchmarks.flood [--principals 10000000] [--state-mb 256]

Rows have eight numeric features and go through the detector of extraction, whose state is the largest per key. Prints the rate, what
limits it, the process's memory, and whether the alert is the same and its state was kept; exit code 1 if it was not.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time

import numpy as np
import pyarrow as pa

from engine.batch import Batch
from engine.detectors.extraction import TABLE, Extraction, ExtractionSettings
from engine.evidence import Budget
from engine.finding import Context
from engine.state import ArraySpec, State
from engine.worker import Worker
from streams.records import Partition

S = 1_000_000
BATCH = 10_000


def queries(names: pa.Array, vectors: np.ndarray, start_s: int) -> Batch:
    """One query of each, ten thousand a second."""
    n = len(names)
    columns = {"principal": names} | {f"feature.x{i}": pa.array(vectors[:n, i]) for i in range(vectors.shape[1])}
    return Batch("inference", pa.RecordBatch.from_pydict(columns), start_s * S + np.arange(n) * 100, np.arange(n))


def names(first: int, count: int) -> pa.Array:
    """Principals that come once."""
    return pa.array([f"visitor-{i:x}" for i in range(first, first + count)])


def take(worker: Worker, batch: Batch) -> list[str]:
    """Ids of the alerts that a batch gives."""
    worker.state.watermarks["inference"] = int(batch.time_us.max())
    worker.observe(batch)
    return [a.id for a in worker.judge("inference")[1]]


def rss_mb() -> float:
    """Memory of this process now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def table_alone(principals: int) -> float:
    """Keys a second of CPU through a full key table with nothing else."""
    state = State({"default": 50_000})
    state.declare([ArraySpec("n", "int64", ("principal",))])
    seconds = 0.0
    for first in range(0, principals, BATCH):
        fresh = names(first, BATCH).to_pylist()
        started = time.process_time()
        state.slots("principal", fresh, first)
        seconds += time.process_time() - started
    return principals / seconds


def main() -> int:
    """Run, and print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood")
    parser.add_argument("--principals", type=int, default=10_000_000)
    parser.add_argument("--state-mb", type=int, default=256)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    detectors = {"extraction": Extraction(ExtractionSettings(reference_rows=1000), Context(Budget()))}
    worker = Worker(Partition("t"), detectors, "", None, {"default": 1 << 30, "bytes": options.state_mb << 20}, "inference")
    vectors = generator.normal(size=(BATCH, 8)).astype(np.float32)
    take(worker, queries(pa.array([f"p{i % 50}" for i in range(2000)]), vectors, 0))
    eve = pa.array(["eve"] * 400)
    opened = set(take(worker, queries(eve, 6 * vectors, 10)))
    take(worker, queries(names(-BATCH, BATCH), vectors, 20))  # what is compiled is compiled
    before, started, used = rss_mb(), time.perf_counter(), time.process_time()
    most = most_state = 0.0
    for first in range(0, options.principals, BATCH):
        take(worker, queries(names(first, BATCH), vectors, 30 + first // 10_000))
        if first % (50 * BATCH) == 0:
            most, most_state = max(most, rss_mb()), max(most_state, worker.state.nbytes / 1e6)
    seconds, used = time.perf_counter() - started, time.process_time() - used
    table = worker.state.table(TABLE)
    kept = int(worker.state["extraction.vector.rows"][table.index["eve"]]) if "eve" in table.index else 0
    again = set(take(worker, queries(eve, 60 * vectors, 40 + options.principals // 10_000)))
    held = {o.alert.id for o in worker.lifecycle.open.values()}
    passed = len(opened) == 1 and kept == 400 and again <= opened and held <= opened
    said = {
        "principals": options.principals, "principals_per_s": round(options.principals / seconds), "seconds": round(seconds, 1),
        "principals_per_cpu_s": round(options.principals / used), "load_average": os.getloadavg()[0],
        "key_table_alone_per_cpu_s": round(table_alone(min(options.principals, 1_000_000))),
        "state_mb_allowed": round((options.state_mb << 20) / 1e6), "state_mb_most": round(most_state), "rss_mb_before": round(before),
        "rss_mb_most": round(most), "places": len(table), "evicted": table.evicted, "refused": table.refused,
        "attacker_rows_kept": f"{kept} of 400", "same_alert": passed,
    }  # fmt: skip
    print(json.dumps(said, indent=1))
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
