"""Rates: finds what left its usual share, tells since when, and is silent on what did not, whatever cuts, partitions and correlation."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from engine.batch import Batch
from engine.bounded import CONFIDENCE, Quantity, bounds, learn
from engine.config import ConfigError, parse
from engine.detectors.rates import Objective, Rates, RatesSettings
from engine.evidence import WEEK_US, Budget
from engine.finding import Context
from engine.population import Population
from engine.snapshot import pack, unpack
from engine.worker import Worker
from streams.records import Partition
from tests.engine.population_runs import S, flat, opened, run


def traffic(n: int, seed: int = 0, errors=0.01, slower=1.0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "model": np.full(n, "m", object),
        "error": np.where(generator.random(n) < errors, np.where(generator.random(n) < 0.5, "timeout", "http 500"), None).astype(object),
        "finish_reason": generator.choice(np.array(["stop", "length", "content_filter"], object), n, p=[0.9, 0.08, 0.02]),
        "duration_s": (generator.lognormal(0, 1, n) * slower).astype(np.float32),
        "output_tokens": generator.integers(1, 400, n).astype(np.int32),
        "confidence": generator.beta(8, 2, n).astype(np.float32),
    }


def joined(*parts):
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}


def rates(budget: float = 1.0, **of) -> Rates:
    return Rates(RatesSettings(**of), Context(Budget({"rates": budget})))


def judged(columns, cut=500, partitions=1, seed=0, budget=1.0, per_second=4, **of):
    time_us = (np.arange(len(columns["model"])) * (S / per_second)).astype(np.int64)
    return run(rates(budget, **of), {"inference": (time_us, columns)}, cut, partitions, seed)


def test_errors_and_slowness_are_found_and_dated():
    columns = joined(traffic(6000, 1), traffic(3000, 2, errors=0.12, slower=3.0))
    alerts, _, _ = judged(columns)
    first = {a.key: a for a in reversed(opened(alerts))}
    assert {"m/error_rate", "m/duration_s"} <= set(first) <= {"m/error_rate", "m/duration_s", "m/timeout_rate"}
    for alert in first.values():  # of timeouts the reference has ten, and little to say of whether they come together
        assert 6000 / 4 < alert.onset_us / S < (9000 if alert.key == "m/timeout_rate" else 6800) / 4
        assert abs(alert.evidence["began_us"] / S - 1500) < 60
        assert alert.e_value >= alert.evidence["average_run_length"]["steps"]
    told = first["m/error_rate"].evidence
    assert (told["direction"], 0.005 < told["before"] < 0.02, 0.08 < told["after"] < 0.18) == ("rise", True, True)
    assert "over" in first["m/duration_s"].evidence and first["m/error_rate"].tags


def test_what_moves_together_is_told_with_the_first():
    columns = joined(traffic(6000, 1), traffic(3000, 2, errors=0.5, slower=20.0))
    alerts, _, _ = judged(columns)
    assert any(a.evidence["also_moved"] for a in opened(alerts))


def test_refusals_that_stop_are_found_as_a_fall():
    after = traffic(6000, 3)
    after["finish_reason"][:] = "stop"
    alerts, _, _ = judged(joined(traffic(6000, 4), after))
    fallen = {a.key: a.evidence["direction"] for a in opened(alerts)}
    assert fallen["m/truncation_rate"] == "fall"


@settings(max_examples=6, deadline=None)
@given(st.integers(100, 3000), st.integers(1, 4), st.integers(0, 100))
def test_cuts_and_partitions_change_nothing(cut, partitions, seed):
    columns = joined(traffic(3000, 5), traffic(1500, 6, errors=0.2, slower=4.0))
    one_alerts, one_scores, _ = judged(columns, cut=4500)
    alerts, scores, _ = judged(columns, cut, partitions, seed)
    assert flat(scores) == flat(one_scores)
    assert {a.id for a in alerts} == {a.id for a in one_alerts} != set()


def correlated(n: int, generator: np.random.Generator, memory: float) -> np.ndarray:
    """A standard normal AR(1)."""
    noise = generator.normal(size=n) * np.sqrt(1 - memory**2)
    return signal.lfilter([1], [1, -memory], noise)


@pytest.mark.parametrize("memory", [0.0, 0.9, 0.99])
def test_correlated_traffic_stays_within_the_budget(memory):
    """At 200 a week, over a week in all: 8 quantities of 12 streams, references of 2,048 rows, durations and errors that come in clusters."""
    alerts, weeks = 0, 0.0
    for seed in range(12):
        n = 14_000
        generator = np.random.default_rng(seed)
        columns = traffic(n, seed)
        columns["duration_s"] = np.exp(correlated(n, generator, memory)).astype(np.float32)
        columns["error"] = np.where(correlated(n, generator, memory) > 2.0, "timeout", None).astype(object)
        found, _, _ = judged(columns, cut=7000, budget=200.0, per_second=0.2)
        alerts += len(opened(found))
        weeks += n * 5 * S / WEEK_US
    assert weeks > 1
    assert alerts <= 200 * weeks


def test_a_promise_needs_no_reference():
    objective = Objective(quantity="error_rate", max=0.01)
    slow = Objective(quantity="duration_s", over=2.0, max=0.05, model="m*")
    columns = traffic(1500, 7, errors=0.06)
    columns["duration_s"] = np.random.default_rng(8).uniform(0.5, 2.02, 1500).astype(np.float32)
    alerts, _, population = judged(columns, objectives=(objective, slow))
    assert {a.key for a in opened(alerts)} == {"m/error_rate_objective"}
    assert "m/duration_s_over_2" in population.state.table("rates.series").index
    assert opened(alerts)[0].evidence["before"] == 0.01


def test_a_promise_that_says_too_little_is_refused():
    with pytest.raises(ConfigError, match=r"detectors.rates.objectives.0: duration_s: a number needs `over` or `under`"):
        parse("detectors: {rates: {objectives: [{quantity: duration_s, max: 0.1}]}}")
    assert Objective(quantity="confidence", under=0.5, max=0.1).name == "confidence_under_0.5"


def test_a_baseline_gives_the_null_at_once():
    fitting = Rates(RatesSettings(), Context(Budget(), fitting=True))
    time_us = np.arange(8000) * S // 4
    _, _, population = run(fitting, {"inference": (time_us, traffic(8000, 9))}, 8000)
    given = fitting.fitted([], population.state)
    watching = Rates(RatesSettings(), Context(Budget(), baseline={"rates": given}))
    alerts, _, _ = run(watching, {"inference": (time_us[:600], traffic(600, 10, errors=0.15))}, 600)
    assert {a.key for a in opened(alerts)} <= {"m/error_rate", "m/timeout_rate"}
    assert "m/error_rate" in {a.key for a in opened(alerts)}


def test_more_series_than_allowed_are_counted_not_kept():
    columns = traffic(4000, 11)
    columns["model"] = np.array([f"m{i % 4}" for i in range(4000)], object)
    _, _, population = judged(columns, max_series=3)
    assert len(population.state.table("rates.series").keys) <= 3


def test_the_null_holds_the_true_share():
    """The upper and lower null miss the truth no more often than their confidence says, with rows that are independent or in clusters."""
    generator = np.random.default_rng(12)
    panes = np.repeat(np.arange(512), 4)
    blocks = [np.arange(0, 512, 8), np.arange(0, 512, 32)]
    missed, powers = 0, ([], [])
    for i in range(300):
        share = generator.uniform(0.01, 0.5)
        draws = generator.random(2048) < share
        if i % 2:
            draws = np.repeat(generator.random(256) < share, 8)
        successes = np.bincount(panes, draws)[:, None]
        _, rise, fall, _, _, power = bounds(successes[:, 0], np.full(512, 4.0), blocks, 1.2)
        missed += not fall <= share <= rise
        powers[i % 2].append(power)
    assert missed <= 300 * 2 * CONFIDENCE + 3
    assert np.median(powers[0]) > 0.6 and max(powers[1]) < 0.3


def test_a_number_that_never_varies_has_no_room_to_alarm():
    cells = np.column_stack([np.arange(3000), np.full(3000, 300), np.ones(3000, np.int64)])
    null = learn(Quantity("x", "x", "both", (0.5, 0.9)), cells, 1.5)
    assert null.mean == (0.0, 0.0) and null.fall == (0.0, 0.0) and 0 < null.rise[0] < 0.01


def test_a_restart_goes_on_where_it_was():
    """Everything the detector knows is in the state: a checkpoint in the middle changes nothing."""
    columns, time_us = joined(traffic(3000, 13), traffic(1500, 14, errors=0.2, slower=4.0)), np.arange(4500) * S // 4

    def play(restart_at: int | None):
        detector, out = rates(), []
        worker = Worker(Partition("t", 0), {"rates": detector}, "", None, {})
        population = Population({"rates": detector}, "", None, S, 2 * S, 1e9)
        for first in range(0, 4500, 500):
            if first == restart_at:
                kept = [unpack(pack(one.snapshot([])), None) for one in (worker, population)]
                detector = rates()
                worker = Worker(Partition("t", 0), {"rates": detector}, "", kept[0], {})
                population = Population({"rates": detector}, "", kept[1], S, 2 * S, 1e9)
            population.heard_from(worker)
            part = slice(first, first + 500)
            table = pa.RecordBatch.from_pydict({k: pa.array(v[part]) for k, v in columns.items()})
            worker.observe(Batch("inference", table, time_us[part], np.arange(first, first + 500)))
            worker.state.watermarks["inference"] = int(time_us[first + 499]) - 2 * S
            out += population.advance([worker], lambda partition: 1)[1]
        return [(a.id, a.status, a.sequence, a.score) for a in out]

    whole = play(None)
    assert whole and play(1000) == whole and play(3500) == whole
