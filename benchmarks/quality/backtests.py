"""Running `telltale backtest` as a user would, and reading what it wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq


@dataclass(frozen=True)
class Outcome:
    """What a backtest left: its folder, the score rows, the alerts (CloudEvents), the summary."""

    folder: Path
    scores: pa.Table
    alerts: list[dict[str, Any]]
    summary: dict[str, Any]

    def of(self, detector: str) -> pa.Table:
        """Score rows of one detector (or `detector.part`), in the order in which they were judged."""
        return self.scores.filter(pa.compute.equal(self.scores["detector"].cast(pa.string()), detector))

    def last_versions(self, detector: str) -> list[dict[str, Any]]:
        """The alerts of a detector, each in its last published version, in the order of their onsets."""
        versions: dict[str, dict[str, Any]] = {}
        for event in self.alerts:
            data = event["data"]
            if data["detector"] == detector and data["sequence"] >= versions.get(data["id"], data)["sequence"]:
                versions[data["id"]] = data
        return sorted(versions.values(), key=lambda a: a["onset_us"])


def backtest(stream: str, inputs: list[Path], out: Path, reference: Path | None = None, config: Path | None = None) -> Outcome:
    """One run of the command. Raises CalledProcessError, with what it said, when it fails."""
    command = [sys.executable, "-m", "engine.cli", "backtest", "--stream", stream, "--out", str(out)]
    command += [part for path in inputs for part in ("--input", str(path))]
    command += ["--reference", str(reference)] if reference else []
    command += ["-c", str(config)] if config else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    alerts = [json.loads(line) for line in (out / "alerts.jsonl").read_text().splitlines()]
    return Outcome(out, pq.read_table(out / "scores.parquet"), alerts, json.loads((out / "summary.json").read_text()))
