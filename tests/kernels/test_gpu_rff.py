"""rff in Triton against its CPU twin, which has an oracle of its own."""

import numpy as np
import pytest

from kernels.rff import empty, frequencies, rff

pytestmark = [
    pytest.mark.gpu_code,
    # the interpreter computes with NumPy, also what is masked afterwards
    pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning"),
]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize(
    ("n", "d", "features", "keys"), [(0, 5, 16, 3), (1, 5, 16, 3), (130, 70, 272, 1), (300, 65, 264, 3), (150, 64, 256, 200)]
)
def test_rff(on_gpu, n, d, features, keys, dtype):
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, d)).astype(np.float32)
    x[::29, 0], x[5::31, 1] = np.nan, np.inf
    slots = rng.integers(-1, keys, n).astype(np.int32)
    w = frequencies(d, features, 3.0)
    sums, counts = rff(x, slots, w, *empty(keys, features, dtype))
    got_sums, got_counts = (on_gpu(a) for a in empty(keys, features, dtype))
    for part in (slice(0, n // 3), slice(n // 3, n)):
        rff(on_gpu(x[part]), on_gpu(slots[part]), on_gpu(w), got_sums, got_counts)
    np.testing.assert_array_equal(got_counts.cpu().numpy(), counts)
    off = np.abs(got_sums.cpu().numpy() - sums)
    assert (off <= np.maximum(2, counts)[:, None]).all()  # a rounding to 1 / SCALE may fall the other way
