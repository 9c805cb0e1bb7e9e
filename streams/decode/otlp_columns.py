"""From scanned spans to Arrow columns: the rules of `attributes.py`, a column at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from streams import names
from streams.decode.attributes import RANKED
from streams.decode.otlp_scan import DOUBLE, GIVEN, SERVICE, Known, count, hashed, known, scan, word_at
from streams.records import RawBatch, Rows

ERROR = 2
HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


class Spans:
    """The spans of some records, scanned. `stopped`: int64[records], the byte where a record was left to the walk, -1 where it was read."""

    def __init__(self, raw: RawBatch, index: np.ndarray, principal: Sequence[str]):
        self.raw = raw
        self.data = np.frombuffer(raw.data, np.uint8)
        self.known: Known = known(principal)
        counts = np.zeros(len(index), np.int64)
        count(self.data, raw.starts, raw.ends, index, counts)
        room, targets = int(counts.sum()) + 1, len(self.known.targets)
        self.kinds = np.zeros((targets, room), np.uint8)
        self.values, self.lengths = np.empty((targets, room), np.int64), np.empty((targets, room), np.int32)
        ranks = np.empty((targets, room), np.uint8)
        self.spans, owner = np.empty((room, 8), np.int64), np.empty(room, np.int64)
        self.stopped = np.empty(len(index), np.int64)
        k = self.known
        self.rows = scan(
            self.data, raw.starts, raw.ends, index, k.slots, k.sizes, k.words, k.uses, k.takes,
            self.kinds, ranks, self.values, self.lengths, self.spans, owner, self.stopped,
        )  # fmt: skip
        self.offsets = raw.offsets[index[owner[: self.rows]]]

    def cells(self, target: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(kinds, values, lengths) of a target's cells in these rows."""
        t = self.known.targets.index(target)
        return self.kinds[t, rows], self.values[t, rows], self.lengths[t, rows]

    def tables(self) -> list[Rows]:
        """Rows of `inference` and `agent`. Raises UnicodeDecodeError when a text is not UTF-8."""
        operation, words = self.operations()
        found = []
        for stream in ("inference", "agent"):
            ours = np.array([names.OPERATIONS.get(word, "agent") == stream for word in words], np.bool_)
            rows = np.flatnonzero((operation >= 0) & ours[operation]) if len(words) else np.empty(0, np.int64)
            if len(rows):
                columns = {"operation": dictionary(operation[rows].astype(np.int32), words), **self.columns(stream, rows)}
                present = {name: column for name, column in columns.items() if column.null_count < len(column)}
                found.append(Rows(stream, pa.RecordBatch.from_pydict(present), self.offsets[rows]))
        return found

    def operations(self) -> tuple[np.ndarray, list[str]]:
        """(int64[rows], words): each span's operation; -1 where it has none."""
        everything = np.arange(self.rows)
        words: list[str] = []
        final = np.full(self.rows, -1, np.int64)
        rules: dict[str, Callable[[str], str | None]] = {
            "operation": lambda text: text or None,
            "kind": names.SPAN_KINDS.get,
            "mcp_method": lambda text: "execute_tool" if text == "tools/call" else text or None,
            "a2a_method": lambda text: "invoke_agent",
        }
        for target, rule in rules.items():
            column = self.text(target, everything)
            if column.null_count == self.rows:
                continue
            meant = [rule(text) for text in column.dictionary.to_pylist()]
            words += [w for w in dict.fromkeys(meant) if w is not None and w not in words]
            number = np.array([-1 if w is None else words.index(w) for w in meant] + [-1], np.int64)
            code = column.indices.fill_null(len(meant)).to_numpy(zero_copy_only=False)
            final = np.where(final >= 0, final, number[code])
        return final, words

    def columns(self, stream: str, rows: np.ndarray) -> dict[str, pa.Array]:
        """All columns but the operation."""
        start, end = self.spans[rows, 3], self.spans[rows, 4]
        time = np.where(end > 0, end, start) // 1000
        found: dict[str, pa.Array] = {"time": pa.array(time, pa.int64(), mask=time == 0).cast(names.TIME)}
        for k, name in enumerate(("trace_id", "span_id", "parent_span_id")):
            found[name] = identifiers(self.data, self.spans[rows, k], 8 if k else 16)
        for name, column in names.COLUMNS[stream].items():
            target = "prompt" if name == "user_prompt" else name
            if target not in RANKED or name == "operation" or column.type is None:
                continue
            if pa.types.is_string(column.type):
                found[name] = self.text(target, rows)
            elif pa.types.is_large_string(column.type):
                kinds, at, size = self.cells(target, rows)
                found[name] = texts(self.data, at, size, kinds > 0, pa.large_string())
            else:
                found[name] = self.number(target, rows, column.type)
        found["principal"] = first_of(nonempty(self.text(GIVEN, rows)), nonempty(found["principal"]), self.text(SERVICE, rows))
        found["error"] = first_of(nonempty(found["error"]), self.failures(rows))
        if stream == "inference":
            known_times = (start > 0) & (end >= start)
            found["duration_s"] = pa.array(((end - start) / 1e9).astype(np.float32), mask=~known_times)
            return found
        mcp, a2a = nonempty(self.text("mcp_method", rows)), self.text("a2a_method", rows)
        protocol = np.where(mcp.is_valid().to_numpy(zero_copy_only=False), 0, 1).astype(np.int32)
        neither = ~pc.or_(mcp.is_valid(), a2a.is_valid()).to_numpy(zero_copy_only=False)
        found["protocol"] = dictionary(protocol, ["mcp", "a2a"], neither)
        found["method"] = first_of(mcp, a2a)
        used = [self.number(t, rows, pa.int64()) for t in ("input_tokens", "output_tokens")]
        total = pc.add(used[0].fill_null(0), used[1].fill_null(0))
        found["tokens"] = pc.if_else(pc.or_(used[0].is_valid(), used[1].is_valid()), total, None)
        trace = pc.if_else(found["trace_id"].is_valid(), hexadecimal(found["trace_id"]), None)
        found["session"] = first_of(found["session"], trace)
        return found

    def text(self, target: str, rows: np.ndarray) -> pa.DictionaryArray:
        """Short texts, as a dictionary."""
        kinds, at, size = self.cells(target, rows)
        present = kinds > 0
        codes, firsts = np.empty(len(rows), np.int32), np.empty(int(present.sum()), np.int64)
        if not len(firsts):
            return dictionary(codes, [], ~present)
        table = np.zeros(1 << int(2 * len(firsts)).bit_length(), np.int32)
        distinct = encode(self.data, at, size, present, table, codes, firsts)
        chosen = firsts[:distinct]
        return dictionary(codes, texts(self.data, at[chosen], size[chosen], np.ones(distinct, np.bool_), pa.string()), ~present)

    def number(self, target: str, rows: np.ndarray, kind: pa.DataType) -> pa.Array:
        """Numbers and flags; null where the column can't hold them."""
        kinds, values, _ = self.cells(target, rows)
        present = kinds > 0
        if pa.types.is_boolean(kind):
            return pa.array(values != 0, mask=~present)
        if pa.types.is_floating(kind):
            exact = np.where(kinds == DOUBLE, values.view(np.float64), values.astype(np.float64))
            with np.errstate(over="ignore"):
                return pa.array(exact.astype(np.float32), mask=~(present & np.isfinite(exact)))
        limit = 1 << kind.bit_width - 1
        fits = (values >= -limit) & (values <= limit - 1) if kind.bit_width < 64 else True
        return pa.array(values, pa.int64(), mask=~(present & fits)).cast(kind, safe=False)

    def failures(self, rows: np.ndarray) -> pa.Array:
        """The status message of spans that failed, `error` where it is empty."""
        failed = self.spans[rows, 5] == ERROR
        at, size = self.spans[rows, 6], self.spans[rows, 7] - self.spans[rows, 6]
        messages = texts(self.data, at, size.astype(np.int32), failed, pa.string())
        return pc.if_else(pc.equal(pc.binary_length(messages), 0), "error", messages)


def nonempty(column: pa.Array) -> pa.Array:
    """The column with empty texts as nulls."""
    if pa.types.is_dictionary(column.type):
        lengths = pc.binary_length(column.dictionary).to_numpy(zero_copy_only=False)
        if (lengths > 0).all():
            return column
        column = column.dictionary_decode()
    return pc.if_else(pc.equal(pc.binary_length(column), 0), None, column)


def first_of(*columns: pa.Array) -> pa.Array:
    """The first that is not null, row by row; the first column itself when that is complete."""
    for k, column in enumerate(columns):
        if column.null_count == 0:
            columns = columns[: k + 1]
            break
    columns = tuple(c for c in columns if c.null_count < len(c)) or columns[:1]
    if len(columns) == 1:
        return columns[0]
    return pc.coalesce(*(c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in columns))


def dictionary(codes: np.ndarray, words: Sequence[str] | pa.Array, missing: np.ndarray | None = None) -> pa.DictionaryArray:
    """A dictionary column."""
    values = words if isinstance(words, pa.Array) else pa.array(words, pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32(), mask=missing), values)


def texts(data: np.ndarray, at: np.ndarray, size: np.ndarray, present: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Texts from where they lie in `data`. Raises UnicodeDecodeError when one is not UTF-8."""
    width = np.int64 if pa.types.is_large_string(kind) else np.int32
    bounds = np.zeros(len(at) + 1, width)
    np.cumsum(np.where(present, size, 0), out=bounds[1:])
    out = np.empty(int(bounds[-1]), np.uint8)
    copy(data, at, present, bounds, out)
    valid = None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))
    column = pa.Array.from_buffers(kind, len(at), [valid, pa.py_buffer(bounds), pa.py_buffer(out)])
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        raise UnicodeDecodeError("utf-8", b"", 0, 0, str(error)) from error
    return column


def identifiers(data: np.ndarray, at: np.ndarray, width: int) -> pa.Array:
    """Ids of a fixed width; null where `at` is -1."""
    out = np.zeros((len(at), width), np.uint8)
    copy_fixed(data, at, out)
    valid = pa.py_buffer(np.packbits(at >= 0, bitorder="little"))
    return pa.Array.from_buffers(pa.binary(width), len(at), [valid, pa.py_buffer(out)])


def hexadecimal(ids: pa.Array) -> pa.Array:
    """Ids as text."""
    width = ids.type.byte_width
    raw = np.frombuffer(ids.buffers()[1], np.uint8)[: len(ids) * width].reshape(len(ids), width)
    out = np.stack([HEX[raw >> 4], HEX[raw & 15]], axis=2).reshape(-1)
    bounds = np.arange(len(ids) + 1, dtype=np.int32) * (2 * width)
    return pa.Array.from_buffers(pa.string(), len(ids), [None, pa.py_buffer(bounds), pa.py_buffer(out)])


@njit(nogil=True, cache=True)
def encode(data, at, size, present, table, codes, firsts):
    """Fill codes[i] with the number of row i's text among the distinct ones, and firsts with a row of each. Returns how many there are.

    `table`: int32 zeros, a power of two and more than twice the texts.
    """
    distinct = 0
    for i in range(len(at)):
        codes[i] = 0
        if not present[i]:
            continue
        slot = np.int64(hashed(data, at[i], size[i]) & np.uint64(len(table) - 1))
        while True:
            if table[slot] == 0:
                firsts[distinct] = i
                codes[i] = distinct
                distinct += 1
                table[slot] = distinct
                break
            j = firsts[table[slot] - 1]
            same = size[j] == size[i]
            for k in range(0, size[i] if same else 0, 8):
                same &= word_at(data, at[i] + k, size[i] - k) == word_at(data, at[j] + k, size[i] - k)
            if same:
                codes[i] = table[slot] - 1
                break
            slot = (slot + 1) & (len(table) - 1)
    return distinct


@njit(nogil=True, cache=True)
def copy(data, at, present, bounds, out):
    """Copy texts one after the other."""
    for i in range(len(at)):
        if present[i]:
            start = bounds[i]
            for j in range(bounds[i + 1] - start):
                out[start + j] = data[at[i] + j]


@njit(nogil=True, cache=True)
def copy_fixed(data, at, out):
    """Copy ids."""
    for i in range(len(at)):
        if at[i] >= 0:
            for j in range(out.shape[1]):
                out[i, j] = data[at[i] + j]
