"""transitions: tokens scored and learned a second."""

import numpy as np
import pytest

from kernels.transitions import transitions


@pytest.mark.parametrize("learn", [True, False])
def test_tokens(measure, rng, learn):
    n = 500_000
    tokens, slots = rng.integers(1, 200, n).astype(np.uint64), rng.integers(0, 1000, n).astype(np.int32)
    contexts, counts = np.zeros((1000, 2), np.uint64), np.zeros((1, 1 << 18), np.int32)
    shape = f"{n:,} tokens, {'learned' if learn else 'scored'}"
    measure("transitions", shape, n, 12 * n, lambda: transitions(tokens, slots, contexts, counts, learn=learn))
