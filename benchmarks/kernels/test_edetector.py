"""edetector: steps a second; each step updates 48 lanes (three thresholds, both directions, eight bets)."""

import numpy as np
import pytest

from kernels.edetector import PARTS, edetector

LANES = 48


@pytest.mark.parametrize("slots", [1, 1000])
def test_edetector(measure, rng, slots):
    n = 200_000
    totals = rng.integers(1, 50, n).astype(float)
    successes = rng.binomial(totals.astype(int)[:, None], 0.1, (n, 3)).astype(float)
    of_step = rng.integers(0, slots, n).astype(np.int32)
    null = np.full((slots, LANES), 0.1)
    odds = 0.11 * np.tile([1.3, 2, 4, 10, 30, 100, 0.5, 0.2], LANES // 8)
    tables = null, np.tile(odds / (1 + odds), (slots, 1)), np.ones((slots, LANES)), np.full((slots, LANES), 1 / LANES)
    spend, time_us, state = np.full(n, 1e-7), np.arange(n, dtype=np.float64), np.zeros((slots, PARTS, LANES))
    measure(
        "edetector",
        f"{n:,} steps, {slots:,} slots",
        n,
        40 * n,
        lambda: edetector(successes, totals, spend, time_us, of_step, *tables, state),
    )
