"""evidence: recursion against closed forms; clipping, NaN, the cap; cuts into batches; and the promised run length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kernels.evidence import BETS, RULES, bets_for, evidence
from tests.kernels.tolerances import assert_close
from tests.naive import evidence as naive


def fresh(rows, kind):
    return np.full((rows, BETS), 1.0 if kind == "product" else 0.0)


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [0, 1, 2, 300])
def test_equals_the_oracle(kind, dtype, n):
    rng = np.random.default_rng(n)
    rows = 7
    values = rng.beta(2, 3, n).astype(dtype)
    values[rng.random(n) < 0.05] = np.nan
    slots = rng.integers(-1, rows, n).astype(np.int32)
    slots[: n // 2] = 3  # a hot key
    null_mean = rng.uniform(0.2, 0.8, rows)
    bets = np.stack([bets_for(m, "both") for m in null_mean])
    state, e = evidence(values, slots, null_mean, bets, fresh(rows, kind), kind=kind, cap=1e300)
    expected_state, expected_e = naive.evidence(values, slots, null_mean, bets, rows, kind, cap=1e300)
    assert_close("evidence", state, expected_state)
    assert_close("evidence", e, expected_e)


@settings(max_examples=50, deadline=None)
@given(
    values=hnp.arrays(np.float64, st.integers(0, 40), elements=st.floats(allow_nan=True, allow_infinity=True)),
    null_mean=st.floats(0.01, 0.99),
    direction=st.sampled_from(["rise", "fall", "both"]),
    kind=st.sampled_from(sorted(RULES)),
    cut=st.integers(0, 40),
)
def test_any_values_in_any_cut(values, null_mean, direction, kind, cut):
    bets = bets_for(null_mean, direction)
    state, e = evidence(values, 0, null_mean, bets, fresh(1, kind), kind=kind, cap=1e300)
    expected_state, expected_e = naive.evidence(values, 0, null_mean, bets, 1, kind, cap=1e300)
    assert_close("evidence", state, expected_state)
    assert_close("evidence", e, expected_e)
    parts = fresh(1, kind)
    first = evidence(values[:cut], 0, null_mean, bets, parts, kind=kind, cap=1e300)[1]
    second = evidence(values[cut:], 0, null_mean, bets, parts, kind=kind, cap=1e300)[1]
    np.testing.assert_array_equal(parts, state)
    np.testing.assert_array_equal(np.concatenate([first, second]), e)


@pytest.mark.parametrize("n", [0, 1, 3, 200])
def test_rows_of_many_slots_in_any_cut(n):
    """A hot slot, slots left out, more slots than rows, odd values; the slots take turns in every batch."""
    rng = np.random.default_rng(n)
    values, slots = rng.normal(0.5, 1, n), rng.integers(-1, 50, n).astype(np.int32)
    values[::7], values[3::11], values[5::13] = np.nan, np.inf, -np.inf
    slots[::2] = 9
    whole, e = evidence(values, slots, 0.4, bets_for(0.4), fresh(50, "cusum"), kind="cusum")
    parts = fresh(50, "cusum")
    cuts = range(0, max(n, 1), 17)
    got = [evidence(values[a : a + 17], slots[a : a + 17], 0.4, bets_for(0.4), parts, kind="cusum")[1] for a in cuts]
    np.testing.assert_array_equal(np.concatenate(got), e)
    np.testing.assert_array_equal(parts, whole)
    expected_state, expected_e = naive.evidence(values, slots, np.full(50, 0.4), np.tile(bets_for(0.4), (50, 1)), 50, "cusum", cap=1e15)
    assert_close("evidence", whole, expected_state)
    assert_close("evidence", e, expected_e)


def test_growth_stops_at_the_cap_and_recovers():
    state = fresh(1, "cusum")
    _, e = evidence(np.ones(5000), 0, 0.1, bets_for(0.1, "rise"), state)
    assert np.isfinite(e).all() and state.max() == 1e15
    evidence(np.zeros(2000), 0, 0.1, bets_for(0.1, "rise"), state)
    assert state.max() < 1e3


@pytest.mark.parametrize("kind", ["shiryaev-roberts", "cusum"])
def test_the_average_run_length_is_kept(kind):
    rng = np.random.default_rng(11)
    level, rows, n = 50.0, 400, 2000
    values = (rng.random((n, rows)) < 0.3).astype(np.float32)
    slots = np.tile(np.arange(rows, dtype=np.int32), n)
    _, e = evidence(values.ravel(), slots, 0.3, bets_for(0.3), fresh(rows, kind), kind=kind, cap=1e300)
    crossed = e.reshape(n, rows) >= level
    run = np.where(crossed.any(axis=0), crossed.argmax(axis=0) + 1, n)
    assert run.mean() >= level


def test_a_shift_is_found_soon():
    rng = np.random.default_rng(12)
    values = np.concatenate([rng.random(2000) < 0.05, rng.random(300) < 0.25]).astype(np.float64)
    _, e = evidence(values, 0, 0.05, bets_for(0.05, "rise"), fresh(1, "shiryaev-roberts"))
    assert e[2000:].max() > 1e6 and 2000 <= np.flatnonzero(e > 1e4)[0] < 2120


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": np.zeros(3, np.int64)}, "values must be"),
        ({"slots": 2}, "slots must be"),
        ({"slots": np.zeros(3)}, "slots must be"),
        ({"bets": np.full(8, 3.0)}, "growth negative"),
        ({"bets": np.zeros(7)}, "null_mean must be"),
        ({"weights": np.ones(8)}, "sum to 1"),
        ({"kind": "page"}, "kind must be"),
        ({"state": np.zeros((2, 7))}, "state must be"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    arguments = {"values": np.zeros(3), "slots": 0, "null_mean": 0.5, "bets": bets_for(0.5), "state": np.zeros((2, 8))} | change
    with pytest.raises(ValueError, match=message):
        evidence(**arguments)


def test_bets_need_a_mean_within_bounds():
    with pytest.raises(ValueError, match="null mean"):
        bets_for(1.0)
