"""Bin edges, frozen from a reference: where the histogram of a series is cut, and the grid on which its moments are exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kernels.profile.cells import cells_of

MAX_QUANTA = 2**25  # a value further than this from the centre counts into the moments as if it were this far
RANGE_QUANTA = 2**20  # quanta across the reference's range (between this and half of it: a quantum is a power of two)
LANES = 11  # thresholds are padded to a multiple of this, which is how many `places.count_reached` compares at once


@dataclass(frozen=True, eq=False)
class Edges:
    """Histogram edges and moment grids of R series; a single series is R = 1.

    thresholds: float64[R, T], ascending, padded with NaN. A value's bin is the number of thresholds <= value: 0 is *below*, 1 to
      `bins` are the bins, `bins + 1` is *above*. Bins are half open except the last, which holds its upper edge (as
      `numpy.histogram` does): the last threshold is the float after that edge.
    width: the bins that a histogram row has room for; a row of fewer distinct edges leaves the rest empty.
    bins: int32[R], the bins in use.
    center, quantum: float64[R]; moments are sums of k = round((value - center) / quantum), |k| <= 2**25, which are integers and
      so do not depend on the order of the rows. A quantum is a power of two, 2**-20 of the reference's range or up to twice that.
    """

    thresholds: np.ndarray
    width: int
    bins: np.ndarray
    center: np.ndarray
    quantum: np.ndarray

    def __len__(self) -> int:
        return len(self.thresholds)

    def tables(self, number: Any) -> tuple:
        """What a kernel for values of type `number` (numpy.float32 or float64) takes, made once: thresholds, bins, center,
        1 / quantum, grid ends, width, and those of `Cells`."""
        return self._tables32 if number is np.float32 else self._tables64

    @cached_property
    def _tables32(self) -> tuple:
        return self._make_tables(np.float32, np.int32)

    @cached_property
    def _tables64(self) -> tuple:
        return self._make_tables(np.float64, np.int64)

    def _make_tables(self, number: Any, integer: Any) -> tuple:
        """Thresholds are rounded up, which keeps comparisons exact; the ends of the moments' grid are order keys, [R, 2]: the bits
        of a float as an integer that sorts as the float does."""
        with np.errstate(over="ignore"):
            nearest = self.thresholds.astype(number)
        thresholds = np.where(nearest < self.thresholds, np.nextafter(nearest, number(np.inf)), nearest).astype(number)
        reach = MAX_QUANTA * self.quantum
        ends = np.stack([self.center - reach, self.center + reach], axis=1)
        bits = np.clip(ends, np.finfo(number).min, np.finfo(number).max).astype(number).view(integer)
        grid = bits ^ ((bits >> (8 * bits.itemsize - 1)) & np.iinfo(integer).max)
        cells = cells_of(thresholds, self.bins, self.width, number)
        return thresholds, self.bins, self.center.astype(number), (1 / self.quantum).astype(number), grid, self.width, *cells

    def edges(self, row: int = 0) -> np.ndarray:
        """float64[bins + 1]: the edges of one series, both ends included, as `numpy.histogram` takes them."""
        edges = self.thresholds[row, : self.bins[row] + 1].copy()
        edges[-1] = np.nextafter(edges[-1], -np.inf)
        return edges


def quantile_edges(sample: np.ndarray, bins: int = 32) -> Edges:
    """Edges at the `bins + 1` quantiles of a reference sample, minimum and maximum included. NaN and infinities are left out.

    Equal quantiles (a value that holds more than 1/bins of the sample) fall together, so there may be fewer bins than asked for.
    Raises ValueError when no finite value is left.

    >>> quantile_edges(np.arange(101.0), bins=4).edges().tolist()
    [0.0, 25.0, 50.0, 75.0, 100.0]
    """
    sample = np.asarray(sample, np.float64)
    sample = sample[np.isfinite(sample)]
    if not len(sample):
        raise ValueError("a reference sample needs at least one finite value")
    return from_edges(np.quantile(sample, np.linspace(0, 1, bins + 1)), width=bins)


def uniform_edges(low: float, high: float, bins: int = 32) -> Edges:
    """Edges of equal distance from `low` to `high`; ValueError unless low < high, both finite.

    >>> uniform_edges(0, 1, bins=2).edges().tolist()
    [0.0, 0.5, 1.0]
    """
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"uniform edges need finite low < high, not {low} and {high}")
    return from_edges(np.linspace(low, high, bins + 1), width=bins)


def category_edges(categories: int) -> Edges:
    """Edges for codes 0 to categories - 1, a bin each; a code from `categories` on (an unseen one) counts as *above*.

    >>> category_edges(3).edges().tolist()
    [-0.5, 0.5, 1.5, 2.5]
    """
    if categories < 1:
        raise ValueError("a categorical histogram needs at least one category")
    return from_edges(np.arange(categories + 1) - 0.5, width=categories)


def from_edges(edges: np.ndarray, width: int | None = None) -> Edges:
    """Edges of one series from ascending values; equal ones fall together, one value alone makes a bin of that value only.

    `width` (default: as many bins as the edges make) is the room of a histogram row. ValueError when the edges are not finite,
    not ascending, or make more bins than `width`.
    """
    edges = np.asarray(edges, np.float64)
    if edges.ndim != 1 or not len(edges) or not np.isfinite(edges).all() or (np.diff(edges) < 0).any():
        raise ValueError("edges must be finite and ascending")
    edges = np.unique(edges)
    if len(edges) == 1:
        edges = np.repeat(edges, 2)
    bins = len(edges) - 1
    width = bins if width is None else width
    if bins > width:
        raise ValueError(f"{bins} bins do not fit into a width of {width}")
    thresholds = np.full((1, padded(width)), np.nan)
    thresholds[0, : bins + 1] = edges
    thresholds[0, bins] = np.nextafter(edges[-1], np.inf)
    span = max(float(edges[-1] - edges[0]), abs(float(edges[-1])) * 2.0**-20)
    exponent = np.clip(np.ceil(np.log2(span)) if span > 0 else 0, -100, 120) - np.log2(RANGE_QUANTA)
    center = np.float64(np.float32(np.clip(edges[0] / 2 + edges[-1] / 2, -1e38, 1e38)))
    return Edges(thresholds, width, np.array([bins], np.int32), np.array([center]), np.array([2.0**exponent]))


def stack(rows: Sequence[Edges]) -> Edges:
    """The edges of several series as one, in their order; the width is the largest of theirs. ValueError when there are none."""
    if not rows:
        raise ValueError("nothing to stack")
    width = max(edges.width for edges in rows)
    thresholds = np.full((sum(len(edges) for edges in rows), padded(width)), np.nan)
    first = 0
    for edges in rows:
        thresholds[first : first + len(edges), : edges.thresholds.shape[1]] = edges.thresholds
        first += len(edges)
    return Edges(
        thresholds,
        width,
        np.concatenate([edges.bins for edges in rows]),
        np.concatenate([edges.center for edges in rows]),
        np.concatenate([edges.quantum for edges in rows]),
    )


def padded(width: int) -> int:
    """Thresholds in a row of `width` bins, padding included."""
    return -(-(width + 1) // LANES) * LANES
