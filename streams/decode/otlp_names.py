"""What the scan of traces looks for: the registry's attributes and operations as tables for Numba, hashed by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from streams import names
from streams.decode.attributes import RANKED
from streams.decode.wire import hashed

OPERATION, KIND, MCP, A2A, GIVEN, PRINCIPAL, SERVICE, ERROR, SESSION, INPUT_TOKENS, OUTPUT_TOKENS, METHOD, PROTOCOL, NAME = range(14)
"""Targets that the rules of a span name; the others follow. GIVEN is the configured principal, SERVICE the service's name, NAME that of an
evaluation."""
FIRST_TARGETS = (
    "operation", "kind", "mcp_method", "a2a_method", "given", "principal", "service", "error", "session",
    "input_tokens", "output_tokens", "method", "protocol", "name",
)  # fmt: skip
STREAMS = ("inference", "agent")
INFERENCE, AGENT = 0, 1
TEXT, CONTENT, FLOAT, INTEGER, FLAG, LONG = range(6)
"""What a column holds: a short text, content, float32, int32, true or false, int64."""
USES = 2
OWN, SHARED, SHARED_ONLY = range(3)
"""Where an attribute counts: on the span, there and on the resource, on the resource alone."""
SEED = np.int64(int.from_bytes(np.random.SeedSequence().generate_state(1, np.uint64).tobytes(), "little", signed=True))
"""Of hashes, so that nobody can write texts that collide; no result depends on it."""
WORDS = ("error", "mcp", "a2a", "true", "false", "execute_tool", "invoke_agent", "tools/call")
ERROR_WORD, MCP_WORD, A2A_WORD, TRUE_WORD, FALSE_WORD, TOOL_WORD, AGENT_WORD, CALL_WORD = range(8)


@dataclass(frozen=True)
class Column:
    """A column that the scan fills."""

    stream: int
    name: str
    target: int
    holds: int
    type: pa.DataType


@dataclass(frozen=True)
class Known:
    """Everything by position in `pool`, one buffer of all names. Entry 0 of both hash tables means an empty slot."""

    targets: tuple[str, ...]
    columns: tuple[Column, ...]
    column_of: np.ndarray  # int64[streams, targets]: the column, -1 where the stream has none
    holds: np.ndarray  # int8[columns]
    pool: np.ndarray  # uint8: names one after the other, eight zeros around each
    attributes: np.ndarray  # int64[attributes, 2]: position, size
    attribute_slots: np.ndarray  # int16: attribute + 1 by hash
    uses: np.ndarray  # int64[attributes, USES, 3]: target (-1: no more), rank, where it counts
    words: np.ndarray  # int64[words, 4]: position, size, stream as an operation (-1: is none), the word it means as a span's kind (-1)
    word_slots: np.ndarray


@lru_cache(maxsize=64)
def known(principal: tuple[str, ...]) -> Known:
    """The tables for one list of configured principal attributes."""
    columns = [
        (s, name, "prompt" if name == "user_prompt" else name, column.type)
        for s, stream in enumerate(STREAMS)
        for name, column in names.COLUMNS[stream].items()
        if column.type is not None and (name in RANKED or name in ("user_prompt", *FIRST_TARGETS))
    ]
    others = [t for t in dict.fromkeys(target for _, _, target, _ in columns) if t not in FIRST_TARGETS]
    targets = (*FIRST_TARGETS, *others)
    column_of = np.full((len(STREAMS), len(targets)), -1, np.int64)
    laid = tuple(Column(s, name, targets.index(target), held(kind), kind) for s, name, target, kind in columns)
    for c, column in enumerate(laid):
        column_of[column.stream, column.target] = c
    uses = attribute_uses(targets, principal)
    table = np.full((len(uses), USES, 3), -1, np.int64)
    for a, found in enumerate(uses.values()):
        table[a, : len(found)] = found
    words = [*WORDS, *(w for w in dict.fromkeys((*names.OPERATIONS, *names.SPAN_KINDS, *names.SPAN_KINDS.values())) if w not in WORDS)]
    pool, places = pooled([*uses, *words])
    meaning = np.full((len(words), 4), -1, np.int64)
    meaning[:, :2] = places[len(uses) :]
    for w, word in enumerate(words):
        if word in names.OPERATIONS:
            meaning[w, 2] = STREAMS.index(names.OPERATIONS[word])
        if word in names.SPAN_KINDS:
            meaning[w, 3] = words.index(names.SPAN_KINDS[word])
    return Known(
        targets, laid, column_of, np.array([c.holds for c in laid], np.int8), pool, places[: len(uses)],
        slots(pool, places[: len(uses)]), table, meaning, slots(pool, meaning),
    )  # fmt: skip


def attribute_uses(targets: Sequence[str], principal: Sequence[str]) -> dict[str, list[tuple[int, int, int]]]:
    """(target, rank, where it counts) of each attribute's name."""
    uses: dict[str, list[tuple[int, int, int]]] = {}
    for t, target in enumerate(targets):
        ranked: Sequence[tuple[str, int]] = RANKED.get(target, ())
        if target in ("service", "given"):
            ranked = [("service.name", SHARED_ONLY)] if target == "service" else [(name, SHARED) for name in principal]
        for rank, (name, shared) in enumerate(ranked):
            if not any(use[0] == t for use in uses.setdefault(name, [])):
                uses[name].append((t, rank, int(shared)))
    return uses


def held(kind: pa.DataType) -> int:
    """What a column of that type holds."""
    return {"large_string": CONTENT, "float": FLOAT, "int32": INTEGER, "bool": FLAG, "int64": LONG}.get(str(kind), TEXT)


def pooled(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 buffer, int64[texts, 2] position and size)."""
    pool, places = bytearray(8), []
    for text in texts:
        value = text.encode()
        places.append((len(pool), len(value)))
        pool += value + bytes(8)
    return np.frombuffer(bytes(pool), np.uint8), np.array(places, np.int64).reshape(-1, 2)


def slots(pool: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A hash table: entry + 1 at the hash of its name, or in the next free slot."""
    table = np.zeros(1 << int(4 * len(places)).bit_length(), np.int16)
    for n, (at, size) in enumerate(places[:, :2].tolist()):
        slot = int(hashed(pool, at, size, SEED)) & (len(table) - 1)
        while table[slot]:
            slot = (slot + 1) % len(table)
        table[slot] = n + 1
    return table
