"""profile: exact quantile edges, moments, extremes and nulls, of one series and of many."""

import numpy as np
import pytest

from kernels import profile


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [10_000, 1_000_000, 16_000_000])
def test_one_series(measure, rng, n, dtype):
    values = rng.normal(size=n).astype(dtype)
    edges, state = profile.quantile_edges(values[:10_000]), profile.empty(1)
    shape = f"{n:,} {np.dtype(dtype)}, 32 quantile bins"
    measure("profile", shape, n, values.nbytes, lambda: profile.profile(values, 0, edges, state))
    assert state.counts.sum() == state.moments[0, 0]


@pytest.mark.parametrize("n", [1_000_000, 16_000_000])
def test_uniform_bins(measure, rng, n):
    values = rng.normal(size=n).astype(np.float32)
    edges, state = profile.uniform_edges(-4, 4), profile.empty(1)
    measure("profile", f"{n:,} float32, 32 uniform bins", n, values.nbytes, lambda: profile.profile(values, 0, edges, state))


def test_null_bitmap(measure, rng):
    values = rng.normal(size=4_000_000).astype(np.float32)
    valid = np.packbits(rng.random(len(values)) < 0.99, bitorder="little")
    edges, state = profile.quantile_edges(values[:10_000]), profile.empty(1)
    work = lambda: profile.profile(values, 0, edges, state, valid=valid)  # noqa: E731
    measure("profile", "4,000,000 float32, 1% null in a bitmap", len(values), values.nbytes + valid.nbytes, work)


def test_twenty_columns(measure, rng):
    values = rng.normal(size=(20, 1_000_000)).astype(np.float32)
    edges, state, slots = profile.quantile_edges(values[0]), profile.empty(20), np.arange(20, dtype=np.int32)
    measure("profile", "20 x 1,000,000 float32", values.size, values.nbytes, lambda: profile.profile(values, slots, edges, state))


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_nulls(measure, rng, share):
    values = rng.normal(size=4_000_000).astype(np.float32)
    values[rng.random(len(values)) < share] = np.nan
    edges, state = profile.quantile_edges(values[:10_000]), profile.empty(1)
    measure("profile", f"4,000,000 float32, {share:.0%} NaN", len(values), values.nbytes, lambda: profile.profile(values, 0, edges, state))


@pytest.mark.parametrize("series", [10, 1000])
@pytest.mark.parametrize("moments", [False, True])
def test_slots_of_their_own(measure, rng, series, moments):
    values = rng.normal(size=1_000_000).astype(np.float32)
    slots = rng.integers(0, series, len(values)).astype(np.int32)
    edges, state = profile.quantile_edges(values), profile.empty(series)
    state = state if moments else profile.Profile(state.counts)
    shape = f"1,000,000 float32 in {series:,} series" + (", histogram alone" if not moments else "")
    measure("profile", shape, len(values), values.nbytes + slots.nbytes, lambda: profile.profile(values, slots, edges, state))
