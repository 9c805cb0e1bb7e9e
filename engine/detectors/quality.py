"""Quality: do rows keep the contract of their stream? Types, ranges, values, nulls, uniqueness, freshness, unseen columns, missing series.

observe   evaluates every rule on every row (`engine.contract`, `engine.contract_checks`), counts what breaks it by pane of event time,
          and keeps the places of the first few
merge     adds the panes of all partitions
judge     a rule that allows nothing is a fact: each pane that broke it is a finding. A rule that allows a rate (`max_rate`) is a bounded
          stream: an e-detector says when the rate is exceeded (`engine.watch`), within the false-alarm budget

A contract is a Pandera schema (its YAML, or Python where it is configured) or is written out in the configuration in the same form.
Uniqueness is judged within a partition, over the last 131,072 rows. Blind to rows that could not be read at all: those are dead letters.
Score: rows that broke the rule in that second, or log10 of the e-detector's value.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from engine import samples as places
from engine.alerts import time_text
from engine.batch import Batch
from engine.bounded import Quantity
from engine.contract import Rule
from engine.contract_config import Contract
from engine.contract_unique import repeated
from engine.finding import Context, Finding, Judgement, Scores, Settings
from engine.sketch import Sketch, added_cells
from engine.state import ArraySpec, State
from engine.watch import NO_COUNTS, NO_PANES, Kind, Watch, WatchSettings

SAMPLES = 5
SHOWN = 60
LINE = "\x00"
TAGS = {
    "inference": ("OWASP ML01:2023", "OWASP LLM05:2025"), "agent": ("OWASP ML01:2023", "OWASP LLM05:2025"),
    "feedback": ("AML.T0020", "OWASP LLM04:2025"), "evaluation": ("OWASP ML09:2023",), "hardware": ("NIST AI RMF MEASURE 2.4",),
}  # fmt: skip
"""What malformed rows of a stream may be: manipulated input, poisoned data, manipulated results."""
Stream = Literal["inference", "agent", "hardware", "feedback", "evaluation"]


class QualitySettings(Settings):
    """`contracts`: by stream. `quiet_s`: an alert ends after this long without a violation."""

    contracts: dict[Stream, Contract] = Field(default_factory=dict)
    quiet_s: float = Field(300.0, gt=0)


@dataclass(frozen=True)
class Broken:
    """A rule that a pane broke: rows of the pane, how many broke it, places of some."""

    stream: str
    rule: str
    pane: int
    rows: int
    count: int
    samples: tuple[dict[str, Any], ...]


class Quality:
    """Contracts of all streams. A partition keeps counts of open panes; the population, e-detectors and when a series came last."""

    name: ClassVar[str] = "quality"

    def __init__(self, settings: QualitySettings, context: Context):
        self.settings, self.pane_us = settings, context.pane_us
        self.contracts: dict[str, Contract] = {str(stream): contract for stream, contract in settings.contracts.items()}
        self.rules = {stream: contract.rules() for stream, contract in self.contracts.items()}
        kinds = {}
        for stream, contract in self.contracts.items():
            limited = [(r.name, contract.limit(r.name)) for r in self.rules[stream]]
            quantities = tuple(Quantity(name, f"share of rows that break {name}", "rise", limit=limit) for name, limit in limited if limit)
            tags = {name: TAGS[stream] for name, limit in limited if limit}
            kinds[stream] = Kind(stream, quantities, lambda key: {"stream": key}, tags)
        self.watch = Watch(self.name, kinds, WatchSettings(quiet_s=settings.quiet_s), context)

    @property
    def streams(self) -> tuple[str, ...]:
        """Those that have a contract."""
        return tuple(self.contracts)

    def arrays(self) -> Sequence[ArraySpec]:
        return ()  # panes come and go: they are free-form arrays

    def population_arrays(self) -> Sequence[ArraySpec]:
        return self.watch.population_arrays()

    def observe(self, batch: Batch, state: State) -> None:
        """Count rows, and those that break a rule, by pane."""
        contract = self.contracts.get(batch.stream)
        if contract is None or not len(batch):
            return
        panes = batch.time_us // self.pane_us
        counts, samples = [cells_of(panes, 0, np.ones(len(batch), np.int64))], state.records.setdefault("quality.samples", {})
        held = Counter(tuple(key.split(LINE)[:3]) for key in samples)
        for number, rule in enumerate(self.rules[batch.stream], 1):
            found = repeated(rule, batch, state) if rule.check == "unique" else contract.broken(rule, batch)
            if found.any():
                counts.append(cells_of(panes, number, found))
                self._sample(samples, held, rule, batch, panes, np.flatnonzero(found))
                if contract.limit(rule.name):
                    named = f"{batch.stream}:{batch.stream}/{rule.name}"
                    places.fold(state, self.name, batch, panes, self.pane_us, np.where(found, 0, -1), [named])
        for name, found in contract.python_failures(batch).items():
            if found.any():
                state.records.setdefault("quality.python", {}).setdefault(batch.stream, {})[name] = None
                counts.append(cells_of(panes, python_column(name), found))
                self._sample(samples, held, Rule((name,), "", {}), batch, panes, np.flatnonzero(found))
        append(state, f"quality.cells/{batch.stream}", np.concatenate(counts))
        if contract.series is not None:
            codes, keys = batch.keys(contract.series.by)
            for code, key in enumerate(keys[: contract.series.most]):
                append(
                    state,
                    f"quality.seen/{batch.stream}{LINE}{key}",
                    cells_of(panes[codes == code], 0, np.ones((codes == code).sum(), np.int64)),
                )

    def _sample(
        self, samples: dict[str, str], held: Counter[tuple[str, ...]], rule: Rule, batch: Batch, panes: np.ndarray, rows: np.ndarray
    ) -> None:
        """Remember the first few rows of each pane that break a rule: partition, offset, row in its record, and the value unless it is
        content. `held`: how many there are already, by stream, rule and pane."""
        order = rows[np.argsort(panes[rows], kind="stable")]
        starts = np.flatnonzero(np.diff(panes[order], prepend=panes[order[0]] - 1))
        for mine in np.split(order, starts[1:]):
            place = (batch.stream, rule.name, str(int(panes[mine[0]])))
            for row in mine[: max(0, SAMPLES - held[place])].tolist():
                held[place] += 1
                where = (*place, batch.partition, f"{int(batch.offsets[row]):020d}", str(int(batch.record_rows[row])))
                samples[LINE.join(where)] = value_of(rule, batch, row)

    def collect(self, state: State, before_us: int) -> list[Sketch]:
        """Sketches of the panes that end by then, and no trace of them in the state."""
        before, sketches = before_us // self.pane_us, []
        samples: dict[str, str] = state.records.get("quality.samples", {})
        for name in [n for n in state.arrays if n.startswith(("quality.cells/", "quality.seen/"))]:
            kept = state.arrays.pop(name)
            closed = kept[:, 0] < before
            if not closed.all():
                state.arrays[name] = kept[~closed]
            if closed.any():
                kind, _, series = name.partition("/")
                stream = series.partition(LINE)[0]
                told = {
                    k: v
                    for k, v in samples.items()
                    if kind == "quality.cells" and k.startswith(stream + LINE) and int(k.split(LINE)[2]) < before
                }
                for key in told:
                    del samples[key]
                told |= {f"{LINE}{python_column(rule)}": rule for rule in state.records.get("quality.python", {}).get(stream, ())}
                sketches.append(Sketch(self.name, f"{kind}/{series}", NO_PANES, NO_COUNTS, names=told, cells=kept[closed]))
        return sketches

    def merge(self, sketches: Sequence[Sketch], state: State) -> None:
        """Rules that allow nothing go to `judge` as they are, those that allow a rate to their e-detectors."""
        limited = []
        pending = state.pending.setdefault("quality.broken", [])
        for sketch in sketches:
            kind, _, series = sketch.series.partition("/")
            stream, _, key = series.partition(LINE)
            if stream not in self.contracts:
                continue
            if kind == "quality.seen":
                self._seen(stream, key, sketch.cells[:, 0], state)
                continue
            pending += self._broken(stream, sketch)
            limited.append(Sketch(self.name, f"{stream}:{stream}", NO_PANES, NO_COUNTS, cells=self._limited(stream, sketch.cells)))
        self.watch.merge([s for s in limited if len(s.cells)], state)

    def _broken(self, stream: str, sketch: Sketch) -> list[Broken]:
        """The panes that broke a rule which allows nothing."""
        rules = {number: rule.name for number, rule in enumerate(self.rules[stream], 1) if not self.contracts[stream].limit(rule.name)}
        rules |= {int(key[1:]): name for key, name in sketch.names.items() if key.startswith(LINE)}
        rows = {int(pane): int(n) for pane, column, n in sketch.cells if column == 0}
        samples = sorted((key.split(LINE), value) for key, value in sketch.names.items() if not key.startswith(LINE))
        out = []
        for pane, column, count in sketch.cells.tolist():
            if column in rules:
                mine = [
                    {"partition": parts[3], "offset": int(parts[4]), "row": int(parts[5]), "value": value}
                    for parts, value in samples if parts[1] == rules[column] and int(parts[2]) == pane
                ]  # fmt: skip
                out.append(Broken(stream, rules[column], pane, rows.get(pane, 0), count, tuple(mine[:SAMPLES])))
        return out

    def _limited(self, stream: str, cells: np.ndarray) -> np.ndarray:
        """Rows and violations of the rules that allow a rate, as `Watch` has them: two columns a rule."""
        out, at = [], 0
        for number, rule in enumerate(self.rules[stream], 1):
            if self.contracts[stream].limit(rule.name):
                for column, target in ((0, at), (number, at + 1)):
                    part = cells[cells[:, 1] == column].copy()
                    part[:, 1] = target
                    out.append(part)
                at += 2
        return added_cells(np.concatenate(out)) if out else cells[:0]

    def _seen(self, stream: str, key: str, panes: np.ndarray, state: State) -> None:
        """Note when a series came last; gaps that are over go to `judge`."""
        series = self.contracts[stream].series
        assert series is not None
        last: dict[str, int] = state.records.setdefault("quality.last", {})
        name = f"{stream}{LINE}{key}"
        if name not in last and len(last) >= series.most:
            return
        gap_us, pending = int(series.max_gap_s * 1e6), state.pending.setdefault("quality.missing", [])
        for pane in np.unique(panes).tolist():
            at = (pane + 1) * self.pane_us
            if name in last and at - last[name] > gap_us:
                pending.append((stream, key, last[name], at))
                state.records.get("quality.told", {}).pop(name, None)
            last[name] = at
        state.records.setdefault("quality.since", {}).setdefault(stream, int(panes.min()) * self.pane_us)

    def judge(self, state: State, now_us: int) -> Judgement:
        """What was broken, what is exceeded, who is missing."""
        judgement = self.watch.judge(state, now_us)
        broken_panes: list[Broken] = state.pending.pop("quality.broken", [])
        for stream in sorted({b.stream for b in broken_panes}):
            mine = [b for b in broken_panes if b.stream == stream]
            judgement.scores.append(self._scores(stream, mine))
            judgement.findings += [self._violation(b) for b in mine]
        judgement.findings += self._missing(state, now_us)
        return judgement

    def _scores(self, stream: str, mine: Sequence[Broken]) -> Scores:
        """A row for each pane that broke a rule: how often."""
        keys = [f"{stream}/{b.rule}" for b in mine]
        names = sorted(set(keys))
        at, count = np.array([(b.pane + 1) * self.pane_us for b in mine], np.int64), np.array([float(b.count) for b in mine])
        index = np.array([names.index(k) for k in keys], np.int32)
        return Scores(self.name, stream, names, index, at, count, np.ones(len(mine)), np.ones(len(mine), np.bool_))

    def _violation(self, b: Broken) -> Finding:
        first_us = b.pane * self.pane_us
        return Finding(
            self.name, b.stream, f"{b.stream}/{b.rule}", first_us, first_us + self.pane_us - 1, self.contracts[b.stream].severity,
            title=f"{b.stream} breaks its contract: {b.rule}",
            summary=f"{b.count:,} of {b.rows:,} rows at {time_text(first_us)} break `{b.rule}`.",
            score=float(b.count), threshold=1.0, count=b.count,
            evidence={"rule": b.rule, "rows": b.rows, "violations": b.count, "rate": b.count / max(1, b.rows), "samples": list(b.samples),
                      "statistic": "rows that break the rule", "null": "none: the contract allows no violation",
                      "window": {"from_us": first_us, "to_us": first_us + self.pane_us, "rows": b.rows},
                      "histogram": [{"bin": "break the rule", "reference": 0, "window": b.count},
                                    {"bin": "keep it", "reference": 0, "window": b.rows - b.count}]},
            labels={"stream": b.stream, "rule": b.rule}, tags=TAGS[b.stream], quiet_us=int(self.settings.quiet_s * 1e6),
        )  # fmt: skip

    def _missing(self, state: State, now_us: int) -> list[Finding]:
        """Series that came back after too long, and those that are overdue now."""
        findings = [self._gap(stream, key, since, back) for stream, key, since, back in state.pending.pop("quality.missing", [])]
        last, told = state.records.get("quality.last", {}), state.records.setdefault("quality.told", {})
        for stream, contract in self.contracts.items():
            since = state.records.get("quality.since", {}).get(stream)
            if contract.series is None or since is None:
                continue
            known = {name.partition(LINE)[2] for name in last if name.startswith(stream + LINE)}
            for key in sorted(known | set(contract.series.expected)):
                name = f"{stream}{LINE}{key}"
                came = last.get(name, since)
                if now_us - came > contract.series.max_gap_s * 1e6 and name not in told:
                    told[name] = came
                    findings.append(self._gap(stream, key, came, None))
        return findings

    def _gap(self, stream: str, key: str, since_us: int, back_us: int | None) -> Finding:
        series = self.contracts[stream].series
        assert series is not None
        onset = since_us + int(series.max_gap_s * 1e6)
        last_us = back_us or onset
        return Finding(
            self.name, stream, f"{stream}/{key} missing", onset, last_us, self.contracts[stream].severity,
            title=f"{key} of {stream} is missing",
            summary=f"No row since {time_text(since_us)}; the contract allows {series.max_gap_s:g} s.",
            score=(last_us - since_us) / (series.max_gap_s * 1e6), threshold=1.0,
            evidence={"statistic": "time without a row", "null": f"none: the contract allows {series.max_gap_s:g} s",
                      "window": {"from_us": since_us, "to_us": last_us, "rows": 0},
                      "rule": "missing", "last_seen": time_text(since_us), "max_gap_s": series.max_gap_s, "by": list(series.by),
                      "returned": time_text(back_us) if back_us else None},
            labels={"stream": stream, "series": key}, tags=TAGS[stream], quiet_us=24 * 3600 * 1_000_000, resolved_us=back_us,
        )  # fmt: skip


def cells_of(panes: np.ndarray, column: int, counts: np.ndarray) -> np.ndarray:
    """int64[C, 3] pane, column and sum of counts, of rows.

    >>> cells_of(np.array([5, 5, 6]), 2, np.array([1, 0, 3])).tolist()
    [[5, 2, 1], [6, 2, 3]]
    """
    unique, place = np.unique(panes, return_inverse=True)
    total = np.bincount(place, counts).astype(np.int64)
    some = total > 0
    return np.column_stack([unique, np.full(len(unique), column), total])[some].astype(np.int64)


def python_column(rule: str) -> int:
    """The column of a rule that only a Python schema knows: from its name, so that partitions agree."""
    return (1 << 20) + int.from_bytes(hashlib.blake2b(rule.encode(), digest_size=4).digest(), "little")


def append(state: State, name: str, cells: np.ndarray) -> None:
    """Add cells to a free-form array of the state."""
    held = state.arrays.get(name)
    state.arrays[name] = cells if held is None else np.concatenate([held, cells])


def value_of(rule: Rule, batch: Batch, row: int) -> str:
    """The value that broke the rule, short; nothing of content (texts that may be anybody's words)."""
    if len(rule.columns) != 1 or rule.columns[0] not in batch.columns or rule.check == "unseen":
        return ""
    column = batch.array(rule.columns[0])
    return "" if str(column.type) == "large_string" else str(column[row].as_py())[:SHOWN]
