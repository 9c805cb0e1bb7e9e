"""peers: against the oracle, with missing values, empty groups and groups without spread."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.peers import peers
from tests.kernels.tolerances import assert_close
from tests.naive import peers as naive


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(0, 40),
    p=st.integers(1, 5),
    groups=st.integers(1, 60),
    least=st.sampled_from([0.0, 0.5]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 99),
)
def test_agrees_with_the_oracle(n, p, groups, least, dtype, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-3, 4, (n, p)).astype(dtype) * dtype(0.7)  # many ties
    x[rng.random((n, p)) < 0.2] = rng.choice([np.nan, np.inf, -np.inf])
    group = rng.integers(-1, groups, n).astype(np.int32)
    for got, expected in zip(peers(x, group, groups, least=least), naive.peers(x, group, groups, least), strict=True):
        assert_close("peers", got, expected)


def test_one_hot_group():
    x = np.random.default_rng(0).normal(size=(20_000, 3))
    x[7] += 10
    result = peers(x, np.full(20_000, 4, np.int32), 6)
    assert np.abs(result.deviation).argmax(0).tolist() == [7, 7, 7]
    np.testing.assert_allclose(np.nanstd(result.deviation, 0), 1, atol=0.03)
    assert result.values.tolist() == [[0] * 3] * 4 + [[20_000] * 3] + [[0] * 3]


def test_a_group_does_not_depend_on_the_others_or_on_the_order_of_rows():
    rng = np.random.default_rng(1)
    x, group = rng.normal(size=(60, 2)).astype(np.float32), rng.integers(-1, 7, 60).astype(np.int32)
    x[::9, 0], x[4::11, 1] = np.nan, np.inf
    whole = peers(x, group, 90)  # more groups than rows
    order = rng.permutation(60)
    np.testing.assert_array_equal(peers(x[order], group[order], 90).deviation, whole.deviation[order])
    for g in range(7):
        mine = group == g
        np.testing.assert_array_equal(peers(x[mine], group[mine], 90).deviation, whole.deviation[mine])
    assert np.isnan(whole.deviation[group < 0]).all()


def test_a_value_off_a_shared_median_is_infinitely_odd_unless_a_least_spread_is_given():
    x, group = np.array([[1.0], [1.0], [1.0], [3.0]]), np.zeros(4, np.int32)
    assert peers(x, group, 1).deviation[:, 0].tolist() == [0, 0, 0, np.inf]
    assert peers(x, group, 1, least=np.array([0.5])).deviation[:, 0].tolist() == [0, 0, 0, 4]


@pytest.mark.parametrize(
    ("x", "group", "least"),
    [
        (np.zeros(3), np.zeros(3, np.int32), 0),
        (np.zeros((3, 1), np.int32), np.zeros(3, np.int32), 0),
        (np.zeros((3, 1)), np.zeros(2, np.int32), 0),
        (np.zeros((3, 1)), np.zeros(3, np.int64), 0),
        (np.zeros((3, 1)), np.full(3, 2, np.int32), 0),
        (np.zeros((3, 1)), np.zeros(3, np.int32), -1),
    ],
)
def test_what_does_not_fit_is_refused(x, group, least):
    with pytest.raises(ValueError, match="must"):
        peers(x, group, 2, least=least)
