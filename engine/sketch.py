"""Sketches: additive summaries of one series, pane by pane of event time. Merging is addition, so cuts and workers do not matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Sketch:
    """What one partition saw of one series in some panes.

    `panes`: int64[P], ascending, each floor(event time / pane length). `counts`: int64[P, bins], which add. `values`: float64[N] raw
    values and `value_panes` int64[N] their panes, which concatenate (a series whose reference is still being learned has nothing to
    bin by); `names`: what codes among the values stand for.
    """

    detector: str
    series: str
    panes: np.ndarray
    counts: np.ndarray
    values: np.ndarray = field(default_factory=lambda: np.empty(0))
    value_panes: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    names: dict[str, str] = field(default_factory=dict)

    def since(self, pane: int) -> Sketch:
        """Only the panes from that one on."""
        keep, keep_values = self.panes >= pane, self.value_panes >= pane
        return Sketch(
            self.detector,
            self.series,
            self.panes[keep],
            self.counts[keep],
            self.values[keep_values],
            self.value_panes[keep_values],
            self.names,
        )


def added(panes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Panes in order, each once, and the sum of its counts.

    >>> panes, counts = added(np.array([2, 1, 2]), np.array([[1, 0], [5, 5], [1, 2]]))
    >>> panes.tolist(), counts.tolist()
    ([1, 2], [[5, 5], [2, 2]])
    """
    unique, place = np.unique(panes, return_inverse=True)
    if len(unique) == len(panes):
        return unique, counts[np.argsort(panes)]
    out = np.zeros((len(unique), counts.shape[1]), counts.dtype)
    np.add.at(out, place, counts)
    return unique, out


def merged(sketches: Sequence[Sketch]) -> list[Sketch]:
    """One sketch per detector and series, in their order. Values come sorted by pane and size: their order of arrival is gone."""
    groups: dict[tuple[str, str], list[Sketch]] = {}
    for sketch in sketches:
        groups.setdefault((sketch.detector, sketch.series), []).append(sketch)
    out = []
    for (detector, series), members in sorted(groups.items()):
        panes, counts = added(np.concatenate([m.panes for m in members]), np.concatenate([m.counts for m in members]))
        values = np.concatenate([m.values for m in members])
        value_panes = np.concatenate([m.value_panes for m in members])
        order = np.lexsort((values, value_panes))
        names = {code: name for m in members for code, name in m.names.items()}
        out.append(Sketch(detector, series, panes, counts, values[order], value_panes[order], names))
    return out
