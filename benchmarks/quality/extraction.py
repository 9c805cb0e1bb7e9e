"""Model extraction: two real sets, through `telltale backtest`.

`llm`: benign prompts of a pair are split in halves by a seed. One half is the reference; from the other, and from the pair's attack
queries, principals are made, each with one window: benign, or with a share of attack queries in random places. A window's score is the
one at its last row; `tpr_highest` takes the highest of all scores on the way instead. Reported: the share of attacked windows that score
over the level that at most .5 % of benign windows reach, and the shares of windows that raised an alert.

`classifier`: whole query streams against a digits classifier. Half of the benign streams, by a seed, are the reference; a stream's score
is its highest. Reported: the area under the ROC curve over streams, and benign streams that raised an alert.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.quality.backtests import backtest
from engine.detectors import DETECTORS

SIZES = (1500, 500, 100)
SHARES = (0.05, 0.1)
FALSE_POSITIVES = 0.005
TARGETS = {(1500, 0.05): 0.75, (500, 0.05): 0.35, (100, 0.05): 0.10, (1500, 0.1): 0.98, (500, 0.1): 0.90, (100, 0.1): 0.40}
START_US = 1_700_000_000_000_000


def llm(data: Path, work: Path, seeds: Sequence[int] = (0, 1, 2), benign: int = 400, attacked: int = 100) -> list[dict[str, Any]]:
    """One row per pair, window and share, averaged over seeds, and one per window and share over the pairs.

    `benign`, `attacked`: windows of each kind per seed. `work`: an empty folder for what the backtests write.
    """
    pairs = llm_pairs(data / "extraction/llm_queries/queries.parquet")
    found: dict[tuple[str, int, float], list[dict[str, float]]] = {}
    for pair, (ordinary, attack) in pairs.items():
        for seed in seeds:
            rng = np.random.default_rng(seed)
            order = rng.permutation(len(ordinary))
            half = len(order) // 2
            reference = work / f"{pair}-{seed}-reference.parquet"
            write(reference, [("reference", [ordinary[i] for i in order[:half]])], "prompt")
            fresh = [ordinary[i] for i in order[half:]]
            for size in SIZES:
                principals = [(f"benign-{i}", window(rng, fresh, attack, size, 0.0)) for i in range(benign)]
                for share in SHARES:
                    principals += [(f"attack-{share}-{i}", window(rng, fresh, attack, size, share)) for i in range(attacked)]
                name = f"{pair}-{seed}-{size}"
                write(work / f"{name}.parquet", principals, "prompt")
                last, highest, alarmed = judged(work, name, reference)
                level, level_highest = (level_of([scores[p] for p, _ in principals[:benign]]) for scores in (last, highest))
                for share in SHARES:
                    of_share = [p for p, _ in principals if p.startswith(f"attack-{share}-")]
                    row = {"tpr": mean(last[p] > level for p in of_share), "alarmed": mean(p in alarmed for p in of_share)}
                    row["tpr_highest"] = mean(highest[p] > level_highest for p in of_share)
                    row["benign_alarmed"] = mean(p in alarmed for p, _ in principals[:benign])
                    found.setdefault((pair, size, share), []).append(row)
                (work / f"{name}.parquet").unlink()
    rows = [
        {"set": "llm_queries", "pair": pair, "window": size, "share": share, **averaged(parts)}
        for (pair, size, share), parts in found.items()
    ]
    for size in SIZES:
        for share in SHARES:
            over = averaged([row for row in rows if (row["window"], row["share"]) == (size, share)])
            rows.append({"set": "llm_queries", "pair": "mean", "window": size, "share": share, **over, "target": TARGETS[size, share]})
    return rows


def classifier(data: Path, work: Path, seeds: Sequence[int] = (0, 1, 2)) -> list[dict[str, Any]]:
    """One row per seed: streams, AUROC, benign streams that raised an alert, attacks that did."""
    table = pq.read_table(data / "extraction/classifier_queries/queries.parquet")
    with open(data / "extraction/classifier_queries/streams.csv", newline="") as file:
        streams = {int(row["stream"]): row for row in csv.DictReader(file)}
    stream = table["stream"].to_numpy()
    rows = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        known: set[int] = set()
        for kind in sorted({s["name"] for s in streams.values() if s["label"] == "0"}):
            of_kind = [i for i, s in streams.items() if s["name"] == kind]
            known |= set(rng.permutation(of_kind)[: len(of_kind) // 2].tolist())
        reference, tested = work / f"classifier-{seed}-reference.parquet", work / f"classifier-{seed}.parquet"
        write_vectors(reference, table.filter(pa.array(np.isin(stream, list(known)))))
        write_vectors(tested, table.filter(pa.array(~np.isin(stream, list(known)))))
        _, highest, alarmed = judged(work, tested.stem, reference)
        fresh = [i for i in streams if i not in known]
        ordinary = [f"s{i}" for i in fresh if streams[i]["label"] == "0"]
        attacks = {f"s{i}": streams[i]["name"] for i in fresh if streams[i]["label"] == "1"}
        wins = [(highest[a] > highest[b]) + 0.5 * (highest[a] == highest[b]) for a in attacks for b in ordinary]
        rows.append({
            "set": "classifier_queries", "seed": seed, "benign": len(ordinary), "attacks": len(attacks), "auroc": float(np.mean(wins)),
            "benign_alarmed": sum(b in alarmed for b in ordinary),
            **{f"{kind}_alarmed": mean(a in alarmed for a, k in attacks.items() if k == kind) for kind in sorted(set(attacks.values()))},
            "target": 0.98,
        })  # fmt: skip
    return rows


def run(data: Path, work: Path) -> list[dict[str, Any]]:
    """All figures of both sets."""
    return llm(data, work) + classifier(data, work)


def llm_pairs(path: Path) -> dict[str, tuple[list[str], list[str]]]:
    """The benign and the attack queries of each pair."""
    table = pq.read_table(path, columns=["pair", "label", "query"])
    pairs: dict[str, tuple[list[str], list[str]]] = {}
    for pair, label, query in zip(*(column.to_pylist() for column in table.columns), strict=True):
        pairs.setdefault(pair, ([], []))[label].append(query)
    return pairs


def window(rng: np.random.Generator, ordinary: list[str], attack: list[str], size: int, share: float) -> list[str]:
    """A principal's queries: benign ones (repeated only where there are too few), attack ones, in random order."""
    hostile = round(size * share)
    pick = rng.choice(len(ordinary), size - hostile, replace=size - hostile > len(ordinary))
    queries = [ordinary[i] for i in pick] + [attack[i] for i in rng.choice(len(attack), hostile, replace=False)]
    return [queries[i] for i in rng.permutation(size)]


def write(path: Path, principals: Sequence[tuple[str, list[str]]], column: str) -> None:
    """Principals' queries as inference rows, one a second, principal after principal."""
    names = pa.array([p for p, queries in principals for _ in queries]).dictionary_encode()
    texts = pa.array([q for _, queries in principals for q in queries], pa.large_string())
    model = pa.array(["m"] * len(texts)).dictionary_encode()
    pq.write_table(pa.table({"time": seconds(len(texts)), "principal": names, "model": model, column: texts}), path)


def write_vectors(path: Path, table: pa.Table) -> None:
    """Streams of a classifier's inputs as inference rows."""
    columns = {f"feature.{name}": table[name] for name in table.column_names if name.startswith("x")}
    names = pa.array([f"s{i}" for i in table["stream"].to_pylist()]).dictionary_encode()
    more = {"predicted": table["pred"].cast(pa.string()), "confidence": table["conf"].cast(pa.float32())}
    model = pa.array(["digits"] * len(table)).dictionary_encode()
    pq.write_table(pa.table({"time": seconds(len(table)), "principal": names, "model": model, **more, **columns}), path)


def seconds(rows: int) -> pa.Array:
    """Event times, a second apart."""
    return pa.array(START_US + np.arange(rows) * 1_000_000, pa.timestamp("us", tz="UTC"))


def judged(work: Path, name: str, reference: Path) -> tuple[Mapping[str, float], Mapping[str, float], set[str]]:
    """(last, highest combined score of each principal, principals with an alert) of a backtest with this detector alone."""
    config = work / "extraction.yaml"
    config.write_text("detectors:\n" + "".join(f"  {other}: null\n" for other in DETECTORS if other != "extraction"))
    outcome = backtest("inference", [work / f"{name}.parquet"], work / name, reference, config)
    table = outcome.of("extraction")
    last: dict[str, float] = {}
    highest: dict[str, float] = {}
    for key, score in zip(table["key"].to_pylist(), table["score"].to_pylist(), strict=True):
        last[key] = score
        highest[key] = max(score, highest.get(key, -np.inf))
    return last, highest, {alert["key"] for alert in outcome.last_versions("extraction")}


def level_of(benign: Sequence[float]) -> float:
    """The score that at most FALSE_POSITIVES of benign windows lie over."""
    return float(np.quantile(benign, 1 - FALSE_POSITIVES, method="higher"))


def averaged(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean of the measures of several rows."""
    return {name: mean(row[name] for row in rows) for name in ("tpr", "tpr_highest", "alarmed", "benign_alarmed")}


def mean(values: Any) -> float:
    """The mean of an iterable."""
    return round(float(np.mean(list(values))), 4)
