"""Processes that share one population: the same alerts as one process that reads everything, whatever comes twice, late or broken."""

import json
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import snapshot as archive
from engine.config import Config, ConfigError, parse
from engine.detectors.drift_reference import Reference
from engine.exchange import SharedPopulation
from engine.metrics import Metrics
from engine.outbox import Outbox, Route
from engine.population import NAME as POPULATION
from engine.run import Engine
from engine.sketch import Sketch
from engine.sketch_wire import KIND, PART_BYTES, Handed, Parts, messages, packed, unpacked
from engine.wiring import make_detectors, make_population
from streams.decode import Format
from streams.records import Partition, RawBatch, Reject
from tests.e2e.chaos import workload
from tests.e2e.chaos.reference import Collected, Silent
from tests.e2e.chaos.reference import Reference as Undisturbed

TOPIC = Partition("sketches")
ORIGINS = [Partition("inference", p) for p in range(4)]
CONFIG = Config(detectors=workload.DETECTORS)
RANDOM = np.random.default_rng(0)


def sketch(rows: int = 5, width: int = 3) -> Sketch:
    panes = np.arange(rows)
    return Sketch(
        "drift", "m/ü", panes, RANDOM.integers(0, 9, (rows, width)), RANDOM.normal(size=(2 * rows, 1)), np.repeat(panes, 2), {"1": "é"},
        {"new": 5}, {"account": np.array([f"a{i}" for i in range(rows)], object), "sums": np.ones((rows, 2), np.int32)}, panes,
        np.column_stack([panes, panes, panes]),
    )  # fmt: skip


def same(a: Sketch, b: Sketch) -> None:
    assert (a.detector, a.series, a.names, a.unseen, a.columns.keys()) == (b.detector, b.series, b.names, b.unseen, b.columns.keys())
    for name in ("panes", "counts", "values", "value_panes", "column_panes", "cells"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype and getattr(b, name).flags.writeable
    for name in a.columns:
        np.testing.assert_array_equal(a.columns[name], b.columns[name])


def received(values, parts: Parts) -> list[Handed]:
    return [h for offset, m in enumerate(values) if (h := parts.add(m.headers, m.value, offset)) is not None]


@pytest.mark.parametrize("rows", [0, 1, 5, 100_000])
def test_sketches_travel_whole_in_parts(rows):
    sent = messages(Handed("t-0", 7_000_000, True, [sketch(rows), sketch(2)]))
    assert all(len(m.value) <= PART_BYTES and m.kind == KIND and m.key == "t-0" for m in sent) and (len(sent) > 1) == (rows > 5)
    (handed,) = received(sent, Parts())
    assert (handed.origin, handed.to_us, handed.idle) == ("t-0", 7_000_000, True)
    if rows <= 5:
        same(unpacked(packed(Handed("t", 0, False, [a := sketch(rows)]))).sketches[0], a)
    np.testing.assert_array_equal(handed.sketches[0].panes, np.arange(rows))


def test_parts_of_two_owners_may_mix_and_come_again():
    old, new = messages(Handed("t-0", 5, False, [sketch(90_000)])), messages(Handed("t-0", 9, False, [sketch(90_000)]))
    assert len(old) > 2 and len(new) > 2
    mixed = [old[1], old[0], new[0], old[1], new[1], new[1], new[0], *new[1:], *old[2:]]
    parts = Parts()
    assert sorted(h.to_us for h in received(mixed, parts)) == [5, 9]
    assert parts.first_offset(77) == 77


def test_what_is_open_is_read_again_from_its_first_part():
    sent, parts = messages(Handed("t-0", 5, False, [sketch(90_000)])), Parts()
    assert parts.add(sent[0].headers, sent[0].value, 40) is None
    assert parts.first_offset(41) == 40


WHOLE = packed(Handed("t-0", 1, False, [sketch()]))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=5), st.integers(0, len(WHOLE)))
def test_broken_bytes_are_refused_or_read_but_nothing_worse(changes, cut):
    data = bytearray(WHOLE)
    for place, byte in changes:
        data[place] = byte
    try:
        unpacked(bytes(data[:cut]))
    except ValueError:
        return


class Topic:
    """The topic of sketches, as a sink of each process and a source of one."""

    def __init__(self, fails: Sequence[int] = ()):
        self.records, self.fails, self.sent = [], fails, 0

    def send(self, queued):
        """All of it; in the attempts `fails`, the first message is not written, and what comes after it is."""
        self.sent += 1
        written = queued[1:] if self.sent in self.fails else queued
        self.records += written
        return {m.id for m in written}

    def close(self): ...

    def since(self, offset: int) -> RawBatch | None:
        new = self.records[offset:]
        if not new:
            return None
        return RawBatch.of(TOPIC, [m.value for m in new], first_offset=offset, headers=[m.headers for m in new])


def process(topic: Topic, sink: Collected) -> Engine:
    outbox = Outbox(
        [Route("all", sink, frozenset({"alert"})), Route("sketches", topic, frozenset({KIND}), ordered=True)], 1 << 40, threads=False
    )
    detectors = make_detectors(CONFIG)
    population = SharedPopulation(
        detectors, "", CONFIG.pane_us, CONFIG.lateness_us, 1e9, TOPIC.topic, lambda: [str(p) for p in ORIGINS], outbox.put
    )
    formats = {"inference": Format("inference", "json", (), 1 << 24)}
    source = Silent()
    source.seek = lambda partition, offset: sought(offset)
    return Engine(CONFIG, detectors, source, formats, outbox, Metrics(), population=population)


def sought(offset: int) -> None:
    """As Kafka's client: no offset is negative."""
    if offset < 0:
        raise ValueError(f"offset {offset}")


def restarted(engine: Engine) -> Engine:
    """A process that goes on from the snapshots of one that ends, by way of bytes."""
    import io

    def again(snapshot):
        archive.write(snapshot, file := io.BytesIO())
        return archive.read(file, None)

    fresh = process(engine.outbox.routes["sketches"].sink, engine.outbox.routes["all"].sink)
    kept = {str(p): again(w.snapshot([])) for p, w in engine.workers.items()}
    kept[f"{TOPIC}@{POPULATION}"] = again(engine.population.snapshot(engine.outbox.pending(POPULATION)))
    fresh.handover._loaded = lambda name, owner: kept.get(name)
    fresh.assigned([*engine.workers, TOPIC])
    return fresh


def rows(partition: Partition) -> list[bytes]:
    return [
        r.value
        for n in range(5)
        for r in workload.segment(5, n, len(ORIGINS))
        if r.stream == "inference" and r.partition == partition.number
    ]


@pytest.fixture(scope="module")
def alone():
    """What one process makes of all partitions."""
    reference = Undisturbed(CONFIG, {"inference": "inference"}, len(ORIGINS))
    for number in range(5):
        reference.feed([r for r in workload.segment(5, number, len(ORIGINS)) if r.stream == "inference"])
    states = reference.states()
    assert sum("drift" in reference.sink.seen.keys[i] for i in states) > 0
    return states


def test_a_population_that_has_read_nothing_goes_on_from_the_beginning():
    engine = process(Topic(), Collected())
    engine.assigned([ORIGINS[0], TOPIC])
    assert restarted(engine).handover.kept[TOPIC] == 0


@pytest.mark.parametrize(("cut", "restarts", "twice"), [(97, (), False), (400, (2, 5), True)])
def test_processes_that_share_say_what_one_says(alone, cut, restarts, twice):
    topic, sink, counts = Topic(), Collected(), []
    home, other = process(topic, sink), process(topic, sink)
    home.assigned([ORIGINS[0], ORIGINS[2], TOPIC])
    other.assigned([ORIGINS[3], ORIGINS[1]])
    values, read = {p: rows(p) for p in ORIGINS}, 0
    for turn, first in enumerate(range(0, max(map(len, values.values())), cut)):
        for engine in (home, other):
            for partition in engine.workers:
                if part := values[partition][first : first + cut]:
                    engine.process(RawBatch.of(partition, part, first_offset=first))
            engine.judge_population()
            engine.outbox.flush(0)
        if turn in restarts:  # what it read since its checkpoint comes again
            home, read = restarted(home), max(0, read - 3)
        if (raw := topic.since(max(0, read - 5) if twice else read)) is not None:
            home.process(raw)
            read = len(topic.records)
        home.judge_population()
        home.outbox.flush(0)
        if twice and turn > 1:
            other.population.follow(home.population.state)
        drift = [s for h in received(topic.records[read - 4 :], Parts()) for s in h.sketches if h.origin == str(ORIGINS[1])]
        counts.append(sum(len(s.counts) for s in drift if s.detector == "drift"))
    assert bool(counts[-1]) == twice  # it knows what the population has learned, or hands over values
    assert sink.seen.states() == alone
    assert not [m for m in other.outbox.entries.get(POPULATION, ())]


def test_handovers_that_come_out_of_order_come_again_in_order(alone):
    topic, sink = Topic(fails=(2, 5, 6, 9)), Collected()
    home = process(topic, sink)
    home.assigned([*ORIGINS, TOPIC])
    for turn, first in enumerate(range(0, max(len(rows(p)) for p in ORIGINS), 60)):
        for partition in ORIGINS:
            if part := rows(partition)[first : first + 60]:
                home.process(RawBatch.of(partition, part, first_offset=first))
        home.judge_population()
        if turn % 4 == 3:  # several handovers of each wait by then
            advance(home, topic, max(0, home.population.next_offset))
    advance(home, topic, max(0, home.population.next_offset))
    advance(home, topic, max(0, home.population.next_offset))
    assert topic.sent > 9
    assert sink.seen.states() == alone


def test_what_never_comes_is_not_waited_for_without_end(monkeypatch):
    home = process(Topic(), Collected()).population
    home._take(Handed("a", 5))
    home._take(Handed("a", 9, from_us=7))
    assert home.frontiers["a"] == 5
    monkeypatch.setattr("engine.exchange.GAP_S", 0.0)
    home._take(Handed("a", 9, from_us=7))
    assert home.frontiers["a"] == 9


def test_nobody_is_judged_while_a_partition_is_out_and_an_idle_one_holds_nobody_up(alone):
    topic, sink = Topic(), Collected()
    home, other = process(topic, sink), process(topic, sink)
    home.assigned([*ORIGINS[:3], TOPIC])
    for p in ORIGINS[:3]:
        home.process(RawBatch.of(p, rows(p)))
    advance(home, topic, 0)
    population = home.population
    assert population.waiting and population.merged_us < 0
    other.assigned([ORIGINS[3]])
    other.population.idle_s, other.source.lag = 0.0, lambda partition: 0
    advance(other, topic, None)
    advance(home, topic, population.next_offset)
    assert population.merged_us > 0 and population.progress[str(ORIGINS[3])][1]


def test_counts_by_a_reference_that_was_let_go_are_left_out():
    home = process(Topic(), Collected()).population
    drift = home.detectors["drift"]
    edges = Reference(False, np.arange(5.0), np.ones(35, np.int64))
    drift.references["m/x"] = edges
    kept = Sketch("drift", "m/x", np.arange(3), np.ones((3, 35), np.int64), basis=edges.basis)
    assert home._accepted(kept) and home._accepted(replace(kept, basis="", counts=kept.counts[:0], panes=kept.panes[:0]))
    assert not home._accepted(replace(kept, basis=Reference(False, np.arange(6.0), edges.counts).basis))
    assert home._accepted(replace(kept, detector="rates", basis="else"))


def advance(engine: Engine, topic: Topic, since: int | None) -> None:
    engine.judge_population()
    engine.outbox.flush(0)
    if since is not None and (raw := topic.since(since)) is not None:
        engine.process(raw)
        engine.judge_population()


def test_what_is_no_sketch_is_a_dead_letter():
    dead, sink = [], Collected()
    home = process(Topic(), sink)
    home.assigned([TOPIC])
    home.reject = lambda owner, rejects: dead.extend(rejects)
    good = messages(Handed("inference-0", 5))[0]
    headers = [(), good.headers, good.headers]
    refused = (Reject(TOPIC, 2, "too_large", "a batch that nobody could take in", b""),)
    home.process(RawBatch.of(TOPIC, [b"x", b"not Arrow", good.value], first_offset=3, headers=headers, refused=refused))
    assert [(r.offset, r.reason) for r in dead] == [(2, "too_large"), (3, "sketch"), (4, "sketch")]
    assert home.population.progress == {"inference-0": (5, False)} and home.population.next_offset == 6
    assert json.dumps([r.detail for r in dead]).count("sketch") >= 1


@pytest.mark.parametrize("there", [0, 3])
def test_the_topic_of_sketches_has_one_partition(there):
    config = parse("source: {kafka: {bootstrap: b, topics: [{name: t}], sketches: s}}")
    source = SimpleNamespace(partitions=lambda topics: [Partition(t, n) for t in topics for n in range(there)])
    with pytest.raises(ConfigError, match=f"sketches: the topic s must have one partition, and has {there}"):
        make_population(config, make_detectors(config), source, Outbox([], threads=False))  # type: ignore[arg-type]
