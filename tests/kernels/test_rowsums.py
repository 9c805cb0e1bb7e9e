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
