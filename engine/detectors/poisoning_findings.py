"""What the signals of poisoning say to a person."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.alerts import Severity
from engine.detectors.poisoning_windows import SEPARATOR, Due
from engine.finding import Finding, Scores

TAGS = ("AML.T0020", "OWASP LLM04:2025")


def to_finding(due: Due, threshold: float, quiet_us: int) -> Finding:
    """A test over its threshold, in words."""
    source, _, label = due.key.partition(SEPARATOR) if SEPARATOR in due.key else (due.key, "", "")
    labels = {"signal": due.signal}
    e = due.evidence
    sure = f"e = {due.e_value:.1e}" if due.e_value is not None else f"p = {due.p_value:.1e}"
    if due.signal == "copies":
        many, labels["label"] = e["distinct_sources"], label
        title = f"Near-duplicate flood labelled {label}: {e['copies']} copies from {many} source{'s' if many > 1 else ''}"
        summary = f"{e['copies']} rows within one window are copies of each other, where benign rows give {due.p_value:.1e} such buckets."
        key, subject = f"copies labelled {label}", source
    elif due.signal == "trigger":
        labels["label"] = label
        many = "" if e["distinct_sources"] is None else f" from {e['distinct_sources']} source{'s' if e['distinct_sources'] > 1 else ''}"
        title = f"A phrase that goes with label {label}: {e['rows_with_it']} rows{many}"
        summary = f"{e['rows_with_it']} of {due.rows} rows share a word n-gram that {e['rows_in_reference']} of the reference have, "
        summary += f"{e['with_label']} of them labelled {label} ({sure})."
        key, subject = f"trigger labelled {label}", ""
    elif due.signal == "signature":
        labels |= {"label": due.key}
        title = f"Rows of class {due.key} share a direction that benign ones do not have"
        summary = f"Spectral signature {e['ratio']:.1f} times its usual size over {due.rows} rows of {e['sources']} sources ({sure})."
        key, subject = f"class {due.key}", ""
    elif due.signal == "labels":
        labels |= {"source": source}
        title = f"{source} disagrees with the consensus"
        summary = f"{e['disagreed']} of {due.rows} labels differ where {e['expected']:.0f} are expected ({sure})."
        key, subject = source, source
    else:
        labels |= {"source": source, "label": label}
        what = "are unlike the class" if due.signal == "distance" else "are more alike than the class's"
        title = f"Rows of {source} labelled {label} {what}"
        summary = f"{e['statistic'].capitalize()}: {due.effect:+.3f} over {due.rows} rows ({sure})."
        key, subject = f"{source}/{label} {due.signal}", due.key
    severity: Severity = "error" if due.score > 2 * threshold else "warning"
    evidence = {**e, "window": {"from_us": due.since_us, "to_us": due.last_us, "rows": due.rows}}
    return Finding(
        "poisoning", "feedback", key, due.last_us, due.last_us, severity, title, summary, due.score, threshold,
        p_value=due.p_value, e_value=due.e_value, evidence=evidence, labels=labels, tags=TAGS, quiet_us=quiet_us, subject=subject,
        sampled=due.sampled,
    )  # fmt: skip


def scores_of(rows: Sequence[tuple[Due, float, bool]]) -> list[Scores]:
    """Score rows, `poisoning.<signal>` each."""
    out = []
    for signal in sorted({due.signal for due, _, _ in rows}):
        mine = [r for r in rows if r[0].signal == signal]
        keys = sorted({due.key.replace(SEPARATOR, "/") for due, _, _ in mine})
        at = {key: i for i, key in enumerate(keys)}
        out.append(Scores(
            f"poisoning.{signal}", "feedback", keys, np.array([at[d.key.replace(SEPARATOR, "/")] for d, _, _ in mine], np.int32),
            np.array([d.last_us for d, _, _ in mine], np.int64), np.array([d.score for d, _, _ in mine]),
            np.array([t for _, t, _ in mine]), np.array([a for _, _, a in mine], np.bool_),
        ))  # fmt: skip
    return out
