"""Azure LLM inference traces: code traffic, then conversation traffic on the same model, a known drift; and streams without drift.

The two traces are spliced at a known row. Shuffled rows and blocks keep every marginal and have no drift at all: what alarms there is
false.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.stats import chi2

from benchmarks.quality import performance
from benchmarks.quality.backtests import Outcome, backtest
from engine.detectors import DETECTORS as ALL_DETECTORS

SHUFFLES = 20
BLOCK, NULL_ROWS, START_US = 32, 200_000, 1_700_000_000_000_000
DETECTORS = ("drift", "drift_embeddings", "performance")


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


def prompts(data: Path, work: Path) -> dict[str, Any]:
    """Prompts change their subject: half of the instructions that are not about code, in a random order, then those that are; and the other
    half of the former instead, where nothing changes. A row a second, one model."""
    table = pq.read_table(data / "extraction" / "distillation_prompts" / "queries.parquet", columns=["source", "instruction"])
    code = table.filter(pc.field("source") == "Codegen")["instruction"].to_pylist()
    other = table.filter(pc.field("source") != "Codegen")["instruction"].to_pylist()
    generator = np.random.default_rng(0)
    generator.shuffle(code)
    generator.shuffle(other)
    half = len(other) // 2
    out: dict[str, Any] = {"change_at_row": half}
    for name, after in (("changed", code), ("unchanged", other[half:])):
        rows = other[:half] + after
        n = len(rows)
        columns = {c: pa.array(["model"] * n).dictionary_encode() for c in ("principal", "model")}
        columns |= {
            "time": pa.array(START_US + np.arange(n) * 1_000_000, pa.timestamp("us", tz="UTC")),
            "prompt": pa.array(rows, pa.large_string()),
        }
        path = work / f"{name}.parquet"
        pq.write_table(pa.table(columns), path)
        alerts = backtest("inference", [path], work / name, config=only(work)).last_versions("drift_embeddings")
        out[name] = {"rows_after": len(after), "alerts_at_rows": [int((a["onset_us"] - START_US) / 1e6) - half for a in alerts]}
    return out


def only(work: Path) -> Path:
    """A configuration with drift, drift_embeddings and performance alone."""
    config = work / "drift.yaml"
    others = [name for name in ALL_DETECTORS if name not in DETECTORS]
    config.write_text("detectors:\n" + "".join(f"  {name}: null\n" for name in others))
    return config


def null_streams(data: Path, work: Path, rows: int = NULL_ROWS) -> dict[str, Any]:
    """Alerts on streams that do not drift: blocks of 32 rows of each set, drawn at random with replacement, a row a second. What depends on
    what within a block stays as it is in the data. Hours, and alerts of each of the three detectors with the bound that they imply."""
    found: dict[str, Any] = {}
    totals = dict.fromkeys(DETECTORS, 0)
    hours = 0.0
    for seed, (name, table) in enumerate(sets(data)):
        starts = np.random.default_rng(seed).integers(0, table.num_rows - BLOCK, rows // BLOCK)
        index = (starts[:, None] + np.arange(BLOCK)).reshape(-1)
        n = len(index)
        columns = {c: table[c].combine_chunks().take(pa.array(index)) for c in table.schema.names}
        columns["time"] = pa.array(START_US + np.arange(n) * 1_000_000, pa.timestamp("us", tz="UTC"))
        columns |= {c: pa.array([name] * n).dictionary_encode() for c in ("principal", "model")}
        path = work / f"{name}.parquet"
        pq.write_table(pa.table(columns), path)
        outcome = backtest("inference", [path], work / name, config=only(work))
        series = len(set(outcome.of("drift")["key"].to_pylist()))
        alerts = {d: len(outcome.last_versions(d)) for d in DETECTORS}
        found[name] = {"hours": round(n / 3600, 1), "drift_series": series} | alerts
        hours += n / 3600
        totals = {d: totals[d] + alerts[d] for d in DETECTORS}
    weeks = hours / 168
    return {
        "sets": found,
        "weeks": round(weeks, 2),
        "alerts_a_week": {
            d: {"measured": round(k / weeks, 2), "to_95": round(float(chi2.ppf(0.95, 2 * k + 2)) / 2 / weeks, 2)} for d, k in totals.items()
        },
    }


def sets(data: Path) -> Iterator[tuple[str, pa.Table]]:
    """Tables of features (and predictions) of every set that has rows in an order."""
    for name in ("elec2", "keystroke", "sea"):
        table = pq.read_table(data / "drift" / "streams" / f"{name}.parquet")
        columns = {f"feature.{c}": table[c] for c in table.schema.names if c != "y"} | {"feature.y": table["y"].cast(pa.string())}
        yield name, pa.table(columns)
    predicted, confidence, outcome = performance.sea_predictions(data)
    yield "sea_predictions", pa.table({
        "predicted": pa.array(predicted.astype(str)), "confidence": pa.array(confidence, pa.float32()), "outcome": pa.array(outcome.astype(str)),
    })  # fmt: skip
    table = pq.read_table(data / "drift" / "acs_employment" / "employment_ma.parquet").filter(pc.field("part") == "analysis")
    said, chance = table["prediction"].to_numpy(), table["predicted_probability"].to_numpy()
    features = [c for c in table.schema.names if c.isupper() or c == "RAC1P"]
    yield "census", pa.table(
        {f"feature.{c}": table[c] if pa.types.is_dictionary(table[c].type) else table[c].cast(pa.float32()) for c in features}
        | {
            "predicted": pa.array(said.astype(str)), "confidence": pa.array(np.where(said == 1, chance, 1 - chance), pa.float32()),
            "outcome": table["employed"].cast(pa.string()),
        }
    )  # fmt: skip
    for name in ("code", "conv"):
        _, tokens_in, tokens_out = trace(data, name)
        yield (
            f"azure_{name}",
            pa.table({"input_tokens": pa.array(tokens_in, pa.int32()), "output_tokens": pa.array(tokens_out, pa.int32())}),
        )
    queries = pq.read_table(data / "extraction" / "llm_queries" / "queries.parquet")
    benign = queries.filter((pc.field("label") == 0) & (pc.field("pair") == "Meaeq_AGNEWS"))
    yield "prompts", pa.table({"prompt": benign["query"].cast(pa.large_string())})
