"""peers in Triton against the oracle and its CPU twin."""

import numpy as np
import pytest

from kernels.peers import peers
from tests.kernels.tolerances import assert_close
from tests.naive import peers as naive

pytestmark = [pytest.mark.gpu_code, pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")]


@pytest.mark.parametrize(
    ("n", "p", "groups", "dtype"),
    [(0, 2, 3, np.float64), (1, 1, 1, np.float32), (9, 5, 1, np.float32), (5, 3, 7, np.float64), (131, 2, 1, np.float64)],
)
def test_agrees_with_the_oracle(on_gpu, n, p, groups, dtype):
    rng = np.random.default_rng(n)
    x = rng.integers(-3, 4, (n, p)).astype(dtype) * dtype(0.7)  # many ties
    if n:
        x[:, 0] = rng.normal(size=n) * 10.0 ** rng.integers(-30, 30, n)
    for odd in (np.nan, np.inf, -np.inf):
        x[rng.random((n, p)) < 0.07] = odd
    group = rng.integers(-1, groups, n).astype(np.int32)
    least = np.linspace(0, 1, p)
    got = [a.cpu().numpy() for a in peers(on_gpu(x), on_gpu(group), groups, least=least)]
    for a, b in zip(got, peers(x, group, groups, least=least), strict=True):
        assert_close("peers", a, b)
    for j in range(p):
        for a, b in zip(got, naive.peers(x[:, j : j + 1], group, groups, least[j]), strict=True):
            assert_close("peers", a[:, j : j + 1], b)


def test_a_value_off_a_shared_median_is_infinitely_odd_unless_a_least_spread_is_given(on_gpu):
    x, group = on_gpu(np.array([[1.0], [1.0], [1.0], [3.0], [-5.0]])), on_gpu(np.zeros(5, np.int32))
    assert peers(x, group, 1).deviation[:, 0].tolist() == [0, 0, 0, np.inf, -np.inf]
    assert peers(x, group, 1, least=0.5).deviation[:, 0].tolist() == [0, 0, 0, 4, -12]


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
def test_what_does_not_fit_is_refused(on_gpu, x, group, least):
    with pytest.raises(ValueError, match="must"):
        peers(on_gpu(x), on_gpu(group), 2, least=least)
