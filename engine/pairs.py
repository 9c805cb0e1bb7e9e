"""Pairs: a request and its response that were logged apart, as one row of `inference`.

Rows with `part` (`request` or `response`) wait for the other half of their `request_id`. The row goes on when that comes, at its place
and time, with the time between as `duration_s`. What waited for `WAIT_US` of event time, or is crowded out, goes on alone. Those that
wait are state.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from engine.batch import Batch
from engine.state import State
from streams import names

WAIT_US = 60_000_000
MOST = 10_000
"""Halves that wait, of one partition; beyond it the oldest goes on alone."""
RECORDS = "pairs"


def joined(batch: Batch, state: State) -> Batch | None:
    """The batch with pairs in place of halves; None where nothing is left of it."""
    if batch.stream != "inference" or not ("part" in batch.columns or state.records.get(RECORDS)):
        return batch
    waiting: dict[str, list[Any]] = state.records.setdefault(RECORDS, {})
    rows: list[dict[str, Any]] = []
    source: list[int] = []
    for i, row in enumerate(batch.table.to_pylist()):
        now = int(batch.time_us[i])
        while waiting and ((oldest := next(iter(waiting.values())))[0] + WAIT_US < now or len(waiting) > MOST):
            del waiting[next(iter(waiting))]
            rows.append(oldest[2])
            source.append(i)
        part, key = row.pop("part", None), row.get("request_id")
        row.pop("time")
        if part is None or key is None:
            rows.append(row)
            source.append(i)
            continue
        other = waiting.get(key)
        if other is None or other[1] == part:
            waiting[key] = [now, part, {k: v for k, v in row.items() if v is not None and not isinstance(v, bytes)}]
            continue
        del waiting[key]
        given = other[2] | {k: v for k, v in row.items() if v is not None}
        asked = other[2] if part == "response" else row
        given["principal"] = asked.get("principal") or given["principal"]
        rows.append({"duration_s": abs(now - other[0]) / 1e6} | given)
        source.append(i)
    if not rows:
        return None
    columns: dict[str, pa.Array] = {}
    for name in {k: None for row in rows for k in row}:
        column = names.column("inference", name)
        values = [row.get(name) for row in rows]
        if column is None or column.type is None:
            text = any(isinstance(v, str) for v in values)
            kept = [None if v is None else str(v) if text else float(v) for v in values]
            columns[name] = pa.array(kept, pa.string() if text else pa.float32())
        else:
            columns[name] = pa.array(values, column.type)
    at = np.array(source, np.int64)
    columns["time"] = pa.array(batch.time_us[at]).cast(names.TIME)
    return Batch(batch.stream, pa.RecordBatch.from_pydict(columns), batch.time_us[at], batch.offsets[at], batch.late[at])
