"""neighbors in Triton against the oracle and its CPU twin."""

import numpy as np
import pytest

from kernels.neighbors import nearest, similar_pairs
from tests.kernels.tolerances import assert_close
from tests.naive import neighbors as naive

pytestmark = [pytest.mark.gpu_code, pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")]


def numpy(found):
    return type(found)(*(a if isinstance(a, int) else a.cpu().numpy() for a in found))


def rows(n, d, seed):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


@pytest.mark.parametrize("groups", [0, 5])
@pytest.mark.parametrize(
    ("n", "m", "d", "k"), [(0, 5, 3, 1), (1, 0, 3, 1), (1, 1, 1, 4), (70, 300, 33, 4), (65, 129, 70, 50), (3, 2100, 3, 2)]
)
def test_nearest(on_gpu, n, m, d, k, groups):
    rng = np.random.default_rng(n + m)
    queries, reservoir = rows(n, d, 0), rows(m, d, 1)
    queries[::9, 0] = np.nan
    reservoir[1::11, -1] = rng.choice([np.inf, -np.inf, np.nan], len(reservoir[1::11]))
    options = {}
    if groups:
        starts = np.sort(np.r_[0, rng.integers(0, m + 1, groups - 1), m])
        options = {"segments": rng.integers(-1, groups, n).astype(np.int32), "starts": starts}
    there = {name: on_gpu(a) for name, a in options.items()}
    got = numpy(nearest(on_gpu(queries), on_gpu(reservoir), k, **there))
    assert_close("neighbors", got.distance, naive.nearest(queries, reservoir, k, **options))
    np.testing.assert_array_equal(got.row, nearest(queries, reservoir, k, **options).row)


@pytest.mark.parametrize("shift", [0, 100])
def test_duplicates_are_at_distance_zero_however_many(on_gpu, shift):
    x = rows(40, 16, 0) + shift
    reservoir = np.vstack([x, np.repeat(x[:1], 200, axis=0), x])
    got = numpy(nearest(on_gpu(x[:20]), on_gpu(reservoir), 2))
    assert not got.distance.any()
    assert got.row.tolist() == [[0, 40], *([i, 240 + i] for i in range(1, 20))]


def test_near_ties_that_bfloat16_cannot_tell_apart(on_gpu):
    base = rows(1, 64, 5)
    reservoir = base + rows(300, 64, 6) * np.float32(1e-3)
    reservoir[0] = -base * 20  # takes the mean away from the cluster
    queries = base + rows(5, 64, 7) * np.float32(1e-3)
    got = numpy(nearest(on_gpu(queries), on_gpu(reservoir), 3))
    assert_close("neighbors", got.distance, naive.nearest(queries, reservoir, 3))


@pytest.mark.parametrize("least", [0.3, 0.9])
@pytest.mark.parametrize(("n", "d"), [(0, 2), (1, 2), (6, 16), (258, 70)])
def test_similar_pairs(on_gpu, n, d, least):
    x = rows(n, d, n)
    x[::17] = 0
    x[1::19] = np.nan
    x[n // 2 :: 5] = x[n // 3] * 2 if n else 0
    got, expected = numpy(similar_pairs(on_gpu(x), least)), naive.pairs(x, least)
    found = list(zip(got.first.tolist(), got.second.tolist(), strict=True))
    assert found == sorted(found) and got.found == len(found)
    assert {p for p, c in expected.items() if c > least + 1e-6} <= set(found) <= set(naive.pairs(x, least - 1e-6))
    common = [p in expected for p in found]
    assert_close("neighbors", got.similarity[common], np.array([expected[p] for p in found if p in expected]))
    if d > 2:
        cpu = similar_pairs(x, least)
        assert (got.first.tolist(), got.second.tolist()) == (cpu.first.tolist(), cpu.second.tolist())


def test_a_threshold_within_the_rounding_is_met_exactly(on_gpu):
    angle = np.arccos(0.9) + np.arange(-20, 21) * 1e-4
    x = np.vstack([[1, 0], np.stack([np.cos(angle), np.sin(angle)], 1)]).astype(np.float32)
    got = numpy(similar_pairs(on_gpu(x), 0.9))
    assert (got.first == 0).sum() in (20, 21)
    assert got.second[: (got.first == 0).sum()].tolist() == list(range(1, 1 + (got.first == 0).sum()))


def test_a_flood_of_pairs_is_counted_and_the_first_are_kept(on_gpu):
    x = np.zeros((1100, 2), np.float32)
    alike = np.r_[7, 900:1100]  # on both sides of where the rows are halved, and more pairs than there is room for at once
    x[alike] = 1
    got = numpy(similar_pairs(on_gpu(x), 0.9, limit=250))
    assert (len(got.first), got.found) == (250, 201 * 200 // 2)
    assert got.first.tolist() == [7] * 200 + [900] * 50
    assert got.second.tolist() == [*range(900, 1100), *range(901, 951)]


@pytest.mark.parametrize(
    "call",
    [
        lambda x: nearest(x.double(), x, 1),
        lambda x: nearest(x, x[:, :2].contiguous(), 1),
        lambda x: nearest(x, x, 0),
        lambda x: nearest(x, x, 129),
        lambda x: nearest(x, x, 1, starts=x[0].long()),
        lambda x: nearest(x, x, 1, segments=x[0].int(), starts=x[0, :2].long()),
        lambda x: nearest(x, x, 1, segments=x[0].int() - 1, starts=x[0, :2].long() * 5),
        lambda x: similar_pairs(x[:, ::2], 0.5),
    ],
)
def test_what_does_not_fit_is_refused(on_gpu, call):
    with pytest.raises(ValueError, match="must"):
        call(on_gpu(np.ones((4, 4), np.float32)))
