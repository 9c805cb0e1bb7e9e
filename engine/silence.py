"""Silence: a partition that gives nothing has no event time, so that something is missing from it must be told by the time that passes.

While the source says that there is nothing to read, a partition's event time is taken to go on as the clock does. Nothing but the finding
that all is silent follows from it: watermarks stay, and the finding's onset and id are what the partition's next rows would show. Time
spent waiting for records is all that counts, not time when we were busy or held the source back, so a slow engine sees no silence; and a
source that can't be asked (files, a broker that is away) is never silent. So a backtest says the same without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from engine.alerts import Alert
from engine.finding import Scores
from engine.population import Population
from engine.worker import Worker
from streams.records import Partition
from streams.sources import Source

ASK_EVERY_S = 1.0


class Silence:
    """Which partitions are silent, by the population's account of who was heard."""

    def __init__(self, population: Population, lateness_us: int):
        self.population = population
        self.lateness_us = lateness_us
        self._due: dict[Worker, tuple[float, float]] = {}
        """By partition: when it was heard last, and how long after that its silence is to be looked at, both in seconds of waiting."""

    def judge(self, workers: Mapping[Partition, Worker], source: Source) -> Iterator[tuple[Worker, Sequence[Scores], Sequence[Alert]]]:
        """The partitions whose silence is a finding now, with what to publish."""
        for worker in list(self._due):
            if workers.get(worker.partition) is not worker:
                del self._due[worker]
        for worker in workers.values():
            heard = self.population.heard.get(worker.name, 0.0)
            silent_s = self.population.waited_s - heard
            known = self._due.get(worker)
            if known is None or known[0] != heard:
                known = self._due[worker] = heard, worker.silent_from_s(self.lateness_us)
            if silent_s < known[1]:
                continue
            if not source.caught_up(worker.partition):
                self._due[worker] = heard, silent_s + ASK_EVERY_S
                continue
            yield worker, *worker.silent()
            self._due[worker] = heard, worker.silent_from_s(self.lateness_us)
