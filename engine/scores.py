"""Score rows to a Parquet file: what every detector thought of every key, tick by tick, for whoever measures detection quality."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.finding import Scores

SCHEMA = pa.schema(
    [
        ("time", pa.timestamp("us", tz="UTC")),
        ("stream", pa.dictionary(pa.int32(), pa.string())),
        ("detector", pa.dictionary(pa.int32(), pa.string())),
        ("key", pa.dictionary(pa.int32(), pa.string())),
        ("score", pa.float64()),
        ("threshold", pa.float64()),
        ("alarm", pa.bool_()),
    ]
)


class ScoreLog(Protocol):
    """Where score rows go, when somebody wants them."""

    def write(self, scores: Sequence[Scores]) -> None: ...


class ScoreFile:
    """A context manager that appends score rows to one Parquet file."""

    def __init__(self, path: Path):
        self.path = path
        self.rows = 0

    def __enter__(self) -> ScoreFile:
        self._writer = pq.ParquetWriter(self.path, SCHEMA, compression="zstd")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._writer.close()

    def write(self, scores: Sequence[Scores]) -> None:
        """Append; rows stay in the order in which they were judged."""
        for s in scores:
            if not len(s.key):
                continue
            n = len(s.key)
            columns = [
                pa.array(s.time_us, pa.timestamp("us", tz="UTC")),
                constant(s.stream, n),
                constant(s.detector, n),
                pa.DictionaryArray.from_arrays(pa.array(s.key.astype(np.int32)), pa.array(list(s.keys), pa.string())),
                pa.array(s.score, pa.float64()),
                pa.array(s.threshold, pa.float64()),
                pa.array(s.alarm, pa.bool_()),
            ]
            self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
            self.rows += n


def constant(value: str, n: int) -> pa.DictionaryArray:
    """One value, `n` times."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([value]))
