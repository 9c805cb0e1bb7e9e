"""State: named arrays over key tables. All that the engine remembers of a partition is here, so one file can hold it.

A key table gives each key (a device, a principal, a series) a slot. A detector declares arrays whose leading axes are tables;
the arrays grow with their tables, and a slot that is given up is reset to the array's fill value before it is used again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np

NEVER = np.iinfo(np.int64).min
EVICTED_AT_ONCE = 16
"""A full table gives up at least one of so many keys at once, so that looking for the oldest costs little per key."""
KEY_BYTES = 250
"""About what a key itself takes: its text, its place in the index and in the lists."""


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
    """Keys to slots, bounded. When it is full, keys make room: first those seen once, while they are at least half of all, and of those
    the ones seen longest ago; but never a protected (alarming) one. So a flood of new keys pushes itself out, not what comes again.

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
        self.again = np.zeros(0, np.bool_)  # seen in more than one call
        self.protected = protected if protected is not None else set()
        self.evicted = 0
        self.refused = 0

    def __len__(self) -> int:
        return len(self.keys)

    def slots(self, keys: Sequence[str], now_us: int, touched: list[int] | None = None) -> np.ndarray:
        """int32 slot of each key, new ones added; -1 where the table has no place left (each such key is counted in `refused`).

        Keys of this call are never evicted by this call. Slots that were evicted are appended to `touched`, to be reset.
        """
        out = np.fromiter(map(self.index.get, keys, repeat(-1)), np.int32, len(keys))
        known = out[out >= 0]
        self.last_us[known] = np.maximum(self.last_us[known], now_us)
        self.again[known] = True
        missing = np.flatnonzero(out < 0)
        if len(missing):
            wanted = [keys[i] for i in missing.tolist()]
            self._take(list(dict.fromkeys(wanted)), now_us, known, touched)
            out[missing] = np.fromiter(map(self.index.get, wanted, repeat(-1)), np.int32, len(wanted))
        return out

    def _take(self, new: list[str], now_us: int, in_use: np.ndarray, touched: list[int] | None) -> None:
        """Give slots to keys that have none, as far as they go."""
        short = len(new) - len(self.free) - max(0, self.limit - len(self.keys))
        if short > 0:
            evicted = self._evict(max(short, len(self.keys) // EVICTED_AT_ONCE), in_use)
            if touched is not None:
                touched.extend(evicted)
        reused = self.free[-len(new) :][::-1]
        del self.free[len(self.free) - len(reused) :]
        first = len(self.keys)
        added = range(first, first + max(0, min(len(new) - len(reused), self.limit - first)))
        for slot, key in zip(reused, new, strict=False):
            self.keys[slot] = key
        self.keys += new[len(reused) : len(reused) + len(added)]
        slots = [*reused, *added]
        self.index.update(zip(new, slots, strict=False))
        self.refused += len(new) - len(slots)
        if len(self.keys) > len(self.last_us):
            places = max(16, 2 * len(self.keys))
            self.last_us, self.again = grown(self.last_us, (places,), NEVER), grown(self.again, (places,), False)
        self.last_us[slots], self.again[slots] = now_us, False

    def _evict(self, wanted: int, in_use: np.ndarray) -> list[int]:
        """Give up so many of the keys that are neither protected nor in use now, or as many as there are."""
        n = len(self.keys)
        spared = np.zeros(n, np.bool_)
        spared[in_use] = True
        spared[self.free] = True
        spared[[self.index[key] for key in self.protected if key in self.index]] = True
        candidates = np.flatnonzero(~spared)
        once = candidates[~self.again[candidates]]
        if 2 * len(once) >= n:
            candidates = once
        if len(candidates) > wanted:
            last = self.last_us[candidates]
            limit = np.partition(last, wanted - 1)[wanted - 1]
            oldest, same = candidates[last < limit], candidates[last == limit]
            candidates = np.concatenate([oldest, same[: wanted - len(oldest)]])
        given: list[int] = candidates.tolist()
        self.release(given)
        self.evicted += len(given)
        return given

    def release(self, slots: Sequence[int]) -> None:
        """Free these slots; their arrays must be reset by the state (`State.release` does both)."""
        for slot in slots:
            del self.index[self.keys[slot]]
            self.keys[slot] = ""
        self.last_us[list(slots)] = NEVER
        self.free += slots


class State:
    """Tables, arrays and small records of one partition (or of the population). Everything in it is checkpointed.

    `arrays` holds the declared arrays and any free-form array a detector adds under its own name; `records` holds JSON-able data.
    """

    def __init__(self, limits: dict[str, int] | None = None):
        """`limits`: the most keys of each table by its name, `default` of all others; `bytes`: of arrays and keys together;
        `open_alerts`: see `Lifecycle`.

        Half of those bytes is shared as it is needed; the other half is set aside, in equal parts, for every table that leads arrays,
        so that a flood of one kind of key can't starve the others.
        """
        self.limits = limits or {}
        self.name = ""
        """Whose state it is, for people: the partition's name."""
        self.tables: dict[str, KeyTable] = {}
        self.room: dict[str, int] = {}
        """How many keys of a table are known to fit."""
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
        if "bytes" in self.limits and before + len(keys) > self.room.get(table, 0):
            self._bound(table, before + len(keys))
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
        """Bytes held in arrays, and about what keys take."""
        return sum(a.nbytes for a in self.arrays.values()) + KEY_BYTES * sum(len(t) for t in self.tables.values())

    def _bound(self, table: str, wanted: int) -> None:
        """Find out whether so many keys fit into the bytes allowed, and limit the table to what does."""
        key_table, most = self.table(table), self.limits.get(table, self.limits.get("default", 1_000_000))
        leading = {spec.dims[0] for spec in self.specs.values() if isinstance(spec.dims[0], str)}
        if table in leading:
            share = self.limits["bytes"] // (2 * len(leading))
            shared = self.limits["bytes"] // 2 - sum(a.nbytes for name, a in self.arrays.items() if name not in self.specs)
            shared -= sum(max(0, self._bytes(other, len(self.tables[other])) - share) for other in leading - {table})
            of_key = self._bytes(table, 1) // places_for(1, key_table.limit)
            most = min(most, max(16, int((share + max(0, shared)) // of_key)))
        else:
            while wanted > len(key_table):
                if sum(self._bytes(t, len(self.tables[t]), {table: wanted}) for t in leading) <= self.limits["bytes"]:
                    break
                wanted -= max(1, (wanted - len(key_table)) // 2)
            most = min(most, max(wanted, len(key_table)))
        key_table.limit = most
        self.room[table] = min(most, wanted)

    def _bytes(self, table: str, keys: int, sizes: dict[str, int] | None = None) -> int:
        """What arrays led by a table take for so many keys, whose places come in powers of two. `sizes`: of other tables, if others."""
        sizes = sizes or {}
        each = KEY_BYTES
        for spec in self.specs.values():
            if spec.dims[0] == table:
                rest = [sizes.get(d, len(self.tables[d])) if isinstance(d, str) else d for d in spec.dims[1:]]
                each += np.dtype(spec.dtype).itemsize * int(np.prod(rest, dtype=np.int64))
        return each * places_for(keys, self.tables[table].limit)

    def _shape(self, spec: ArraySpec) -> tuple[int, ...]:
        shape = []
        for axis, dim in enumerate(spec.dims):
            size = len(self.tables[dim]) if isinstance(dim, str) else dim
            if axis == 0 and isinstance(dim, str):
                size = max(size, places_for(size, self.tables[dim].limit))
            shape.append(size)
        return tuple(shape)

    def _fit(self, spec: ArraySpec) -> None:
        array, shape = self.arrays[spec.name], self._shape(spec)
        if any(have < need for have, need in zip(array.shape, shape, strict=True)):
            larger = tuple(max(have, need) for have, need in zip(array.shape, shape, strict=True))
            self.arrays[spec.name] = grown(array, larger, spec.fill)

    def _reset(self, table: str, slots: Sequence[int]) -> None:
        places = np.array(slots, np.int64)
        for spec in self.specs.values():
            for axis, dim in enumerate(spec.dims):
                if dim == table:
                    self.arrays[spec.name][(slice(None),) * axis + (places,)] = spec.fill


def places_for(keys: int, limit: int) -> int:
    """Places of a first axis for so many keys: the next power of two, 16 at least, and the limit at most.

    >>> places_for(5, 1000), places_for(17, 1000), places_for(700, 1000)
    (16, 32, 1000)
    """
    return min(max(16, 1 << max(0, keys - 1).bit_length()), limit)


def grown(array: np.ndarray, shape: tuple[int, ...], fill: float) -> np.ndarray:
    """A larger array with the old one in its corner."""
    out = np.full(shape, fill, array.dtype)
    out[tuple(slice(0, n) for n in array.shape)] = array
    return out
