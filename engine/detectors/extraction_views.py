"""What a query looks like: the text of a prompt, or a vector (a producer's embedding, or a classifier's input features).

A view turns rows into novelty features against a model it has learned (n-gram counts; a middle and a spread), of so many rows as were asked
for, whose content is held until then. How benign features are distributed is learned from those of the same rows, and of the rows that
follow, until they are enough; of these nothing but features is held.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.batch import Batch
from engine.novelty import enough, fit
from engine.state import State
from kernels import recent, surprisal

POINT_DIMS = 32
SKETCH_DIMS = 128
"""Longer vectors are sketched before they are projected."""
RECENT_ROWS = 64
RECENT_TEXTS = 32
LEAST_COLUMNS = 8
MOST_LEARNED = 16
"""A reference is learned from at most so many times the rows that were asked for."""
MOST_Z = 20.0

Reference = Mapping[str, np.ndarray]


class TextView:
    """Prompts. Features: `kernels.surprisal`, and how like the prompt is to the principal's last 32: to the likest of them (templates,
    iterative refinement), and on average (how little he covers). A prompt that is in the reference, or that the principal sent just before,
    says nothing: people and programs repeat themselves; extraction does not."""

    name = "text"
    features = (*surprisal.FEATURES, "near_copy", "sameness")
    alone, averages = 2, ("sameness",)

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

    def model(self, rows: Reference, groups: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """(the model of benign prompts, their features float32[n, 14]), each distinct one once: NaN where it comes again."""
        known, first = np.unique(surprisal.hashes(rows["data"], rows["starts"]), return_index=True)
        first = np.sort(first)
        out = np.full((len(groups), len(self.features)), np.nan, np.float32)
        rows, groups = self.take(rows, first), groups[first]
        data, starts = rows["data"], rows["starts"]
        common = surprisal.common_words(data, starts)
        table, totals = surprisal.new_model()
        surprisal.count(data, starts, common, table, totals)
        values, minhash = surprisal.features(data, starts, common, table, totals, own=True)
        seen, ring = np.zeros(int(groups.max()) + 1, np.int64), np.zeros((int(groups.max()) + 1, RECENT_TEXTS, surprisal.HASHES), np.uint16)
        out[first] = np.column_stack([values, recent.likeness(groups.astype(np.int32), minhash, seen, ring)])
        return {"common": common, "table": table, "totals": totals, "known": known}, out

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
    alone, averages = 1, ("near_mean", "mean_distance")

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

    def model(self, rows: Reference, groups: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """(the model of benign vectors, their features float32[n, 7]), in the order in which their principals sent them."""
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
        return reference, values

    def values(self, rows: Reference, slot: np.ndarray, reference: Reference, state: State) -> np.ndarray:
        """float32[n, 7] features; NaN where the vector's width is not the reference's."""
        if rows["vectors"].shape[1] != len(reference["center"]):
            return np.full((len(slot), len(self.features)), np.nan, np.float32)
        seen, ring, of_class = (state[f"extraction.points{part}"] for part in (".seen", "", ".class"))
        return measured(rows, slot, reference, seen, ring, of_class)


def counted_twice(features: Sequence[str], averages: Sequence[str]) -> np.ndarray:
    """float64[K]: the least memory of features, of which some are averages over a principal's history.

    A query counts there as itself and once more in the averages of those that follow, each time with the same part of its distances (the
    projection of a U-statistic: Hoeffding 1948): the mean of many varies as that of a quarter as many independent ones. A short reference
    does not show it, for a history lasts longer than blocks of it.
    """
    return np.where(np.isin(features, averages), 4.0, 1.0)


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


def learn(view: View, state: State, rows: Reference, slot: np.ndarray, least: int, most: int) -> int:
    """Learn from rows until they are enough; returns how many of these were taken. The last one fits the reference.

    `least` rows make the model. Whether the features of all rows so far are `enough` is asked then, and when there are twice, four times,
    .. as many; `most` must do."""
    prefix, taken = f"extraction.learning/{view.name}/", 0
    while taken < len(slot) and reference_of(view, state, {}) is None:
        held, model = under(state, prefix), under(state, f"extraction.model/{view.name}/")
        groups = held.pop("groups", np.empty(0, np.int64))
        wanted = next_look(len(groups), least)
        index = np.arange(taken, min(len(slot), taken + wanted - len(groups)))
        fresh: dict[str, Any] = view.take(rows, index)
        if model:
            values = view.values(fresh, slot[index], model, state)
            joined = {"values": np.concatenate([held["values"], values])}
        else:
            joined = view.join(held, fresh) if held else fresh
        rows_held = len(joined["values"]) if model else len(view.present(joined))
        groups = np.append(groups, slot[index].astype(np.int64))[-rows_held:]
        for name, array in {**joined, "groups": groups}.items():
            state.arrays[prefix + name] = array
        taken += len(index)
        if len(groups) >= wanted:
            fit_learned(view, state, settle=wanted >= most)
    return taken


def under(state: State, prefix: str) -> dict[str, np.ndarray]:
    """The arrays of a state whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in state.arrays.items() if name.startswith(prefix)}


def learning_rows(state: State) -> list[tuple[str, int]]:
    """(view, rows put aside so far) of the views that are learning."""
    held = [(view.name, state.arrays.get(f"extraction.learning/{view.name}/groups")) for view in VIEWS]
    return [(name, len(groups)) for name, groups in held if groups is not None]


def next_look(held: int, least: int) -> int:
    """Rows at which it is asked next whether they are enough.

    >>> [next_look(n, 1000) for n in (0, 999, 1000, 3000)]
    [1000, 1000, 2000, 4000]
    """
    wanted = least
    while wanted <= held:
        wanted *= 2
    return wanted


def fit_learned(view: View, state: State, settle: bool = True) -> None:
    """Make a view's model from the rows put aside, unless there is one, and drop their content; fit its reference from their features, if
    these are `enough` or to settle for, and drop those. Nothing happens where there are under 100 rows; where under 100 of them are
    distinct (a prompt that is sent again and again), they say nothing, and learning starts anew."""
    prefix, of_model = f"extraction.learning/{view.name}/", f"extraction.model/{view.name}/"
    held, model = under(state, prefix), under(state, of_model)
    groups = held.get("groups", np.empty(0, np.int64))
    if len(groups) < 100:
        return
    drop(state, prefix)
    if not model:
        if view.distinct(held) < 100:
            return
        model, values = view.model({name: array for name, array in held.items() if name != "groups"}, in_order(groups))
    else:
        values = held["values"]
    told = ~np.isnan(values).all(1)
    features, whose = values[told], in_order(groups[told])
    if not (settle or enough(features, whose)):
        for name, array in model.items():
            state.arrays[of_model + name] = array
        state.arrays[prefix + "values"], state.arrays[prefix + "groups"] = values, groups
        return
    drop(state, of_model)
    fitted = fit(features, whose, alone=view.alone, least_memory=counted_twice(view.features, view.averages)).record()
    for name, array in {**model, **fitted}.items():
        state.arrays[f"extraction.reference/{view.name}/{name}"] = array


def drop(state: State, prefix: str) -> None:
    """Forget the arrays whose names begin so."""
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
    return under(state, f"extraction.reference/{view.name}/") or None


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
