"""Groups of accounts that are alike and new: found on one half of the accounts, tested on the other.

Accounts are whitened by the reference's own spread, so that what benign accounts share counts little. On half of the accounts (by a
hash), pairs that are alike and have no like in the reference are joined (union-find at several levels). A group's region, a direction
and how far along it, is then fixed, and the accounts of the other half that fall into it are counted, against those of the reference
that do. The region knows nothing of the accounts it is tested on, so the test needs no correction for having been found: given k + k0
accounts in the region, k is binomial while the region's share of the population is at most `GROWTH` times what it was. What people ask
changes from day to day, and moves many accounts a little; so a group counts only where the sum of its members' signatures lies farther from
the population's than that of nearly all groups which the same search found in the reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from engine.detectors.campaign_signature import BLOCKS, COMPARED, SIZES, compared
from kernels.neighbors import nearest, similar_pairs

LEVELS = (0.8, 0.65, 0.5, 0.4, 0.3)
SEARCHED, KEPT = 4096, 16_384
"""Accounts that are searched for groups, and that a reference keeps, at most; chosen by their hash."""
LIKES = 3
"""An account with so many likes in the reference is no news."""
LEAST_GROUP, MOST_SHARE, MOST_GROUPS = 4, 0.5, 64
GROWTH = 3.0
RARE = 0.05
COHESION = 0.4
"""Of a group: median cosine between a member and the mean of the others; two members then have about its square."""
RIDGE = 0.1
LEAST_SPREAD = 0.02
PAIRS = 4_000_000


@dataclass(frozen=True)
class Population:
    """What benign accounts look like: `mean`, `scale` float64[R] and `whitening` float64[R, R] of `compared`, `accounts` float32[m, R]
    whitened, `kind` (0 text, 1 embedding), `profile` int64[WIDTH] their summed signatures, `groups` float64[g]: the squared length of
    the mean of groups that were found in the reference itself."""

    mean: np.ndarray
    scale: np.ndarray
    whitening: np.ndarray
    accounts: np.ndarray
    kind: np.ndarray
    profile: np.ndarray
    groups: np.ndarray

    def record(self) -> dict[str, np.ndarray]:
        """Named arrays, for checkpoints and baselines."""
        return dict(vars(self))

    @classmethod
    def of(cls, record: Mapping[str, np.ndarray]) -> Population:
        """The reverse of `record`."""
        return cls(**{name: np.asarray(record[name]) for name in cls.__dataclass_fields__})

    @property
    def floor(self) -> float:
        """Least squared length of a group's mean: what one in twenty of the groups that were found among benign accounts reaches."""
        return float(np.quantile(self.groups, 1 - RARE, method="higher")) if len(self.groups) else 0.0

    def whitened(self, sums: np.ndarray) -> np.ndarray:
        """float32[n, R] of summed signatures [n, WIDTH]."""
        return ((compared(sums) - self.mean) / self.scale @ self.whitening).astype(np.float32)


@dataclass(frozen=True)
class Region:
    """Where a group lies: along the unit vector `direction` at least `reach`, at a cosine of at least `cosine`."""

    direction: np.ndarray
    reach: float
    cosine: float

    def holds(self, points: np.ndarray) -> np.ndarray:
        """bool[n]: which whitened accounts lie in it."""
        along = points @ self.direction
        return (along >= self.reach) & (along >= self.cosine * np.linalg.norm(points, axis=1))


@dataclass(frozen=True)
class Group:
    """Accounts of a region, `inside` bool[n], and how it was tested: on the `fresh` of the `tested` accounts, against the `known` of the
    reference. `length`: squared length of the mean of the fresh ones."""

    inside: np.ndarray
    fresh: int
    tested: int
    known: int
    length: float
    log10_p: float


def group_in(region: Region, points: np.ndarray, tested: np.ndarray, population: Population) -> Group:
    """The group of a region among whitened accounts, of which those at the positions `tested` had no part in finding it."""
    inside, known = region.holds(points), int(region.holds(population.accounts).sum())
    fresh = points[tested][inside[tested]]
    log_p = log10_p(len(fresh), len(tested), known, len(population.accounts))
    return Group(inside, len(fresh), len(tested), known, squared_mean(fresh), log_p)


def learn(sums: np.ndarray, hashes: np.ndarray) -> Population:
    """From the summed signatures int[n, WIDTH] of benign accounts, and the hashes of their names."""
    kind = main_kind(sums)
    sums, hashes = sums[kinds(sums) == kind], hashes[kinds(sums) == kind]
    order = np.argsort(hashes, kind="stable")[:KEPT]
    sums, hashes = sums[order], hashes[order]
    means = compared(sums)
    mean, scale = means.mean(0), means.std(0)
    floor = np.concatenate([np.full(SIZES[name], LEAST_SPREAD if name != "content" else 1e-3) for name in COMPARED])
    scale = np.maximum(scale, floor)
    spread, axes = np.linalg.eigh(np.cov(((means - mean) / scale).T))
    whitening = axes / np.sqrt(spread + RIDGE * max(spread.mean(), 1e-9))
    fresh = Population(mean, scale, whitening, np.empty((0, len(mean)), np.float32), np.array(kind), sums.sum(0), np.empty(0))
    points = fresh.whitened(sums)
    searched, tested = halves(hashes)
    lengths = []
    for region in regions(points[searched], np.empty((0, points.shape[1]), np.float32)):
        held = points[tested][region.holds(points[tested])]
        if len(held) >= LEAST_GROUP:
            lengths.append(squared_mean(held))
    return Population(mean, scale, whitening, points, np.array(kind), sums.sum(0), np.array(lengths))


def kinds(sums: np.ndarray) -> np.ndarray:
    """int64[n]: what most of an account's requests carry: 0 text, 1 embedding, -1 neither."""
    told = sums[:, BLOCKS["kind"]]
    return np.where(told.max(1) > 0, told.argmax(1), -1)


def main_kind(sums: np.ndarray) -> int:
    """The kind of the most accounts."""
    values, counts = np.unique(kinds(sums), return_counts=True)
    return int(values[counts.argmax()])


def halves(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the accounts to search, the SEARCHED first of one half by hash, and of the other half's, to test."""
    odd = (hashes & np.uint64(1)) == 1
    searched = np.flatnonzero(odd)
    return searched[np.argsort(hashes[searched], kind="stable")[:SEARCHED]], np.flatnonzero(~odd)


def regions(points: np.ndarray, known: np.ndarray) -> list[Region]:
    """Regions of the groups among whitened accounts that have no like among the `known`: the largest first, each once."""
    if len(points) < LEAST_GROUP:
        return []
    unit = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-9)
    likeness = np.full(len(unit), -1.0)
    if len(known) >= LIKES:
        others = known / np.maximum(np.linalg.norm(known, axis=1, keepdims=True), 1e-9)
        likeness = 1 - nearest(unit, others, LIKES).distance[:, -1].astype(np.float64) ** 2 / 2
    candidates = np.flatnonzero(likeness < LEVELS[0])
    pairs = similar_pairs(np.ascontiguousarray(unit[candidates]), LEVELS[-1], limit=PAIRS)
    groups: dict[bytes, np.ndarray] = {}
    for level in LEVELS:
        new = likeness[candidates] < level
        keep = (pairs.similarity >= level) & new[pairs.first] & new[pairs.second]
        for group in connected(pairs.first[keep], pairs.second[keep], len(candidates)):
            if LEAST_GROUP <= len(group) <= MOST_SHARE * len(points):
                groups.setdefault(group.tobytes(), candidates[group])
    largest = sorted(groups.values(), key=lambda g: (-len(g), int(g[0])))[:MOST_GROUPS]
    return [region for group in largest if (region := region_of(points[group])) is not None]


def connected(first: np.ndarray, second: np.ndarray, n: int) -> list[np.ndarray]:
    """Members of each component of more than one, of a graph of n nodes."""
    if not len(first):
        return []
    from scipy.sparse import coo_array  # here, since a start without campaigns should not wait for it
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(n, n))
    label = connected_components(graph, directed=False)[1]
    order = np.argsort(label, kind="stable")
    cut = np.flatnonzero(np.diff(label[order])) + 1
    return [group for group in np.split(order, cut) if len(group) > 1]


def region_of(members: np.ndarray) -> Region | None:
    """The region of a group: how far along and how near its direction a member lies, as the others (each left out of it) have it. None
    for a chain of accounts that are not alike as a whole."""
    total, n = members.sum(0, dtype=np.float64), len(members)
    others = (total - members) / (n - 1)
    along = np.einsum("ij,ij->i", members, others) / np.maximum(np.linalg.norm(others, axis=1), 1e-9)
    cosine = along / np.maximum(np.linalg.norm(members, axis=1), 1e-9)
    if np.median(cosine) < COHESION:
        return None
    direction = (total / max(float(np.linalg.norm(total)), 1e-9)).astype(np.float32)
    return Region(direction, 0.5 * float(np.median(along)), 0.75 * float(np.quantile(cosine, 0.25)))


def log10_p(inside: int, accounts: int, known_inside: int, known: int) -> float:
    """log10 of the probability that so many of the tested accounts lie in a region where so many of the reference do.

    >>> round(log10_p(10, 1000, 10, 1000), 2) > -0.1, log10_p(30, 1000, 0, 2000) < -6
    (True, True)
    """
    share = GROWTH * accounts / (GROWTH * accounts + known)
    with np.errstate(divide="ignore"):
        return float(np.log10(special.bdtrc(inside - 1, inside + known_inside, share))) if inside else 0.0


def squared_mean(points: np.ndarray) -> float:
    """Unbiased squared length of the mean of independent rows, from their sum: (|S|**2 - sum |x|**2) / (n (n - 1)); 0 of less than two."""
    if len(points) < 2:
        return 0.0
    total, n = points.sum(0, dtype=np.float64), len(points)
    return float((total @ total - np.einsum("ij,ij->", points, points, dtype=np.float64)) / (n * (n - 1)))


def state_p(length: float, size: int, population: Population, draws: int = 200) -> dict[str, float]:
    """How often the summed state of benign groups of this size lies as far from the population: random groups, and groups that were found
    in the reference as this one was."""
    rng, m = np.random.default_rng(size), len(population.accounts)
    drawn = [squared_mean(population.accounts[rng.choice(m, min(size, m), replace=False)]) for _ in range(draws)] if m > 1 else []
    return {
        "of_random_groups": round((1 + sum(d >= length for d in drawn)) / (1 + len(drawn)), 4),
        "of_found_groups": round((1 + int((population.groups >= length).sum())) / (1 + len(population.groups)), 4),
    }
