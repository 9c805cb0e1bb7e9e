"""Azure LLM inference traces: code traffic, then conversation traffic on the same model, a known drift; and each shuffled, no drift.

The two traces are spliced at a known row. Shuffled traces keep every marginal and have no drift at all: what alarms there is false.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.quality.backtests import Outcome, backtest

SHUFFLES = 20


def trace(data: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(time in microseconds, input tokens, output tokens) of one trace."""
    table = pq.read_table(data / "inference" / "azure_llm" / f"{name}.parquet")
    time_us = table["TIMESTAMP"].cast(pa.timestamp("us")).to_numpy().astype(np.int64)
    return time_us, table["ContextTokens"].to_numpy(), table["GeneratedTokens"].to_numpy()


def write(path: Path, time_us: np.ndarray, tokens_in: np.ndarray, tokens_out: np.ndarray) -> Path:
    """Rows of the `inference` stream, all of one model."""
    n = len(time_us)
    table = pa.table(
        {
            "time": pa.array(time_us, pa.timestamp("us", tz="UTC")),
            "principal": pa.array(["traffic"] * n).dictionary_encode(),
            "model": pa.array(["model"] * n).dictionary_encode(),
            "input_tokens": pa.array(tokens_in, pa.int32()),
            "output_tokens": pa.array(tokens_out, pa.int32()),
        }
    )
    pq.write_table(table, path)
    return path


def run(data: Path, work: Path) -> dict[str, Any]:
    """Delay of the known drift in requests, alarms before it, and alarms on traffic without drift."""
    folder = work / "azure"
    folder.mkdir(parents=True, exist_ok=True)
    code, conversation = trace(data, "code"), trace(data, "conv")
    gap = code[0][-1] - conversation[0][0] + 1_000_000
    spliced = (
        np.concatenate([code[0], conversation[0] + gap]),
        *(np.concatenate([a, b]) for a, b in zip(code[1:], conversation[1:], strict=True)),
    )
    splice = len(code[0])
    outcome = backtest("inference", [write(folder / "splice.parquet", *spliced)], folder / "splice")
    onsets = {a["key"]: a["onset_us"] for a in reversed(outcome.last_versions("drift"))}
    rows = {key: int(np.searchsorted(spliced[0], onset, side="right")) for key, onset in onsets.items()}
    false, hours = 0, 0.0
    generator = np.random.default_rng(0)
    for i in range(SHUFFLES):
        source = (code, conversation)[i % 2]
        order = generator.permutation(len(source[0]))
        shuffled = backtest("inference", [write(folder / "null.parquet", source[0], source[1][order], source[2][order])], folder / "null")
        false += len(shuffled.last_versions("drift"))
        hours += (source[0][-1] - source[0][0]) / 3.6e9
    natural = {name: unspliced(folder, name, part) for name, part in (("code", code), ("conversation", conversation))}
    return {
        "splice_at_row": splice,
        "delay_requests": {key: row - splice for key, row in rows.items() if row > splice},
        "alerts_before_the_splice": sum(row <= splice for row in rows.values()),
        "rows_per_s": outcome.summary["rows_per_s"],
        "null_shuffled": {"runs": SHUFFLES, "hours": round(hours, 2), "alerts": false},
        "as_recorded": natural,
    }


def unspliced(folder: Path, name: str, part: tuple[np.ndarray, np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Alerts on a trace as it was recorded; real traffic changes too, so these are told, not counted as false."""
    outcome: Outcome = backtest("inference", [write(folder / f"{name}.parquet", *part)], folder / name)
    return {"rows": len(part[0]), "alerts": [f"{a['key']}: {a['summary']}" for a in outcome.last_versions("drift")]}
