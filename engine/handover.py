"""Partitions come and go: each is claimed, restored and read on from its checkpoint, or handed over by one, or dropped when it was taken.

The population's checkpoint goes with the first of a process's partitions, under that partition's claim; when a process gives all its
partitions up, it leaves a copy with each, so that whoever comes next knows the references that were learned. Where the processes of a
group share one population, it goes with the partition of the topic of sketches.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from engine.checkpoint import CheckpointError, Checkpoints
from engine.config import Config
from engine.finding import Detector
from engine.outbox import Outbox
from engine.population import NAME as POPULATION
from engine.population import Population
from engine.snapshot import Snapshot
from engine.worker import Worker
from streams.decode import Format
from streams.records import Partition
from streams.sinks import Ticket, TransactionalKafkaSink
from streams.sources import Source

log = logging.getLogger(__name__)

FOLLOW_EVERY_S = 30.0


class Handover:
    """The partitions of this process. `checkpoint`: makes everything so far permanent, before partitions are given up."""

    def __init__(
        self,
        config: Config,
        detectors: Mapping[str, Detector],
        source: Source,
        formats: Mapping[str, Format],
        outbox: Outbox,
        checkpoints: Checkpoints | None,
        population: Population,
        checkpoint: Callable[[], None],
    ):
        self.config, self.detectors, self.source, self.formats = config, detectors, source, formats
        self.outbox, self.checkpoints, self.population, self.checkpoint = outbox, checkpoints, population, checkpoint
        self.workers: dict[Partition, Worker] = {}
        self.kept: dict[Partition, int] = {}
        """The offset of each partition's last checkpoint, or that of its first record where there is none yet."""
        self.transactional = {n: r.sink for n, r in outbox.routes.items() if isinstance(r.sink, TransactionalKafkaSink)}
        for name, sink in self.transactional.items():
            outbox.routes[name].ticket, sink.transactional_id = self.ticket, partial(self.transactional_id, name)
        self._saved: dict[str, tuple[tuple[Any, ...], int]] = {}
        """By owner: what its newest file holds, and its size."""
        self._follow_at = 0.0
        self._shared_place: Partition | None = None
        """The partition of the topic of sketches, while it is ours."""
        self.fell_back = False
        """Whether the newest checkpoint of the population was not usable, so that partitions must go back as far."""

    def assigned(self, partitions: Sequence[Partition]) -> None:
        """Partitions that are ours now: claim and restore each, and go on reading where its checkpoint says.

        Where a sink publishes in transactions: those of former owners are waited for, what they published is found out, and a partition
        that has no checkpoint gets one before anything is published of it.
        """
        if not partitions:
            return
        self._saved.clear()  # a file of our own, soon: until there is one, those of former owners count
        if self.checkpoints is not None:
            self.checkpoints.claim([str(p) for p in partitions], self.source.confirm)
        population, self.fell_back = None, False
        if comes := self._place_of(partitions, bool(self.workers)):
            population = self._loaded(population_of([comes]), POPULATION)
            self.population.restore(population)
            if self.shares and population is not None:
                self.kept[comes] = max(0, population.next_offset)  # one that has read nothing yet begins where the topic does
                self.source.seek(comes, self.kept[comes])
            self._shared_place = comes if self.shares else None
        snapshots = {p: self._loaded(str(p), str(p)) for p in partitions if p.topic != self.population.topic}
        for partition, snapshot in snapshots.items():
            limits, feeds = self.config.limits.of_state, self.formats[partition.topic].stream
            worker = self.workers[partition] = Worker(partition, self.detectors, self.config.hash, snapshot, limits, feeds)
            if worker.next_offset >= 0:
                self.source.seek(partition, worker.next_offset)
                self.kept[partition] = worker.next_offset
            self.population.heard_from(worker)
            log.info("assigned %s, from %s", partition, worker.next_offset if snapshot else "the source's own offset")
        self._recover(partitions, [s for s in (population, *snapshots.values()) if s is not None])
        if population is not None:
            self.outbox.restore(POPULATION, population.outbox)
        for partition, snapshot in snapshots.items():
            if snapshot is not None:
                self.outbox.restore(str(partition), snapshot.outbox)
        if self.transactional and (None in snapshots.values() or (comes and population is None)):
            self.checkpoint()

    @property
    def shares(self) -> bool:
        """Whether the processes of the group have one population together."""
        return self.population.topic is not None

    @property
    def place(self) -> Partition | None:
        """The partition with which the population is kept; None: another process has it."""
        return self._shared_place if self.shares else min(self.workers, default=None)

    @property
    def shared_offset(self) -> dict[Partition, int]:
        """How far we are in the topic of sketches, while its partition is ours."""
        place, offset = self._shared_place, self.population.next_offset
        return {place: offset} if place is not None and offset >= 0 else {}

    def follow(self) -> None:
        """Look, from time to time, what the population has learned that another process keeps. What can't be read now is read later."""
        if not self.shares or self.place is not None or self.checkpoints is None or time.monotonic() < self._follow_at:
            return
        self._follow_at = time.monotonic() + FOLLOW_EVERY_S
        name = population_of([Partition(str(self.population.topic))])
        try:
            there, _ = self.checkpoints.load(name, self.config.limits.of_state)
        except (CheckpointError, OSError) as error:
            log.warning("what the group's population has learned can't be read now: %s", error)
            return
        if there is not None:
            self.population.follow(there.state)

    def _place_of(self, partitions: Sequence[Partition], have: bool) -> Partition | None:
        """With which of the partitions that come a population does; `have`: we have one already, unless processes share it."""
        if self.shares:
            return next((p for p in partitions if p.topic == self.population.topic), None)
        return None if have else min(partitions)

    def _recover(self, partitions: Sequence[Partition], snapshots: Sequence[Snapshot]) -> None:
        """Find out what former owners published after these snapshots."""
        if not self.transactional:
            return
        self.source.settle(partitions)  # type: ignore[attr-defined]
        for name, sink in self.transactional.items():
            marks: dict[str, int] = {}
            for snapshot in snapshots:
                for place, offset in snapshot.meta.get("marks", {}).get(name, {}).items():
                    marks[place] = min(offset, marks.get(place, offset))
            sink.recover(marks)

    def marks(self) -> dict[str, dict[str, int]]:
        """From where on each transactional sink may have what a checkpoint that is made after this does not know to be delivered."""
        return {name: sink.mark() for name, sink in self.transactional.items()}

    def ticket(self) -> Ticket:
        """Under what a transaction may be made now."""
        return Ticket(self.source.group(), dict(self.kept))  # type: ignore[attr-defined]

    def transactional_id(self, sink: str) -> str:
        """Goes with the first partition: its next owner fences and ends what this process may have left open."""
        kafka = self.config.source.kafka if self.config.source else None
        group = kafka.group if kafka else self.config.name
        return f"{group}-{sink}-{min([*self.workers], default=self.place or uuid.uuid4().hex)}"

    def revoked(self, partitions: Sequence[Partition]) -> None:
        """Partitions that we give up: hand them over by checkpoint."""
        ours = sorted(p for p in partitions if p in self.workers)
        if ours or self._shared_place in partitions:
            self.checkpoint()
        if ours and self.checkpoints is not None and not self.shares and len(ours) == len(self.workers):
            for partition in ours[1:]:
                self._leave_copy(partition)
        self._drop(partitions)

    def lost(self, partitions: Sequence[Partition]) -> None:
        """Partitions that were taken from us while we were held for dead: nothing of them is written or sent any more. Raises Fenced
        when another process has them already; else they may come back, and go on from their checkpoints."""
        log.warning("lost %s: the group held this process for dead", ", ".join(map(str, partitions)))
        for partition in list(self.workers):
            self.outbox.forget(str(partition))
        self.outbox.forget(POPULATION)
        self._saved.clear()
        if self.checkpoints is not None:
            self.checkpoints.check()
        self._drop(partitions)
        self.population.restore(None)

    def save_population(self, marks: Mapping[str, Any]) -> int:
        """The population's checkpoint, where it is ours; bytes."""
        return 0 if self.place is None else self._save(self.population, population_of([self.place]), POPULATION, str(self.place), marks)

    def save(self, worker: Worker, marks: Mapping[str, Any]) -> int:
        """A partition's checkpoint; bytes."""
        return self._save(worker, worker.name, worker.name, worker.name, marks)

    def _save(self, what: Worker | Population, name: str, owner: str, place: str, marks: Mapping[str, Any]) -> int:
        """Write a file, or leave the one that says the same."""
        assert self.checkpoints is not None
        outbox = self.outbox.pending(owner)
        now = (name, what.changes, what.next_offset, outbox, marks)
        if (saved := self._saved.get(owner)) is None or saved[0] != now:
            self._saved[owner] = now, self.checkpoints.save(name, what.snapshot(outbox, marks), place)
        return self._saved[owner][1]

    def _leave_copy(self, partition: Partition) -> None:
        assert self.checkpoints is not None
        try:
            self.checkpoints.save(population_of([partition]), self.population.snapshot([]), str(partition))
        except OSError as error:
            log.error("no copy of the references is left with %s: %s", partition, error)

    def _drop(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            self.outbox.forget(str(partition))
            self.workers.pop(partition, None)
            self.kept.pop(partition, None)
            if self.checkpoints is not None:
                self.checkpoints.release(str(partition))
        if self._shared_place in partitions:
            self._shared_place = None
            self.population.restore(None)
        if self.place is None:
            self.outbox.forget(POPULATION)

    def _loaded(self, name: str, owner: str) -> Snapshot | None:
        if self.checkpoints is None:
            return None
        merged_to_us = self.population.frontiers.get(owner) if self.fell_back else None
        snapshot, damaged = self.checkpoints.load(name, self.config.limits.of_state, merged_to_us)
        for line in damaged:
            log.error("using the checkpoint before this one: %s", line)
            self.fell_back |= owner == POPULATION
        return snapshot


def population_of(partitions: Sequence[Partition]) -> str:
    """The name under which the population of these partitions is kept."""
    return f"{min(partitions)}@{POPULATION}"
