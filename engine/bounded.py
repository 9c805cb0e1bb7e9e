"""Bounded quantities: what a step of an e-detector counts, and the null that a reference gives.

A quantity is a share of rows (errors, refusals), or a number (latency, a score) of which the shares beyond thresholds are watched, the
reference's own quantiles. Numbers are counted in fixed bins of relative width 9 %, so that nothing but integers is kept, before there is a
reference and after: they add, and the cut into batches and partitions does not matter.

The null of a share says how far from the reference's mean p it may be and still be no finding: by sampling (p is known from n rows: Clopper
and Pearson's bound, for as many rows as n correlated ones are worth) and by wandering (three standard deviations between long blocks of the
reference, beyond what short blocks explain), or by a floor of effect in odds, whatever is more. Rows that come in clusters are each worth
less than a row: by how much, say the variance between blocks and the rows after which a success tells nothing of the next, and an
e-detector's growth is raised to that power.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import special

from engine import tally
from engine.tally import LOW, MAGNITUDES, OCTAVE

BINS = 2 * MAGNITUDES - 1
ODDS = np.array([1.3, 1.7, 2.4, 4.0, 8.0, 20.0, 60.0, 200.0])
TESTS = 3
LANES = TESTS * 2 * len(ODDS)
CONFIDENCE = 1e-3
WANDER = 3.0
SHORT, LONG = (64, 16), (16, 64)
"""Blocks of a reference: how many, and the least rows of one."""
UNKNOWN = 32.0
"""Few independent events say little of whether they come in clusters: of none, a row is worth one in so many; of four, twice that; of
120 and more, a whole one."""
LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Panes apart at which a reference is looked at for memory."""
Direction = Literal["rise", "fall", "both"]


@dataclass(frozen=True)
class Quantity:
    """`quantiles`: empty for a share of rows; else the quantiles of a number whose exceedance is watched. `direction`: what is a finding.
    `limit`: the share that is allowed, where the operator says so and no reference does. `words`: the quantity in a sentence."""

    name: str
    words: str
    direction: Direction = "both"
    quantiles: tuple[float, ...] = ()
    limit: float | None = None

    @property
    def width(self) -> int:
        """Columns of its counts: (rows, successes), or the bins of a number."""
        return BINS if self.quantiles else 2


@dataclass(frozen=True)
class Null:
    """What is no finding. `edges`: the bin over which a value counts, by test (none for a share). `mean`: the reference's share;
    `rise`, `fall`: the share up to which, and down to which, there is nothing to tell. `rows`: of the reference; `worth`: how many
    independent rows they are worth; `wander`: standard deviation of the share between blocks; `power`: what a row in a cluster is worth."""

    edges: tuple[int, ...]
    mean: tuple[float, ...]
    rise: tuple[float, ...]
    fall: tuple[float, ...]
    rows: int
    worth: tuple[float, ...]
    wander: tuple[float, ...]
    power: tuple[float, ...]

    def record(self) -> dict[str, Any]:
        """Plain data, for checkpoints and baselines."""
        return asdict(self)

    @classmethod
    def of(cls, record: dict[str, Any]) -> Null:
        """The reverse of `record`."""
        rows = int(record["rows"])
        return cls(rows=rows, **{name: tuple(value) for name, value in record.items() if name != "rows"})


def value_bins(values: np.ndarray) -> np.ndarray:
    """int64[n] bin of each number, of its sign and 1/8 octave; -1 for NaN.

    >>> value_bins(np.array([-2.0, 0.0, 1.0, 1.05, np.nan])).tolist()
    [87, 208, 321, 321, -1]
    """
    out = np.empty(len(values), np.int64)
    tally.bins(tally.plain(values, np.float64), out)
    return out


def edge_value(index: int) -> float:
    """The number over which values lie that are in a bin over that one.

    >>> edge_value(value_bins(np.array([0.99]))[0])
    1.0
    """
    at = index - (MAGNITUDES - 1)
    if at >= 0:
        return float(2.0 ** (at / OCTAVE + LOW))
    return float(-(2.0 ** ((-at - 1) / OCTAVE + LOW)))


def counted(quantity: Quantity, cells: np.ndarray, edges: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(panes int64[P], successes float64[P, T], rows float64[P]) of cells (pane, column, count) in their order; tests not used are 0."""
    if not len(cells):
        return np.empty(0, np.int64), np.empty((0, TESTS)), np.empty(0)
    starts = np.flatnonzero(np.diff(cells[:, 0], prepend=cells[0, 0] - 1))
    column, count = cells[:, 1], cells[:, 2]
    successes = np.zeros((len(starts), TESTS))
    if not quantity.quantiles:
        successes[:, 0] = np.add.reduceat(np.where(column == 1, count, 0), starts)
        return cells[starts, 0], successes, np.add.reduceat(np.where(column == 0, count, 0), starts).astype(np.float64)
    for t, edge in enumerate(edges):
        successes[:, t] = np.add.reduceat(np.where(column > edge, count, 0), starts)
    return cells[starts, 0], successes, np.add.reduceat(count, starts).astype(np.float64)


def allowed(quantity: Quantity) -> Null:
    """The null of a share that the operator has limited."""
    limit = (float(quantity.limit),) if quantity.limit is not None else ()
    return Null((), limit, limit, limit, 0, (0.0,), (0.0,), (1.0,))


def learn(quantity: Quantity, cells: np.ndarray, floor: float) -> Null:
    """The null of a reference, cells (pane, column, count) in the order of their panes. `floor`: odds ratio that is no finding."""
    edges: list[int] = []
    if quantity.quantiles:
        reach = np.cumsum(np.bincount(cells[:, 1], cells[:, 2], BINS))
        edges = [int(np.searchsorted(reach, q * reach[-1])) for q in quantity.quantiles]
    _, successes, totals = counted(quantity, cells, edges)
    rows = float(totals.sum())
    blocks = [block_starts(totals, max(least, rows / number)) for number, least in (SHORT, LONG)]
    found = [bounds(successes[:, t], totals, blocks, floor) for t in range(max(1, len(edges)))]
    mean, rise, fall, worth, wander, power = zip(*found, strict=True)
    return Null(tuple(edges), mean, rise, fall, int(rows), worth, wander, power)


def block_starts(totals: np.ndarray, block_rows: float) -> np.ndarray:
    """int64: where blocks of consecutive panes begin, each of at least that many rows; what is left over at the end is part of the last.

    >>> block_starts(np.array([3, 3, 3, 3, 3]), 6).tolist()
    [0, 2]
    """
    starts, held = [0], 0.0
    for i, n in enumerate(totals.tolist()):
        if held >= block_rows:
            starts.append(i)
            held = 0.0
        held += n
    if held < block_rows and len(starts) > 1:
        starts.pop()
    return np.array(starts)


def bounds(successes: np.ndarray, totals: np.ndarray, blocks: Sequence[np.ndarray], floor: float) -> tuple[float, ...]:
    """(mean, upper null, lower null, rows it is worth, wander, power) of one test, from successes and rows by pane and the starts of short
    and of long blocks."""
    rows = float(totals.sum())
    mean = float(successes.sum()) / rows
    short, long = (dispersion(successes, totals, starts, mean) for starts in blocks)
    spread = mean * (1 - mean)
    wander = float(np.sqrt(max(0.0, long - short) * spread * len(blocks[1]) / rows))
    worth = rows / max(short, long)
    wins = mean * worth
    upper = float(special.betaincinv(wins + 1, max(worth - wins, 1e-9), 1 - CONFIDENCE))
    lower = float(special.betaincinv(wins, worth - wins + 1, CONFIDENCE)) if wins > 0 else 0.0
    rise = max(upper + WANDER * wander, shifted(mean, floor))
    fall = min(lower - WANDER * wander, shifted(mean, 1 / floor))
    rise, fall = min(rise, 1.0), max(fall, 0.0)
    apart = max(longest(successes, totals, rise), longest(totals - successes, totals, 1 - fall))
    events = min(mean, 1 - mean) * worth
    return mean, rise, fall, worth, wander, 1 / max(short, long, apart, UNKNOWN / (1 + events / 4))


def memory(successes: np.ndarray, totals: np.ndarray, null: float) -> float:
    """How many rows after a success the share of successes is within the null again; at least 1.

    Rows that far apart are in order; the growth of those in between, raised to the power 1 / (rows apart), is the geometric mean of the
    growths of so many streams that are, and no more than their arithmetic mean.
    """
    wins = successes.sum()
    if not 0 < wins < totals.sum() or null >= 1:
        return 1.0
    for i, lag in enumerate(LAGS):
        if lag >= len(totals) // 2:
            return float(totals[: LAGS[max(i - 1, 0)]].sum())
        if within(float(successes[:-lag] @ successes[lag:]), null * float(successes[:-lag] @ totals[lag:])):
            alone = within(float(successes @ np.maximum(successes - 1, 0)), null * float(successes @ np.maximum(totals - 1, 0)))
            return 1.0 if lag == 1 and alone else float(lag * totals.mean())
    return float(LAGS[-1] * totals.mean())


def longest(successes: np.ndarray, totals: np.ndarray, null: float) -> float:
    """An upper bound of the rows after which a success tells nothing of the next, from as many clusters as there were."""
    apart = memory(successes, totals, null)
    if apart == 1.0:
        return apart
    at = np.cumsum(totals)[successes > 0]
    clusters = 1 + int((np.diff(at) > apart).sum())
    return apart * (1 + 4 / np.sqrt(clusters))


def within(pairs: float, expected: float) -> bool:
    """Whether so many pairs are no more than expected: chance is allowed two standard errors and a pair."""
    return pairs <= expected + 2 * np.sqrt(expected) + 1


def dispersion(successes: np.ndarray, totals: np.ndarray, starts: np.ndarray, mean: float) -> float:
    """How many times as much the blocks' means vary as those of independent rows would; at least 1."""
    k, n = np.add.reduceat(successes, starts), np.add.reduceat(totals, starts)
    if len(n) < 2 or not 0 < mean < 1:
        return 1.0
    return max(1.0, float(np.sum((k - n * mean) ** 2 / (n * mean * (1 - mean)))) / (len(n) - 1))


def shifted(share: float | np.ndarray, ratio: Any) -> Any:
    """The share whose odds are `ratio` times as high."""
    odds = share * ratio
    return odds / (odds + 1 - share)


def lanes(quantity: Quantity, null: Null) -> np.ndarray:
    """(null, alternative, power, weight) float64[4, LANES] as `kernels.edetector` takes them: by test, eight bets on a rise, then a fall.

    Tests and directions share equally; one whose null is 0 or 1 has no room to move to and bets nothing.
    """
    shape = (TESTS, 2, len(ODDS))
    base, other, power, weight = np.full(shape, 0.5), np.full(shape, 0.5), np.ones(shape), np.zeros(shape)
    for t in range(len(null.mean)):
        for side, edge, odds in ((0, null.rise[t], ODDS), (1, null.fall[t], 1 / ODDS)):
            if 0 < edge < 1 and quantity.direction in ("both", ("rise", "fall")[side]):
                base[t, side], other[t, side], weight[t, side] = edge, np.clip(shifted(edge, odds), 1e-12, 1 - 1e-12), 1
                power[t, side] = null.power[t]
    weight /= max(1.0, weight.sum())
    return np.stack([base, other, power, weight]).reshape(4, LANES)


def lane_of(lane: int) -> tuple[int, Direction]:
    """(test, direction) of a lane."""
    test, rest = divmod(lane, 2 * len(ODDS))
    return test, "rise" if rest < len(ODDS) else "fall"
