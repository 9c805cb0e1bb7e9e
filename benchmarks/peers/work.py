"""The data that both sides work on; NumPy only, since it is imported in either environment."""

from __future__ import annotations

import numpy as np

ROWS, COLUMNS = 1_000_000, 20
DIMS, WINDOW = 384, 50


def reference() -> np.ndarray:
    """float64[COLUMNS, ROWS]: normal and log-normal columns in turn."""
    columns = np.random.default_rng(1).normal(size=(COLUMNS, ROWS))
    columns[1::2] = np.exp(columns[1::2])
    return columns


def current() -> np.ndarray:
    """The same, drifted a little."""
    columns = np.random.default_rng(2).normal(0.1, 1.05, size=(COLUMNS, ROWS))
    columns[1::2] = np.exp(columns[1::2])
    return columns


def histograms() -> tuple[np.ndarray, np.ndarray]:
    """int64[18] counts of two samples of whole numbers, 5,000 and 3,000 rows."""
    rng = np.random.default_rng(8)
    return tuple(np.bincount(rng.binomial(n, p, rows), minlength=18) for n, p, rows in ((15, 0.4, 5000), (17, 0.45, 3000)))  # type: ignore[return-value]


def items(n: int) -> np.ndarray:
    """uint64[n] identifiers, half of them distinct."""
    return np.random.default_rng(3).integers(0, n // 2, n).astype(np.uint64)


def stream(n: int) -> np.ndarray:
    """float64[n] of zeros and ones whose mean moves from .1 to .3 at the middle."""
    rng = np.random.default_rng(4)
    return (rng.random(n) < np.where(np.arange(n) < n // 2, 0.1, 0.3)).astype(np.float64)


def embeddings(n: int, dims: int, seed: int) -> np.ndarray:
    """float32[n, dims], normal."""
    return np.random.default_rng(seed).normal(size=(n, dims)).astype(np.float32)


def texts(n: int) -> list[bytes]:
    """n texts of about 600 bytes, of words from a vocabulary of 2,000."""
    rng = np.random.default_rng(8)
    words = [bytes(rng.integers(97, 123, k, np.uint8)) for k in rng.integers(2, 10, 2000)]
    return [b" ".join(words[i] for i in rng.integers(0, 2000, 90)) for _ in range(n)]
