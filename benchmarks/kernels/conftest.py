"""What the benchmarks share: seeded data, and a way to state what a round processes."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def measure(benchmark):
    """measure(op, shape, items, bytes_read, work): time `work`, and note what one round of it processes."""

    def run(op, shape, items, bytes_read, work):
        benchmark.extra_info.update(op=op, shape=shape, items=items, bytes=bytes_read)
        work()  # compiles
        return benchmark.pedantic(work, rounds=15, warmup_rounds=1)

    return run
