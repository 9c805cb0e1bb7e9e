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
LIMIT = 100
"""Producers that are reported at a time, so that hostile names cost nothing."""


class Clocks:
    """The producers whose clocks are off by more than `limit_us` now, in microseconds: positive is ahead."""

    def __init__(self, limit_us: int, metrics: Metrics):
        self.limit_us, self.metrics = limit_us, metrics
        self.off: dict[str, int] = {}

    def observe(self, batch: Batch) -> None:
        """Look at one batch; the metric names who is off, and a line in the log says when that begins and ends."""
        lead = batch.lead_us
        if not len(lead):
            return
        usual = min(int(np.median(lead)), 0)
        if usual < -LIVE_US:
            return
        wrong = (lead > self.limit_us) | (lead < usual - self.limit_us)
        if not (wrong.any() or self.off) or (column := next((c for c in PRODUCER if c in batch.columns), None)) is None:
            return
        codes, names = batch.codes(column)
        for code in np.unique(codes).tolist():
            skew_us = int(np.median(lead[codes == code]))
            self._note(str(names[code]), skew_us if skew_us > 0 else skew_us - usual)

    def _note(self, name: str, skew_us: int) -> None:
        if abs(skew_us) <= self.limit_us:
            if self.off.pop(name, None) is not None:
                log.info("the clock of %s agrees again", name)
                self.metrics.clock_skew_s.remove(name)
            return
        if name not in self.off:
            if len(self.off) >= LIMIT:
                return
            log.warning("the clock of %s is %.1f s %s", name, abs(skew_us) / 1e6, "ahead" if skew_us > 0 else "behind the others")
        self.off[name] = skew_us
        self.metrics.clock_skew_s.labels(name).set(skew_us / 1e6)
