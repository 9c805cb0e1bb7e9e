"""State: named arrays over key tables. All that the engine remembers of a partition is here, so one file can hold it.

A key table gives each key (a device, a principal, a series) a slot. A detector declares arrays whose leading axes are tables;
the arrays grow with their tables, and a slot that is given up is reset to the array's fill value before it is used again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NEVER = np.iinfo(np.int64).min


@dataclass(frozen=True)
class ArraySpec:
    """An array that a detector keeps. `dims`: a table's name, or a fixed length, for each axis; `fill`: the value of an unused slot.

    The first axis is over-allocated (it doubles); further table axes have exactly as many places as their table has keys, so that
    a kernel sees no padding.
    """

    name: str
    dtype: str
    dims: tuple[str | int, ...]
    fill: float = 0


class KeyTable:
    """Keys to slots, bounded. When it is full, the keys seen longest ago make room, but never a protected (alarming) one.

    >>> table = KeyTable("device", limit=2)
    >>> table.slots(["a", "b", "a"], now_us=1).tolist()
    [0, 1, 0]
    """

    def __init__(self, name: str, limit: int = 1_000_000, protected: set[str] | None = None):
        self.name = name
        self.limit = limit
        self.keys: list[str] = []  # slot -> key; "" where the slot is free
        self.index: dict[str, int] = {}
        self.free: list[int] = []
        self.last_us = np.full(0, NEVER, np.int64)
        self.protected = protected if protected is not None else set()
        self.evicted = 0
        self.refused = 0

    def __len__(self) -> int:
        return len(self.keys)

    def slots(self, keys: Sequence[str], now_us: int, touched: list[int] | None = None) -> np.ndarray:
        """int32 slot of each key, new ones added; -1 where the table is full of protected keys (counted in `refused`).

        Keys of this call are never evicted by this call. Slots that were evicted are appended to `touched`, to be reset.
        """
        out = np.empty(len(keys), np.int32)
        missing: list[int] = []
        for i, key in enumerate(keys):
            slot = self.index.get(key, -1)
            out[i] = slot
            if slot < 0:
                missing.append(i)
        known = out[out >= 0]
        self.last_us[known] = np.maximum(self.last_us[known], now_us)
        for i in missing:
            key = keys[i]
            slot = self.index.get(key, -1)
            if slot < 0:
                slot = self._take(key, now_us, keys, touched)
            out[i] = slot
        return out

    def _take(self, key: str, now_us: int, in_use: Sequence[str], touched: list[int] | None) -> int:
        if not self.free and len(self.keys) >= self.limit:
            evicted = self._evict(set(in_use))
            if touched is not None:
                touched.extend(evicted)
        if self.free:
            slot = self.free.pop()
            self.keys[slot] = key
        elif len(self.keys) < self.limit:
            slot = len(self.keys)
            self.keys.append(key)
            if slot >= len(self.last_us):
                self.last_us = grown(self.last_us, (max(16, 2 * slot),), NEVER)
        else:
            self.refused += 1
            return -1
        self.index[key] = slot
        self.last_us[slot] = now_us
        return slot

    def _evict(self, in_use: set[str]) -> list[int]:
        """Give up the oldest sixteenth, at least one, of what is neither protected nor in use now."""
        order = np.argsort(self.last_us[: len(self.keys)], kind="stable")
        wanted = max(1, len(self.keys) // 16)
        given: list[int] = []
        for slot in order.tolist():
            if self.keys[slot] not in self.protected and self.keys[slot] not in in_use:
                given.append(slot)
                if len(given) == wanted:
                    break
        self.release(given)
        self.evicted += len(given)
        return given

    def release(self, slots: Iterable[int]) -> None:
        """Free these slots; their arrays must be reset by the state (`State.release` does both)."""
        for slot in slots:
            del self.index[self.keys[slot]]
            self.keys[slot] = ""
            self.last_us[slot] = NEVER
            self.free.append(slot)


class State:
    """Tables, arrays and small records of one partition (or of the population). Everything in it is checkpointed.

    `arrays` holds the declared arrays and any free-form array a detector adds under its own name; `records` holds JSON-able data.
    """

    def __init__(self, limits: dict[str, int] | None = None):
        self.limits = limits or {}
        self.name = ""
        """Whose state it is, for people: the partition's name."""
        self.tables: dict[str, KeyTable] = {}
        self.specs: dict[str, ArraySpec] = {}
        self.arrays: dict[str, np.ndarray] = {}
        self.records: dict[str, Any] = {}
        self.watermarks: dict[str, int] = {}
        """Event time up to which each stream's rows have come, microseconds; an older row is late."""
        self.closed_us: int = NEVER
        """Event time up to which panes were handed to the population."""
        self.protected: set[str] = set()
        """Keys that are alarming, shared by all tables; the lifecycle of alerts keeps it."""
        self.pending: dict[str, list[Any]] = {}
        """What `observe` leaves for `judge` of the same batch; empty whenever a checkpoint is written."""

    def declare(self, specs: Iterable[ArraySpec]) -> None:
        """Make the arrays of a detector known; arrays restored from a checkpoint keep their contents."""
        for spec in specs:
            self.specs[spec.name] = spec
            for dim in spec.dims:
                if isinstance(dim, str):
                    self.table(dim)
            if spec.name not in self.arrays:
                self.arrays[spec.name] = np.full(self._shape(spec), spec.fill, spec.dtype)
            self._fit(spec)

    def table(self, name: str) -> KeyTable:
        """The key table of that name, made on first use."""
        if name not in self.tables:
            self.tables[name] = KeyTable(name, self.limits.get(name, self.limits.get("default", 1_000_000)), self.protected)
        return self.tables[name]

    def slots(self, table: str, keys: Sequence[str], now_us: int) -> np.ndarray:
        """int32 slot of each key; grows the arrays of the table, and resets those of slots that changed hands."""
        key_table = self.table(table)
        before = len(key_table)
        evicted: list[int] = []
        out = key_table.slots(keys, now_us, evicted)
        if evicted:
            self._reset(table, evicted)
        if len(key_table) != before:
            for spec in self.specs.values():
                if table in spec.dims:
                    self._fit(spec)
        return out

    def release(self, table: str, slots: Sequence[int]) -> None:
        """Give up slots and reset their array rows."""
        self.table(table).release(slots)
        self._reset(table, slots)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    @property
    def nbytes(self) -> int:
        """Bytes held in arrays."""
        return sum(a.nbytes for a in self.arrays.values())

    def _shape(self, spec: ArraySpec) -> tuple[int, ...]:
        shape = []
        for axis, dim in enumerate(spec.dims):
            size = len(self.tables[dim]) if isinstance(dim, str) else dim
            if axis == 0 and isinstance(dim, str):
                size = 16 if size <= 16 else 1 << (size - 1).bit_length()
                size = min(size, max(self.tables[dim].limit, len(self.tables[dim])))
            shape.append(size)
        return tuple(shape)

    def _fit(self, spec: ArraySpec) -> None:
        array, shape = self.arrays[spec.name], self._shape(spec)
        if any(have < need for have, need in zip(array.shape, shape, strict=True)):
            larger = tuple(max(have, need) for have, need in zip(array.shape, shape, strict=True))
            self.arrays[spec.name] = grown(array, larger, spec.fill)

    def _reset(self, table: str, slots: Sequence[int]) -> None:
        for spec in self.specs.values():
            for axis, dim in enumerate(spec.dims):
                if dim == table:
                    index = (slice(None),) * axis + (list(slots),)
                    self.arrays[spec.name][index] = spec.fill


def grown(array: np.ndarray, shape: tuple[int, ...], fill: float) -> np.ndarray:
    """A larger array with the old one in its corner."""
    out = np.full(shape, fill, array.dtype)
    out[tuple(slice(0, n) for n in array.shape)] = array
    return out
