"""How far kernel and oracle may be apart: one row per op, and per array type where they differ. Figures may tighten, never loosen.

`rtol` and `atol` are numpy.testing.assert_allclose's. Ops that fold integers agree exactly: both zero.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Tolerance(NamedTuple):
    rtol: float
    atol: float


TOLERANCES = {
    "profile": Tolerance(0, 0),
    "evidence": Tolerance(1e-9, 1e-12),  # products of up to a few hundred factors, in float64
    "edetector": Tolerance(1e-9, 1e-12),  # exponentials of sums of up to a few hundred terms, in float64
    "cardinality": Tolerance(0, 0),
    "cardinality.estimate": Tolerance(1e-9, 0),
    "mahalanobis": Tolerance(1e-6, 1e-8),  # an inverse of a matrix with ridge 1e-3, in float64
    "neighbors": Tolerance(1e-6, 1e-6),  # neighbours chosen in float32, distances in float64
    "peers": Tolerance(1e-12, 1e-12),
    "rff": Tolerance(0, 1e-4),  # of a row's feature: float32 angles, rounded to 2**-14
    "countsketch": Tolerance(0, 1e-6),  # of a row's length: sums of a few float32
    "textsketch": Tolerance(1e-6, 0),  # integers, divided by their norm in float32
    "transitions": Tolerance(1e-12, 1e-12),
    "transitions.cuda": Tolerance(1e-9, 1e-9),  # float64 logarithms of another library
}


def assert_close(op: str, got: np.ndarray, expected: np.ndarray) -> None:
    """AssertionError unless the arrays agree within the op's tolerance; NaN agrees with NaN only."""
    np.testing.assert_allclose(got, expected, rtol=TOLERANCES[op].rtol, atol=TOLERANCES[op].atol, strict=False)
