"""Campaign: do many accounts act as one, each of them under every limit? Judged on all partitions, every few hours of event time.

observe   adds each request to its account's signature of that hour (`campaign_signature`)
merge     adds the hours of all partitions; an account's signature covers the last one to two windows
judge     looks for groups of accounts that are alike and new, on one half of the accounts, and tests on the other half whether their
          region holds more of the population than of a reference of benign accounts (`campaign_groups`); alarms when that is less likely
          than the false-alarm budget allows for one of the groups tested in that time, and their summed signature lies far enough out

Fails when the campaign is in the reference already, and where its accounts send so much benign traffic that the rest drowns. A product
that is new since the reference, whose accounts all send its prompt template, is such a group too: `allow` names accounts that are left
out. Score: -log10 p, higher is more anomalous. An account costs 1.6 KB; of more than `most_accounts` the ones seen longest ago make room.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from engine import samples
from engine.batch import Batch, distinct
from engine.detectors import campaign_signature as signature
from engine.detectors.campaign_evidence import explained, summary
from engine.detectors.campaign_groups import Population, group_in, halves, kinds, learn, regions
from engine.detectors.campaign_signature import BLOCKS, HOUR_US, WIDTH
from engine.evidence import MIN_ALPHA
from engine.finding import Context, Finding, Judgement, Scores, Settings
from engine.sketch import Sketch
from engine.state import NEVER, ArraySpec, State

OPEN, ACCOUNTS = "campaign.open", "campaign.account"
REFERENCE = "campaign.reference/"
SAME = 0.5
KEPT_MEMBERS = 500
TAGS = ("AML.T0024.002", "AML.T0040", "OWASP LLM10:2025", "AISVS 11.5.2")


class CampaignSettings(Settings):
    """`window_h`: hours that an account is judged by, at least, once the stream has been there so long; `every_h`: hours between looks.
    `least_requests`: of an account, to be judged. `reference_accounts`: a reference, where no baseline gives it, is learned from the first
    window with so many. `allow`: accounts (shell patterns) that are left out."""

    window_h: int = Field(24, ge=1)
    every_h: int = Field(3, ge=1)
    least_requests: int = Field(8, ge=1)
    reference_accounts: int = Field(500, ge=50)
    most_accounts: int = Field(100_000, ge=1000)
    allow: tuple[str, ...] = ()
    quiet_h: float = Field(24.0, gt=0)


class Campaign:
    """Groups of accounts that act as one. The population's state: a reference, and two windows of signatures per account."""

    name: ClassVar[str] = "campaign"
    streams: ClassVar[tuple[str, ...]] = ("inference",)

    def __init__(self, settings: CampaignSettings, context: Context):
        self.settings = settings
        self.budget = context.budget
        self.pane_us = context.pane_us
        self.fitting = context.fitting
        record = context.baseline.get(self.name)
        self.baseline = Population.of(record) if record else None

    def arrays(self) -> Sequence[ArraySpec]:
        return (
            ArraySpec("campaign.open.sums", "int32", (OPEN, WIDTH)),
            ArraySpec("campaign.open.last_us", "int64", (OPEN,)),
        )

    def population_arrays(self) -> Sequence[ArraySpec]:
        return (ArraySpec("campaign.sums", "int32", (ACCOUNTS, 2, WIDTH)),)

    def observe(self, batch: Batch, state: State) -> None:
        """Add the rows to their accounts' open hours; late rows are left out, their hour may be closed."""
        rows: np.ndarray | slice = np.flatnonzero(~batch.late) if batch.late.any() else slice(None)
        time_us = batch.time_us[rows]
        if not len(time_us):
            return
        codes, names = batch.keys(("principal",))
        values, kind, size = signature.content(batch)
        of_bins = signature.bins(batch, kind, size)
        first, last = int(time_us.min()) // HOUR_US, int(time_us.max()) // HOUR_US
        hours = time_us // HOUR_US if first < last else None
        for hour in [first] if hours is None else np.unique(hours).tolist():
            mine = rows if hours is None else np.arange(len(batch))[rows][hours == hour]
            used, of_row = distinct(codes[mine], len(names))
            when = batch.time_us[mine]
            slots = state.slots(OPEN, [f"{hour}|{names[c]}" for c in used.tolist()], int(when.max()))
            sums, last_us = state["campaign.open.sums"], state["campaign.open.last_us"]
            signature.fold(hour, when, slots[of_row], values[mine], of_bins[mine], sums, last_us)
        panes = ((batch.time_us // HOUR_US + 1) * HOUR_US - 1) // self.pane_us
        samples.fold(state, self.name, batch, panes, self.pane_us, np.where(batch.late, -1, codes), names)

    def collect(self, state: State, before_us: int) -> list[Sketch]:
        """Signatures of the hours that end by then, and no trace of them in the state."""
        before = before_us // HOUR_US
        if before <= state.records.get("campaign.handed_to", NEVER):
            return []
        state.records["campaign.handed_to"] = before
        table = state.table(OPEN)
        slots = [slot for slot, key in enumerate(table.keys) if key and int(key.partition("|")[0]) < before]
        if not slots:
            return []
        named = [table.keys[slot].partition("|") for slot in slots]
        hours = np.array([int(hour) for hour, _, _ in named])
        columns = {
            "hour": hours,
            "account": np.array([account for _, _, account in named], object),
            "sums": state["campaign.open.sums"][slots],
        }
        state.release(OPEN, slots)
        panes = ((hours + 1) * HOUR_US - 1) // self.pane_us
        none = np.empty(0, np.int64)
        return [Sketch(self.name, "accounts", none, np.empty((0, 0), np.int64), columns=columns, column_panes=panes)]

    def merge(self, sketches: Sequence[Sketch], state: State) -> None:
        """Add hours in their order, and look whenever a look falls due between them."""
        state.table(ACCOUNTS).limit = self.settings.most_accounts
        for sketch in [s for s in sketches if len(s.column_panes)]:
            hours = sketch.columns["hour"]
            for hour in np.unique(hours).tolist():
                self._reach(hour, state)
                mine = np.flatnonzero(hours == hour)
                mine = mine[np.argsort(sketch.columns["account"][mine], kind="stable")]
                slots = state.slots(ACCOUNTS, sketch.columns["account"][mine].tolist(), hour * HOUR_US)
                kept = slots >= 0
                np.add.at(state["campaign.sums"][:, 1], slots[kept], sketch.columns["sums"][mine[kept]])

    def judge(self, state: State, now_us: int) -> Judgement:
        """What the looks said that fell due until now."""
        if "campaign.at" in state.records:
            self._reach(now_us // HOUR_US, state)
        judgement = Judgement()
        for said in state.pending.pop(self.name, []):
            judgement.scores += said.scores
            judgement.findings += said.findings
        return judgement

    def _reach(self, hour: int, state: State) -> None:
        """Come to that hour: everything before it is complete. Looks and new windows that fall due on the way happen at their own time."""
        records, window, every = state.records, self.settings.window_h, self.settings.every_h
        if "campaign.at" not in records:
            records["campaign.first"] = records["campaign.at"] = hour
        first, at = records["campaign.first"], records["campaign.at"]
        for due in range(at + 1, min(hour, at + 3 * window) + 1):
            if (due - first) % every == 0 and not self.fitting:
                state.pending.setdefault(self.name, []).append(self._look(due, state))
            if (due - first) % window == 0:
                self._turn(state)
        records["campaign.at"] = max(at, hour)

    def _turn(self, state: State) -> None:
        """The present window becomes the past one, or the reference, while there is none."""
        sums = state["campaign.sums"]
        if self.reference(state) is None and not self.fitting:
            fitted = self._learned(state)
            if fitted is not None:
                for name, array in fitted.items():
                    state.arrays[REFERENCE + name] = array
                sums[:] = 0
        if self.fitting and (requests(sums[:, 1]) >= self.settings.least_requests).sum() < self.settings.reference_accounts:
            return
        sums[:, 0] = sums[:, 1]
        sums[:, 1] = 0
        table = state.table(ACCOUNTS)
        idle = [slot for slot, key in enumerate(table.keys) if key and not sums[slot, 0, BLOCKS["requests"]].any()]
        state.release(ACCOUNTS, idle)

    def reference(self, state: State) -> Population | None:
        """The benign population: the baseline's, else what was learned."""
        if self.baseline is not None:
            return self.baseline
        record = {n.removeprefix(REFERENCE): a for n, a in state.arrays.items() if n.startswith(REFERENCE)}
        return Population.of(record) if record else None

    def _learned(self, state: State) -> dict[str, np.ndarray] | None:
        """A reference from the fuller window, or None where that has too few accounts."""
        names, sums = self._accounts(state)
        each = [sums[:, i] for i in (0, 1)]
        enough = [(requests(one) >= self.settings.least_requests) for one in each]
        best = int(enough[1].sum() >= enough[0].sum())
        if enough[best].sum() < self.settings.reference_accounts:
            return None
        return learn(each[best][enough[best]].astype(np.int64), hashed(names)[enough[best]]).record()

    def _accounts(self, state: State) -> tuple[list[str], np.ndarray]:
        """(names, int32[n, 2, WIDTH]) of the accounts that are not on the list of those to leave out."""
        keys = state.table(ACCOUNTS).keys
        slots = [s for s, key in enumerate(keys) if key and not any(fnmatchcase(key, pattern) for pattern in self.settings.allow)]
        return [keys[s] for s in slots], state["campaign.sums"][slots]

    def _look(self, hour: int, state: State) -> Judgement:
        """Look for groups among the accounts of the window, and test each."""
        reference = self.reference(state)
        if reference is None:
            return Judgement()
        names, both = self._accounts(state)
        sums = both.sum(1, dtype=np.int64)
        judged = (requests(sums) >= self.settings.least_requests) & (kinds(sums) == int(reference.kind))
        names, sums = [n for n, j in zip(names, judged.tolist(), strict=True) if j], sums[judged]
        if not names:
            return Judgement()
        points = reference.whitened(sums)
        searched, tested = halves(hashed(names))
        groups = [group_in(region, points, tested, reference) for region in regions(points[searched], reference.accounts)]
        groups.sort(key=lambda g: (g.log10_p, g.length))
        alpha = self.budget.alpha(self.name, self.settings.every_h * HOUR_US, len(groups))
        threshold, now_us = -float(np.log10(alpha)), hour * HOUR_US
        findings, rows = [], list[tuple[str, float, bool]]()
        taken = np.zeros(len(names), np.bool_)
        for group in groups:
            if not group.inside.any() or taken[group.inside].mean() > SAME:
                continue  # a part of one that was judged, or hardly more
            taken |= group.inside
            score = -group.log10_p
            alarm = bool(score > threshold and group.length >= reference.floor)
            key = self._key([names[i] for i in np.flatnonzero(group.inside)], hour, state, alarm)
            rows.append((key, score, alarm))
            if alarm:
                window = {"from_us": self._since(hour, state) * HOUR_US, "to_us": -(-now_us // self.pane_us) * self.pane_us}
                evidence = explained(names, sums, points, group, reference)
                evidence["window"] = window | {"rows": evidence["requests"]}
                findings.append(self._finding(key, now_us, score, threshold, evidence))
        return Judgement([scores(rows or [("none", 0.0, False)], now_us, threshold)], findings)

    def _since(self, hour: int, state: State) -> int:
        """The first hour that the accounts' signatures cover at that hour's look: of the window before the present one."""
        first, window = state.records["campaign.first"], self.settings.window_h
        return int(max(first, first + ((hour - first - 1) // window - 1) * window))

    def _key(self, members: list[str], hour: int, state: State, alarm: bool) -> str:
        """The name of a group: that of an alarming one with which it shares members, else one of its own."""
        known: dict[str, dict[str, Any]] = state.records.setdefault("campaign.known", {})
        for key in [k for k, group in known.items() if group["hour"] < hour - 2 * self.settings.window_h]:
            del known[key]
        mine = set(members)
        shared = {key: len(mine.intersection(group["members"])) / max(1, len(group["members"])) for key, group in known.items()}
        best = max(shared, key=lambda k: (shared[k], k), default=None)
        if best is None or shared[best] < SAME:
            best = "campaign-" + hashlib.sha256("\n".join(sorted(members)).encode()).hexdigest()[:10]
        if alarm:
            known[best] = {"members": sorted(members)[:KEPT_MEMBERS], "hour": hour}
        return best

    def _finding(self, key: str, now_us: int, score: float, threshold: float, evidence: dict[str, Any]) -> Finding:
        return Finding(
            self.name, "inference", key, now_us, now_us, "error",
            title=f"{evidence['accounts']} accounts act as one: consistent with a distributed extraction campaign",
            summary=summary(evidence, score), score=score, threshold=threshold, p_value=float(max(MIN_ALPHA, 10.0 ** -min(score, 300))),
            evidence=evidence, labels={"accounts": str(evidence["accounts"])}, tags=TAGS, quiet_us=int(self.settings.quiet_h * HOUR_US),
            sampled=tuple(evidence["members"]),
        )  # fmt: skip

    def fitted(self, states: Sequence[State], population: State) -> dict[str, Any]:
        """What a baseline keeps: the benign population of the fullest window, if it has enough accounts."""
        return self._learned(population) or {}


def scores(rows: list[tuple[str, float, bool]], now_us: int, threshold: float) -> Scores:
    """Score rows of one look: (group, score, alarm)."""
    keys, score, alarm = zip(*rows, strict=True)
    n = len(rows)
    return Scores(
        Campaign.name, "inference", keys, np.arange(n, dtype=np.int32), np.full(n, now_us), np.array(score), np.full(n, threshold),
        np.array(alarm),
    )  # fmt: skip


def requests(sums: np.ndarray) -> np.ndarray:
    """int[n]: requests of summed signatures [n, WIDTH]."""
    return sums[:, BLOCKS["requests"].start]


def hashed(names: Sequence[str]) -> np.ndarray:
    """uint64[n]: hashes of names, to choose and to halve by."""
    return np.array([int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") for name in names], np.uint64)
