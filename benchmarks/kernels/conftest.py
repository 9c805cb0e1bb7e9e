"""What the benchmarks share: seeded data, and a way to state what a round processes."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def measure(benchmark):
    """measure(op, shape, items, bytes_read, work): time `work`, and note what one round of it processes.

    flops: of a round, for an op that a matrix product bounds; fewer rounds for what takes long.
    """

    def run(op, shape, items, bytes_read, work, *, flops=0, rounds=15):
        benchmark.extra_info.update(op=op, shape=shape, items=items, bytes=bytes_read, flops=flops)
        work()  # compiles
        return benchmark.pedantic(work, rounds=rounds, warmup_rounds=1)

    return run
