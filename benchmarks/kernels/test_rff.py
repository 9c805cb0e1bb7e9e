"""rff: rows a second into their keys' sums of random Fourier features."""

import numpy as np
import pytest

from kernels import rff


@pytest.mark.parametrize(("n", "features"), [(20_000, 1024), (5_000, 4096)])
def test_rows(measure, rng, n, features):
    dims, keys = 384, 100
    x, slots = rng.normal(size=(n, dims)).astype(np.float32), rng.integers(0, keys, n).astype(np.int32)
    w, state = rff.frequencies(dims, features, sigma=dims**0.5), rff.empty(keys, features)
    shape = f"{n:,} rows, d={dims}, D={features}"
    measure("rff", shape, n, x.nbytes, lambda: rff.rff(x, slots, w, *state), flops=n * dims * features, rounds=5)
