"""evidence: rows a second; each row updates eight bets."""

import numpy as np
import pytest

from kernels.evidence import BETS, bets_for, evidence


@pytest.mark.parametrize("slots", [1, 1000, 100_000])
def test_shiryaev_roberts(measure, rng, slots):
    n = 1_000_000
    values, rows = rng.random(n).astype(np.float32), rng.integers(0, slots, n).astype(np.int32)
    state, bets = np.zeros((slots, BETS)), bets_for(0.5)
    measure("evidence", f"{n:,} rows, {slots:,} slots", n, 8 * n, lambda: evidence(values, rows, 0.5, bets, state))
