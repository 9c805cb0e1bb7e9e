"""Cells: a value's bin without a search. A multiplication says the cell, and a cell holds one threshold at most: one comparison remains.

The map from value to cell is monotone as it is computed, roundings and all, so that cells cut the line at some points, whichever these
are; the place of a value is then exact: what lies below its cell, and one more if it reaches the threshold inside.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

FEWEST, MOST = 64, 2048  # cells of a row
ROOM = 1 << 21  # cells of all rows together, at most
UNSURE = 2.0**-7  # more doubt than this about a uniform bin, in bins, and the row is not taken for uniform


class Cells(NamedTuple):
    """Of R rows of edges, for values of one type (number).

    low, scale: number[R]: value x is in the cell int(clip((x - low) * scale, 0, C - 1)); NaN in the last. scale 0: this row's thresholds
      lie too unevenly for C cells.
    edge: number[R, C], the threshold inside, or infinity. places: int32[R, 2C], the place in a histogram row of those that reach it, and
      of those that do not, in turn.
    uniform_low, uniform_scale, doubt: number[R]: of bins of one width, the place is int(clip((x - uniform_low) * uniform_scale, 1/2,
      bins + 3/2)), unless that is within `doubt` of an integer before it is cut. doubt 0: this row has no such bins.
    """

    low: np.ndarray
    scale: np.ndarray
    edge: np.ndarray
    places: np.ndarray
    uniform_low: np.ndarray
    uniform_scale: np.ndarray
    doubt: np.ndarray


def cells_of(thresholds: np.ndarray, bins: np.ndarray, width: int, number: Any) -> Cells:
    """The cells of thresholds number[R, T], of which bins[r] + 1 are used: as few as keep any two thresholds apart."""
    rows = len(thresholds)
    most = min(MOST, max(FEWEST, ROOM // max(1, rows)))
    sizes = [size for size in (64, 128, 256, 512, 1024, 2048) if size <= most]
    for size in sizes:
        low, scale = spread(thresholds, bins, size, number)
        cell = np.minimum(cell_of(thresholds, low[:, None], scale[:, None], size), size - 1)
        apart = np.all(np.diff(np.where(np.isnan(thresholds), size + np.arange(thresholds.shape[1]), cell), axis=1) > 0, axis=1)
        if apart[scale > 0].all():
            break
    scale[~apart] = 0
    edge = np.full((rows, size), np.inf, number)
    below = np.zeros((rows, size + 1), np.int32)
    row, at = np.nonzero(~np.isnan(thresholds) & (scale > 0)[:, None])
    edge[row, cell[row, at]] = thresholds[row, at]
    np.add.at(below, (row, cell[row, at] + 1), 1)
    reached = np.cumsum(below, axis=1, dtype=np.int32)
    places = np.stack([reached[:, 1:], reached[:, :-1]], axis=2).reshape(rows, 2 * size)
    places = np.where(places > bins[:, None], width + 1, places).astype(np.int32)
    uniform_low, uniform_scale, doubt = uniform(thresholds, bins, number)
    return Cells(low, scale, edge, places, uniform_low, uniform_scale, np.where(scale > 0, doubt, 0).astype(number))


def cell_of(x: np.ndarray, low: np.ndarray, scale: np.ndarray, size: int) -> np.ndarray:
    """int64: cells as the kernel has them; of NaN, the last."""
    number = x.dtype.type
    with np.errstate(over="ignore", invalid="ignore"):
        u = (x - low) * scale
    return np.maximum(np.where(u < number(size - 1), u, number(size - 1)), number(0)).astype(np.int64)


def spread(thresholds: np.ndarray, bins: np.ndarray, size: int, number: Any) -> tuple[np.ndarray, np.ndarray]:
    """low and scale of each row: the thresholds but the first and the last, which may be far away, over all cells but the ends."""
    rows = np.arange(len(thresholds))
    inner = bins >= 3
    first = thresholds[rows, np.where(inner, 1, 0)].astype(np.float64)
    last = thresholds[rows, np.where(inner, bins - 1, bins)].astype(np.float64)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        step = (last - first) / (size - 4)
        scale = (1 / step).astype(number)
        low = (first - 1.5 * step).astype(number)
    usable = np.isfinite(scale) & np.isfinite(low) & (scale > 0)
    return np.where(usable, low, number(0)), np.where(usable, scale, number(0))


def uniform(thresholds: np.ndarray, bins: np.ndarray, number: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uniform_low, uniform_scale and doubt of each row.

    doubt covers how far thresholds are from integers under the map, in exact arithmetic, and the kernel's two roundings, each half an
    epsilon of the image. A value whose image is further from an integer than that is on the same side of that integer as of the threshold.
    """
    inner = np.maximum(bins - 1, 1)  # the last threshold is one float after the edge
    first, last = thresholds[:, 0].astype(np.float64), thresholds[np.arange(len(thresholds)), inner].astype(np.float64)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        step = (last - first) / inner
        scale = (1 / step).astype(number)
        low = (first - step).astype(number)
        image = (thresholds.astype(np.float64) - low[:, None].astype(np.float64)) * scale[:, None].astype(np.float64)
    off = np.nanmax(np.abs(image - np.arange(1, thresholds.shape[1] + 1)), axis=1, initial=0)
    doubt = 1.01 * off + 1.5 * (bins + 2) * np.finfo(number).eps
    usable = np.isfinite(scale) & np.isfinite(low) & (scale > 0) & (doubt < UNSURE)
    return np.where(usable, low, number(0)), np.where(usable, scale, number(0)), np.where(usable, doubt, 0).astype(number)
