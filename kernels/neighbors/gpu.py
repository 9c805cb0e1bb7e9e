"""Triton: neighbors. bfloat16 products choose candidates with room for their rounding; float64 decides. No matrix leaves the registers.

Rounding both rows to bfloat16 moves a product by 2**-8 of the rows' lengths at most. So `similar_pairs` takes every pair that comes
within that of the threshold, and checks each; and `nearest` keeps more candidates than asked for, measures them, and searches in
float32 again where those left out could have been nearer. Pairs are counted by an atomic, in any order, and sorted afterwards.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.neighbors import Nearest, Pairs

BLOCK_D = 64
BFLOAT16 = (64, 128, BLOCK_D)  # queries of a program, rows of the reservoir at a time, columns of both at a time
FLOAT32 = (32, 64, 16)  # its products have no matrix unit, and hold twice the registers
TILE = 128  # rows by rows of a program of similar_pairs
SQUARE = 8  # tiles by tiles that run together, so that their rows are read once into the L2 cache
EXACT_PAIRS = 128  # pairs of a program that measures
MOST_NEIGHBORS = 128
LEAST_ROOM = 1 << 14  # candidates held at once, at least
ROUNDING = 2**-8 * 1.15  # of a product of unit rows in bfloat16; the rest is for its sum in float32


@triton.jit
def nearest_kernel(
    queries, reservoir, own, norms, order, tasks, keys, dims,
    SPLITS: tl.constexpr, K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """keys int64 [n, SPLITS, K]: the K least squared distances of each part of the reservoir, their float32 bits above the row's number.

    Task int64[4]: queries order[t0:t1], rows t2 to t3 of the reservoir. Places without a neighbour have bits above those of infinity.
    dims is a multiple of BLOCK_D.
    """
    task = tasks + 4 * tl.program_id(0)
    place = tl.load(task) + tl.arange(0, BLOCK_N)
    is_query = place < tl.load(task + 1)
    start, stop = tl.load(task + 2), tl.load(task + 3)
    share = tl.cdiv(stop - start, SPLITS)
    start += share * tl.program_id(1)
    stop = tl.minimum(stop, start + share)
    query = tl.load(order + place, mask=is_query, other=0)
    length = tl.load(own + query, mask=is_query, other=float("inf"))
    k = tl.arange(0, K)
    best = tl.zeros((BLOCK_N, K), tl.int64) + 0x7FFFFFFF00000000 + k[None, :]
    for first in range(start, stop, BLOCK_M):
        row = first + tl.arange(0, BLOCK_M)
        dots = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
        for d0 in range(0, dims, BLOCK_D):
            d = d0 + tl.arange(0, BLOCK_D)
            a = tl.load(queries + query[:, None] * dims + d[None, :])
            b = tl.load(reservoir + tl.minimum(row, stop - 1)[None, :] * dims + d[:, None])
            dots = tl.dot(a, b, dots, input_precision="ieee")
        norm = tl.load(norms + row, mask=row < stop, other=float("inf"))
        value = tl.maximum(length[:, None] + norm[None, :] - 2.0 * dots, 0.0)
        worst = tl.max(best, axis=1)
        least, at = tl.min(value, axis=1, return_indices=True)
        key = (least.to(tl.int32, bitcast=True).to(tl.int64) << 32) | (first + at)
        better = (key < worst) & (least < float("inf"))
        while tl.max(better.to(tl.int32), axis=0) > 0:
            best = tl.where(better[:, None] & (best == worst[:, None]), key[:, None], best)
            value = tl.where(tl.arange(0, BLOCK_M)[None, :] == at[:, None], float("inf"), value)
            worst = tl.max(best, axis=1)
            least, at = tl.min(value, axis=1, return_indices=True)
            key = (least.to(tl.int32, bitcast=True).to(tl.int64) << 32) | (first + at)
            better = (key < worst) & (least < float("inf"))
    out = keys + (query * SPLITS + tl.program_id(1))[:, None] * K + k[None, :]
    tl.store(out, best, mask=is_query[:, None])


@triton.jit
def pairs_kernel(
    unit, squares, found, pairs, room, n, dims, near,
    SQUARE: tl.constexpr, TILE: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Append the pairs i < j whose product is at least near[0] to pairs int32 [room, 2], and count all of them in `found`.

    unit [rows, dims], both padded to whole tiles. A program takes one tile of a square, of the squares int32 [.., 2] that are listed.
    """
    square = tl.program_id(0) // (SQUARE * SQUARE)
    inside = tl.program_id(0) % (SQUARE * SQUARE)
    i_tile = tl.load(squares + 2 * square) * SQUARE + inside // SQUARE
    j_tile = tl.load(squares + 2 * square + 1) * SQUARE + inside % SQUARE
    if (i_tile <= j_tile) & (j_tile * TILE < n):
        i = i_tile * TILE + tl.arange(0, TILE)
        j = j_tile * TILE + tl.arange(0, TILE)
        dots = tl.zeros((TILE, TILE), tl.float32)
        for d0 in range(0, dims, BLOCK_D):
            d = d0 + tl.arange(0, BLOCK_D)
            a = tl.load(unit + i[:, None].to(tl.int64) * dims + d[None, :])
            b = tl.load(unit + j[None, :].to(tl.int64) * dims + d[:, None])
            dots = tl.dot(a, b, dots, input_precision="ieee")
        hit = (dots >= tl.load(near)) & (i[:, None] < j[None, :]) & (j < n)[None, :]
        of_row = tl.sum(hit.to(tl.int32), axis=1)
        total = tl.sum(of_row, axis=0)
        if total > 0:
            base = tl.atomic_add(found, total.to(tl.int64), sem="relaxed")
            left = tl.minimum(room - base, TILE * TILE).to(tl.int32)
            place = (tl.cumsum(of_row, axis=0) - of_row)[:, None] + tl.cumsum(hit.to(tl.int32), axis=1) - 1
            out = pairs + 2 * base
            kept = hit & (place < left)
            tl.store(out + 2 * place, tl.broadcast_to(i[:, None], (TILE, TILE)), mask=kept)
            tl.store(out + 2 * place + 1, tl.broadcast_to(j[None, :], (TILE, TILE)), mask=kept)


@triton.jit
def measure_kernel(a, b, i, j, out, count, dims, PRODUCT: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    """out float64: the inner product of rows a[i] and b[j], or their squared distance, summed in float64."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < count
    of_a = tl.load(i + at, mask=here, other=0)
    of_b = tl.load(j + at, mask=here, other=0)
    total = tl.zeros((BLOCK,), tl.float64)
    for d0 in range(0, dims, BLOCK_D):
        d = d0 + tl.arange(0, BLOCK_D)
        mask = here[:, None] & (d < dims)[None, :]
        x = tl.load(a + of_a[:, None] * dims + d[None, :], mask=mask, other=0.0).to(tl.float64)
        y = tl.load(b + of_b[:, None] * dims + d[None, :], mask=mask, other=0.0).to(tl.float64)
        total += tl.sum(x * y if PRODUCT else (x - y) * (x - y), axis=1)
    tl.store(out + at, total, mask=here)


def measure(a, b, i, j, product: bool):
    """float64 [like i]: exact products or squared distances of rows a[i] and b[j]."""
    out = torch.full(i.shape, torch.nan, dtype=torch.float64, device=i.device)
    if i.numel():
        measure_kernel[(triton.cdiv(i.numel(), EXACT_PAIRS),)](
            a, b, i.contiguous(), j.contiguous(), out, i.numel(), a.shape[1],
            PRODUCT=product, BLOCK=EXACT_PAIRS, BLOCK_D=16, enable_fp_fusion=True,
        )  # fmt: skip
    return out


def halves(rows):
    """Rows rounded to bfloat16; as float32 for Triton's interpreter, which has no arithmetic of bfloat16."""
    rows = rows.to(torch.bfloat16)
    return rows.float() if rows.device.type == "cpu" else rows


def padded(rows, multiple: int = 1):
    """Rows with zeros behind them to a whole number of BLOCK_D columns, and as many zero rows as make a multiple."""
    return torch.nn.functional.pad(rows, (0, -rows.shape[1] % BLOCK_D, 0, -len(rows) % multiple)).contiguous()


def search(queries, reservoir, own, norms, order, segments, starts, width: int, blocks: tuple[int, int, int]):
    """int64 [n, width]: the least keys of `nearest_kernel` for the queries in `order`, ascending; of others, places without a row."""
    device = queries.device
    block_n, block_m, block_d = blocks
    keys_of, lengths = torch.unique_consecutive(segments[order], return_counts=True)
    ends = torch.cumsum(lengths, 0)
    programs = (lengths + block_n - 1) // block_n
    group = torch.repeat_interleave(torch.arange(len(keys_of), device=device), programs)
    number = torch.arange(len(group), device=device) - (torch.cumsum(programs, 0) - programs)[group]
    first = (ends - lengths)[group] + number * block_n
    of = keys_of.long()[group]
    tasks = torch.stack([first, torch.minimum(first + block_n, ends[group]), starts[of], starts[of + 1]], 1).contiguous()
    longest = int((tasks[:, 3] - tasks[:, 2]).max())
    splits = max(1, min(triton.next_power_of_2(triton.cdiv(512, len(tasks))), longest // 1024))
    keys = torch.full((len(queries), splits, width), 2**63 - 1, dtype=torch.int64, device=device)
    nearest_kernel[(len(tasks), splits)](
        queries, reservoir, own, norms, order, tasks, keys, queries.shape[1],
        SPLITS=splits, K=width, BLOCK_N=block_n, BLOCK_M=block_m, BLOCK_D=block_d, num_warps=8, num_stages=2, enable_fp_fusion=True,
    )  # fmt: skip
    return torch.sort(keys.view(len(queries), -1), dim=1).values[:, :width]


def settle(queries, reservoir, keys, k: int):
    """The k nearest of the candidates by their exact distance, then by row: squared distances float64 and rows int64 [n, k]."""
    infinity = torch.tensor(torch.inf).view(torch.int32).item()
    row = torch.sort(torch.where((keys >> 32) < infinity, keys & 0xFFFFFFFF, 2**31), dim=1).values
    real = row < 2**31
    of = torch.arange(len(queries), device=row.device)[:, None].expand_as(row)
    square = torch.full(row.shape, torch.inf, dtype=torch.float64, device=row.device)
    square[real] = measure(queries, reservoir, of[real], row[real], product=False)
    order = torch.sort(torch.sqrt(square).float(), dim=1, stable=True).indices[:, :k]
    return torch.gather(square, 1, order), torch.where(torch.gather(real, 1, order), torch.gather(row, 1, order), -1)


def nearest(queries, reservoir, k: int, *, segments=None, starts=None) -> Nearest:
    """As `kernels.neighbors.nearest`, of tensors; k is at most 128."""
    check_rows(queries, "queries")
    check_rows(reservoir, "reservoir")
    n, m, device = len(queries), len(reservoir), queries.device
    if queries.shape[1] != reservoir.shape[1] or not 1 <= k <= MOST_NEIGHBORS:
        raise ValueError(f"rows must have one length and k be 1 to {MOST_NEIGHBORS}, not {queries.shape}, {reservoir.shape}, {k}")
    if (starts is None) != (segments is None):
        raise ValueError("starts and segments must come together")
    if starts is None or segments is None:
        starts, segments = torch.tensor([0, m], device=device), torch.zeros(n, dtype=torch.int32, device=device)
    starts = torch.as_tensor(starts, device=device).long()
    if segments.dtype != torch.int32 or segments.shape != (n,) or not bool(((segments >= -1) & (segments < len(starts) - 1)).all()):
        raise ValueError(f"segments must be int32[{n}] of -1 to {len(starts) - 2}")
    if int(starts[0]) < 0 or int(starts[-1]) > m or bool((starts.diff() < 0).any()):
        raise ValueError(f"starts must ascend from 0 to {m}")
    found = Nearest(
        torch.full((n, k), torch.inf, dtype=torch.float32, device=device), torch.full((n, k), -1, dtype=torch.int32, device=device)
    )
    # 1. Distances do not change when both move: about the reservoir's mean, lengths and with them roundings are least.
    rows, asked = (a.float() for a in (reservoir, queries))
    good, fit = torch.isfinite(rows).all(1), torch.isfinite(asked).all(1)
    center = rows[good].mean(0) if bool(good.any()) else rows.new_zeros(rows.shape[1])
    moved, moved_asked = (torch.where(ok[:, None], a - center, 0.0) for a, ok in ((rows, good), (asked, fit)))
    norms = torch.where(good, (moved * moved).sum(1), torch.inf)
    own = (moved_asked * moved_asked).sum(1)
    order = torch.sort(segments, stable=True).indices
    order = order[(fit & (own < torch.inf) & (segments >= 0))[order]].contiguous()
    if not m or not len(order):
        return found
    # 2. Candidates by bfloat16, twice as many as asked for, and their exact distances.
    width = min(triton.next_power_of_2(max(8, 2 * k)), MOST_NEIGHBORS)
    moved, moved_asked = padded(moved), padded(moved_asked)
    keys = search(halves(moved_asked), halves(moved), own, norms, order, segments, starts, width, BFLOAT16)
    square, row = settle(asked, rows, keys, k)
    # 3. Where one that was left out could be nearer than the last, choose by float32.
    longest = torch.where(norms < torch.inf, norms, 0).max()
    off = 2 * ROUNDING * torch.sqrt(own * longest) + 1e-5 * (own + longest)
    kept = (keys[:, -1] >> 32).to(torch.int32).view(torch.float32)
    doubtful = order[~((kept - off)[order] > square[order, -1]) & (kept < torch.inf)[order]]
    if len(doubtful):
        width = triton.next_power_of_2(max(8, k))
        keys = search(moved_asked, moved, own, norms, doubtful.contiguous(), segments, starts, width, FLOAT32)
        square[doubtful], row[doubtful] = settle(asked[doubtful], rows, keys[doubtful], k)
    found.distance[order] = torch.sqrt(square[order]).float()
    found.row[order] = row[order].int()
    return found


def similar_pairs(signatures, least: float, *, limit: int = 1_000_000) -> Pairs:
    """As `kernels.neighbors.similar_pairs`, of a tensor, float32 or bfloat16.

    Its memory is that of the pairs of 1,024 rows with all others at most, however many there are.
    """
    check_rows(signatures, "signatures")
    n, device = len(signatures), signatures.device
    norm = torch.sqrt((signatures.double() ** 2).sum(1))
    fit = torch.isfinite(norm) & (norm > 0)
    unit = torch.where(fit[:, None], signatures.float(), 0) / torch.where(fit, norm, 1).float()[:, None]
    rows = padded(halves(unit), TILE)
    columns: tuple[list, list, list] = ([], [], [])
    found = 0
    stripes = [(0, triton.cdiv(n, TILE * SQUARE))] if n else []
    while stripes:
        start, stop = stripes.pop()
        keys = candidates(rows, n, least - ROUNDING, start, stop, max(LEAST_ROOM, 4 * limit))
        if keys is None:  # too many: the first half of the rows, then the others
            middle = (start + stop) // 2
            stripes += [(middle, stop), (start, middle)]
            continue
        i, j = keys // n, keys % n
        cosine = measure(unit, unit, i, j, product=True)
        alike = torch.nonzero((cosine >= least) & fit[i] & fit[j]).view(-1)
        kept = alike[: max(0, limit - found)]
        found += len(alike)
        for column, values in zip(columns, (i.int(), j.int(), cosine.float()), strict=True):
            column.append(values[kept])
    first, second, similarity = (
        torch.cat([torch.empty(0, dtype=kind, device=device), *column])
        for kind, column in zip((torch.int32, torch.int32, torch.float32), columns, strict=True)
    )
    return Pairs(first, second, similarity, found)


def candidates(rows, n: int, near: float, start: int, stop: int, room: int):
    """int64: i * n + j, ascending, of the pairs that may be alike, i in the squares of tiles from start to stop. None: there are more
    than there is room for, and the rows can be halved."""
    device = rows.device
    squares = torch.triu_indices(stop - start, triton.cdiv(n, TILE * SQUARE) - start, device=device).T.int().contiguous() + start
    threshold = torch.tensor([near], dtype=torch.float32, device=device)
    while True:
        pairs = torch.full((room, 2), -1, dtype=torch.int32, device=device)
        found = torch.zeros(1, dtype=torch.int64, device=device)
        pairs_kernel[(len(squares) * SQUARE * SQUARE,)](
            rows, squares, found, pairs, room, n, rows.shape[1], threshold,
            SQUARE=SQUARE, TILE=TILE, BLOCK_D=BLOCK_D, num_warps=8, num_stages=3, enable_fp_fusion=True,
        )  # fmt: skip
        total = int(found)
        if total <= room:
            i, j = pairs[:total].long().unbind(1)
            return torch.sort(i * n + j).values
        if stop - start > 1:
            return None
        room = total


def check_rows(rows, name: str) -> None:
    """ValueError unless `rows` is float32 or bfloat16 [n, d], contiguous."""
    if rows.dtype not in (torch.float32, torch.bfloat16) or rows.ndim != 2 or not rows.is_contiguous():
        raise ValueError(f"{name} must be float32 or bfloat16 [n, d], contiguous, not {rows.dtype}{list(rows.shape)}")
