"""Drift by hour of the week and by segment: what a season or a mix explains is told apart from a change within."""

import numpy as np
import pyarrow as pa
import pytest

from engine.batch import Batch
from engine.detectors.drift import Drift, DriftSettings
from engine.detectors.drift_reference import HOUR_US, Reference, learn
from engine.evidence import Budget
from engine.finding import Context
from engine.sketch import merged
from engine.worker import Worker
from streams.records import Partition
from tests.engine.population_runs import S, flat, opened, run

REGIONS = np.array(["eu", "us"])


def daily(hours: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Values that follow the time of day."""
    return generator.normal(size=len(hours)) + 2.5 * np.sin(hours / 24 * 2 * np.pi)


def test_a_daily_course_is_no_drift_when_the_reference_knows_it_and_a_shift_still_is():
    generator = np.random.default_rng(0)
    minutes = np.arange(24 * 60 * 17)
    time_us = minutes * 60 * S
    x = daily(minutes / 60, generator)
    weeks = minutes < 24 * 60 * 14
    reference = learn(x[weeks], time_us[weeks] // S)
    assert reference.hours is not None and reference.hours.sum() == weeks.sum()
    known = {"drift": {"m/feature.x": reference.record()}}
    assert Reference.of(reference.record()).hours.tolist() == reference.hours.tolist()

    def alerts_of(values: np.ndarray, baseline: dict) -> list:
        columns = {"model": pa.array(["m"] * len(values)), "feature.x": values.astype(np.float32)}
        return opened(run(Drift(DriftSettings(), Context(Budget(), baseline=baseline)), {"inference": (time_us[~weeks], columns)})[0])

    assert alerts_of(x[~weeks], known) == []
    flat_reference = learn(x[weeks], time_us[weeks] // S, seasonal=False)
    flat_reference.tau = 0.0
    assert alerts_of(x[~weeks], {"drift": {"m/feature.x": flat_reference.record()}}) != []
    (alert,) = alerts_of(x[~weeks] + 1.0, known)
    assert alert.evidence["reference"]["by_hour"]


def mixed(n: int, share: float, generator: np.random.Generator, shift: float = 0.0) -> dict:
    """Two regions whose values differ; `shift` moves those of the first one."""
    region = (generator.random(n) > share).astype(int)
    x = generator.normal(size=n) + 2.0 * region + shift * (region == 0)
    return {"model": pa.array(["m"] * n), "feature.region": pa.array(REGIONS[region]), "feature.x": pa.array(x, pa.float32())}


def joined(*parts):
    return {k: pa.concat_arrays([p[k] for p in parts]) for k in parts[0]}


def detector() -> Drift:
    return Drift(DriftSettings(segments=("feature.region",)), Context(Budget()))


def by_region(columns, **more):
    n = len(columns["model"])
    return run(detector(), {"inference": (np.arange(n) * S // 4, columns)}, **more)


def test_a_change_of_mix_is_told_as_one():
    generator = np.random.default_rng(1)
    alerts, scores, _ = by_region(joined(mixed(5000, 0.7, generator), mixed(2500, 0.2, generator)))
    found = {a.key: a for a in opened(alerts)}
    assert set(found) == {"m/feature.x", "m/feature.region"}  # and no segment of its own
    assert found["m/feature.region"].title == "feature.region of m drifted from its reference"
    (mix,) = found["m/feature.x"].evidence["mix"]
    assert mix["explains"] and mix["mix_total_variation"] > 2 * mix["within_total_variation"]
    assert found["m/feature.x"].labels["kind"] == "mix" and "mix" in found["m/feature.x"].title
    assert {k for k, *_ in [(s[2],) for s in flat(scores)]} >= {"m{feature.region=eu}/feature.x", "m{feature.region=us}/feature.x"}


def test_a_change_within_a_segment_is_told_as_one():
    generator = np.random.default_rng(2)
    alerts, _, _ = by_region(joined(mixed(5000, 0.5, generator), mixed(2500, 0.5, generator, shift=2.0)))
    found = {a.key: a for a in opened(alerts)}
    assert set(found) == {"m/feature.x", "m{feature.region=eu}/feature.x"}
    (mix,) = found["m/feature.x"].evidence["mix"]
    assert not mix["explains"] and mix["within_total_variation"] > 2 * mix["mix_total_variation"]


@pytest.mark.parametrize(("cut", "partitions"), [(170, 1), (900, 3)])
def test_cuts_and_partitions_change_nothing(cut, partitions):
    generator = np.random.default_rng(3)
    columns = joined(mixed(4000, 0.6, generator), mixed(1500, 0.2, generator))
    one_alerts, one_scores, _ = by_region(columns, cut=5500)
    alerts, scores, _ = by_region(columns, cut=cut, partitions=partitions)
    assert flat(scores) == flat(one_scores)
    assert {a.id for a in alerts} == {a.id for a in one_alerts} != set()


def test_new_categories_are_named():
    generator = np.random.default_rng(4)
    plan = np.concatenate([generator.choice(["basic", "pro"], 4000), generator.choice(["basic", "trial", "gift"], 2000)])
    columns = {"model": pa.array(["m"] * 6000), "feature.plan": pa.array(plan)}
    alerts, _, _ = run(Drift(DriftSettings(), Context(Budget())), {"inference": (np.arange(6000) * S // 4, columns)})
    (alert,) = opened(alerts)
    assert alert.evidence["new_categories"] == ["gift", "trial"]
    assert "new: gift, trial" in alert.summary


def test_a_segment_that_the_reference_does_not_know_is_part_of_the_mix():
    generator = np.random.default_rng(5)
    new = mixed(2000, 0.7, generator, shift=4.0)
    new["feature.region"] = pa.array(["asia"] * 2000)
    alerts, _, _ = by_region(joined(mixed(5000, 0.7, generator), new))
    assert "m/feature.region" in {a.key for a in alerts}
    assert "asia" in str([a.evidence.get("new_categories") for a in alerts])


def test_hours_are_utc_hours_of_the_week():
    at = np.repeat(np.arange(2 * 168), 10) * HOUR_US
    reference = learn(np.tile(np.arange(10.0), 336), at // S)
    assert reference.hours is not None and (reference.hours.sum(axis=1) == 20).all()


def test_of_many_categories_the_commonest_have_a_bin_each():
    generator = np.random.default_rng(6)
    users = np.array([f"user{i}" for i in range(500)])
    common = np.array([f"plan{i}" for i in range(5)])

    def draw(n: int, share: float) -> np.ndarray:
        return np.where(generator.random(n) < share, generator.choice(common, n), generator.choice(users, n))

    columns = {"model": pa.array(["m"] * 6000), "feature.who": pa.array(np.concatenate([draw(4000, 0.8), draw(2000, 0.3)]))}
    alerts, _, _ = run(Drift(DriftSettings(), Context(Budget())), {"inference": (np.arange(6000) * S // 4, columns)})
    (alert,) = opened(alerts)
    bins = {row["bin"]: row for row in alert.evidence["histogram"]}
    assert set(common) < set(bins) and len(bins) == 33
    assert bins["other"]["window"] > 100
    assert "kolmogorov_smirnov" not in alert.evidence["distances"] and "new_categories" not in alert.evidence


def test_columns_that_hold_no_numbers_or_text_are_left_out():
    n = 3000
    columns = {
        "model": pa.array(["m"] * n), "feature.list": pa.array([[1.0]] * n), "feature.flag": pa.array([True, False] * (n // 2)),
    }  # fmt: skip
    _, scores, population = run(Drift(DriftSettings(), Context(Budget())), {"inference": (np.arange(n) * S // 4, columns)})
    assert set(population.state.records["drift.references"]) == {"m/feature.flag"}
    assert {k for _, _, k, *_ in flat(scores)} == {"m/feature.flag"}


def test_other_segments_after_a_restart_begin_to_learn_again():
    generator = np.random.default_rng(7)
    n = 3000
    columns, time_us = mixed(n, 0.5, generator), np.arange(n) * S // 4
    _, _, population = run(detector(), {"inference": (time_us[:1000], {k: v[:1000] for k, v in columns.items()})})
    other = Drift(DriftSettings(), Context(Budget()))
    worker = Worker(Partition("t"), {"drift": other}, "", None, {})
    worker.state.arrays["drift.values/m/feature.x"] = np.zeros((5, 3))
    worker.observe(Batch("inference", pa.RecordBatch.from_pydict(columns), time_us, np.arange(n)))
    sketches = merged(worker.collect(int(time_us[-1]) + 2 * S, S))
    assert {s.values.shape[1] for s in sketches} == {1}
    other.merge(sketches, population.state)
    assert "m/feature.x" in other.references
