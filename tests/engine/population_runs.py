"""Rows through workers and the population, spread over partitions and cut into batches, as the engine does it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from engine.batch import Batch
from engine.finding import Detector
from engine.population import Population
from engine.worker import Worker
from streams.records import Partition

S = 1_000_000


def run(
    detector: Detector, streams: Mapping[str, tuple[np.ndarray, Mapping[str, np.ndarray | pa.Array]]], cut: int = 500, partitions: int = 1,
    seed: int = 0, pane_us: int = S,
):  # fmt: skip
    """(alert versions, score rows, population) of rows by stream: (time_us, columns). Streams advance together in event time."""
    detectors = {detector.name: detector}
    workers = [Worker(Partition("t", i), detectors, "", None, {}) for i in range(partitions)]
    population = Population(detectors, "", None, pane_us, 2 * S, 1e9)
    generator = np.random.default_rng(seed)
    home = {stream: generator.integers(0, partitions, len(time_us)) for stream, (time_us, _) in streams.items()}
    for worker in workers:
        population.heard_from(worker)
    alerts, scores = [], []
    longest = max(len(time_us) for time_us, _ in streams.values())
    end = max(int(time_us[-1]) for time_us, _ in streams.values())
    for first in range(0, longest, cut):
        until = end * (first + cut) // longest if first + cut < longest else end + 1
        since = end * first // longest if first else -1
        for stream, (time_us, columns) in streams.items():
            for i, worker in enumerate(workers):
                rows = np.flatnonzero((home[stream] == i) & (time_us < until) & (time_us >= since))
                if len(rows):
                    table = pa.RecordBatch.from_pydict(
                        {k: v.take(pa.array(rows)) if isinstance(v, pa.Array) else pa.array(v[rows]) for k, v in columns.items()}
                    )
                    worker.observe(Batch(stream, table, time_us[rows], rows))
                worker.state.watermarks[stream] = max(worker.state.watermarks.get(stream, until - 2 * S), until - 2 * S)
        said, changed = population.advance(workers, lambda partition: 1)
        scores += said
        alerts += changed
    said, changed = population.advance(workers, lambda partition: 0, final=True)
    return alerts + changed, scores + said, population


def flat(scores) -> list[tuple]:
    """Score rows in an order of their own, rounded."""
    return sorted(
        (s.detector, s.stream, s.keys[k], int(t), round(float(x), 6), round(float(limit), 6), bool(a))
        for s in scores
        for k, t, x, limit, a in zip(s.key, s.time_us, s.score, s.threshold, s.alarm, strict=True)
    )


def opened(alerts) -> list:
    """First versions."""
    return [a for a in alerts if a.sequence == 0]
