"""Triton: mahalanobis. A program takes one device and its rows one after the other; vectors stay in registers, matrices in the cache.

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
WARPS = {1: 1, 2: 1, 4: 1, 8: 1, 16: 4, 32: 8, 64: 16, 128: 32}  # of a program, by metrics padded to a power of two
LARGEST, FLOOR, TINY = 1e150, 0.01, 1e-12  # as in kernels/mahalanobis/cpu.py


@triton.jit
def at(v, j, k):
    """v[k] of a vector."""
    return tl.sum(tl.where(j == k, v, 0.0), axis=0)


@triton.jit
def sweep(a, j, k):
    """The symmetric matrix swept by index k, and the pivot."""
    column = tl.sum(tl.where((j == k)[None, :], a, 0.0), axis=1)
    row = tl.sum(tl.where((j == k)[:, None], a, 0.0), axis=0)
    pivot = at(column, j, k)
    on_row, on_column = (j == k)[:, None], (j == k)[None, :]
    swept = tl.where(on_row, row[None, :] / pivot, tl.where(on_column, column[:, None] / pivot, a - column[:, None] * row[None, :] / pivot))
    return tl.where(on_row & on_column, -1.0 / pivot, swept), pivot


@triton.jit
def due(ticks, every):
    """As `cpu.due`."""
    step = ticks * 0 + 1
    while step * 16 <= ticks:
        step *= 2
    return (ticks % every == 0) | ((ticks < every) & (ticks % step == 0))


@triton.jit
def fold_kernel(
    x, order, starts, slots, weight, mean, cov, low, high, scale, precision, ticks, recent, rule,
    distance, score, observed, parts, p, window, warmup, learning_ticks, every,
    PARTS: tl.constexpr, P: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Rows order[starts[r]:starts[r + 1]] of device slots[r]. P and WINDOW: powers of two, at least p and window.

    rule float64[8]: decay, ridge, clip, guard, doubt, and the largest value, least share of the range and of the mean of `cpu`.
    """
    decay, ridge, clip, guard, doubt = tl.load(rule), tl.load(rule + 1), tl.load(rule + 2), tl.load(rule + 3), tl.load(rule + 4)
    largest, floor, tiny = tl.load(rule + 5), tl.load(rule + 6), tl.load(rule + 7)
    device = tl.load(slots + tl.program_id(0)).to(tl.int64)
    start, stop = tl.load(starts + tl.program_id(0)), tl.load(starts + tl.program_id(0) + 1)
    if start >= stop:
        return
    j = tl.arange(0, P)
    inside = j < p
    flat = device * p + j
    square = device * p * p + j[:, None] * p + j[None, :]
    full = inside[:, None] & inside[None, :]
    total_weight = tl.load(weight + flat, mask=inside, other=0.0)
    center = tl.load(mean + flat, mask=inside, other=0.0)
    least, most = tl.load(low + flat, mask=inside, other=0.0), tl.load(high + flat, mask=inside, other=0.0)
    spread = tl.load(scale + flat, mask=inside, other=0.0)
    in_inverse = tl.load(precision + device * p * p + j * p + j, mask=inside, other=0.0) > 0.0
    age = tl.load(ticks + device)
    w = tl.arange(0, WINDOW)
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
            # 2. The distance, of what is observed under its marginal distribution.
            a = tl.load(precision + square, mask=full, other=0.0)
            gone = in_inverse & (seen == 0)
            missing = tl.sum(gone.to(tl.int32), axis=0)
            judged = tl.sum((in_inverse & seen).to(tl.int32), axis=0)
            for _ in range(missing):
                k = tl.min(tl.where(gone, j, P), axis=0)
                a, _pivot = sweep(a, j, k)
                gone = gone & (j != k)
            g = tl.sum(a * z[None, :], axis=1)
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
            c = tl.load(cov + square, mask=full, other=0.0)
            move = tl.maximum(rate[:, None], rate[None, :])
            moved = (1.0 - move) * (c + move * d[:, None] * d[None, :])
            c = tl.where(seen[:, None] & seen[None, :], moved, c)
            tl.store(cov + square, c, mask=full)
            age += 1
            # 4. Now and then scales, and the inverse.
            if due(age, every):
                diagonal = tl.sum(tl.where(j[:, None] == j[None, :], c, 0.0), axis=1)
                if learning:
                    span = most - least
                    grown = tl.maximum(tl.maximum(tl.sqrt(diagonal), floor * span), tiny * tl.abs(center))
                    spread = tl.where((total_weight > 0.0) & (span > 0.0), grown, 0.0)
                scaled = (spread > 0.0)[:, None] & (spread > 0.0)[None, :]
                c = tl.where(scaled, c / tl.where(scaled, spread[:, None] * spread[None, :], 1.0), 0.0)
                extra = ridge
                work = c
                ready = age < 0
                while ready == 0:  # pairs seen at different times need not form a definite matrix
                    work = c + tl.where(j[:, None] == j[None, :], tl.where(inside, extra, 1.0)[:, None], 0.0)
                    ready = age > 0
                    for k in range(p):
                        work, pivot = sweep(work, j, k)
                        ready = ready & (pivot > 1e-9)
                    extra *= 4.0
                in_inverse = inside & (total_weight > 0.0)
                known_pair = in_inverse[:, None] | (j[:, None] != j[None, :])
                tl.store(precision + square, tl.where(known_pair, -work, 0.0), mask=full)
                tl.debug_barrier()
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
        fold_kernel[(len(keys),)](
            x, order, starts, keys, *state, rule,
            distance, score, observed, by_metric, p, window, warmup, learning_ticks, every,
            PARTS=parts, P=width, WINDOW=triton.next_power_of_2(window), num_warps=WARPS[width], enable_fp_fusion=False,
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
