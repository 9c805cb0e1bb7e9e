"""Rows as dictionaries to typed columns."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from streams import names
from streams.decode.payload import settled
from streams.decode.points import Points
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


def in_order(parts: Sequence[Rows]) -> list[Rows]:
    """The same rows, those of each stream in the order of their records, so that it does not matter which way a record was read.

    Rows of one record stay as they come. Parts whose columns of one name can't be one column are left apart.
    """
    out: list[Rows] = []
    for stream in dict.fromkeys(part.stream for part in parts):
        group = [part for part in parts if part.stream == stream]
        ordered = all(a.offsets[-1] <= b.offsets[0] for a, b in itertools.pairwise(group))
        out += group if ordered else merged(group)
    return out


def merged(group: Sequence[Rows]) -> list[Rows]:
    """Parts of one stream as one, sorted by record; as they are where a column is text in one and a number in another."""
    kinds: dict[str, set[pa.DataType]] = {}
    for part in group:
        for field in part.table.schema:
            kinds.setdefault(field.name, set()).add(field.type)
    try:
        plain = [alike(part, {name for name, types in kinds.items() if len(types) > 1}) for part in group]
        table = pa.concat_tables(plain, promote_options="default").unify_dictionaries()
    except pa.ArrowException:
        return list(group)
    offsets = np.concatenate([part.offsets for part in group])
    order = np.argsort(offsets, kind="stable")
    (batch,) = table.take(pa.array(order)).combine_chunks().to_batches()
    return [Rows(group[0].stream, batch, offsets[order])]


def alike(part: Rows, differing: set[str]) -> pa.Table:
    """A part's columns, those that differ between parts as the registry has them. Raises ArrowException where a value does not fit."""
    columns = {}
    for name, column in zip(part.table.schema.names, part.table.columns, strict=True):
        known = names.column(part.stream, name)
        kind = known.type if known is not None and known.type is not None else pa.float32()
        columns[name] = column.cast(kind) if name in differing else column
    return pa.table(columns)


class Gathered:
    """Rows by stream, as a decoder finds them; those of a record that fails half-way are taken back."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.offsets: dict[str, list[int]] = {}
        self.points = Points()
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
        """All of it; a feature that is text in any row is text in all."""
        settled(self.rows.get("inference", []))
        return [rows_of(stream, rows, self.offsets[stream]) for stream, rows in self.rows.items() if rows] + self.points.done()
