"""Our side of the same work: the rate at which each peer's question is answered, and that the answers agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.ceilings import best_of
from benchmarks.peers import work
from engine.detectors.drift_statistics import distances
from kernels import cardinality, neighbors, profile, rff
from kernels.evidence import BETS, bets_for, evidence
from kernels.textsketch import textsketch


def psi(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The population stability index of each row of counts, with empty bins filled as Evidently fills them."""
    p, q = filled(before), filled(after)
    return ((q - p) * np.log(q / p)).sum(-1)


def filled(counts: np.ndarray) -> np.ndarray:
    """Shares of each row; where one is zero, a millionth of the row's least, or 0.0001 if that least is more than it."""
    shares = counts / counts.sum(-1, keepdims=True)
    least = np.where(shares > 0, shares, np.inf).min(-1, keepdims=True)
    return np.where(shares == 0, np.where(least <= 0.0001, least / 1e6, 0.0001), shares)


def psi_report(reference: np.ndarray, current: np.ndarray, edges: profile.Edges) -> np.ndarray:
    """PSI of every column, from histograms of both sides on the same edges."""
    slots = np.arange(len(reference), dtype=np.int32)
    counts = []
    for columns in (reference, current):
        state = profile.Profile(np.zeros((len(columns), edges.width + 3), np.int64))
        counts.append(profile.profile(columns, slots, edges, state).counts[:, 1:-2])
    return psi(*counts)


def psi_differs(peer: dict[str, Any]) -> float:
    """The largest difference between Evidently's PSI of a column and ours, on the same rows and the edges that it uses."""
    rows = peer["items"] // work.COLUMNS
    reference, current = (np.ascontiguousarray(columns[:, :rows]) for columns in (work.reference(), work.current()))
    worst = 0.0
    for i, (before, after) in enumerate(zip(reference, current, strict=True)):
        edges = profile.from_edges(np.histogram_bin_edges(np.concatenate([before, after]), bins="sturges"))
        worst = max(worst, abs(float(psi_report(before[None], after[None], edges)[0]) - peer["answer"][f"c{i}"]))
    return worst


def distances_differ(peer: dict[str, Any]) -> float:
    """The largest difference between Evidently's distances of two binned samples and ours, of what an alert carries."""
    said = distances(*work.histograms(), np.arange(18.0))
    return max(abs(said[name] - value) for name, value in peer["answer"].items())


def distance_differs(peer: dict[str, Any]) -> float:
    """How far scikit-learn's mean distance to the 50 nearest and ours are apart."""
    return abs(
        float(neighbors.nearest(work.embeddings(2_000, 256, 6), work.embeddings(20_000, 256, 7), 50).distance.mean()) - peer["answer"]
    )


def mmd_after_each_row(n: int) -> Callable[[], float]:
    """MMD of the last 50 rows against a reference of 1,000, after each row, of 4,096 features; rows come 50 at a time."""
    rows, reference = work.embeddings(n, work.DIMS, 10), work.embeddings(1000, work.DIMS, 9)
    w = rff.frequencies(work.DIMS, 4096, sigma=work.DIMS**0.5)
    known = rff.rff(reference, np.zeros(len(reference), np.int32), w, *rff.empty(1))
    places = np.arange(work.WINDOW, dtype=np.int32)

    def call() -> float:
        window, held, total = rff.empty(work.WINDOW)[0], rff.empty(1)[0], 0.0
        for start in range(0, n, work.WINDOW):
            own = rff.rff(rows[start : start + work.WINDOW], places, w, *rff.empty(work.WINDOW))[0]
            sums = held + np.cumsum(own - window, axis=0)  # a row takes the place of the one that was there a window ago
            total += float(rff.mmd2(sums, np.minimum(start + 1 + places, work.WINDOW), *known).sum())
            window, held = own, sums[-1:]
        return total

    return call


def rates() -> dict[str, float]:
    """Items a second by the peer's name."""
    reference, current = work.reference(), work.current()
    quantiles = profile.stack([profile.quantile_edges(column[:100_000]) for column in reference])
    items, stream = work.items(1_000_000), work.stream(1_000_000)
    registers, state, one = np.zeros((1, 4096), np.uint8), np.zeros((1, BETS)), profile.empty(1)
    single = profile.quantile_edges(reference[0])
    column = best_of(lambda: profile.profile(current[0], 0, single, one))
    steps = best_of(lambda: evidence(stream, 0, 0.1, bets_for(0.1, "rise"), state))
    distinct = best_of(lambda: cardinality.add_distinct(items, 0, registers))
    rows, keys = work.embeddings(20_000, 384, 5), np.zeros(20_000, np.int32)
    w, sums = rff.frequencies(384, 1024, sigma=384**0.5), rff.empty(1, 1024)
    queries, reservoir = work.embeddings(2_000, 256, 6), work.embeddings(20_000, 256, 7)
    texts = work.texts(1000)
    data, offsets = np.frombuffer(b"".join(texts), np.uint8), np.cumsum([0, *map(len, texts)])
    return {
        "datasketch MinHash": len(texts) / best_of(lambda: textsketch(data, offsets, hashes=32)),
        "alibi-detect online MMD": 1000 / best_of(mmd_after_each_row(1000), rounds=5),
        "scikit-learn RBFSampler + mean": len(rows) / best_of(lambda: rff.rff(rows, keys, w, *sums), rounds=3),
        "scikit-learn NearestNeighbors": len(queries) / best_of(lambda: neighbors.nearest(queries, reservoir, 50), rounds=3),
        "Evidently distances": 1 / best_of(lambda: distances(*work.histograms(), np.arange(18.0))),
        "Evidently PSI report": current.size / best_of(lambda: psi_report(reference, current, quantiles), rounds=5),
        "scipy ks_2samp": current.shape[1] / column,
        "scipy wasserstein_distance": current.shape[1] / column,
        "River ADWIN": len(stream) / steps,
        "River PageHinkley": len(stream) / steps,
        "datasketch HyperLogLog": len(items) / distinct,
    }
