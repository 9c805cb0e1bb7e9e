"""Clocks of producers: whose times lie ahead of the records that carry them, or behind those of the others. Reported, not fatal.

A row's time can't truly lie after its record was written, so a lead is the producer's clock. That a row is old may have many reasons,
most of which all producers share (a backlog, a replay); a producer lags whose rows are older than is usual in the batch.
"""

from __future__ import annotations

import logging

import numpy as np

from engine.batch import Batch
from engine.metrics import Metrics

log = logging.getLogger(__name__)

PRODUCER = ("host", "instance", "source", "principal")
"""The first of these columns that rows have names who made them."""
LIVE_US = 300_000_000
"""Rows that are older than this when they are written are old ones read again: their times say nothing of clocks."""
SPREADS = 2
"""Rows that are exported together differ in age: who lags is older than usual by this many times what the newest ones are younger."""
LIMIT = 100
"""Producers that are reported at a time, so that hostile names cost nothing."""


class Clocks:
    """The producers whose clocks are off by more than `limit_us` now, in microseconds: positive is ahead."""

    def __init__(self, limit_us: int, metrics: Metrics):
        self.limit_us, self.metrics = limit_us, metrics
        self.off: dict[str, int] = {}
        self._told: dict[str, int] = {}
        """How far off each producer was when the log last said so, in powers of two; so one that wavers fills no log."""

    def observe(self, batch: Batch) -> None:
        """Look at one batch; the metric names who is off, and the log has a line for each power of two by which somebody is."""
        lead = batch.lead_us
        if not len(lead):
            return
        if not self.off and lead.max() <= self.limit_us and lead.min() >= -self.limit_us:
            return
        if lead.max() < -LIVE_US:
            return
        newest, usual = np.quantile(np.minimum(lead, 0), (0.9, 0.5)).astype(np.int64).tolist()
        if usual < -LIVE_US:
            return
        behind = usual - self.limit_us - SPREADS * (newest - usual)
        wrong = (lead > self.limit_us) | (lead < behind)
        if not (wrong.any() or self.off) or (column := next((c for c in PRODUCER if c in batch.columns), None)) is None:
            return
        codes, names = batch.codes(column)
        for code in np.unique(codes).tolist():
            skew_us = int(np.median(lead[codes == code]))
            self._note(str(names[code]), skew_us if skew_us > self.limit_us else skew_us - usual if skew_us < behind else 0)

    def _note(self, name: str, skew_us: int) -> None:
        if skew_us == 0:
            if self.off.pop(name, None) is not None:
                self.metrics.clock_skew_s.remove(name)
            return
        if name not in self.off and len(self.off) >= LIMIT:
            return
        self.off[name] = skew_us
        self.metrics.clock_skew_s.labels(name).set(skew_us / 1e6)
        size = int(np.copysign((abs(skew_us) // self.limit_us if self.limit_us else abs(skew_us)).bit_length(), skew_us))
        if self._told.get(name) != size and (name in self._told or len(self._told) < LIMIT):
            self._told[name] = size
            log.warning("the clock of %s is %.1f s %s", name, abs(skew_us) / 1e6, "ahead" if skew_us > 0 else "behind the others")
