"""transitions: hashed counts against dictionaries; cuts into batches; learning apart from scoring."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.transitions import transitions
from tests.kernels.tolerances import assert_close
from tests.naive import transitions as naive

ROWS = st.lists(st.tuples(st.integers(1, 6), st.integers(-1, 3), st.integers(0, 1)), max_size=60)


def arrays(rows):
    tokens, slots, groups = (np.array([row[i] for row in rows]) for i in range(3))
    return tokens.astype(np.uint64), slots.astype(np.int32), groups.astype(np.int32)


def fresh(width=1 << 22):
    return np.zeros((4, 2), np.uint64), np.zeros((2, width), np.int32)


@settings(max_examples=50, deadline=None, derandomize=True)  # which n-grams share a place is a matter of luck
@given(rows=ROWS, cut=st.integers(0, 60), prior=st.floats(0.01, 50), vocabulary=st.floats(1, 1e6), learn=st.booleans())
def test_equals_the_oracle_in_any_cut(rows, cut, prior, vocabulary, learn):
    tokens, slots, groups = arrays(rows)
    contexts, counts = fresh()
    got = [
        transitions(tokens[part], slots[part], contexts, counts, groups=groups[part], prior=prior, vocabulary=vocabulary, learn=learn)[2]
        for part in (slice(0, cut), slice(cut, None))
    ]
    expected, _, last = naive.transitions(tokens.tolist(), slots.tolist(), groups.tolist(), prior=prior, vocabulary=vocabulary, learn=learn)
    assert_close("transitions", np.concatenate(got), np.array(expected))
    assert contexts.tolist() == [list(last.get(slot, (0, 0))) for slot in range(4)]
    assert counts.sum() == (6 * np.count_nonzero(slots >= 0) if learn else 0)


@pytest.mark.parametrize("n", [0, 1, 2, 50])
def test_one_hot_slot_in_any_cut(n):
    tokens, (contexts, counts), cut = np.random.default_rng(n).integers(1, 5, n).astype(np.uint64), fresh(), fresh()
    whole = transitions(tokens, 3, contexts, counts, prior=2.0, vocabulary=50)[2]
    expected, _, _ = naive.transitions(tokens.tolist(), [3] * n, [0] * n, prior=2.0, vocabulary=50, learn=True)
    assert_close("transitions", whole, np.array(expected))
    parts = [transitions(tokens[i : i + 1], 3, *cut, prior=2.0, vocabulary=50)[2] for i in range(n)]
    np.testing.assert_array_equal(np.concatenate([whole[:0], *parts]), whole)
    np.testing.assert_array_equal(cut[1], counts)


def test_counts_of_two_workers_add():
    rng = np.random.default_rng(0)
    tokens, slots = rng.integers(1, 9, 400).astype(np.uint64), (np.arange(400) % 4).astype(np.int32)
    whole = fresh(4096)
    transitions(tokens, slots, *whole)
    halves = fresh(4096), fresh(4096)
    for half, mine in zip(halves, (slots < 2, slots >= 2), strict=True):
        transitions(tokens[mine], slots[mine], *half)
    np.testing.assert_array_equal(halves[0][1] + halves[1][1], whole[1])
    np.testing.assert_array_equal(halves[0][0] + halves[1][0], whole[0])


def test_a_small_table_only_lowers_surprisal_of_what_was_not_seen():
    contexts, counts = fresh(2)
    assert np.isfinite(transitions(np.arange(1, 100, dtype=np.uint64), 0, contexts, counts)[2]).all()


def test_probabilities_of_all_next_tokens_sum_to_one():
    contexts, counts = fresh()
    transitions(np.array([1, 2, 1, 3, 1, 2], np.uint64), 0, contexts, counts, vocabulary=5)
    here = contexts.copy()
    bits = []
    for token in range(1, 6):
        contexts[...] = here
        bits.append(transitions(np.array([token], np.uint64), 0, contexts, counts, vocabulary=5, learn=False)[2][0])
    np.testing.assert_allclose(sum(2.0**-b for b in bits), 1, rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": np.zeros(3, np.int64)}, "tokens must be"),
        ({"slots": 4}, "slots must be from"),
        ({"slots": np.zeros(3)}, "slots must be int32"),
        ({"groups": 2}, "groups must be from"),
        ({"contexts": np.zeros((4, 3), np.uint64)}, "contexts must be"),
        ({"counts": np.zeros((2, 6), np.int32)}, "power of two"),
        ({"prior": 0}, "prior"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    contexts, counts = fresh(16)
    arguments = {"tokens": np.zeros(3, np.uint64), "slots": 0, "contexts": contexts, "counts": counts} | change
    with pytest.raises(ValueError, match=message):
        transitions(**arguments)
