"""Align: decoded rows to a checked, typed batch. What does not fit is rejected row by row, and no other row is lost.

The canonical columns, their types and which are required stand in `streams.names`; here they are enforced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from engine import tally
from engine.batch import SKETCH, Batch, vectors
from engine.state import NEVER, State
from kernels.countsketch import sketched
from streams import names
from streams.records import RawBatch, Reject, Rows

TIME = pa.timestamp("us", tz="UTC")
KEYS = frozenset({"tenant", "principal", "model"})
"""Columns whose distinct values are asked for of every batch."""


@dataclass(frozen=True)
class Checked(Rows):
    """Rows whose columns have their canonical types. `bad`: what is wrong with which row. `embeddings`: `Batch.vectors` and
    `Batch.sketches` of requests that have some."""

    bad: Mapping[int, tuple[str, str]]
    embeddings: tuple[np.ndarray | None, tuple[np.ndarray, np.ndarray] | None] | None = None


def checked(rows: Rows) -> Checked:
    """What of `align` needs no state, so that a thread can do it ahead."""
    table, bad = typed(rows)
    encoded = [i for i, field in enumerate(table.schema) if field.name in KEYS and pa.types.is_string(field.type)]
    for i in encoded:
        column = table.column(i).dictionary_encode()
        table = table.set_column(i, table.schema.field(i).with_type(column.type), column)
    embeddings = None
    if rows.stream == "inference" and "embedding" in table.schema.names and table.num_rows:
        whole = vectors(table.column("embedding"))
        embeddings = whole, None if whole is None else sketched(whole, SKETCH)
    return Checked(rows.stream, table, rows.offsets, bad, embeddings)


def align(rows: Rows, raw: RawBatch, state: State, future_us: int, lateness_us: int) -> tuple[Batch | None, list[Reject]]:
    """Cast to canonical types, check what is required, place rows in event time.

    A row is rejected when a value can't be cast, a required value is null, or its time is more than `future_us` after the record's
    own timestamp. A row older than the stream's watermark is late: it is kept, its time is moved up to the watermark, and the
    batch marks it. Advances the watermark, row by row, so that cutting rows into batches differently changes nothing; but not past
    the record's own timestamp, so a producer whose clock is ahead makes no other's rows late.
    """
    if not rows.table.num_rows:
        return None, []
    known = rows if isinstance(rows, Checked) else checked(rows)
    table, bad = known.table, dict(known.bad)
    time_us = table.column("time").cast(pa.int64())
    time_us = (time_us.fill_null(0) if time_us.null_count else time_us).to_numpy(zero_copy_only=False)
    same = rows.offsets is raw.offsets or np.array_equal(rows.offsets, raw.offsets)  # a row a record
    stamped = raw.timestamps_ms if same else raw.timestamps_ms[records_of(raw, rows)]
    ahead = (stamped >= 0) & (time_us > stamped * 1000 + future_us)
    if ahead.any():
        note(bad, np.flatnonzero(ahead), "time", f"time is more than {future_us / 1e6:g} s after the record was written")
    rejects = list(rejected(rows, raw, bad))
    offsets = rows.offsets
    if bad:
        keep = np.setdiff1d(np.arange(table.num_rows), np.fromiter(bad, np.int64, len(bad)))
        table, time_us, offsets, stamped = table.take(pa.array(keep)), time_us[keep], offsets[keep], stamped[keep]
        if not len(keep):
            return None, rejects
    before = state.watermarks.get(rows.stream, NEVER)
    reached = np.where(stamped >= 0, np.minimum(time_us, stamped * 1000 + 999), time_us)
    running = np.empty(len(reached) + 1, np.int64)
    tally.climbed(before, tally.plain(reached - lateness_us, np.int64), running)
    state.watermarks[rows.stream] = int(running[-1])
    bound = np.maximum(running[:-1], state.closed_us)
    late = time_us < bound
    batch = Batch(rows.stream, table, np.where(late, bound, time_us), offsets, late)
    if known.embeddings is not None and not bad:
        batch.embed("embedding", *known.embeddings)
    batch.lead_us = np.where(stamped >= 0, time_us - stamped * 1000, 0)
    batch.partition, batch.age_us = str(raw.partition), np.where(stamped >= 0, np.maximum(stamped * 1000 - time_us, 0), -1)
    return batch, rejects


def records_of(raw: RawBatch, rows: Rows) -> np.ndarray:
    """int64[rows]: the record of the batch that each row came from."""
    first = raw.offsets[0]
    if raw.offsets[-1] - first == len(raw) - 1:  # no gap
        return rows.offsets - first
    return np.searchsorted(raw.offsets, rows.offsets)


def typed(rows: Rows) -> tuple[pa.RecordBatch, dict[int, tuple[str, str]]]:
    """The rows with canonical types, and what is wrong with which row: {row: (reason, detail)}."""
    columns, fields, bad = [], [], {}  # type: ignore[var-annotated]
    schema = names.COLUMNS[rows.stream]
    for field, column in zip(rows.table.schema, rows.table.columns, strict=True):
        known = names.column(rows.stream, field.name)
        if known is None:
            continue
        if known.type is not None and not same_type(column.type, known.type):
            column, failed = cast(column, known.type)
            note(bad, failed, "type", f"{field.name}: not {known.type}")
        columns.append(column)
        fields.append(pa.field(field.name, column.type, metadata=field.metadata))
    present = {f.name for f in fields}
    for name, known in schema.items():
        if not known.required:
            continue
        if name not in present:
            note(bad, np.arange(rows.table.num_rows), "schema", f"{name} is missing")
            if name == "time":
                columns.append(pa.nulls(rows.table.num_rows, TIME))
                fields.append(pa.field("time", TIME))
        elif (column := columns[[f.name for f in fields].index(name)]).null_count:
            note(bad, np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)), "schema", f"{name} is null")
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields)), bad


def same_type(have: pa.DataType, want: pa.DataType) -> bool:
    """Whether a column can stay as it is: the type itself, or strings that a dictionary encodes or that have long offsets."""
    if pa.types.is_dictionary(have):
        return same_type(have.value_type, want)
    text = (pa.types.is_string, pa.types.is_large_string)
    return have == want or (any(t(have) for t in text) and any(t(want) for t in text))


def cast(column: pa.Array, to: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    """(column as `to`, rows that could not be cast and are null in it)."""
    try:
        whole = column.cast(to, safe=not pa.types.is_floating(to))
        whole.validate()  # of a view of lists Arrow makes one without its offsets
        return whole, np.empty(0, np.int64)
    except pa.ArrowException:
        pass  # some row is at fault: find out which
    values, failed = [], []
    for i, value in enumerate(column):
        try:
            values.append(value.cast(to, safe=not pa.types.is_floating(to)).as_py() if value.is_valid else None)
        except pa.ArrowException:
            values.append(None)
            failed.append(i)
    return pa.array(values, to), np.array(failed, np.int64)


def note(bad: dict[int, tuple[str, str]], index: np.ndarray, reason: str, detail: str) -> None:
    """Remember what is wrong with these rows; the first complaint about a row stands."""
    for i in index.tolist():
        bad.setdefault(i, (reason, detail))


def rejected(rows: Rows, raw: RawBatch, bad: dict[int, tuple[str, str]]) -> Iterator[Reject]:
    """Dead letters, with the original bytes of the record each row came from."""
    for i, (reason, detail) in sorted(bad.items()):
        offset = int(rows.offsets[i])
        first_row = int(np.searchsorted(rows.offsets, offset))
        record = int(np.searchsorted(raw.offsets, offset))
        yield Reject(raw.partition, offset, reason, f"{rows.stream} row {i - first_row}: {detail}", raw.value(record), i - first_row)
