"""What drift says of a window that alarms, and the score rows of all windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine.detectors.drift_reference import Reference, table_of
from engine.detectors.drift_statistics import distances, g_tests, log10_f_tail
from engine.detectors.drift_windows import SCALES, Tests, Windows, rested
from engine.finding import Finding, Scores

TAGS = ("NIST AI RMF MEASURE 2.4", "OWASP ML08:2023")


def finding(
    detector: str, windows: Windows, at: int, tests: Tests, threshold: float, reference: Reference, quiet_us: int,
    more: Callable[[], tuple[Sequence[dict[str, Any]], Sequence[str]]],
) -> Finding:  # fmt: skip
    """The finding of the window at place `at`. `more`: what is looked up where an alert needs it, the mixes and the unseen categories."""
    series, end_us, score = windows.names[windows.series[at]], int(windows.end_us[at]), -float(tests.log10_p[at])
    brief = Finding(
        detector, "inference", series, end_us, end_us, "warning" if tests.psi_net[at] < 0.5 else "error", title="", summary="",
        score=score, threshold=threshold, p_value=10.0 ** -min(score, 300.0), tags=TAGS, quiet_us=quiet_us,
        sampled=(series.rsplit("/", 1)[0].partition("{")[0],),
    )  # fmt: skip
    return replace(brief, told=lambda: whole(brief, windows, at, tests, reference, *more()))


def whole(
    brief: Finding, windows: Windows, at: int, tests: Tests, reference: Reference, mixes: Sequence[dict[str, Any]], unseen: Sequence[str]
) -> Finding:
    """The finding with all that it says."""
    counts, expected = windows.counts[at], windows.expected[at]
    model, feature = brief.key.rsplit("/", 1)
    rows = int(counts.sum())
    said = distances(expected, counts, reference.places)
    by_mix = [mix["by"] for mix in mixes if mix["explains"]]
    evidence: dict[str, Any] = {
        "statistic": "G", "g": float(tests.g[at]), "null": "F, G over how much blocks of the reference differ",
        "degrees_of_freedom": int(tests.df[at]), "shape": reference.shape,
        "scale_degrees_of_freedom": min(reference.scale_df, 1e9), "wander": float(tests.wander[at]),
        "psi_net": float(tests.psi_net[at]),
        "distances": {k: round(v, 9) for k, v in said.items() if k != "g"}, "psi": said["psi"],
        "window": {"from_us": int(windows.since_us[at]), "to_us": brief.last_us, "rows": rows},
        "reference": {"rows": int(reference.counts.sum()), "tau": reference.tau, "by_hour": reference.hours is not None} | reference.about,
        "histogram": table_of(expected, counts, reference.label),
    }  # fmt: skip
    if mixes:
        evidence["mix"] = list(mixes)
    if unseen:
        evidence["new_categories"] = list(unseen)
    title = f"{feature} of {model} drifted from its reference"
    if by_mix:
        title = f"The traffic mix of {model} changed by {', '.join(by_mix)}, and {feature} with it"
    named = f"; new: {', '.join(unseen[:5])}" if unseen else ""
    summary = f"PSI {said['psi']:.2f} over {rows} rows (p = {brief.p_value:.1e}); {reference.change(counts, expected)}{named}."
    labels = {"model": model, "feature": feature, "kind": "mix" if by_mix else "distribution"}
    return replace(brief, title=title, summary=summary, evidence=evidence, labels=labels)


def mix(by: str, counts: np.ndarray, expected: np.ndarray, reference: Reference, alpha: float) -> dict[str, Any]:
    """How much of a change is a change of the mix by hours or by segments, and how much goes on within them.

    `expected`: float64[36], of the window `counts` (see `drift_windows.Full`). The mix explains the change when what is left within is
    no more than `alpha` allows of a window of such a mix (the two parts need not add up: a mix can hide a change, Simpson's paradox).
    """
    rows = float(counts.sum())
    mixed = rested(expected, rows)
    g, df, _ = g_tests(mixed[None], counts[None])[0]
    m = mixed.sum()
    wander = max(1 + reference.tau * m * rows / (m + rows), reference.least_wander)
    p_within = float(10 ** log10_f_tail(g / wander / df, df * reference.shape, np.array(reference.scale_df)))
    p, e, q = (c / max(1.0, c.sum()) for c in (reference.counts, mixed, counts))
    return {
        "by": by, "mix_total_variation": round(float(np.abs(e - p).sum() / 2), 6),
        "within_total_variation": round(float(np.abs(q - e).sum() / 2), 6), "p_within": p_within, "explains": bool(p_within > alpha),
    }  # fmt: skip


def scores(name: str, windows: Windows, tests: Tests, threshold: np.ndarray, alarm: np.ndarray) -> list[Scores]:
    """Score rows: one block for the detector (the worst scale at each instant), one per scale as its part."""
    key, end, scale, score = windows.series.astype(np.int32), windows.end_us, windows.scale, -tests.log10_p

    def block(detector: str, rows: np.ndarray) -> Scores:
        return Scores(detector, "inference", windows.names, key[rows], end[rows], score[rows], threshold[rows], alarm[rows])

    order = np.lexsort((threshold - score, ~alarm, key, end))  # at each instant and series, the worst first
    first = np.ones(len(order), np.bool_)
    first[1:] = (key[order][1:] != key[order][:-1]) | (end[order][1:] != end[order][:-1])
    blocks = [block(name, order[first])]
    return blocks + [block(f"{name}.rows_{s}", of) for i, s in enumerate(SCALES) if len(of := np.flatnonzero(scale == i))]
