"""A worker: one partition's state, its detectors and its open alerts. It sees the partition's rows in order, and only them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from engine import counters, pairs, samples
from engine.alerts import Alert
from engine.batch import Batch
from engine.finding import Detector, Judgement, PopulationDetector, Scores, SilenceDetector
from engine.lifecycle import Lifecycle
from engine.sketch import Sketch
from engine.snapshot import Snapshot
from engine.state import NEVER, State
from streams.records import Partition


def of_population(detector: Detector) -> bool:
    """Whether a detector judges sketches merged over all partitions instead of one partition's keys."""
    return hasattr(detector, "collect")


class Worker:
    """What the engine keeps of one partition. `next_offset`: the first record that is not in its state (-1: as the source has it).
    `feeds`: the stream whose rows it holds, where that is known before they come."""

    def __init__(
        self,
        partition: Partition,
        detectors: Mapping[str, Detector],
        config_hash: str,
        snapshot: Snapshot | None,
        limits: Mapping[str, int],
        feeds: str | None = None,
    ):
        self.partition = partition
        self.name = str(partition)
        self.feeds = feeds
        self.detectors = detectors
        self.state = snapshot.state if snapshot else State(dict(limits))
        self.state.name = self.name
        self.next_offset = snapshot.next_offset if snapshot else -1
        self.state.declare(counters.ARRAYS)
        for detector in detectors.values():
            self.state.declare(detector.arrays())
        self.lifecycle = Lifecycle(self.state, config_hash)
        self.changes = 0
        """How often anything here may have changed; a checkpoint of the same is not written again."""

    def observe(self, batch: Batch) -> None:
        """Fold a batch into the state of every detector of its stream, counters as rates, halves of an inference as one."""
        self.changes += 1
        whole = pairs.joined(counters.rated(batch, self.state), self.state)
        if whole is not None:
            for detector in self.of_stream(batch.stream):
                detector.observe(whole, self.state)

    def judge(self, stream: str) -> tuple[list[Scores], list[Alert]]:
        """Score rows, and alert versions to publish, of the detectors that judge this partition alone."""
        self.changes += 1
        now_us = self.state.watermarks.get(stream, NEVER)
        judged = Judgement()
        for detector in self.of_stream(stream):
            if not of_population(detector):
                said = detector.judge(self.state, now_us)
                judged.scores += said.scores
                judged.findings += said.findings
        return judged.scores, self.lifecycle.apply(judged.findings, stream, now_us)

    def silent_from_s(self, lateness_us: int) -> float:
        """How long after its last rows the silence of this partition is something to be told, seconds; infinite where it is nothing."""
        wait_s = math.inf
        for detector in self._of_silence():
            reached = self.state.watermarks.get(detector.streams[0])
            if reached is not None and (at_us := detector.silent_from(self.state)) is not None:
                wait_s = min(wait_s, max(0.0, (at_us - reached - lateness_us) / 1e6))
        return wait_s

    def silent(self) -> tuple[list[Scores], list[Alert]]:
        """Score rows and alert versions that say that nothing comes any more; event time stays where it is."""
        self.changes += 1
        scores: list[Scores] = []
        alerts: list[Alert] = []
        for detector in self._of_silence():
            if detector.silent_from(self.state) is not None:
                said = detector.silent(self.state)
                stream = detector.streams[0]
                scores += said.scores
                alerts += self.lifecycle.apply(said.findings, stream, self.state.watermarks.get(stream, NEVER))
        return scores, alerts

    def _of_silence(self) -> list[SilenceDetector]:
        return [d for d in self.detectors.values() if hasattr(d, "silent_from")]  # type: ignore[misc]

    def collect(self, before_us: int, pane_us: int) -> list[Sketch]:
        """Close the panes that end by `before_us`, and hand over their sketches, and where rows of them stand."""
        self.changes += 1
        self.state.closed_us = max(self.state.closed_us, before_us)
        sketches = [s for d in self.detectors.values() if of_population(d) for s in as_population(d).collect(self.state, before_us)]
        return sketches + samples.collect(self.state, before_us, pane_us)

    def snapshot(self, outbox: list[dict], marks: Mapping[str, Any] | None = None) -> Snapshot:
        """All that a restart needs. `marks`: from where on sinks may have what `outbox` does not know to be delivered."""
        self.lifecycle.save()
        return Snapshot(self.state, self.next_offset, outbox, {"marks": marks or {}})

    def of_stream(self, stream: str) -> Sequence[Detector]:
        """The detectors that read a stream."""
        return [d for d in self.detectors.values() if stream in d.streams]


def as_population(detector: Detector) -> PopulationDetector:
    """The detector with its population verbs."""
    assert of_population(detector)
    return detector  # type: ignore[return-value]
