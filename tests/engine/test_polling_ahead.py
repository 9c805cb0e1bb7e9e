"""More is taken while a poll is worked on, and held. Partitions change hands in polls, where nothing is held: every row is folded once."""

import itertools
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from engine import ahead
from engine.checkpoint import Checkpoints
from engine.config import Config
from engine.metrics import Metrics
from engine.outbox import Outbox, Route
from engine.run import Engine
from engine.wiring import make_detectors
from streams.decode import Format
from streams.records import Packed, RawBatch
from tests.e2e.chaos import workload
from tests.e2e.chaos.reference import Collected
from tests.engine.test_recovery import PARTS, Source, engine_on, feed, values

AT_ONCE = 350


class Polled(Source):
    """Gives rows by polls; at some of them partitions change hands. `script`: poll number to (partitions that go, that come)."""

    def __init__(self, rows, script):
        super().__init__()
        self.rows, self.script, self.polls, self.ours, self.engine = rows, script, 0, set(), None

    def on_change(self, assigned, revoked, lost):
        self.tell = assigned, revoked

    def pause(self): ...

    def resume(self): ...

    def caught_up(self, partition):
        return False

    def packed(self, timeout_s, max_bytes):
        assert self.engine.intake.coming is None
        go, come = self.script.get(self.polls, ((), ()))
        self.polls += 1
        if go:
            self.tell[1](go)
            self.ours -= set(go)
        if come:
            self.tell[0](come)
            self.ours |= set(come)
        return self.more(max_bytes)

    def more(self, max_bytes):
        given = []
        for p in sorted(self.ours):
            if part := self.rows[p][self.at[p] : self.at[p] + AT_ONCE]:
                raw = RawBatch.of(p, part, first_offset=self.at[p])
                given.append(Packed(p, len(raw.data), lambda raw=raw: iter([raw])))
                self.at[p] += len(part)
        return given


FIRST, SECOND = PARTS
SCRIPTS = {
    "nothing": {},
    "one goes and comes back in the same poll": {3: ([SECOND], [SECOND])},
    "one goes, and comes back later": {2: ([SECOND], []), 3: ([], [SECOND])},
    "all go and come back": {2: (PARTS, PARTS), 5: (PARTS, PARTS)},
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_every_row_is_folded_once(tmp_path: Path, script, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(ahead, "time", SimpleNamespace(monotonic=lambda: 0.2 * next(clock), perf_counter=time.perf_counter))
    rows, found, wanted = values(), Collected(), Collected()
    source = Polled(rows, {0: ([], PARTS)} | script)
    config = Config(detectors=workload.DETECTORS)
    outbox = Outbox([Route("all", found, frozenset({"alert"}))], threads=False)
    formats = {"inference": Format("inference", "json", (), 1 << 24)}
    engine = Engine(config, make_detectors(config), source, formats, outbox, Metrics(), Checkpoints(tmp_path))  # type: ignore[arg-type]
    source.engine, held = engine, 0
    for _ in range(60):
        engine.step(0.0)
        held += engine.intake.coming is not None
        engine.outbox.flush(0)
        for p in engine.workers:
            assert engine.intake.coming is None or engine.workers[p].next_offset <= source.at[p]
    assert held > 3 and source.polls > 5
    assert {p: engine.workers[p].next_offset for p in PARTS} == {p: len(rows[p]) for p in PARTS}
    engine.judge_population()
    engine.outbox.flush(0)
    undisturbed, own = engine_on(None, wanted)
    feed(undisturbed, own, rows, 1 << 40)
    assert found.seen.states() == wanted.seen.states() and wanted.seen.states()
    assert engine.rows == undisturbed.rows
