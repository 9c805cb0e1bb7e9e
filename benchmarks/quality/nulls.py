"""False alarms on traffic in which nothing is wrong: every detector's measured rate against the budget that it was given.

A null is a stream without anything to find: synthetic rows, independent or with memory; real streams whose blocks were shuffled, which
keeps every value and the correlation within a block but leaves no change over time; real streams as they were recorded where they are
said to be normal. Each is one deployment with the same budget for every family, and every detector of its stream runs at once, as in
service. Where recorded times would cover minutes, rows stand a fixed time apart instead: spending follows event time, so the
number of false alarms that are tolerated grows with it.

A detector's row: event time over all its nulls, alerts opened, alerts a week with the exact 95 % interval of a Poisson count (Garwood
1936), what the budget allows. It fails when the interval lies over the budget. A new detector without a null here fails a test.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import signal, stats

from benchmarks.quality import hardware
from benchmarks.quality.drift import trace
from engine.backtest import backtest
from engine.config import parse
from engine.detectors import DETECTORS
from engine.evidence import WEEK_US

ROOT = Path(__file__).resolve().parent.parent.parent
START_US = 1_750_000_000_000_000
EVERY_US = 20_000_000
BLOCK = 64
Made = Iterator[tuple[str, pa.Table]]


@dataclass(frozen=True)
class Null:
    """`detectors`: whose null it is; `make`: (name, rows) of each deployment, from the folder of data and a generator."""

    kind: str
    stream: str
    detectors: tuple[str, ...]
    make: Callable[[Path, np.random.Generator], Made]
    settings: str = "{}"


def table(time_us: np.ndarray, **columns: Any) -> pa.Table:
    """Rows of one stream; texts become dictionaries, a text stands for all rows."""
    n, arrays = len(time_us), {"time": pa.array(time_us, pa.timestamp("us", tz="UTC"))}
    for name, values in columns.items():
        if isinstance(values, str):
            values = np.full(n, values, object)
        array = values if isinstance(values, pa.Array) else pa.array(values)
        arrays[name] = array.dictionary_encode() if pa.types.is_string(array.type) else array
    return pa.table(arrays)


def steady(n: int, every_us: int = EVERY_US) -> np.ndarray:
    """int64[n] event times, a fixed time apart."""
    return START_US + np.arange(n, dtype=np.int64) * every_us


def memory(generator: np.random.Generator, n: int, kept: float) -> np.ndarray:
    """A standard normal AR(1) that keeps that share of itself from row to row."""
    return signal.lfilter([np.sqrt(1 - kept**2)], [1, -kept], generator.normal(size=n))


def shuffled(generator: np.random.Generator, n: int, block: int = BLOCK) -> np.ndarray:
    """int64[n]: an order that moves blocks of rows as a whole."""
    blocks = np.array_split(np.arange(n), max(1, n // block))
    return np.concatenate([blocks[i] for i in generator.permutation(len(blocks))])


def inference(generator: np.random.Generator, n: int, kept: float) -> pa.Table:
    """Requests to two models by 40 users; with memory, durations, errors and lengths come in clusters."""

    def normal() -> np.ndarray:
        return memory(generator, n, kept) if kept else generator.normal(size=n)

    confidence = 1 / (1 + np.exp(-(1.5 + 1.2 * normal())))
    return table(
        steady(n), principal=np.array([f"u{i}" for i in generator.integers(0, 40, n)], object),
        model=np.array([f"m{i}" for i in generator.integers(0, 2, n)], object),
        input_tokens=np.exp(6 + normal()).astype(np.int32), output_tokens=np.exp(5 + normal()).astype(np.int32),
        duration_s=np.exp(normal()).astype(np.float32), ttft_s=np.exp(-1 + 0.5 * normal()).astype(np.float32),
        temperature=generator.choice([0.0, 0.7, 1.0], n).astype(np.float32),
        finish_reason=np.where(normal() > 1.3, "length", "stop").astype(object), error=np.where(normal() > 2.2, "timeout", None).astype(object),
        confidence=confidence.astype(np.float32), predicted=np.where(generator.random(n) < 0.5, "a", "b").astype(object),
        embedding=pa.FixedSizeListArray.from_arrays(pa.array((generator.normal(size=(n, 8)) + 0.3 * normal()[:, None]).astype(np.float32).ravel()), 8),
    )  # fmt: skip


def synthetic_inference(data: Path, generator: np.random.Generator) -> Made:
    for kept in (0.0, 0.9, 0.99):
        yield f"memory {kept}", inference(generator, 60_000, kept)


def lengths(data: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """(name, recorded times, tokens in, tokens out) of real request traces."""
    for name in ("code", "conv"):
        yield f"azure {name}", *trace(data, name)
    for name in ("conversation", "synthetic"):
        rows = pq.read_table(data / "inference" / "mooncake" / f"{name}.parquet")
        yield (
            f"mooncake {name}",
            rows["timestamp"].to_numpy() * 1000 + START_US,
            rows["input_length"].to_numpy(),
            rows["output_length"].to_numpy(),
        )


def shuffled_traces(data: Path, generator: np.random.Generator) -> Made:
    """Real lengths; the answer's length stands for its duration, 20 ms a token, and the prompt's for the time to the first one."""
    for name, _, tokens_in, tokens_out in lengths(data):
        order = shuffled(generator, len(tokens_in))
        a, b = tokens_in[order], tokens_out[order]
        yield name, table(
            steady(len(order)), principal="traffic", model="m", input_tokens=a.astype(np.int32), output_tokens=b.astype(np.int32),
            duration_s=(b * 0.02).astype(np.float32), ttft_s=(a * 2e-4).astype(np.float32),
        )  # fmt: skip


def shuffled_users(data: Path, generator: np.random.Generator) -> Made:
    rows = pq.read_table(data / "inference" / "user_traffic" / "submissions.parquet").sort_by("ts")
    rows = rows.take(pa.array(shuffled(generator, rows.num_rows)))
    granted = rows["granted"].to_numpy(zero_copy_only=False)
    yield "submissions", table(
        steady(rows.num_rows), principal=rows["user"].cast(pa.string()).combine_chunks(), model="m",
        input_tokens=rows["opening_len"].to_numpy().astype(np.int32), output_tokens=rows["output_len"].to_numpy().astype(np.int32),
        error=np.where(granted, None, "denied").astype(object),
    )  # fmt: skip


def shuffled_predictions(data: Path, generator: np.random.Generator) -> Made:
    rows = pq.read_table(data / "drift" / "acs_employment" / "employment_ma.parquet", columns=["prediction", "predicted_probability"])
    rows = rows.take(pa.array(shuffled(generator, 60_000)))
    share = rows["predicted_probability"].to_numpy()
    yield "employment", table(
        steady(60_000), principal="survey", model="m", predicted=np.where(rows["prediction"].to_numpy() > 0, "yes", "no").astype(object),
        confidence=np.maximum(share, 1 - share).astype(np.float32),
    )  # fmt: skip


def shuffled_prompts(data: Path, generator: np.random.Generator) -> Made:
    """Benign prompts of each pair, drawn again and again by 60 users."""
    rows = pq.read_table(data / "extraction" / "llm_queries" / "queries.parquet").to_pylist()
    for pair in sorted({r["pair"] for r in rows}):
        texts = [r["query"] for r in rows if r["pair"] == pair and not r["label"]]
        n = 12_000
        chosen = [texts[i] for i in generator.integers(0, len(texts), n)]
        users = np.array([f"u{i}" for i in generator.integers(0, 60, n)], object)
        yield pair, table(steady(n, 60_000_000), principal=users, model="m", prompt=pa.array(chosen, pa.large_string()))


def synthetic_evaluations(data: Path, generator: np.random.Generator) -> Made:
    for kept in (0.0, 0.9):
        n = 60_000
        yield f"memory {kept}", table(
            steady(n), model="m", name=np.array([("groundedness", "toxicity")[i] for i in generator.integers(0, 2, n)], object),
            score=(1 / (1 + np.exp(-(1.4 + memory(generator, n, kept))))).astype(np.float32),
            label=np.where(memory(generator, n, kept) > 1.4, "fail", "pass").astype(object),
        )  # fmt: skip


def synthetic_retrievals(data: Path, generator: np.random.Generator) -> Made:
    n = 60_000
    found = generator.integers(0, 9, n)
    yield "memory 0.9", table(
        steady(n), session="s", operation="retrieval", data_source="wiki", retrieved=found.astype(np.int32),
        top_score=np.where(found, 1 / (1 + np.exp(-memory(generator, n, 0.9))), np.nan).astype(np.float32),
    )  # fmt: skip


def synthetic_feedback(data: Path, generator: np.random.Generator) -> Made:
    """Real prompts labelled by 20 sources, who agree with the consensus in 95 % of rows, each source in its own pace."""
    queries = pq.read_table(data / "extraction" / "distillation_prompts" / "queries.parquet").column("instruction").to_pylist()
    n = 12_000
    label = np.where(generator.random(n) < 0.5, "good", "bad").astype(object)
    other = np.where(label == "good", "bad", "good").astype(object)
    yield "20 sources", table(
        steady(n, 60_000_000), source=np.array([f"s{i}" for i in np.minimum(generator.geometric(0.15, n), 20)], object),
        label=label, consensus=np.where(generator.random(n) < 0.95, label, other).astype(object),
        text=pa.array([queries[i] for i in generator.permutation(len(queries))[:n]], pa.large_string()),
    )  # fmt: skip


def synthetic_devices(data: Path, generator: np.random.Generator) -> Made:
    """Six metrics of eight GPUs a minute, with memory, loads that go together, and what DCGM says when all is well."""
    n, devices = 10_000, 8
    times = np.repeat(steady(n, 60_000_000), devices)
    load = np.column_stack([memory(generator, n, 0.9) for _ in range(devices)]).ravel()
    columns = {f"metric.m{i}": (0.5 * load + memory(generator, n * devices, 0.5)).astype(np.float32) for i in range(6)}
    reasons = np.where(load > 1.5, 4.0, 0.0).astype(np.float32)  # a power cap: the operator's choice
    yield "eight devices", table(
        times, host="h", device=np.array([f"gpu{i}" for i in range(devices)] * n, object), xid=np.zeros(n * devices, np.int32),
        **{"metric.clocks_event_reasons": reasons}, **columns,
    )  # fmt: skip


def recorded_devices(data: Path, generator: np.random.Generator) -> Made:
    """The parts of server metrics that their authors give for training."""
    for which in ("smd", "asd"):
        for path in sorted((data / "hardware" / which).glob("*.parquet")):
            rows = pq.read_table(path)
            yield path.stem, hardware.canonical(rows.filter(pa.compute.equal(rows["split"].cast(pa.string()), "train")), path.stem)


def rows_with_mistakes(data: Path, generator: np.random.Generator) -> Made:
    """Rows that break two rules as often as the contract allows, each independent of the others."""
    n = 60_000
    yield "1 % allowed, 1 % broken", table(
        steady(n), principal="p", model="m", input_tokens=np.where(generator.random(n) < 0.01, -1, 7).astype(np.int32),
        finish_reason=np.where(generator.random(n) < 0.01, "odd", "stop").astype(object),
    )  # fmt: skip


CONTRACT = {
    "quality": {"contracts": {"inference": {"columns": {"input_tokens": {"ge": 0}, "finish_reason": {"isin": ["stop"]}}, "max_rate": 0.01}}}
}
TRAFFIC = ("drift", "rates")
NULLS: tuple[Null, ...] = (
    Null("synthetic", "inference", (*TRAFFIC, "performance", "drift_embeddings", "extraction", "probing"), synthetic_inference),
    Null("shuffled blocks", "inference", TRAFFIC, shuffled_traces),
    Null("shuffled blocks", "inference", (*TRAFFIC, "campaign"), shuffled_users),
    Null("shuffled blocks", "inference", (*TRAFFIC, "performance"), shuffled_predictions),
    Null("shuffled", "inference", ("extraction", "campaign", "drift_embeddings"), shuffled_prompts),
    Null("synthetic", "evaluation", ("grounding",), synthetic_evaluations),
    Null("synthetic", "agent", ("grounding",), synthetic_retrievals),
    Null("synthetic", "inference", ("quality",), rows_with_mistakes, json.dumps(CONTRACT)),
    Null("shuffled", "feedback", ("poisoning",), synthetic_feedback),
    Null("synthetic", "hardware", ("hardware", "rules", "missing"), synthetic_devices),
    Null("as recorded", "hardware", ("hardware", "rules", "missing"), recorded_devices),
)


def poisson_interval(count: int, weeks: float) -> tuple[float, float]:
    """Exact 95 % interval of a rate, from a count over so many weeks.

    >>> [round(x, 2) for x in poisson_interval(3, 2.0)]
    [0.31, 4.38]
    """
    low = stats.chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    return float(low / weeks), float(stats.chi2.ppf(0.975, 2 * count + 2) / 2 / weeks)


def deployment(null: Null, rows: pa.Table, budget: float, folder: Path) -> dict[str, int]:
    """Alerts opened by detector."""
    families = ", ".join(f"{family}: {budget:g}" for family in sorted({row.family for row in DETECTORS.values()}))
    others = {name: None for name in DETECTORS if name not in null.detectors}
    chosen = json.dumps(others | json.loads(null.settings))
    pq.write_table(rows, folder / "rows.parquet")
    summary = backtest(
        parse(f"false_alarms_per_week: {{{families}}}\ndetectors: {chosen}"), null.stream, [folder / "rows.parquet"], folder / "out"
    )
    if summary["rows"] != rows.num_rows:
        raise RuntimeError(f"{null.stream}: {summary['rejected']}")
    return summary["alerts"]


def run(data: Path, work: Path, budgets: tuple[float, ...] = (1.0, 50.0), only: str = "") -> dict[str, Any]:
    """By detector and budget: weeks, alerts, rate with its interval, and the nulls one by one."""
    runs: list[dict[str, Any]] = []
    for seed, null in enumerate(n for n in NULLS if not only or only in n.detectors):
        for name, rows in null.make(data, np.random.default_rng(seed)):
            weeks = float(np.ptp(rows["time"].cast(pa.int64()).to_numpy())) / WEEK_US
            for budget in budgets:
                started = time.perf_counter()
                alerts = deployment(null, rows, budget, work)
                told = {d: int(alerts.get(d, 0)) for d in null.detectors}
                runs.append(
                    {
                        "kind": null.kind,
                        "stream": null.stream,
                        "name": name,
                        "budget": budget,
                        "weeks": weeks,
                        "rows": rows.num_rows,
                        "alerts": told,
                    }
                )
                print(
                    f"{null.kind} {null.stream} {name}: {budget:g} a week, {weeks:.2f} weeks, {told}, {time.perf_counter() - started:.0f} s",
                    flush=True,
                )
    return {
        "runs": runs,
        "detectors": {d: [measured(d, b, runs) for b in budgets] for d in DETECTORS if any(d in r["alerts"] for r in runs)},
    }


def measured(detector: str, budget: float, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One detector at one budget, over all its nulls."""
    mine = [r for r in runs if r["budget"] == budget and detector in r["alerts"]]
    weeks, alerts = sum(r["weeks"] for r in mine), sum(r["alerts"][detector] for r in mine)
    low, high = poisson_interval(alerts, weeks)
    return {
        "budget": budget, "nulls": len(mine), "rows": sum(r["rows"] for r in mine), "weeks": weeks, "alerts": alerts,
        "per_week": alerts / weeks, "low": low, "high": high, "kept": low <= budget,
    }  # fmt: skip


def shown(figures: dict[str, Any]) -> str:
    """The table, in Markdown."""
    lines = [
        "| detector | budget a week | nulls | rows | weeks | alerts | a week | 95 % interval | kept |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for detector, rows in figures["detectors"].items():
        lines += [
            f"| {detector} | {r['budget']:g} | {r['nulls']} | {r['rows']:,} | {r['weeks']:.1f} | {r['alerts']} | {r['per_week']:.2f} | "
            f"{r['low']:.2f} to {r['high']:.2f} | {'yes' if r['kept'] else '**no**'} |"
            for r in rows
        ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    """Run by itself: `python -m benchmarks.quality.nulls [--detector NAME] [--budgets 1 50]`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.nulls", description="False alarms where nothing is wrong.")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--detector", default="", choices=["", *DETECTORS])
    parser.add_argument("--budgets", nargs="+", type=float, default=[1.0, 50.0])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        print(shown(run(options.data, Path(work), tuple(options.budgets), options.detector)))


if __name__ == "__main__":
    main()
