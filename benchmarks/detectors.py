"""What the detectors of inference traffic cost a row on one core, at 20 features, and River's ADWIN on the same rows.

    python -m benchmarks.detectors [--rows N] [--peers PYTHON] [--out FILE] [--profile DETECTOR]

Rows are made once, aligned once (decoding is not part of this), and then observed, merged and judged batch by batch, as the engine
does it. The first 20,000 rows teach references and compile; they are not timed. ADWIN takes each feature of each row, as its user would
let it, in the peers' environment (see README.md). Numba is held to one thread.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ["NUMBA_NUM_THREADS"] = "1"

import numpy as np
import pyarrow as pa

from engine.batch import Batch
from engine.config import parse
from engine.population import Population
from engine.wiring import make_detectors
from engine.worker import Worker
from streams.records import Partition

FEATURES, WARM, PRINCIPALS, RATE = 20, 20_000, 50, 1000
ADWIN = """
import sys, time, json, numpy as np
from river import drift
rows = np.random.default_rng(1).normal(size=(int(sys.argv[1]), int(sys.argv[2])))
detectors = [drift.ADWIN() for _ in range(rows.shape[1])]
start = time.perf_counter()
for row in rows.tolist():
    for detector, x in zip(detectors, row):
        detector.update(x)
print(json.dumps(1e6 * (time.perf_counter() - start) / len(rows)))
"""


def batches(rows: int, size: int, content: bool) -> list[Batch]:
    """Batches of `size` rows: one model, 20 features (16 numbers, 2 numbers of few values, 2 categories); with `content`: predictions too."""
    generator = np.random.default_rng(1)
    names = ["feature.plan", "feature.region"]
    out = []
    for first in range(0, rows, size):
        n = min(size, rows - first)
        columns: dict[str, Any] = {
            "model": pa.array(["m"] * n).dictionary_encode(),
            "principal": pa.array([f"p{i}" for i in range(PRINCIPALS)])
            .take(pa.array(generator.integers(0, PRINCIPALS, n)))
            .dictionary_encode(),
        }
        columns |= {f"feature.x{i:02}": pa.array(generator.normal(size=n).astype(np.float32)) for i in range(FEATURES - 4)}
        columns |= {f"feature.k{i}": pa.array(generator.choice([0.0, 0.7, 1.0], n).astype(np.float32)) for i in range(2)}
        columns |= {name: pa.array(generator.choice(["a", "b", "c"], n)).dictionary_encode() for name in names}
        if content:
            columns |= {
                "predicted": pa.array(generator.choice(["yes", "no"], n)).dictionary_encode(),
                "confidence": pa.array(generator.uniform(0.5, 1, n).astype(np.float32)),
            }
        time_us = 1_700_000_000_000_000 + (first + np.arange(n)) * (1_000_000 // RATE)
        out.append(Batch("inference", pa.RecordBatch.from_pydict(columns), time_us, first + np.arange(n)))
    return out


def cost_us(names: set[str], rows: int, size: int, content: bool = False, profiler: cProfile.Profile | None = None) -> float:
    """Microseconds a row of these detectors together."""
    config = parse("{}")
    detectors = {name: d for name, d in make_detectors(config).items() if name in names}
    worker = Worker(Partition("t"), detectors, "", None, {}, "inference")
    population = Population(detectors, "", None, config.pane_us, config.lateness_us, 1e9)
    population.heard_from(worker)
    warm, timed = batches(WARM + rows, size, content), 0.0
    for at, batch in enumerate(warm):
        counted = at * size >= WARM
        if counted and profiler is not None:
            profiler.enable()
        start = time.perf_counter()
        worker.state.watermarks["inference"] = int(batch.time_us[-1]) - config.lateness_us
        worker.observe(batch)
        worker.judge("inference")
        population.advance([worker], lambda partition: 0)
        timed += (time.perf_counter() - start) * counted
        if profiler is not None:
            profiler.disable()
    return 1e6 * timed / sum(len(b) for at, b in enumerate(warm) if at * size >= WARM)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detectors", description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--peers", type=Path, default=Path(__file__).parents[1] / ".venv-peers" / "bin" / "python")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--profile", help="print where a detector spends its time instead")
    chosen = parser.parse_args()
    if chosen.profile:
        profiler = cProfile.Profile()
        print(cost_us({chosen.profile}, chosen.rows, 32_768, True, profiler))
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(35)
        return 0
    all_names = {name for name, d in make_detectors(parse("{}")).items() if "inference" in d.streams}
    adwin = None
    if chosen.peers.exists():
        answer = subprocess.run([chosen.peers, "-c", ADWIN, "20000", str(FEATURES)], stdout=subprocess.PIPE, check=True).stdout
        adwin = json.loads(answer)
    else:
        print(f"{chosen.peers} is not there: River's ADWIN is left out (see benchmarks/README.md)", file=sys.stderr)
    said: dict[str, Any] = {"rows": chosen.rows, "features": FEATURES, "adwin_us": adwin, "us_per_row": {}}
    cases = [(n, {n}, 32_768) for n in sorted(all_names)] + [("drift", {"drift"}, s) for s in (1_000, 100)]
    cases += [("all", all_names, 32_768), ("all but extraction", all_names - {"extraction"}, 32_768)]
    for name, names, size in cases:
        rows = chosen.rows // (10 if size <= 100 or "extraction" in names else 1)
        us = cost_us(names, rows, size, content=name == "performance")
        said["us_per_row"][f"{name}, batches of {size:,}"] = round(us, 3)
        print(f"{name:>18}, batches of {size:>6,}: {us:8.3f} us a row" + (f", ADWIN {adwin:.1f} us: {adwin / us:.0f} x" if adwin else ""))
    if chosen.out:
        chosen.out.write_text(json.dumps(said, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
