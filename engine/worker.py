"""A worker: one partition's state, its detectors and its open alerts. It sees the partition's rows in order, and only them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.alerts import Alert
from engine.batch import Batch
from engine.checkpoint import Snapshot
from engine.finding import Detector, Judgement, PopulationDetector, Scores
from engine.lifecycle import Lifecycle
from engine.sketch import Sketch
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
        self.next_offset = snapshot.next_offset if snapshot else -1
        for detector in detectors.values():
            self.state.declare(detector.arrays())
        self.lifecycle = Lifecycle(self.state, config_hash)

    def observe(self, batch: Batch) -> None:
        """Fold a batch into the state of every detector of its stream."""
        for detector in self.of_stream(batch.stream):
            detector.observe(batch, self.state)

    def judge(self, stream: str) -> tuple[list[Scores], list[Alert]]:
        """Score rows, and alert versions to publish, of the detectors that judge this partition alone."""
        now_us = self.state.watermarks.get(stream, NEVER)
        judged = Judgement()
        for detector in self.of_stream(stream):
            if not of_population(detector):
                said = detector.judge(self.state, now_us)
                judged.scores += said.scores
                judged.findings += said.findings
        return judged.scores, self.lifecycle.apply(judged.findings, stream, now_us)

    def collect(self, before_us: int) -> list[Sketch]:
        """Close the panes that end by `before_us`, and hand over their sketches."""
        self.state.closed_us = max(self.state.closed_us, before_us)
        return [s for d in self.detectors.values() if of_population(d) for s in as_population(d).collect(self.state, before_us)]

    def snapshot(self, outbox: list[dict]) -> Snapshot:
        """All that a restart needs."""
        self.lifecycle.save()
        return Snapshot(self.state, self.next_offset, outbox)

    def of_stream(self, stream: str) -> Sequence[Detector]:
        """The detectors that read a stream."""
        return [d for d in self.detectors.values() if stream in d.streams]


def as_population(detector: Detector) -> PopulationDetector:
    """The detector with its population verbs."""
    assert of_population(detector)
    return detector  # type: ignore[return-value]
