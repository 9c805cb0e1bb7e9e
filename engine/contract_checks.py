"""Contracts, evaluated: which rows of a batch break a rule. As Pandera does, a null passes every check but that it is null."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.batch import Batch
from engine.contract import Rule

ALWAYS = frozenset({"time"})
COMPARED: dict[str, tuple[Callable[[Any, Any], pa.Array], str]] = {
    "equal_to": (pc.equal, "value"), "not_equal_to": (pc.not_equal, "value"), "greater_than": (pc.greater, "min_value"),
    "greater_than_or_equal_to": (pc.greater_equal, "min_value"), "less_than": (pc.less, "max_value"),
    "less_than_or_equal_to": (pc.less_equal, "max_value"),
}  # fmt: skip
KINDS: dict[str, Callable[[pa.DataType], bool]] = {
    "integer": pa.types.is_integer, "number": lambda t: pa.types.is_floating(t) or pa.types.is_integer(t), "flag": pa.types.is_boolean,
    "text": lambda t: pa.types.is_string(t) or pa.types.is_large_string(t), "time": pa.types.is_timestamp,
}  # fmt: skip


def broken(rule: Rule, batch: Batch) -> np.ndarray:
    """int64[n]: how many times each row breaks the rule: once for every column that does. Uniqueness is not judged here."""
    out = np.zeros(len(batch), np.int64)
    if rule.check == "unseen":
        for column in unseen(rule, batch):
            out += ~nulls(batch.array(column))
        return out
    for column in named(rule.columns[0], rule.regex, batch):
        out += fails(rule, batch.array(column)) if column in batch.columns else np.full(len(batch), rule.check == "not_nullable")
    return out


def unseen(rule: Rule, batch: Batch) -> Sequence[str]:
    """The batch's columns that the contract does not name."""
    known, patterns = rule.parameters["known"], rule.parameters["patterns"]
    return [c for c in batch.table.schema.names if c not in known and c not in ALWAYS and not any(re.fullmatch(p, c) for p in patterns)]


def named(column: str, regex: bool, batch: Batch) -> Sequence[str]:
    """The columns that a rule is about."""
    return [c for c in batch.table.schema.names if re.fullmatch(column, c)] if regex else [column]


def nulls(column: pa.Array) -> np.ndarray:
    """bool[n]: null, or NaN."""
    return np.asarray(column.is_null(nan_is_null=pa.types.is_floating(column.type)))


def fails(rule: Rule, column: pa.Array) -> np.ndarray:
    """bool[n] of one column."""
    missing = nulls(column)
    if rule.check == "not_nullable":
        return missing
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if rule.check == "dtype":
        return np.where(KINDS[rule.parameters["family"]](column.type), False, ~missing)
    try:
        passed = passes(rule, column)
    except pa.ArrowException:
        return ~missing  # a text is not over 3: what can't be compared does not pass
    return ~np.asarray(pc.fill_null(passed, True)).astype(bool) & ~missing


def passes(rule: Rule, column: pa.Array) -> pa.Array:
    """A boolean column, null where the value is. Raises Arrow's errors where value and check don't fit."""
    given = rule.parameters
    if rule.check in COMPARED:
        compare, name = COMPARED[rule.check]
        return compare(column, pa.scalar(given[name]))
    if rule.check == "in_range":
        low = (pc.greater_equal if given.get("include_min", True) else pc.greater)(column, pa.scalar(given["min_value"]))
        return pc.and_(low, (pc.less_equal if given.get("include_max", True) else pc.less)(column, pa.scalar(given["max_value"])))
    if rule.check in ("isin", "notin"):
        values = given["allowed_values" if rule.check == "isin" else "forbidden_values"]
        found = pc.is_in(column, value_set=pa.array(values).cast(column.type))
        return found if rule.check == "isin" else pc.invert(found)
    if rule.check == "str_startswith":
        return pc.starts_with(column, given["string"])
    if rule.check == "str_endswith":
        return pc.ends_with(column, given["string"])
    if rule.check == "str_length":
        exact = given.get("exact_value")
        low, high = (exact, exact) if exact is not None else (given.get("min_value"), given.get("max_value"))
        length = pc.utf8_length(column)
        return pc.and_(pc.greater_equal(length, 0 if low is None else low), pc.less_equal(length, 2**31 - 1 if high is None else high))
    pattern = given["pattern"]
    return pc.match_substring_regex(column, f"^(?:{pattern})" if rule.check == "str_matches" else pattern)
