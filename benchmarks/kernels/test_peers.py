"""peers: values compared with the rest of their group a second."""

import numpy as np
import pytest

from kernels.peers import peers


@pytest.mark.parametrize("size", [8, 1000])
def test_values(measure, rng, size):
    n, metrics = 100_000, 8
    x, group = rng.normal(size=(n, metrics)).astype(np.float32), (np.arange(n) // size).astype(np.int32)
    groups = int(group[-1]) + 1
    measure("peers", f"{n:,} rows of {metrics} metrics, groups of {size:,}", x.size, x.nbytes, lambda: peers(x, group, groups), rounds=5)
