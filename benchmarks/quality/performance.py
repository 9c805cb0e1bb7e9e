"""A model that gets worse, and one that does not: SEA's three changes of concept, and census rows whose accuracy is flat.

SEA: 50,000 rows, what is right changes at rows 12,500, 25,000 and 37,500 while the features do not. A logistic regression is fitted to the
first 2,500 rows and never again; the other rows come with its predictions, its confidences and their outcomes, a row a second. The
reference is learned from the stream's first 2,048 outcomes.

Census (acs_employment): predictions, probabilities and outcomes as NannyML publishes them; `part` = reference is the reference.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.quality.backtests import backtest
from engine.baseline import Baseline
from engine.detectors.performance_reference import NONE, Known, cells, metrics

SEA_DRIFTS, FITTED = (12_500, 25_000, 37_500), 2_500
START_US = 1_700_000_000_000_000
SHUFFLES = 10
ROOT = Path(__file__).resolve().parents[2]
CHUNK = 20_000


def write(path: Path, model: str, predicted: np.ndarray, confidence: np.ndarray, outcome: np.ndarray, first: int = 0) -> Path:
    """Rows of the `inference` stream, a second apart."""
    n = len(predicted)
    table = pa.table(
        {
            "time": pa.array(START_US + (first + np.arange(n)) * 1_000_000, pa.timestamp("us", tz="UTC")),
            "principal": pa.array(["traffic"] * n).dictionary_encode(),
            "model": pa.array([model] * n).dictionary_encode(),
            "predicted": pa.array(predicted.astype(str)),
            "confidence": pa.array(confidence, pa.float32()),
            "outcome": pa.array(outcome.astype(str)),
        }
    )
    pq.write_table(table, path)
    return path


def sea_predictions(data: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(predicted, confidence, outcome) of the rows after those that the model was fitted to."""
    from sklearn.linear_model import LogisticRegression

    table = pq.read_table(data / "drift" / "streams" / "sea.parquet")
    x, y = np.column_stack([table[f"x{i}"].to_numpy() for i in range(3)]), table["y"].to_numpy()
    chances = LogisticRegression().fit(x[:FITTED], y[:FITTED]).predict_proba(x[FITTED:])
    return chances.argmax(axis=1), chances.max(axis=1), y[FITTED:]


def sea(data: Path, work: Path) -> dict[str, Any]:
    """Delay of each change in rows, false alerts, and alerts on the first concept's rows in a random order."""
    rows = sea_predictions(data)
    outcome = backtest("inference", [write(work / "sea.parquet", "sea", *rows)], work / "sea")
    found = [(int((a["onset_us"] - START_US) / 1e6) + FITTED, a["key"]) for a in outcome.last_versions("performance")]
    delays = {}
    for at, end in zip(SEA_DRIFTS, (*SEA_DRIFTS[1:], 50_000), strict=True):
        delays[at] = next((row - at for row, _ in found if at <= row < end), None)
    answers = {min((row for row, _ in found if at <= row < at + 1_500), default=None) for at in SEA_DRIFTS}
    calm = slice(0, SEA_DRIFTS[0] - FITTED)
    false = 0
    for seed in range(SHUFFLES):
        order = np.random.default_rng(seed).permutation(SEA_DRIFTS[0] - FITTED)
        part = [np.tile(column[calm][order], 1) for column in rows]
        null = backtest("inference", [write(work / "null.parquet", "sea", *part)], work / "null")
        false += len(null.last_versions("performance")) + len(null.last_versions("drift"))
    return {
        "delay_rows": delays,
        "alerts": [{"row": row, "key": key} for row, key in found],
        "other_alerts": sum(row not in answers for row, _ in found) + len(outcome.last_versions("drift")),
        "null_shuffled": {"runs": SHUFFLES, "hours": round(SHUFFLES * (SEA_DRIFTS[0] - FITTED) / 3600, 1), "alerts": false},
        "rows_per_s": outcome.summary["rows_per_s"],
    }


def nannyml_says(data: Path) -> dict[str, Any] | None:
    """What NannyML estimates of the same rows, where `.venv-nannyml` has it (see benchmarks/README.md)."""
    python = ROOT / ".venv-nannyml" / "bin" / "python"
    if not python.exists():
        print(f"{python} is not there: NannyML's own estimates are left out")
        return None
    rows = data / "drift" / "acs_employment" / "employment_ma.parquet"
    command = [python, "-W", "ignore", ROOT / "benchmarks" / "peers" / "cbpe.py", rows]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def census(data: Path, work: Path) -> dict[str, Any]:
    """Performance alerts over the analysis part; by chunk the accuracy, our estimate and NannyML's."""
    table = pq.read_table(data / "drift" / "acs_employment" / "employment_ma.parquet")
    part = table["part"].to_numpy(zero_copy_only=False)
    predicted, chance, outcome = (table[c].to_numpy() for c in ("prediction", "predicted_probability", "employed"))
    confidence = np.where(predicted == 1, chance, 1 - chance)
    known = part == "reference"
    paths = [
        write(work / f"{name}.parquet", "census", predicted[rows], confidence[rows], outcome[rows], first)
        for name, rows, first in (("reference", known, 0), ("analysis", ~known, int(known.sum())))
    ]
    told = backtest("inference", [paths[1]], work / "census", reference=paths[0])
    order = np.random.default_rng(0).permutation(int((~known).sum()))
    shuffled = backtest(
        "inference", [write(work / "null.parquet", "census", predicted[~known][order], confidence[~known][order], outcome[~known][order])],
        work / "null", reference=paths[0],
    )  # fmt: skip
    reference = Known.of(Baseline.load(work / "census" / "baseline").parts["performance"]["census"])
    codes = np.array([float(reference.classes[[reference.name(i) for i in (0, 1)].index(str(p))]) for p in (0, 1)])
    chunks = []
    for first in range(int(known.sum()), len(part), CHUNK):
        rows = slice(first, first + CHUNK)
        said, sure, n = predicted[rows], confidence[rows], len(predicted[rows])
        bins = np.clip(sure * NONE, 0, NONE - 1).astype(int)
        estimated = metrics(
            reference, cells(reference, np.column_stack([np.zeros(n), codes[said], bins, np.full(n, np.nan), np.ones((n, 2))]))[2][0]
        )
        chunks.append({"rows": n, "accuracy": float((said == outcome[rows]).mean())} | {f"estimated_{k}": v for k, v in estimated.items()})
    peer = nannyml_says(data)
    for ours, theirs in zip(chunks, peer["chunks"] if peer else (), strict=False):
        ours |= {f"nannyml_{k}": v for k, v in theirs.items()}
    return {
        "largest_difference_from_nannyml": {
            ours: round(max(abs(c[f"estimated_{ours}"] - c[f"nannyml_{theirs}"]) for c in chunks), 4)
            for ours, theirs in (("accuracy", "accuracy"), ("f1", "f1"), ("auroc", "roc_auc"))
        }
        if peer
        else None,
        "alerts": [f"{a['key']}: {a['summary']}" for a in told.last_versions("performance")],
        "alerts_shuffled": len(shuffled.last_versions("performance")),
        "largest_error_of_the_estimate": max(abs(c["accuracy"] - c["estimated_accuracy"]) for c in chunks),
        "chunks": [{k: round(v, 4) for k, v in c.items()} for c in chunks],
        "rows_per_s": told.summary["rows_per_s"],
    }
