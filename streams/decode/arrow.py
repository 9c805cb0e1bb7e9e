"""Arrow IPC: a stream or a file in each record, with the stream's canonical columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from streams import names
from streams.decode.format import Format, reject, reject_all
from streams.records import Decoded, RawBatch, Rows

STREAM_KEY = b"telltale.stream"


def decode(raw: RawBatch, index: np.ndarray, fmt: Format, stream: str | None) -> Decoded:
    """Rows of every record batch in every record, without copying. The schema's metadata `telltale.stream` may name the stream.

    Columns that the stream does not have are dropped. Rejects: `arrow` (not readable, or its buffers contradict each other), `format`.
    """
    out = Decoded()
    for i in index.tolist():
        buffer = pa.py_buffer(raw.data)[int(raw.starts[i]) : int(raw.ends[i])]
        try:
            batches, named = read(buffer)
        except (pa.ArrowException, OSError, ValueError) as error:
            out.rejects.append(reject(raw, i, "arrow", str(error).splitlines()[0][:200]))
            continue
        kind = named or stream
        if kind not in names.STREAMS:
            detail = "the topic's stream is not configured" if kind is None else f"unknown stream {kind!r}"
            out.rejects += reject_all(raw, [i], "format", detail)
            continue
        for batch in batches:
            known = [f.name for f in batch.schema if names.column(kind, f.name) is not None]
            if batch.num_rows and known:
                out.rows.append(Rows(kind, batch.select(known), np.full(batch.num_rows, raw.offsets[i], np.int64)))
    out.rows = merged(out.rows)
    return out


def read(buffer: pa.Buffer) -> tuple[list[pa.RecordBatch], str | None]:
    """(record batches, stream named in the metadata); every buffer is checked, offsets and UTF-8 included."""
    if buffer.size >= 6 and buffer[:6].to_pybytes() == b"ARROW1":
        with pa.ipc.open_file(buffer) as file:
            schema, batches = file.schema, [file.get_batch(k) for k in range(file.num_record_batches)]
    else:
        with pa.ipc.open_stream(buffer) as reader:
            schema, batches = reader.schema, list(reader)
    if len(set(schema.names)) != len(schema.names):
        raise ValueError("a column name stands twice in the schema")
    for batch in batches:
        batch.validate(full=True)
    named = (schema.metadata or {}).get(STREAM_KEY)
    return batches, named.decode("ascii", "replace") if named else None


def merged(rows: list[Rows]) -> list[Rows]:
    """Neighbours of one stream with the same columns as one, so that many small records make one batch."""
    groups: list[list[Rows]] = []
    for item in rows:
        if groups and groups[-1][0].stream == item.stream and groups[-1][0].table.schema.equals(item.table.schema):
            groups[-1].append(item)
        else:
            groups.append([item])
    return [g[0] if len(g) == 1 else one(g) for g in groups]


def one(group: list[Rows]) -> Rows:
    """Rows of the same columns, concatenated (differing dictionaries are unified)."""
    table = pa.Table.from_batches([g.table for g in group]).unify_dictionaries().combine_chunks().to_batches()[0]
    return Rows(group[0].stream, table, np.concatenate([g.offsets for g in group]))
