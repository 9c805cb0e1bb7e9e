"""What a query looks like: the text of a prompt, or a vector (a producer's embedding, or a classifier's input features).

A view turns rows into novelty features against a reference it has learned, and keeps the learning rows until it is fitted.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.batch import Batch
from engine.novelty import fit
from engine.state import State
from kernels import recent, surprisal

POINT_DIMS = 32
SKETCH_DIMS = 128
"""Longer vectors are sketched before they are projected."""
RECENT_ROWS = 64
RECENT_TEXTS = 32
LEAST_COLUMNS = 8
MOST_Z = 20.0

Reference = Mapping[str, np.ndarray]


class TextView:
    """Prompts. Features: `kernels.surprisal`, and how like the prompt is to the principal's last 32: to the likest of them (templates,
    iterative refinement), and on average (how little he covers). A prompt that is in the reference, or that the principal sent just before,
    says nothing: people and programs repeat themselves; extraction does not."""

    name = "text"
    features = (*surprisal.FEATURES, "near_copy", "sameness")

    @staticmethod
    def rows(batch: Batch) -> dict[str, np.ndarray] | None:
        """Ragged UTF-8 of the prompts, if the batch has any."""
        return ragged(batch.array("prompt")) if "prompt" in batch.columns else None

    @staticmethod
    def present(rows: Reference) -> np.ndarray:
        """bool[n]: which rows have a prompt."""
        return np.diff(rows["starts"]) > 0

    @staticmethod
    def take(rows: Reference, index: np.ndarray) -> dict[str, np.ndarray]:
        """These rows alone."""
        if len(index) == len(rows["starts"]) - 1:
            return dict(rows)
        lengths = np.diff(rows["starts"])[index]
        starts = np.append(0, np.cumsum(lengths))
        at = np.repeat(rows["starts"][:-1][index] - starts[:-1], lengths) + np.arange(starts[-1])
        return {"data": rows["data"][at], "starts": starts}

    @staticmethod
    def join(a: Reference, b: Reference) -> dict[str, np.ndarray]:
        """Rows after rows."""
        starts = np.append(a["starts"], a["starts"][-1] + b["starts"][1:])
        return {"data": np.concatenate([a["data"], b["data"]]), "starts": starts}

    @staticmethod
    def distinct(rows: Reference) -> int:
        """How many of the prompts differ."""
        return len(np.unique(surprisal.hashes(rows["data"], rows["starts"])))

    def fit(self, rows: Reference, groups: np.ndarray) -> dict[str, np.ndarray]:
        """Learn from benign prompts, each distinct one once."""
        known, first = np.unique(surprisal.hashes(rows["data"], rows["starts"]), return_index=True)
        first = np.sort(first)
        rows, groups = self.take(rows, first), groups[first]
        data, starts = rows["data"], rows["starts"]
        common = surprisal.common_words(data, starts)
        table, totals = surprisal.new_model()
        surprisal.count(data, starts, common, table, totals)
        values, minhash = surprisal.features(data, starts, common, table, totals, own=True)
        seen, ring = np.zeros(int(groups.max()) + 1, np.int64), np.zeros((int(groups.max()) + 1, RECENT_TEXTS, surprisal.HASHES), np.uint16)
        alike = recent.likeness(groups.astype(np.int32), minhash, seen, ring)
        fitted = fit(np.column_stack([values, alike]), groups, alone=alike.shape[1])
        return {"common": common, "table": table, "totals": totals, "known": known, **fitted.record()}

    def values(self, rows: Reference, slot: np.ndarray, reference: Reference, state: State) -> np.ndarray:
        """float32[n, 14] features; NaN for a repeat."""
        hashes = surprisal.hashes(rows["data"], rows["starts"])
        values, minhash = surprisal.features(rows["data"], rows["starts"], reference["common"], reference["table"], reference["totals"])
        repeated = recent.repeats(slot, hashes, state["extraction.texts.seen"], state["extraction.texts"])
        fresh = np.where(repeated, -1, slot).astype(np.int32)
        alike = recent.likeness(fresh, minhash, state["extraction.likeness.seen"], state["extraction.likeness"])
        out = np.column_stack([values, alike])
        out[repeated | np.isin(hashes, reference["known"])] = np.nan
        return out


class VectorView:
    """An embedding, or eight and more numeric `feature.*` columns. Features: distance from the middle of the reference, how sure the
    model was, and distances to what the principal sent before, in 32 random directions (Johnson and Lindenstrauss): how near he stays to a
    point (iterative attacks), how much he covers (sweeps), and the nearest of the same predicted class (PRADA)."""

    name = "vector"
    features = ("distance", "doubt", *recent.FEATURES)

    @staticmethod
    def rows(batch: Batch) -> dict[str, np.ndarray] | None:
        """The vectors and the confidence, if the batch has vectors. NaN in a row's vector: it has none."""
        doubt = np.full(len(batch), np.nan, np.float32)
        if "confidence" in batch.columns:
            doubt = np.log(1e-4 + 1 - np.clip(batch.floats("confidence"), 0, 1))
        vectors = embedding(batch)
        if vectors is None:
            columns = sorted(c for c in batch.columns if c.startswith("feature.") and is_number(batch.array(c).type))
            if len(columns) < LEAST_COLUMNS:
                return None
            vectors = np.column_stack([batch.floats(c) for c in columns])
        return {"vectors": vectors, "doubt": doubt, "predicted": predicted(batch)}

    @staticmethod
    def present(rows: Reference) -> np.ndarray:
        """bool[n]: which rows have a whole, finite vector."""
        return recent.whole(rows["vectors"])

    @staticmethod
    def take(rows: Reference, index: np.ndarray) -> dict[str, np.ndarray]:
        """These rows alone."""
        return dict(rows) if len(index) == len(rows["doubt"]) else {name: column[index] for name, column in rows.items()}

    @staticmethod
    def join(a: Reference, b: Reference) -> dict[str, np.ndarray]:
        """Rows after rows; rows of another width start anew."""
        if a["vectors"].shape[1] != b["vectors"].shape[1]:
            return dict(b)
        return {name: np.concatenate([a[name], b[name]]) for name in ("vectors", "doubt", "predicted")}

    @staticmethod
    def distinct(rows: Reference) -> int:
        """How many vectors there are: repeats are queries like others."""
        return len(rows["vectors"])

    def fit(self, rows: Reference, groups: np.ndarray) -> dict[str, np.ndarray]:
        """Learn from benign vectors, in the order in which their principals sent them."""
        vectors = rows["vectors"].astype(np.float64)
        spread = vectors.std(0)
        spread = np.maximum(spread, 0.1 * np.median(spread) + 1e-9)
        dims = vectors.shape[1]
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (min(dims, SKETCH_DIMS), POINT_DIMS)) / np.sqrt(dims)
        reference = {
            "center": vectors.mean(0).astype(np.float32), "spread": spread.astype(np.float32), "signs": signs.astype(np.float32),
        }  # fmt: skip
        slot = np.unique(groups, return_inverse=True)[1].astype(np.int32)
        principals = int(slot.max()) + 1
        seen, ring = np.zeros(principals, np.int64), np.zeros((principals, POINT_DIMS, RECENT_ROWS), np.int16)
        values = measured(rows, slot, reference, seen, ring, np.zeros((principals, RECENT_ROWS), np.int32))
        return {**reference, **fit(values, groups, alone=1).record()}

    def values(self, rows: Reference, slot: np.ndarray, reference: Reference, state: State) -> np.ndarray:
        """float32[n, 7] features; NaN where the vector's width is not the reference's."""
        if rows["vectors"].shape[1] != len(reference["center"]):
            return np.full((len(slot), len(self.features)), np.nan, np.float32)
        seen, ring, of_class = (state[f"extraction.points{part}"] for part in (".seen", "", ".class"))
        return measured(rows, slot, reference, seen, ring, of_class)


VIEWS = (TextView(), VectorView())
View = TextView | VectorView


def measured(
    rows: Reference, slot: np.ndarray, reference: Reference, seen: np.ndarray, ring: np.ndarray, of_class: np.ndarray
) -> np.ndarray:
    """float32[n, 7], as `VectorView` says; `seen`, `ring` and `of_class` are the state of `recent.fold`."""
    points, distance = recent.placed(rows["vectors"], reference["center"], reference["spread"], reference["signs"], MOST_Z)
    out = np.empty((len(slot), 2 + len(recent.FEATURES)), np.float32)
    out[:, 0], out[:, 1] = np.log(1e-6 + distance), rows["doubt"]
    out[:, 2:] = recent.fold(slot, points, rows["predicted"], seen, ring, of_class)
    return out


def predicted(batch: Batch) -> np.ndarray:
    """int32[n]: a hash of what the model said each row is, `recent.NO_CLASS` where it said nothing."""
    if "predicted" not in batch.columns:
        return np.full(len(batch), recent.NO_CLASS, np.int32)
    codes, values = batch.codes("predicted")
    of_value = [recent.NO_CLASS if v is None else zlib.crc32(str(v).encode()) >> 1 for v in values]
    return np.array(of_value or [recent.NO_CLASS], np.int32)[codes]


def learn(view: View, state: State, rows: Reference, slot: np.ndarray, wanted: int) -> int:
    """Put rows aside until there are `wanted`; returns how many of these were taken. The last one fits the reference."""
    prefix = f"extraction.learning/{view.name}/"
    held = {n.removeprefix(prefix): a for n, a in state.arrays.items() if n.startswith(prefix)}
    groups = held.pop("groups", np.empty(0, np.int64))
    taken = min(len(slot), wanted - len(groups))
    fresh: dict[str, Any] = view.take(rows, np.arange(taken))
    joined = view.join(held, fresh) if held else fresh
    groups = np.append(groups, slot[:taken].astype(np.int64))[-len(view.present(joined)) :]
    for name, array in {**joined, "groups": groups}.items():
        state.arrays[prefix + name] = array
    if len(groups) >= wanted:
        fit_learned(view, state)
    return taken


def fit_learned(view: View, state: State) -> None:
    """Fit a view's reference from the rows put aside, and drop them. Nothing happens where there are under 100; where under 100 of them
    are distinct (a prompt that is sent again and again), they say nothing, and learning starts anew."""
    prefix = f"extraction.learning/{view.name}/"
    held = {n.removeprefix(prefix): a for n, a in state.arrays.items() if n.startswith(prefix)}
    if len(held.get("groups", ())) < 100:
        return
    groups = in_order(held.pop("groups"))
    fitted = view.fit(held, groups) if view.distinct(held) >= 100 else {}
    for name, array in fitted.items():
        state.arrays[f"extraction.reference/{view.name}/{name}"] = array
    for name in [n for n in state.arrays if n.startswith(prefix)]:
        del state.arrays[name]


def in_order(groups: np.ndarray) -> np.ndarray:
    """The groups numbered in the order of their first rows: slots depend on how rows were cut into batches, a reference must not.

    >>> in_order(np.array([7, 3, 7, 9])).tolist()
    [0, 1, 0, 2]
    """
    _, first, place = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[place]


def reference_of(view: View, state: State, baseline: Mapping[str, Any]) -> Reference | None:
    """The fitted reference: the baseline's, else what this partition has learned."""
    if view.name in baseline:
        return baseline[view.name]
    prefix = f"extraction.reference/{view.name}/"
    return {n.removeprefix(prefix): a for n, a in state.arrays.items() if n.startswith(prefix)} or None


def ragged(column: pa.Array) -> dict[str, np.ndarray]:
    """{data uint8, starts int64[n + 1]} of a text column; a null is empty."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    column = column.cast(pa.large_string())
    if column.null_count:
        column = pc.fill_null(column, "")
    _, offsets, data = column.buffers()
    starts = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    return {"data": np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8), "starts": starts}


def embedding(batch: Batch) -> np.ndarray | None:
    """float32[n, d] embeddings, NaN where null; None where there are none."""
    return batch.vectors("embedding") if "embedding" in batch.columns else None


def is_number(kind: pa.DataType) -> bool:
    """Whether a column holds numbers."""
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)
