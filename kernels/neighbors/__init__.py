"""neighbors: the nearest of a reservoir to each query, and all pairs of alike rows, without the matrix of all distances.

`nearest` and `similar_pairs` are exact; `banded_pairs` finds its candidates by locality-sensitive hashing
and checks each, so it is never wrong about a pair but may miss some, as `recall` says.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Nearest", "Pairs", "banded_pairs", "banding", "nearest", "recall", "similar_pairs"]

RECALL = 0.85  # of the pairs at the threshold that `banding` sees to
MOST_BANDS = 128
WORDS = 16  # codes of two rows that are compared before the rows are: 64 bytes


class Nearest(NamedTuple):
    """distance float32[n, k], Euclidean, ascending, infinite where there are fewer than k; row int32[n, k], of the reservoir, -1."""

    distance: np.ndarray
    row: np.ndarray


class Pairs(NamedTuple):
    """first, second int32[c], first < second, in ascending order; similarity float32[c], the cosine. `found` is how many there are, of
    which c are kept."""

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray
    found: int


def nearest(queries, reservoir, k: int, *, segments=None, starts=None) -> Nearest:
    """The k nearest rows of the reservoir to each query, in Euclidean distance (for unit rows: sqrt(2 - 2 cosine)).

    queries: float32 [n, d]; reservoir: float32 [m, d]. Tensors may be bfloat16, and k is 128 at most for them.
    starts: int64[g + 1] cuts the reservoir into segments, and query i looks only in segments[i], int32[n], -1 for none: for histories
      of their own per key. A row with NaN or infinity is nobody's neighbour and has none.

    Neighbours are chosen by float32 arithmetic (an error of about 1e-6 of the squared norms) and their distances computed anew in
    float64, so that a duplicate has distance 0. Raises ValueError for shapes or types that do not fit.

    >>> points = np.float32([[0, 0], [3, 4], [6, 8]])
    >>> found = nearest(np.float32([[0, 0], [6, 7]]), points, 2)
    >>> found.distance.round(3).tolist(), found.row.tolist()
    ([[0.0, 5.0], [1.0, 4.243000030517578]], [[0, 1], [2, 1]])
    """
    if type(queries).__module__.partition(".")[0] == "torch":
        from kernels.neighbors import gpu

        return gpu.nearest(queries, reservoir, k, segments=segments, starts=starts)
    from kernels.neighbors import cpu

    check_rows(queries, "queries")
    check_rows(reservoir, "reservoir")
    n, m = len(queries), len(reservoir)
    if queries.shape[1] != reservoir.shape[1] or k < 1:
        raise ValueError(
            f"queries and reservoir must have rows of one length and k be positive, not {queries.shape}, {reservoir.shape}, {k}"
        )
    if (starts is None) != (segments is None):
        raise ValueError("starts and segments must come together")
    if starts is None or segments is None:
        starts, segments = np.array([0, m]), np.zeros(n, np.int32)
    if segments.dtype != np.int32 or segments.shape != (n,) or (n and not -1 <= segments.min() <= segments.max() < len(starts) - 1):
        raise ValueError(f"segments must be int32[{n}] of -1 to {len(starts) - 2}")
    if starts[0] < 0 or starts[-1] > m or (np.diff(starts) < 0).any():
        raise ValueError(f"starts must ascend from 0 to {m}")
    out = Nearest(np.full((n, k), np.inf, np.float32), np.full((n, k), -1, np.int32))
    if n and m:
        order = np.argsort(segments, kind="stable")
        cpu.nearest(queries, reservoir, order, segments, starts, *out)
    return out


def similar_pairs(signatures, least: float, *, limit: int = 1_000_000) -> Pairs:
    """All pairs of rows whose cosine is at least `least`, by comparing all: O(n**2 d) time, O(pairs) memory.

    signatures: float32 [n, d]; rows with NaN, infinity or no length are like nobody. Of more than `limit` pairs the first are kept.
    """
    if type(signatures).__module__.partition(".")[0] == "torch":
        from kernels.neighbors import gpu

        return gpu.similar_pairs(signatures, least, limit=limit)
    from kernels.neighbors import cpu

    check_rows(signatures, "signatures")
    unit, there = unit_rows(signatures)
    blocks = cpu.blocks_of(unit)
    counts = cpu.count_pairs(unit, there, blocks, np.float32(least))
    ends = np.cumsum(counts)
    found = int(ends[-1]) if len(ends) else 0
    kept = min(found, limit)
    pairs = Pairs(np.empty(kept, np.int32), np.empty(kept, np.int32), np.empty(kept, np.float32), found)
    if kept:
        cpu.write_pairs(unit, there, blocks, np.float32(least), counts, ends - counts, *pairs[:3])
    return pairs


def banded_pairs(
    signatures: np.ndarray,
    least: float,
    *,
    bands: int | None = None,
    bits: int | None = None,
    widest: int = 64,
    limit: int = 1_000_000,
    seed: int = 0,
) -> Pairs:
    """Pairs of rows whose cosine is at least `least`, among those that share a band of a SimHash: about O(n (bands bits d + widest)).

    A row's sign along each of bands * bits random directions makes `bands` numbers of `bits` bits; in each band, a row is compared
    with the next `widest` rows of the same number, so that a flood of like rows costs no square (union-find still joins them). Of rows
    that meet, the signs are compared first: those that differ in five standard deviations more than they should are left (1 of 3,000,000).
    `recall(least, bands, bits)` of the pairs at the threshold are found, more of those above it; `banding` chooses both if they are not
    given. For NumPy arrays only, of fewer than 2**31 rows.

    >>> rows = np.random.default_rng(0).normal(size=(1000, 64)).astype(np.float32)
    >>> rows[3], rows[17] = rows[999], rows[999] * 2
    >>> banded_pairs(rows, 0.9)[:2]
    (array([ 3,  3, 17], dtype=int32), array([ 17, 999, 999], dtype=int32))
    """
    from kernels.neighbors import cpu

    check_rows(signatures, "signatures")
    usual = banding(len(signatures), least, bits)
    bands, bits = usual[0] if bands is None else bands, usual[1]
    if not 1 <= bits <= 32 or bands < 1 or widest < 1:
        raise ValueError(f"bits must be 1 to 32, bands and widest positive, not {bits}, {bands}, {widest}")
    unit, there = unit_rows(signatures)
    n, d = unit.shape
    held = cpu.COLUMNS // bits
    directions = np.zeros((-(-bands // held), d, cpu.COLUMNS), np.float32)
    drawn = np.random.default_rng(seed).standard_normal((d, bands * bits)).astype(np.float32)
    for block, part in enumerate(np.split(drawn, range(held * bits, bands * bits, held * bits), axis=1)):
        directions[block, :, : part.shape[1]] = part
    codes = cpu.band_codes(unit, directions, bands, bits)
    words = min(bands, WORDS)
    differ = np.arccos(np.clip(least, -1, 1)) / np.pi
    most_apart = int(words * bits * differ + 5 * np.sqrt(words * bits * differ * (1 - differ)))
    rows = np.flatnonzero(there)
    keys = [np.empty(0, np.int64)]
    for band in range(bands):
        met = np.sort(codes[rows, band].astype(np.int64) << 32 | rows)
        where = (unit, codes, met, widest, words, most_apart, np.float32(least))
        keys.append(cpu.write_runs(*where, cpu.count_runs(*where)))
    pairs = np.unique(np.concatenate(keys))
    first, second = (pairs[:limit] // max(n, 1)).astype(np.int32), (pairs[:limit] % max(n, 1)).astype(np.int32)
    return Pairs(first, second, cpu.cosines(unit, first, second), len(pairs))


def banding(n: int, least: float, bits: int | None = None) -> tuple[int, int]:
    """The bands, and the bits of each, that `banded_pairs` takes for n rows if it is not told.

    Bits are two less than n has, and 16 at least, so that chance brings a row together with four others in a band, however many rows
    there are. Bands are as many as find RECALL of the pairs at the threshold, and MOST_BANDS at most, which is reached below .76.

    >>> banding(10_000, 0.85), banding(1_000_000, 0.85), banding(1_000_000, 0.9)
    ((42, 16), (62, 18), (30, 18))
    """
    bits = max(16, (n - 1).bit_length() - 2) if bits is None else bits
    shared = np.clip(recall(least, 1, bits), 1e-9, 1 - 1e-9)
    return int(min(MOST_BANDS, np.ceil(np.log(1 - RECALL) / np.log1p(-shared)))), bits


def recall(cosine: float, bands: int, bits: int = 16) -> float:
    """Share of pairs of this cosine that share a band, so that `banded_pairs` finds them.

    >>> round(recall(0.9, 24), 2), round(recall(0.95, 24), 2), round(recall(0.5, 24), 3)
    (0.88, 0.99, 0.036)
    """
    agree = 1 - np.arccos(np.clip(cosine, -1, 1)) / np.pi
    return float(1 - (1 - agree**bits) ** bands)


def unit_rows(signatures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows divided by their length, zero where that makes no sense; and bool[n], where it does."""
    from kernels.neighbors import cpu

    unit, there = np.empty_like(signatures), np.empty(len(signatures), np.bool_)
    cpu.unit_rows(signatures, unit, there)
    return unit, there


def check_rows(rows, name: str) -> None:
    """ValueError unless `rows` is float32 [n, d], contiguous."""
    if rows.dtype != np.float32 or rows.ndim != 2 or not rows.flags.c_contiguous:
        raise ValueError(f"{name} must be float32 [n, d], contiguous, not {rows.dtype}{list(rows.shape)}")
