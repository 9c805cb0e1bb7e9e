"""neighbors: pairs of rows compared a second, by the product of all with all and by bands."""

import numpy as np
import pytest

from kernels import neighbors

DIMS = 256


@pytest.mark.parametrize("m", [1_000, 20_000])
def test_nearest(measure, rng, m):
    n = 2_000
    queries, reservoir = (rng.normal(size=(rows, DIMS)).astype(np.float32) for rows in (n, m))
    shape = f"{n:,} x {m:,}, d={DIMS}, k=50"
    work = lambda: neighbors.nearest(queries, reservoir, 50)  # noqa: E731
    measure("neighbors.nearest (pairs)", shape, n * m, queries.nbytes + reservoir.nbytes, work, flops=2 * n * m * DIMS, rounds=3)


def test_similar_pairs(measure, rng):
    n = 10_000
    rows = rng.normal(size=(n, DIMS)).astype(np.float32)
    pairs = n * (n - 1) // 2
    work = lambda: neighbors.similar_pairs(rows, 0.9)  # noqa: E731
    measure("neighbors.similar_pairs (pairs)", f"{n:,}, d={DIMS}", pairs, rows.nbytes, work, flops=2 * pairs * DIMS, rounds=3)


@pytest.mark.parametrize("n", [10_000, 40_000])
def test_banded_pairs(measure, rng, n):
    rows = rng.normal(size=(n, DIMS)).astype(np.float32)
    work = lambda: neighbors.banded_pairs(rows, 0.9)  # noqa: E731
    measure("neighbors.banded_pairs (rows)", f"{n:,}, d={DIMS}", n, rows.nbytes, work, rounds=3)
