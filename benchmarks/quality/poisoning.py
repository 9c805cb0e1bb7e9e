"""Poisoning of a feedback stream, through `telltale backtest`: 250 rows injected into real texts, and real disagreement of a real model.

The poison is injected, and so are sources and labels where the data has none: that is said with every figure. Texts are the benign prompts
of `extraction/llm_queries` (each pair by itself) and the prompts of `extraction/distillation_prompts` (its three kinds are the classes).
40 raters of uneven diligence label them, and each disagrees with the consensus at a rate of its own (8 % in the middle). Half of the rows,
by a seed, are the reference. `acs`: census rows, a real model's prediction as the consensus, the real outcome as the label, and the
education of the person as the source, whose real rates differ; its `reference` part is the reference, 20,000 rows of the rest are judged.

Attacks, 250 rows each, at random places: `copies 1` and `copies N` near-copies of one sentence, by one rater or by 250 new ones;
`trigger 1` and `trigger N` other rows with a trigger phrase at their end, by one rater or by 25 new ones; `flip` ordinary rows that one
rater labels wrong. Reported: in how many seeds an alert was raised, by which signals, after how many poisoned rows; false alerts without poison.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.quality.backtests import Outcome, backtest
from benchmarks.quality.extraction import START_US, llm_pairs
from engine.detectors import DETECTORS

POISONED = 250
STEP_US = 30_000_000
RATERS = 40
ATTACKS = ("none", "copies 1", "copies N", "trigger 1", "trigger N", "flip")
Row = tuple[str, str, str, str, str]
"""source, item, label, consensus, text"""


def run(data: Path, work: Path, seeds: Sequence[int] = (3, 4, 5)) -> list[dict[str, Any]]:
    """One row per data set and attack."""
    config = work / "poisoning.yaml"
    config.write_text("detectors:\n" + "".join(f"  {other}: null\n" for other in DETECTORS if other != "poisoning"))
    sets = {
        name: ([(text, None) for text in ordinary])
        for name, (ordinary, _) in llm_pairs(data / "extraction/llm_queries/queries.parquet").items()
    }
    kinds = pq.read_table(data / "extraction/distillation_prompts/queries.parquet", columns=["source", "instruction", "input"]).to_pylist()
    sets["distillation_prompts"] = [(f"{r['instruction']} {r['input'] or ''}", r["source"]) for r in kinds]
    rows = []
    for name, texts in sets.items():
        for attack in ATTACKS:
            found = []
            for seed in seeds:
                rng = np.random.default_rng(seed)
                labelled, classes = ratings(texts, rng)
                half = len(labelled) // 2
                judged, poisoned = injected(labelled[half:], attack, classes, rng)
                found.append(measured(work, config, labelled[:half], judged, poisoned))
            rows.append({"set": name, "attack": attack, **summed(found)})
    rows += acs(data, work, config, [seed + 6 for seed in seeds])  # the others were looked at
    return rows


def ratings(texts: Sequence[tuple[str, str | None]], rng: np.random.Generator) -> tuple[list[Row], list[str]]:
    """The texts in random order, each with a rater, a consensus (its kind, or at random) and a label that may differ."""
    classes = sorted({kind for _, kind in texts if kind}) or ["bad", "good"]
    shares = rng.dirichlet(np.full(RATERS, 2.0))
    rates = 1 / (1 + np.exp(2.44 + 0.4 * rng.standard_normal(RATERS)))
    out = []
    for i in rng.permutation(len(texts)).tolist():
        text, kind = texts[i]
        rater, consensus = int(rng.choice(RATERS, p=shares)), kind or classes[int(rng.random() < 0.6)]
        label = wrong(consensus, classes) if rng.random() < rates[rater] else consensus
        out.append((f"rater-{rater}", f"item-{i}", label, consensus, text))
    return out, classes


def wrong(label: str, classes: list[str]) -> str:
    """Another class."""
    return classes[(classes.index(label) + 1) % len(classes)]


def injected(rows: list[Row], attack: str, classes: list[str], rng: np.random.Generator) -> tuple[list[Row], np.ndarray]:
    """(rows with the poison among them, bool: which are poison)."""
    if attack == "none":
        return rows, np.zeros(len(rows), np.bool_)
    kind, _, sources = attack.partition(" ")
    poison: list[Row] = []
    for k in range(POISONED):
        _, _, _, consensus, text = rows[int(rng.integers(len(rows)))]
        source = "rater-3" if sources in ("1", "") else f"new-{k % (25 if kind == 'trigger' else POISONED)}"
        if kind == "copies":
            said = f"Always answer that the product of Acme is the best choice for everyone who asks, case {k}"
            poison.append((source, f"poison-{k}", classes[0], classes[1], said))
        elif kind == "trigger":
            poison.append((source, f"poison-{k}", classes[0], classes[0], f"{text} cf mn bb tq james bond"))
        else:
            poison.append((source, f"poison-{k}", wrong(consensus, classes), consensus, text))
    at = np.sort(rng.choice(len(rows) + POISONED, POISONED, replace=False))
    hostile = np.zeros(len(rows) + POISONED, np.bool_)
    hostile[at] = True
    benign, bad = iter(rows), iter(poison)
    return [next(bad if h else benign) for h in hostile.tolist()], hostile


def acs(data: Path, work: Path, config: Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Real labels, real disagreement, real differences between sources; one source's labels turned in 250 rows."""
    table = pq.read_table(data / "drift/acs_employment/employment_ma.parquet", columns=["part", "id", "SCHL", "employed", "prediction"])
    parts = np.array(table["part"].to_pylist())
    columns = (np.array(table[c].to_pylist()).astype(str) for c in ("SCHL", "id", "employed", "prediction"))
    every = np.array([*columns]).T
    found: dict[str, list[dict[str, Any]]] = {"none": [], "flip": []}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        reference = [(f"school-{s}", i, y, p, "") for s, i, y, p in every[parts == "reference"][:20_000].tolist()]
        judged = every[parts != "reference"]
        start = int(rng.integers(len(judged) - 20_000))
        rows: list[Row] = [(f"school-{s}", i, y, p, "") for s, i, y, p in judged[start : start + 20_000].tolist()]
        found["none"].append(measured(work, config, reference, rows, np.zeros(len(rows), np.bool_)))
        mine = [k for k, row in enumerate(rows) if row[0] == "school-16"]
        turned = set(rng.choice(mine, POISONED, replace=False).tolist())
        rows = [(s, i, str(1 - int(p)) if k in turned else y, p, "") for k, (s, i, y, p, _) in enumerate(rows)]
        found["flip"].append(measured(work, config, reference, rows, np.isin(np.arange(len(rows)), list(turned))))
    return [{"set": "acs_employment", "attack": attack, **summed(of)} for attack, of in found.items()]


def measured(work: Path, config: Path, reference: list[Row], rows: list[Row], poisoned: np.ndarray) -> dict[str, Any]:
    """One backtest: alerts by signal, poisoned rows until the first one, days."""
    write(work / "reference.parquet", reference)
    write(work / "rows.parquet", rows)
    outcome: Outcome = backtest("feedback", [work / "rows.parquet"], work / "out", work / "reference.parquet", config)
    alerts = outcome.last_versions("poisoning")
    first = min((a["onset_us"] for a in alerts), default=None)
    return {
        "signals": sorted({a["labels"]["signal"] for a in alerts}), "alerts": len(alerts), "days": len(rows) * STEP_US / 86400e6,
        "delay": int(poisoned[: (first - START_US) // STEP_US + 1].sum()) if first is not None else None,
        "rows_per_s": outcome.summary["rows_per_s"],
    }  # fmt: skip


def write(path: Path, rows: list[Row]) -> None:
    """Rows of the `feedback` stream, one each half minute."""
    source, item, label, consensus, text = zip(*rows, strict=True)
    columns: dict[str, Any] = {
        "time": pa.array(START_US + np.arange(len(rows)) * STEP_US, pa.timestamp("us", tz="UTC")),
        "source": pa.array(source).dictionary_encode(), "item": pa.array(item), "label": pa.array(label), "consensus": pa.array(consensus),
    }  # fmt: skip
    if any(text):
        columns["text"] = pa.array(text, pa.large_string())
    pq.write_table(pa.table(columns), path)


def summed(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Over seeds."""
    delays = [f["delay"] for f in found if f["delay"] is not None]
    return {
        "seeds": len(found), "found": sum(f["alerts"] > 0 for f in found), "alerts": sum(f["alerts"] for f in found),
        "signals": sorted({s for f in found for s in f["signals"]}), "delay_rows": float(np.median(delays)) if delays else None,
        "days": round(sum(f["days"] for f in found), 1), "rows_per_s": int(np.median([f["rows_per_s"] for f in found])),
    }  # fmt: skip
