"""A stream's columns as the scan of JSON lines wants them: hashed by name, with what each holds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from streams import names
from streams.decode.otlp_names import CONTENT, FLAG, FLOAT, INTEGER, LONG, TEXT, pooled, slots

TIME, ELSE = LONG + 1, LONG + 2
"""Microseconds; a column that the scan leaves to other readers when it has a value."""
HOLDS = {
    "string": TEXT, "large_string": CONTENT, "float": FLOAT, "int32": INTEGER, "int64": LONG, "bool": FLAG, "timestamp[us, tz=UTC]": TIME,
}  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """`names`, `types`: of each column; `holds`: int8; `pool`, `places`, `slots`: as `otlp_names` has them. `prefixes`: beginnings of
    families, whose members that are not here the scan does not know."""

    names: tuple[str, ...]
    types: tuple[pa.DataType, ...]
    holds: np.ndarray
    pool: np.ndarray
    places: np.ndarray
    slots: np.ndarray
    prefixes: np.ndarray


@lru_cache(maxsize=64)
def columns_of(stream: str, family: tuple[tuple[str, bool], ...]) -> Columns:
    """The columns of a stream, and those of its families: (name, whether it is text)."""
    found: dict[str, pa.DataType] = {name: c.type for name, c in names.COLUMNS[stream].items() if c.type is not None}
    found |= {name: pa.string() if text else pa.float32() for name, text in family}
    prefixes = list(names.FAMILIES.get(stream, {}))
    pool, places = pooled([*found, *prefixes])
    holds = np.array([HOLDS.get(str(kind), ELSE) for kind in found.values()], np.int8)
    return Columns(tuple(found), tuple(found.values()), holds, pool, places, slots(pool, places[: len(found)]), places[len(found) :])
