"""cardinality: registers, counters and bits equal to Python integers; the promised errors on large inputs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kernels import cardinality as c
from tests.kernels.tolerances import assert_close
from tests.naive import cardinality as naive

ITEMS = hnp.arrays(np.uint64, st.integers(0, 50), elements=st.integers(0, 2**64 - 1) | st.integers(0, 5))


@settings(max_examples=50, deadline=None)
@given(items=ITEMS, rows=st.integers(1, 4), power=st.integers(4, 9), data=st.data())
def test_equal_to_the_oracle_in_any_cut(items, rows, power, data):
    slots = data.draw(hnp.arrays(np.int32, len(items), elements=st.integers(-1, rows - 1)))
    weights = data.draw(hnp.arrays(np.int32, len(items), elements=st.integers(0, 1000)))
    cut = data.draw(st.integers(0, len(items)))
    hashes = data.draw(st.integers(1, 16))
    registers, counts, bits = (
        np.zeros((rows, 2**power), np.uint8), np.zeros((rows, 3, 2**power), np.int32), np.zeros((rows, 2 ** (power - 4)), np.uint64),
    )  # fmt: skip
    expected = (
        naive.add_distinct(items, slots, registers), naive.add_counts(items, slots, counts, weights),
        naive.add_members(items, slots, bits, hashes),
    )  # fmt: skip
    for part in (slice(0, cut), slice(cut, None)):
        c.add_distinct(items[part], slots[part], registers)
        c.add_counts(items[part], slots[part], counts, weights[part])
        c.add_members(items[part], slots[part], bits, hashes)
    for got, wanted in zip((registers, counts, bits), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert_close("cardinality.estimate", c.distinct(registers), naive.distinct(registers))
    np.testing.assert_array_equal(c.counts_of(items, slots, counts), naive.counts_of(items, slots, counts))
    np.testing.assert_array_equal(c.members(items, slots, bits, hashes), naive.members(items, slots, bits, hashes))


@pytest.mark.parametrize("size", [0, 1, 10, 1000, 100_000])
@pytest.mark.parametrize("p", [4, 10, 14])
def test_distinct_counts_are_within_five_standard_errors(size, p):
    items = np.repeat(np.arange(size, dtype=np.uint64), 2)
    got = c.distinct(c.add_distinct(items, 0, np.zeros((1, 2**p), np.uint8)))[0]
    assert abs(got - size) <= 5 * 1.04 / 2 ** (p / 2) * size


def test_nearly_full_registers_still_give_a_number():
    registers = np.full((2, 16), 61, np.uint8)
    registers[1, 0] = 60
    assert c.distinct(registers).tolist()[0] == np.inf and 1e18 < c.distinct(registers)[1] < 1e21


def test_counts_are_never_too_low_and_seldom_much_too_high():
    rng = np.random.default_rng(0)
    items = rng.zipf(1.3, 50_000).astype(np.uint64)
    counts = c.add_counts(items, 0, np.zeros((1, 4, 4096), np.int32))
    kinds, true = np.unique(items, return_counts=True)
    excess = c.counts_of(kinds, 0, counts) - true
    assert excess.min() >= 0 and np.mean(excess > np.e / 4096 * len(items)) <= np.exp(-4)


def test_a_bloom_filter_never_forgets_and_is_seldom_wrong():
    bits = c.add_members(np.arange(1000, dtype=np.uint64), 0, np.zeros((1, 256), np.uint64))
    assert c.members(np.arange(1000, dtype=np.uint64), 0, bits).all()
    assert c.members(np.arange(10**6, 10**6 + 20_000, dtype=np.uint64), 0, bits).mean() < 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: c.add_distinct(np.zeros(1, np.int32), 0, np.zeros((1, 16), np.uint8)), "items must be"),
        (lambda: c.add_distinct(np.zeros(1, np.uint64), 1, np.zeros((1, 16), np.uint8)), "slot 1"),
        (lambda: c.add_distinct(np.zeros(1, np.uint64), np.ones(1, np.int32), np.zeros((1, 16), np.uint8)), "slots must be"),
        (lambda: c.add_distinct(np.zeros(1, np.uint64), np.zeros(2, np.int32), np.zeros((1, 16), np.uint8)), "slots must be"),
        (lambda: c.add_distinct(np.zeros(1, np.uint64), 0, np.zeros((1, 24), np.uint8)), "power of two"),
        (lambda: c.add_counts(np.zeros(1, np.uint64), 0, np.zeros((1, 2, 8), np.int64)), "int32 of 3"),
        (lambda: c.add_counts(np.zeros(1, np.uint64), 0, np.zeros((1, 2, 8), np.int32), np.ones(2, np.int32)), "weights"),
        (lambda: c.members(np.zeros(1, np.uint64), 0, np.zeros((1, 2), np.uint64), 0), "hashes"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
