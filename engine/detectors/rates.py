"""Rates: shares of a model's rows that left what is usual: errors, timeouts, refusals, truncated and empty answers; and slow answers.

observe   counts rows by model and pane of event time: outcomes, and durations, times to first token and confidences in fixed bins
merge     adds the panes of all partitions; a quantity's first rows make its null (`engine.bounded`)
judge     one e-detector per (model, quantity), a step a pane; for a number on the shares over its reference's quantiles at once
          (`engine.watch`). An alarm's average run length follows from the false-alarm budget

`objectives` are promises that need no reference: at most 1 % errors, at most 5 % of answers slower than 2 s. Blind to a change that is
smaller than what the reference wanders by itself, and wrong when the reference is from an incident. Score: log10 of the e-detector's
value, higher is more anomalous.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from engine.batch import Batch
from engine.bounded import Direction, Quantity
from engine.finding import Context, Judgement, Settings
from engine.sketch import Sketch
from engine.state import ArraySpec, State
from engine.watch import Kind, Watch, WatchSettings

REFUSALS = frozenset({"content_filter", "refusal", "safety", "blocklist", "prohibited_content", "recitation", "guardrail_intervened"})
TRUNCATIONS = frozenset({"length", "max_tokens", "model_length", "model_context_window_exceeded"})
TIMEOUT = re.compile(r"time[d_ -]*out|deadline|\b(?:408|504)\b", re.IGNORECASE)
Share = Literal["error_rate", "timeout_rate", "refusal_rate", "truncation_rate", "empty_rate"]
Number = Literal["duration_s", "ttft_s", "confidence"]

QUANTITIES: dict[str, Quantity] = {
    "error_rate": Quantity("error_rate", "share of errors", "rise"),
    "timeout_rate": Quantity("timeout_rate", "share of timeouts", "rise"),
    "refusal_rate": Quantity("refusal_rate", "share of refusals"),
    "truncation_rate": Quantity("truncation_rate", "share of truncated answers"),
    "empty_rate": Quantity("empty_rate", "share of empty answers", "rise"),
    "duration_s": Quantity("duration_s", "duration", "both", (0.5, 0.9, 0.99)),
    "ttft_s": Quantity("ttft_s", "time to first token", "both", (0.5, 0.9, 0.99)),
    "confidence": Quantity("confidence", "confidence", "both", (0.1, 0.5, 0.9)),
}
TAGS: dict[str, tuple[str, ...]] = {
    "error_rate": ("AML.T0029",), "timeout_rate": ("AML.T0029", "OWASP LLM10:2025"), "refusal_rate": ("AML.T0054", "OWASP LLM01:2025"),
    "truncation_rate": ("AML.T0034", "OWASP LLM10:2025"), "empty_rate": ("AML.T0029",), "duration_s": ("AML.T0029", "OWASP LLM10:2025"),
    "ttft_s": ("AML.T0029", "OWASP LLM10:2025"),
}  # fmt: skip


class Objective(Settings):
    """At most the share `max` of a model's rows (shell pattern) may be so: failed (`quantity` a rate), or with a number `over` or `under` a
    value. Null learned from nothing: a promise is a promise."""

    quantity: Share | Number
    max: float = Field(gt=0, lt=1)
    over: float | None = None
    under: float | None = None
    model: str = "*"

    @model_validator(mode="after")
    def _whole(self) -> Objective:
        if (self.over is not None) + (self.under is not None) != int(not self.quantity.endswith("_rate")):
            raise ValueError(f"{self.quantity}: a number needs `over` or `under`, a rate neither")
        return self

    @property
    def name(self) -> str:
        """The quantity's name, as alerts have it."""
        if self.over is not None:
            return f"{self.quantity}_over_{self.over:g}"
        return f"{self.quantity}_under_{self.under:g}" if self.under is not None else f"{self.quantity}_objective"

    def watched(self) -> Quantity:
        """The share that is limited."""
        words = QUANTITIES[self.quantity].words
        if self.quantity.endswith("_rate"):
            return Quantity(self.name, words, "rise", limit=self.max)
        beyond = f"over {self.over:g}" if self.over is not None else f"under {self.under:g}"
        return Quantity(self.name, f"share of {words} {beyond}", "rise", limit=self.max)


class RatesSettings(WatchSettings):
    """`quantities`: what is watched (default: all); `direction`: what is a finding, by quantity, where the default does not suit;
    `objectives`: promises, whatever the reference says."""

    quantities: tuple[Share | Number, ...] = tuple(QUANTITIES)  # type: ignore[arg-type]
    direction: dict[Share | Number, Direction] = Field(default_factory=dict)
    objectives: tuple[Objective, ...] = ()


class Rates:
    """Outcomes and latency of inference traffic. The population's state: an e-detector per (model, quantity)."""

    name: ClassVar[str] = "rates"
    streams: ClassVar[tuple[str, ...]] = ("inference",)

    def __init__(self, settings: RatesSettings, context: Context):
        self.settings, self.pane_us = settings, context.pane_us
        chosen = [QUANTITIES[q] for q in settings.quantities]
        directed = [Quantity(q.name, q.words, settings.direction.get(q.name, q.direction), q.quantiles) for q in chosen]  # type: ignore[call-overload]
        self.quantities = (*directed, *(o.watched() for o in settings.objectives))
        kind = Kind("inference", self.quantities, lambda key: {"model": key}, TAGS)
        self.watch = Watch(self.name, {"model": kind}, settings, context)

    def arrays(self) -> Sequence[ArraySpec]:
        return ()  # panes come and go: they are free-form arrays, see `Watch.fold`

    def population_arrays(self) -> Sequence[ArraySpec]:
        return self.watch.population_arrays()

    def observe(self, batch: Batch, state: State) -> None:
        """Count the rows by model and pane; late rows are left out, their panes are closed."""
        codes, keys = batch.keys(("model",))
        columns = columns_of(batch, {*self.settings.quantities, *(o.quantity for o in self.settings.objectives)})
        chosen = [columns[q] for q in self.settings.quantities]
        for objective in self.settings.objectives:
            values = columns[objective.quantity]
            if values is None:
                chosen.append(None)
                continue
            if objective.over is not None:
                values = np.where(np.isnan(values), np.nan, values > objective.over)
            elif objective.under is not None:
                values = np.where(np.isnan(values), np.nan, values < objective.under)
            matches = np.array([fnmatchcase(key, objective.model) for key in keys])
            chosen.append(np.where(matches[codes], values, np.nan))
        self.watch.fold(state, "model", batch, np.where(batch.late, -1, codes), keys, batch.time_us // self.pane_us, chosen)

    def collect(self, state: State, before_us: int) -> list[Sketch]:
        """Sketches of the panes that end by then."""
        return self.watch.collect(state, before_us)

    def merge(self, sketches: Sequence[Sketch], state: State) -> None:
        """Learn from the panes, or make them due."""
        self.watch.merge(sketches, state)

    def fitted(self, states: Sequence[State], population: State) -> dict[str, Any]:
        """What a baseline keeps: the null of every series."""
        return self.watch.fitted(states, population)

    def judge(self, state: State, now_us: int) -> Judgement:
        """Take the panes that are due."""
        return self.watch.judge(state, now_us)


def columns_of(batch: Batch, wanted: set[str]) -> dict[str, np.ndarray | None]:
    """Each quantity by row, float[n]: 0 or 1 for a share, the value for a number, NaN where a row says nothing of it; None where no row
    does."""
    failed = matching(batch, "error", lambda value: True)
    out: dict[str, np.ndarray | None] = {
        "error_rate": failed, "timeout_rate": matching(batch, "error", lambda value: TIMEOUT.search(value) is not None),
    }  # fmt: skip
    for name, reasons in (("refusal_rate", REFUSALS), ("truncation_rate", TRUNCATIONS)):
        if "finish_reason" in batch.columns:
            out[name] = matching(batch, "finish_reason", lambda value, r=reasons: value.lower() in r, np.nan)  # type: ignore[misc]
    if "empty_rate" in wanted and "output_tokens" in batch.columns:
        tokens = batch.floats("output_tokens")
        out["empty_rate"] = np.where(np.isnan(tokens) | (failed == 1), np.nan, tokens == 0)
    for name in ("duration_s", "ttft_s", "confidence"):
        if name in batch.columns and name in wanted:
            out[name] = batch.floats(name)
    return {name: out.get(name) for name in wanted}


def matching(batch: Batch, column: str, test: Any, null: float = 0.0) -> np.ndarray:
    """float64[n]: 1 where the text passes the test, 0 where it does not, `null` where there is none."""
    if column not in batch.columns:
        return np.full(len(batch), null)
    codes, values = batch.codes(column)
    return np.array([null if v is None else float(test(v)) for v in values] or [null])[codes]
