"""Grounding: do a model's evaluations and retrievals say less good of it than before? Scores, verdicts, missing evaluations, documents.

observe   counts evaluations by (model, evaluation): scores in fixed bins, verdicts; requests served by model; retrievals by data source:
          documents found, their best score, and how many found nothing
merge     adds the panes of all partitions; of requests and evaluations it makes the share that is evaluated, by (model, evaluation)
judge     one e-detector per series and quantity, a step a pane (`engine.watch`). Of a score the shares over the reference's 10 %, 50 % and
          90 % quantiles are watched at once, so a change of its distribution shows as well as a drop

By default a change in either direction is a finding; `direction` says which one is bad (groundedness falls, toxicity rises). Blind to
evaluations that never came: their share is told only once it was there. Score: log10 of the e-detector's value, higher is more anomalous.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np
import orjson
from pydantic import Field

from engine.batch import Batch
from engine.bounded import Direction, Quantity
from engine.finding import Context, Judgement
from engine.sketch import NO_CELLS, Sketch, added_cells
from engine.state import ArraySpec, State
from engine.watch import NO_COUNTS, NO_PANES, Kind, Watch, WatchSettings

PASSED = frozenset(
    {"pass", "passed", "true", "yes", "correct", "relevant", "grounded", "faithful", "factual", "safe", "good", "ok", "success"}
)
FAILED = frozenset(
    {"fail", "failed", "false", "no", "incorrect", "irrelevant", "ungrounded", "unfaithful", "hallucinated", "unsafe", "bad", "error"}
)
RETRIEVALS = frozenset({"retrieval", "search_memory"})
EVALUATIONS = (Quantity("score", "score", "both", (0.1, 0.5, 0.9)), Quantity("pass_rate", "share that passes", "fall"))
COVERAGE = Quantity("evaluated", "share of evaluated requests", "fall")
RETRIEVED = (
    Quantity("empty_rate", "share of retrievals without a document", "rise"),
    Quantity("documents", "number of documents", "both", (0.1, 0.5, 0.9)),
    Quantity("top_score", "best score of a document", "fall", (0.1, 0.5, 0.9)),
)
MISINFORMATION, EMBEDDINGS = ("OWASP LLM09:2025",), ("OWASP LLM08:2025", "AML.T0070")
TAGS = {
    **dict.fromkeys(("score", "pass_rate", "evaluated"), MISINFORMATION),
    **dict.fromkeys(("empty_rate", "documents", "top_score"), EMBEDDINGS),
}


class GroundingSettings(WatchSettings):
    """`direction`: by evaluation (shell patterns, the first that fits), which change of its score is a finding: rise, fall or both."""

    direction: dict[str, Direction] = Field(default_factory=dict)


class Grounding:
    """Evaluations and retrievals. The population's state: an e-detector per series and quantity."""

    name: ClassVar[str] = "grounding"
    streams: ClassVar[tuple[str, ...]] = ("evaluation", "inference", "agent")

    def __init__(self, settings: GroundingSettings, context: Context):
        self.settings, self.pane_us = settings, context.pane_us
        kinds = {
            "evaluation": Kind("evaluation", EVALUATIONS, labels_of, TAGS, self._suited),
            "coverage": Kind("evaluation", (COVERAGE,), labels_of, TAGS, sampled="evaluation"),
            "served": Kind("inference", (Quantity("served", "requests"),), lambda key: {"model": key}, {}),
            "retrieval": Kind("agent", RETRIEVED, lambda key: {"data_source": key}, TAGS),
        }
        self.watch = Watch(self.name, kinds, settings, context)

    def _suited(self, key: str, quantity: Quantity) -> Quantity:
        if not quantity.quantiles:
            return quantity
        name = key.rpartition("/")[2]
        wanted = next((d for pattern, d in self.settings.direction.items() if fnmatchcase(name, pattern)), quantity.direction)
        return replace(quantity, direction=wanted)

    def arrays(self) -> Sequence[ArraySpec]:
        return ()  # panes come and go: they are free-form arrays, see `Watch.fold`

    def population_arrays(self) -> Sequence[ArraySpec]:
        return self.watch.population_arrays()

    def observe(self, batch: Batch, state: State) -> None:
        """Count the rows by series and pane; late rows are left out, their panes are closed."""
        panes = batch.time_us // self.pane_us
        if batch.stream == "evaluation":
            codes, keys = batch.keys(("model", "name"))
            columns = [batch.floats("score"), verdicts(batch)]
            self.watch.fold(state, "evaluation", batch, np.where(batch.late, -1, codes), keys, panes, columns)
        elif batch.stream == "inference":
            codes, keys = batch.keys(("model",))
            self.watch.fold(state, "served", batch, np.where(batch.late, -1, codes), keys, panes, [np.zeros(len(batch))])
        elif "operation" in batch.columns:
            operation, names = batch.codes("operation")
            retrieval = np.array([name in RETRIEVALS for name in names] or [False])[operation] & ~batch.late
            if retrieval.any():
                part, panes = batch.take(np.flatnonzero(retrieval)), panes[retrieval]
                codes, keys = part.keys(next(((c,) for c in ("data_source", "tool", "server", "agent") if c in part.columns), ()))
                self.watch.fold(state, "retrieval", part, codes, keys, panes, retrieved(part))

    def collect(self, state: State, before_us: int) -> list[Sketch]:
        """Sketches of the panes that end by then."""
        return self.watch.collect(state, before_us)

    def merge(self, sketches: Sequence[Sketch], state: State) -> None:
        """Make the share of evaluated requests, then learn from the panes or make them due."""
        served = {s.series.removeprefix("served:"): s.cells for s in sketches if s.series.startswith("served:")}
        others = [s for s in sketches if not s.series.startswith("served:")]
        evaluated = {s.series.removeprefix("evaluation:"): s.cells for s in others if s.series.startswith("evaluation:")}
        self.watch.merge([*others, *self._coverage(served, evaluated, state)], state)

    def _coverage(self, served: dict[str, np.ndarray], evaluated: dict[str, np.ndarray], state: State) -> list[Sketch]:
        """Evaluations among evaluations and requests, by (model, evaluation), from an evaluation's first pane on."""
        since: dict[str, int] = state.records.setdefault("grounding.since", {})
        for key, cells in evaluated.items():
            if key not in since and len(since) < self.settings.max_series:
                since[key] = int(cells[0, 0])
        out = []
        for key in sorted(k for k in since if k in evaluated or k.rpartition("/")[0] in served):
            requests, scores = served.get(key.rpartition("/")[0], NO_CELLS), evaluated.get(key, NO_CELLS)
            requests = requests[(requests[:, 0] >= since[key]) & (requests[:, 1] == 0)]
            scores = scores[scores[:, 1] < EVALUATIONS[0].width] * np.array([1, 0, 1])
            cells = added_cells(np.concatenate([requests, scores, scores + np.array([0, 1, 0])]))
            out.append(Sketch(self.name, f"coverage:{key}", NO_PANES, NO_COUNTS, cells=cells))
        return [s for s in out if len(s.cells)]

    def fitted(self, states: Sequence[State], population: State) -> dict[str, Any]:
        """What a baseline keeps: the null of every series."""
        return self.watch.fitted(states, population)

    def judge(self, state: State, now_us: int) -> Judgement:
        """Take the panes that are due."""
        return self.watch.judge(state, now_us)


def labels_of(key: str) -> dict[str, str]:
    """Model and evaluation of a key."""
    model, _, name = key.rpartition("/")
    return {"model": model, "evaluation": name}


def verdicts(batch: Batch) -> np.ndarray:
    """float64[n]: 1 where the label says that it passed, 0 that it failed, NaN where it says neither."""
    if "label" not in batch.columns:
        return np.full(len(batch), np.nan)
    codes, values = batch.codes("label")
    words = [(v or "").strip().lower() for v in values]
    return np.array([1.0 if w in PASSED else 0.0 if w in FAILED else np.nan for w in words] or [np.nan])[codes]


def retrieved(batch: Batch) -> list[np.ndarray]:
    """(found nothing, number of documents, best score) of retrievals, float[n], NaN where a row does not say.

    From `retrieved` and `top_score` where the producer sends them, else from the documents: a JSON list of objects with a `score`.
    A retrieval that failed says nothing of what there is to find.
    """
    count, best = (
        batch.floats(c).astype(np.float64) if c in batch.columns else np.full(len(batch), np.nan) for c in ("retrieved", "top_score")
    )
    if "documents" in batch.columns:
        for i, text in enumerate(batch.array("documents").to_pylist()):
            if text is not None and (np.isnan(count[i]) or np.isnan(best[i])):
                number, score = described(text)
                count[i] = number if np.isnan(count[i]) else count[i]
                best[i] = score if np.isnan(best[i]) else best[i]
    if "error" in batch.columns:
        failed = ~np.array(batch.array("error").is_null().to_numpy(zero_copy_only=False))
        count[failed], best[failed] = np.nan, np.nan
    return [np.where(np.isnan(count), np.nan, count == 0), count, best]


def described(text: str) -> tuple[float, float]:
    """(number of documents, best score) of a JSON list; NaN for what it does not say.

    >>> described('[{"id": "a", "score": 0.2}, {"score": 0.7}]'), described("[]"), described("no list")
    ((2.0, 0.7), (0.0, nan), (nan, nan))
    """
    try:
        documents = orjson.loads(text)
    except orjson.JSONDecodeError:
        return np.nan, np.nan
    if not isinstance(documents, list):
        return np.nan, np.nan
    scores = [d["score"] for d in documents if isinstance(d, dict) and isinstance(d.get("score"), int | float)]
    return float(len(documents)), float(max(scores)) if scores else np.nan
