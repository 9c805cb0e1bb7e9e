"""A population of accounts and a campaign among them, from real texts and real request times.

Benign accounts: prompts are the benign queries of `extraction/llm_queries` (of one to three of its sets, by the account), half of them
for reference traffic and half for judged traffic; how many requests on a day, and when, is a real user's day of `inference/user_traffic`,
moved to the account's time zone. Two accounts in five belong to one of 20 products, each with a prompt template and parameters of its own,
the same for all its accounts: they are alike, and no campaign. Some products grow, and accounts come and go.

A campaign: K accounts, each with `requests` prompts a day of `extraction/distillation_prompts` (no prompt twice, until all are used), in
paraphrased templates, with parameters that vary, in working hours of its own. `share` is the campaign's part of its accounts' requests;
the rest is traffic like a benign account's. Names tell nothing, and every request may come from another address.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DAY_US = 86_400_000_000
START_US = 1_767_571_200_000_000
"""A Monday, midnight UTC."""
PRODUCTS = 20
MOST_REQUESTS = 300
OPENINGS = (
    "You are an assistant for {}. Answer briefly.\n\n", "Role: {} support agent. Use only what is given.\n---\n", "[{}] Task for the model:\n",
    "### Instruction ({})\nClassify the text.\n### Text\n", "As part of the {} workflow, read this and reply in JSON.\n",
)  # fmt: skip
SUBJECTS = (
    "travel desk", "claims review", "newsroom", "film club", "billing", "recruiting", "logistics", "legal intake", "pharmacy", "school portal",
    "real estate", "garage", "insurance", "sales notes", "meeting minutes", "city council", "bank chat", "game studio", "library", "hotel",
)  # fmt: skip
CLOSINGS = ("", "\nAnswer:", "\n### Response\n", "\nReturn one line.", "\nThink it over, then answer.")
PARAMETERS = ((1.0, 1.0, 1024), (0.7, 1.0, 512), (0.0, 1.0, 256), (0.2, 0.9, 2048), (1.0, 0.95, 4096), (0.5, 1.0, 512))
ASKED = (
    "Write a detailed answer to",
    "Give a complete, well reasoned answer to",
    "Answer as an expert would",
    "Respond thoroughly to",
    "Solve",
)
THING = ("the following request", "this task", "the instruction below", "this question", "the next instruction")
WANTED = ("Explain every step.", "Show your reasoning step by step.", "Include the intermediate steps.", "Reason first, then answer.", "")


@dataclass(frozen=True)
class Corpus:
    """`benign`: texts by set, reference half and judged half; `attack`: distillation prompts; `days`: users' days, times of day in us."""

    benign: tuple[tuple[list[str], list[str]], ...]
    attack: list[str]
    days: list[np.ndarray]


@dataclass(frozen=True)
class Accounts:
    """Benign accounts: name, mixture over the text sets, product (-1: none), parameters, offset of the time zone, liveliness."""

    names: list[str]
    mixture: np.ndarray
    product: np.ndarray
    parameters: np.ndarray
    zone_us: np.ndarray


def corpus(data: Path, seed: int, sources: Sequence[str]) -> Corpus:
    """Read the sets; `sources`: of the distillation prompts."""
    rng = np.random.default_rng(seed)
    table = pq.read_table(data / "extraction/llm_queries/queries.parquet", columns=["pair", "label", "query"]).to_pylist()
    benign = []
    for pair in sorted({row["pair"] for row in table}):
        texts = [row["query"] for row in table if row["pair"] == pair and row["label"] == 0]
        order = rng.permutation(len(texts))
        benign.append(([texts[i] for i in order[::2]], [texts[i] for i in order[1::2]]))
    prompts = pq.read_table(data / "extraction/distillation_prompts/queries.parquet").to_pylist()
    attack = [f"{row['instruction']} {row['input'] or ''}".strip() for row in prompts if row["source"] in sources]
    traffic = pq.read_table(data / "inference/user_traffic/submissions.parquet", columns=["user", "ts"])
    time_us = traffic["ts"].cast(pa.int64()).to_numpy()
    codes = np.unique(np.array(traffic["user"].to_pylist()), return_inverse=True)[1]
    day = codes.astype(np.int64) * 1_000_000 + time_us // DAY_US
    order = np.lexsort((time_us, day))
    cut = np.flatnonzero(np.diff(day[order])) + 1
    days = [part[:MOST_REQUESTS] % DAY_US for part in np.split(time_us[order], cut)]
    return Corpus(tuple(benign), [attack[i] for i in rng.permutation(len(attack))], days)


def accounts(rng: np.random.Generator, number: int, products: int = PRODUCTS, prefix: str = "user") -> Accounts:
    """A benign population. Sizes of products differ as 1, 1/2, 1/3, ..."""
    weights = 1 / np.arange(1, products + 1)
    product = np.where(rng.random(number) < 0.4, rng.choice(products, number, p=weights / weights.sum()), -1)
    own = rng.integers(0, len(PARAMETERS), number)
    return Accounts(
        [f"{prefix}-{i:06d}" for i in rng.permutation(number)], rng.dirichlet([0.3] * 3, number), product,
        np.where(product >= 0, product % len(PARAMETERS), own), rng.choice(24, number) * 3_600_000_000,
    )  # fmt: skip


def benign_day(rng: np.random.Generator, who: Accounts, of: Corpus, day: int, reference: bool) -> dict[str, list]:
    """One day's requests of those accounts that are active on it."""
    weekend = day % 7 >= 5
    active = np.flatnonzero(rng.random(len(who.names)) < (0.6 if weekend else 0.8))
    chosen = rng.integers(0, len(of.days), len(active))
    rows: dict[str, list] = {name: [] for name in ("time", "principal", "prompt", "parameters")}
    for account, which in zip(active.tolist(), chosen.tolist(), strict=True):
        times = of.days[which]
        n = len(times)
        rows["time"].append((times + who.zone_us[account] + rng.integers(0, 3_600_000_000)) % DAY_US)
        rows["principal"] += [who.names[account]] * n
        rows["prompt"] += own_prompts(rng, who, account, of, n, reference)
        rows["parameters"] += [PARAMETERS[who.parameters[account]]] * n
    return rows


def own_prompts(rng: np.random.Generator, who: Accounts, account: int, of: Corpus, n: int, reference: bool) -> list[str]:
    """Prompts of a benign account, in its product's template."""
    opening, closing = template(who.product[account])
    sets = rng.choice(len(of.benign), n, p=who.mixture[account])
    picks = rng.random(n)
    pools = [pool[0 if reference else 1] for pool in of.benign]
    return [opening + pools[s][int(p * len(pools[s]))] + closing for s, p in zip(sets.tolist(), picks.tolist(), strict=True)]


def template(product: int) -> tuple[str, str]:
    """What a product puts before and after what its users say."""
    if product < 0:
        return "", ""
    return OPENINGS[product % len(OPENINGS)].format(SUBJECTS[product % len(SUBJECTS)]), CLOSINGS[product // len(OPENINGS) % len(CLOSINGS)]


def campaign_day(
    rng: np.random.Generator, who: Accounts, of: Corpus, requests: int = 26, share: float = 1.0, first: int = 0
) -> dict[str, list]:
    """One day of a campaign by all these accounts; `first`: prompts that were used before."""
    rows: dict[str, list] = {name: [] for name in ("time", "principal", "prompt", "parameters")}
    own = round(requests * (1 / share - 1))
    for account, name in enumerate(who.names):
        start = rng.integers(0, DAY_US)
        worked = (start + np.sort(rng.random(requests)) * 10 * 3_600_000_000).astype(np.int64) % DAY_US
        at = first + account * requests
        prompts = [paraphrased(rng, of.attack[i % len(of.attack)]) for i in range(at, at + requests)]
        rows["time"].append(np.concatenate([worked, rng.integers(0, DAY_US, own)]))
        rows["principal"] += [name] * (requests + own)
        rows["prompt"] += prompts + own_prompts(rng, who, account, of, own, reference=False)
        chosen = [PARAMETERS[i] for i in rng.integers(0, 3, requests)]
        rows["parameters"] += chosen + [PARAMETERS[who.parameters[account]]] * own
    return rows


def paraphrased(rng: np.random.Generator, prompt: str) -> str:
    """The prompt in one of the campaign's templates."""
    asked, thing, wanted = (words[rng.integers(len(words))] for words in (ASKED, THING, WANTED))
    if rng.random() < 0.5:
        return f"{asked} {thing}. {wanted}\n\n{prompt}"
    return f"{prompt}\n\n{asked} {thing}. {wanted}"


def write(path: Path, days: Sequence[tuple[int, dict[str, list]]], rng: np.random.Generator) -> int:
    """Rows of these days as a Parquet file of the inference stream, in order of time; returns how many."""
    time_us = np.concatenate([START_US + day * DAY_US + np.concatenate(rows["time"]) for day, rows in days if rows["time"]])
    order = np.argsort(time_us, kind="stable")
    prompts = [text for _, rows in days for text in rows["prompt"]]
    principals = [name for _, rows in days for name in rows["principal"]]
    parameters = np.array([p for _, rows in days for p in rows["parameters"]])
    bytes_ = np.array([len(text) for text in prompts])
    table = pa.table({
        "time": pa.array(time_us, pa.timestamp("us", tz="UTC")), "principal": pa.array(principals).dictionary_encode(),
        "model": pa.array(["m"] * len(prompts)).dictionary_encode(), "prompt": pa.array(prompts, pa.large_string()),
        "input_tokens": pa.array(bytes_ // 4 + 1, pa.int32()),
        "output_tokens": pa.array((np.minimum(rng.lognormal(4.5, 1.0, len(prompts)), parameters[:, 2]) + 1).astype(np.int32)),
        "temperature": pa.array(parameters[:, 0], pa.float32()), "top_p": pa.array(parameters[:, 1], pa.float32()),
        "max_tokens": pa.array(parameters[:, 2].astype(np.int32), pa.int32()),
    })  # fmt: skip
    pq.write_table(table.take(pa.array(order)), path, row_group_size=32_768)
    return len(prompts)
