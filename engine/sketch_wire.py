"""Sketches as bytes, for the topic on which the processes of a group add them: an Arrow stream, a row per sketch, in parts that any
broker takes.

Arrays go as they lie in memory, with their type and shape; texts as JSON. Who reads them checks every length, for the topic is an input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from engine.sketch import Sketch
from engine.state import NEVER
from streams.records import Headers, Message

FORMAT = 1
PART_BYTES = 512 << 10
"""Under what brokers take by default (1 MB), before any compression of theirs."""
OPEN_AT_ONCE = 4
KIND = "sketch"
ARRAY = pa.struct([("name", pa.string()), ("dtype", pa.string()), ("shape", pa.list_(pa.int64())), ("data", pa.large_binary())])
FIELDS = {"detector": pa.string(), "series": pa.string(), "texts": pa.binary(), "arrays": pa.list_(ARRAY)}
PLAIN = ("panes", "counts", "values", "value_panes", "column_panes", "cells")
COLUMN = "column:"
TEXTS = "text"
"""The type of an array of texts, which goes as JSON."""


@dataclass(frozen=True)
class Handed:
    """What a partition (`origin`) hands over: the sketches of the panes that it closed, all of those before `to_us` being closed now, those
    before `from_us` having been handed over before.

    `idle`: nobody needs to wait for it: it has nothing to give, or nothing that concerns the population.
    """

    origin: str
    to_us: int = NEVER
    idle: bool = False
    sketches: Sequence[Sketch] = ()
    from_us: int = NEVER


def messages(handed: Handed) -> list[Message]:
    """The same as messages. Ids follow from the origin and how far it has come, so that a replay repeats them."""
    data = packed(handed)
    parts = [data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)]
    name = f"{handed.origin}@{handed.to_us}{'~' if handed.idle else ''}"
    return [
        Message(f"{name}/{part}", KIND, handed.origin, value, (("sketch-part", f"{name} {part} {len(parts)}".encode()),))
        for part, value in enumerate(parts)
    ]


class Parts:
    """Puts together what came in parts. A few of one origin may be open at once: while an owner that was stopped sends on, its successor
    does too. What stays open is given up for what comes later."""

    def __init__(self) -> None:
        self.open: dict[str, dict[str, tuple[int, list[bytes]]]] = {}
        """By origin and handover: the offset of the first part, and the parts that have come."""

    def add(self, headers: Headers, value: bytes, offset: int) -> Handed | None:
        """One record; what it completes. Raises ValueError for one that is none of ours."""
        try:
            name, part, parts = dict(headers)["sketch-part"].decode().rsplit(" ", 2)
            number, count = int(part), int(parts)
        except (KeyError, ValueError) as error:
            raise ValueError("no header sketch-part that says which part of what this is") from error
        mine = self.open.setdefault(name.rpartition("@")[0], {})
        first, had = (offset, []) if number == 0 else mine.get(name, (offset, []))
        if number != len(had):  # its beginning was before we began to read, or it is sent again from the middle
            return None
        had.append(value)
        mine[name] = first, had
        if len(had) == count:
            del mine[name]
            return unpacked(b"".join(had))
        while len(mine) > OPEN_AT_ONCE:
            del mine[next(iter(mine))]
        return None

    def first_offset(self, otherwise: int) -> int:
        """From where on everything that is still open would be read again."""
        return min((first for mine in self.open.values() for first, _ in mine.values()), default=otherwise)


def packed(handed: Handed) -> bytes:
    """Compressed bytes of one handover."""
    about = {"format": FORMAT, "origin": handed.origin, "to_us": handed.to_us, "idle": handed.idle, "from_us": handed.from_us}
    schema = pa.schema(list(FIELDS.items()), {"telltale": orjson.dumps(about)})
    rows = [_row(sketch) for sketch in handed.sketches]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
    return sink.getvalue().to_pybytes()


def unpacked(data: bytes) -> Handed:
    """The reverse. Raises ValueError for bytes that are none of ours, or of another version."""
    try:
        with pa.ipc.open_stream(data) as reader:
            table = reader.read_all()
        about = orjson.loads(table.schema.metadata[b"telltale"])
        if about["format"] != FORMAT:
            raise ValueError(f"sketches of format {about['format']}, this version reads {FORMAT}")
        table.validate(full=True)
        sketches = [_sketch(row) for row in table.to_pylist()]
        return Handed(str(about["origin"]), int(about["to_us"]), bool(about["idle"]), sketches, int(about["from_us"]))
    except (KeyError, TypeError, OSError, OverflowError, pa.ArrowException) as error:
        raise ValueError(f"no sketches: {error!r}") from error


def _row(sketch: Sketch) -> dict[str, Any]:
    arrays = {name: getattr(sketch, name) for name in PLAIN} | {COLUMN + name: array for name, array in sketch.columns.items()}
    return {
        "detector": sketch.detector,
        "series": sketch.series,
        "texts": orjson.dumps({"names": sketch.names, "unseen": sketch.unseen, "basis": sketch.basis}),
        "arrays": [_stored(name, array) for name, array in arrays.items()],
    }


def _stored(name: str, array: np.ndarray) -> dict[str, Any]:
    if array.dtype == object:
        return {"name": name, "dtype": TEXTS, "shape": list(array.shape), "data": orjson.dumps(array.tolist())}
    return {"name": name, "dtype": array.dtype.str, "shape": list(array.shape), "data": np.ascontiguousarray(array).tobytes()}


def _sketch(row: dict[str, Any]) -> Sketch:
    texts: dict[str, Any] = orjson.loads(row["texts"])
    arrays = {one["name"]: _array(one) for one in row["arrays"]}
    columns = {name.removeprefix(COLUMN): array for name, array in arrays.items() if name.startswith(COLUMN)}
    plain = {name: arrays[name] for name in PLAIN}
    lengths = [len(plain["panes"]) == len(plain["counts"]), len(plain["value_panes"]) == len(plain["values"])]
    lengths += [len(column) == len(plain["column_panes"]) for column in columns.values()]
    if not all(lengths) or plain["cells"].ndim != 2 or plain["cells"].shape[1] != 3:
        raise ValueError(f"a sketch of {row['detector']} whose arrays do not fit together")
    return Sketch(row["detector"], row["series"], columns=columns, **(texts | plain))


def _array(stored: dict[str, Any]) -> np.ndarray:
    """A writable array. Raises ValueError when its bytes are not those of its shape."""
    shape = tuple(stored["shape"])
    if stored["dtype"] == TEXTS:
        texts = orjson.loads(stored["data"])
        if len(shape) != 1 or len(texts) != shape[0] or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{stored['name']}: not {shape} texts")
        return np.array([*texts, None], object)[:-1]
    dtype = np.dtype(stored["dtype"])
    if dtype.kind not in "iufb" or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(stored["data"]):
        raise ValueError(f"{stored['name']}: {len(stored['data'])} bytes are no {dtype} of {shape}")
    return np.frombuffer(stored["data"], dtype).reshape(shape).copy()
