"""What `performance` says of a window that alarms, and its score rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from engine.alerts import Severity
from engine.alerts import time_text as at
from engine.detectors import performance_reference as reference
from engine.detectors.performance_reference import CONFIDENCES, NONE, STRATA, Known
from engine.finding import Finding, Scores

QUARTERS = ("confidence 0 to .25", "confidence .25 to .5", "confidence .5 to .75", "confidence .75 to 1", "no confidence")
SHOWN = 32
TAGS = ("NIST AI RMF MEASURE 2.4", "OWASP ML08:2023")


class Verdict(NamedTuple):
    """What a test says of the last `blocks` blocks: score (-log10 p), whether it alarms, the effect, and the statistic by name."""

    score: float
    alarm: bool
    blocks: int
    effect: float
    statistic: dict[str, float]


def finding(
    detector: str, series: str, key: str, known: Known, ring: np.ndarray, verdict: Verdict, threshold: float, quiet_us: int,
    regime: dict[str, Any] | None,
) -> Finding:  # fmt: skip
    """The finding of the window that the verdict is about; `regime`: what it was compared with, where that is not the reference."""
    model, _, kind = series.rpartition("/")
    window, end_us = ring[-verdict.blocks :], int(ring[-1, 1])
    cells = window[:, 3:].sum(axis=0)
    evidence: dict[str, Any] = {
        "statistic": "G within strata" if kind == "realised" else "z of the expected accuracy", "values": verdict.statistic,
        "effect": round(verdict.effect, 6),
        "wander": known.tau if kind == "realised" else known.tau_estimate,
        "window": {"from_us": int(window[0, 0]), "to_us": end_us, "rows": int(window[:, 2].sum())},
        "reference": {"rows": int(known.confusion.sum() if kind == "realised" else known.predicted.sum())} | known.about,
    }  # fmt: skip
    if kind == "realised":
        k = len(known.classes) + 1
        confusion = cells[-k * k :].reshape(k, k)
        before, now = reference.realised(known, known.confusion), reference.realised(known, confusion)
        evidence |= {
            "null": "the reference's share of right predictions, within class and quarter of confidence", "before": before, "now": now,
            "right_by_class": reference.by_class(known, confusion, known.confusion),
            "histogram": histogram(known, known.confusion, confusion, [f"outcome {known.name(j)}" for j in range(k)]),
        }  # fmt: skip
        fell = now["accuracy"] < before["accuracy"]
        title = f"{model} is {'less' if fell else 'more'} often right than its reference"
        told = f"accuracy {before['accuracy']:.3f} before, {now['accuracy']:.3f} now"
        if regime is not None:
            title, evidence["since_us"] = f"The outcomes of {model} changed again", regime["from_us"]
            told += f", compared with the rows until {at(regime['from_us'])}"
        summary = f"{verdict.effect:.1%} of {int(window[:, 2].sum())} outcomes differ from what these predictions meant; {told}"
        severity: Severity = "error" if before["accuracy"] - now["accuracy"] > 0.1 else "warning" if fell or regime else "info"
    else:
        before = reference.metrics(known, known.predicted)
        now = reference.metrics(known, cells.reshape(-1, CONFIDENCES))
        evidence |= {
            "null": "the reference's expected accuracy, with the variance of its blocks", "before": before, "now": now,
            "calibrated": known.calibrated,
            "histogram": histogram(known, quartered(known.predicted), quartered(cells.reshape(-1, CONFIDENCES)), QUARTERS),
        }  # fmt: skip
        title = f"{model} is estimated to be less often right"
        summary = f"expected accuracy {before['accuracy']:.3f} before, {now['accuracy']:.3f} now, by the confidence of its predictions"
        severity = "error" if verdict.effect > 0.1 else "warning"
    p_value = 10.0 ** -min(verdict.score, 300.0)
    return Finding(
        detector, "inference", key, end_us, end_us, severity, title=title, summary=f"{summary} (p = {p_value:.1e}).", score=verdict.score,
        threshold=threshold, p_value=p_value, evidence=evidence, labels={"model": model, "kind": kind}, tags=TAGS,
        quiet_us=quiet_us, sampled=(model,),
    )  # fmt: skip


def quartered(counts: np.ndarray) -> np.ndarray:
    """int64[K + 1, 5]: rows by predicted class and quarter of the confidence's range, those without one last."""
    return np.column_stack([counts[:, :NONE].reshape(len(counts), STRATA, -1).sum(axis=2), counts[:, NONE]])


def histogram(known: Known, before: np.ndarray, now: np.ndarray, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Rows by predicted class and these columns, the 32 whose share changed most."""
    change = np.abs(now / max(1, now.sum()) - before / max(1, before.sum())).ravel()
    most = np.sort(np.argsort(-change, kind="stable")[:SHOWN])
    at = [divmod(i, len(columns)) for i in most.tolist() if before.flat[i] or now.flat[i]]
    return [{"bin": f"predicted {known.name(k)}, {columns[j]}", "reference": int(before[k, j]), "window": int(now[k, j])} for k, j in at]


def scores(name: str, rows: Sequence[tuple[str, int, float, float, bool]]) -> list[Scores]:
    """Score rows: a block for the detector, and one for each part."""
    keys = sorted({r[0] for r in rows})
    index = {k: i for i, k in enumerate(keys)}

    def block(detector: str, chosen: Sequence[tuple[str, int, float, float, bool]]) -> Scores:
        key, time_us, score, threshold, alarm = zip(*chosen, strict=True)
        return Scores(
            detector, "inference", keys, np.array([index[k] for k in key], np.int32), np.array(time_us, np.int64), np.array(score),
            np.array(threshold), np.array(alarm, np.bool_),
        )  # fmt: skip

    parts = {part: [r for r in rows if r[0].endswith(f"/{part}")] for part in ("realised", "estimated")}
    return [block(name, rows)] + [block(f"{name}.{part}", chosen) for part, chosen in parts.items() if chosen]
