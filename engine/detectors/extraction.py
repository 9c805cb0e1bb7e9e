"""Extraction: does somebody query a model as one who copies it would? One calibrated score per principal, after every 25 of its rows.

observe   turns each query into novelty features against a reference of benign queries (`extraction_views`), and counts the tails they
          fall into over the principal's last 128, 512 and 2,048 queries (`kernels.tailcounts`)
judge     the e-value of bets that a share of the queries is not benign (`engine.novelty`), made a p-value by what benign windows of that
          length reach. A window is looked at after every 25, 75 or 250 queries, by its length; p times the looks in 2,048 queries, times
          the number of windows and views, bounds how often benign use looks like this in 2,048 queries, however the looks depend on each
          other; the smallest counts. An alarm needs less than the false-alarm budget allows in the event time that the principal takes for
          so many queries. When three in four of the others who sent queries in the same time deviate too, the traffic moves or
          the reference is poor, and only who surpasses them all stands out

Nothing is learned from what is judged: a reference comes from a baseline, or from the first rows of the stream, which are not judged:
`reference_rows`, or up to 16 times as many where they are alike (`telltale_learning_rows` says how many are put aside).
Fails when that reference holds an attack already, and on an attacker who sends the benign distribution's own queries. A batch job or an
evaluation run looks like extraction: `allow` names principals that are scored and never alarm. Score: -log10 of that number,
higher is more anomalous. A principal costs 15 KB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from engine import samples
from engine.alerts import Severity
from engine.batch import Batch
from engine.detectors.extraction_views import (
    MOST_LEARNED,
    POINT_DIMS,
    RECENT_ROWS,
    RECENT_TEXTS,
    VIEWS,
    View,
    fit_learned,
    learn,
    reference_of,
)  # fmt: skip
from engine.evidence import MIN_ALPHA
from engine.finding import Context, Finding, Judgement, Scores, Settings
from engine.novelty import BINS, POWER, RATIO, Novelty
from engine.state import ArraySpec, State
from kernels import tailcounts
from kernels.surprisal import HASHES

TABLE = "extraction.principal"
HALVES = np.array([64, 256, 1024])
HORIZON = 2048
EVERY = 25
UNUSUAL = 6
"""A finding names rows with a feature in the most extreme 5 % of the reference."""
ROW_BITS, ROW_MASK = 20, (1 << 20) - 1
"""Of a row's place, for its number in its record."""
STEPS = np.array([25, 75, 250])
"""Queries between looks at each window."""
FITTING_ROWS = 50_000
NOT_YET = 1 << 62
TAGS = ("AML.T0024.002", "AML.T0040", "OWASP LLM10:2025", "AISVS 11.5.2")


class ExtractionSettings(Settings):
    """`reference_rows`: queries that a reference is learned from, where no baseline gives it; their content is held until then.
    Where queries are alike, up to 16 times as many are learned from, the others by their features alone.
    `allow`: principals (shell patterns) that never alarm. `quiet_s`: an alert ends after this long
    without evidence, and not before its window's queries have been followed by as many."""

    reference_rows: int = Field(1000, ge=100)
    allow: tuple[str, ...] = ()
    quiet_s: float = Field(3600.0, gt=0)


@dataclass(frozen=True)
class Judged:
    """Windows of one view that came due in a batch. `slot`, `row`, `time_us`: whose, at which row; `since_us`: when it was tested before;
    `queries`: how many the principal had sent; `live`: principals by then; `log10_p`: float64[d, windows]."""

    view: View
    novelty: Novelty
    slot: np.ndarray
    row: np.ndarray
    time_us: np.ndarray
    since_us: np.ndarray
    queries: np.ndarray
    live: np.ndarray
    due: tailcounts.Due
    log10_p: np.ndarray
    partition: str

    @property
    def looked(self) -> np.ndarray:
        """bool[d, windows]: which windows are looked at in this row."""
        return self.queries[:, None] % STEPS == 0


class Extraction:
    """Model extraction and distillation, per principal."""

    name: ClassVar[str] = "extraction"
    streams: ClassVar[tuple[str, ...]] = ("inference",)

    def __init__(self, settings: ExtractionSettings, context: Context):
        self.settings = settings
        self.budget = context.budget
        self.baseline: dict[str, Any] = context.baseline.get(self.name, {})
        self.reference_rows = FITTING_ROWS if context.fitting else settings.reference_rows
        self.most_rows = FITTING_ROWS if context.fitting else MOST_LEARNED * settings.reference_rows

    def arrays(self) -> Sequence[ArraySpec]:
        views = [
            spec
            for view in VIEWS
            for spec in (
                ArraySpec(f"extraction.{view.name}.rows", "int64", (TABLE,)),
                ArraySpec(f"extraction.{view.name}.tested_us", "int64", (TABLE,)),
                ArraySpec(f"extraction.{view.name}.log10_p", "float64", (TABLE,), np.nan),
                ArraySpec(f"extraction.{view.name}.since_us", "int64", (TABLE, len(HALVES), 2)),
                ArraySpec(f"extraction.{view.name}.samples", "int64", (TABLE, samples.SHOWN + 1)),
                ArraySpec(f"extraction.{view.name}.counts", "int16", (TABLE, len(HALVES), 2, 2, len(view.features) + 1, BINS)),
            )
        ]
        return (
            *views,
            ArraySpec("extraction.highest", "float64", (TABLE,), np.nan),
            ArraySpec("extraction.judged_us", "int64", (TABLE,)),
            ArraySpec("extraction.first_row", "int64", (TABLE,), NOT_YET),
            ArraySpec("extraction.texts", "uint64", (TABLE, RECENT_TEXTS)),
            ArraySpec("extraction.texts.seen", "int64", (TABLE,)),
            ArraySpec("extraction.likeness", "uint16", (TABLE, RECENT_TEXTS, HASHES)),
            ArraySpec("extraction.likeness.seen", "int64", (TABLE,)),
            ArraySpec("extraction.points", "int16", (TABLE, POINT_DIMS, RECENT_ROWS)),
            ArraySpec("extraction.points.class", "int32", (TABLE, RECENT_ROWS)),
            ArraySpec("extraction.points.seen", "int64", (TABLE,)),
        )

    def observe(self, batch: Batch, state: State) -> None:
        """Fold the rows into their principals' windows, or put them aside to learn from."""
        seen = [(view, rows) for view in VIEWS if (rows := view.rows(batch)) is not None]
        if not seen:
            return
        slots = batch.slots(state, TABLE, ("principal",))
        present = [view.present(rows) & (slots >= 0) for view, rows in seen]
        live = live_principals(slots, np.logical_or.reduce(present), state)
        for (view, rows), there in zip(seen, present, strict=True):
            index = np.flatnonzero(there)
            reference = reference_of(view, state, self.baseline)
            if reference is None and len(index):
                taken = learn(view, state, view.take(rows, index), slots[index], self.reference_rows, self.most_rows)
                index = index[taken:]
                reference = reference_of(view, state, self.baseline)
            if reference is not None and len(index):
                novelty = Novelty.of(reference)
                bins = novelty.bins(view.values(view.take(rows, index), slots[index], reference, state))
                self._fold(view, novelty, bins, slots, index, batch, live, state)

    def _fold(
        self, view: View, novelty: Novelty, bins: np.ndarray, slots: np.ndarray, index: np.ndarray, batch: Batch, live: np.ndarray,
        state: State,
    ) -> None:  # fmt: skip
        prefix, slot, time_us = f"extraction.{view.name}", slots[index], batch.time_us[index]
        queries = state[f"{prefix}.rows"]
        opening = np.flatnonzero(queries[slot] == 0)[::-1]
        state[f"{prefix}.tested_us"][slot[opening]] = time_us[opening]  # of rows with one slot, the first
        windows = tailcounts.Windows(queries, *(state[f"{prefix}.{part}"] for part in ("counts", "since_us", "samples")))
        rule = tailcounts.Rule(HALVES, STEPS, novelty.bets, POWER, UNUSUAL)
        places = batch.offsets[index] << ROW_BITS | np.minimum(batch.record_rows[index], ROW_MASK)
        due = tailcounts.fold(slot, bins, time_us, places, windows, rule)
        if not len(due.row):
            return
        at, when = slot[due.row], time_us[due.row]
        since = since_last(at, when, state[f"{prefix}.tested_us"])
        log10_p = np.column_stack([novelty.log10_p(due.log_e[:, w], due.told[:, w]) for w in range(len(HALVES))])
        judged = Judged(
            view, novelty, at, index[due.row], when, since, numbered(at, queries), live[index[due.row]], due, log10_p, batch.partition
        )
        state.pending.setdefault(self.name, []).append(judged)

    def judge(self, state: State, now_us: int) -> Judgement:
        """Score the windows that came due, in the order of their rows: each view's, and all of them combined."""
        judgement = Judgement()
        due = state.pending.pop(self.name, [])
        combined = self._combined(due, state)
        thresholds = self._thresholds([(said, -all_views) for said, _, all_views in combined], state)
        for (said, of_view, all_views), threshold in zip(combined, thresholds, strict=True):
            self._judge_view(said, of_view, all_views, threshold, state, judgement)
        judgement.findings.sort(key=lambda finding: finding.last_us)
        return judgement

    def _combined(self, due: Sequence[Judged], state: State) -> list[tuple[Judged, np.ndarray, np.ndarray]]:
        """log10 of how often benign use looks like this in HORIZON queries, by each view's windows and over views: what another view said
        of the principal last still stands."""
        of_views = []
        for said in due:
            spent = np.where(said.looked, said.log10_p, 0.0) + np.log10(len(STEPS) * HORIZON / STEPS)
            of_views.append(spent.min(1))
        if len(due) == 1:
            return [(due[0], of_views[0], self._alone(due[0], of_views[0], state))]
        combined = [np.empty(len(p)) for p in of_views]
        order = sorted((int(row), v, i) for v, said in enumerate(due) for i, row in enumerate(said.row))
        held = [state[f"extraction.{view.name}.log10_p"] for view in VIEWS]
        for _, v, i in order:
            slot = due[v].slot[i]
            held[VIEWS.index(due[v].view)][slot] = of_views[v][i]
            latest = [p[slot] for p in held if p[slot] == p[slot]]
            combined[v][i] = min(latest) + np.log10(len(latest))
        return list(zip(due, of_views, combined, strict=True))

    def _alone(self, said: Judged, of_view: np.ndarray, state: State) -> np.ndarray:
        """As `_combined`, where only one view came due: what the others said last is what they said before the batch."""
        others = [state[f"extraction.{view.name}.log10_p"][said.slot] for view in VIEWS if view is not said.view]
        latest = np.stack([of_view, *others])
        state[f"extraction.{said.view.name}.log10_p"][said.slot] = of_view  # of rows with one slot, the last
        return np.asarray(np.fmin.reduce(latest) + np.log10(np.count_nonzero(~np.isnan(latest), axis=0)))

    def _thresholds(self, scored: Sequence[tuple[Judged, np.ndarray]], state: State) -> list[np.ndarray]:
        """What each score must exceed: what the budget leaves; so many times as `surpassed` says. In the order of rows."""
        out: list[np.ndarray] = []
        for said, _ in scored:
            covers = np.maximum(1, said.time_us - said.since_us) * (HORIZON / EVERY)
            out.append(-np.log10(np.clip(self.budget.alpha(self.name, 1.0) * covers / said.live, MIN_ALPHA, 0.5)))
        highest, last_us = state["extraction.highest"], state["extraction.judged_us"]
        times = [
            np.where(self._allowed(said.slot, state), np.nan, score / (1 + np.log10(np.maximum(1, said.queries / HORIZON))))
            for said, score in scored
        ]
        if not any((score > least).any() for (_, score), least in zip(scored, out, strict=True)):
            for (said, _), of_row in zip(scored, times, strict=True):
                np.fmax.at(highest, said.slot, of_row)
                np.maximum.at(last_us, said.slot, said.time_us)
            return out
        for _, v, i in sorted((row, v, i) for v, (said, _) in enumerate(scored) for i, row in enumerate(said.row.tolist())):
            said, score = scored[v]
            slot = said.slot[i]
            if score[i] > out[v][i]:
                there = last_us >= said.due.since_us[i].min()
                there[slot] = False
                out[v][i] *= surpassed(highest[there])
            highest[slot] = np.fmax(highest[slot], times[v][i])
            last_us[slot] = max(last_us[slot], said.time_us[i])
        return out

    def _allowed(self, slot: np.ndarray, state: State) -> np.ndarray:
        """bool[n]: whose principals never alarm."""
        keys = state.table(TABLE).keys
        names, of_row = np.unique(slot, return_inverse=True)
        return np.array([any(fnmatchcase(keys[s], pattern) for pattern in self.settings.allow) for s in names.tolist()])[of_row]

    def _judge_view(
        self, said: Judged, of_view: np.ndarray, combined: np.ndarray, threshold: np.ndarray, state: State, judgement: Judgement
    ) -> None:
        keys = state.table(TABLE).keys
        names, of_row = np.unique(said.slot, return_inverse=True)
        score, part = -combined, -of_view
        alarm = (score > threshold) & ~self._allowed(said.slot, state)
        columns = ("inference", [keys[s] for s in names.tolist()], of_row.astype(np.int32), said.time_us)
        judgement.scores += [
            Scores(f"{self.name}.{said.view.name}", *columns, part, threshold, alarm & (part > threshold)),
            Scores(self.name, *columns, score, threshold, alarm),
        ]
        judgement.findings += [
            self._finding(said, i, keys[said.slot[i]], float(score[i]), float(threshold[i])) for i in np.flatnonzero(alarm).tolist()
        ]

    def _finding(self, said: Judged, i: int, principal: str, score: float, threshold: float) -> Finding:
        window = int(np.argmin(np.where(said.looked[i], said.log10_p[i], 0.0) - np.log10(STEPS)))
        p_value = float(max(MIN_ALPHA, min(1.0, 10.0**-score)))
        shown = evidence(said, i, window)
        lasts_us = max(int(self.settings.quiet_s * 1e6), int(said.time_us[i] - said.due.since_us[i, window]))
        strongest = shown["features"][0]
        severity: Severity = "error" if score > 2 * threshold else "warning"
        return Finding(
            self.name, "inference", principal, int(said.time_us[i]), int(said.time_us[i]), severity,
            title=f"Anomalous use by {principal}: consistent with model extraction",
            summary=f"{int(said.due.length[i, window])} queries, p = {p_value:.1e} under benign use. Most telling: {strongest['feature']}; "
            f"{strongest['observed']:.1%} of the queries lie where {strongest['expected']:.2%} of benign ones do.",
            score=score, threshold=threshold, p_value=p_value, e_value=float(np.exp(min(700.0, said.due.log_e[i, window]))),
            evidence=shown, labels={"principal": principal}, tags=TAGS, quiet_us=lasts_us,
        )  # fmt: skip

    def fitted(self, states: Sequence[State], population: State) -> dict[str, Any]:
        """What a baseline keeps: the references of the first partition that has learned them, fitted now where rows are still put aside."""
        out: dict[str, Any] = {}
        for state in states:
            for view in VIEWS:
                fit_learned(view, state)
                reference = reference_of(view, state, {})
                if reference is not None:
                    out.setdefault(view.name, dict(reference))
        return out


def surpassed(highest: np.ndarray) -> float:
    """How many times as much evidence as otherwise an alarm needs, by the highest that contemporaries have had, in units of what is to be
    expected: if three in four of them are over 1, the traffic moves or the reference is poor, and who stands out is over them all (an
    empirical null: Efron 2004); else 1.

    >>> surpassed(np.array([0.2, 9.0, 0.3])), surpassed(np.array([4.0, 2.0])), surpassed(np.empty(0))
    (1.0, 4.0, 1.0)
    """
    if not len(highest) or np.count_nonzero(highest > 1) < 0.75 * len(highest):
        return 1.0
    return float(highest.max())


def live_principals(slots: np.ndarray, asked: np.ndarray, state: State) -> np.ndarray:
    """int64[n]: how many principals had sent a query by each row, itself included: those that share the budget with it.

    Rows of a partition are numbered, and each principal keeps the number of its first, so that the count is the same for every batch.
    """
    first_row, before = state["extraction.first_row"], state.records.get("extraction.rows", 0)
    there = np.count_nonzero(first_row < before)
    rows = np.flatnonzero(asked)
    rows = rows[first_row[slots[rows]] == NOT_YET]
    slot, first = np.unique(slots[rows], return_index=True)
    first_row[slot] = before + rows[first]
    state.records["extraction.rows"] = before + len(slots)
    return there + np.cumsum(np.bincount(rows[first], minlength=len(slots)))


def since_last(slot: np.ndarray, time_us: np.ndarray, last_us: np.ndarray) -> np.ndarray:
    """int64[d]: when the key of each due row was tested before; `last_us` [S] is brought up to date."""
    out = np.empty(len(slot), np.int64)
    for i, s in enumerate(slot.tolist()):
        out[i] = last_us[s]
        last_us[s] = max(last_us[s], time_us[i])
    return out


def numbered(slot: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """int64[d]: how many rows the key of each due row had sent by then, from the number at the batch's end."""
    out = np.empty(len(slot), np.int64)
    at = {s: int(rows[s]) // EVERY * EVERY for s in set(slot.tolist())}
    for i in range(len(slot) - 1, -1, -1):
        s = int(slot[i])
        out[i] = at[s]
        at[s] -= EVERY
    return out


def evidence(said: Judged, i: int, window: int) -> dict[str, Any]:
    """What a person needs to believe it (OWASP AISVS 11.5.2): statistic, null, windows, volume, how the most telling features of the
    longest window lie in the reference's tails, before and after, and which of the principal's last queries are unusual."""
    due, counts = said.due, said.due.counts[i]
    of_feature = said.novelty.log_evidence(counts[None])[1][0]
    names = (*said.view.features, "combination")
    order = np.argsort(-of_feature, kind="stable")[:5].tolist()
    features, histograms = zip(*(of_tail(names[f], float(of_feature[f]), counts[:, f]) for f in order), strict=True)
    places = sorted(set(due.samples[i].tolist()) - {-1}, reverse=True)
    return {
        "view": said.view.name,
        "statistic": f"mean of power {POWER:g} over features of e-values of bets on their tails",
        "null": f"windows of {int(due.told[i, window])} queries as the reference's principals and stretches of time send them",
        "queries": int(said.queries[i]),
        "queries_per_minute": round(EVERY * 60e6 / max(1, int(said.time_us[i] - said.since_us[i])), 2),
        "window": {"from_us": int(due.since_us[i, window]), "to_us": int(said.time_us[i]), "rows": int(due.length[i, window])},
        "windows": [
            {"queries": int(due.length[i, w]), "log_e": round(float(due.log_e[i, w]), 2), "log10_p": round(float(said.log10_p[i, w]), 2)}
            for w in np.flatnonzero(said.looked[i]).tolist()
        ],
        "features": list(features),
        "histogram": histograms[0],
        **{f"histogram_{f['feature']}": h for f, h in zip(features[1:3], histograms[1:3], strict=True)},
        "share_at_least": round(max(f["observed"] - f["expected"] for f in features), 3),
        "samples": [samples.place(said.partition, p >> ROW_BITS, p & ROW_MASK) for p in places],
    }


def of_tail(name: str, log_e: float, counts: np.ndarray) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(how much more of a feature lies where little of the reference does, queries by p-value in that tail: by the reference and in the
    window). `counts`: [2, BINS]."""
    rows, expected = max(1, int(counts[0].sum())), RATIO ** np.arange(BINS)
    above = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1] / rows
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = above * np.log(above / expected) + np.where(above < 1, (1 - above) * np.log((1 - above) / (1 - expected)), 0)
    tail, bin_ = np.unravel_index(int(np.argmax(np.where(above > expected, gain, 0))), gain.shape)
    share = -np.diff(expected, append=0.0)
    histogram = [
        {"bin": f"p <= {expected[b]:.2g}", "reference": round(float(rows * share[b]), 1), "window": int(counts[tail, b])}
        for b in range(BINS)
    ]
    return {
        "feature": name, "log_e": round(log_e, 2), "tail": ("upper", "lower")[tail], "observed": round(float(above[tail, bin_]), 4),
        "expected": round(float(expected[bin_]), 4),
    }, histogram  # fmt: skip
