"""tailcounts: against a loop that keeps every row, for every cut into batches."""

import numpy as np
import pytest

from kernels import tailcounts
from tests.naive import tailcounts as naive

HALVES, EVERY = np.array([4, 16]), 5


def traffic(n=400, keys=3, features=2, size=4):
    rng = np.random.default_rng(0)
    slot = rng.integers(-1, keys, n).astype(np.int32)
    bins = rng.integers(0, size, (n, 2, features)).astype(np.uint8)
    bins[rng.random(bins.shape) < 0.05] = 255
    factors = rng.uniform(0.5, 2, (size, 3))
    return slot, bins, factors


def state(keys=3, features=2, size=4):
    return np.zeros(keys, np.int64), np.zeros((keys, len(HALVES), 2, 2, features, size), np.int16)


@pytest.mark.parametrize("power", [1.0, 0.1])
def test_windows_equal_the_oracle(power):
    slot, bins, factors = traffic()
    due = tailcounts.fold(slot, bins, *state(), HALVES, EVERY, np.log(factors), power)
    expected = naive.fold(slot, bins, HALVES, EVERY, factors, power)
    assert due.row.tolist() == [row for row, _, _ in expected]
    assert due.length.tolist() == [lengths for _, lengths, _ in expected]
    assert (due.told <= due.length).all()
    assert (due.told[:, 0] == due.length[:, 0]).any()
    np.testing.assert_allclose(due.log_e, np.log([evidence for _, _, evidence in expected]), atol=1e-9)


@pytest.mark.parametrize("cut", [1, 7, 64])
def test_batches_do_not_matter(cut):
    slot, bins, factors = traffic()
    whole = tailcounts.fold(slot, bins, *state(), HALVES, EVERY, np.log(factors))
    rows, counts = state()
    parts = [
        (i, tailcounts.fold(slot[i : i + cut], bins[i : i + cut], rows, counts, HALVES, EVERY, np.log(factors)))
        for i in range(0, len(slot), cut)
    ]
    np.testing.assert_array_equal(np.concatenate([i + p.row for i, p in parts]), whole.row)
    for name in ("length", "told", "log_e", "counts"):
        np.testing.assert_array_equal(np.concatenate([getattr(p, name) for _, p in parts]), getattr(whole, name))


def test_shapes_are_checked():
    slot, bins, factors = traffic()
    with pytest.raises(ValueError, match="do not fit"):
        tailcounts.fold(slot, bins, *state(features=3), HALVES, EVERY, np.log(factors))


def test_rows_without_a_feature_are_not_told_of():
    slot, bins, factors = traffic()
    bins[::2] = 255
    due = tailcounts.fold(np.zeros(len(slot), np.int32), bins, *state(), HALVES, EVERY, np.log(factors))
    assert due.told[-1, 1] == due.length[-1, 1] // 2
