"""Triton: mahalanobis. A program takes one device after the other, and a device's rows in their order; vectors stay in registers,
matrices in the cache, of which some rows at a time are in registers.

Inverses come by sweeps: sweeping a symmetric matrix by one index after the other turns it into minus its inverse, and sweeping the
precision by the metrics that are missing leaves the marginal precision of the others (Goodnight 1979, A Tutorial on the SWEEP Operator).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.mahalanobis import DEPTH, Mahalanobis, Rule, Scores
from kernels.runs import runs

MOST_METRICS = 128
WARPS = {1: 1, 2: 1, 4: 1, 8: 1, 16: 1, 32: 4, 64: 4, 128: 4}  # of a program, by metrics padded to a power of two
TILE = {1: 1, 2: 2, 4: 4, 8: 8, 16: 8, 32: 16, 64: 8, 128: 4}  # rows of a matrix at a time
REGISTERS = 255  # of a thread at most: without it the assembler spills for the sake of more programs at once
ROOM = 1 << 23  # float64 of the programs' own matrices, at most: 64 MB
LARGEST, FLOOR, TINY = 1e150, 0.01, 1e-12  # as in kernels/mahalanobis/cpu.py


@triton.jit
def rows_of(a, first, p, P: tl.constexpr, ROWS: tl.constexpr):
    """Rows first to first + ROWS of the matrix at a, [p, p]: their numbers, those of the columns, where they lie, and what is in it."""
    i, j = first + tl.arange(0, ROWS), tl.arange(0, P)
    return i, j, a + i[:, None] * p + j[None, :], (i < p)[:, None] & (j < p)[None, :]


@triton.jit
def times(a, vector, p, P: tl.constexpr, ROWS: tl.constexpr):
    """float64[P]: the symmetric matrix at a times the vector that lies at `vector`."""
    product = tl.zeros((P,), tl.float64)
    for first in range(0, p, ROWS):
        i, _, at, here = rows_of(a, first, p, P, ROWS)
        z = tl.load(vector + i, mask=i < p, other=0.0)
        product += tl.sum(tl.load(at, mask=here, other=0.0) * z[:, None], axis=0)
    return product


@triton.jit
def sweep(a, row_k, p, k, P: tl.constexpr, ROWS: tl.constexpr):
    """Sweep the symmetric matrix at a by index k, in place; the pivot. row_k: room for a row."""
    whole = tl.arange(0, P)
    row = tl.load(a + k * p + whole, mask=whole < p, other=0.0)
    pivot = tl.load(a + k * p + k)
    tl.store(row_k + whole, row, mask=whole < p)
    tl.debug_barrier()
    for first in range(0, p, ROWS):
        i, j, at, here = rows_of(a, first, p, P, ROWS)
        column = tl.load(row_k + i, mask=i < p, other=0.0)
        on_row, on_column = (i == k)[:, None], (j == k)[None, :]
        rest = tl.load(at, mask=here, other=0.0) - column[:, None] * row[None, :] / pivot
        swept = tl.where(on_row, row[None, :] / pivot, tl.where(on_column, column[:, None] / pivot, rest))
        tl.store(at, tl.where(on_row & on_column, -1.0 / pivot, swept), mask=here)
    tl.debug_barrier()
    return pivot


@triton.jit
def learn(cov, rates, deviations, rate, d, p, P: tl.constexpr, ROWS: tl.constexpr):
    """Move the covariance by a row: rate and d, and where they lie as well. What has rate 0 was not seen."""
    for first in range(0, p, ROWS):
        i, _, at, here = rows_of(cov, first, p, P, ROWS)
        of_row = tl.load(rates + i, mask=i < p, other=0.0)
        off = tl.load(deviations + i, mask=i < p, other=0.0)
        c = tl.load(at, mask=here, other=0.0)
        move = tl.maximum(of_row[:, None], rate[None, :])
        moved = (1.0 - move) * (c + move * off[:, None] * d[None, :])
        tl.store(at, tl.where((of_row > 0.0)[:, None] & (rate > 0.0)[None, :], moved, c), mask=here)
    tl.debug_barrier()


@triton.jit
def invert(cov, precision, scales, row_k, in_inverse, spread, ridge, p, P: tl.constexpr, ROWS: tl.constexpr):
    """The precision: inverse of the covariance in scales, plus ridge. The scales `spread` lie at `scales` as well."""
    extra = ridge
    ready = p < 0
    while ready == 0:  # pairs seen at different times need not form a definite matrix
        for first in range(0, p, ROWS):
            i, j, at, here = rows_of(cov, first, p, P, ROWS)
            of_row = tl.load(scales + i, mask=i < p, other=0.0)
            scaled = (of_row > 0.0)[:, None] & (spread > 0.0)[None, :]
            c = tl.load(at, mask=here, other=0.0) / tl.where(scaled, of_row[:, None] * spread[None, :], 1.0)
            c = tl.where(scaled, c, 0.0) + tl.where(i[:, None] == j[None, :], extra, 0.0)
            tl.store(precision + i[:, None] * p + j[None, :], c, mask=here)
        tl.debug_barrier()
        ready = p > 0
        for k in range(p):
            ready = ready & (sweep(precision, row_k, p, k, P, ROWS) > 1e-9)
        extra *= 4.0
    for first in range(0, p, ROWS):
        i, j, at, here = rows_of(precision, first, p, P, ROWS)
        inverse = -tl.load(at, mask=here, other=0.0)
        left_out = (i[:, None] == j[None, :]) & (in_inverse == 0)[None, :]
        tl.store(at, tl.where(left_out, 0.0, inverse), mask=here)
    tl.debug_barrier()


@triton.jit
def due(ticks, every):
    """As `cpu.due`."""
    step = ticks * 0 + 1
    while step * 16 <= ticks:
        step *= 2
    return (ticks % every == 0) | ((ticks < every) & (ticks % step == 0))


@triton.jit
def fold_kernel(
    x, order, starts, slots, weight, mean, cov, low, high, scale, precision, ticks, recent, rule, room,
    distance, score, observed, parts, devices, p, window, warmup, learning_ticks, every,
    PARTS: tl.constexpr, P: tl.constexpr, ROWS: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Rows order[starts[r]:starts[r + 1]] of device slots[r], for every so many r of `devices`. P and WINDOW: powers of two, at least p
    and window; ROWS: of a matrix at a time.

    rule float64[8]: decay, ridge, clip, guard, doubt, and the largest value, least share of the range and of the mean of `cpu`.
    room float64 [programs, P + 3, P]: for three vectors and a matrix, of each program.
    """
    decay, ridge, clip, guard, doubt = tl.load(rule), tl.load(rule + 1), tl.load(rule + 2), tl.load(rule + 3), tl.load(rule + 4)
    largest, floor, tiny = tl.load(rule + 5), tl.load(rule + 6), tl.load(rule + 7)
    j = tl.arange(0, P)
    inside = j < p
    w = tl.arange(0, WINDOW)
    first_room = room + tl.program_id(0).to(tl.int64) * (P * (P + 3))
    second_room, row_k, work = first_room + P, first_room + 2 * P, first_room + 3 * P
    for r in range(tl.program_id(0), devices, tl.num_programs(0)):
        start, stop = tl.load(starts + r), tl.load(starts + r + 1)
        if start < stop:
            device = tl.load(slots + r).to(tl.int64)
            flat = device * p + j
            of_cov, of_precision = cov + device * p * p, precision + device * p * p
            total_weight = tl.load(weight + flat, mask=inside, other=0.0)
            center = tl.load(mean + flat, mask=inside, other=0.0)
            least, most = tl.load(low + flat, mask=inside, other=0.0), tl.load(high + flat, mask=inside, other=0.0)
            spread = tl.load(scale + flat, mask=inside, other=0.0)
            in_inverse = tl.load(of_precision + j * p + j, mask=inside, other=0.0) > 0.0
            age = tl.load(ticks + device)
            last = tl.load(recent + device * window + w, mask=w < window, other=0.0)
            for t in range(start, stop):
                # 1. Deviations from the mean, in scales.
                row = tl.load(order + t)
                v = tl.load(x + row * p + j, mask=inside, other=float("nan")).to(tl.float64)
                seen = tl.abs(v) <= largest
                count = tl.sum(seen.to(tl.int32), axis=0)
                tl.store(observed + row, count)
                if count > 0:
                    learning = age < learning_ticks
                    known = seen & (total_weight > 0.0)
                    d = tl.where(seen, v - center, 0.0)
                    unmoved = known & ((spread == 0.0) | ((most <= least) & (age >= learning_ticks)))
                    spread = tl.where(unmoved, tl.maximum(spread, tl.abs(d) / clip), spread)
                    usable = known & (spread > 0.0)
                    z = tl.where(usable, tl.minimum(tl.maximum(d / tl.where(usable, spread, 1.0), -clip), clip), 0.0)
                    d = tl.where(usable & (age >= learning_ticks), z * spread, d)
                    tl.store(first_room + j, z, mask=inside)
                    tl.debug_barrier()
                    # 2. The distance, of what is observed under its marginal distribution.
                    gone = in_inverse & (seen == 0)
                    missing = tl.sum(gone.to(tl.int32), axis=0)
                    judged = tl.sum((in_inverse & seen).to(tl.int32), axis=0)
                    if missing > 0:
                        for first in range(0, p, ROWS):
                            i, _, at, here = rows_of(of_precision, first, p, P, ROWS)
                            tl.store(work + i[:, None] * p + j[None, :], tl.load(at, mask=here, other=0.0), mask=here)
                        tl.debug_barrier()
                        for _ in range(missing):
                            k = tl.min(tl.where(gone, j, P), axis=0)
                            sweep(work, row_k, p, k, P, ROWS)
                            gone = gone & (j != k)
                        g = times(work, first_room, p, P, ROWS)
                    else:
                        g = times(of_precision, first_room, p, P, ROWS)
                    part = z * g
                    fill = (judged + missing).to(tl.float64) / tl.maximum(judged, 1).to(tl.float64)
                    fill = tl.where(judged > 0, fill, 1.0)
                    total = tl.maximum(tl.sum(part, axis=0), 0.0) * fill
                    trusted = learning | (total < guard * (judged + missing))
                    # 3. Mean and covariance move.
                    fresh = total_weight <= 0.0
                    if learning:
                        least = tl.where(seen, tl.where(fresh, v, tl.minimum(least, v)), least)
                        most = tl.where(seen, tl.where(fresh, v, tl.maximum(most, v)), most)
                    row_weight = tl.where(trusted, 1.0, doubt)
                    total_weight = tl.where(seen, decay * total_weight + row_weight, total_weight)
                    rate = tl.where(seen, row_weight / tl.where(seen, total_weight, 1.0), 0.0)
                    center += rate * d
                    tl.debug_barrier()
                    tl.store(first_room + j, rate, mask=inside)
                    tl.store(second_room + j, d, mask=inside)
                    tl.debug_barrier()
                    learn(of_cov, first_room, second_room, rate, d, p, P, ROWS)
                    age += 1
                    # 4. Now and then scales, and the inverse.
                    if due(age, every):
                        if learning:
                            diagonal = tl.load(of_cov + j * p + j, mask=inside, other=0.0)
                            span = most - least
                            grown = tl.maximum(tl.maximum(tl.sqrt(diagonal), floor * span), tiny * tl.abs(center))
                            spread = tl.where((total_weight > 0.0) & (span > 0.0), grown, 0.0)
                        in_inverse = inside & (total_weight > 0.0)
                        tl.store(first_room + j, spread, mask=inside)
                        tl.debug_barrier()
                        invert(of_cov, of_precision, first_room, row_k, in_inverse, spread, ridge, p, P, ROWS)
                    # 5. The row's score.
                    if age > warmup:
                        place = age - warmup - 1
                        last = tl.where(w == place % window, total, last)
                        filled = tl.minimum(place + 1, window)
                        tl.store(distance + row, total)
                        tl.store(score + row, tl.sum(tl.where(w < filled, last, 0.0), axis=0) / filled.to(tl.float64))
                        if PARTS:
                            tl.store(parts + row * p + j, part * fill, mask=seen)
            tl.store(weight + flat, total_weight, mask=inside)
            tl.store(mean + flat, center, mask=inside)
            tl.store(low + flat, least, mask=inside)
            tl.store(high + flat, most, mask=inside)
            tl.store(scale + flat, spread, mask=inside)
            tl.store(ticks + device, age)
            tl.store(recent + device * window + w, last, mask=w < window)


def mahalanobis(x, slots, state: Mahalanobis, *, rule: Rule, warmup: int, learning_ticks: int, every: int, parts: bool) -> Scores:
    """As `kernels.mahalanobis.mahalanobis`, of tensors; at most 128 metrics."""
    check(x, slots, state)
    if warmup < 0 or every < 1:
        raise ValueError("warmup must not be negative, and every must be positive")
    return launch(x.contiguous(), slots, state, prepare(rule, x.device), warmup, learning_ticks, every, parts)


def prepare(rule: Rule, device) -> torch.Tensor:
    """The rule on the device, as `launch` takes it."""
    return torch.tensor([*rule, LARGEST, FLOOR, TINY], dtype=torch.float64, device=device)


def launch(x, slots, state: Mahalanobis, rule, warmup: int, learning_ticks: int, every: int, parts: bool) -> Scores:
    """Judge and learn rows, contiguous, whose slots are known to be in the state. Asks the device nothing, so that a CUDA graph can hold
    it (see `kernels.device.tick`): n, p and the state's size are static."""
    (n, p), device = x.shape, x.device
    window = state.recent.shape[1]
    distance, score = (torch.full((n,), torch.nan, dtype=torch.float64, device=device) for _ in range(2))
    observed = torch.zeros(n, dtype=torch.int32, device=device)
    by_metric = torch.full((n, p) if parts else (0, p), torch.nan, dtype=torch.float64, device=device)
    if n and len(state.ticks):
        order, starts, keys = runs(slots, len(state.ticks))
        width = triton.next_power_of_2(p)
        programs = min(len(keys), ROOM // (width * (width + 3)))
        room = torch.empty((programs, width + 3, width), dtype=torch.float64, device=device)
        fold_kernel[(programs,)](
            x, order, starts, keys, *state, rule, room,
            distance, score, observed, by_metric, len(keys), p, window, warmup, learning_ticks, every, PARTS=parts,
            P=width, ROWS=TILE[width], WINDOW=triton.next_power_of_2(window), num_warps=WARPS[width],
            maxnreg=REGISTERS, enable_fp_fusion=False,
        )  # fmt: skip
    return Scores(distance, score, observed, by_metric if parts else None)


def check(x, slots, state: Mahalanobis) -> None:
    """ValueError unless the arguments of `mahalanobis` fit together."""
    if x.dtype not in (torch.float32, torch.float64) or x.ndim != 2 or not 1 <= x.shape[1] <= MOST_METRICS:
        raise ValueError(f"x must be float32 or float64 [n, 1 to {MOST_METRICS}], not {x.dtype}{list(x.shape)}")
    devices, p = len(state.ticks), x.shape[1]
    if slots.dtype != torch.int32 or slots.shape != (len(x),):
        raise ValueError(f"slots must be int32[{len(x)}], not {slots.dtype}{list(slots.shape)}")
    if not bool(((slots >= -1) & (slots < devices)).all()):
        raise ValueError(f"slots must be in a state of {devices} rows, or -1")
    for name, array in state._asdict().items():
        shape = (devices, max(1, array.shape[-1])) if name == "recent" else (devices, p, p)[: DEPTH.get(name, 2)]
        kind = torch.int64 if name == "ticks" else torch.float64
        if array.shape != shape or array.dtype != kind or not array.is_contiguous():
            raise ValueError(f"{name} must be {list(shape)}, contiguous, not {array.dtype}{list(array.shape)}")
