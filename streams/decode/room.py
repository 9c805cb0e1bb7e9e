"""Memory that a scan writes columns to, used again and again: fresh memory would cost a fifth of the scan; and from there to Arrow."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pyarrow as pa

from streams.decode.wire import compiled, copied

MOST_ROWS = 1 << 16
"""Of one scan; what holds more is scanned in parts."""
LEAST_PLACES = 256
"""Of a hash table."""
ROOMS = threading.local()


class Room:
    """Columns of at most `rows` rows. Texts are numbers into a dictionary that is a hash table while the scan goes on.

    Columns do not begin at multiples of a power of two: those would share cache lines.
    """

    def __init__(self, rows: int, columns: int, flags: int):
        self.rows = rows
        self.dictionary = np.zeros((columns, 4), np.int64)  # last, distinct, mask, distinct before the record
        self.tables = np.empty((columns, max(LEAST_PLACES, 1 << int(2 * rows + 2).bit_length())), np.int64)
        self.firsts = np.empty((columns, rows, 2), np.int64)  # where each distinct text lies
        self.narrow = np.empty((columns, rows), np.int32)  # numbers of texts, whole numbers, flags; floats in the same place
        self.contents = np.empty((columns, rows, 2), np.int64)  # where each content lies; whole numbers of 64 bits
        self.valid = np.empty((columns + flags, rows), np.uint8)

    def empty(self, rows: int) -> None:
        """Forget what a scan of at most so many rows left."""
        emptied(self.dictionary, self.tables)
        self.valid[:, :rows] = 0

    def distinct(self, data: np.ndarray, c: int) -> pa.Array:
        """The texts of a column's dictionary."""
        places = self.firsts[c, : self.dictionary[c, 1]]
        return texts(data, places, np.ones(len(places), np.uint8), pa.string())

    def codes(self, data: np.ndarray, c: int, n: int) -> pa.DictionaryArray | None:
        """A column of short texts."""
        numbers = built(pa.int32(), self.narrow[c, :n], self.valid[c, :n])
        return numbers and pa.DictionaryArray.from_arrays(numbers, self.distinct(data, c), safe=False)

    def flags(self, c: int, n: int) -> pa.Array | None:
        """A column of true and false."""
        valid = self.valid[c, :n]
        return pa.array(self.narrow[c, :n] != 0, mask=valid == 0) if valid.any() else None


def room_for(rows: int, columns: int, flags: int = 0) -> Room:
    """A thread's room of that many columns and at least that many rows, emptied."""
    rooms = ROOMS.__dict__.setdefault("of", {})
    room = rooms.get((columns, flags))
    if room is None or room.rows < rows:
        room = rooms[columns, flags] = Room((1 << rows.bit_length()) + 272, columns, flags)
    room.empty(rows)
    return room


def cut(index: np.ndarray, counts: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """Records in parts, and the rows that each may have at most: neighbours until they have `MOST_ROWS`, a record with more alone."""
    if int(counts.sum()) < MOST_ROWS:
        return [(index, int(counts.sum()) + 1)]
    before = np.concatenate([[0], np.cumsum(counts)])
    cuts = [0]
    while cuts[-1] < len(index):
        beyond = int(np.searchsorted(before, before[cuts[-1]] + MOST_ROWS)) - 1
        cuts.append(max(beyond, cuts[-1] + 1))
    return [(index[a:b], int(before[b] - before[a]) + 1) for a, b in itertools.pairwise(cuts)]


def built(kind: pa.DataType, values: np.ndarray, valid: np.ndarray) -> pa.Array | None:
    """A column of fixed width from its values and a byte for each that says whether it is one; None where none is."""
    present = np.count_nonzero(valid)
    if not present:
        return None
    bits = None if present == len(valid) else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(kind, len(valid), [bits, pa.py_buffer(values.copy())], len(valid) - present)


def texts(data: np.ndarray, places: np.ndarray, valid: np.ndarray, kind: pa.DataType) -> pa.Array | None:
    """Texts from where they lie in `data` (int64[n, 2]: position, size), which were checked to be UTF-8; None where there are none."""
    present = np.count_nonzero(valid)
    if not present and kind != pa.string():
        return None
    bounds = np.empty(len(places) + 1, np.int64)
    out = np.empty(measure(places, valid, bounds), np.uint8)
    copy(data, places, valid, bounds, out)
    bits = None if present == len(valid) else pa.py_buffer(np.packbits(valid, bitorder="little"))
    if pa.types.is_string(kind):
        bounds = bounds.astype(np.int32)
    return pa.Array.from_buffers(kind, len(valid), [bits, pa.py_buffer(bounds), pa.py_buffer(out)], len(valid) - present)


@compiled()
def emptied(dictionary, tables):
    """Forget the texts; the hash tables are as large as these would have made them, since the next batch is likely to have as many."""
    for c in range(len(dictionary)):
        size, texts = 0, dictionary[c, 1]
        if texts:
            size = LEAST_PLACES
            while 2 * texts > size - 1:
                size *= 2
            tables[c, :size] = 0
        dictionary[c, 0], dictionary[c, 1], dictionary[c, 2] = -1, 0, max(size - 1, 0)


@compiled()
def measure(places, valid, bounds):
    """Fill bounds[i + 1] with the bytes of the first i + 1 texts; returns the bytes of all."""
    total = 0
    bounds[0] = 0
    for i in range(len(places)):
        total += places[i, 1] if valid[i] else 0
        bounds[i + 1] = total
    return total


@compiled()
def copy(data, places, valid, bounds, out):
    """Copy texts one after the other."""
    for i in range(len(places)):
        if valid[i]:
            copied(out, bounds[i], data, places[i, 0], places[i, 1])
