"""THE MAIN PATH. From records to alerts:

    poll -> decode -> align -> observe -> judge -> act -> deliver -> checkpoint

Kafka gives records of telemetry; decoders turn their bytes into typed rows; detectors fold the rows into state and judge it
against the operator's false-alarm budget; findings become alerts that open, extend and resolve, and policies turn some of those
into signed remediation triggers; all of it leaves through one outbox. A checkpoint holds everything up to an offset.

Any fault ends the process. The restart reads the last checkpoint, goes on from its offset, and makes the same alerts again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from engine.ahead import Ahead, Intake
from engine.alerts import Alert, message
from engine.checkpoint import Checkpoints
from engine.clocks import Clocks
from engine.config import Config
from engine.dead_letters import dead_letter
from engine.finding import Detector, Scores
from engine.handover import Handover
from engine.metrics import Metrics
from engine.outbox import Outbox
from engine.population import NAME as POPULATION
from engine.population import Population
from engine.remediate import Remediation
from engine.schema import align
from engine.scores import ScoreLog
from engine.silence import Silence
from streams.decode import Format, decode
from streams.records import Decoded, Partition, RawBatch, Reject
from streams.sources import Source

log = logging.getLogger(__name__)


class Engine:
    """The engine over one source. `formats`: how to read each topic. `checkpoints` None: nothing is kept (backtests). `population`: one
    that the processes of a group share; None: one of our own."""

    def __init__(
        self,
        config: Config,
        detectors: Mapping[str, Detector],
        source: Source,
        formats: Mapping[str, Format],
        outbox: Outbox,
        metrics: Metrics,
        checkpoints: Checkpoints | None = None,
        remediation: Remediation | None = None,
        score_log: ScoreLog | None = None,
        population: Population | None = None,
    ):
        self.config, self.detectors, self.source, self.ahead = config, detectors, source, Ahead(formats)
        self.outbox, self.metrics, self.checkpoints, self.remediation, self.score_log = outbox, metrics, checkpoints, remediation, score_log
        self.cloud_source = f"/telltale/{config.name}"
        self.population = population or Population(detectors, config.hash, None, config.pane_us, config.lateness_us, config.limits.idle_s)
        self.handover = handover = Handover(config, detectors, source, formats, outbox, checkpoints, self.population, self.checkpoint)
        self.workers, self.assigned, self.revoked, self.lost = handover.workers, handover.assigned, handover.revoked, handover.lost
        self.intake = Intake(source, self.ahead, config.limits.poll_bytes, self.polled, metrics.stage_s.labels("decode").observe)
        source.on_change(self.assigned, self.revoked, self.lost)
        self.silence, self.checkpoint_due = Silence(self.population, config.lateness_us), time.monotonic() + config.checkpoint.interval_s
        self.clocks = Clocks(config.skew_us, metrics)
        self.rows, self.rejected, self.opened = 0, Counter[str](), Counter[str]()

    @property
    def ready(self) -> bool:
        """Whether it works: no sink's thread has died, and the source is not paused by a full outbox."""
        return self.outbox.fault is None and not self.outbox.full

    def run(self, stop: threading.Event) -> None:
        """Serve until told to stop; then deliver what can be delivered, checkpoint, and leave the group."""
        while not stop.is_set():
            self.step(timeout_s=0.2)
        self.close()

    def step(self, timeout_s: float) -> int:
        """One turn of the loop; returns the number of records taken in. Raises whatever a sink's thread died of."""
        self.outbox.check()
        self.source.pause() if self.outbox.full else self.source.resume()
        taken = 0
        for raw, decoded in self.intake.turn(timeout_s):
            self.process(raw, decoded)
            taken += len(raw)
        self.judge_population()
        if time.monotonic() >= self.checkpoint_due:
            self.checkpoint()
        return taken

    def polled(self, waited_s: float, partitions: set[Partition]) -> None:
        """A poll took so long, and rows of these partitions are here, which are neither idle nor silent then."""
        self.population.waited_s += waited_s
        for partition in partitions & self.workers.keys():
            self.population.heard_from(self.workers[partition])

    def process(self, raw: RawBatch, decoded: Decoded | None = None) -> None:
        """One raw batch of one partition, from bytes to alerts in the outbox. `decoded`: what it holds, where that was read ahead."""
        self.handover.kept.setdefault(raw.partition, int(raw.offsets[0]))
        if raw.partition.topic == self.population.topic:
            return self.reject(POPULATION, self.population.receive(raw))
        worker = self.workers[raw.partition]
        decoded = decoded or decode(raw, self.ahead.formats[raw.partition.topic])
        for rows in decoded.rows:
            batch, misfits = align(rows, raw, worker.state, self.config.future_us, self.config.lateness_us)
            decoded.rejects += misfits
            if batch is None:
                continue
            with self.metrics.stage_s.labels("observe").time():
                worker.observe(batch)
            with self.metrics.stage_s.labels("judge").time():
                scores, alerts = worker.judge(batch.stream)
            self.act(worker.name, scores, alerts, int(raw.timestamps_ms.min()))
            self.rows += len(batch)
            self.metrics.took(batch)
            self.clocks.observe(batch)
        self.reject(worker.name, decoded.rejects)
        worker.next_offset = raw.resume_at
        self.population.heard_from(worker)
        self.metrics.records.labels(raw.partition.topic).inc(len(raw))

    def judge_population(self, final: bool = False) -> None:
        """Judge what all partitions saw together, as far as the slowest of them has come; and which partitions fell silent."""
        self.act(POPULATION, *self.population.advance(list(self.workers.values()), self.source.lag, final))
        for worker, scores, alerts in self.silence.judge(self.workers, self.source):
            self.act(worker.name, scores, alerts)

    def act(self, owner: str, scores: Sequence[Scores], alerts: Sequence[Alert], written_ms: int = -1) -> None:
        """Queue alert versions, and the triggers that policy makes of them, for delivery."""
        if self.score_log is not None:
            self.score_log.write(scores)
        self.outbox.put(owner, [message(alert, self.cloud_source) for alert in alerts])
        for alert in alerts:
            self.metrics.alerts.labels(alert.detector, alert.status).inc()
            self.opened[alert.detector] += alert.sequence == 0
            if written_ms >= 0:
                self.metrics.event_to_alert_s.observe(max(0.0, time.time() - written_ms / 1000))
            log.info("%s %s %s: %s", alert.status, alert.severity, alert.key, alert.title)
        if self.remediation is not None:
            self.outbox.put(owner, self.remediation.triggers(alerts, self.cloud_source), held=True)

    def reject(self, owner: str, rejects: Sequence[Reject]) -> None:
        """Count what could not be used, and queue it for the dead-letter topic."""
        for reject in rejects:
            self.metrics.rejected.labels(reject.reason).inc()
            self.rejected[reject.reason] += 1
        self.outbox.put(owner, [dead_letter(r) for r in rejects])

    def checkpoint(self) -> None:
        """Make everything so far permanent:

        1. nobody else has claimed what is ours (else Fenced: nothing more is written or sent)
        2. the population first: what it has merged it will recognise when a partition is replayed
        3. each partition: arrays, open alerts, undelivered messages and next offset, in one new file, unless nothing has changed
        4. still nobody has: what was written counts
        5. triggers may leave now: the intent to publish them is on disk
        6. the source's own offsets follow, for dashboards; nothing is read from them
        """
        self.checkpoint_due = time.monotonic() + self.config.checkpoint.interval_s
        if self.checkpoints is not None and (self.workers or self.handover.place):
            try:
                self.checkpoints.check()
                marks = self.handover.marks()
                size = self.handover.save_population(marks) + sum(self.handover.save(w, marks) for w in self.workers.values())
                self.checkpoints.check()
            except OSError as error:  # a full disk: the old checkpoint stands, the source keeps what came after it
                log.error("checkpoint failed, trying again in %s s: %s", self.config.checkpoint.interval_s, error)
                self.metrics.checkpoint_failures.inc()
                return
            self.metrics.checkpoints.inc()
            self.metrics.checkpoint_bytes.set(size)
        self.outbox.release_held()
        self.handover.follow()
        offsets = {p: w.next_offset for p, w in self.workers.items() if w.next_offset >= 0} | self.handover.shared_offset
        self.handover.kept.update(offsets)
        self.source.commit(offsets)
        self.metrics.refresh(self.outbox, self.workers, self.source.lag, self.handover.shared_offset)

    def close(self, timeout_s: float = 10.0) -> None:
        """Deliver, checkpoint, leave."""
        self.checkpoint()
        self.outbox.flush(timeout_s)
        self.checkpoint()
        self.source.close()
        self.outbox.close()
        self.ahead.close()
