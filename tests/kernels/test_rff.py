"""rff: against the oracle, exact whatever the cut into batches, and an unbiased estimate of the kernel."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.rff import SCALE, cpu, empty, frequencies, mean_features, median_distance, mmd2, rff
from tests.kernels.tolerances import TOLERANCES
from tests.naive import rff as naive


def rows(n, d, seed):
    x = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@settings(max_examples=60, deadline=None)
@given(
    n=st.sampled_from([0, 1, 3, 4, 5, 33]),
    d=st.sampled_from([1, 2, 7, 64, 385]),
    features=st.sampled_from([8, 16, 264, 520]),
    keys=st.sampled_from([1, 3, 50]),
    dtype=st.sampled_from([np.int32, np.int64]),
    seed=st.integers(0, 9),
)
def test_agrees_with_the_oracle(n, d, features, keys, dtype, seed):
    rng = np.random.default_rng(seed)
    x = rows(n, d, seed) if n else np.zeros((0, d), np.float32)
    x[rng.random(n) < 0.2, 0] = rng.choice([np.nan, np.inf, -np.inf])
    slots = rng.integers(-1, keys, n).astype(np.int32)
    w = frequencies(d, features, 0.7, seed)
    sums, counts = rff(x, slots, w, *empty(keys, features, dtype))
    expected, expected_counts = naive.rff(x, slots, w, keys)
    np.testing.assert_array_equal(counts, expected_counts)
    assert sums.dtype == dtype
    off = np.abs(sums / SCALE - expected)
    assert (off <= TOLERANCES["rff"].atol * np.maximum(1, counts)[:, None]).all()


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 101), max_size=6), d=st.sampled_from([3, 48]))
def test_the_cut_into_batches_does_not_matter(cuts, d):
    x, w = rows(101, d, 5), frequencies(d, 272, 1.0, 3)
    slots = np.random.default_rng(6).integers(0, 4, 101).astype(np.int32)
    whole = rff(x, slots, w, *empty(4, 272))
    state = empty(4, 272)
    edges = [0, *sorted(cuts), 101]
    for a, b in pairwise(edges):
        rff(x[a:b], slots[a:b], w, *state)
    np.testing.assert_array_equal(state[0], whole[0])
    order = np.random.default_rng(7).permutation(101)
    np.testing.assert_array_equal(rff(x[order], slots[order], w, *empty(4, 272))[0], whole[0])


def test_one_thread_and_all_add_the_same(monkeypatch):
    x, w = rows(300, 40, 5), frequencies(40, 520, 1.0, 3)
    slots = np.random.default_rng(6).integers(-1, 4, 300).astype(np.int32)
    alone = rff(x, slots, w, *empty(4, 520))
    monkeypatch.setattr(cpu, "MANY", 0)
    together = rff(x, slots, w, *empty(4, 520))
    np.testing.assert_array_equal(together[0], alone[0])
    np.testing.assert_array_equal(together[1], alone[1])


def test_one_hot_key_has_all_rows():
    x, w = rows(5000, 16, 0), frequencies(16, 64, 1.0)
    sums, counts = rff(x, np.full(5000, 2, np.int32), w, *empty(4, 64, np.int32))
    expected, _ = naive.rff(x, np.full(5000, 2), w, 4)
    assert counts.tolist() == [0, 0, 5000, 0]
    assert np.abs(sums / SCALE - expected).max() < TOLERANCES["rff"].atol * 5000 / 20  # errors of many rows cancel


def test_the_features_estimate_the_kernel():
    x = rows(40, 32, 1)
    sigma = median_distance(x)
    w = frequencies(32, 8192, sigma, 4)
    sums, counts = rff(x, np.arange(40, dtype=np.int32), w, *empty(40, 8192))
    phi = mean_features(sums, counts)
    expected = np.array([[naive.kernel(a, b, sigma) for b in x] for a in x])
    assert np.abs(phi @ phi.T - expected).max() < 5 / np.sqrt(8192)
    np.testing.assert_allclose((phi * phi).sum(1), 1, atol=1e-4)


def test_two_distributions_are_told_apart():
    a, b, c = rows(500, 24, 1), rows(500, 24, 2), rows(500, 24, 3)
    c[:, 0] += 0.3
    w = frequencies(24, 2048, median_distance(a))
    slots = np.repeat(np.arange(3), 500).astype(np.int32)
    sums, counts = rff(np.vstack([a, b, c]), slots, w, *empty(3, 2048))
    same, other = mmd2(sums[0], counts[0], sums[1], counts[1]), mmd2(sums[0], counts[0], sums[2], counts[2])
    assert other > 3 * same


def test_angles_without_a_fraction_count_as_none():
    sums, counts = rff(np.full((1, 1), 3e38, np.float32), np.zeros(1, np.int32), frequencies(1, 8), *empty(1, 8))
    assert counts.tolist() == [1]
    assert sums[0].tolist() == [SCALE] * 4 + [0] * 4


def test_frequencies_do_not_change_between_versions():
    w = frequencies(3, 8, 2.0, 7)
    np.testing.assert_array_equal(w, frequencies(3, 8, 2.0, 7))
    assert not np.array_equal(w, frequencies(3, 8, 2.0, 8))
    spread = frequencies(500, 4096, 1.0).std(0).reshape(-1, 4).mean(0) * 2 * np.pi
    np.testing.assert_allclose(spread, [2, 1, 0.5, 0.25], rtol=0.01)
    np.testing.assert_allclose(w[0], FIRST_ROW, rtol=1e-6)


FIRST_ROW = [0.06640625, 0.020019531, 0.012023926, 0.0040283203]


@pytest.mark.parametrize(
    "bad",
    [
        lambda x, s, w, t, c: (x.astype(np.float64), s, w, t, c),
        lambda x, s, w, t, c: (x[:, 1:], s, w, t, c),
        lambda x, s, w, t, c: (x, s[1:], w, t, c),
        lambda x, s, w, t, c: (x, s + 2, w, t, c),
        lambda x, s, w, t, c: (x, s, w[:, 1:], t, c),
        lambda x, s, w, t, c: (x, s, w, t.astype(np.float32), c),
        lambda x, s, w, t, c: (x, s, w, t, c.astype(np.int32)),
    ],
)
def test_what_does_not_fit_is_refused(bad):
    with pytest.raises(ValueError, match="must be"):
        rff(*bad(np.zeros((4, 3), np.float32), np.zeros(4, np.int32), frequencies(3, 16), *empty(2, 16)))


def test_frequencies_refuse_what_makes_no_sense():
    for arguments in ((0, 8), (3, 12), (3, 0), (3, 8, 0.0), (3, 8, np.inf)):
        with pytest.raises(ValueError, match="need"):
            frequencies(*arguments)
