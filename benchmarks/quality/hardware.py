"""SMD and ASD: server metrics with labelled anomalies. The first part of each machine is the reference, the second is judged, streaming.

Each machine is its own backtest with `--reference`; what is measured is the `hardware` detector's combined score, row by row.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.quality.backtests import backtest

START_US = 1_700_000_000_000_000
TICK_US = 60_000_000
FLOOR = {"smd": 0.68, "asd": 0.46}


def canonical(table: pa.Table, host: str) -> pa.Table:
    """Rows of the data set as rows of the `hardware` stream, one a minute."""
    n = len(table)
    columns: dict[str, Any] = {
        "time": pa.array(START_US + TICK_US * np.arange(n), pa.timestamp("us", tz="UTC")),
        "host": pa.array(["host"] * n).dictionary_encode(),
        "device": pa.array([host] * n).dictionary_encode(),
    }
    columns |= {f"metric.{c}": table[c] for c in table.schema.names if c.startswith("m") and c[1:].isdigit()}
    return pa.table(columns)


def run(data: Path, work: Path, vus_python: Path | None, which: str) -> dict[str, Any]:
    """Figures of one set: per machine and mean VUS-PR and AP, alarms per hour outside labelled ranges, ranges with an alarm."""
    machines: dict[str, Any] = {}
    for path in sorted((data / "hardware" / which).glob("*.parquet")):
        name = path.stem
        table = pq.read_table(path)
        parts = {part: table.filter(pc.equal(table["split"].cast(pa.string()), part)) for part in ("train", "test")}
        folder = work / which / name
        folder.mkdir(parents=True, exist_ok=True)
        for part, rows in parts.items():
            pq.write_table(canonical(rows, name), folder / f"{part}.parquet")
        outcome = backtest("hardware", [folder / "test.parquet"], folder / "out", folder / "train.parquet")
        scores = outcome.of("hardware")
        label = parts["test"]["label"].to_numpy().astype(np.int8)
        if len(scores) != len(label):
            raise RuntimeError(f"{name}: {len(scores)} score rows for {len(label)} rows")
        np.savez(folder / "scored.npz", score=scores["score"].to_numpy(), label=label)
        machines[name] = {
            "rows": len(label), "rows_per_s": outcome.summary["rows_per_s"], "alerts": len(outcome.last_versions("hardware")),
            **alerts_against(label, outcome.last_versions("hardware")),
        }  # fmt: skip
    if vus_python is not None:
        files = {name: str(work / which / name / "scored.npz") for name in machines}
        script = str(Path(__file__).with_name("vus_pr.py"))
        said = subprocess.run([str(vus_python), script, *files.values()], capture_output=True, text=True, check=True)
        measured = json.loads(said.stdout)
        for name, file in files.items():
            machines[name] |= measured[file]
    figures: dict[str, Any] = {"machines": machines}
    if vus_python is not None:
        figures |= {f"mean_{m}": float(np.mean([one[m] for one in machines.values()])) for m in ("vus_pr", "ap")}
        figures["floor_vus_pr"] = FLOOR[which]
    return figures


def alerts_against(label: np.ndarray, alerts: list[dict[str, Any]]) -> dict[str, int]:
    """How many labelled ranges have an alert that overlaps them, and how many alerts overlap none (30 rows of delay allowed)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], label, [0]])))
    ranges = list(zip(edges[::2], edges[1::2] + 30, strict=True))
    spans = [((a["onset_us"] - START_US) // TICK_US, (a["last_seen_us"] - START_US) // TICK_US) for a in alerts]
    found = sum(any(first < end and last >= start for first, last in spans) for start, end in ranges)
    false = sum(not any(first < end and last >= start for start, end in ranges) for first, last in spans)
    return {"ranges": len(ranges), "ranges_found": found, "false_alerts": false}
