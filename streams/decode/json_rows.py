"""JSON row by row: slower, and every row at fault is found and named. The other rows are kept."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from streams import names
from streams.decode.format import reject
from streams.records import Decoded, RawBatch, Reject, Rows

MICROSECONDS = pa.timestamp("us", tz="UTC")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def decode(raw: RawBatch, index: np.ndarray, stream: str) -> Decoded:
    """Rows of these records, and a reject for each that is not JSON, not an object, or has a value of the wrong type."""
    rejects: list[Reject] = []
    rows: list[dict[str, Any]] = []
    owners: list[int] = []
    sources: list[int] = []  # the row's number inside its record
    for i in index.tolist():
        for number, (value, problem) in enumerate(objects(raw.value(i))):
            if problem:
                rejects.append(reject(raw, i, "json", problem, number))
            else:
                rows.append(value)
                owners.append(i)
                sources.append(number)
    keep = np.ones(len(rows), np.bool_)
    columns: dict[str, pa.Array] = {}
    for name in {key: None for row in rows for key in row}:
        column = names.column(stream, name)
        if column is None:
            continue
        convert, kind = converter(column, rows)
        values: list[Any] = []
        for r, row in enumerate(rows):
            try:
                values.append(None if row.get(name) is None else convert(row[name]))
            except (ValueError, TypeError, OverflowError) as error:
                values.append(None)
                if keep[r]:
                    keep[r] = False
                    rejects.append(reject(raw, owners[r], "type", f"{name}: {error}", sources[r]))
        if any(v is not None for v in values):
            columns[name] = pa.array(values, kind)
    if not keep.any():
        return Decoded([], rejects)
    table = pa.RecordBatch.from_pydict(columns or {"time": pa.nulls(len(rows), MICROSECONDS)})
    mask = pa.array(keep)
    kept = [c.filter(mask) for c in table.columns]
    present = [k for k, c in enumerate(kept) if c.null_count < len(c)] or [0]
    table = pa.RecordBatch.from_arrays([kept[k] for k in present], names=[table.schema.names[k] for k in present])
    return Decoded([Rows(stream, table, raw.offsets[np.array(owners)[keep]])], rejects)


def objects(value: bytes) -> Iterator[tuple[Any, str]]:
    """(object, "") or (None, what is wrong) for each row of a record: the whole record, a list of objects, or a line each."""
    try:
        whole = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        lines = [line for line in value.split(b"\n") if line.strip()]
        if len(lines) == 1:
            yield lenient(lines[0], str(error))
            return
        for line in lines:
            try:
                yield as_object(orjson.loads(line))
            except orjson.JSONDecodeError as problem:
                yield lenient(line, str(problem))
        return
    for item in whole if isinstance(whole, list) else [whole]:
        yield as_object(item)


def lenient(line: bytes, problem: str) -> tuple[Any, str]:
    """One more try, for writers that put NaN and Infinity into JSON."""
    if b"NaN" in line or b"Inf" in line:
        try:
            return as_object(json.loads(line))
        except (ValueError, RecursionError):
            pass
    return None, f"not JSON: {problem}"


def as_object(value: Any) -> tuple[Any, str]:
    """The value, if it is an object."""
    return (value, "") if isinstance(value, dict) else (None, f"a {type(value).__name__}, not an object")


def converter(column: names.Column, rows: list[dict[str, Any]]) -> tuple[Callable[[Any], Any], pa.DataType]:
    """How a JSON value becomes one of the column. A feature column is text when its first value here is text."""
    kind = column.type
    if kind is None:
        first = next((row[column.name] for row in rows if row.get(column.name) is not None), 0.0)
        kind = pa.string() if isinstance(first, str) else pa.float32()
    if column.name == "time":
        return time_us, MICROSECONDS
    return of_type(kind), kind


def of_type(kind: pa.DataType) -> Callable[[Any], Any]:
    """The converter of one Arrow type. It raises ValueError saying what was expected."""
    if pa.types.is_list(kind):
        item = of_type(kind.value_type)
        return lambda value: [None if v is None else item(v) for v in expect(value, list, "a list")]
    if pa.types.is_boolean(kind):
        return lambda value: expect(value, bool, "true or false")
    if pa.types.is_float64(kind):
        return wide_number
    if pa.types.is_floating(kind):
        return number
    if pa.types.is_integer(kind):
        low = 0 if pa.types.is_unsigned_integer(kind) else -(1 << kind.bit_width - 1)
        high = (1 << kind.bit_width) - 1 + low
        return lambda value: integer(value, low, high)
    if pa.types.is_fixed_size_binary(kind):
        return lambda value: identifier(value, kind.byte_width)
    return lambda value: expect(value, str, "text")


def expect(value: Any, kind: type, what: str) -> Any:
    """The value, if it is of that Python type."""
    if not isinstance(value, kind):
        raise ValueError(f"expected {what}, got {shown(value)}")
    return value


def number(value: Any) -> float | None:
    """A float32 as Python's float; NaN, infinity and what float32 can't hold become null."""
    if not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {shown(value)}")
    with np.errstate(over="ignore"):
        narrow = float(np.float32(float(value)))
    return narrow if math.isfinite(narrow) else None


def wide_number(value: Any) -> float | None:
    """A float64; NaN and infinity become null."""
    if not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {shown(value)}")
    return float(value) if math.isfinite(value) else None


def integer(value: Any, low: int, high: int) -> int | None:
    """An integer within bounds; 3.0 is one."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or not low <= value <= high:
        raise ValueError(f"expected an integer from {low} to {high}, got {shown(value)}")
    return int(value)


def identifier(value: Any, width: int) -> bytes:
    """A trace or span id from hexadecimal text."""
    found = bytes.fromhex(expect(value, str, "hexadecimal text"))
    if len(found) != width:
        raise ValueError(f"expected {2 * width} hexadecimal digits, got {shown(value)}")
    return found


def time_us(value: Any) -> int:
    """Microseconds since the epoch, from an integer or RFC 3339 text."""
    if isinstance(value, str):
        try:
            return pa.array([value]).cast(MICROSECONDS).cast(pa.int64())[0].as_py()
        except pa.ArrowInvalid:
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                raise ValueError("expected RFC 3339 text, got other text") from None
            delta = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH
            return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    return integer(value, -(1 << 62), 1 << 62)  # type: ignore[return-value]


def shown(value: Any) -> str:
    """A short form for a message; text is not repeated, it may be somebody's content."""
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else repr(value)
