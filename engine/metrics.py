"""What the engine says of itself, for Prometheus. One registry per engine, passed on as an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from engine.batch import Batch
from engine.detectors.extraction_views import learning_rows
from engine.outbox import Outbox
from engine.worker import Worker
from streams.records import Partition

SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The engine's metrics; their names are an interface."""

    def __init__(self, registry: CollectorRegistry | None = None):
        self.registry = r = registry or CollectorRegistry()
        self.records = Counter("telltale_records", "Records polled", ["topic"], registry=r)
        self.rows = Counter("telltale_rows", "Rows that passed the schema", ["stream"], registry=r)
        self.rejected = Counter("telltale_rejected", "Records and rows rejected", ["reason"], registry=r)
        self.clock_skew_s = Gauge("telltale_clock_skew_seconds", "Producers' clocks that are off, ahead > 0", ["producer"], registry=r)
        self.late = Counter("telltale_late_rows", "Rows older than the watermark", ["stream"], registry=r)
        self.alerts = Counter("telltale_alerts", "Alert versions published", ["detector", "status"], registry=r)
        self.triggers = Counter("telltale_triggers", "Remediation triggers published", ["action"], registry=r)
        self.stage_s = Histogram("telltale_stage_seconds", "Time spent per batch", ["stage"], buckets=SECONDS, registry=r)
        self.event_to_alert_s = Histogram(
            "telltale_event_to_alert_seconds", "From a record's timestamp to its alert being queued", buckets=SECONDS, registry=r
        )
        self.lag = Gauge("telltale_lag_records", "Records not yet read", ["partition"], registry=r)
        self.outbox = Gauge("telltale_outbox_messages", "Messages not yet confirmed by every sink", registry=r)
        self.outbox_bytes = Gauge("telltale_outbox_bytes", "Bytes of messages not yet confirmed by every sink", registry=r)
        self.sink_failures = Gauge("telltale_sink_failures", "Failed attempts to send", ["sink"], registry=r)
        self.keys = Gauge("telltale_keys", "Keys with state", ["table"], registry=r)
        self.evicted = Gauge("telltale_keys_evicted", "Keys whose state made room for others", ["table"], registry=r)
        self.refused = Gauge("telltale_keys_refused", "Keys refused because all others are alarming", ["table"], registry=r)
        self.learning = Gauge("telltale_learning_rows", "Queries put aside to learn extraction from, not judged", ["view"], registry=r)
        self.state_bytes = Gauge("telltale_state_bytes", "Bytes of state", registry=r)
        self.checkpoints = Counter("telltale_checkpoints", "Checkpoints written", registry=r)
        self.checkpoint_failures = Counter("telltale_checkpoint_failures", "Checkpoints that could not be written", registry=r)
        self.checkpoint_bytes = Gauge("telltale_checkpoint_bytes", "Size of the last checkpoints", registry=r)
        self.paused = Gauge("telltale_paused", "1 while the source is paused because the outbox is full", registry=r)

    def took(self, batch: Batch) -> None:
        """Count the rows of a batch, and those that came late."""
        self.rows.labels(batch.stream).inc(len(batch))
        self.late.labels(batch.stream).inc(int(batch.late.sum()))

    def refresh(
        self, outbox: Outbox, workers: Mapping[Partition, Worker], lag: Callable[[Partition], int | None], shared: Iterable[Partition] = ()
    ) -> None:
        """Set the gauges; called after each checkpoint. `shared`: the partition of the topic of sketches, where it is ours."""
        self.outbox.set(outbox.size)
        self.outbox_bytes.set(outbox.bytes)
        self.paused.set(outbox.full)
        for route in outbox.routes.values():
            self.sink_failures.labels(route.name).set(route.failures)
        self.lag.clear()  # partitions that went elsewhere
        for partition in (*workers, *shared):
            if (behind := lag(partition)) is not None:
                self.lag.labels(str(partition)).set(behind)
        self.learning.clear()
        for view, rows in (held for w in workers.values() for held in learning_rows(w.state)):
            self.learning.labels(view).inc(rows)
        self.state_bytes.set(sum(w.state.nbytes for w in workers.values()))
        for name in {n for w in workers.values() for n in w.state.tables}:
            tables = [w.state.tables[name] for w in workers.values() if name in w.state.tables]
            self.keys.labels(name).set(sum(len(t.index) for t in tables))
            self.evicted.labels(name).set(sum(t.evicted for t in tables))
            self.refused.labels(name).set(sum(t.refused for t in tables))
