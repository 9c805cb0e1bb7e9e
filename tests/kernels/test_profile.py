"""profile: the CPU kernel against numpy.histogram and rational arithmetic, for every cut into batches and every shape."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kernels import profile as p
from tests.naive import profile as naive

pytestmark = pytest.mark.filterwarnings("error")
DTYPES = [np.float32, np.float64]


def agree(state, expected):
    counts, moments, extremes = expected
    np.testing.assert_array_equal(state.counts, counts)
    got = [[int(n), int(k), int(low) + (int(high) << 32)] for n, k, low, high in state.moments]
    assert got == moments
    np.testing.assert_array_equal(state.extremes, extremes)


def sample(rng, n, dtype, odd=True):
    values = rng.lognormal(2, 2, n) - rng.normal(0, 5, n)
    if odd and n > 20:
        values[rng.integers(0, n, n // 20)] = np.nan
        values[rng.integers(0, n, 3)] = [np.inf, -np.inf, 3e38]
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 2, 7, 2047, 2048, 2049, 5000, 70_001])
def test_one_series_equals_the_oracle(dtype, n):
    rng = np.random.default_rng(n)
    edges = p.quantile_edges(sample(rng, 1000, dtype))
    values = sample(rng, n, dtype)
    agree(p.profile(values, 0, edges, p.empty(1)), naive.profile(values, 0, edges, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("own_edges", [False, True])
def test_slots_of_their_own(dtype, own_edges):
    rng = np.random.default_rng(1)
    n, rows = 9_000, 37
    edges = (
        p.stack([p.quantile_edges(sample(rng, 50 + i, dtype), 3 + i % 30) for i in range(rows)]) if own_edges else p.uniform_edges(-9, 40)
    )
    values, slots = sample(rng, n, dtype), rng.integers(-1, rows, n).astype(np.int32)
    slots[:4000] = 5  # a hot key
    valid = np.packbits(rng.random(n + 3) < 0.9, bitorder="little")
    state = p.profile(values, slots, edges, p.empty(rows, edges.width), valid=valid, first_bit=3)
    agree(state, naive.profile(values, slots, edges, rows, valid, 3))


def test_many_rows_on_all_threads_equal_one_row_at_a_time():
    rng = np.random.default_rng(2)
    n, rows = 100_003, 50
    edges = p.quantile_edges(sample(rng, 500, np.float32))
    values, slots = sample(rng, n, np.float32), rng.integers(0, rows, n).astype(np.int32)
    state = p.profile(values, slots, edges, p.empty(rows))
    for row in range(rows):
        alone = p.profile(values[slots == row], 0, edges, p.empty(1))
        for got, expected in zip(state, alone, strict=True):
            np.testing.assert_array_equal(got[row], expected[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_cut_into_batches_changes_nothing(dtype):
    rng = np.random.default_rng(3)
    values, edges = sample(rng, 10_000, dtype), p.uniform_edges(-3, 30, 17)
    whole = p.profile(values, 0, edges, p.empty(1, 17))
    parts = p.empty(1, 17)
    for part in np.split(values, np.sort(rng.integers(0, len(values), 9))):
        p.profile(part, 0, edges, parts)
    halves = [p.profile(part, 0, edges, p.empty(1, 17)) for part in np.array_split(values, 3)]
    merged = p.merge(p.merge(halves[2], halves[0]), halves[1])
    for a, b, c in zip(whole, parts, merged, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_columns_equal_a_call_for_each():
    rng = np.random.default_rng(4)
    values = np.stack([sample(rng, 30_000, np.float32) for _ in range(5)])
    edges = p.stack([p.quantile_edges(column) for column in values])
    slots = np.array([4, 0, 3, 1, 2], np.int32)
    together, alone = p.empty(5), p.empty(5)
    p.profile(values, slots, edges, together)
    for column, slot in zip(values, slots.tolist(), strict=True):
        p.profile(column, slot, edges, alone)
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("odd", [False, True])
def test_arrow_buffers_with_nulls_and_an_offset(dtype, odd):
    """The first block has no value at all, the second some at its end, the third is full, the last has a few nulls."""
    rng = np.random.default_rng(8)
    values, null = sample(rng, 7003, dtype, odd), rng.random(7003) < 0.02
    null[:3000], null[3000:6100] = True, False
    edges = p.quantile_edges(values, 32)
    array = pa.array(values, mask=null)[3:]
    valid, data = (np.frombuffer(buffer, np.uint8) for buffer in array.buffers())
    data = data.view(dtype)[array.offset : array.offset + len(array)].copy()
    expected = naive.profile(np.where(null, np.nan, values)[3:].astype(dtype), 0, edges, 1)
    whole, parts, rows = p.empty(1), p.empty(1), p.empty(1)
    agree(p.profile(data, 0, edges, whole, valid=valid, first_bit=array.offset), expected)
    agree(p.profile(data, np.zeros(len(data), np.int32), edges, rows, valid=valid, first_bit=array.offset), expected)
    for start in range(0, len(data), 1111):
        p.profile(data[start : start + 1111], 0, edges, parts, valid=valid, first_bit=array.offset + start)
    agree(parts, expected)
    alone = p.Profile(np.zeros((1, 35), np.int64))
    p.profile(data, 0, edges, alone, valid=valid, first_bit=array.offset)
    np.testing.assert_array_equal(alone.counts, expected[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.0, 3e38])
def test_nothing_but_nulls_or_one_odd_value(dtype, value):
    edges, values = p.uniform_edges(0, 4, 32), np.full(2500, value, dtype)
    for valid in (None, np.zeros(313, np.uint8), np.packbits(np.arange(2504) % 3 == 0, bitorder="little")):
        agree(p.profile(values, 0, edges, p.empty(1), valid=valid), naive.profile(values, 0, edges, 1, valid))


@pytest.mark.parametrize("n", [0, 1, 5])
def test_more_series_than_rows(n):
    rng = np.random.default_rng(n)
    values, slots, edges = sample(rng, n, np.float64), rng.integers(-1, 200, n).astype(np.int32), p.uniform_edges(-9, 40)
    agree(p.profile(values, slots, edges, p.empty(200)), naive.profile(values, slots, edges, 200))
    columns = p.profile(np.zeros((n, 0)), np.arange(n, dtype=np.int32), edges, p.empty(200))
    assert not columns.counts.any()


@settings(max_examples=60, deadline=None)
@given(
    values=hnp.arrays(np.float32, st.integers(0, 60), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)),
    reference=hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(-1e30, 1e30)),
    bins=st.integers(1, 40),
    first_bit=st.integers(0, 9),
    data=st.data(),
)
def test_any_values_and_any_edges(values, reference, bins, first_bit, data):
    edges = p.quantile_edges(reference, bins)
    valid = data.draw(st.none() | hnp.arrays(np.uint8, (first_bit + len(values) + 7) // 8, elements=st.integers(0, 255)))
    state = p.profile(values, 0, edges, p.empty(1, bins), valid=valid, first_bit=first_bit)
    agree(state, naive.profile(values, 0, edges, 1, valid, first_bit))
    slots = np.zeros(len(values), np.int32)
    by_row = p.profile(values, slots, edges, p.empty(1, bins), valid=valid, first_bit=first_bit)
    for a, b in zip(state, by_row, strict=True):
        np.testing.assert_array_equal(a, b)


def test_edges_between_float32_values_are_exact():
    edges = p.from_edges(np.array([0.1, 0.2, 0.3]))  # none of these is a float32
    values = np.array([0.1, 0.2, 0.3], np.float32)
    around = np.concatenate([np.nextafter(values, np.float32(0)), values, np.nextafter(values, np.float32(1))])
    agree(p.profile(around, 0, edges, p.empty(1, 2)), naive.profile(around, 0, edges, 1))


def test_the_summary_is_numpys():
    rng = np.random.default_rng(5)
    values = 1e4 + rng.normal(0, 3, 50_000)
    edges = p.quantile_edges(values[:1000])
    got = p.summary(p.profile(np.append(values, [np.nan, np.inf]), 0, edges, p.empty(2, 32)), edges)
    np.testing.assert_allclose(got.mean[0], values.mean(), atol=1e-6)
    np.testing.assert_allclose(got.variance[0], values.var(), rtol=1e-6)
    assert (got.low[0], got.high[0], got.finite[0]) == (values.min(), values.max(), len(values))
    assert np.isnan(got.mean[1]) and got.finite[1] == 0


def test_a_constant_has_no_variance():
    edges = p.uniform_edges(0, 1)
    values = np.full(1000, 0.3, np.float32)
    assert p.summary(p.profile(values, 0, edges, p.empty(1)), edges).variance[0] == 0


def test_an_outlier_is_clamped_in_the_moments_and_kept_in_the_extremes():
    edges = p.uniform_edges(0, 1)
    got = p.summary(p.profile(np.array([0.5, 1e9]), 0, edges, p.empty(1)), edges)
    assert got.high[0] == 1e9 and 16 <= got.mean[0] <= 17


def test_categories_have_a_bin_each_and_unseen_codes_are_above():
    state = p.profile(np.array([0, 2, 2, 3, 7], np.int32), 0, p.category_edges(3), p.empty(1, 3))
    assert state.counts[0].tolist() == [0, 1, 0, 2, 2, 0]


def test_histogram_alone():
    state = p.Profile(np.zeros((1, 5), np.int64))
    p.profile(np.array([0.5, np.nan]), 0, p.uniform_edges(0, 1, 2), state)
    assert state.counts[0].tolist() == [0, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": 1}, "slot 1"),
        ({"slots": np.zeros(3, np.int64)}, "int32"),
        ({"slots": np.full(3, 9, np.int32)}, "state of 1 rows"),
        ({"values": np.array(["a"])}, "numbers"),
        ({"values": np.zeros((1, 1, 1))}, "dimensions"),
        ({"valid": np.zeros(1, np.uint8), "first_bit": 6}, "bit for every value"),
        ({"state": p.empty(1, 5)}, "counts must be"),
        ({"edge_rows": np.array([3], np.int32)}, "edge_rows"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    given_ = {"values": np.zeros(3), "slots": 0, "edges": p.uniform_edges(0, 1), "state": p.empty(1)} | change
    with pytest.raises(ValueError, match=message):
        p.profile(given_.pop("values"), given_.pop("slots"), given_.pop("edges"), given_.pop("state"), **given_)


def test_wrong_edges_are_refused():
    for wrong in ([], [np.nan, 1], [2, 1]):
        with pytest.raises(ValueError, match="ascending"):
            p.from_edges(np.array(wrong))
    with pytest.raises(ValueError, match="finite value"):
        p.quantile_edges(np.array([np.nan]))
    with pytest.raises(ValueError, match="low < high"):
        p.uniform_edges(1, 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "edges",
    [
        p.uniform_edges(-4, 4),
        p.uniform_edges(1e6, 1e6 + 3, 7),
        p.uniform_edges(-1e-30, 1e30, 5),
        p.category_edges(3000),
        p.quantile_edges(np.exp(np.linspace(-3, 30, 200))),
        p.from_edges(np.array([0, 1e-12, 2e-12, 1, 2, 3])),
        p.from_edges(np.array([0, 5e-324, 1e-323, 1e300])),
        p.from_edges(np.array([7.0])),
    ],
    ids=["uniform", "far", "wide", "many", "skewed", "uneven", "subnormal", "one"],
)
def test_values_at_and_next_to_every_edge(dtype, edges):
    # Whichever way they are counted: as bins of one width, by cells, or by comparison.
    with np.errstate(over="ignore", under="ignore"):
        at = edges.thresholds[0, : edges.bins[0] + 1].astype(dtype)
    steps = [at]
    for _ in range(2):
        steps = [np.nextafter(steps[0], dtype(-np.inf)), *steps, np.nextafter(steps[-1], dtype(np.inf))]
    odd = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, np.finfo(dtype).max, -np.finfo(dtype).max, np.finfo(dtype).tiny], dtype)
    odd[1] = np.copysign(odd[1], dtype(-1))
    values = np.concatenate([*steps, odd, np.random.default_rng(0).permutation(np.concatenate(steps))])
    valid = np.packbits(np.random.default_rng(1).random(len(values) + 3) < 0.9, bitorder="little")
    for mask, bit in ((None, 0), (valid, 3)):
        expected = naive.profile(values, 0, edges, 1, mask, bit)
        agree(p.profile(values, 0, edges, p.empty(1, edges.width), valid=mask, first_bit=bit), expected)
        agree(p.profile(values, np.zeros(len(values), np.int32), edges, p.empty(1, edges.width), valid=mask, first_bit=bit), expected)
        alone = p.Profile(np.zeros((1, edges.width + 3), np.int64))
        np.testing.assert_array_equal(p.profile(values, 0, edges, alone, valid=mask, first_bit=bit).counts, expected[0])


def test_bins_of_one_width_and_skewed_ones_are_counted_their_own_way():
    doubt, scale = -1, -6  # places in `tables`, see `Cells`
    assert p.uniform_edges(-4, 4).tables(np.float32)[doubt][0] > 0
    assert p.quantile_edges(np.random.default_rng(0).normal(size=999)).tables(np.float32)[doubt][0] == 0
    tables = p.stack([p.quantile_edges(np.random.default_rng(0).lognormal(size=999)), p.from_edges(np.array([0, 1e-12, 2e-12, 1, 2, 3]))])
    assert (tables.tables(np.float32)[scale] > 0).tolist() == [True, False]
