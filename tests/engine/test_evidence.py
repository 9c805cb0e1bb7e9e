"""The budget: thresholds that follow from it keep it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.evidence import WEEK_US, Budget, LogHistogram, fit_tail

BINS = LogHistogram(1e-3, 1e9, 240)


def histogram(sample: np.ndarray) -> np.ndarray:
    return np.bincount(BINS.bin(sample), minlength=BINS.bins)


def test_alpha_adds_up_to_the_budget():
    budget = Budget({"drift": 3.0})
    spent = sum(budget.alpha("drift", WEEK_US / 1000, shared_by=5) for _ in range(1000 * 5))
    assert spent == pytest.approx(3.0)
    assert budget.alpha("other", WEEK_US) == 0.5


@pytest.mark.parametrize("shape", [1.0, 2.0, 5.0])
def test_a_pareto_tail_is_found_and_its_thresholds_hold(shape):
    generator = np.random.default_rng(int(shape * 10))
    rates = []
    for _ in range(30):
        tail = fit_tail(histogram(generator.pareto(shape, 5000) + 1), BINS)
        rates.append(np.mean(generator.pareto(shape, 20_000) + 1 > tail.threshold(1e-3)))
    assert np.mean(rates) <= 1e-3
    assert np.mean(rates) >= 1e-4


@pytest.mark.parametrize("draw", [lambda g, n: g.chisquare(20, n), lambda g, n: g.gamma(2, 1, n), lambda g, n: g.lognormal(0, 1, n)])
def test_lighter_tails_err_on_the_careful_side(draw):
    generator = np.random.default_rng(1)
    tail = fit_tail(histogram(draw(generator, 2000)), BINS)
    assert np.mean(draw(generator, 200_000) > tail.threshold(1e-4)) <= 1e-4


def test_too_little_is_no_tail():
    assert fit_tail(histogram(np.ones(39)), BINS) is None
    assert fit_tail(np.zeros(BINS.bins, np.int64), BINS) is None


@given(st.lists(st.floats(1e-6, 1e12), min_size=60, max_size=300), st.floats(1e-12, 0.1))
def test_threshold_and_p_value_are_each_others_inverse(sample, alpha):
    tail = fit_tail(histogram(np.array(sample)), BINS)
    threshold = tail.threshold(alpha)
    assert threshold >= tail.threshold(min(0.5, alpha * 10))
    if alpha < tail.share and threshold < 1e300:
        assert float(tail.p_value(threshold)) == pytest.approx(alpha, rel=1e-6)
