"""The population: what all partitions saw together. Sketches of the same pane are added, and judged once every partition is past it.

Each partition keeps its open panes in its own state until the slowest partition has passed them, so a merged pane is complete, and
the result does not depend on how rows were spread over partitions or in which order partitions were read. A partition that is
replayed after a crash hands panes over again; those that were merged already are recognised by their frontier and dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine import samples
from engine.alerts import Alert
from engine.finding import Detector, Judgement, Scores
from engine.lifecycle import Lifecycle
from engine.sketch import Sketch, merged
from engine.snapshot import Snapshot
from engine.state import NEVER, State
from engine.worker import Worker, as_population, of_population
from streams.records import Partition, RawBatch, Reject

NAME = "population"
Lag = Callable[[Partition], "int | None"]


class Population:
    """State and open alerts of the detectors that judge merged sketches, of the partitions that this process has."""

    topic: str | None = None
    """The topic through which processes add their sketches; None: each has a population of its own."""
    next_offset = -1
    """The first record of that topic that is not in the state."""

    def __init__(
        self, detectors: Mapping[str, Detector], config_hash: str, snapshot: Snapshot | None, pane_us: int, lateness_us: int, idle_s: float
    ):
        self.detectors = {n: as_population(d) for n, d in detectors.items() if of_population(d)}
        self.config_hash = config_hash
        self.streams = {s for d in self.detectors.values() for s in d.streams}
        self.pane_us = pane_us
        self.lateness_us = lateness_us
        self.idle_s = idle_s
        self.waited_s = 0.0
        """Time spent waiting for records; an idle partition is one that gave none while we waited, not while we were busy."""
        self.heard: dict[str, float] = {}
        self.changes = 0
        """As of a worker."""
        self.restore(snapshot)

    def restore(self, snapshot: Snapshot | None) -> None:
        """Go on from a checkpoint; None: from nothing."""
        self.changes += 1
        self.state = snapshot.state if snapshot else State()
        self.frontiers: dict[str, int] = dict(snapshot.meta["frontiers"]) if snapshot else {}
        for detector in self.detectors.values():
            self.state.declare(detector.population_arrays())
        self.lifecycle = Lifecycle(self.state, self.config_hash)

    def heard_from(self, worker: Worker) -> None:
        """Note that a partition is ours now, or gave rows."""
        self.heard[worker.name] = self.waited_s

    def advance(self, workers: Sequence[Worker], lag: Lag, final: bool = False) -> tuple[list[Scores], list[Alert]]:
        """Merge and judge the panes that every partition has passed; `final`: all panes, no row will follow. `lag`: records that a
        partition still has to give, None where that is not known."""
        workers = [w for w in workers if self.concerns(w)]
        before_us = self._passed(workers, lag, final)
        sketches: list[Sketch] = []
        for worker in workers:
            if before_us > worker.state.closed_us:
                self.changes += 1
                merged_to = self.frontiers.get(worker.name, NEVER // 2)
                sketches += [s.since(-(-merged_to // self.pane_us)) for s in worker.collect(before_us, self.pane_us)]
                self.frontiers[worker.name] = max(merged_to, before_us)
        return self.judged(sketches, before_us) if sketches else ([], [])

    def judged(self, sketches: Sequence[Sketch], before_us: int) -> tuple[list[Scores], list[Alert]]:
        """Add sketches of panes that are complete, and judge all until `before_us`."""
        self.changes += 1
        judged = Judgement()
        alerts: list[Alert] = []
        samples.merge([s for s in sketches if s.detector == samples.DETECTOR], self.state)
        for name, detector in self.detectors.items():
            detector.merge(merged([s for s in sketches if s.detector == name]), self.state)
            said = detector.judge(self.state, before_us)
            judged.scores += said.scores
            judged.findings += said.findings
        findings = [samples.attached(f, self.state) for f in judged.findings]
        for stream in sorted(self.streams):
            alerts += self.lifecycle.apply([f for f in findings if f.stream == stream], stream, before_us)
        samples.trim(self.state)
        return judged.scores, alerts

    def receive(self, raw: RawBatch) -> list[Reject]:
        """Take in records of `topic`."""
        raise AssertionError("there is no topic of sketches")

    def follow(self, state: State) -> None:
        """Know what a population that another process keeps has learned."""
        raise AssertionError("no other process has a population of ours")

    def snapshot(self, outbox: list[dict], marks: Mapping[str, Any] | None = None) -> Snapshot:
        """All that a restart needs. `marks`: as of a worker."""
        self.lifecycle.save()
        return Snapshot(self.state, -1, outbox, {"frontiers": self.frontiers, "marks": marks or {}})

    def concerns(self, worker: Worker) -> bool:
        """Whether a partition has rows for these detectors, or may yet have: it has given none so far, or none of a known stream."""
        seen = worker.state.watermarks.keys()
        return bool(self.streams & seen) or (not seen and (worker.feeds is None or worker.feeds in self.streams))

    def _passed(self, workers: Sequence[Worker], lag: Lag, final: bool) -> int:
        """The end of the last pane that is complete: no partition will add to it that is not idle.

        A partition is idle that gave nothing while we waited and has nothing to give; it would hold up all others for ever. One of
        which it is not known whether it has something to give is not idle.
        """
        marks = {w: self.mark_of(w) for w in workers}
        if not any(m > NEVER for m in marks.values()):
            return NEVER
        active = [m for w, m in marks.items() if not self.idle(w, lag)]
        if active and not final:
            return NEVER if min(active) == NEVER else min(active) // self.pane_us * self.pane_us
        return self.end_of(max(marks.values()))

    def idle(self, worker: Worker, lag: Lag) -> bool:
        """Whether a partition gave nothing while we waited, and has nothing to give."""
        return self.waited_s - self.heard.get(worker.name, 0.0) >= self.idle_s and lag(worker.partition) == 0

    def end_of(self, mark_us: int) -> int:
        """The end of the last pane that may have rows when a watermark stands there."""
        return -(-(mark_us + self.lateness_us + 1) // self.pane_us) * self.pane_us

    def mark_of(self, worker: Worker) -> int:
        """How far a partition's rows have come, of the streams that concern these detectors."""
        return max((worker.state.watermarks.get(s, NEVER) for s in self.streams), default=NEVER)
