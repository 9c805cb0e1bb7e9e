"""edetector: recursion against sums over all starts; cuts into batches; and the promise: no more false alarms than were spent."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.edetector import PARTS, edetector
from tests.kernels.tolerances import assert_close
from tests.naive import edetector as naive


def case(seed: int, n: int, slots: int = 5, tests: int = 2, lanes: int = 6):
    rng = np.random.default_rng(seed)
    totals = rng.integers(1, 30, n).astype(float)
    null = rng.uniform(0.05, 0.9, (slots, lanes))
    weights = rng.dirichlet(np.ones(lanes), slots)
    weights[:, -1] = 0
    return {
        "successes": rng.binomial(totals.astype(int)[:, None], rng.uniform(0.05, 0.9, tests), (n, tests)).astype(float),
        "totals": totals,
        "spend": rng.uniform(1e-7, 1e-5, n),
        "time_us": np.sort(rng.integers(0, 10**15, n)).astype(float),
        "slots": rng.integers(-1, slots, n).astype(np.int32),
        "null": null,
        "alternative": rng.uniform(0.02, 0.98, (slots, lanes)),
        "power": rng.uniform(0.2, 1, (slots, lanes)),
        "weights": weights,
    }


@pytest.mark.parametrize("n", [0, 1, 60])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_oracle(seed, n):
    given_ = case(seed, n)
    state = np.zeros((5, PARTS, 6))
    _, steps = edetector(**given_, state=state)
    expected = naive.edetector(**given_)
    alike = np.isnan(expected[0]) | (expected[0] < 1e11)  # beyond it M is capped
    for got, want in zip(steps, expected, strict=True):
        assert_close("edetector", np.asarray(got, float)[alike], np.asarray(want, float)[alike])
    assert (steps.e >= 1).any() or n < 60


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 50))
def test_any_cut_gives_the_same(seed, cut):
    whole = case(seed, 50)
    rows = ("successes", "totals", "spend", "time_us", "slots")
    once, twice = np.zeros((5, PARTS, 6)), np.zeros((5, PARTS, 6))
    expected = edetector(**whole, state=once)[1]
    parts = [
        edetector(**{k: v[part] if k in rows else v for k, v in whole.items()}, state=twice)[1] for part in (slice(cut), slice(cut, 50))
    ]
    np.testing.assert_array_equal(once, twice)
    for i, column in enumerate(expected):
        np.testing.assert_array_equal(np.concatenate([p[i] for p in parts]), column)


def lanes_for(null: float, slots: int):
    odds = null / (1 - null) * np.array([1.3, 2, 4, 10, 1 / 1.3, 0.5, 0.25, 0.1])
    return np.full((slots, 8), null), np.tile(odds / (1 + odds), (slots, 1)), np.ones((slots, 8)), np.full((slots, 8), 1 / 8)


@pytest.mark.parametrize("kind", ["independent", "runs", "values"])
def test_no_more_false_alarms_than_were_spent(kind):
    """Dependence that keeps each step's mean given the past: sizes of steps that follow the past, and values that are no counts."""
    rng = np.random.default_rng(5)
    slots, steps, null, spend = 800, 400, 0.2, 1 / 400
    null_, alternative, power, weights = lanes_for(null, slots)
    state, alarms, total = np.zeros((slots, PARTS, 8)), 0, np.full(slots, 5.0)
    for t in range(steps):
        if kind == "values":
            x = rng.beta(2, 8, (slots, 5)).sum(axis=1)
        else:
            x = rng.binomial(total.astype(int), null).astype(float)
        said = edetector(
            x[:, None], total.copy(), np.full(slots, spend), np.full(slots, float(t)), np.arange(slots, dtype=np.int32),
            null_, alternative, power, weights, state,
        )[1]  # fmt: skip
        alarms += int((said.e >= 1).sum())
        if kind == "runs":
            total = np.where(x > total * null, 12.0, 2.0)  # traffic that reacts to what it saw
    expected = slots * steps * spend
    assert alarms <= expected + 3 * np.sqrt(expected)
    assert alarms > 0 or kind == "values"


def test_the_start_of_a_change_and_the_rate_after_it():
    rng = np.random.default_rng(6)
    k = np.concatenate([rng.binomial(20, 0.1, 200), rng.binomial(20, 0.3, 40)]).astype(float)
    null, alternative, power, weights = lanes_for(0.1, 1)
    _, steps = edetector(
        k[:, None], np.full(240, 20.0), np.full(240, 1e-7), np.arange(240.0), np.zeros(240, np.int32),
        null, alternative, power, weights, np.zeros((1, PARTS, 8)),
    )  # fmt: skip
    at = int(np.flatnonzero(steps.e >= 1)[0])
    assert 200 <= at < 215
    assert abs(steps.since_us[at] - 199) <= 3
    assert 0.2 < steps.successes[at] / steps.rows[at] < 0.4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"successes": np.zeros(3)}, "successes must be"),
        ({"totals": np.zeros(3, np.int64)}, "totals must be"),
        ({"slots": np.full(3, 2, np.int32)}, "slots must be"),
        ({"state": np.zeros((1, 4, 2))}, "state must be"),
        ({"weights": np.full((1, 2), 0.7)}, "at most 1"),
        ({"null": np.array([[0.0, 0.5]])}, "between 0 and 1"),
        ({"power": np.array([[0.0, 1.0]])}, "power must be"),
        ({"alternative": np.zeros((1, 3))}, "alternative must be"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    rows = {
        "successes": np.zeros((3, 1)),
        "totals": np.zeros(3),
        "spend": np.zeros(3),
        "time_us": np.zeros(3),
        "slots": np.zeros(3, np.int32),
    }
    tables = {"null": np.full((1, 2), 0.5), "alternative": np.full((1, 2), 0.6), "power": np.ones((1, 2)), "weights": np.full((1, 2), 0.5)}
    with pytest.raises(ValueError, match=message):
        edetector(**(rows | tables | {"state": np.zeros((1, PARTS, 2))} | change))
