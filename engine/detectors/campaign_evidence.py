"""Why a group of accounts is called a campaign: who, how many, what they have in common that benign accounts have not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.detectors.campaign_groups import Group, Population, squared_mean, state_p
from engine.detectors.campaign_signature import BLOCKS, COMPARED, SIZES, compared

NAMED = 50
SHOWN = ("bytes", "output", "parameters", "hours", "gaps")


def explained(names: Sequence[str], sums: np.ndarray, points: np.ndarray, group: Group, reference: Population) -> dict[str, Any]:
    """Evidence of a group of the accounts with these names, summed signatures [n, WIDTH] and whitened points [n, R]."""
    members = np.flatnonzero(group.inside)
    requests = sums[members, BLOCKS["requests"].start]
    along = points[members] @ points[members].mean(0)
    strongest = members[np.argsort(-along, kind="stable")]
    return {
        "statistic": "accounts of the half that was not searched in the group's region: binomial against the reference's accounts there",
        "null": "accounts lie in the region as often as the benign accounts of the reference do",
        "accounts": len(members),
        "share_of_accounts": round(len(members) / len(names), 4),
        "members": [names[i] for i in strongest[:NAMED].tolist()],
        "requests": int(requests.sum()),
        "requests_per_account": {f"p{q}": float(np.percentile(requests, q)) for q in (10, 50, 90)},
        "tested_on": {
            "accounts": group.fresh,
            "of": group.tested,
            "reference_accounts": group.known,
            "of_reference": len(reference.accounts),
        },
        "summed_state": {
            "squared_distance": round(group.length, 3),
            "floor": round(reference.floor, 3),
            "p": state_p(group.length, group.fresh, reference),
        },
        "alike": alike(points, members),
        "differs_in": differs_in(sums[members], reference),
        "histograms": {name: {"group": shares(sums[members].sum(0), name), "reference": shares(reference.profile, name)} for name in SHOWN},
    }


def alike(points: np.ndarray, members: np.ndarray) -> dict[str, float]:
    """Mean cosine between members, and between any two accounts."""
    unit = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-9)
    return {"members": round(squared_mean(unit[members]), 3), "all": round(squared_mean(unit), 3)}


def differs_in(sums: np.ndarray, reference: Population) -> dict[str, float]:
    """Each block's share of the squared distance between the group's mean and the population's, in the population's own spread."""
    off = np.square((compared(sums).mean(0) - reference.mean) / reference.scale)
    ends = np.cumsum([SIZES[name] for name in COMPARED])
    parts = {name: float(part.sum()) for name, part in zip(COMPARED, np.split(off, ends[:-1]), strict=True)}
    whole = sum(parts.values()) or 1.0
    return {name: round(part / whole, 3) for name, part in sorted(parts.items(), key=lambda p: -p[1])}


def shares(profile: np.ndarray, block: str) -> list[float]:
    """A block of a summed signature as shares of its counts."""
    counts = profile[BLOCKS[block]]
    return [round(float(c) / max(1, int(counts.sum())), 4) for c in counts]


def summary(evidence: dict[str, Any], score: float) -> str:
    """One sentence or two for a person."""
    test, each = evidence["tested_on"], evidence["requests_per_account"]
    blocks = " and ".join(list(evidence["differs_in"])[:2])
    return (
        f"{evidence['accounts']} accounts with {evidence['requests']} requests, {each['p50']:.0f} each, are alike in {blocks} "
        f"(cosine {evidence['alike']['members']:.2f}, any two accounts {evidence['alike']['all']:.2f}): {test['accounts']} of {test['of']} "
        f"accounts that they were not found on, {test['reference_accounts']} of {test['of_reference']} benign ones "
        f"(p = {10 ** -min(score, 300):.1e})."
    )
