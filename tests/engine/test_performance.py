"""Performance: worse models are found, estimated or realised, each change as an alert of its own; what stays as it was is not."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import f1_score, roc_auc_score

from engine.detectors.drift_reference import category_code
from engine.detectors.performance import Performance, PerformanceSettings, condensed
from engine.detectors.performance_reference import CONFIDENCES, NONE, Known, auroc, cells, learn, metrics, realised, rising
from engine.evidence import Budget
from engine.finding import Context
from tests.engine.population_runs import S, flat, opened, run

STEP_US = S // 2


def rows(n: int, generator: np.random.Generator, wrong=(0.1, 0.2), sure=(0.5, 1.0), confidence: bool = True) -> dict[str, pa.Array]:
    """Predictions of two classes that are wrong at these rates, and as sure as they are right (but for the rates)."""
    said = (generator.random(n) < 0.4).astype(int)
    chance = generator.uniform(*sure, n)
    right = generator.random(n) < 1 - np.array(wrong)[said] * (1.5 - chance) / 0.75
    columns = {
        "model": pa.array(["m"] * n),
        "predicted": pa.array(said.astype(str)),
        "outcome": pa.array(np.where(right, said, 1 - said).astype(str)),
    }
    return columns | ({"confidence": pa.array(chance, pa.float32())} if confidence else {})


def joined(*parts):
    return {k: pa.concat_arrays([p[k] for p in parts]) for k in parts[0]}


def detector() -> Performance:
    return Performance(PerformanceSettings(), Context(Budget()))


def of(columns, stream="inference"):
    return {stream: (np.arange(len(columns["predicted"])) * STEP_US, columns)}


def row_of(alert) -> int:
    return alert.onset_us // STEP_US


def test_each_change_is_an_alert_of_its_own_and_a_return_ends_it():
    generator = np.random.default_rng(1)
    parts = [rows(n, generator, wrong) for n, wrong in ((5000, (0.1, 0.2)), (6000, (0.3, 0.2)), (6000, (0.1, 0.5)), (6000, (0.1, 0.2)))]
    alerts, _, _ = run(detector(), of(joined(*parts)))
    found = opened(alerts)
    assert [a.key for a in found] == ["m/realised", "m/realised#2"]
    assert 5000 < row_of(found[0]) < 6000 and 11_000 < row_of(found[1]) < 12_000
    assert found[0].evidence["now"]["accuracy"] < found[0].evidence["before"]["accuracy"]


@pytest.mark.parametrize("confidence", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_what_stays_as_it_was_is_no_alarm(seed, confidence):
    alerts, scores, _ = run(detector(), of(rows(20_000, np.random.default_rng(seed), confidence=confidence)))
    assert alerts == []
    assert len(flat(scores)) > 100


def test_less_sure_predictions_are_an_estimated_drop_before_any_outcome():
    generator = np.random.default_rng(2)
    known, unsure = rows(6000, generator), rows(3000, generator, sure=(0.5, 0.55), wrong=(0.3, 0.4))
    unsure["outcome"] = pa.nulls(3000, pa.string())
    known["confidence"], unsure["confidence"] = (c.cast(pa.float32()) for c in (known["confidence"], unsure["confidence"]))
    alerts, _, _ = run(detector(), of(joined(known, unsure)))
    assert [a.key for a in opened(alerts)] == ["m/estimated"]
    assert 6000 < row_of(alerts[0]) < 8000
    assert alerts[0].evidence["calibrated"]


def test_outcomes_may_come_later_as_feedback():
    generator = np.random.default_rng(3)
    told = joined(rows(4000, generator), rows(3000, generator, wrong=(0.35, 0.2)))
    feedback = {"label" if k == "outcome" else k: v for k, v in told.items()} | {"source": pa.array(["labels"] * 7000)}
    inference = {k: v for k, v in told.items() if k != "outcome"}
    later = np.arange(7000) * STEP_US + 600 * S
    alerts, _, _ = run(detector(), {"inference": (np.arange(7000) * STEP_US, inference), "feedback": (later, feedback)})
    assert {a.key for a in alerts} == {"m/realised"}
    assert 4000 < (alerts[0].onset_us - 600 * S) // STEP_US < 5000


@settings(max_examples=6, deadline=None)
@given(st.integers(200, 3000), st.integers(1, 4), st.integers(0, 100))
def test_cuts_and_partitions_change_nothing(cut, partitions, seed):
    generator = np.random.default_rng(4)
    columns = of(joined(rows(3000, generator), rows(3000, generator, wrong=(0.4, 0.2))))
    one_alerts, one_scores, _ = run(detector(), columns, cut=6000)
    alerts, scores, _ = run(detector(), columns, cut, partitions, seed)
    assert flat(scores) == flat(one_scores)
    assert {a.id for a in alerts} == {a.id for a in one_alerts} != set()


def fitted(n: int, seed: int) -> tuple[Known, np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    said, sure = (generator.random(n) < 0.4).astype(int), generator.uniform(0.5, 1, n)
    true = np.where(generator.random(n) < sure, said, 1 - said)
    code = np.array([category_code("0"), category_code("1")])
    told = np.column_stack([np.arange(n) // 100, code[said], np.clip(sure * NONE, 0, NONE - 1).astype(int), code[true], np.ones((n, 2))])
    return learn(told, {str(int(c)): str(i) for i, c in enumerate(code)}, {}), said, sure, true


def test_estimates_are_near_the_truth_when_confidences_mean_what_they_say():
    known, *_ = fitted(20_000, 5)
    _, said, sure, true = fitted(50_000, 6)
    code = np.array([category_code("0"), category_code("1")])
    rows_ = np.column_stack(
        [np.zeros(len(said)), code[said], (sure * NONE).astype(int), np.full(len(said), np.nan), np.ones((len(said), 2))]
    )
    told = metrics(known, cells(known, rows_)[2][0])
    score = np.where(said == 1, sure, 1 - sure)
    assert told["accuracy"] == pytest.approx((said == true).mean(), abs=0.006)
    assert told["f1"] == pytest.approx(f1_score(true, said), abs=0.008)
    assert told["auroc"] == pytest.approx(roc_auc_score(true, score), abs=0.008)
    assert Known.of(known.record()).right.tolist() == known.right.tolist()


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1)), min_size=2, max_size=40).filter(lambda r: any(n for n, _ in r)))
def test_calibration_is_isotonic_regression(pairs):
    n = np.array([a for a, _ in pairs], np.float64)
    right = np.round(n * np.array([b for _, b in pairs]))
    seen = n > 0
    expected = IsotonicRegression().fit(np.flatnonzero(seen), right[seen] / n[seen], sample_weight=n[seen]).predict(np.flatnonzero(seen))
    assert rising(right, n, 0.5)[seen] == pytest.approx(expected, abs=1e-9)


def test_expected_auroc_is_the_weighted_one():
    generator = np.random.default_rng(7)
    score, n, chance = generator.integers(0, 20, 60) / 20, generator.integers(1, 9, 60).astype(float), generator.random(60)
    both = np.tile(score, 2)
    expected = roc_auc_score(np.repeat([1, 0], 60), both, sample_weight=np.concatenate([n * chance, n * (1 - chance)]))
    assert auroc(score, n, chance) == pytest.approx(expected, abs=1e-9)


def test_macro_f1_is_that_of_the_rows():
    known, said, _, true = fitted(5000, 8)
    confusion = np.zeros((3, 3), np.int64)
    np.add.at(confusion, (said, true), 1)
    assert realised(known, confusion)["f1_macro"] == pytest.approx(f1_score(true, said, average="macro"), abs=1e-12)
    assert known.confusion.tolist() == confusion.tolist()
    assert known.outcomes.sum() == 5000 == known.predicted[:, : CONFIDENCES - 1].sum()


def test_alike_rows_are_kept_as_one():
    alike = np.tile([3.0, 7.0, 9.0, np.nan, 1.0, 2.0], (10, 1))
    assert condensed(alike, 5)[:, 5].tolist() == [20.0]
    assert np.isnan(condensed(alike, 5)[0, 3])
    assert len(condensed(alike, 10)) == 10


def test_an_approval_lets_a_model_learn_anew():
    generator = np.random.default_rng(9)
    _, _, population = run(detector(), of(joined(rows(4000, generator), rows(2000, generator, wrong=(0.4, 0.2)))))
    state = population.state
    assert state.records["performance.regimes"] and any(n.startswith("performance.ring/m/") for n in state.arrays)
    again = Performance(PerformanceSettings(), Context(Budget(), approvals=({"id": "1", "series": "m/*", "by": "ada"},)))
    again._restore(state)
    assert again.known == {} == state.records["performance.regimes"] == state.records["performance.known"]
    assert not any(n.startswith("performance.ring/m/") for n in state.arrays)
    again._restore(state)
    assert state.records["performance.approved"] == {"1": ["m"]}
