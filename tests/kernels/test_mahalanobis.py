"""mahalanobis: against the oracle, whatever the cut into batches, and on values no sensor should send."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.mahalanobis import Rule, empty, mahalanobis
from tests.kernels.tolerances import assert_close
from tests.naive import mahalanobis as naive


def telemetry(n, p, seed, missing=0.0):
    """Correlated metrics of very different units; the last one never moves before the middle."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(p, p))
    x = rng.normal(size=(n, p)) @ mix * 10.0 ** rng.integers(-3, 10, p) + rng.normal(size=p) * 100
    x[:, -1] = 7.0
    x[n // 2 :, -1] += rng.integers(0, 3, n - n // 2)
    x[3 * n // 4 : 3 * n // 4 + 10] *= 3
    x[rng.random((n, p)) < missing] = np.nan
    return x


@pytest.mark.parametrize("p", [1, 2, 5, 17])
@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("learning_ticks", [0, 150, 10**6])
def test_agrees_with_the_oracle(p, missing, learning_ticks):
    x = telemetry(400, p, p, missing)
    rule = Rule(decay=0.99)
    options = {"warmup": 20, "learning_ticks": learning_ticks, "every": 50}
    got = mahalanobis(x, np.zeros(len(x), np.int32), empty(1, p, 7), rule=rule, parts=True, **options)
    expected = naive.scores(x, rule, window=7, **options)
    for a, b in zip(got, expected, strict=True):
        assert_close("mahalanobis", a, b)
    assert np.isfinite(got.score).sum() > 200


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_the_cut_into_batches_does_not_matter(data):
    n, p, devices = data.draw(st.integers(0, 120)), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = rng.normal(size=(n, p)).astype(np.float32)
    x[rng.random((n, p)) < 0.1] = rng.choice([np.nan, np.inf, -np.inf, 3e38])
    slots = rng.integers(-1, devices, n).astype(np.int32)
    whole = empty(devices, p, 3)
    options = {"warmup": 5, "learning_ticks": 10, "every": 7}
    expected = mahalanobis(x, slots, whole, **options)
    parts = empty(devices, p, 3)
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, n), max_size=5))), n]
    score = np.concatenate([mahalanobis(x[a:b], slots[a:b], parts, **options).score for a, b in pairwise(cuts)])
    np.testing.assert_array_equal(score, expected.score)
    for a, b in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(np.isfinite(a).all() for a in whole)


@pytest.mark.parametrize(("n", "devices"), [(0, 0), (0, 3), (1, 1), (1, 90), (40, 500)])
def test_few_rows_and_more_devices_than_rows(n, devices):
    """Every device is as it would be alone, and devices without a row stay as they were."""
    rng = np.random.default_rng(n)
    x, slots = rng.normal(size=(n, 2)), rng.integers(-1, max(devices, 1), n).astype(np.int32)
    x[::7, 0], x[3::7, 1] = np.inf, np.nan
    state, untouched = empty(devices, 2, 3), empty(devices, 2, 3)
    got = mahalanobis(x, slots, state, warmup=1)
    assert np.isnan(got.score[slots < 0]).all()
    for i in np.flatnonzero(slots >= 0)[:8]:
        mine = slots == slots[i]
        alone = mahalanobis(x[mine], np.zeros(mine.sum(), np.int32), empty(1, 2, 3), warmup=1)
        np.testing.assert_array_equal(alone.score, got.score[mine])
    idle = np.setdiff1d(np.arange(devices), slots)
    for a, b in zip(state, untouched, strict=True):
        np.testing.assert_array_equal(a[idle], b[idle])


def test_one_device_does_not_depend_on_another():
    x = telemetry(300, 3, 0)
    alone = mahalanobis(x, np.zeros(300, np.int32), empty(1, 3)).score
    both = np.repeat(x, 2, axis=0) * np.tile([[1.0], [5.0]], (300, 1))
    mixed = mahalanobis(both, np.tile(np.array([2, 0], np.int32), 300), empty(3, 3)).score
    np.testing.assert_array_equal(mixed[::2], alone)


def test_rows_without_a_metric_leave_no_trace():
    x = telemetry(300, 3, 1)
    slots = np.zeros(300, np.int32)
    gaps = x.copy()
    gaps[100:110] = np.nan
    a, b = empty(1, 3), empty(1, 3)
    got = mahalanobis(gaps, slots, a)
    expected = mahalanobis(np.delete(x, range(100, 110), axis=0), slots[10:], b)
    np.testing.assert_array_equal(np.delete(got.score, range(100, 110)), expected.score)
    assert np.isnan(got.score[100:110]).all()
    np.testing.assert_array_equal(a.cov, b.cov)


def test_missing_metrics_do_not_make_a_sick_device_look_well():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(600, 6))
    x[-20:] += 6
    gaps = x.copy()
    gaps[-20:, 3:] = np.nan
    slots = np.zeros(600, np.int32)
    full = mahalanobis(x, slots, empty(1, 6), learning_ticks=500).distance[-20:].mean()
    some = mahalanobis(gaps, slots, empty(1, 6), learning_ticks=500).distance[-20:].mean()
    assert 0.5 * full < some < 2 * full


def test_the_guard_keeps_a_long_fault_visible():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(4000, 4))
    x[2000:] += 8
    score = mahalanobis(x, np.zeros(4000, np.int32), empty(1, 4), learning_ticks=1500).score
    trusting = mahalanobis(x, np.zeros(4000, np.int32), empty(1, 4), rule=Rule(doubt=1.0), learning_ticks=1500).score
    assert score[3000] > 5 * np.median(score[1500:2000])
    assert trusting[3000] < score[3000] / 5


@pytest.mark.parametrize(
    "bad",
    [
        lambda x, s, m: (x[0], s, m),
        lambda x, s, m: (x.astype(np.int64), s, m),
        lambda x, s, m: (x, s.astype(np.int64), m),
        lambda x, s, m: (x, s[1:], m),
        lambda x, s, m: (x, s + 1, m),
        lambda x, s, m: (x, s - 2, m),
        lambda x, s, m: (x[:, 1:], s, m),
        lambda x, s, m: (x, s, m._replace(cov=m.cov[:, 0])),
    ],
)
def test_what_does_not_fit_is_refused(bad):
    x, slots = np.zeros((4, 3)), np.zeros(4, np.int32)
    with pytest.raises(ValueError, match="must be"):
        mahalanobis(*bad(x, slots, empty(1, 3)))
