"""Campaigns: accounts that act as one among many, through `telltale backtest`. What the traffic is: `campaign_traffic`.

One benign day is the reference (`--reference`); then a day with a campaign is judged, for campaigns of several sizes and shares, and a
benign week, in which no alert is right. A campaign is found when an alert of its day names its members: most of the accounts that the
alert lists are the campaign's; `named` is how many it counts in its last published version.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.backtests import Outcome, backtest
from benchmarks.quality.campaign_traffic import DAY_US, START_US, Accounts, Corpus, accounts, benign_day, campaign_day, corpus, write
from engine.detectors import DETECTORS

SOURCES = ("Toolformer",)
CASES = ((500, 1.0), (500, 0.5), (500, 0.25), (100, 1.0), (50, 1.0))


def run(
    data: Path,
    work: Path,
    benign: int = 20_000,
    cases: Sequence[tuple[int, float]] = CASES,
    seeds: Sequence[int] = (0, 1, 2),
    days: int = 7,
) -> list[dict[str, Any]]:
    """One row per case (accounts of the campaign, its share of their requests), and one for benign weeks: a week for every seed."""
    config = work / "campaign.yaml"
    config.write_text("detectors:\n" + "".join(f"  {other}: null\n" for other in DETECTORS if other != "campaign"))
    found: dict[tuple[int, float], list[dict[str, Any]]] = {case: [] for case in cases}
    weeks: list[dict[str, Any]] = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        of = corpus(data, seed, SOURCES)
        who = accounts(rng, benign)
        baseline = work / f"{seed}-reference.parquet"
        write(baseline, [(0, benign_day(rng, who, of, 0, reference=True))], rng)
        for number, share in cases:
            found[number, share].append(one_day(work, config, baseline, rng, who, of, number, share))
        if days:
            weeks.append(benign_days(work, config, baseline, rng, who, of, days))
        baseline.unlink()
    rows: list[dict[str, Any]] = [
        {
            "set": "campaign", "accounts": number, "share": share, "among": benign, "days": len(parts),
            "found_within_a_day": sum(p["hours"] is not None for p in parts), "hours": [p["hours"] for p in parts],
            "named": [p["named"] for p in parts], "false_alerts": sum(p["false"] for p in parts),
            "rows_per_s": round(float(np.mean([p["rows_per_s"] for p in parts]))),
        }
        for (number, share), parts in found.items()
    ]  # fmt: skip
    if weeks:
        alerts = sum(w["alerts"] for w in weeks)
        rows.append({"set": "campaign", "accounts": 0, "among": benign, "days": days * len(weeks), "rows": sum(w["rows"] for w in weeks),
                     "alerts": alerts, "alerts_a_week": round(alerts / (days * len(weeks)) * 7, 2)})  # fmt: skip
    return rows


def one_day(
    work: Path, config: Path, baseline: Path, rng: np.random.Generator, who: Accounts, of: Corpus, number: int, share: float
) -> dict[str, Any]:
    """A day of the population with a campaign in it."""
    campaign = accounts(rng, number, prefix="user-9")
    outcome = judged(
        work, config, baseline, [(1, benign_day(rng, who, of, 1, False)), (1, campaign_day(rng, campaign, of, share=share))], rng
    )
    members, hours, named, false = set(campaign.names), None, None, 0
    for alert in outcome.last_versions("campaign"):
        listed = alert["evidence"]["members"]
        if np.mean([name in members for name in listed]) > 0.5:
            after = (alert["onset_us"] - START_US - DAY_US) / 3.6e9
            hours = after if hours is None else min(hours, after)
            named = max(named or 0, alert["evidence"]["accounts"])
        else:
            false += 1
    return {"hours": hours, "named": named, "false": false, "rows_per_s": outcome.summary["rows_per_s"]}


def benign_days(work: Path, config: Path, baseline: Path, rng: np.random.Generator, who: Accounts, of: Corpus, days: int) -> dict[str, Any]:
    """Benign days, on each of which one account in fifty is replaced by a new one of the same kind of population."""
    parts = []
    for day in range(1, days + 1):
        fresh = accounts(rng, len(who.names), prefix=f"user-day{day}")
        new = rng.random(len(who.names)) < 0.02
        who = Accounts(
            [b if n else a for a, b, n in zip(who.names, fresh.names, new.tolist(), strict=True)],
            np.where(new[:, None], fresh.mixture, who.mixture), np.where(new, fresh.product, who.product),
            np.where(new, fresh.parameters, who.parameters), np.where(new, fresh.zone_us, who.zone_us),
        )  # fmt: skip
        parts.append((day, benign_day(rng, who, of, day, False)))
    outcome = judged(work, config, baseline, parts, rng)
    return {"alerts": len(outcome.last_versions("campaign")), "rows": outcome.summary["rows"]}


def judged(work: Path, config: Path, baseline: Path, days: Sequence[tuple[int, dict[str, list]]], rng: np.random.Generator) -> Outcome:
    """A backtest over these days."""
    rows = work / "judged.parquet"
    write(rows, days, rng)
    return backtest("inference", [rows], work / "judged", baseline, config)
