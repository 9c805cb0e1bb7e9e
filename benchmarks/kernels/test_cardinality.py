"""cardinality: items a second into and out of each sketch."""

import numpy as np
import pytest

from kernels import cardinality

N = 1_000_000


@pytest.mark.parametrize("slots", [1, 100])
@pytest.mark.parametrize("verb", ["add_distinct", "add_counts", "counts_of", "add_members", "members"])
def test_items(measure, rng, verb, slots):
    items, rows = rng.integers(0, 2**63, N).astype(np.uint64), rng.integers(0, slots, N).astype(np.int32)
    sketch = {
        "add_distinct": np.zeros((slots, 4096), np.uint8),
        "add_counts": np.zeros((slots, 4, 4096), np.int32),
        "add_members": np.zeros((slots, 512), np.uint64),
    }[{"counts_of": "add_counts", "members": "add_members"}.get(verb, verb)]
    run = getattr(cardinality, verb)
    measure(f"cardinality.{verb}", f"{N:,} items, {slots} slots", N, 12 * N, lambda: run(items, rows, sketch))
