"""Files, for backtests and baselines: Parquet, Arrow IPC, JSON lines (.gz and .zst as well), in event-time order, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from streams.records import Partition, RawBatch
from streams.sources.source import Change

ROWS = 32_768
RECORD_BYTES = 2 << 20
SORT_LIMIT_BYTES = 2 << 30
KINDS: Mapping[str, str] = {
    ".parquet": "arrow", ".pq": "arrow", ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow",
    ".jsonl": "json", ".ndjson": "json", ".json": "json",
}  # fmt: skip
"""Encoding of the records that a file of that suffix gives: tables travel as Arrow IPC, text as it is."""


class FileSource:
    """Some files, or folders of files, as one partition of one stream.

    Tables (Parquet, Arrow IPC) are merged by `time`, so files of several hosts over the same days come in one order; a table that is not
    in time order itself is sorted when it has less than 2 GiB. Each of their records is a chunk of rows; its offset is the number of
    its first row. JSON lines come file by file, the one with the smallest name first, each line a record with its line number as offset.

    Raises ValueError naming the file: unknown suffix, no column `time`, kinds mixed, too large to sort. Raises OSError where one can't
    be read.
    """

    def __init__(self, stream: str, inputs: Sequence[Path]):
        self.files = [f for path in inputs for f in expand(Path(path))]
        kinds = {KINDS.get(suffix(f), "") for f in self.files}
        if unknown := [f for f in self.files if suffix(f) not in KINDS]:
            raise ValueError(f"{unknown[0]}: unknown kind of file; known are {', '.join(KINDS)}")
        if len(kinds) != 1:
            raise ValueError(f"{inputs[0]}: tables and JSON lines can't be mixed" if kinds else "no input files")
        self._kind = kinds.pop()
        self.partitions = [Partition(stream)]
        self._records = self._tables() if self._kind == "arrow" else self._lines()
        self._position = 0
        self._skip_to = 0
        self._told = False
        self._on_assigned: Change = lambda partitions: None
        self._on_revoked: Change = lambda partitions: None

    def encoding(self, partition: Partition) -> str:
        """How the records are to be decoded."""
        return self._kind

    def on_change(self, assigned: Change, revoked: Change, lost: Change | None = None) -> None:
        """Whom to tell of the one partition: assigned at the first poll, revoked on closing."""
        self._on_assigned, self._on_revoked = assigned, revoked

    def poll(self, timeout_s: float, max_bytes: int) -> list[RawBatch]:
        """The next chunk; nothing when all has been read. A chunk is at most `ROWS` rows, or `max_bytes` of text, whatever is less."""
        if not self._told:
            self._told = True
            self._on_assigned(self.partitions)
        for raw in self._records:
            self._position = raw.resume_at
            if self._position > self._skip_to:
                return [raw]
        return []

    def pause(self) -> None:
        """Nothing comes unless it is polled for."""

    def resume(self) -> None:
        """Nothing comes unless it is polled for."""

    def seek(self, partition: Partition, offset: int) -> None:
        """Skip the chunks before that offset. Raises ValueError when they have been passed."""
        if offset < self._position:
            raise ValueError(f"{partition}: files are read forwards, offset {offset} has been passed")
        self._skip_to = offset

    def lag(self, partition: Partition) -> int | None:
        """Not known without reading on."""
        return None

    def caught_up(self, partition: Partition) -> bool:
        """Never: the end of a file is no silence."""
        return False

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Files keep no offsets."""

    lapsed = False

    def confirm(self) -> bool:
        """Nobody else can own them."""
        return True

    def close(self) -> None:
        """Give the partition back."""
        self._records = iter(())
        if self._told:
            self._told = False
            self._on_revoked(self.partitions)

    def _tables(self) -> Iterator[RawBatch]:
        row = 0
        for table in (part for whole in merged([chunks(f) for f in self.files]) for part in slices(whole)):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            value = memoryview(sink.getvalue())
            one = np.array([row], np.int64), np.array([-1], np.int64)
            row += table.num_rows
            yield RawBatch(self.partitions[0], value, np.array([0]), np.array([len(value)]), *one, next_offset=row)

    def _lines(self) -> Iterator[RawBatch]:
        line = 0
        for file in self.files:
            with pa.input_stream(str(file), compression="detect") as stream:
                rest = b""
                while block := stream.read(4 << 20):
                    text = rest + block
                    cut = text.rfind(b"\n") + 1
                    text, rest = text[:cut], text[cut:]
                    if cut:
                        yield (raw := lines(self.partitions[0], text, line))
                        line = raw.resume_at
                if rest:
                    yield (raw := lines(self.partitions[0], rest + b"\n", line))
                    line = raw.resume_at


def slices(table: pa.Table) -> Iterator[pa.Table]:
    """A chunk in parts of about 2 MiB, each a record (one row may be more): no reader refuses those as too large."""
    rows = max(1, int(table.num_rows * RECORD_BYTES / max(table.nbytes, 1)))
    for start in range(0, table.num_rows, rows):
        yield table.slice(start, rows)


def suffix(path: Path) -> str:
    """The suffix that says what a file holds, without that of its compression."""
    return (path.with_suffix("") if path.suffix in (".gz", ".zst") else path).suffix.lower()


def expand(path: Path) -> list[Path]:
    """The file, or the files of a folder whose suffix is known, by name. Raises FileNotFoundError."""
    if path.is_dir():
        return sorted(f for f in path.rglob("*") if f.is_file() and suffix(f) in KINDS)
    if not path.exists():
        raise FileNotFoundError(2, "no such file", str(path))
    return [path]


def lines(partition: Partition, text: bytes, first: int) -> RawBatch:
    """Each line as a record; `text` ends with a newline."""
    breaks = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n")).astype(np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), breaks[:-1] + 1])
    offsets = np.arange(first, first + len(breaks), dtype=np.int64)
    return RawBatch(partition, text, starts, breaks, offsets, np.full(len(breaks), -1, np.int64))


def chunks(path: Path) -> Iterator[pa.Table]:
    """The rows of a table in chunks, in time order. Raises ValueError or OSError naming the file."""
    try:
        if suffix(path) in (".parquet", ".pq"):
            yield from in_order(path, pq.ParquetFile(path).schema_arrow, lambda: parquet(path))
        else:
            yield from in_order(path, ipc(path)[0], lambda: iter(ipc(path)[1]))
    except pa.ArrowException as error:
        raise ValueError(f"{path}: {error}") from error


def parquet(path: Path) -> Iterator[pa.RecordBatch]:
    """Chunks of a Parquet file."""
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=ROWS)


def ipc(path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Schema and chunks of an Arrow IPC file or stream, mapped into memory."""
    source = pa.memory_map(str(path))
    try:
        file = pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        stream = pa.ipc.open_stream(source)
        return stream.schema, iter(stream)
    return file.schema, (file.get_batch(i) for i in range(file.num_record_batches))


def in_order(path: Path, schema: pa.Schema, read: Callable[[], Iterator[pa.RecordBatch]]) -> Iterator[pa.Table]:
    """Chunks as they stand when their times ascend; else all of them, sorted."""
    if "time" not in schema.names:
        raise ValueError(f"{path}: no column `time`")
    last, ascending, size = None, True, 0
    for batch in read():
        size += batch.nbytes
        times = times_of(batch)
        if len(times):
            ascending &= bool((np.diff(times) >= 0).all()) and (last is None or times[0] >= last)
            last = times[-1]
    if ascending:
        for batch in read():
            for start in range(0, batch.num_rows, ROWS):
                yield pa.Table.from_batches([batch.slice(start, ROWS)])
        return
    if size > SORT_LIMIT_BYTES:
        raise ValueError(f"{path}: not in time order, and with {size >> 20} MiB too large to be sorted here")
    table = pa.Table.from_batches(list(read()))
    table = table.take(pa.array(np.argsort(times_of(table), kind="stable")))
    for start in range(0, table.num_rows, ROWS):
        yield table.slice(start, ROWS)


def times_of(table: pa.RecordBatch | pa.Table) -> np.ndarray:
    """int64[n]: event times in the column's own unit, or microseconds for timestamps; a null counts as the beginning of time."""
    column = table.column("time")
    if pa.types.is_timestamp(column.type):
        column = pc.cast(pc.cast(column, pa.timestamp("us", column.type.tz), safe=False), pa.int64())
    elif not pa.types.is_integer(column.type):
        column = pc.cast(pc.cast(column, pa.timestamp("us", "UTC")), pa.int64())
    return column.fill_null(np.iinfo(np.int64).min).to_numpy()


def merged(files: Sequence[Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """Several files by time, with one chunk of each in memory; equal times in the order of the files.

    Step by step, all rows go out that are no later than the first of the chunks' ends: nothing earlier can follow.
    """
    held: dict[int, pa.Table] = {}
    waiting = dict(enumerate(files))
    while True:
        for k in [k for k in waiting if k not in held or not held[k].num_rows]:
            held.pop(k, None)
            if (table := next((t for t in waiting[k] if t.num_rows), None)) is None:
                del waiting[k]
            else:
                held[k] = table
        if not held:
            return
        if len(held) == 1:
            k = next(iter(held))
            yield held.pop(k)
            continue
        order = sorted(held)
        bound = min(int(times_of(held[k])[-1]) for k in order)
        ready = []
        for k in order:
            n = int(np.searchsorted(times_of(held[k]), bound, side="right"))
            ready.append(held[k].slice(0, n))
            held[k] = held[k].slice(n)
        table = pa.concat_tables(ready, promote_options="permissive")
        yield table.take(pa.array(np.argsort(times_of(table), kind="stable")))
