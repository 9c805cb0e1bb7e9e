"""The population of a whole group of processes. What each one's partitions saw travels as sketches through a topic of one partition, and
whoever is given that partition adds them and judges.

hand over   a partition's panes are closed as its own watermark passes them, and leave through the outbox, whose checkpoint holds what is
            not confirmed yet; what was sent behind it goes again
receive     the topic's partition comes to a process by the group's assignment as any other does, with a checkpoint of its own: the merged
            state, what waits to be merged, and the next offset. A handover that comes again is recognised by its origin's frontier
judge       as far as the slowest partition of the group has come; so the result is that of one process that reads all partitions

What the population learns (bins of a series) is in that checkpoint; the other processes look there from time to time, and hand over counts
instead of values from then on.

A partition that nobody has been given yet is waited for. One that is idle is not: its open panes are handed over, and rows that come for
them later are late.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from engine.alerts import Alert
from engine.finding import Detector, FollowingDetector, Scores
from engine.population import Lag, Population
from engine.sketch import Sketch
from engine.sketch_wire import Handed, Parts, messages, packed, unpacked
from engine.snapshot import Snapshot
from engine.state import NEVER, State
from engine.worker import Worker
from streams.records import Message, RawBatch, Reject

log = logging.getLogger(__name__)

WAITING = "population.waiting"
GAP_S = 60.0
"""A handover that follows one which has not come is left out: both come again, in their order. After so long, what is missing is lost."""
TELL_EVERY_S = 5.0
"""How often a partition says how far it is when nothing has changed; a population that starts anew waits for that."""


class SharedPopulation(Population):
    """`topic`: where sketches travel. `origins`: the partitions, of all processes together, that may have rows for these detectors.
    `put`: queues messages of an owner for delivery."""

    def __init__(
        self, detectors: Mapping[str, Detector], config_hash: str, pane_us: int, lateness_us: int, idle_s: float, topic: str,
        origins: Callable[[], Sequence[str]], put: Callable[[str, Sequence[Message]], None],
    ):  # fmt: skip
        super().__init__(detectors, config_hash, None, pane_us, lateness_us, idle_s)
        self.topic, self._origins, self._put = topic, origins, put
        self._told: dict[str, tuple[int, bool, float]] = {}
        """By partition of ours: how far it had come and whether it was idle when that was last told, and when (monotonic)."""

    def restore(self, snapshot: Snapshot | None) -> None:
        """Go on from a checkpoint; None: from nothing."""
        super().restore(snapshot)
        meta = snapshot.meta if snapshot else {}
        self.next_offset = snapshot.next_offset if snapshot else -1
        self.merged_us: int = meta.get("merged_us", NEVER)
        self.progress: dict[str, tuple[int, bool]] = {name: (us, idle) for name, (us, idle) in meta.get("progress", {}).items()}
        """How far each partition has come, and whether it is idle, as it said last."""
        waiting = self.state.arrays.pop(WAITING, np.empty(0, np.uint8)).tobytes()
        self.waiting: list[Sketch] = list(unpacked(waiting).sketches) if waiting else []
        self.parts = Parts()
        self._gaps: dict[str, float] = {}
        """By partition: since when (monotonic) it hands over what follows something that has not come."""
        self.follow(self.state)

    def snapshot(self, outbox: list[dict], marks: Mapping[str, Any] | None = None) -> Snapshot:
        """All that a restart needs. `marks`: as of a worker."""
        self.state.arrays[WAITING] = np.frombuffer(packed(Handed("", sketches=self.waiting)), np.uint8)
        snapshot = super().snapshot(outbox, marks)
        snapshot.meta |= {"merged_us": self.merged_us, "progress": self.progress}
        snapshot.next_offset = min(self.next_offset, self.parts.first_offset(self.next_offset))
        return snapshot

    def advance(self, workers: Sequence[Worker], lag: Lag, final: bool = False) -> tuple[list[Scores], list[Alert]]:
        """Hand over what our partitions have closed; where the topic is ours, judge what has been received, as far as it is complete."""
        for worker in workers:
            self._hand_over(worker, lag, final)
        return self.judge_received()

    def receive(self, raw: RawBatch) -> list[Reject]:
        """Take in records of the topic; those that are none of ours are returned."""
        self.changes += 1
        rejects = list(raw.refused)
        for i, offset in enumerate(raw.offsets.tolist()):
            try:
                handed = self.parts.add(raw.headers[i] if raw.headers is not None else (), raw.value(i), offset)
            except ValueError as error:
                rejects.append(Reject(raw.partition, offset, "sketch", str(error), raw.value(i)))
                continue
            if handed is not None:
                self._take(handed)
        self.next_offset = raw.resume_at
        return rejects

    def follow(self, state: State) -> None:
        """Know what the population has learned, from the state that another process keeps."""
        for detector in map(following, self.detectors.values()):
            if detector is not None:
                detector.follow(state)

    def _accepted(self, sketch: Sketch) -> bool:
        """Whether it was made by what we know; what another process made by a reference that was let go is left out."""
        detector = following(self.detectors.get(sketch.detector))
        return detector is None or detector.accepts(sketch)

    def _hand_over(self, worker: Worker, lag: Lag, final: bool) -> None:
        mark, idle = self.mark_of(worker), final or not self.concerns(worker) or self.idle(worker, lag)
        to_us = NEVER if mark == NEVER else self.end_of(mark) if idle else mark // self.pane_us * self.pane_us
        from_us = worker.state.closed_us
        sketches = worker.collect(to_us, self.pane_us) if to_us > from_us else []
        now, said = time.monotonic(), (worker.state.closed_us, idle)
        told = self._told.get(worker.name)
        if sketches or told is None or told[:2] != said or now - told[2] >= TELL_EVERY_S:
            self._told[worker.name] = *said, now
            self._put(worker.name, messages(Handed(worker.name, *said, sketches, from_us)))

    def _take(self, handed: Handed) -> None:
        """Put a handover aside until all have come as far. What was received before, or judged without it, is left out."""
        had = self.frontiers.get(handed.origin, NEVER)
        if NEVER < had < handed.from_us and not self._lost(handed, had):
            return
        self._gaps.pop(handed.origin, None)
        if had < self.merged_us and any(not s.before(self.merged_us // self.pane_us).empty for s in handed.sketches):
            log.warning("%s was idle and hands over panes that are judged already: they are left out", handed.origin)
        first = -(-max(had, self.merged_us) // self.pane_us)
        self.waiting += [kept for s in handed.sketches if not (kept := s.since(first)).empty]
        self.frontiers[handed.origin] = max(had, handed.to_us)
        self.progress[handed.origin] = self.frontiers[handed.origin], handed.idle

    def _lost(self, handed: Handed, had_us: int) -> bool:
        """Whether what a partition handed over between these times has been missing for too long to come again."""
        lost = time.monotonic() - self._gaps.setdefault(handed.origin, time.monotonic()) >= GAP_S
        if lost:
            log.error("%.3f s of what %s handed over never came", (handed.from_us - had_us) / 1e6, handed.origin)
        return lost

    def judge_received(self) -> tuple[list[Scores], list[Alert]]:
        """Merge and judge what has been received, as far as every partition has come."""
        if not self.progress:
            return [], []
        known = [self.progress.get(name, (NEVER, False)) for name in self._origins()]
        active = [us for us, idle in known if not idle]
        before_us = min(active) if active else max((us for us, _ in known), default=NEVER)
        if before_us <= self.merged_us:
            return [], []
        self.changes += 1
        pane, self.merged_us = before_us // self.pane_us, before_us
        due = [part for s in self.waiting if not (part := s.before(pane)).empty]
        self.waiting = [part for s in self.waiting if not (part := s.since(pane)).empty]
        due = [s for s in due if self._accepted(s)]
        return self.judged(due, before_us) if due else ([], [])


def following(detector: Detector | None) -> FollowingDetector | None:
    """The detector, if it observes by what it has learned."""
    return detector if hasattr(detector, "follow") else None  # type: ignore[return-value]
