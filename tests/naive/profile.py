"""Oracle of `kernels.profile`: numpy.histogram on each series by itself, moments in exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

MOST_QUANTA = 2**25


def unpack(valid: np.ndarray | None, first_bit: int, n: int) -> np.ndarray:
    """bool[n] from a validity bitmap."""
    return np.ones(n, bool) if valid is None else np.unpackbits(valid, bitorder="little")[first_bit : first_bit + n].astype(bool)


def profile(values, slots, edges, rows, valid=None, first_bit=0, edge_rows=None):
    """(counts [rows, width + 3], moments as Python integers [rows][n, sum k, sum k*k], extremes [rows, 2]) of one column."""
    values = np.asarray(values)
    null = np.isnan(values) | ~unpack(valid, first_bit, len(values))
    slots = np.broadcast_to(slots, values.shape)
    counts = np.zeros((rows, edges.width + 3), np.int64)
    moments, extremes = [], np.tile([np.inf, -np.inf], (rows, 1))
    for row in range(rows):
        e = 0 if len(edges) == 1 else row if edge_rows is None else edge_rows[row]
        cut = edges.edges(e)
        mine = values[(slots == row) & ~null].astype(np.float64)
        counts[row, 0] = (mine < cut[0]).sum()
        counts[row, 1 : len(cut)] = np.histogram(mine[np.isfinite(mine)], cut)[0]
        counts[row, edges.width + 1] = (mine > cut[-1]).sum()
        counts[row, edges.width + 2] = ((slots == row) & null).sum()
        finite = mine[np.isfinite(mine)]
        k = [quanta(v, edges.center[e], edges.quantum[e], values.dtype) for v in finite]
        moments.append([len(k), sum(k), sum(i * i for i in k)])
        if len(finite):
            extremes[row] = finite.min(), finite.max()
    return counts, moments, extremes


def quanta(value: float, center: float, quantum: float, dtype: np.dtype) -> int:
    """The place of a value on the grid: the difference is rounded once, to the type of the values, and then to an integer."""
    difference = Fraction(value) - Fraction(center)
    if abs(difference) / Fraction(quantum) > MOST_QUANTA:
        return MOST_QUANTA if difference > 0 else -MOST_QUANTA
    return round(Fraction(float(np.asarray(float(difference), dtype))) / Fraction(quantum))
