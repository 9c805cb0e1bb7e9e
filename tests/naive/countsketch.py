"""Oracle of countsketch: splitmix64 in Python's integers, coordinate by coordinate."""

from __future__ import annotations

import math

MASK = (1 << 64) - 1


def sign(place: int) -> int:
    """The upper bit of splitmix64 of a place."""
    h = (place + 1) * 0x9E3779B97F4A7C15 & MASK
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    h = (h ^ (h >> 27)) * 0x94D049BB133111EB & MASK
    return 1 if (h ^ (h >> 31)) >> 63 else -1


def sketched(row, width):
    """(sketch, length) of one row of Python floats."""
    out = [0.0] * min(len(row), width)
    for j, value in enumerate(row):
        out[j % width] += value * (sign(j) if len(row) > width else 1)
    return out, math.sqrt(math.fsum(v * v for v in row))
