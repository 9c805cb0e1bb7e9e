"""Ops that fold rows by slot, in Triton as on the CPU where shapes are odd: no rows, one, all of one slot, more slots than rows; with NaN,
infinities and nulls straight from an Arrow bitmap."""

import numpy as np
import pyarrow as pa
import pytest

from kernels import cardinality, profile
from kernels.device import column
from kernels.edetector import PARTS, edetector
from kernels.evidence import bets_for, evidence
from kernels.textsketch import textsketch
from kernels.transitions import transitions
from tests.kernels.test_edetector import case
from tests.kernels.tolerances import assert_close

pytestmark = [pytest.mark.gpu_code, pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")]
SHAPES = [(0, 3), (1, 5), (33, 1), (7, 30)]  # rows, slots


def odd_rows(n, slots):
    """Values with NaN and infinities, and their slots; with one slot, all rows are in it."""
    rng = np.random.default_rng(n)
    values = rng.normal(0.5, 0.4, n)
    values[1::7], values[2::11], values[4::13] = np.nan, np.inf, -np.inf
    return values, rng.integers(-1 if slots > 1 else 0, slots, n).astype(np.int32)


@pytest.mark.parametrize(("n", "slots"), SHAPES)
def test_profile_of_an_arrow_column_with_nulls(on_gpu, n, slots):
    values, rows = odd_rows(n, slots)
    array = pa.array([None, None, *(None if i % 5 == 3 else v for i, v in enumerate(values.tolist()))], pa.float64())[2:]
    values, valid, first_bit = column(array)
    edges = profile.uniform_edges(0, 1, 5)
    expected, state = profile.empty(slots, 5), profile.Profile(*(on_gpu(a) for a in profile.empty(slots, 5)))
    bitmap = None if valid is None else on_gpu(valid)
    profile.profile(values, rows, edges, expected, valid=valid, first_bit=first_bit)
    profile.profile(on_gpu(values), on_gpu(rows), edges, state, valid=bitmap, first_bit=first_bit)
    for got, want in zip(state, expected, strict=True):
        np.testing.assert_array_equal(got.cpu().numpy(), want)


@pytest.mark.parametrize(("n", "slots"), SHAPES)
def test_evidence(on_gpu, n, slots):
    values, rows = odd_rows(n, slots)
    state = on_gpu(np.ones((slots, 8)))
    expected_state, expected = evidence(values, rows, 0.5, bets_for(0.5), np.ones((slots, 8)))
    got = evidence(on_gpu(values), on_gpu(rows), 0.5, bets_for(0.5), state)[1]
    assert_close("evidence", got.cpu().numpy(), expected)
    assert_close("evidence", state.cpu().numpy(), expected_state)


@pytest.mark.parametrize(("n", "slots"), SHAPES)
def test_edetector(on_gpu, n, slots):
    given = case(n, n, slots) | {"slots": odd_rows(n, slots)[1]}
    there = {k: on_gpu(v) if k in ("successes", "totals", "spend", "time_us", "slots") else v for k, v in given.items()}
    state = on_gpu(np.zeros((slots, PARTS, 6)))
    expected_state, expected = edetector(**given, state=np.zeros((slots, PARTS, 6)))
    for got, want in zip((*edetector(**there, state=state)[1], state), (*expected, expected_state), strict=True):
        assert_close("edetector", got.cpu().numpy(), want)


@pytest.mark.parametrize(("n", "slots"), SHAPES)
def test_cardinality(on_gpu, n, slots):
    rows = odd_rows(n, slots)[1]
    items = np.random.default_rng(n).integers(0, 2**64, n, np.uint64, endpoint=False)
    for add, sketch in (
        (cardinality.add_distinct, np.zeros((slots, 64), np.uint8)),
        (cardinality.add_counts, np.zeros((slots, 2, 64), np.int32)),
        (cardinality.add_members, np.zeros((slots, 8), np.uint64)),
    ):
        there = on_gpu(sketch)
        add(on_gpu(items), on_gpu(rows), there)
        np.testing.assert_array_equal(
            there.cpu().numpy(), add(items, rows, sketch).view(f"i{sketch.itemsize}" if sketch.itemsize > 1 else "u1")
        )


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize(("n", "slots"), SHAPES)
def test_transitions(on_gpu, n, slots, learn):
    rows = odd_rows(n, slots)[1]
    tokens = np.random.default_rng(n).integers(1, 4, n).astype(np.uint64)
    contexts, counts = np.zeros((slots, 2), np.uint64), np.zeros((slots, 32), np.int32)
    there = [on_gpu(a) for a in (contexts, counts)]
    groups = np.maximum(rows, 0)
    got = transitions(on_gpu(tokens), on_gpu(rows), *there, groups=on_gpu(groups), learn=learn)[2]
    expected = transitions(tokens, rows, contexts, counts, groups=groups, learn=learn)[2]
    assert_close("transitions.cuda", got.cpu().numpy(), expected)
    np.testing.assert_array_equal(there[0].cpu().numpy(), contexts.view(np.int64))
    np.testing.assert_array_equal(there[1].cpu().numpy(), counts)


@pytest.mark.parametrize("texts", [[None], [None, "a", None], ["", None, "the same text again", "the same text again"]])
def test_textsketch_of_an_arrow_column_with_nulls(on_gpu, texts):
    bitmap, offsets, data = (
        np.frombuffer(b, t) if b else None for b, t in zip(pa.array(texts, pa.string()).buffers(), ("u1", "i4", "u1"), strict=True)
    )
    data = np.zeros(0, np.uint8) if data is None else data
    offsets = offsets[: len(texts) + 1]
    got = textsketch(on_gpu(data), on_gpu(offsets), dims=64, hashes=4, valid=on_gpu(bitmap))
    for a, b in zip(got, textsketch(data, offsets, dims=64, hashes=4, valid=bitmap), strict=True):
        np.testing.assert_array_equal(a.cpu().numpy().view(b.dtype), b)
