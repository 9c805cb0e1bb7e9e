"""tailcounts: against a loop that keeps every row, for every cut into batches; bins against NumPy's searches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from kernels import tailcounts
from kernels.tailcounts import Reference, Rule, Windows
from tests.naive import tailcounts as naive

HALVES, STEPS = np.array([4, 16]), np.array([5, 10])


def traffic(n=400, keys=3, features=2, size=4):
    rng = np.random.default_rng(0)
    slot = rng.integers(-1, keys, n).astype(np.int32)
    bins = rng.integers(0, size, (n, 2, features)).astype(np.uint8)
    bins[rng.random(bins.shape) < 0.05] = 255
    factors = rng.uniform(0.5, 2, (features, size, 3))
    return slot, bins, factors


def state(keys=3, features=2, size=4):
    counts = np.zeros((keys, len(HALVES), 2, 2, features, size), np.int16)
    return Windows(np.zeros(keys, np.int64), counts, np.zeros((keys, len(HALVES), 2), np.int64), np.zeros((keys, 4), np.int64))


def folded(slot, bins, factors, kept, power=1.0, first=0):
    place = first + np.arange(len(slot))
    return tailcounts.fold(slot, bins, 1000 + place, place, kept, Rule(HALVES, STEPS, np.log(factors), power, 3))


@pytest.mark.parametrize("power", [1.0, 0.1])
def test_windows_equal_the_oracle(power):
    slot, bins, factors = traffic()
    due = folded(slot, bins, factors, state(), power)
    expected = naive.fold(slot, bins, HALVES, STEPS, factors, power, 3)
    assert due.row.tolist() == [said["row"] for said in expected]
    assert due.length.tolist() == [said["lengths"] for said in expected]
    assert due.since_us.tolist() == [[1000 + row for row in said["first"]] for said in expected]
    assert [sorted(set(s) - {-1}) for s in due.samples.tolist()] == [sorted(said["unusual"]) for said in expected]
    assert (due.told <= due.length).all()
    assert (due.told[:, 0] == due.length[:, 0]).any()
    np.testing.assert_allclose(due.log_e, np.log([said["evidence"] for said in expected]), atol=1e-9)
    assert np.isnan(due.log_e[:, 1]).any() and not np.isnan(due.log_e[:, 0]).any()


@pytest.mark.parametrize("cut", [1, 7, 64])
def test_batches_do_not_matter(cut):
    slot, bins, factors = traffic()
    whole = folded(slot, bins, factors, state())
    kept = state()
    parts = [(i, folded(slot[i : i + cut], bins[i : i + cut], factors, kept, first=i)) for i in range(0, len(slot), cut)]
    np.testing.assert_array_equal(np.concatenate([i + p.row for i, p in parts]), whole.row)
    for name in ("length", "since_us", "told", "log_e", "counts", "samples"):
        np.testing.assert_array_equal(np.concatenate([getattr(p, name) for _, p in parts]), getattr(whole, name))


def test_shapes_are_checked():
    slot, bins, factors = traffic()
    with pytest.raises(ValueError, match="do not fit"):
        folded(slot, bins, factors, state(features=3))


def test_rows_without_a_feature_are_not_told_of():
    slot, bins, factors = traffic()
    bins[::2] = 255
    due = folded(np.zeros(len(slot), np.int32), bins, factors, state())
    assert due.told[-1, 1] == due.length[-1, 1] // 2


def reference(features=3, size=33, edges=7):
    rng = np.random.default_rng(4)
    grid = np.sort(rng.integers(0, 20, (features, size)).astype(np.float32), axis=1)
    grid[2] = np.nan
    ascending = np.sort(rng.normal(10, 5, (2, features + 1, edges)).astype(np.float32), axis=2)
    half = rng.normal(size=(features, features))
    quantiles = special.ndtri((np.arange(2 * size + 1) / 2 + 0.5) / (size + 1))
    return Reference(
        grid, quantiles, rng.normal(size=features), half @ half.T, np.array([True, True, False]), ascending[0], -ascending[1, :, ::-1]
    )


def test_bins_and_combination_equal_searches():
    rng, r = np.random.default_rng(5), reference()
    values = rng.integers(-2, 23, (500, 3)).astype(np.float32) + rng.choice([0, 0.5], (500, 3)).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = np.nan
    scores = np.zeros(values.shape)
    for k in range(2):
        rank = np.searchsorted(r.grid[k], values[:, k], "left") + np.searchsorted(r.grid[k], values[:, k], "right")
        scores[:, k] = np.where(np.isnan(values[:, k]), 0, r.quantiles[rank])
    scores -= r.mean
    expected = np.einsum("ni,ij,nj->n", scores, r.precision, scores).astype(np.float32)
    expected[np.isnan(values[:, :2]).any(1)] = np.nan
    combined = tailcounts.combine(values, r)
    np.testing.assert_allclose(combined, expected, rtol=1e-5)
    bins = tailcounts.tail_bins(values, r)
    whole = np.column_stack([values, combined])
    for k in range(4):
        column, there = whole[:, k], ~np.isnan(whole[:, k])
        assert (bins[~there, :, k] == tailcounts.MISSING).all()
        np.testing.assert_array_equal(bins[there, 0, k], (r.upper[k] < column[there, None]).sum(1))
        np.testing.assert_array_equal(bins[there, 1, k], (r.lower[k] < -column[there, None]).sum(1))


def test_values_of_another_reference_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        tailcounts.tail_bins(np.zeros((2, 4), np.float32), reference())


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 30), windows=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=5),
    power=st.sampled_from([0.1, 1.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_evidence_of_drawn_windows_equals_the_oracle(rows, windows, power, seed):
    rng = np.random.default_rng(seed)
    _, bins, factors = traffic(rows)
    wanted, lengths = (np.array(column) for column in zip(*windows, strict=True))
    starts = rng.integers(0, rows, int(sum(-(-wanted // lengths))))
    got = tailcounts.drawn_evidence(bins, starts, wanted, lengths, np.log(factors), power)
    np.testing.assert_allclose(got, naive.drawn_evidence(bins, starts, wanted, lengths, factors, power), atol=1e-9)


def test_starts_that_do_not_fit_are_refused():
    _, bins, factors = traffic(10)
    for starts in ([0], [0, 10], [0, -1]):
        with pytest.raises(ValueError, match="do not fit"):
            tailcounts.drawn_evidence(bins, np.array(starts), np.array([4]), np.array([2]), np.log(factors), 1.0)


def test_bins_of_values_alone_equal_those_beside_a_combination():
    values, r = np.random.default_rng(5).integers(-2, 23, (200, 3)).astype(np.float32), reference()
    values[::7] = np.nan
    np.testing.assert_array_equal(tailcounts.binned(values, r.upper[:3], r.lower[:3]), tailcounts.tail_bins(values, r)[:, :, :3])
