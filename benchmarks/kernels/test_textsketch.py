"""textsketch: bytes of text a second into projections and signatures."""

import numpy as np
import pytest

from kernels.textsketch import textsketch


@pytest.mark.parametrize("hashes", [0, 32])
@pytest.mark.parametrize("length", [60, 600])
def test_bytes(measure, rng, length, hashes):
    n = 600_000 // length
    data = rng.choice(np.frombuffer(b"etaoin shrdlu cmfwyp ", np.uint8), n * length)
    offsets = np.arange(n + 1, dtype=np.int64) * length
    shape = f"{n:,} texts of {length} bytes, {hashes} hashes"
    measure("textsketch (bytes)", shape, len(data), len(data), lambda: textsketch(data, offsets, hashes=hashes), rounds=5)
