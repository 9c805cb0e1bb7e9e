"""The population: what all partitions saw together. Sketches of the same pane are added, and judged once every partition is past it.

Each partition keeps its open panes in its own state until the slowest partition has passed them, so a merged pane is complete, and
the result does not depend on how rows were spread over partitions or in which order partitions were read. A partition that is
replayed after a crash hands panes over again; those that were merged already are recognised by their frontier and dropped.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from engine.alerts import Alert
from engine.checkpoint import Snapshot
from engine.finding import Detector, Judgement, Scores
from engine.lifecycle import Lifecycle
from engine.sketch import Sketch, merged
from engine.state import NEVER, State
from engine.worker import Worker, as_population, of_population

NAME = "population"


class Population:
    """State and open alerts of the detectors that judge merged sketches."""

    def __init__(
        self, detectors: Mapping[str, Detector], config_hash: str, snapshot: Snapshot | None, pane_us: int, lateness_us: int, idle_s: float
    ):
        self.detectors = {n: as_population(d) for n, d in detectors.items() if of_population(d)}
        self.state = snapshot.state if snapshot else State()
        self.frontiers: dict[str, int] = dict(snapshot.meta["frontiers"]) if snapshot else {}
        self.pane_us = pane_us
        self.lateness_us = lateness_us
        self.idle_s = idle_s
        self.heard: dict[str, float] = {}
        for detector in self.detectors.values():
            self.state.declare(detector.population_arrays())
        self.lifecycle = Lifecycle(self.state, config_hash)

    def heard_from(self, worker: Worker, lag: int | None) -> None:
        """Note that a partition gave rows, or still has some to give."""
        if worker.name not in self.heard or lag is None or lag > 0:
            self.heard[worker.name] = time.monotonic()

    def advance(self, workers: Sequence[Worker], final: bool = False) -> tuple[list[Scores], list[Alert]]:
        """Merge and judge the panes that every partition has passed; `final`: all panes, no row will follow."""
        before_us = self._passed(workers, final)
        sketches: list[Sketch] = []
        for worker in workers:
            if before_us > worker.state.closed_us:
                merged_to = self.frontiers.get(worker.name, NEVER)
                sketches += [s for s in worker.collect(before_us) if s.pane * self.pane_us >= merged_to]
                self.frontiers[worker.name] = max(merged_to, before_us)
        if not sketches:
            return [], []
        judged = Judgement()
        alerts: list[Alert] = []
        for name, detector in self.detectors.items():
            detector.merge(merged([s for s in sketches if s.detector == name]), self.state)
            said = detector.judge(self.state, before_us)
            judged.scores += said.scores
            judged.findings += said.findings
        for stream in {s for d in self.detectors.values() for s in d.streams}:
            alerts += self.lifecycle.apply([f for f in judged.findings if f.stream == stream], stream, before_us)
        return judged.scores, alerts

    def snapshot(self, outbox: list[dict]) -> Snapshot:
        """All that a restart needs."""
        self.lifecycle.save()
        return Snapshot(self.state, -1, outbox, {"frontiers": self.frontiers})

    def _passed(self, workers: Sequence[Worker], final: bool) -> int:
        """The end of the last pane that is complete: no partition that is not idle will add to it."""
        streams = {s for d in self.detectors.values() for s in d.streams}
        marks = {w.name: max((w.state.watermarks.get(s, NEVER) for s in streams), default=NEVER) for w in workers}
        if not any(m > NEVER for m in marks.values()):
            return NEVER
        now = time.monotonic()
        active = [m for name, m in marks.items() if now - self.heard.get(name, now) < self.idle_s]
        if active and not final:
            return NEVER if min(active) == NEVER else min(active) // self.pane_us * self.pane_us
        return -(-(max(marks.values()) + self.lateness_us + 1) // self.pane_us) * self.pane_us
