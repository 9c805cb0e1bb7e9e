"""Rows as dictionaries to typed columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from streams import names
from streams.records import Rows


def rows_of(stream: str, rows: Sequence[dict[str, Any]], offsets: Sequence[int]) -> Rows:
    """One `Rows` with the columns that any row has a value in. Values are of their columns' types already; `time` in microseconds.

    >>> rows_of("feedback", [{"time": 1, "source": "s", "label": None}], [7]).table.schema.names
    ['time', 'source']
    """
    arrays, present = [], []
    for name in {key: None for row in rows for key in row}:
        column = names.column(stream, name)
        values = [row.get(name) for row in rows]
        if column is not None and any(v is not None for v in values):
            present.append(name)
            arrays.append(pa.array(values, column.type or pa.infer_type(values)))
    if not arrays:
        arrays, present = [pa.nulls(len(rows), names.TIME)], ["time"]
    return Rows(stream, pa.RecordBatch.from_arrays(arrays, names=present), np.array(offsets, np.int64))


class Gathered:
    """Rows by stream, as a decoder finds them; those of a record that fails half-way are taken back."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.offsets: dict[str, list[int]] = {}
        self._marks: dict[str, int] = {}

    def mark(self) -> None:
        """A record begins."""
        self._marks = {stream: len(rows) for stream, rows in self.rows.items()}

    def take_back(self) -> None:
        """The record failed: forget its rows."""
        for stream, rows in self.rows.items():
            del rows[self._marks.get(stream, 0) :], self.offsets[stream][self._marks.get(stream, 0) :]

    def add(self, stream: str, row: dict[str, Any], offset: int) -> None:
        """A row of the record at that offset."""
        self.rows.setdefault(stream, []).append(row)
        self.offsets.setdefault(stream, []).append(offset)

    def done(self) -> list[Rows]:
        """All of it."""
        return [rows_of(stream, rows, self.offsets[stream]) for stream, rows in self.rows.items() if rows]
