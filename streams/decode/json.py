"""JSON: an object a line, one or many lines a record, with the stream's canonical columns as keys.

Lines are scanned into columns (`json_scan`); those that the scan is not sure about go to Arrow's JSON reader with the registry's types,
so nothing is guessed; and those that do not fit them are read row by row (`json_rows`), which finds the ones at fault and says why. What
a faster way accepts, a slower way accepts with the same values.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as reader

from streams import names
from streams.decode import json_rows
from streams.decode.format import Format, reject_all
from streams.decode.json_names import TIME, columns_of
from streams.decode.json_scan import lines_in, scan
from streams.decode.lines import joined
from streams.decode.otlp_names import CONTENT, FLAG, LONG, SEED, TEXT
from streams.decode.room import MOST_ROWS, Room, built, cut, room_for, texts
from streams.decode.tables import in_order
from streams.records import Decoded, RawBatch, Reject, Rows

Family = tuple[tuple[str, bool], ...]

BLOCK_BYTES = 1 << 20
SAMPLES = 4
FEW = 32
FAMILY = re.compile(rb'"((?:feature|metric)\.[^"\\]{1,200})"\s*:\s*([^\sn])')
MICROSECONDS = pa.timestamp("us", tz="UTC")


class Misfit(Exception):
    """The block is not what the schema says; the slow way finds out where."""


def decode(raw: RawBatch, index: np.ndarray, fmt: Format, stream: str | None) -> Decoded:
    """Rows of one stream. `time` is RFC 3339 text (UTC where it names no zone; digits after the microsecond are cut off) or an integer,
    microseconds since the epoch. Keys that are no columns of the stream are ignored. NaN and infinity count as null.

    Rejects: `json` (not JSON, not an object), `type` (naming the field), `format` (nothing says which stream it is).
    """
    if stream not in names.STREAMS:
        detail = "the topic's stream is not configured" if stream is None else f"unknown stream {stream!r}"
        return Decoded([], reject_all(raw, index, "format", detail))
    family, out = sampled_family(raw, index, stream), Decoded()
    counts = np.zeros(len(index), np.int64)
    lines_in(np.frombuffer(raw.data, np.uint8), raw.starts, raw.ends, index, counts)
    for part, most in cut(index, counts):
        if most <= MOST_ROWS:
            found, odd = scanned(raw, part, stream, family, most)
        else:
            found, odd = [], np.stack([part, raw.starts[part], raw.ends[part]], axis=1)
        if len(odd):
            rest = left_over(raw, odd, stream)
            found = in_order(found + rest.rows)
            out.rejects += rest.rejects
        for rows in found:
            record = np.searchsorted(raw.starts, rows.offsets, side="right") - 1
            out.rows.append(Rows(stream, rows.table, raw.offsets[record]))
    return out


def scanned(raw: RawBatch, index: np.ndarray, stream: str, family: Family, most: int) -> tuple[list[Rows], np.ndarray]:
    """Rows by the scan, their `offsets` where each begins in `raw.data`, and int64[n, 3] (record, start, stop) what it leaves: lines, or
    whole records."""
    known, data = columns_of(stream, family), np.frombuffer(raw.data, np.uint8)
    count, room = len(known.names), room_for(most, len(known.names))
    begins, odd = np.empty(most, np.int64), np.empty((most + len(index), 3), np.int64)
    pool = known.pool.ctypes.data - data.ctypes.data
    n, left = scan(
        data, raw.starts, raw.ends, index, pool, known.places, known.prefixes, known.slots, known.holds, SEED,
        np.zeros(count + 1, np.int64), np.zeros(count, np.int64), room.dictionary, room.tables, room.firsts, room.narrow,
        room.narrow.view(np.float32), room.contents, room.valid, begins, odd,
    )  # fmt: skip
    columns: dict[str, pa.Array] = {}
    for c, (name, kind) in enumerate(zip(known.names, known.types, strict=True)):
        if n and room.valid[c, :n].any():
            columns[name] = column_of(room, data, c, int(known.holds[c]), kind, n)
    if n and not columns:
        columns["time"] = pa.nulls(n, MICROSECONDS)
    return [Rows(stream, pa.RecordBatch.from_pydict(columns), begins[:n])] if n else [], odd[:left]


def column_of(room: Room, data: np.ndarray, c: int, holds: int, kind: pa.DataType, n: int) -> pa.Array:
    """A column that the scan filled."""
    if holds == TEXT:
        return room.codes(data, c, n)
    if holds == FLAG:
        return room.flags(c, n)
    if holds == CONTENT:
        return texts(data, room.contents[c, :n], room.valid[c, :n], kind)
    return built(kind, room.contents[c, :n, 0] if holds in (LONG, TIME) else room.narrow[c, :n], room.valid[c, :n])


def left_over(raw: RawBatch, odd: np.ndarray, stream: str) -> Decoded:
    """What the scan left, by the slower ways, its rows' `offsets` as the scan's. A line at fault costs few others the faster one."""
    lines = replace(raw, starts=odd[:, 1], ends=odd[:, 2], offsets=np.arange(len(odd)), timestamps_ms=raw.timestamps_ms[odd[:, 0]])
    found = by_reader(lines, np.arange(len(odd)), stream)
    rows = [Rows(part.stream, part.table, odd[part.offsets, 1]) for part in found.rows]
    return Decoded(rows, [in_record(raw, odd[reject.offset], reject) for reject in found.rejects])


def in_record(raw: RawBatch, place: np.ndarray, found: Reject) -> Reject:
    """A reject of a line as one of its record."""
    record, start, _ = place.tolist()
    before = bytes(raw.data[int(raw.starts[record]) : start])
    row = found.row + sum(bool(line.strip()) for line in before.split(b"\n"))
    return Reject(raw.partition, int(raw.offsets[record]), found.reason, found.detail, raw.value(record), row)


def by_reader(raw: RawBatch, index: np.ndarray, stream: str) -> Decoded:
    """Rows by Arrow's reader; where it can't, by halves, and at last row by row."""
    text, owner = joined(raw.data, raw.starts, raw.ends, index)
    if owner is not None:
        try:
            return Decoded([Rows(stream, parse(text, owner, stream), raw.offsets[owner])])
        except Misfit:
            pass  # some row is at fault
    if len(index) <= FEW:
        return json_rows.decode(raw, index, stream)
    half = len(index) // 2
    one, other = by_reader(raw, index[:half], stream), by_reader(raw, index[half:], stream)
    return Decoded(one.rows + other.rows, one.rejects + other.rejects)


def sampled_family(raw: RawBatch, index: np.ndarray, stream: str) -> Family:
    """Members of the stream's families that a few records have, and whether each is text."""
    prefixes, found = tuple(names.FAMILIES.get(stream, {})), dict[str, bool]()
    for k in range(SAMPLES if prefixes and len(index) else 0):
        record = index[len(index) * k // SAMPLES]
        start = int(raw.starts[record])
        line = bytes(raw.data[start : min(int(raw.ends[record]), start + BLOCK_BYTES)]).lstrip().split(b"\n", 1)[0]
        if not any(prefix.encode() in line for prefix in prefixes):
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue  # whoever reads it says what is wrong
        for key, value in row.items() if isinstance(row, dict) else ():
            if key.startswith(prefixes) and names.column(stream, key) is not None and value is not None:
                found.setdefault(key, isinstance(value, str) and stream != "hardware")
    return tuple(sorted(found.items()))


def parse(text: np.ndarray, owner: np.ndarray, stream: str) -> pa.RecordBatch:
    """All lines at once. Raises Misfit when any line is not what the samples, or the registry, make one expect."""
    block = max(BLOCK_BYTES, 2 * longest(text, owner))
    seen = sampled(text, stream)
    whole = pa.py_buffer(text)
    try:
        table = read(whole, pa.schema(list(seen.items())), "error", block)
    except pa.ArrowException:
        try:
            table = read(whole, everything(text, stream, seen), "ignore", block)
        except pa.ArrowException as error:
            raise Misfit from error
    if table.num_rows != len(owner) or not is_utf8(whole):
        raise Misfit
    return canonical(table, stream)


def read(text: pa.Buffer, schema: pa.Schema, unexpected: str, block: int) -> pa.Table:
    """Arrow's reader with a fixed schema."""
    parse_options = reader.ParseOptions(explicit_schema=schema, unexpected_field_behavior=unexpected)
    return reader.read_json(pa.BufferReader(text), read_options=reader.ReadOptions(block_size=block), parse_options=parse_options)


def sampled(text: np.ndarray, stream: str) -> dict[str, pa.DataType]:
    """Types of the keys that a few lines have. Raises Misfit when a sample is no object or has a key we can't type."""
    fields: dict[str, pa.DataType] = {}
    for k in range(SAMPLES):
        position = len(text) * k // SAMPLES
        line = bytes(text[position : position + BLOCK_BYTES]) if k == 0 else after_newline(text, position)
        try:
            row = orjson.loads(line.split(b"\n", 1)[0])
        except orjson.JSONDecodeError as error:
            raise Misfit from error
        for key, value in row.items():
            if key not in fields and (kind := wire_type(stream, key, value)) is not None:
                fields[key] = kind
    return fields


def after_newline(text: np.ndarray, position: int) -> bytes:
    """The text after the next newline, as far as a line may go; the first line's when there is none."""
    piece = bytes(text[position : position + 2 * BLOCK_BYTES])
    rest = piece.split(b"\n", 1)
    return rest[1] if len(rest) == 2 and b"\n" in rest[1] else bytes(text[: 2 * BLOCK_BYTES])


def wire_type(stream: str, key: str, value: object) -> pa.DataType | None:
    """The type that Arrow is to read a key as: the canonical one as it stands in JSON; a guess for keys that will be dropped."""
    column = names.column(stream, key)
    if column is None or column.type is None:
        if isinstance(value, bool):
            return pa.bool_()
        return pa.float64() if isinstance(value, int | float) else pa.string() if isinstance(value, str) else None
    if key == "time":
        return pa.int64() if isinstance(value, int) else MICROSECONDS
    return in_json(column.type)


def in_json(kind: pa.DataType) -> pa.DataType:
    """float32 is read as float64 first (one rounding, as in the slow way); binary ids are hexadecimal text."""
    if pa.types.is_float32(kind):
        return pa.float64()
    if pa.types.is_list(kind) and pa.types.is_float32(kind.value_type):
        return pa.list_(pa.float64())
    return pa.string() if pa.types.is_fixed_size_binary(kind) else kind


def everything(text: np.ndarray, stream: str, seen: dict[str, pa.DataType]) -> pa.Schema:
    """All columns of the stream, and the family columns whose names stand in the text."""
    fields = {name: in_json(column.type) for name, column in names.COLUMNS[stream].items() if column.type is not None}
    fields["time"] = seen.get("time", MICROSECONDS)
    for key, first in FAMILY.findall(text.tobytes()):
        name = key.decode("utf-8", "replace")
        if name not in fields and names.column(stream, name) is not None:
            guess: object = "" if first == b'"' else first in b"tf" or 0.0
            fields[name] = wire_type(stream, name, guess) or pa.float64()
    return pa.schema(list(fields.items()))


def canonical(table: pa.Table, stream: str) -> pa.RecordBatch:
    """The stream's columns with their types; columns that hold nothing are left out. Raises Misfit on ids that are not hexadecimal."""
    columns, fields = [], []
    for field, chunks in zip(table.schema, table.columns, strict=True):
        column = names.column(stream, field.name)
        if column is None or chunks.null_count == len(chunks):
            continue
        array = pa.concat_arrays(chunks.chunks) if chunks.num_chunks != 1 else chunks.chunk(0)
        want = column.type or (field.type if pa.types.is_string(field.type) else pa.float32())
        array = converted(array, want)
        columns.append(array)
        fields.append(pa.field(field.name, array.type))
    if not columns:
        return pa.RecordBatch.from_arrays([pa.nulls(table.num_rows, MICROSECONDS)], names=["time"])
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def converted(array: pa.Array, want: pa.DataType) -> pa.Array:
    """From the type in JSON to the canonical one."""
    if pa.types.is_floating(want):
        array = array.cast(want, safe=False)
        return pc.if_else(pc.is_finite(array), array, pa.scalar(None, want))
    if array.type == want:
        return array
    if pa.types.is_fixed_size_binary(want):
        return unhex(array, want)
    return array.cast(want, safe=False)


def unhex(array: pa.Array, want: pa.DataType) -> pa.Array:
    """Hexadecimal text to bytes. Raises Misfit where it is not that, or not of the right length."""
    try:
        return pa.array([None if v is None else bytes.fromhex(v) for v in array.to_pylist()], want)
    except (ValueError, pa.ArrowInvalid) as error:
        raise Misfit from error


def longest(text: np.ndarray, owner: np.ndarray) -> int:
    """An upper bound of the longest line, bytes."""
    if len(text) <= BLOCK_BYTES or len(owner) < 2:
        return len(text)
    breaks = np.flatnonzero(text == ord("\n"))
    return int(np.diff(breaks, prepend=-1).max())


def is_utf8(text: pa.Buffer) -> bool:
    """Whether the whole text is UTF-8 (Arrow's reader does not ask)."""
    offsets = pa.py_buffer(np.array([0, text.size], np.int64))
    try:
        pa.Array.from_buffers(pa.large_string(), 1, [None, offsets, text]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True
