"""Numba loop of the countsketch op."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def square(values):
    """The squared length; in double precision, where no finite float32 is too large."""
    total = 0.0
    for j in range(len(values)):
        total += np.float64(values[j]) * np.float64(values[j])
    return total


@njit(nogil=True, cache=True, fastmath={"contract"})
def four(a, s, width, out):
    """Add up the first four runs of coordinates, so that a place is written once."""
    for j in range(width):
        out[j] = a[j] * s[j] + a[j + width] * s[j + width] + a[j + 2 * width] * s[j + 2 * width] + a[j + 3 * width] * s[j + 3 * width]


@njit(nogil=True, cache=True, fastmath={"contract"})
def add(a, s, out):
    """Add one run of coordinates, at most as many as there are places."""
    for j in range(len(a)):
        out[j] += a[j] * s[j]


@njit(nogil=True, cache=True)
def sketch(row, signs, out):
    dims, width, first = len(signs), len(out), 0
    if dims >= 4 * width:
        four(row, signs, width, out)
        first = 4 * width
    else:
        out[:] = 0
    while first < dims:
        last = min(first + width, dims)
        add(row[first:last], signs[first:last], out)
        first = last


@njit(nogil=True, cache=True)
def sketched(vectors, signs, out, lengths):
    for i in range(len(vectors)):
        lengths[i] = np.sqrt(square(vectors[i]))
        sketch(vectors[i], signs, out[i])
