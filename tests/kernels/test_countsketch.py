"""countsketch: against the oracle, row by row, and lengths and distances as they were."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.countsketch import signs, sketched
from tests.kernels.tolerances import TOLERANCES
from tests.naive import countsketch as naive


@settings(max_examples=60, deadline=None)
@given(n=st.integers(0, 4), d=st.integers(1, 300), width=st.sampled_from([1, 3, 16, 64, 300]), seed=st.integers(0, 9))
def test_agrees_with_the_oracle_whatever_stands_beside_a_row(n, d, width, seed):
    x = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    x.flags.writeable = False
    got, lengths = sketched(x, width)
    assert got.shape == (n, min(d, width)) and got.dtype == np.float32
    for i in range(n):
        expected, length = naive.sketched(x[i].tolist(), width)
        np.testing.assert_allclose(got[i], expected, rtol=0, atol=TOLERANCES["countsketch"].atol * length)
        assert lengths[i] == pytest.approx(length, rel=1e-12)
        alone, its_length = sketched(x[i : i + 1], width)
        np.testing.assert_array_equal(alone[0], got[i])
        assert its_length[0] == lengths[i]


def test_what_is_not_finite_shows_in_the_length():
    x = np.full((5, 40), 3e38, np.float32)
    x[1, 7], x[2, 39], x[3, 0] = np.nan, np.inf, -np.inf
    assert np.isfinite(sketched(x, 8)[1]).tolist() == [True, False, False, False, True]


def test_lengths_and_distances_are_kept():
    x = np.random.default_rng(1).standard_t(5, size=(60, 1024)).astype(np.float32)
    short, _ = sketched(x, 256)
    whole, sketch = (np.linalg.norm(v[:, None] - v[None], axis=2)[np.triu_indices(60, 1)] ** 2 for v in (x, short))
    assert abs((sketch / whole).mean() - 1) < 0.02
    assert (sketch / whole).std() < 1.2 * np.sqrt(2 / 256)


def test_a_short_vector_is_its_own_sketch():
    x = np.random.default_rng(2).normal(size=(3, 8)).astype(np.float32)
    np.testing.assert_array_equal(sketched(x, 8)[0], x)
    assert signs(8, 8).tolist() == [1] * 8


def test_signs_do_not_change_between_versions():
    assert signs(1024, 256).sum() == SUM
    assert [naive.sign(j) for j in range(1024)] == signs(1024, 256).tolist()


SUM = -36
