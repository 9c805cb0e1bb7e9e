"""recent: distances against a loop over lists, for every cut into batches."""

import numpy as np
import pytest

from kernels import recent
from tests.naive import countsketch

HELD = 24


def naive(slot, points, classes):
    """Distances to the last HELD points of the same key, exact repeats left out."""
    history, out = {}, []
    grains = np.clip(np.rint(points * recent.GRAIN), -32767, 32767)
    for s, p, c in zip(slot.tolist(), grains, classes.tolist(), strict=True):
        row = [np.nan] * 5
        if s >= 0:
            past = history.setdefault(s, [])
            places = [(k % HELD, float(np.sqrt(np.mean((p - q) ** 2)) / recent.GRAIN), of) for k, (q, of) in enumerate(past)][-HELD:]
            others = [(place, d) for place, d, _ in places if d > 0]
            if len(past) >= HELD and len(others) >= recent.LEAST:
                parts = [min((d for place, d in others if place % recent.NEAR == part), default=np.nan) for part in range(recent.NEAR)]
                same = min((d for _, d, of in places if of == c), default=0)
                row = [
                    min(d for _, d in others), np.nanmean(parts), np.mean([d for _, d in others]), places[-1][1] or np.nan,
                    same if c >= 0 and same > 0 else np.nan,
                ]  # fmt: skip
            past.append((p, c))
        out.append(row)
    return np.array(out, np.float32)


def traffic(n=300, dims=3):
    rng = np.random.default_rng(1)
    points = rng.normal(0, 1, (n, dims)).astype(np.float32)
    points[100:120] = points[100]
    points[7] = 1e9
    return rng.integers(-1, 2, n).astype(np.int32), points, rng.integers(-1, 4, n).astype(np.int32)


def state(dims=3):
    return np.zeros(2, np.int64), np.zeros((2, dims, HELD), np.int16), np.zeros((2, HELD), np.int32)


@pytest.mark.parametrize("cut", [1, 13, 300])
def test_distances_equal_the_oracle_for_any_cut(cut):
    columns, kept = traffic(), state()
    got = np.concatenate([recent.fold(*(c[i : i + cut] for c in columns), *kept) for i in range(0, 300, cut)])
    np.testing.assert_allclose(got, naive(*columns), rtol=1e-5)
    assert (np.isfinite(got).sum(0) > 100).all()


def test_a_ring_of_another_width_is_refused():
    columns = traffic()
    with pytest.raises(ValueError, match="do not fit"):
        recent.fold(*columns, *state(dims=2))
    with pytest.raises(ValueError, match="do not fit"):
        recent.fold(*columns, np.zeros(2, np.int64), np.zeros((2, 3, 20), np.int16), np.zeros((2, 20), np.int32))


@pytest.mark.parametrize("cut", [1, 7, 200])
def test_likeness_equals_the_oracle_for_any_cut(cut):
    rng, held = np.random.default_rng(2), 5
    slot, minhash = rng.integers(-1, 2, 200).astype(np.int32), rng.integers(0, 3, (200, 4)).astype(np.uint16)
    seen, ring = np.zeros(2, np.int64), np.zeros((2, held, 4), np.uint16)
    got = np.concatenate([recent.likeness(slot[i : i + cut], minhash[i : i + cut], seen, ring) for i in range(0, 200, cut)])
    history, expected = {}, []
    for s, text in zip(slot.tolist(), minhash, strict=True):
        past = history.setdefault(s, [])
        alike = [((text == q) & (text > 0)).sum() / max(1, ((text > 0) | (q > 0)).sum()) for q in past[-held:]]
        expected.append([max(alike), np.mean(alike)] if s >= 0 and len(past) >= held else [np.nan] * 2)
        past.append(text)
    np.testing.assert_allclose(got, np.array(expected, np.float32), rtol=1e-6)


def test_a_row_is_placed_alike_whatever_stands_beside_it():
    rng = np.random.default_rng(3)
    vectors, signs = rng.normal(2, 3, (50, 37)).astype(np.float32), rng.choice([-1, 1], (37, 8)).astype(np.float32)
    center, spread = rng.normal(size=37).astype(np.float32), rng.uniform(0.1, 2, 37).astype(np.float32)
    points, distance = recent.placed(vectors, center, spread, signs, 20)
    z = np.clip((vectors.astype(np.float64) - center) / spread, -20, 20)
    np.testing.assert_allclose(points, z @ signs, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(distance, np.sqrt(np.mean(z**2, axis=1)), rtol=1e-5)
    alone = [recent.placed(v[None], center, spread, signs, 20) for v in vectors]
    np.testing.assert_array_equal(points, np.concatenate([p for p, _ in alone]))
    np.testing.assert_array_equal(distance, np.concatenate([d for _, d in alone]))


def test_long_vectors_are_sketched_before_they_are_projected():
    rng = np.random.default_rng(4)
    vectors, directions = rng.normal(size=(20, 300)).astype(np.float32), rng.choice([-1, 1], (64, 11)).astype(np.float32)
    center, spread = rng.normal(size=300).astype(np.float32), rng.uniform(0.5, 2, 300).astype(np.float32)
    points, distance = recent.placed(vectors, center, spread, directions, 2)
    z = np.clip((vectors.astype(np.float64) - center) / spread, -2, 2)
    short = np.array([countsketch.sketched(row.tolist(), 64)[0] for row in z])
    np.testing.assert_allclose(points, short @ directions, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(distance, np.sqrt(np.mean(z**2, axis=1)), rtol=1e-5)
    alone = np.concatenate([recent.placed(v[None], center, spread, directions, 2)[0] for v in vectors])
    np.testing.assert_array_equal(points, alone)
    with pytest.raises(ValueError, match="do not fit"):
        recent.placed(vectors[:, :50], center[:50], spread[:50], directions, 2)


def test_repeats_are_of_the_same_key_and_recent():
    slot = np.array([0, 1, 0, 0, 0, 0, -1], np.int32)
    items = np.array([5, 5, 5, 6, 7, 5, 5], np.uint64)
    got = recent.repeats(slot, items, np.zeros(2, np.int64), np.zeros((2, 2), np.uint64))
    assert got.tolist() == [False, False, True, False, False, False, False]
