"""rowsums: equal to the oracle, and to itself however rows are cut and ordered."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import rowsums
from tests.naive import rowsums as naive


def rows(seed, n, d=5, k=3, width=12, slots=4):
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(n, d)) * 3).astype(np.float32)
    values[rng.random((n, d)) < 0.1] = np.nan
    return rng.integers(-1, slots, n).astype(np.int32), values, rng.integers(-1, width, (n, k)).astype(np.int16)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 40), st.integers(1, 13))
def test_equals_the_oracle_whatever_the_cut(seed, n, cut):
    slot, values, bins = rows(seed, n)
    sums = np.random.default_rng(seed).integers(-9, 9, (4, 12)).astype(np.int32)
    wanted = naive.fold(slot, values, bins, rowsums.GRAIN, sums)
    order = np.random.default_rng(seed + 1).permutation(n)
    for first in range(0, n, cut):
        part = order[first : first + cut]
        rowsums.fold(slot[part], values[part], bins[part], sums)
    assert sums.tolist() == wanted


def test_what_does_not_fit_is_refused():
    slot, values, bins = rows(0, 6)
    sums = np.zeros((4, 12), np.int32)
    with pytest.raises(ValueError, match="do not fit"):
        rowsums.fold(slot[:5], values, bins, sums)
    with pytest.raises(ValueError, match="columns of sums"):
        rowsums.fold(slot, values, bins + np.int16(12), sums)
    with pytest.raises(ValueError, match="rows of sums"):
        rowsums.fold(slot + np.int32(9), values, bins, sums)


def test_powers_and_gaps_equal_the_oracle_whatever_the_cut():
    rng = np.random.default_rng(3)
    values = np.concatenate([2.0 ** rng.integers(-3, 20, 200), 10 ** rng.uniform(-2, 9, 200), [0, -1, np.nan, np.inf, -np.inf]])
    for low in (0, 2):
        out = np.zeros((len(values), 2), np.int16)
        rowsums.powers(values, low, slice(20, 34), out[:, 1])
        assert out[:, 1].tolist() == naive.powers(values, low, slice(20, 34)) and not out[:, 0].any()
    slot = rng.integers(-1, 4, 300).astype(np.int32)
    time_us = np.cumsum((10 ** rng.uniform(4, 10, 300)).astype(np.int64)) - rng.integers(0, 3_000_000, 300)
    last_us, out = np.zeros(4, np.int64), np.full(300, -9, np.int16)
    wanted = naive.gaps(slot, time_us, slice(5, 13), last_us)
    for first in range(0, 300, 7):
        part = slice(first, first + 7)
        rowsums.gaps(slot[part], time_us[part], slice(5, 13), out[part], last_us)
    assert (out.tolist(), last_us.tolist()) == wanted
