"""Watching bounded quantities of many series with e-detectors: what `rates` and `grounding` share.

fold      counts a batch's rows by series, pane of event time and column (`engine.bounded`), nothing else
merge     adds the panes of all partitions; the first rows of a quantity make its null, unless a baseline or the operator gave it
judge     takes the panes in order, one step of an e-detector a pane (`kernels.edetector`); the false-alarm budget is divided among the
          series that are active (`engine.multiplicity`). An alarm tells when the change began and the share before and since; what else
          moved in that pane is told by e-BH, as evidence and not as further alarms

A series is `kind:key`, with the quantities of its kind; an alert's key is `key/quantity`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from engine import samples, tally
from engine.alerts import Severity, time_text
from engine.batch import Batch
from engine.bounded import LANES, Null, Quantity, allowed, counted, edge_value, lane_of, lanes, learn, value_bins
from engine.finding import Context, Finding, Judgement, Scores, Settings
from engine.multiplicity import Spending, Spent, e_bh
from engine.sketch import Sketch
from engine.state import NEVER, ArraySpec, State
from kernels.edetector import PARTS, Steps, edetector

log = logging.getLogger(__name__)
NO_PANES, NO_COUNTS = np.empty(0, np.int64), np.empty((0, 0), np.int64)
LEARNING_PANES = 8
FITTING_ROWS = 1 << 40
DOUBLINGS, LEAST_WORTH = 4, 4
"""A reference whose rows are worth less than a fourth of the rows that were asked for is doubled, up to four times: rows that come in long
clusters say little of what is usual, whatever their number."""
EXTENT = 0.05
SCORED_US = 60_000_000
"""A series has a score row at its first step in a minute, and wherever it alarms."""


class WatchSettings(Settings):
    """`reference_rows`: rows of a quantity that its null is learned from, where no baseline gives it; up to 16 times as many, where rows
    come in clusters. `odds_floor`: a share whose odds
    changed by less is no finding. `quiet_s`: an alert ends after this long without evidence. `max_series`: series kept at most; rows of
    further ones are counted and left out."""

    reference_rows: int = Field(2048, ge=256)
    odds_floor: float = Field(1.5, ge=1)
    quiet_s: float = Field(3600.0, gt=0)
    max_series: int = Field(5000, gt=0)


@dataclass(frozen=True)
class Kind:
    """What is watched of a kind of series: whose rows, which quantities, and what is said of them. `labels`: of a key; `suited`: a quantity
    as one key has it, where keys differ. `sampled`: the kind whose rows are its samples, where it has none of its own."""

    stream: str
    quantities: tuple[Quantity, ...]
    labels: Callable[[str], dict[str, str]]
    tags: Mapping[str, tuple[str, ...]]
    suited: Callable[[str, Quantity], Quantity] = lambda key, quantity: quantity
    sampled: str = ""

    def columns(self) -> list[int]:
        """The first column of each quantity, and the number of columns."""
        return np.cumsum([0, *(q.width for q in self.quantities)]).tolist()


@dataclass(frozen=True)
class Due:
    """Steps of one series that came due: `panes` int64[n], `successes` float64[n, T], `rows` float64[n]."""

    slot: int
    series: str
    panes: np.ndarray
    successes: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class Taken:
    """Steps of all series, as they were judged: `end_us`, `slots` int64[n] and int32[n], what the op says and what they spent."""

    end_us: np.ndarray
    slots: np.ndarray
    steps: Steps
    spent: Spent


class Watch:
    """The verbs of a population detector, for one detector `name` whose series are of these kinds."""

    def __init__(self, name: str, kinds: Mapping[str, Kind], settings: WatchSettings, context: Context):
        self.name, self.kinds, self.settings, self.pane_us = name, kinds, settings, context.pane_us
        self.reference_rows = FITTING_ROWS if context.fitting else settings.reference_rows
        self.table = f"{name}.series"
        self.spending = Spending(self.table, context.budget.per_week.get(name, context.budget.default), context.pane_us)
        self.given: dict[str, Any] = context.baseline.get(name, {})

    def population_arrays(self) -> Sequence[ArraySpec]:
        """By series: the e-detector's state, its lanes, and when a score was last told."""
        return (
            *self.spending.arrays(),
            ArraySpec(f"{self.name}.state", "float64", (self.table, PARTS, LANES)),
            ArraySpec(f"{self.name}.lanes", "float64", (self.table, 4, LANES)),
            ArraySpec(f"{self.name}.told", "int64", (self.table,), NEVER),
        )

    def fold(
        self,
        state: State,
        kind: str,
        batch: Batch,
        codes: np.ndarray,
        keys: Sequence[str],
        panes: np.ndarray,
        columns: Sequence[np.ndarray | None],
    ) -> None:
        """Count the batch's rows, and note where some of them stand. `codes`: int[n] into `keys`, -1 for rows left out; `panes`: int64[n];
        `columns`: by quantity float[n], NaN where a row has none: 0 or 1 for a share, the value for a number; None: no row has one."""
        codes, panes = tally.plain(codes, np.int64), tally.plain(panes, np.int64)
        rows, low, high = tally.reach(codes, panes)
        if not rows:
            return
        samples.fold(state, self.name, batch, panes, self.pane_us, codes, [f"{kind}:{key}" for key in keys])
        known = zip(self.kinds[kind].quantities, self.kinds[kind].columns(), columns, strict=False)
        told = [(quantity, at, column) for quantity, at, column in known if column is not None]
        for quantity, _, column in told:  # of a share whose rise is a finding, the rows that make it
            if not quantity.quantiles and quantity.direction != "fall" and (made := column == 1).any():
                named = [f"{kind}:{key}/{quantity.name}" for key in keys]
                samples.fold(state, self.name, batch, panes, self.pane_us, np.where(made, codes, -1), named)
        span = high - low + 1
        of_key, pane, column_of, counts = counted_cells(codes, panes, low, span, len(keys), told)
        table = np.column_stack([pane + low, column_of, counts])
        starts = np.flatnonzero(np.diff(of_key, prepend=-1))
        for code, part in zip(of_key[starts].tolist(), np.split(table, starts[1:]), strict=True):
            self._append(state, f"{self.name}.cells/{kind}:{keys[code]}", part)

    def _append(self, state: State, name: str, part: np.ndarray) -> None:
        held = state.arrays.get(name)
        if held is not None:
            state.arrays[name] = np.concatenate([held, part])
        elif sum(n.startswith(f"{self.name}.cells/") for n in state.arrays) < self.settings.max_series:
            state.arrays[name] = part
        else:
            refused = f"{self.name}.refused"
            state.records[refused] = state.records.get(refused, 0) + int(part[:, 2].sum())

    def collect(self, state: State, before_us: int) -> list[Sketch]:
        """Sketches of the panes that end by then, and no trace of them in the state."""
        prefix, before, sketches = f"{self.name}.cells/", before_us // self.pane_us, []
        for name in [n for n in state.arrays if n.startswith(prefix)]:
            kept = state.arrays.pop(name)
            closed = kept[:, 0] < before
            if not closed.all():
                state.arrays[name] = kept[~closed]
            if closed.any():
                sketches.append(Sketch(self.name, name.removeprefix(prefix), NO_PANES, NO_COUNTS, cells=kept[closed]))
        return sketches

    def merge(self, sketches: Sequence[Sketch], state: State) -> None:
        """Add merged panes to what is being learned, or make them due."""
        due = state.pending.setdefault(self.name, [])
        for sketch in sketches:
            kind, _, key = sketch.series.partition(":")
            if kind not in self.kinds:
                log.warning("%s: %s is no longer watched", self.name, sketch.series)
                continue
            first = self.kinds[kind].columns()
            for quantity, low, high in zip(self.kinds[kind].quantities, first[:-1], first[1:], strict=True):
                mine = (sketch.cells[:, 1] >= low) & (sketch.cells[:, 1] < high)
                if mine.any():
                    cells = sketch.cells[mine] - np.array([0, low, 0])
                    self._take(state, kind, f"{key}/{quantity.name}", quantity, cells, due)

    def _take(self, state: State, kind: str, series: str, quantity: Quantity, cells: np.ndarray, due: list[Due]) -> None:
        nulls = state.records.setdefault(f"{self.name}.nulls", {})
        if series not in nulls:
            if quantity.limit is not None:
                null, last = allowed(quantity), NEVER
            elif series in self.given:
                null, last = Null.of(self.given[series]), NEVER
            elif (learned := self._learn(state, series, quantity, cells)) is None:
                return
            else:
                null, last = learned
            nulls[series] = null.record()
            cells = cells[cells[:, 0] > last]
        table = state.table(self.table)
        if series not in table.index and len(table.keys) >= self.settings.max_series:
            state.records[f"{self.name}.refused"] = state.records.get(f"{self.name}.refused", 0) + int(cells[:, 2].sum())
            return
        known = series in table.index
        null = Null.of(nulls[series])
        slot = int(state.slots(self.table, [series], int(cells[-1, 0]) * self.pane_us if len(cells) else 0)[0])
        if not known:
            suited = self.kinds[kind].suited(series.rpartition("/")[0], quantity)
            state[f"{self.name}.lanes"][slot] = lanes(suited, null)
            state.records.setdefault(f"{self.name}.kinds", {})[series] = kind
        panes, successes, rows = counted(quantity, cells, null.edges)
        if (some := rows > 0).any():
            due.append(Due(slot, series, panes[some], successes[some], rows[some]))

    def _learn(self, state: State, series: str, quantity: Quantity, cells: np.ndarray) -> tuple[Null, int] | None:
        """The null and the last pane it is from, once there are enough rows over enough panes."""
        name = f"{self.name}.learning/{series}"
        held = state.arrays.get(name)
        if held is None and sum(n.startswith(f"{self.name}.learning/") for n in state.arrays) >= self.settings.max_series:
            return None
        cells = cells if held is None else np.concatenate([held, cells])  # merged panes are complete, and come in order
        panes, _, rows = counted(quantity, cells, ())
        sums = np.cumsum(rows)
        tried = state.records.setdefault(f"{self.name}.tried", {})
        for doubling in range(tried.get(series, 0), DOUBLINGS + 1):
            enough = np.flatnonzero((sums >= self.reference_rows << doubling) & (np.arange(1, len(panes) + 1) >= LEARNING_PANES))
            if not len(enough):
                break
            last = int(panes[enough[0]])
            null = learn(quantity, cells[cells[:, 0] <= last], self.settings.odds_floor)
            if min(null.worth) >= self.reference_rows / LEAST_WORTH or doubling == DOUBLINGS:
                state.arrays.pop(name, None)
                tried.pop(series, None)
                return null, last
            tried[series] = doubling + 1
        state.arrays[name] = cells
        return None

    def fitted(self, states: Sequence[State], population: State) -> dict[str, Any]:
        """What a baseline keeps: the null of every series."""
        prefix, out = f"{self.name}.learning/", {}
        for name in [n for n in population.arrays if n.startswith(prefix)]:
            series = name.removeprefix(prefix)
            wanted = series.rpartition("/")[2]
            quantity = next(q for kind in self.kinds.values() for q in kind.quantities if q.name == wanted)
            out[series] = learn(quantity, population.arrays[name], self.settings.odds_floor).record()
        return out

    def judge(self, state: State, now_us: int) -> Judgement:
        """Take the due steps of all series in the order of their panes."""
        due: list[Due] = state.pending.pop(self.name, [])
        if not due:
            return Judgement()
        panes = np.concatenate([d.panes for d in due])
        slots = np.repeat(np.array([d.slot for d in due], np.int32), [len(d.panes) for d in due])
        order = np.lexsort((slots, panes))
        panes, slots = panes[order], slots[order]
        successes, rows = np.concatenate([d.successes for d in due])[order], np.concatenate([d.rows for d in due])[order]
        spent = self.spending.spend(state, panes, slots)
        end_us = (panes + 1) * self.pane_us
        used, place = np.unique(slots, return_inverse=True)
        null, other, power, weight = np.ascontiguousarray(state[f"{self.name}.lanes"][used].transpose(1, 0, 2))
        own, at = state[f"{self.name}.state"][used], place.astype(np.int32)
        _, steps = edetector(successes, rows, spent.step, end_us.astype(np.float64), at, null, other, power, weight, own)
        state[f"{self.name}.state"][used] = own
        all_steps = Taken(end_us, slots, steps, spent)
        findings = [self._finding(state, i, all_steps) for i in np.flatnonzero(steps.e >= 1).tolist()]
        return Judgement(self._scores(state, all_steps), findings)

    def _scores(self, state: State, taken: Taken) -> list[Scores]:
        """By stream: log10 of the e-detector's value as if each step spent 1, and of the average run length, which it must exceed."""
        slots, minute, alarm = taken.slots, taken.end_us // SCORED_US, taken.steps.e >= 1
        told = state[f"{self.name}.told"]
        order = np.argsort(slots, kind="stable")
        before = np.empty(len(slots), np.int64)
        before[order[1:]] = minute[order[:-1]]
        of_slot, first = np.unique(slots, return_index=True)
        before[first] = told[of_slot]
        told[of_slot] = minute[len(slots) - 1 - np.unique(slots[::-1], return_index=True)[1]]
        table = state.table(self.table).keys
        streams = {slot: self._kind(state, table[slot]).stream for slot in of_slot.tolist()}
        stream_of = np.array([streams[s] for s in slots.tolist()])
        out = []
        for stream in sorted(set(streams.values())):
            chosen = np.flatnonzero(((minute != before) | alarm) & (stream_of == stream))
            keys, index = np.unique(slots[chosen], return_inverse=True)
            length = -np.log10(taken.spent.pane[chosen])
            score = np.maximum(np.log10(np.maximum(taken.steps.e[chosen], 1e-300)) + length, 0.0)
            names = [table[k] for k in keys.tolist()]
            out.append(Scores(self.name, stream, names, index.astype(np.int32), taken.end_us[chosen], score, length, alarm[chosen]))
        return out

    def _kind(self, state: State, series: str) -> Kind:
        return self.kinds[self._kind_name(state, series)]

    def _kind_name(self, state: State, series: str) -> str:
        return str(state.records[f"{self.name}.kinds"][series])

    def _finding(self, state: State, i: int, taken: Taken) -> Finding:
        slot, steps = int(taken.slots[i]), taken.steps
        series = state.table(self.table).keys[slot]
        kind = self._kind(state, series)
        key, _, name = series.rpartition("/")
        quantity = next(q for q in kind.quantities if q.name == name)
        null = Null.of(state.records[f"{self.name}.nulls"][series])
        test, direction = lane_of(int(steps.lane[i]))
        before, after = null.mean[test], float(steps.successes[i] / max(steps.rows[i], 1.0))
        allowed_share = (null.rise if direction == "rise" else null.fall)[test]
        since_us, at_us = int(steps.since_us[i]), int(taken.end_us[i])
        what, verb = quantity.words, "rose" if direction == "rise" else "fell"
        if quantity.quantiles:
            what = f"share of {quantity.words} over {edge_value(null.edges[test]):.3g}"
        rows = "" if quantity.quantiles or direction == "fall" else f"/{name}"
        length = 1 / taken.spent.pane[i]
        evidence: dict[str, Any] = {
            "statistic": "e-detector, Shiryaev-Roberts mixture of 8 bets a test and direction", "quantity": name, "direction": direction,
            "null": f"the {what} is {'at most' if direction == 'rise' else 'at least'} {allowed_share:.4g}",
            "average_run_length": {"steps": length, "step_s": self.pane_us / 1e6},
            "began": time_text(since_us), "began_us": since_us, "rows_since": int(steps.rows[i]), "delay_s": (at_us - since_us) / 1e6,
            "before": before, "after": after, "odds_ratio": odds_ratio(after, before),
            "reference": {"rows": null.rows, "worth_rows": round(null.worth[test]), "wander": null.wander[test], "power": null.power[test]},
            "also_moved": self._extent(state, i, taken), "window": {"from_us": since_us, "to_us": at_us, "rows": int(steps.rows[i])},
            "histogram": [
                {"bin": named, "reference": round(null.rows * share), "window": round(float(steps.rows[i]) * now)}
                for named, share, now in ((f"{what}: yes", before, after), (f"{what}: no", 1 - before, 1 - after))
            ],
        }  # fmt: skip
        if quantity.quantiles:
            evidence["over"] = edge_value(null.edges[test])
        severity: Severity = "error" if odds_ratio(after, before) > 4 or odds_ratio(before, after) > 4 else "warning"
        return Finding(
            self.name, kind.stream, series, at_us, at_us, severity, title=f"{quantity.words} of {key} {verb}",
            summary=f"The {what} {verb} from {before:.3g} to {after:.3g} over {int(steps.rows[i]):,} rows since {time_text(since_us)}.",
            score=float(np.log10(steps.e[i]) + np.log10(length)), threshold=float(np.log10(length)), e_value=float(steps.e[i] * length),
            evidence=evidence, labels=kind.labels(key) | {"quantity": name}, tags=kind.tags.get(name, ()),
            quiet_us=int(max(self.settings.quiet_s * 1e6, 3 * (at_us - since_us))),
            sampled=(f"{kind.sampled or self._kind_name(state, series)}:{key}{rows}",),
        )  # fmt: skip

    def _extent(self, state: State, i: int, taken: Taken) -> list[str]:
        """What else moved: series of this pane that e-BH rejects at 5 %, e-values being M over all that the series has spent."""
        same = np.flatnonzero(taken.end_us == taken.end_us[i])
        moved = e_bh(taken.steps.e[same] / taken.spent.clock[same], EXTENT)
        keys = state.table(self.table).keys
        return sorted(keys[taken.slots[j]] for j in same[moved].tolist() if j != i)


def odds_ratio(after: float, before: float) -> float:
    """How many times as high the odds are; shares of 0 and 1 count as a hair's breadth from them."""
    a, b = np.clip(after, 1e-6, 1 - 1e-6), np.clip(before, 1e-6, 1 - 1e-6)
    return float(a / (1 - a) * (1 - b) / b)


def counted_cells(
    codes: np.ndarray, panes: np.ndarray, low: int, span: int, keys: int, told: Sequence[tuple[Quantity, int, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(key, pane, column, how many) of the cells that rows fall into, in their order; a table of all cells where that is not much larger
    than the rows. `told`: quantities, their first column, the rows' values."""
    own = np.cumsum([0, *(quantity.width for quantity, _, _ in told)]).tolist()
    width = own[-1]
    base = np.empty(len(codes), np.int64)
    tally.cells(codes, panes, low, span, width, base)
    base = tally.plain(base, np.int64)
    most, at_most = keys * span * width, 2 * len(codes) * len(told)
    if most <= 8 * at_most + (1 << 16):
        table = np.zeros(most, np.int32)
        for (quantity, _, column), at in zip(told, own, strict=False):
            (tally.add_numbers if quantity.quantiles else tally.add_shares)(base, at, tally.plain(column, np.float64), table)
        cells, counts = np.empty(min(most, at_most), np.int64), np.empty(min(most, at_most), np.int64)
        n = tally.filled(table, cells, counts)
        cells, counts = cells[:n], counts[:n]
    else:
        found, counts_in = [np.empty(0, np.int64)], base >= 0
        for (quantity, _, column), at in zip(told, own, strict=False):
            if quantity.quantiles:
                bins = value_bins(column)
                found.append((base + at + bins)[counts_in & (bins >= 0)])
            else:
                found += [(base + at)[counts_in & ~np.isnan(column)], (base + at + 1)[counts_in & (column == 1)]]
        cells, counts = np.unique(np.concatenate(found), return_counts=True)
    of_key, rest = np.divmod(cells, span * max(1, width))
    pane, of_own = np.divmod(rest, max(1, width))
    column_of = np.concatenate([np.empty(0, np.int64), *(np.arange(at, at + quantity.width) for quantity, at, _ in told)])
    return of_key, pane, column_of[of_own], counts
