"""Uniqueness over a window of rows: exact but for collisions of 64 bits, in bounded memory."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from engine.batch import Batch
from engine.contract import Rule
from engine.contract_checks import nulls
from engine.state import State

WINDOW = 1 << 17


def repeated(rule: Rule, batch: Batch, state: State) -> np.ndarray:
    """int64[n]: 1 for a row whose values were there among the last `WINDOW` rows of its partition; nulls never are. Updates the state:
    64-bit hashes of the window's values and the number of the row each came with last."""
    name = f"quality.unique/{batch.stream}/{rule.name}"
    present = np.ones(len(batch), np.bool_)
    for column in rule.columns:
        present &= ~nulls(batch.array(column)) if column in batch.columns else False
    rows = np.flatnonzero(present)
    seen = state.arrays.get(name, np.empty((0, 2), np.int64))
    counted = state.records.setdefault("quality.rows", {})
    first = counted.get(name, 0)
    counted[name] = first + len(batch)
    new = np.column_stack([hashes(rule, batch, rows), first + rows])
    whole = np.concatenate([seen, new])
    order = np.lexsort((whole[:, 1], whole[:, 0]))
    item, at = whole[order, 0], whole[order, 1]
    again = np.zeros(len(whole), np.bool_)
    again[order[1:]] = (np.diff(item) == 0) & (np.diff(at) <= WINDOW)
    latest = order[np.append(np.diff(item) != 0, True)] if len(order) else order
    kept = whole[latest]
    state.arrays[name] = kept[kept[:, 1] > first + len(batch) - 1 - WINDOW]
    out = np.zeros(len(batch), np.int64)
    out[rows] = again[len(seen) :]
    return out


def hashes(rule: Rule, batch: Batch, rows: np.ndarray) -> np.ndarray:
    """int64[rows]: a hash of each row's values, the same in every run."""
    if not len(rows):
        return np.empty(0, np.int64)  # perhaps a column is not there at all
    index = pa.array(rows)
    columns = [batch.array(c).take(index).to_pylist() for c in rule.columns]
    out = [
        int.from_bytes(hashlib.blake2b(repr(values).encode(), digest_size=8).digest(), "little", signed=True)
        for values in zip(*columns, strict=True)
    ]
    return np.array(out, np.int64)
