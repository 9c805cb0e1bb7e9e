"""mahalanobis: rows of metrics judged and learned a second."""

import numpy as np
import pytest

from kernels import mahalanobis


@pytest.mark.parametrize("devices", [10, 1000])
def test_rows(measure, rng, devices):
    n, metrics = 50_000, 8
    x, slots = rng.normal(size=(n, metrics)).astype(np.float32), rng.integers(0, devices, n).astype(np.int32)
    state = mahalanobis.empty(devices, metrics)
    shape = f"{n:,} rows of {metrics} metrics, {devices:,} devices"
    measure("mahalanobis", shape, n, x.nbytes + slots.nbytes, lambda: mahalanobis.mahalanobis(x, slots, state), rounds=5)
