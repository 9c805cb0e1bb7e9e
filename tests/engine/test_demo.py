"""The demo: its parts are real and repeatable, its reckoning is honest, and the whole of it ends by itself."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from engine.demo import fleet, terminal
from engine.demo.digits import JacobianAugmentation, RandomKnockoff, Server
from engine.demo.fleet import Fault, Fleet
from engine.demo.scenario import Injection, Scenario, judged
from engine.demo.traffic import LLM_TOPIC, LlmTraffic
from streams.decode import Format, decode
from streams.records import Partition, RawBatch
from tests.support.kafka import Cluster

START_US = 1_700_000_000_000_000


@pytest.fixture(scope="module")
def server() -> Server:
    return Server(7)


def test_the_server_works_and_both_attacks_really_copy_it(server: Server) -> None:
    assert server.accuracy > 0.9
    rng = np.random.default_rng(0)
    for thief in (RandomKnockoff("k", 1, rng), JacobianAugmentation("j", 1, rng, server.held_out[:60])):
        assert thief.fidelity(server, 0) is None
        while thief.asked < 1000:
            images = thief.queries(50)
            assert images.dtype == np.float32 and images.shape[1] == 64 and 0 <= images.min() <= images.max() <= 16
            thief.answered(images, server.answer(images)[0])
        fidelity = thief.fidelity(server, 0)
        assert fidelity is not None and fidelity > 0.7, thief.name


def test_random_answers_would_buy_nothing(server: Server) -> None:
    """The fidelity is earned from the server's answers, not from how it is measured."""
    rng = np.random.default_rng(0)
    thief = RandomKnockoff("k", 1, rng)
    thief.answered(thief.queries(1000), rng.integers(0, 10, 1000))
    fidelity = thief.fidelity(server, 0)
    assert fidelity is not None and fidelity < 0.4


def rows_of(simulated: Fleet, seconds: int) -> list[dict[str, Any]]:
    return [json.loads(line) for r in simulated.records(START_US + seconds * 1_000_000) for line in r.value.splitlines()]


def test_fleet_stays_in_its_ranges_and_every_gpu_reports_every_second() -> None:
    rows = rows_of(Fleet(START_US, [], np.random.default_rng(1)), 200)
    assert Counter((r["host"], r["device"]) for r in rows) == {(f"node-{h:02d}", f"gpu{g}"): 200 for h in range(4) for g in range(8)}
    for name, low, high in (("power_usage", fleet.IDLE_W, 450), ("gpu_temp", 25, 70), ("gpu_util", 0.3, 1.0), ("sm_clock", 1300, 1410)):
        values = [r[f"metric.{name}"] for r in rows]
        assert low <= min(values) and max(values) <= high, name
    assert not any(r["xid"] or r["metric.clocks_event_reasons"] for r in rows)


def test_faults_happen_where_and_when_they_are_put() -> None:
    at = START_US + 60_000_000
    faults = [Fault("xid79", 0, 1, at), Fault("vanish", 1, 2, at), Fault("throttle", 2, 3, at)]
    rows = rows_of(Fleet(START_US, faults, np.random.default_rng(1)), 400)
    count = Counter((r["host"], r["device"]) for r in rows)
    assert count["node-00", "gpu1"] == 62 and count["node-01", "gpu2"] == 60 and count["node-02", "gpu3"] == 400
    assert {(r["host"], r["device"]) for r in rows if r["xid"]} == {("node-00", "gpu1")}
    hot = [r for r in rows if (r["host"], r["device"]) == ("node-02", "gpu3")]
    assert hot[-1]["metric.gpu_temp"] > 85 and hot[-1]["metric.sm_clock"] < 1350 and hot[-1]["metric.clocks_event_reasons"] == 0x40
    assert max(r["metric.gpu_temp"] for r in rows if (r["host"], r["device"]) != ("node-02", "gpu3")) < 75


def test_everything_a_scenario_sends_is_decoded_and_a_seed_repeats_it() -> None:
    sent = [[(r.topic, r.rows, r.value) for r in Scenario(START_US, 900.0, 3).records(START_US + 30_000_000)] for _ in range(2)]
    assert [x[:2] for x in sent[0]] == [x[:2] for x in sent[1]] and len({x[0] for x in sent[0]}) == 3
    assert [x[2] for x in sent[0]] == [x[2] for x in sent[1]]
    for topic, rows, value in sent[0]:
        decoded = decode(RawBatch.of(Partition(topic), [value]), Format({LLM_TOPIC: None, fleet.TOPIC: "hardware"}.get(topic, "inference")))
        assert decoded.rejects == [] and sum(r.table.num_rows for r in decoded.rows) == rows


def test_the_mix_of_the_language_model_changes_at_the_drift() -> None:
    traffic = LlmTraffic(START_US, START_US + 500_000_000, 4.0, np.random.default_rng(0))
    (before,), (after,) = (list(traffic.records(START_US + s * 1_000_000)) for s in (500, 1000))
    medians = []
    for record in (before, after):
        (rows,) = decode(RawBatch.of(Partition("t"), [record.value]), Format(None)).rows
        medians.append(float(np.median(rows.table.column("output_tokens").to_numpy(zero_copy_only=False))))
    assert 10 < medians[0] < 25 and 100 < medians[1] < 250  # medians of the two published traces: 13 and 129


def alert(detector: str, key: str, onset_s: float) -> dict[str, Any]:
    onset_us = START_US + int(onset_s * 1e6)
    return {
        "id": f"{detector}{key}{onset_s}",
        "detector": detector,
        "key": key,
        "onset_us": onset_us,
        "title": "[T]",
        "last_seen_us": onset_us,
    }


def test_the_reckoning_counts_misses_and_false_alarms() -> None:
    at = START_US + 100_000_000
    injections = (
        Injection("theft", "c1", at, ("extraction",), "c1", explains=("digits/",)),
        Injection("fault", "n0/gpu1", at, ("rules",), "n0/gpu1"),
        Injection("late", "n1/gpu1", at + 10**9, ("rules",), "n1/gpu1"),
    )
    heard = [
        alert("extraction", "c1", 10),  # long before the theft
        alert("extraction", "c2", 150),  # somebody else
        alert("extraction", "c1", 150),
        alert("drift", "digits/ink", 160),
        alert("missing", "n0/gpu1", 101),  # follows from the fault, but is not the answer that was wanted
    ]
    outcomes, explained, false = judged(injections, [(a["onset_us"] + 5_000_000, a) for a in heard], at + 1)
    assert [(o.alert is not None, o.delay_s, o.happened) for o in outcomes] == [
        (True, 55.0, True),
        (False, None, True),
        (False, None, False),
    ]
    assert explained == heard[3:] and false == heard[:2]
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(terminal.reckoning(outcomes, explained, false))
    text = console.export_text()
    assert all(word in text for word in ("missed", "not reached", "55 s", "extraction: [T]", "extraction: c1, c2"))


def test_evidence_in_one_line() -> None:
    said = terminal.evidence({"psi": 0.12345, "change": "rose", "histogram": [1], "flag": True, "n": 7})
    assert said == "psi=0.123  change=rose  n=7"


def demo(*arguments: str) -> str:
    command = [sys.executable, "-m", "engine.cli", "demo", "--port", "0", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("where", ["in process", pytest.param("kafka", marks=pytest.mark.kafka)])
def test_the_demo_ends_by_itself_and_finds_what_was_injected(where: str, request: pytest.FixtureRequest) -> None:
    through: list[str] = []
    if where == "kafka":
        cluster: Cluster = request.getfixturevalue("kafka")
        through = ["--kafka", cluster.bootstrap]
    text = demo("--seconds", "20", *through)
    found = re.findall(r"│ (.+?) +│.*│ (found|missed|not reached) +│", text)
    assert re.search(r"[\d,]+ rows in [\d.]+ s: [\d,]+ rows/s", text) and "http://127.0.0.1:" in text
    assert "agrees with the server" in text and "false alarms" in text
    if "held the producers back" in text:  # a machine too busy to play all of it: what came early must have been found
        assert text.count(" found ") >= 2, found
        return
    assert text.count("missed") + text.count("not reached") <= 1, text
    assert text.count(" found ") >= 5, found
