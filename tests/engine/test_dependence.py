"""dependence: independent rows are worth themselves, an AR(1)'s what theory says, and what groups differ in is no memory."""

import numpy as np
import pytest
from scipy import signal

from engine.dependence import memories


def kept_from_row_to_row(rng, n, kept, columns=1):
    return signal.lfilter([np.sqrt(1 - kept**2)], [1, -kept], rng.normal(size=(n, columns)), axis=0)


def test_independent_rows_have_no_memory():
    rng = np.random.default_rng(0)
    found = memories(rng.exponential(size=(1000, 200)), np.zeros(1000, int))
    assert (found == 1).mean() > 0.97
    assert found.max() < 4


@pytest.mark.parametrize("kept", [0.5, 0.9, 0.98])
def test_the_memory_of_an_ar1_is_what_theory_says(kept):
    rng, theory = np.random.default_rng(1), (1 + kept) / (1 - kept)
    found = memories(kept_from_row_to_row(rng, 4000, kept, 40), np.zeros(4000, int))
    assert 0.85 * theory < np.median(found) < 1.8 * theory
    assert found.min() > 0.5 * theory


def test_a_memory_longer_than_the_rows_is_all_of_them():
    found = memories(np.linspace(0, 1, 500)[:, None], np.zeros(500, int))
    assert found[0] > 250


def test_what_groups_differ_in_is_no_memory():
    rng, groups = np.random.default_rng(2), np.repeat(np.arange(10), 100)
    values = rng.normal(size=(1000, 1)) + 3 * rng.normal(size=10)[groups][:, None]
    assert memories(values, groups)[0] < 1.5
    assert memories(values, np.zeros(1000, int))[0] > 20


def test_missing_values_and_constants_have_no_memory():
    values = np.column_stack(
        [np.full(200, np.nan), np.ones(200), np.where(np.arange(200) % 2, np.nan, np.random.default_rng(3).normal(size=200))]
    )
    assert memories(values, np.zeros(200, int)).tolist() == [1, 1, 1]
