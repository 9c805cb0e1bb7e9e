"""Many tests, one budget: who may spend how much of the false alarms that are tolerated, and which of many e-values are discoveries.

`Spending` divides a budget of B false alarms a week among the series of a detector that are active. While m are, each may add
B dt / (week m) to the expected number of false alarms in an event time dt. A series is active from its first row until it had none for a
whole day (UTC); m steps only when a series comes or a day begins, and each series is charged the integral of dt / m since its own last
step. So whatever comes and goes, all of them spend at most B T / week in a time T, and expect no more false alarms (`kernels.edetector`).
For one series that never goes, spending 1 / A a step is an average run length of at least A = week m / (B step).

`e_bh` and `ELond` control the share of false ones among the discoveries instead, under any dependence: at one instant, and over time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from engine.evidence import WEEK_US
from engine.state import NEVER, ArraySpec, State

DAY_US = 24 * 3600 * 1_000_000


class Spent(NamedTuple):
    """By step, float64[n]. `step`: what it may add to the expected number of false alarms; `pane`: what one without a gap before it may,
    1 / A; `clock`: at least what its series has spent in all."""

    step: np.ndarray
    pane: np.ndarray
    clock: np.ndarray


@dataclass(frozen=True)
class Spending:
    """The budget of one detector's series. `table`: their key table; `per_week`: false alarms tolerated of all of them together."""

    table: str
    per_week: float
    pane_us: int

    def arrays(self) -> Sequence[ArraySpec]:
        """State by series: the last day (UTC) it had rows in, and the clock when it was charged last."""
        return (ArraySpec(f"{self.table}.day", "int64", (self.table,), NEVER), ArraySpec(f"{self.table}.clock", "float64", (self.table,)))

    @property
    def per_pane(self) -> float:
        """False alarms tolerated in one pane of event time, of all series together."""
        return self.per_week * self.pane_us / WEEK_US

    def spend(self, state: State, panes: np.ndarray, slots: np.ndarray) -> Spent:
        """What each step may spend, for steps in the order of their panes, one of a slot in a pane."""
        parts = []
        days = panes * self.pane_us // DAY_US
        for day in np.unique(days).tolist():
            rows = np.flatnonzero(days == day)
            parts.append(self._spend_day(state, day, panes[rows], slots[rows]))
        return Spent(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _spend_day(self, state: State, day: int, panes: np.ndarray, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        seen, charged = state[f"{self.table}.day"], state[f"{self.table}.clock"]
        active = seen >= day - 1
        of_step, first = np.unique(slots, return_index=True)
        comes = first[~active[of_step]]
        ticks, place = np.unique(panes, return_inverse=True)
        sharing = active.sum() + np.searchsorted(np.sort(panes[comes]), ticks, side="right")
        clock = state.records.setdefault(f"{self.table}.clock", {"value": 0.0, "pane": int(ticks[0]) - 1})
        gaps = np.minimum(np.diff(ticks, prepend=clock["pane"]), DAY_US // self.pane_us)
        values = np.cumsum(np.concatenate([[clock["value"]], self.per_pane * gaps / sharing]))[1:]
        clock["value"], clock["pane"] = float(values[-1]), int(ticks[-1])
        now, rate = values[place], (self.per_pane / sharing)[place]
        charged[slots[comes]] = now[comes] - rate[comes]
        order = np.argsort(slots, kind="stable")
        before = np.empty(len(slots))
        before[order[1:]] = now[order[:-1]]
        before[first] = charged[of_step]
        last = len(slots) - 1 - np.unique(slots[::-1], return_index=True)[1]
        charged[of_step], seen[of_step] = now[last], day
        return now - before, rate, now


def e_bh(e_values: np.ndarray, level: float) -> np.ndarray:
    """bool[m]: the hypotheses that e-BH rejects: the k largest e-values, for the largest k whose k-th is at least m / (level k).

    The expected share of false ones among them is at most `level`, whatever their dependence. Source: Wang and Ramdas, "False discovery
    rate control with e-values", JRSS B 2022.

    >>> e_bh(np.array([1.0, 90.0, 45.0, 0.0]), 0.05).tolist()
    [False, True, True, False]
    """
    m = len(e_values)
    order = np.argsort(-e_values, kind="stable")
    enough = np.flatnonzero(e_values[order] * np.arange(1, m + 1) * level >= m)
    rejected = np.zeros(m, np.bool_)
    if len(enough):
        rejected[order[: enough[-1] + 1]] = True
    return rejected


@dataclass
class ELond:
    """e-LOND: e-values one after the other, each accepted or not at once; the expected share of false discoveries is at most `level`, at
    any time and under any dependence. The t-th is a discovery when e >= 1 / (level g(t) (d + 1)), with d discoveries before it and g
    summing to 1: g(t) = 1 / (t (t + 1)). Source: Xu and Ramdas, "Online multiple testing with e-values", AISTATS 2024.

    >>> test = ELond(0.1)
    >>> [test.discovery(e) for e in (20.0, 10.0, 59.0, 100.0)]
    [True, False, False, True]
    """

    level: float
    tests: int = 0
    discoveries: int = 0

    def discovery(self, e_value: float) -> bool:
        """Whether the next e-value is one."""
        self.tests += 1
        share = self.level / (self.tests * (self.tests + 1)) * (self.discoveries + 1)
        found = e_value * share >= 1
        self.discoveries += found
        return bool(found)
