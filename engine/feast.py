"""Feast saved datasets as references: Parquet with `event_timestamp`, entity keys, and a column per feature."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

TIME, CREATED = "event_timestamp", ("created", "created_timestamp")


@contextmanager
def canonical(inputs: Sequence[Path], model: str) -> Iterator[list[Path]]:
    """The files as rows of the `inference` stream, for as long as the context lasts. Files that have `time` are as they should be already.

    A saved dataset's columns become `feature.NAME`; `model` says whose they are. Raises ValueError naming the file when it is a saved
    dataset and no model is given.
    """
    with tempfile.TemporaryDirectory() as folder:
        yield [converted(path, model, Path(folder) / f"{i}-{path.stem}.parquet") for i, path in enumerate(inputs)]


def converted(path: Path, model: str, to: Path) -> Path:
    """The path itself, or that of its canonical copy."""
    if not (path.is_dir() or path.suffix == ".parquet"):
        return path
    dataset = ds.dataset(path, format="parquet")
    columns = dataset.schema.names
    if "time" in columns or TIME not in columns:
        return path
    if not model:
        raise ValueError(f"{path}: a Feast saved dataset (it has {TIME}); --model says whose features these are")
    table = dataset.to_table().sort_by(TIME)
    n = table.num_rows
    out = {
        "time": table[TIME].cast(pa.timestamp("us", tz="UTC")),
        "principal": pa.array(["feast"] * n).dictionary_encode(),
        "model": pa.array([model] * n).dictionary_encode(),
    }
    for name in columns:
        if name != TIME and name not in CREATED and usable(table.schema.field(name).type):
            column = table[name]
            out[f"feature.{name}"] = column if text(column.type) else column.cast(pa.float32(), safe=False)
    pq.write_table(pa.table(out), to)
    return to


def usable(kind: pa.DataType) -> bool:
    """Whether drift can follow a column of this type."""
    return text(kind) or pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)


def text(kind: pa.DataType) -> bool:
    """Whether a column holds categories."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
