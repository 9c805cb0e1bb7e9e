"""Files come in event-time order, in chunks, whatever order they are written in."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streams.decode import Format, decode
from streams.sources import FileSource
from streams.sources.files import ROWS


def times(source: FileSource) -> list[int]:
    """Event times of all rows, in the order they come."""
    found: list[int] = []
    while batches := source.poll(0.0, 1 << 20):
        for raw in batches:
            decoded = decode(raw, Format("hardware", source.encoding(raw.partition)))
            assert not decoded.rejects
            for rows in decoded.rows:
                found += rows.table.column("time").cast(pa.int64()).to_pylist()
    return found


def write(path: Path, at: np.ndarray) -> Path:
    pq.write_table(
        pa.table({"time": pa.array(at, pa.timestamp("us", "UTC")), "host": [path.stem] * len(at), "device": ["d"] * len(at)}), path
    )
    return path


def test_tables_are_merged_by_time(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", np.arange(0, 3 * ROWS, 2))
    write(tmp_path / "b.parquet", np.arange(1, 2 * ROWS, 2))
    write(tmp_path / "c.parquet", np.array([5 * ROWS, 7, 9]))  # out of order itself
    found = times(FileSource("hardware", [tmp_path]))
    assert found == sorted([*range(0, 3 * ROWS, 2), *range(1, 2 * ROWS, 2), 5 * ROWS, 7, 9])


def test_lines_are_records(tmp_path: Path) -> None:
    lines = b"".join(b'{"time": %d, "host": "h", "device": "d"}\n' % i for i in range(100))
    (tmp_path / "a.jsonl").write_bytes(lines[:-1])
    with gzip.open(tmp_path / "b.jsonl.gz", "wb") as file:
        file.write(lines)
    source = FileSource("hardware", [tmp_path])
    assert times(source) == [*range(100), *range(100)]
    source = FileSource("hardware", [tmp_path / "a.jsonl"])
    batches = [source.poll(0.0, 1 << 20)[0] for _ in range(2)]
    assert [o for raw in batches for o in raw.offsets.tolist()] == list(range(100))
    assert all(raw.value(i).endswith(b"}") for raw in batches for i in range(len(raw)))


def test_what_can_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.parquet"):
        FileSource("hardware", [tmp_path / "none.parquet"])
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match=r"a\.txt"):
        FileSource("hardware", [tmp_path / "a.txt"])
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match=r"a\.parquet"):
        times(FileSource("hardware", [tmp_path / "a.parquet"]))
    pq.write_table(pa.table({"x": [1]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="time"):
        times(FileSource("hardware", [tmp_path / "b.parquet"]))
