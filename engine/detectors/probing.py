"""Probing: does a principal ask for what only one who measures the model needs? Logit harvesting, and sweeps over parameters.

observe   marks requests that bias tokens the principal has not biased before and ask for log probabilities or a token or two ("harvest"),
          and requests with a combination of model and sampling parameters that the principal has not used before ("sweep")
judge     one e-detector per principal on the shares of such requests among its own (`kernels.edetector`), a step a request, from the
          first one after it biased a token, or used a second combination. The null is what the operator allows: `harvest_share`,
          `sweep_share`. A step spends what the budget allows in the event time since the row before it, whoever's, so all of a partition's
          steps together spend no more than the budget, however many principals there are

"Before" reaches back 256 biased tokens and 16 combinations. Last-layer extraction by logit bias needs thousands of tokens (Carlini et al.
2024, arXiv 2403.06634). Fails on one who harvests slower than the shares. A calibration run of one's own looks the same: `allow`. Score:
log10 of the e-value over what raises an alarm, so 0 is the threshold. A principal costs 2.7 KB.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np
import pyarrow.compute as pc
from pydantic import Field

from engine import samples, tally
from engine.batch import Batch
from engine.batch import distinct as distinct_of
from engine.detectors.campaign_signature import parameter_hash
from engine.finding import Context, Finding, Judgement, Scores, Settings
from engine.state import ArraySpec, State
from kernels import recent
from kernels.cardinality import add_distinct, distinct
from kernels.edetector import PARTS, edetector

TABLE = "probing.principal"
KINDS = ("harvest", "sweep")
ALTERNATIVES = (0.25, 0.6, 0.95)
LANES = len(KINDS) * len(ALTERNATIVES)
TOKENS, COMBINATIONS = 256, 16
FEW_TOKENS = 8
TITLES = {"harvest": "harvests logits token by token", "sweep": "sweeps over sampling parameters"}
TAGS = ("AML.T0024.002", "AML.T0040", "OWASP LLM10:2025", "AISVS 11.5.2")


class ProbingSettings(Settings):
    """`harvest_share`, `sweep_share`: of a principal's requests that may be so. `allow`: principals (shell patterns) that never alarm."""

    harvest_share: float = Field(0.02, gt=0, lt=0.25)
    sweep_share: float = Field(0.1, gt=0, lt=0.25)
    allow: tuple[str, ...] = ()
    quiet_s: float = Field(3600.0, gt=0)


class Probing:
    """Logit harvesting and parameter sweeps, per principal."""

    name: ClassVar[str] = "probing"
    streams: ClassVar[tuple[str, ...]] = ("inference",)

    def __init__(self, settings: ProbingSettings, context: Context):
        self.settings, self.budget = settings, context.budget

    def arrays(self) -> Sequence[ArraySpec]:
        return (
            ArraySpec("probing.process", "float64", (TABLE, PARTS, LANES)),
            ArraySpec("probing.begun", "bool", (TABLE,)),
            ArraySpec("probing.tokens", "uint64", (TABLE, TOKENS)),
            ArraySpec("probing.tokens.seen", "int64", (TABLE,)),
            ArraySpec("probing.registers", "uint8", (TABLE, 256)),
            ArraySpec("probing.combinations", "uint64", (TABLE, COMBINATIONS)),
            ArraySpec("probing.combinations.seen", "int64", (TABLE,)),
            *(spec for kind in KINDS for spec in samples.ring(f"probing.{kind}", TABLE)),
        )

    def observe(self, batch: Batch, state: State) -> None:
        """Mark the rows, and fold those of principals that have begun."""
        slots = batch.slots(state, TABLE, ("principal",))
        marks = np.column_stack([harvests(batch, slots, state), sweeps(batch, slots, state)])
        clock = np.empty(len(batch) + 1, np.int64)
        tally.climbed(state.records.get("probing.clock_us", int(batch.time_us[0])), tally.plain(batch.time_us, np.int64), clock)
        state.records["probing.clock_us"] = int(clock[-1])
        begun = state["probing.begun"]
        first = np.where(begun, -1, len(batch))  # a principal's process begins with the row after the first that was marked
        marked = np.flatnonzero((slots >= 0) & either(marks))
        np.minimum.at(first, slots[marked], marked)
        begun |= first < len(batch)
        rows = np.flatnonzero((slots >= 0) & (np.arange(len(batch)) > first[slots]))
        if len(rows):
            spend = np.diff(clock)[rows] * (self.budget.alpha(self.name, 1e9) / 1e9)
            state.pending.setdefault(self.name, []).append(self._fold(batch, rows, spend, slots, marks, state))
        for kind, name in enumerate(KINDS):
            mine = np.flatnonzero((slots >= 0) & marks[:, kind])
            samples.note(state, f"probing.{name}", batch, mine, slots[mine])

    def _fold(
        self, batch: Batch, rows: np.ndarray, spend: np.ndarray, all_slots: np.ndarray, all_marks: np.ndarray, state: State
    ) -> tuple[Any, ...]:
        slots, marks = all_slots[rows], all_marks[rows]
        keys, of_row = distinct_of(slots, len(state["probing.begun"]))
        nulls = np.repeat([self.settings.harvest_share, self.settings.sweep_share], len(ALTERNATIVES))
        null, alternative, power, weights = (
            np.tile(row, (len(keys), 1)) for row in (nulls, np.tile(ALTERNATIVES, len(KINDS)), np.ones(LANES), np.full(LANES, 1 / LANES))
        )
        process = state["probing.process"][keys]
        time_us = batch.time_us[rows]
        _, steps = edetector(
            marks.astype(np.float64), np.ones(len(rows)), spend, time_us.astype(np.float64), of_row.astype(np.int32),
            null, alternative, power, weights, process,
        )  # fmt: skip
        state["probing.process"][keys] = process
        places = {}
        for i in np.flatnonzero(steps.e >= 1).tolist():
            kind = int(steps.lane[i]) // len(ALTERNATIVES)
            mine = np.flatnonzero((all_slots == slots[i]) & all_marks[:, kind])
            places[i] = samples.noted(state, f"probing.{KINDS[kind]}", int(slots[i]), batch, mine[mine <= rows[i]])
        return slots, time_us, places, steps, marks

    def judge(self, state: State, now_us: int) -> Judgement:
        """Score the rows that were marked, and those at which a process reached its alarm."""
        judgement = Judgement()
        keys = state.table(TABLE).keys
        for slots, time_us, places, steps, marks in state.pending.pop(self.name, []):
            alarm = steps.e >= 1
            alarm[alarm] = [not any(fnmatchcase(keys[s], pattern) for pattern in self.settings.allow) for s in slots[alarm].tolist()]
            shown = np.flatnonzero(either(marks) | alarm)
            with np.errstate(divide="ignore"):
                score = np.maximum(np.log10(steps.e[shown]), -300.0)
            names, of_row = np.unique(slots[shown], return_inverse=True)
            judgement.scores.append(Scores(
                self.name, "inference", [keys[s] for s in names.tolist()], of_row.astype(np.int32), time_us[shown], score,
                np.zeros(len(shown)), alarm[shown],
            ))  # fmt: skip
            for i in np.flatnonzero(alarm).tolist():
                judgement.findings.append(self._finding(keys[slots[i]], int(slots[i]), int(time_us[i]), places[i], steps, i, state))
        return judgement

    def _finding(self, principal: str, slot: int, at_us: int, places: list[dict[str, Any]], steps: Any, i: int, state: State) -> Finding:
        kind = KINDS[int(steps.lane[i]) // len(ALTERNATIVES)]
        rows, hits = int(steps.rows[i]), int(steps.successes[i])
        allowed = self.settings.harvest_share if kind == "harvest" else self.settings.sweep_share
        tokens = round(float(distinct(state["probing.registers"][slot : slot + 1])[0]))
        evidence = {
            "kind": kind, "statistic": f"e-detector, Shiryaev-Roberts mixture of {len(ALTERNATIVES)} bets a kind",
            "null": f"share of such requests at most {allowed:g}",
            "window": {"from_us": int(steps.since_us[i]), "to_us": at_us, "rows": rows},
            "histogram": [
                {"bin": f"requests that {TITLES[kind]}", "reference": round(rows * allowed), "window": hits},
                {"bin": "others", "reference": rows - round(rows * allowed), "window": rows - hits},
            ],
            "requests": rows, "such_requests": hits, "share": round(hits / max(1, rows), 3), "allowed_share": allowed,
            "distinct_biased_tokens": tokens, "samples": places,
        }  # fmt: skip
        return Finding(
            self.name, "inference", principal, at_us, at_us, "error" if kind == "harvest" else "warning",
            title=f"{principal} {TITLES[kind]}: consistent with model extraction",
            summary=f"{hits} of {rows} requests are so, where {allowed:.0%} are allowed; {tokens} different tokens were biased.",
            score=float(np.log10(steps.e[i])), threshold=0.0, e_value=float(steps.e[i]), evidence=evidence, labels={"principal": principal},
            tags=TAGS, quiet_us=int(self.settings.quiet_s * 1e6),
        )  # fmt: skip


def either(marks: np.ndarray) -> np.ndarray:
    """bool[n]: rows of marks bool[n, 2] that are of one kind or the other."""
    return np.asarray(marks[:, 0] | marks[:, 1])


def harvests(batch: Batch, slots: np.ndarray, state: State) -> np.ndarray:
    """bool[n]: rows that bias a token which is new to the principal, and want its probability or a token or two."""
    out = np.zeros(len(batch), np.bool_)
    if "logit_bias_tokens" not in batch.columns:
        return out
    biased = batch.array("logit_bias_tokens")
    tokens = pc.fill_null(biased.flatten(), 0).to_numpy(zero_copy_only=False).astype(np.int64).astype(np.uint64)
    lengths = np.nan_to_num(biased.value_lengths().to_numpy(zero_copy_only=False).astype(np.float64)).astype(np.int64)
    of_row = np.repeat(np.arange(len(batch)), lengths)
    slot = slots[of_row].astype(np.int32)
    add_distinct(tokens, slot, state["probing.registers"])
    new = ~recent.repeats(slot, tokens, state["probing.tokens.seen"], state["probing.tokens"]) & (slot >= 0)
    out[of_row[new]] = True
    return out & (value_of(batch, "logprobs", 0.0) > 0) | out & (value_of(batch, "max_tokens", np.inf) <= FEW_TOKENS)


def sweeps(batch: Batch, slots: np.ndarray, state: State) -> np.ndarray:
    """bool[n]: rows whose model and parameters are new to the principal; its first ones are not."""
    before = state["probing.combinations.seen"] > 0
    new = ~recent.repeats(slots, parameter_hash(batch), state["probing.combinations.seen"], state["probing.combinations"]) & (slots >= 0)
    at = np.flatnonzero(new)
    first = at[np.unique(slots[at], return_index=True)[1]]
    new[first[~before[slots[first]]]] = False
    return new


def value_of(batch: Batch, name: str, missing: float) -> np.ndarray:
    """float64[n] of a column; `missing` where it is null or not there."""
    if name not in batch.columns:
        return np.full(len(batch), missing)
    values = batch.floats(name).astype(np.float64)
    return np.where(np.isnan(values), missing, values)
