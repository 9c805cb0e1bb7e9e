"""What a partition keeps of drift: rows binned by their references, per group of series and pane of event time.

A group is a model, or one of its segments (`m{feature.region=eu}`); its features share one array [panes, features, bins], which all the
values of a batch are folded into by one call of the `profile` op. What has no reference yet is kept as values, until it is merged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
import pyarrow as pa

from engine.batch import Batch, distinct
from engine.detectors.drift_reference import BINS, NULL, WIDTH, Reference, category_code
from engine.sketch import Sketch
from engine.state import State
from kernels import profile

NAMES_KEPT = 4096
NEW_KEPT = 16
MANY = 512
"""Rows from which a call of the `profile` op for each feature is faster than one for all of them."""


class Rows:
    """The rows of a batch that count (not late), with what is needed to fold them: features as numbers, panes, segments."""

    def __init__(self, batch: Batch, features: Sequence[str], segments: Sequence[str], pane_us: int):
        self.batch, self.features, self.segments = batch, features, segments
        self.pane = batch.time_us // pane_us
        self.texts = {f: batch.codes(f) for f in features if is_text(batch.array(f).type)}
        self.numbers = {f: batch.floats(f) for f in features if f not in self.texts}

    def values(self, feature: str, rows: np.ndarray) -> np.ndarray:
        """float64[n]: numbers as they are, categories as stable codes, NaN where null."""
        if feature in self.numbers:
            return self.numbers[feature][rows].astype(np.float64)
        codes, words = self.texts[feature]
        return np.array([np.nan if w is None else category_code(str(w)) for w in words] or [np.nan])[codes[rows]]

    def names(self, feature: str) -> dict[str, str]:
        """What each code of a text column stands for."""
        words = self.texts[feature][1] if feature in self.texts else []
        return {str(int(category_code(str(w)))): str(w) for w in words if w is not None}

    def binnable(self, feature: str, reference: Reference, rows: np.ndarray | slice) -> np.ndarray:
        """float32[n]: what the `profile` op bins by the reference's edges."""
        if feature in self.numbers:
            values = self.numbers[feature][rows]
            return reference.ranked(values) if reference.exact else values
        codes, words = self.texts[feature]
        known = {code: i for i, code in enumerate(reference.points.tolist())} if reference.exact else {}
        table = [np.nan if w is None else known.get(category_code(str(w)), WIDTH + 1) for w in words] or [np.nan]
        return np.array(table, np.float32)[codes[rows]]

    def unseen(self, feature: str, reference: Reference) -> list[str]:
        """Categories that the reference does not have, the first 16; none where it holds but the commonest ones."""
        if feature not in self.texts or not reference.exact or reference.counts[NULL - 1]:
            return []
        known = set(reference.points.tolist())
        new = (str(w) for w in self.texts[feature][1] if w is not None and category_code(str(w)) not in known)
        return list(islice(new, NEW_KEPT))

    def segment_codes(self, rows: np.ndarray) -> np.ndarray:
        """float64[n, segments]: the code of each row's segment, by every column that segments are made of."""
        out = np.full((len(rows), len(self.segments)), np.nan)
        for i, column in enumerate(self.segments):
            if column in self.batch.columns:
                codes, words = self.batch.codes(column)
                out[:, i] = np.array([category_code(segment(column, w)) for w in words] or [np.nan])[codes[rows]]
        return out


def segment(column: str, word: object) -> str:
    """The name of a segment.

    >>> segment("feature.region", "eu")
    'feature.region=eu'
    """
    return f"{column}={'-' if word is None else word}"


def fold(state: State, group: str, rows: Rows, index: np.ndarray | slice, references: Mapping[str, Reference]) -> None:
    """Fold rows into the group's panes; `references`: those of the features that have one, all of the same group."""
    features = state.records.setdefault("drift.features", {}).setdefault(group, [])
    features += [f for f in references if f not in features]
    state.records.setdefault("drift.basis", {}).update({f"{group}/{feature}": known.basis for feature, known in references.items()})
    pane = rows.pane[index]
    low = int(pane.min())
    each, of_row = distinct(pane - low, int(pane.max()) - low + 1)
    panes = each + low
    held, counts = places(state, group, panes, len(features))
    place = (np.searchsorted(held, panes).astype(np.int32) * len(features))[of_row]
    flat, order = profile.Profile(counts.reshape(-1, BINS)), [features.index(f) for f in references]
    if len(place) >= MANY:  # one series a call: all values have the same edges, which are compared eight at a time
        for at, (feature, reference) in zip(order, references.items(), strict=True):
            profile.profile(rows.binnable(feature, reference, index), place + np.int32(at), reference.edges, flat)
        return
    values = np.stack([rows.binnable(f, r, index) for f, r in references.items()])
    edge_rows = np.zeros((len(held), len(features)), np.int32)
    edge_rows[:, order] = np.arange(len(order))
    edges = profile.stack([r.edges for r in references.values()])
    slots = (place + np.array(order, np.int32)[:, None]).reshape(-1)
    profile.profile(values.reshape(-1), slots, edges, flat, edge_rows=edge_rows.reshape(-1))


def places(state: State, group: str, panes: np.ndarray, features: int) -> tuple[np.ndarray, np.ndarray]:
    """The group's panes int64[P] and counts int64[P, features, 35], with room for these panes and so many features."""
    held = state.arrays.get(f"drift.panes/{group}", np.empty(0, np.int64))
    counts = state.arrays.get(f"drift.counts/{group}", np.empty((0, features, BINS), np.int64))
    new = np.setdiff1d(panes, held, assume_unique=True)
    if len(new) or counts.shape[1] < features:
        wider = np.zeros((len(held) + len(new), features, BINS), np.int64)
        wider[: len(held), : counts.shape[1]] = counts
        merged = np.concatenate([held, new])
        order = np.argsort(merged, kind="stable")
        ascending = not len(held) or not len(new) or new[0] > held[-1]
        held, counts = (merged, wider) if ascending else (merged[order], wider[order])
        state.arrays[f"drift.panes/{group}"], state.arrays[f"drift.counts/{group}"] = held, counts
    return held, counts


def collect(state: State, detector: str, before: int) -> list[Sketch]:
    """Sketches of the panes before that one, and no trace of them in the state."""
    sketches = []
    for name in [n for n in state.arrays if n.startswith("drift.panes/")]:
        group = name.removeprefix("drift.panes/")
        panes, counts = state.arrays[name], state.arrays[f"drift.counts/{group}"]
        closed = int(np.searchsorted(panes, before))
        if closed == len(panes):
            del state.arrays[name], state.arrays[f"drift.counts/{group}"]
        elif closed:
            state.arrays[name], state.arrays[f"drift.counts/{group}"] = panes[closed:].copy(), counts[closed:].copy()
        if closed:
            unseen = state.records.get("drift.unseen", {})
            features = state.records["drift.features"][group]
            of_feature = np.ascontiguousarray(counts[:closed].swapaxes(0, 1))
            for i, feature in enumerate(features[: len(of_feature)]):
                seen = of_feature[i].any(axis=1) if len(features) > 1 else slice(None)
                series = f"{group}/{feature}"
                kept = unseen.pop(series, {})
                basis = state.records.get("drift.basis", {}).get(series, "")
                sketches.append(Sketch(detector, series, panes[:closed][seen], of_feature[i][seen], unseen=kept, basis=basis))
    for name in [n for n in state.arrays if n.startswith("drift.values/")]:
        series, kept = name.removeprefix("drift.values/"), state.arrays.pop(name)
        closed_rows = kept[:, 0] < before
        if not closed_rows.all():
            state.arrays[name] = kept[~closed_rows]
        if closed_rows.any():
            kept = kept[closed_rows]
            names = state.records.get("drift.names", {}).get(series, {})
            none = np.empty(0, np.int64), np.empty((0, BINS), np.int64)
            sketches.append(Sketch(detector, series, *none, kept[:, 1:], kept[:, 0].astype(np.int64), names))
    return sketches


def keep_values(state: State, series: str, rows: Rows, feature: str, index: np.ndarray, most_series: int) -> None:
    """Put rows aside to learn a reference from: pane, value, segments. Beyond `most_series` series they are counted and left out."""
    known = state.records.setdefault("drift.names", {})
    if series not in known and len(known) >= most_series:
        state.records["drift.refused"] = state.records.get("drift.refused", 0) + len(index)
        return
    names = known.setdefault(series, {})
    names.update(dict(list(rows.names(feature).items())[: max(0, NAMES_KEPT - len(names))]))
    for column in rows.segments:
        if column in rows.batch.columns:
            words = [segment(column, w) for w in rows.batch.codes(column)[1]]
            names.update({str(int(category_code(w))): w for w in words[:NAMES_KEPT]})
    added = np.column_stack([rows.pane[index], rows.values(feature, index), rows.segment_codes(index)])
    kept = state.arrays.get(f"drift.values/{series}")
    fits = kept is not None and kept.shape[1] == added.shape[1]  # else `segments` was changed: learning begins again
    state.arrays[f"drift.values/{series}"] = np.concatenate([kept, added]) if fits else added


def note_unseen(state: State, series: str, words: Sequence[str], time_us: int) -> None:
    """Remember the names of categories that the reference does not have, the 16 first ones, with when they came last."""
    if words:
        seen = state.records.setdefault("drift.unseen", {}).setdefault(series, {})
        for word in words:
            if word in seen or len(seen) < NEW_KEPT:
                seen[word] = max(time_us, seen.get(word, time_us))


def binned(reference: Reference, values: np.ndarray, panes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(panes, counts int64[P, 35]) of values."""
    each, at = np.unique(panes, return_inverse=True)
    counts = np.zeros((len(each), BINS), np.int64)
    if len(each):
        reference.fold(np.ascontiguousarray(values), at.astype(np.int32), counts)
    return each, counts


def usable(kind: pa.DataType) -> bool:
    """Whether a column can be followed: numbers, booleans or text."""
    return is_text(kind) or any(of(kind) for of in (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean, pa.types.is_decimal))


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds categories."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
