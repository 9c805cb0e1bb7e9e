"""A batch: rows of one stream, checked and typed, as the detectors see them. Columns become NumPy views when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine import tally
from engine.state import State
from kernels.countsketch import sketched
from streams.names import SPARSE

T = TypeVar("T")
KEY_CHARACTERS = 256
SKETCH = 256
"""Coordinates that a vector's sketch has at most."""


def bounded(key: str) -> str:
    """The key, or of one that is too long its beginning and a digest: keys are kept, and what is kept is bounded.

    >>> bounded("h1/gpu0"), len(bounded("x" * 10_000))
    ('h1/gpu0', 256)
    """
    if len(key) <= KEY_CHARACTERS:
        return key
    digest = hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=16).hexdigest()
    return f"{key[: KEY_CHARACTERS - 1 - len(digest)]}~{digest}"


def distinct(codes: np.ndarray, values: int) -> tuple[np.ndarray, np.ndarray]:
    """(the distinct ones of codes under `values`, in order; the position of each row's among them). Without sorting, where there are no
    more values than a few times the rows.

    >>> distinct(np.array([3, 1, 3]), 5)[0].tolist(), distinct(np.array([3, 1, 3]), 5)[1].tolist()
    ([1, 3], [1, 0, 1])
    """
    if values > 4 * len(codes):
        unique, inverse = np.unique(codes, return_inverse=True)
        return unique, inverse
    of_row = np.empty(len(codes), np.int64)
    return tally.ranks(tally.plain(codes, np.int64), np.full(values, -1, np.int64), of_row), of_row


def vectors(column: pa.Array) -> np.ndarray | None:
    """As `Batch.vectors`."""
    if pa.types.is_fixed_size_list(column.type) and len(column) and not column.null_count and column.type.list_size:
        out = column.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
    else:
        if pa.types.is_fixed_size_list(column.type):
            column = column.cast(pa.list_(column.type.value_type))
        lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        if not (lengths > 0).any():
            return None
        width = int(np.bincount(lengths[lengths > 0]).argmax())
        fits = lengths == width
        if fits.all():
            out = column.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False).reshape(-1, width)
        else:
            out = np.full((len(column), width), np.nan, np.float32)
            out[fits] = column.filter(pa.array(fits)).flatten().cast(pa.float32()).to_numpy(zero_copy_only=False).reshape(-1, width)
    out.flags.writeable = False  # of either kind: kernels are compiled once
    return out


class Batch:
    """Rows of one stream in the order of their partition.

    `time_us`: int64[n] event time, microseconds. `offsets`: int64[n] record of each row. `late`: bool[n], rows that came after
    their time's panes were closed: per-key detectors may use them, windows over event time must not. `arrived`: bool[n] of columns that
    were made of others, whether those came (a rate needs two values of a counter, a mean something to be the mean of).
    `partition`: where the rows came from; `age_us`: int64[n], how long after its time a row was written, -1 where that is not known;
    `lead_us`: int64[n], how far a row's time lies after its record was written (mostly negative), 0 where that is not known.
    """

    def __init__(
        self, stream: str, table: pa.RecordBatch, time_us: np.ndarray, offsets: np.ndarray, late: np.ndarray | None = None,
        arrived: Mapping[str, np.ndarray] | None = None,
    ):  # fmt: skip
        self.stream = stream
        self.table = table
        self.time_us = time_us
        self.offsets = offsets
        self.late = np.zeros(len(time_us), np.bool_) if late is None else late
        self.arrived = arrived or {}
        self.partition = ""
        self.age_us = np.full(len(time_us), -1, np.int64)
        self.lead_us = np.zeros(len(time_us), np.int64)
        self._codes: dict[str, tuple[np.ndarray, list[str | None]]] = {}
        self._floats: dict[str, np.ndarray] = {}
        self._once: dict[str, Any] = {}
        self._vectors: dict[str, np.ndarray | None] = {}
        self._sketches: dict[str, tuple[np.ndarray, np.ndarray] | None] = {}
        self._keys: dict[tuple[tuple[str, ...], str], tuple[np.ndarray, list[str]]] = {}

    def __len__(self) -> int:
        return len(self.time_us)

    @cached_property
    def record_rows(self) -> np.ndarray:
        """int64[n]: each row's number among the rows of its record."""
        if (self.offsets[1:] > self.offsets[:-1]).all():
            return np.zeros(len(self), np.int64)
        return np.arange(len(self)) - np.searchsorted(self.offsets, self.offsets)

    @cached_property
    def columns(self) -> frozenset[str]:
        """Names of the columns that are present."""
        return frozenset(self.table.schema.names)

    def floats(self, name: str) -> np.ndarray:
        """float32[n], NaN where null; booleans are 0 and 1. Not to be written to: several ask for it."""
        if name not in self._floats:
            column = self.table.column(name)
            if column.type != pa.float32():
                column = pc.cast(column, pa.float32(), safe=False)
            self._floats[name] = tally.plain(column.to_numpy(zero_copy_only=False), np.float32)
        return self._floats[name]

    def doubles(self, name: str) -> np.ndarray:
        """float64[n], NaN where null."""
        return pc.cast(self.table.column(name), pa.float64(), safe=False).to_numpy(zero_copy_only=False)

    @cached_property
    def sparse(self) -> frozenset[str]:
        """Columns that come only when something happened: their silence is no news."""
        return frozenset(f.name for f in self.table.schema if f.metadata and SPARSE.items() <= f.metadata.items())

    def array(self, name: str) -> pa.Array:
        """The Arrow column itself (text, lists, embeddings)."""
        return self.table.column(name)

    def vectors(self, name: str) -> np.ndarray | None:
        """float32[n, d] of a column of lists, d the commonest length; NaN where null or of another length. None where all are null. Not to
        be written to: where no row is missing it is the column's own memory."""
        if name not in self._vectors:
            self._vectors[name] = vectors(self.table.column(name))
        return self._vectors[name]

    def embed(self, name: str, whole: np.ndarray | None, sketches: tuple[np.ndarray, np.ndarray] | None) -> None:
        """Know what `vectors` and `sketches` of a column are."""
        self._vectors[name], self._sketches[name] = whole, sketches

    def sketches(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """(float32[n, min(d, 256)], float64[n]): `vectors` sketched by `kernels.countsketch`, and their lengths, not finite where a row has
        no whole vector. None where `vectors` are."""
        if name not in self._sketches:
            whole = self.vectors(name)
            self._sketches[name] = None if whole is None else sketched(whole, SKETCH)
        return self._sketches[name]

    def codes(self, name: str) -> tuple[np.ndarray, list[str | None]]:
        """(int32[n], values): each row's position in the list of distinct values; a null is a value of its own (None), if there is one."""
        if name not in self._codes:
            column = self.table.column(name)
            if not pa.types.is_dictionary(column.type):
                column = column.dictionary_encode()
            values = column.dictionary.to_pylist()
            indices = column.indices.fill_null(len(values)) if column.null_count else column.indices
            codes = indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
            if column.null_count:
                values.append(None)
            self._codes[name] = codes, values
        return self._codes[name]

    def keys(self, names: Sequence[str], join: str = "/") -> tuple[np.ndarray, list[str]]:
        """(int32[n], keys): each row's position in the list of distinct joined keys, e.g. `host/device`.

        Columns that are absent or null are left out of the key; `tenant` stands before it when the rows carry one.
        """
        named = tuple(names), join
        if named not in self._keys:
            self._keys[named] = self._joined(names, join)
        return self._keys[named]

    def _joined(self, names: Sequence[str], join: str) -> tuple[np.ndarray, list[str]]:
        parts = [n for n in ("tenant", *names) if n in self.columns]
        if len(parts) == 1 and None not in self.codes(parts[0])[1]:
            codes, values = self.codes(parts[0])
            texts = [str(v) or "-" for v in values]
            return codes, texts if max(map(len, texts), default=0) <= KEY_CHARACTERS else [bounded(word) for word in texts]
        combined, most = np.zeros(len(self), np.int64), 1
        for name in parts:
            codes, values = self.codes(name)
            combined = combined * max(1, len(values)) + codes
            most *= max(1, len(values))
        unique, inverse = distinct(combined, most)
        keys = []
        for value in unique.tolist():
            words: list[str] = []
            for name in reversed(parts):
                values = self.codes(name)[1]
                value, code = divmod(value, max(1, len(values)))
                if values[code] is not None:
                    words.append(str(values[code]))
            keys.append(bounded(join.join(reversed(words))) or "-")
        return inverse.astype(np.int32), keys

    def slots(self, state: State, table: str, names: Sequence[str]) -> np.ndarray:
        """int32[n]: the state slot of each row's key (-1: the table is full)."""
        if not len(self):
            return np.empty(0, np.int32)
        codes, keys = self.keys(names)
        of_key = state.slots(table, keys, int(self.time_us.max()))
        return of_key[codes]

    def once(self, name: str, make: Callable[[Batch], T]) -> T:
        """What `make` makes of this batch, for several that ask for it under this name."""
        if name not in self._once:
            self._once[name] = make(self)
        made: T = self._once[name]
        return made

    def take(self, index: np.ndarray) -> Batch:
        """The rows at these positions."""
        arrived = {name: where[index] for name, where in self.arrived.items()}
        out = Batch(self.stream, self.table.take(pa.array(index)), self.time_us[index], self.offsets[index], self.late[index], arrived)
        out.record_rows = self.record_rows[index]
        return out
