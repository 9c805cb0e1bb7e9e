"""Samples: where some of the rows behind a finding stand (partition, offset, row of the record), so that a person can read them again.

fold      a partition notes the place of the first row of each key in each pane of event time
collect   hands closed panes over, like the sketches of detectors
merge     the population keeps them; `attached` puts those of a finding's window into its evidence, the newest first, and `trim` keeps the
          newest 32 of each key

What the first row of a pane is does not depend on batches, and places of several partitions are told apart by the partition's name, so the
samples of a finding do not either. Places are kept, never content. Of more than 4,096 keys in a pane those with the smallest hashes stay.

Detectors that judge a partition's own keys keep the places of a key's last rows in a ring; `noted` tells them, before `note` adds the
batch's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from engine import tally
from engine.batch import Batch, distinct
from engine.finding import Finding
from engine.sketch import Sketch
from engine.state import ArraySpec, State

DETECTOR = "samples"
SHOWN, KEPT, OF_PANE, MOST, SMALL = 8, 32, 4096, 1 << 16, 4096
OPEN, HELD = "samples.open/", "samples.held/"
NO_PANES, NO_COUNTS = np.empty(0, np.int64), np.empty((0, 0), np.int64)
UNTIL, KEY, PARTITION, OFFSET, ROW = range(5)
"""Columns of a table of places: end of the pane in microseconds, hash of the key, hash of the partition's name, offset, row."""


@lru_cache(maxsize=1 << 16)
def hashed(text: str) -> int:
    """A signed 64 bit hash, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little", signed=True)


def place(partition: str, offset: int, row: int) -> dict[str, Any]:
    """One row's place, as evidence has it.

    >>> place("requests-0", 17, 0)
    {'partition': 'requests-0', 'offset': 17, 'row': 0}
    """
    return {"partition": partition, "offset": int(offset), "row": int(row)}


def fold(state: State, detector: str, batch: Batch, panes: np.ndarray, pane_us: int, codes: np.ndarray, keys: Sequence[str]) -> None:
    """Note where the first row of each key and pane stands. `codes`: int[n] into `keys`, -1 for rows left out; `panes`: int64[n]."""
    codes, panes = tally.plain(codes, np.int64), tally.plain(panes, np.int64)
    rows, low, high = tally.reach(codes, panes)
    if not rows:
        return
    span = high - low + 1
    if len(keys) * span <= 4 * len(codes) + SMALL:
        of_group = np.full(len(keys) * span, -1, np.int64)
        tally.first_rows(codes, panes, low, span, of_group)
        group = np.flatnonzero(of_group >= 0)
        first = of_group[group]
    else:
        here = np.flatnonzero(codes >= 0)
        group, at = np.unique(codes[here] * span + panes[here] - low, return_index=True)
        first = here[at]
    code, at = np.divmod(group, span)
    used, of_code = distinct(code, len(keys))
    names = np.array([hashed(keys[c]) for c in used.tolist()], np.int64)[of_code]
    new = np.column_stack(
        [(at + low + 1) * pane_us, names, np.full(len(first), hashed(state.name)), batch.offsets[first], batch.record_rows[first]]
    )
    held, sizes = state.arrays.get(OPEN + detector), state.records.setdefault("samples.sizes", {})
    held = new if held is None else np.concatenate([held, new])
    if len(held) > max(SMALL, 2 * sizes.get(detector, 0)):
        held = first_of_pane(held)
        sizes[detector] = len(held)
    state.arrays[OPEN + detector] = held


def first_of_pane(table: np.ndarray) -> np.ndarray:
    """A partition's places: the first row of each pane and key, of at most 4,096 keys of a pane."""
    table = table[np.lexsort((table[:, ROW], table[:, OFFSET], table[:, KEY], table[:, UNTIL]))]
    table = table[starts(table[:, UNTIL], table[:, KEY])]
    return table[within(starts(table[:, UNTIL])) < OF_PANE]


def starts(*columns: np.ndarray) -> np.ndarray:
    """bool[n]: whether a row differs from the one before it."""
    out = np.zeros(len(columns[0]), np.bool_)
    for column in columns:
        out[1:] |= column[1:] != column[:-1]
    out[:1] = True
    return out


def within(begins: np.ndarray) -> np.ndarray:
    """int64[n]: each row's number in its group, where groups begin at these rows.

    >>> within(np.array([True, False, False, True, False])).tolist()
    [0, 1, 2, 0, 1]
    """
    at = np.arange(len(begins))
    return at - np.maximum.accumulate(np.where(begins, at, 0))


def collect(state: State, before_us: int, pane_us: int) -> list[Sketch]:
    """Places in the panes that end by then, and no trace of them in the state."""
    sketches = []
    for name in [n for n in state.arrays if n.startswith(OPEN)]:
        table = first_of_pane(state.arrays.pop(name))
        closed = table[:, UNTIL] <= before_us
        if not closed.all():
            state.arrays[name] = table[~closed]
        if closed.any():
            part, detector = table[closed], name.removeprefix(OPEN)
            names = {str(hashed(state.name)): state.name}
            panes = part[:, UNTIL] // pane_us - 1
            sketches.append(Sketch(DETECTOR, detector, NO_PANES, NO_COUNTS, names=names, columns={"places": part}, column_panes=panes))
    return sketches


def merge(sketches: Iterable[Sketch], state: State) -> None:
    """Add places to the population's."""
    for sketch in sketches:
        state.records.setdefault("samples.partitions", {}).update(sketch.names)
        held = state.arrays.get(HELD + sketch.series)
        new = sketch.columns["places"]
        state.arrays[HELD + sketch.series] = new if held is None else np.concatenate([held, new])


def attached(finding: Finding, state: State) -> Finding:
    """The finding with the places of some rows of its window in its evidence, the newest of each of its keys in turn."""
    table = state.arrays.get(HELD + finding.detector)
    if not finding.sampled or table is None:
        return finding
    if finding.told is not None:
        return replace(finding, told=lambda: attached(finding.whole(), state))
    window = finding.evidence["window"]
    told = table[(table[:, UNTIL] > window["from_us"]) & (table[:, UNTIL] <= window["to_us"])]
    finding.evidence["samples"] = shown(told, finding.sampled, state.records["samples.partitions"])
    return finding


def shown(table: np.ndarray, keys: Sequence[str], partitions: dict[str, str]) -> list[dict[str, Any]]:
    """At most 8 places of these keys, in the order of the keys: the newest of each, then the newest but one of each."""
    order = np.array([hashed(key) for key in keys], np.int64)
    table = newest_first(table[np.isin(table[:, KEY], order)])
    turn = within(starts(table[:, KEY]))
    ranks = {key: i for i, key in reversed(list(enumerate(order.tolist())))}
    rank = np.array([ranks[key] for key in table[:, KEY].tolist()], np.int64)
    chosen = table[np.lexsort((rank, turn))[:SHOWN]]
    return named(chosen[:, PARTITION:], partitions)


def places(table: np.ndarray, state: State) -> list[dict[str, Any]]:
    """Rows (hash of the partition, offset, row) as evidence of the population has them."""
    return named(table, state.records["samples.partitions"])


def named(table: np.ndarray, partitions: dict[str, str]) -> list[dict[str, Any]]:
    """Places whose partitions are hashes, by name."""
    return [place(partitions[str(p)], offset, row) for p, offset, row in table.tolist()]


def newest_first(table: np.ndarray) -> np.ndarray:
    """The table by key, the newest first."""
    return table[np.lexsort((-table[:, ROW], -table[:, OFFSET], table[:, PARTITION], -table[:, UNTIL], table[:, KEY]))]


def trim(state: State) -> None:
    """Keep the newest 32 places of each key, and the newest 65,536 of a detector's; not before there are twice as many as were kept."""
    sizes = state.records.setdefault("samples.sizes", {})
    for name in [n for n in state.arrays if n.startswith(HELD)]:
        table = state.arrays[name]
        if len(table) > max(SMALL, 2 * sizes.get(name, 0)):
            table = newest_first(table)
            table = table[within(starts(table[:, KEY])) < KEPT]
            if len(table) > MOST:
                table = table[np.argsort(-table[:, UNTIL], kind="stable")[:MOST]]
            state.arrays[name] = table
            sizes[name] = len(table)


def ring(prefix: str, table: str, last: int = SHOWN) -> tuple[ArraySpec, ArraySpec]:
    """Arrays for the places of the last rows of each key of a table."""
    return ArraySpec(f"{prefix}.places", "int64", (table, last, 2), -1), ArraySpec(f"{prefix}.placed", "int64", (table,))


def note(state: State, prefix: str, batch: Batch, rows: np.ndarray, slots: np.ndarray) -> None:
    """Remember the places of rows, in their order, in their slots' rings."""
    places, placed = state[f"{prefix}.places"], state[f"{prefix}.placed"]
    order = np.argsort(slots, kind="stable")
    begins = starts(slots[order])
    number = within(begins)
    size = np.diff(np.append(np.flatnonzero(begins), len(order)))
    last = places.shape[1]
    kept = number >= np.repeat(size, size) - last
    slot, at = slots[order][kept], order[kept]
    where = (placed[slot] + number[kept]) % last
    places[slot, where, 0], places[slot, where, 1] = batch.offsets[rows[at]], batch.record_rows[rows[at]]
    np.add.at(placed, slots, 1)


def noted(state: State, prefix: str, slot: int, batch: Batch, rows: np.ndarray) -> list[dict[str, Any]]:
    """The places of these rows of the batch, which the ring has not got yet, and then those in a slot's ring, the newest first."""
    places, placed = state[f"{prefix}.places"][slot], int(state[f"{prefix}.placed"][slot])
    new = [place(state.name, int(batch.offsets[i]), int(batch.record_rows[i])) for i in rows[::-1][: len(places)].tolist()]
    old = [places[i % len(places)] for i in range(placed - 1, max(-1, placed - 1 - len(places)), -1)]
    return (new + [place(state.name, offset, row) for offset, row in old])[: len(places)]
