"""neighbors: against the oracle, per segment, with ties, duplicates and rows nobody should send; the banded search against its recall."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.neighbors import banded_pairs, banding, cpu, nearest, recall, similar_pairs, unit_rows
from tests.kernels.tolerances import assert_close
from tests.naive import neighbors as naive


def rows(n, d, seed):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    n=st.sampled_from([0, 1, 5, 70]),
    m=st.sampled_from([0, 1, 127, 129, 300]),
    d=st.sampled_from([1, 3, 33]),
    k=st.sampled_from([1, 4, 50]),
    groups=st.sampled_from([0, 1, 7]),
    seed=st.integers(0, 9),
)
def test_nearest_agrees_with_the_oracle(n, m, d, k, groups, seed):
    rng = np.random.default_rng(seed)
    queries, reservoir = rows(n, d, seed), rows(m, d, seed + 1)
    queries[rng.random(n) < 0.1, 0] = rng.choice([np.nan, np.inf])
    reservoir[rng.random(m) < 0.1, -1] = rng.choice([np.nan, -np.inf])
    options = {}
    if groups:
        starts = np.sort(np.r_[0, rng.integers(0, m + 1, groups - 1), m])
        options = {"segments": rng.integers(-1, groups, n).astype(np.int32), "starts": starts}
    got = nearest(queries, reservoir, k, **options)
    assert_close("neighbors", got.distance, naive.nearest(queries, reservoir, k, **options))
    real = got.row >= 0
    np.testing.assert_array_equal(real, np.isfinite(got.distance))
    at = np.nonzero(real)
    exact = np.sqrt(((queries[at[0]].astype(np.float64) - reservoir[got.row[real]]) ** 2).sum(1))
    assert_close("neighbors", got.distance[real], exact)


def test_queries_in_any_cut_have_the_same_neighbors():
    rng = np.random.default_rng(4)
    queries, reservoir = rows(70, 33, 4), rows(300, 33, 5)
    queries[::13, 2], reservoir[::17, 0] = np.nan, np.inf
    hot = {"starts": np.array([0] * 3 + [300] * 300), "segments": np.full(70, 2, np.int32)}  # one segment has all rows
    whole = nearest(queries, reservoir, 4)
    cuts = [0, *sorted(rng.integers(0, 71, 4)), 70]
    for options in ({}, hot):
        parts = [
            nearest(queries[a:b], reservoir, 4, **(options | {"segments": hot["segments"][a:b]} if options else {}))
            for a, b in itertools.pairwise(cuts)
        ]
        np.testing.assert_array_equal(np.concatenate([part.row for part in parts]), whole.row)
        np.testing.assert_array_equal(np.concatenate([part.distance for part in parts]), whole.distance)


def test_duplicates_are_at_distance_zero():
    x = rows(500, 64, 0) + 100
    got = nearest(x[:9], x, 2)
    assert got.distance[:, 0].tolist() == [0] * 9
    assert got.row[:, 0].tolist() == list(range(9))


@settings(max_examples=25, deadline=None)
@given(n=st.sampled_from([0, 1, 2, 6, 131, 258]), d=st.sampled_from([2, 16]), least=st.sampled_from([0.3, 0.9]), seed=st.integers(0, 9))
def test_similar_pairs_agree_with_the_oracle(n, d, least, seed):
    x = rows(n, d, seed)
    x[::17] = 0
    x[1::19] = np.nan
    x[n // 2 :: 5] = x[n // 3] * 2 if n else 0
    expected = naive.pairs(x, least)
    got = similar_pairs(x, least)
    found = dict(zip(zip(got.first.tolist(), got.second.tolist(), strict=True), got.similarity.tolist(), strict=True))
    clear = {p for p, c in expected.items() if c > least + 1e-6}
    assert clear <= set(found) <= set(naive.pairs(x, least - 1e-6))
    assert got.found == len(found)
    assert list(found) == sorted(found)
    common = sorted(set(found) & set(expected))
    assert_close("neighbors", np.array([found[p] for p in common]), np.array([expected[p] for p in common]))


@pytest.mark.parametrize("least", [0.0, -0.3, -1.01])
@pytest.mark.parametrize("n", [0, 1, 2, 131])
def test_rows_without_length_are_like_nobody_whatever_is_asked_for(least, n):
    x = rows(n, 6, 21)
    x[::3] = 0
    x[1::7, 2] = np.nan
    expected = naive.pairs(x, least)
    got = similar_pairs(x, least)
    found = set(zip(got.first.tolist(), got.second.tolist(), strict=True))
    assert {p for p, c in expected.items() if c > least + 1e-6} <= found <= set(naive.pairs(x, least - 1e-6))
    assert got.found == len(found)
    banded = banded_pairs(x, least, bands=2, bits=1, widest=n + 1)
    assert set(zip(banded.first.tolist(), banded.second.tolist(), strict=True)) <= set(naive.pairs(x, least - 1e-6))


def test_a_limit_keeps_the_first_pairs_and_counts_them_all():
    x = np.ones((40, 8), np.float32)
    got = similar_pairs(x, 0.9, limit=50)
    assert (len(got.first), got.found) == (50, 780)
    assert got.first.tolist() == [0] * 39 + [1] * 11
    assert got.second[:3].tolist() == [1, 2, 3]
    banded = banded_pairs(x, 0.9, limit=50)
    assert (len(banded.first), banded.found) == (50, 780)


@pytest.mark.parametrize("room", [1, 200, 10_000])
def test_every_kept_pair_is_written_and_nothing_beyond(room):
    unit, there = unit_rows(rows(131, 5, 8))
    blocks, least = cpu.blocks_of(unit), np.float32(0.5)
    counts = cpu.count_pairs(unit, there, blocks, least)
    first, second, similarity = np.full(room, -7, np.int32), np.full(room, -7, np.int32), np.full(room, np.nan, np.float32)
    cpu.write_pairs(unit, there, blocks, least, counts, np.cumsum(counts) - counts, first, second, similarity)
    kept = min(room, int(counts.sum()))
    expected = similar_pairs(unit, 0.5, limit=kept)
    for got, want, poison in zip((first, second, similarity), expected[:3], (-7, -7, np.nan), strict=True):
        np.testing.assert_allclose(got[:kept], want, rtol=1e-6)
        np.testing.assert_array_equal(got[kept:], poison)


@pytest.mark.parametrize("cosine", [0.8, 0.9, 0.97])
def test_the_banded_search_finds_what_its_recall_says(cosine):
    a = rows(1500, 128, 1)
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b = rows(1500, 128, 2)
    b -= (a * b).sum(1, keepdims=True) * a
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    x = np.vstack([a, np.float32(cosine) * a + np.float32(np.sqrt(1 - cosine**2)) * b])
    got = banded_pairs(x, cosine - 1e-3)
    truth = naive.pairs(x, cosine - 1e-3)
    found = set(zip(got.first.tolist(), got.second.tolist(), strict=True))
    assert found <= set(truth)
    assert abs(len(found) / len(truth) - recall(cosine, *banding(len(x), cosine - 1e-3))) < 0.05


@pytest.mark.parametrize("least", [0.8, 0.85, 0.9, 0.99])
def test_bits_follow_the_number_of_rows_and_bands_hold_the_recall(least):
    for n in (0, 1, 10_000, 300_000, 1_000_000, 2**31 - 1):
        bands, bits = banding(n, least)
        assert recall(least, bands, bits) >= 0.85 or bands == 128
        assert n / 2**bits <= 4
    assert banding(1000, least, 20)[1] == 20 and banding(5, -1.01) == (128, 16)


def test_a_flood_of_like_rows_stays_linear_and_connected():
    x = np.tile(rows(1, 16, 3), (5000, 1))
    got = banded_pairs(x, 0.99, bands=2, widest=3)
    assert got.found == 3 * 5000 - 6
    assert set(got.second.tolist()) == set(range(1, 5000))


@pytest.mark.parametrize(
    "call",
    [
        lambda x: nearest(x.astype(np.float64), x, 1),
        lambda x: nearest(x, x[:, :2], 1),
        lambda x: nearest(x, x, 0),
        lambda x: nearest(x, x, 1, starts=np.array([0, 4])),
        lambda x: nearest(x, x, 1, segments=np.ones(4, np.int32), starts=np.array([0, 4])),
        lambda x: nearest(x, x, 1, segments=np.zeros(4, np.int32), starts=np.array([0, 5])),
        lambda x: similar_pairs(x[:, ::2], 0.5),
        lambda x: banded_pairs(x, 0.5, bits=40),
    ],
)
def test_what_does_not_fit_is_refused(call):
    with pytest.raises(ValueError, match="must"):
        call(np.ones((4, 4), np.float32))
