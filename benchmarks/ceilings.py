"""What the machine can do at best, measured in the same run as what is compared with it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numba import njit, prange


def best_of(work: Callable[[], object], rounds: int = 15) -> float:
    """Seconds of the fastest of some rounds, after one to warm up."""
    work()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@njit(parallel=True, nogil=True, cache=True)
def total(words):
    """The sum of all words: one addition for eight bytes read."""
    parts = np.zeros(64, np.int64)
    for part in prange(64):
        held = np.int64(0)
        for i in range(len(words) * part // 64, len(words) * (part + 1) // 64):
            held += words[i]
        parts[part] = held
    return parts.sum()


def read_bytes_per_s(size: int = 1 << 28) -> float:
    """Bytes a second that all threads read of an array far larger than the caches."""
    words = np.ones(size // 8, np.int64)
    return size / best_of(lambda: total(words))


def matmul_flops_per_s(side: int = 1024) -> float:
    """Floating-point operations a second of a float32 matrix product by the BLAS that NumPy has."""
    a = np.ones((side, side), np.float32)
    return 2 * side**3 / best_of(lambda: a @ a)
