"""Sketches: additive summaries of one series, pane by pane of event time. Merging is addition, so cuts and workers do not matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

NO_CELLS = np.empty((0, 3), np.int64)


@dataclass(frozen=True)
class Sketch:
    """What one partition saw of one series in some panes.

    `panes`: int64[P], ascending, each floor(event time / pane length). `counts`: int64[P, bins], which add. `values`: float64[N, columns]
    raw values and `value_panes` int64[N] their panes, which concatenate (a series whose reference is still being learned has nothing to
    bin by); `names`: what codes among the values stand for. `unseen`: categories that the reference does not have, and when they came last.
    `columns`: arrays [R, ...] with a row per key and pane, `column_panes` int64[R], which concatenate in no order.
    `cells`: int64[C, 3] pane, column and count, which add: counts that are mostly 0. `basis`: what `counts` are counts of, where that was
    learned; only equal ones add.
    """

    detector: str
    series: str
    panes: np.ndarray
    counts: np.ndarray
    values: np.ndarray = field(default_factory=lambda: np.empty((0, 1)))
    value_panes: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    names: dict[str, str] = field(default_factory=dict)
    unseen: dict[str, int] = field(default_factory=dict)
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    column_panes: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    cells: np.ndarray = field(default_factory=lambda: NO_CELLS)
    basis: str = ""

    def since(self, pane: int) -> Sketch:
        """Only the panes from that one on."""
        return self._only(lambda panes: panes >= pane)

    def before(self, pane: int) -> Sketch:
        """Only the panes before that one."""
        return self._only(lambda panes: panes < pane)

    @property
    def empty(self) -> bool:
        """Whether no pane is left."""
        return not (len(self.panes) or len(self.value_panes) or len(self.column_panes) or len(self.cells))

    def _only(self, wanted: Callable[[np.ndarray], np.ndarray]) -> Sketch:
        keep, keep_values, keep_rows, keep_cells = map(wanted, (self.panes, self.value_panes, self.column_panes, self.cells[:, 0]))
        if keep.all() and keep_values.all() and keep_rows.all() and keep_cells.all():
            return self
        return Sketch(
            self.detector,
            self.series,
            self.panes[keep],
            self.counts[keep],
            self.values[keep_values],
            self.value_panes[keep_values],
            self.names,
            self.unseen,
            {name: column[keep_rows] for name, column in self.columns.items()},
            self.column_panes[keep_rows],
            self.cells[keep_cells],
            self.basis,
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


def added_cells(cells: np.ndarray) -> np.ndarray:
    """Cells by pane and column, each once, with the sum of its counts.

    >>> added_cells(np.array([[2, 0, 1], [1, 7, 1], [2, 0, 5]])).tolist()
    [[1, 7, 1], [2, 0, 6]]
    """
    if not len(cells):
        return cells
    low, width = cells[:, 0].min(), int(cells[:, 1].max()) + 1
    place = (cells[:, 0] - low) * width + cells[:, 1]
    order = np.argsort(place, kind="stable")  # what is in order by parts already, as from several partitions, is merged
    place, cells = place[order], cells[order]
    starts = np.flatnonzero(np.append(True, place[1:] != place[:-1]))
    return np.column_stack([cells[starts, :2], np.add.reduceat(cells[:, 2], starts)])


def merged(sketches: Sequence[Sketch]) -> list[Sketch]:
    """One sketch per detector and series, in their order. Values come sorted by pane and size: their order of arrival is gone."""
    groups: dict[tuple[str, str], list[Sketch]] = {}
    for sketch in sketches:
        groups.setdefault((sketch.detector, sketch.series), []).append(sketch)
    out = []
    for (detector, series), members in sorted(groups.items()):
        if len(members) == 1 and not len(members[0].values) and not len(members[0].cells):
            out.append(members[0])
            continue
        panes, counts = added(np.concatenate([m.panes for m in members]), np.concatenate([m.counts for m in members]))
        values = np.concatenate([m.values for m in members if len(m.values)] or [members[0].values])
        value_panes = np.concatenate([m.value_panes for m in members])
        order = np.lexsort((*values.T[::-1], value_panes))
        names = {code: name for m in members for code, name in m.names.items()}
        unseen: dict[str, int] = {}
        for word, last in (pair for m in members for pair in m.unseen.items()):
            unseen[word] = max(last, unseen.get(word, last))
        cells = added_cells(np.concatenate([m.cells for m in members]))
        filled = [m for m in members if len(m.column_panes)]
        columns = {name: np.concatenate([m.columns[name] for m in filled]) for name in (filled[0].columns if filled else ())}
        rows = np.concatenate([m.column_panes for m in members])
        basis = max(m.basis for m in members)
        out.append(Sketch(detector, series, panes, counts, values[order], value_panes[order], names, unseen, columns, rows, cells, basis))
    return out
