"""What a detector is, and what it says: findings and scores.

A detector is made from frozen settings and holds no state of its own: all it learns goes into the arrays it declares, so
checkpoints need to know nothing about it.

    observe(batch, state)     fold a batch into the state; per-row results for `judge` go into `state.pending[name]`
    judge(state, now_us)      turn state into score rows and findings

A detector that can tell something from silence has `silent_from(state)`, the event time at which it would (None: nothing to tell), and
`silent(state)`, which tells it.

A detector that judges a population (drift of a model over all partitions) has two more verbs: `collect` closes the panes of a
partition's state into additive sketches, `merge` adds them to the population's state, and `judge` is given that one. One whose sketches
get smaller by what it has learned has two more for a group of processes: `follow` takes that over from the state of a population that
another process keeps, and `accepts` says whether a sketch was made by the same as we know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict

from engine.alerts import Severity
from engine.batch import Batch
from engine.evidence import Budget
from engine.sketch import Sketch
from engine.state import ArraySpec, State


class Settings(BaseModel):
    """A detector's frozen configuration; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Finding:
    """Something a detector saw, over a run of rows of one key: from `first_us` to `last_us`, `count` alarming rows, `score` at the peak.

    Findings of the same detector and key that follow each other within the alert's quiet time are one alert.
    `key` is the alert's key; it may be narrower than the state's (`host/device` or `host/device xid 79`).
    """

    detector: str
    stream: str
    key: str
    first_us: int
    last_us: int
    severity: Severity
    title: str
    summary: str
    score: float
    threshold: float
    count: int = 1
    p_value: float | None = None
    e_value: float | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    action: str = "NONE"
    quiet_us: int = 300_000_000
    """An alert ends by itself after this long without another finding."""
    resolved_us: int | None = None
    """When it ended, where the detector knows (a device that came back)."""
    subject: str = ""
    """The key whose state must not be evicted while this alarms; the finding's key, unless that is narrower."""
    sampled: tuple[str, ...] = ()
    """Of a population's finding: the keys under which the detector noted rows, some of which become its `samples` (`engine.samples`)."""
    told: Callable[[], Finding] | None = None
    """The same finding with title, summary, evidence and labels, where those are made only when an alert needs them: of many findings of an
    alert that goes on it is the worst. What is called must hold until the judgement has been applied."""

    def whole(self) -> Finding:
        """The finding with all that it says."""
        return self if self.told is None else self.told()


@dataclass(frozen=True)
class Scores:
    """Judged rows, column by column, all of one detector (or `detector.part`): what `scores.parquet` holds.

    `keys`: the distinct keys; `key`: int32[n] into them; `time_us`: int64[n]; `score`, `threshold`: float64[n]; `alarm`: bool[n].
    """

    detector: str
    stream: str
    keys: Sequence[str]
    key: np.ndarray
    time_us: np.ndarray
    score: np.ndarray
    threshold: np.ndarray
    alarm: np.ndarray


@dataclass
class Judgement:
    """What `judge` returns."""

    scores: list[Scores] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


class Detector(Protocol):
    """What the engine asks of a detector."""

    name: ClassVar[str]

    @property
    def streams(self) -> tuple[str, ...]: ...

    def arrays(self) -> Sequence[ArraySpec]: ...

    def observe(self, batch: Batch, state: State) -> None: ...

    def judge(self, state: State, now_us: int) -> Judgement: ...


class PopulationDetector(Detector, Protocol):
    """A detector that judges sketches merged over partitions."""

    def population_arrays(self) -> Sequence[ArraySpec]: ...

    def collect(self, state: State, before_us: int) -> list[Sketch]: ...

    def merge(self, sketches: Sequence[Sketch], state: State) -> None: ...


class FollowingDetector(PopulationDetector, Protocol):
    """A population detector that observes by what it has learned."""

    def follow(self, state: State) -> None: ...

    def accepts(self, sketch: Sketch) -> bool: ...


class SilenceDetector(Detector, Protocol):
    """A detector that tells something from silence."""

    def silent_from(self, state: State) -> int | None: ...

    def silent(self, state: State) -> Judgement: ...


@dataclass(frozen=True)
class Context:
    """What a detector may need besides its own settings. `pane_us`: length of a sketch's pane of event time. `baseline`: fitted
    reference arrays by name (empty: learn from the stream). `fitting`: every row is known good, and a baseline is being made of them.
    `about`: where the baseline came from. `approvals`: what operators let go of learned references (see `engine.approvals`)."""

    budget: Budget
    pane_us: int = 1_000_000
    baseline: dict[str, Any] = field(default_factory=dict)
    fitting: bool = False
    about: dict[str, Any] = field(default_factory=dict)
    approvals: Sequence[dict[str, Any]] = ()
