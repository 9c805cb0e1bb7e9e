"""profile, evidence, edetector, cardinality and transitions in Triton against their CPU twins, which have oracles of their own."""

import numpy as np
import pytest

from kernels import cardinality, profile
from kernels.edetector import PARTS, edetector
from kernels.evidence import RULES, bets_for, evidence
from kernels.transitions import transitions
from tests.kernels.test_edetector import case
from tests.kernels.test_profile import sample
from tests.kernels.tolerances import assert_close

pytestmark = [
    pytest.mark.gpu_code,
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),  # the interpreter computes with NumPy
]


def numpy(tensor):
    return tensor.cpu().numpy()


def same_profile(got, expected):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(numpy(a), b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [0, 1, 2047, 5001])
def test_profile_of_one_series(on_gpu, dtype, n):
    rng = np.random.default_rng(n)
    edges = profile.quantile_edges(sample(rng, 500, dtype))
    values, valid = sample(rng, n, dtype), np.packbits(rng.random(n + 5) < 0.8, bitorder="little")
    state = profile.Profile(*(on_gpu(a) for a in profile.empty(2)))
    for bitmap in (None, valid):
        got = profile.profile(on_gpu(values), 1, edges, state, valid=None if bitmap is None else on_gpu(bitmap), first_bit=5)
    expected = profile.profile(values, 1, edges, profile.empty(2))
    profile.profile(values, 1, edges, expected, valid=valid, first_bit=5)
    same_profile(got, expected)


def test_profile_of_columns_and_of_rows_with_slots(on_gpu):
    rng = np.random.default_rng(3)
    columns = np.stack([sample(rng, 3000, np.float32) for _ in range(3)])
    edges = profile.stack([profile.quantile_edges(column, 7 + 9 * i) for i, column in enumerate(columns)])
    slots = np.array([2, 0, 1], np.int32)
    state = profile.Profile(*(on_gpu(a) for a in profile.empty(3, 25)))
    expected = profile.profile(columns, slots, edges, profile.empty(3, 25))
    same_profile(profile.profile(on_gpu(columns), on_gpu(slots), edges, state), expected)
    by_row = rng.integers(-1, 3, 3000).astype(np.int32)
    profile.profile(columns[0], by_row, edges, expected)
    same_profile(profile.profile(on_gpu(columns[0]), on_gpu(by_row), edges, state), expected)


def test_profile_of_the_histogram_alone(on_gpu):
    values, edges = np.array([0.5, np.nan, 2, np.inf]), profile.uniform_edges(0, 1, 2)
    for slots in (0, np.zeros(4, np.int32)):
        state = profile.Profile(on_gpu(np.zeros((1, 5), np.int64)))
        profile.profile(on_gpu(values), slots if isinstance(slots, int) else on_gpu(slots), edges, state)
        assert numpy(state.counts)[0].tolist() == [0, 0, 1, 2, 1]


@pytest.mark.parametrize("kind", RULES)
def test_evidence(on_gpu, kind):
    rng = np.random.default_rng(4)
    rows, n = 20, 200
    values = rng.beta(2, 3, n).astype(np.float32)
    values[::17] = np.nan
    slots = rng.integers(-1, rows, n).astype(np.int32)
    slots[:40] = 7
    null_mean = rng.uniform(0.3, 0.6, rows)
    bets = np.stack([bets_for(m) for m in null_mean])
    fresh = np.full((rows, 8), 1.0 if kind == "product" else 0.0)
    expected_state, expected = evidence(values, slots, null_mean, bets, fresh.copy(), kind=kind)
    state = on_gpu(fresh)
    got = [evidence(on_gpu(values[part]), on_gpu(slots[part]), null_mean, bets, state, kind=kind)[1] for part in (slice(90), slice(90, n))]
    assert_close("evidence", numpy(state), expected_state)
    assert_close("evidence", np.concatenate([numpy(e) for e in got]), expected)


@pytest.mark.parametrize("n", [0, 1, 90])
def test_edetector(on_gpu, n):
    given = case(n, n)
    cut = n // 3
    rows = ("successes", "totals", "spend", "time_us", "slots")
    expected_state, expected = edetector(**given, state=np.zeros((5, PARTS, 6)))
    state = on_gpu(np.zeros((5, PARTS, 6)))
    parts = []
    for part in (slice(cut), slice(cut, n)):
        there = {k: on_gpu(np.ascontiguousarray(v[part])) if k in rows else v for k, v in given.items()}
        parts.append(edetector(**there, state=state)[1])
    assert_close("edetector", numpy(state), expected_state)
    for i, column in enumerate(expected):
        assert_close("edetector", np.concatenate([numpy(p[i]) for p in parts]), column)


@pytest.mark.parametrize("n", [0, 1, 1500])
def test_cardinality(on_gpu, n):
    rng = np.random.default_rng(n)
    items = rng.integers(0, 2**64, n, np.uint64, endpoint=False)
    items[n // 2 :] = rng.integers(0, 50, n - n // 2)
    slots = rng.integers(-1, 3, n).astype(np.int32)
    weights = rng.integers(0, 9, n).astype(np.int32)
    registers, counts, bits = np.zeros((3, 64), np.uint8), np.zeros((3, 4, 128), np.int32), np.zeros((3, 16), np.uint64)
    there = [on_gpu(a) for a in (items, slots, registers, counts, bits)]
    cardinality.add_distinct(items, slots, registers)
    cardinality.add_counts(items, slots, counts, weights)
    for part in (slice(0, n // 3), slice(n // 3, n)):
        mine = on_gpu(items[part]), on_gpu(slots[part])
        cardinality.add_distinct(*mine, there[2])
        cardinality.add_counts(*mine, there[3], on_gpu(weights[part]))
    cardinality.add_members(items[::3], slots[::3], bits)
    cardinality.add_members(on_gpu(items[::3]), on_gpu(slots[::3]), there[4])
    for got, expected in zip(there[2:], (registers, counts, bits.view(np.int64)), strict=True):
        np.testing.assert_array_equal(numpy(got), expected)
    assert_close("cardinality.estimate", numpy(cardinality.distinct(there[2])), cardinality.distinct(registers))
    np.testing.assert_array_equal(numpy(cardinality.counts_of(there[0], there[1], there[3])), cardinality.counts_of(items, slots, counts))
    np.testing.assert_array_equal(numpy(cardinality.members(there[0], there[1], there[4])), cardinality.members(items, slots, bits))


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("n", [0, 1, 70])
def test_transitions(on_gpu, learn, n):
    rng = np.random.default_rng(n)
    tokens, slots = rng.integers(1, 6, n).astype(np.uint64), rng.integers(-1, 4, n).astype(np.int32)
    groups = rng.integers(0, 2, n).astype(np.int32)
    contexts, counts = np.zeros((4, 2), np.uint64), rng.integers(0, 3, (2, 64)).astype(np.int32)
    there = [on_gpu(a) for a in (tokens, slots, contexts, counts, groups)]
    expected = transitions(tokens, slots, contexts, counts, groups=groups, learn=learn)[2]
    got = []
    for part in (slice(0, 25), slice(25, None)):
        got.append(numpy(transitions(there[0][part], there[1][part], there[2], there[3], groups=there[4][part], learn=learn)[2]))
    assert_close("transitions.cuda", np.concatenate(got), expected)
    np.testing.assert_array_equal(numpy(there[2]), contexts.view(np.int64))
    np.testing.assert_array_equal(numpy(there[3]), counts)
