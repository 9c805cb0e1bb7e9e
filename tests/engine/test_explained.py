"""Every finding explains itself: what a published alert of each detector says, and that its samples are rows of its window."""

import json
from functools import cache

import numpy as np
import orjson
import pyarrow as pa
import pytest

from engine import samples
from engine.alerts import message
from engine.batch import Batch
from engine.detectors.drift import Drift, DriftSettings
from engine.detectors.quality import Quality, QualitySettings
from engine.evidence import Budget
from engine.finding import Context
from engine.lifecycle import Lifecycle
from engine.state import State
from tests.engine import (
    test_campaign,
    test_drift,
    test_drift_embeddings,
    test_extraction,
    test_grounding,
    test_performance,
    test_poisoning,
    test_probing,
    test_rates,
)  # fmt: skip
from tests.engine.population_runs import S, run

CONTRACT = {"columns": {"input_tokens": {"ge": 0}, "finish_reason": {"isin": ["stop"]}}, "max_rate": 0.01}


def times(n: int, per_second: int) -> np.ndarray:
    return (np.arange(n) * (S / per_second)).astype(np.int64)


def drift(cut=500, partitions=1):
    generator = np.random.default_rng(1)
    parts = test_drift.traffic(3000, generator), test_drift.traffic(2000, generator, 1.0, "new")
    columns = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]} | {"model": np.full(5000, "m", object)}
    return run(Drift(DriftSettings(), Context(Budget())), {"inference": (times(5000, 4), columns)}, cut, partitions)[0]


def drift_embeddings(cut=500, partitions=1):
    generator = np.random.default_rng(1)
    x = np.concatenate([test_drift_embeddings.vectors(n, generator, shift) for n, shift in ((3000, 0.0), (1500, 1.5))])
    return run(test_drift_embeddings.detector(), test_drift_embeddings.rows(x), cut, partitions)[0]


def performance(cut=500, partitions=1):
    generator = np.random.default_rng(1)
    columns = test_performance.joined(
        test_performance.rows(4000, generator), test_performance.rows(3000, generator, (0.4, 0.4), (0.5, 0.55))
    )
    return run(test_performance.detector(), test_performance.of(columns), cut, partitions)[0]


def rates(cut=500, partitions=1):
    columns = test_rates.joined(test_rates.traffic(3000, 1), test_rates.traffic(2000, 2, errors=0.2, slower=3.0))
    return test_rates.judged(columns, cut, partitions)[0]


def grounding(cut=500, partitions=1):
    parts = test_grounding.evaluations(2000, 1), test_grounding.evaluations(1000, 2, drop=0.15, fails=0.5)
    columns = test_grounding.joined(*parts)
    return run(test_grounding.grounding(), {"evaluation": (times(3000, 2), columns)}, cut, partitions)[0]


def quality(cut=500, partitions=1):
    columns = {
        "model": np.full(2000, "m", object),
        "input_tokens": np.where(np.random.default_rng(0).random(2000) < 0.2, -1, 5).astype(np.int32),
        "finish_reason": np.full(2000, "stop", object),
    }
    limited = Quality(QualitySettings(contracts={"inference": CONTRACT}), Context(Budget()))
    strict = Quality(QualitySettings(contracts={"inference": CONTRACT | {"max_rate": 0.0}}), Context(Budget()))
    return [a for d in (limited, strict) for a in run(d, {"inference": (times(2000, 20), columns)}, cut, partitions)[0]]


def campaign(cut=700, partitions=1):
    rows = [r for day in range(2) for r in test_campaign.traffic(1, day, campaign=60 * day)]
    return test_campaign.play(*test_campaign.service(partitions=partitions), rows, cut)[1]


def probing(cut=1000, partitions=1):
    rows = test_probing.usual(100)
    rows += [test_probing.request("thief", [1000 + i], 5, 1) for i in range(60)]
    rows += [test_probing.request("sweeper", temperature=i / 100) for i in range(60)]
    return Lifecycle(State()).apply(test_probing.run(rows, cut)[1], "inference", 0)


def poisoning(cut=400, partitions=1):
    rng = np.random.default_rng(1)
    rows = test_poisoning.ratings(3000, rng)
    for kind in ("copies", "distance", "labels", "trigger"):
        rows = test_poisoning.poisoned(rows, rng, test_poisoning.attack(kind))
    return test_poisoning.run(rows, cut, partitions)[0]


@cache
def extraction_rows():
    return [("ref", test_extraction.benign()) for _ in range(600)] + test_extraction.mixed("eve", 200, 0.5)


def extraction(cut=300, partitions=1):
    rows = extraction_rows()
    made, state = test_extraction.detector(reference_rows=600)
    batches = [test_extraction.prompts(rows[i : i + cut], i) for i in range(0, len(rows), cut)]
    return Lifecycle(State()).apply(test_extraction.run(made, state, *batches)[1], "inference", 0)


SURE = {"drift": "p_value", "drift_embeddings": "p_value", "performance": "p_value", "rates": "e_value", "grounding": "e_value",
        "quality": "e_value", "campaign": "p_value", "probing": "e_value", "poisoning": "", "extraction": "p_value"}  # fmt: skip
"""What says how sure a finding is; poisoning's labels have an e-value, its other signals a p-value."""
MAKE = {f.__name__: f for f in (drift, drift_embeddings, performance, rates, grounding, quality, campaign, probing, poisoning, extraction)}


@cache
def told(name: str, cut: int = 300) -> list[dict]:
    """A detector's alerts that opened, as they are published."""
    return published(MAKE[name](cut))


def published(alerts) -> list[dict]:
    return [orjson.loads(message(a, "/telltale/test").value)["data"] for a in alerts if a.sequence == 0]


@pytest.mark.parametrize("name", MAKE)
def test_a_finding_says_why(name):
    assert told(name), "nothing was found"
    for alert in told(name):
        evidence, exact = alert["evidence"], alert["evidence"].get("null", "").startswith("none: the contract")
        assert isinstance(evidence["statistic"], str) and isinstance(evidence["null"], str)
        assert exact or any(alert[k] is not None for k in ([SURE[name]] if SURE[name] else ["p_value", "e_value"])), alert["key"]
        window = evidence["window"]
        assert window["from_us"] <= window["to_us"] and window["rows"] > 0
        histogram = evidence.get("histogram") or evidence["histograms"]
        assert histogram
        if "histogram" in evidence:
            assert all({"bin", "reference", "window"} <= row.keys() for row in histogram)
            assert any(row["window"] for row in histogram)
        assert 1 <= len(evidence["samples"]) <= samples.SHOWN
        for place in evidence["samples"]:
            assert isinstance(place, str) or {"partition", "offset", "row"} <= place.keys()
        assert alert["tags"] and all(t.startswith(("AML.", "OWASP ", "NIST ", "AISVS ")) for t in alert["tags"])
        assert len(json.dumps(alert)) < 32_000


@pytest.mark.parametrize("name", MAKE)
def test_samples_do_not_depend_on_the_cut(name):
    first, other = (sorted((a["id"], json.dumps(a["evidence"].get("samples"))) for a in told(name, cut)) for cut in (300, 5000))
    assert first == other


def test_samples_are_rows_of_the_window_in_every_partition():
    found = [a for a in published(drift(partitions=3)) if a["evidence"]["window"]["rows"] < 2000]
    for alert in found:
        window, places = alert["evidence"]["window"], alert["evidence"]["samples"]
        assert {p["partition"] for p in places} <= {"t-0", "t-1", "t-2"}
        assert all(window["from_us"] <= p["offset"] * S // 4 < window["to_us"] for p in places)  # an offset is a row's number here
    assert len({p["partition"] for a in found for p in a["evidence"]["samples"]}) == 3


def test_samples_of_failures_are_failures():
    columns = test_rates.joined(test_rates.traffic(3000, 1), test_rates.traffic(2000, 2, errors=0.2))
    alert = next(a for a in published(test_rates.judged(columns)[0]) if a["key"] == "m/error_rate")
    assert all(columns["error"][p["offset"]] is not None for p in alert["evidence"]["samples"])
    alert = next(a for a in told("quality") if a["evidence"]["null"].startswith("the share"))
    bad = np.random.default_rng(0).random(2000) < 0.2
    assert all(bad[p["offset"]] for p in alert["evidence"]["samples"])


def test_samples_of_probing_are_the_requests_that_tell():
    places = told("probing")[0]["evidence"]["samples"]
    assert [p["offset"] for p in places] == sorted((p["offset"] for p in places), reverse=True)
    assert all(100 <= p["offset"] < 160 for p in places)


def batch(n: int, first: int, per_record: int = 1) -> Batch:
    table = pa.RecordBatch.from_pydict({"model": pa.array(["m"] * n)})
    return Batch("inference", table, (first + np.arange(n)) * 1000, (first + np.arange(n)) // per_record)


def test_places_are_bounded_whatever_comes():
    state, population = State(), State()
    state.name = "t-0"
    for first in range(0, 60_000, 6000):
        one = batch(6000, first)
        keys = [f"flood{first + i}" for i in range(6000)]
        samples.fold(state, "x", one, one.time_us // S, S, np.arange(6000), keys)
    held = state.arrays["samples.open/x"]
    assert len(held) <= 60 * samples.OF_PANE
    samples.merge(samples.collect(state, 60 * S, S), population)
    assert "samples.open/x" not in state.arrays
    samples.trim(population)
    assert len(population.arrays["samples.held/x"]) <= samples.MOST


def test_a_row_is_told_by_its_place_in_its_record():
    state = State()
    one = batch(9, 0, per_record=3)
    assert one.record_rows.tolist() == [0, 1, 2] * 3 and one.take(np.array([4, 8])).record_rows.tolist() == [1, 2]
    state.declare(samples.ring("x", "keys"))
    slots = state.slots("keys", ["a", "b"], 0)
    rows = np.arange(9)
    assert [p["offset"] for p in samples.noted(state, "x", 0, one, rows[:4])] == [1, 0, 0, 0]
    samples.note(state, "x", one, rows, slots[rows % 2])
    told = samples.noted(state, "x", int(slots[1]), one, rows[:0])
    assert [(p["offset"], p["row"]) for p in told] == [(2, 1), (1, 2), (1, 0), (0, 1)]


def test_the_ring_keeps_the_last_rows_whatever_the_cut():
    told = []
    for cut in (1, 7, 40):
        state = State()
        state.declare(samples.ring("x", "keys"))
        slots = state.slots("keys", ["a", "b", "c"], 0)
        for first in range(0, 40, cut):
            one = batch(min(cut, 40 - first), first)
            samples.note(state, "x", one, np.arange(len(one)), slots[one.offsets % 3])
        told.append([samples.noted(state, "x", int(s), one, np.empty(0, np.int64)) for s in slots])
    assert told[0] == told[1] == told[2] and [p["offset"] for p in told[0][0]] == list(range(39, 15, -3))


def test_samples_of_extraction_are_queries_of_the_principal():
    alert = told("extraction")[0]
    assert alert["key"] == "eve" and alert["evidence"]["features"][0]["log_e"] > 0
    assert all(600 <= p["offset"] < 800 and p["partition"] == "" for p in alert["evidence"]["samples"])
    assert sum(row["window"] for row in alert["evidence"]["histogram"]) <= alert["evidence"]["queries"]
