"""A contract in the configuration: written out, or a reference to a Pandera schema, read and checked with the rest of the file."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import Field, PrivateAttr, model_validator

from engine.alerts import Severity
from engine.baseline import file_hash
from engine.batch import Batch
from engine.contract import Rule, contract_of, rules_of
from engine.contract_checks import broken
from engine.finding import Settings

FRESHNESS = Rule((), "freshness", {})


class Series(Settings):
    """Which series must go on: keys made of the columns `by`; `expected` ones must come at all. `most`: keys followed."""

    max_gap_s: float = Field(gt=0)
    by: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()
    most: int = Field(10_000, gt=0)


class Contract(Settings):
    """What rows of a stream must be like. `pandera`: a schema's YAML; `python`: FILE.py:NAME of a Pandera schema or model, code that this
    process runs; or `columns`, `strict`, `unique` written out in the same form. `max_rate`: the share of rows that may break a rule, for
    all rules or by rule (shell patterns). `max_age_s`: how long after its time a row may be written. `series`: what must go on."""

    pandera: Path | None = None
    python: str | None = None
    columns: dict[str, Any] = Field(default_factory=dict)
    strict: bool = False
    unique: tuple[str, ...] = ()
    max_rate: float | dict[str, float] = 0.0
    max_age_s: float | None = Field(None, gt=0)
    series: Series | None = None
    severity: Severity = "warning"
    python_hash: str = ""
    _rules: tuple[Rule, ...] = PrivateAttr(())
    _schema: Any = PrivateAttr(None)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        """What a schema's YAML says becomes part of the configuration, and so of its hash."""
        if isinstance(given, Mapping) and (path := given.get("pandera")) is not None:
            if set(given) & {"columns", "strict", "unique"}:
                raise ValueError("pandera: the schema is given in a file, and so are columns, strict and unique")
            try:
                return {**given, **contract_of(yaml.safe_load(Path(path).read_text()))}
            except OSError as error:
                raise ValueError(f"pandera: {path}: {error.strerror}") from error
            except (yaml.YAMLError, ValueError) as error:
                raise ValueError(f"pandera: {path}: {error}") from error
        return given

    @model_validator(mode="after")
    def _checked(self) -> Contract:
        rates = self.max_rate.values() if isinstance(self.max_rate, dict) else (self.max_rate,)
        if any(not 0 <= rate < 1 for rate in rates):
            raise ValueError("max_rate: a share is at least 0 and under 1")
        self._rules = rules_of(self.columns, self.strict, self.unique) + ((FRESHNESS,) if self.max_age_s is not None else ())
        if self.python is not None:
            path, _, name = self.python.rpartition(":")
            if not path or not name:
                raise ValueError("python: expected FILE.py:NAME")
            if not Path(path).is_file():
                raise ValueError(f"python: {path}: no such file")
            object.__setattr__(self, "python_hash", file_hash(Path(path)))
            self._schema = loaded(Path(path), name)
        return self

    def rules(self) -> tuple[Rule, ...]:
        """What is checked here, row by row; a Python schema comes on top."""
        return self._rules

    def limit(self, rule: str) -> float:
        """The share of rows that may break a rule; 0: none."""
        if isinstance(self.max_rate, dict):
            return next((rate for pattern, rate in self.max_rate.items() if fnmatchcase(rule, pattern)), 0.0)
        return self.max_rate

    def broken(self, rule: Rule, batch: Batch) -> np.ndarray:
        """int64[n]: how many times each row breaks a rule."""
        if rule is FRESHNESS and self.max_age_s is not None:
            return (batch.age_us > self.max_age_s * 1e6).astype(np.int64)
        return broken(rule, batch)

    def python_failures(self, batch: Batch) -> dict[str, np.ndarray]:
        """By rule of the Python schema, int64[n] how many times each row breaks it."""
        if self.python is None:
            return {}
        import pandas as pd
        from pandera.errors import SchemaErrors

        schema = self._schema
        frame = batch.table.to_pandas()
        for column, known in schema.columns.items():
            if column not in frame and known.required and known.nullable:
                frame[column] = None
        try:
            schema.validate(frame, lazy=True)
        except SchemaErrors as errors:
            found: dict[str, np.ndarray] = {}
            for column, check, row in errors.failure_cases[["column", "check", "index"]].itertuples(index=False):
                counts = found.setdefault(f"{column if isinstance(column, str) else ''} {check}".strip(), np.zeros(len(batch), np.int64))
                if pd.isna(row):  # of the whole column, such as its type
                    counts[:] = 1
                else:
                    counts[int(row)] += 1
            return found
        return {}


def loaded(path: Path, name: str) -> Any:
    """The Pandera schema of that name in a Python file, which is run for it. Raises ValueError when there is none."""
    spec = importlib.util.spec_from_file_location(f"telltale_contract_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise ValueError(f"python: {path}: {error}") from error
    schema: Any = getattr(module, name, None)
    if hasattr(schema, "to_schema"):
        schema = schema.to_schema()
    if not hasattr(schema, "validate"):
        raise ValueError(f"python: {path} has no Pandera schema {name}")
    return schema
