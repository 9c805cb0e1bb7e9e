"""Contracts: what rows of a stream must be like. The form is the one that Pandera writes (`pandera.io`), read here without Pandera.

A column has `dtype`, `nullable` (false, as in Pandera), `unique`, `regex` (its name is a pattern) and checks by their Pandera names; a
contract has `columns`, `strict` (a column that is not named is a violation) and `unique` (columns that are so together). A column that no
row has is a column of nulls: a stream has no other way to lack one, so `required` says nothing more than `nullable` does. What can't be
done row by row (hypotheses, checks of a whole frame, checks of one's own) needs a contract in Python.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

ALIASES = {
    "eq": "equal_to", "ne": "not_equal_to", "gt": "greater_than", "ge": "greater_than_or_equal_to", "lt": "less_than",
    "le": "less_than_or_equal_to", "between": "in_range",
}  # fmt: skip
PARAMETERS: dict[str, tuple[str, ...]] = {
    "equal_to": ("value",), "not_equal_to": ("value",), "greater_than": ("min_value",), "greater_than_or_equal_to": ("min_value",),
    "less_than": ("max_value",), "less_than_or_equal_to": ("max_value",),
    "in_range": ("min_value", "max_value", "include_min", "include_max"),
    "isin": ("allowed_values",), "notin": ("forbidden_values",), "str_matches": ("pattern",), "str_contains": ("pattern",),
    "str_startswith": ("string",), "str_endswith": ("string",), "str_length": ("min_value", "max_value", "exact_value"),
}  # fmt: skip
"""Checks that are known, and what they are given."""
PROPERTIES = frozenset(
    {"dtype", "nullable", "unique", "required", "regex", "coerce", "checks", "title", "description", "name", "report_duplicates"}
)
FRAME = frozenset(
    {"schema_type", "version", "api", "columns", "strict", "unique", "coerce", "name", "title", "description", "ordered",
     "unique_column_names", "report_duplicates", "index", "checks", "dtype", "add_missing_columns", "metadata"}
)  # fmt: skip
FAMILIES = (("int", "integer"), ("uint", "integer"), ("float", "number"), ("str", "text"), ("object", "text"), ("category", "text"),
            ("bool", "flag"), ("datetime", "time"))  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """One thing that every row must satisfy. `check`: a name of `PARAMETERS`, or not_nullable, dtype, unique, unseen; `columns`: names
    (one, but for `unique`), or patterns where `regex`."""

    columns: tuple[str, ...]
    check: str
    parameters: Mapping[str, Any]
    regex: bool = False

    @property
    def name(self) -> str:
        """As alerts and `max_rate` have it: `input_tokens greater_than_or_equal_to`."""
        return f"{' '.join(self.columns)} {self.check}".strip()


def rules_of(columns: Mapping[str, Any], strict: bool, unique: Sequence[str]) -> tuple[Rule, ...]:
    """The rules of a contract. Raises ValueError naming the column and what is wrong with it.

    >>> [r.name for r in rules_of({"a": {"nullable": True, "ge": 0}, "b": None}, True, ())]
    ['a greater_than_or_equal_to', 'b not_nullable', 'unseen']
    """
    rules = [rule for name, given in columns.items() for rule in column_rules(name, given or {})]
    if unique:
        rules.append(Rule(tuple(unique), "unique", {}))
    if strict:
        rules.append(
            Rule((), "unseen", {"known": tuple(columns), "patterns": tuple(n for n, c in columns.items() if (c or {}).get("regex"))})
        )
    return tuple(rules)


def column_rules(column: str, given: Mapping[str, Any]) -> list[Rule]:
    """The rules of one column."""
    if not isinstance(given, Mapping):
        raise ValueError(f"column {column}: expected keys and values, not {type(given).__name__}")
    regex, rules = bool(given.get("regex", False)), []
    if regex:
        compiled(column, column)
    if given.get("dtype") is not None:
        rules.append(Rule((column,), "dtype", {"family": family(column, str(given["dtype"]))}, regex))
    if not given.get("nullable", False):
        rules.append(Rule((column,), "not_nullable", {}, regex))
    if given.get("unique", False):
        rules.append(Rule((column,), "unique", {}, regex))
    checks = [(name, value) for name, value in given.items() if name not in PROPERTIES]
    for name, value in [*checks, *listed(column, given.get("checks"))]:
        known = ALIASES.get(name, name)
        if known not in PARAMETERS:
            raise ValueError(f"column {column}: unknown key or check {name!r}; there are {', '.join(sorted({*PARAMETERS, *PROPERTIES}))}")
        rules.append(Rule((column,), known, parameters(column, known, value), regex))
    return rules


def listed(column: str, checks: Any) -> list[tuple[str, Any]]:
    """Checks as older versions of Pandera write them: a mapping, or a list of `{value: ..., options: {check_name: ...}}`."""
    if checks is None:
        return []
    if isinstance(checks, Mapping):
        return list(checks.items())
    found = []
    for check in checks:
        name = (check.get("options") or {}).get("check_name") if isinstance(check, Mapping) else None
        if name is None:
            raise ValueError(f"column {column}: checks: expected check_name in options")
        rest = {k: v for k, v in check.items() if k != "options"}
        found.append((name, rest["value"] if set(rest) == {"value"} else rest))
    return found


def parameters(column: str, check: str, value: Any) -> dict[str, Any]:
    """What a check is given, by name: a single value is its first parameter."""
    names = PARAMETERS[check]
    if not isinstance(value, Mapping):
        value = {names[0]: value}
    given = {k: v for k, v in value.items() if k not in ("options", "ignore_na")}
    if unknown := given.keys() - set(names):
        raise ValueError(f"column {column}: {check}: unknown parameter {sorted(unknown)[0]!r}; there are {', '.join(names)}")
    if check in ("isin", "notin") and not isinstance(given[names[0]], list | tuple):
        raise ValueError(f"column {column}: {check}: expected a list")
    if "pattern" in given:
        compiled(column, str(given["pattern"]))
    if check == "in_range" and not {"min_value", "max_value"} <= given.keys():
        raise ValueError(f"column {column}: in_range: needs min_value and max_value")
    return given


def compiled(column: str, pattern: str) -> None:
    """ValueError naming the column, unless the pattern is one for RE2, which takes time in proportion to the text."""
    try:
        pc.match_substring_regex(pa.array([""]), pattern)
    except pa.ArrowInvalid as error:
        raise ValueError(f"column {column}: {pattern!r} is no regular expression: {error}") from error


def family(column: str, dtype: str) -> str:
    """integer, number, text, flag or time: types that a stream tells apart.

    >>> family("x", "int64"), family("x", "string[pyarrow]"), family("x", "Float32")
    ('integer', 'text', 'number')
    """
    for prefix, name in FAMILIES:
        if dtype.lower().startswith(prefix):
            return name
    raise ValueError(f"column {column}: unknown dtype {dtype!r}")


def contract_of(document: Any) -> dict[str, Any]:
    """`columns`, `strict` and `unique` of a Pandera schema's YAML. Raises ValueError for what it has beyond them."""
    if not isinstance(document, Mapping) or not isinstance(document.get("columns"), Mapping):
        raise ValueError("expected a Pandera schema: a mapping with `columns`")
    if unknown := document.keys() - FRAME:
        raise ValueError(f"unknown key {sorted(unknown)[0]!r}")
    for key in ("checks", "index", "dtype"):
        if document.get(key):
            raise ValueError(f"{key}: can't be checked row by row; give the contract in Python")
    unique = document.get("unique") or []
    return {
        "columns": dict(document["columns"]), "strict": document.get("strict") in (True, "true"),
        "unique": [unique] if isinstance(unique, str) else list(unique),
    }  # fmt: skip
