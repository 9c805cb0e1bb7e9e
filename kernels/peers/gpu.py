"""Triton: peers. A program takes one group and four metrics; medians are found bit by bit, by counting the values below, without a sort.

A float64's bits, as a signed integer with the lower bits of negative numbers turned, ascend as the number does. So the value of a rank
is built from its highest bit down: a bit is set if no more values than the rank lie below.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.peers import GAUSSIAN, Peers

ROWS = 64  # of a group at a time
METRICS = 4


@triton.jit
def ascending(v):
    """int64 in the order of the float64 `v`."""
    bits = v.to(tl.int64, bitcast=True)
    return bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)


@triton.jit
def values_of(x, order, place, stop, j, p, center):
    """The rows' numbers, x - center float64 [rows, metrics], and which of these are not missing."""
    row = tl.load(order + place, mask=place < stop, other=0)
    here = (place < stop)[:, None] & (j < p)[None, :]
    v = tl.load(x + row[:, None] * p + j[None, :], mask=here, other=float("nan")).to(tl.float64)
    return row, v - center[None, :], tl.abs(v) < float("inf")


@triton.jit
def middle(x, order, start, stop, j, p, center, count, ABSOLUTE: tl.constexpr, ROWS: tl.constexpr):
    """float64 [metrics]: the median of x - center, or of its absolute value, over the `count` values of each metric."""
    rank = (tl.maximum(count, 1) - 1) // 2
    found = tl.zeros_like(count).to(tl.int64) + (-0x7FFFFFFFFFFFFFFF - 1)
    for step in range(64):
        trial = found ^ (tl.full((1,), 1, tl.int64) << (63 - step))
        below = tl.zeros_like(count)
        for first in range(start, stop, ROWS):
            _, v, there = values_of(x, order, first + tl.arange(0, ROWS), stop, j, p, center)
            key = ascending(tl.abs(v) if ABSOLUTE else v)
            below += tl.sum((there & (key < trial[None, :])).to(tl.int32), axis=0)
        found = tl.where(below <= rank, trial, found)
    # An even number has two middle values: the next above, unless the one found is there more than once.
    upto = tl.zeros_like(count)
    above = tl.zeros_like(count).to(tl.int64) + 0x7FFFFFFFFFFFFFFF
    for first in range(start, stop, ROWS):
        _, v, there = values_of(x, order, first + tl.arange(0, ROWS), stop, j, p, center)
        key = ascending(tl.abs(v) if ABSOLUTE else v)
        upto += tl.sum((there & (key <= found[None, :])).to(tl.int32), axis=0)
        above = tl.minimum(above, tl.min(tl.where(there & (key > found[None, :]), key, 0x7FFFFFFFFFFFFFFF), axis=0))
    other = tl.where((count % 2 == 1) | (upto > rank + 1), found, above)
    low = (found ^ ((found >> 63) & 0x7FFFFFFFFFFFFFFF)).to(tl.float64, bitcast=True)
    high = (other ^ ((other >> 63) & 0x7FFFFFFFFFFFFFFF)).to(tl.float64, bitcast=True)
    return tl.where(count % 2 == 1, low, 0.5 * low + 0.5 * high)


@triton.jit
def peers_kernel(
    x, order, starts, spread, deviation, median, mad, values, p, ROWS: tl.constexpr, METRICS: tl.constexpr
):  # fmt: skip
    """Rows order[starts[g]:starts[g + 1]] are group g. spread float64 [1 + p]: GAUSSIAN, and the least spread of each metric."""
    g = tl.program_id(0).to(tl.int64)
    start, stop = tl.load(starts + g), tl.load(starts + g + 1)
    if stop > start:
        j = tl.program_id(1) * METRICS + tl.arange(0, METRICS)
        zero = tl.zeros((METRICS,), tl.float64)
        count = tl.zeros((METRICS,), tl.int32)
        for first in range(start, stop, ROWS):
            _, _, there = values_of(x, order, first + tl.arange(0, ROWS), stop, j, p, zero)
            count += tl.sum(there.to(tl.int32), axis=0)
        center = middle(x, order, start, stop, j, p, zero, count, False, ROWS)
        typical = middle(x, order, start, stop, j, p, center, count, True, ROWS)
        scale = tl.maximum(tl.load(spread) * typical, tl.load(spread + 1 + j, mask=j < p, other=1.0))
        for first in range(start, stop, ROWS):
            row, d, there = values_of(x, order, first + tl.arange(0, ROWS), stop, j, p, center)
            alone = tl.where(d == 0.0, 0.0, tl.where(d > 0.0, float("inf"), float("-inf")))
            off = tl.where((scale > 0.0)[None, :], d / tl.where(scale > 0.0, scale, 1.0)[None, :], alone)
            tl.store(deviation + row[:, None] * p + j[None, :], off, mask=there)
        at = g * p + j
        tl.store(median + at, center, mask=(j < p) & (count > 0))
        tl.store(mad + at, typical, mask=(j < p) & (count > 0))
        tl.store(values + at, count, mask=j < p)


def peers(x, group, groups: int, *, least=0.0) -> Peers:
    """As `kernels.peers.peers`, of tensors; `least` may be a number or an array."""
    if x.dtype not in (torch.float32, torch.float64) or x.ndim != 2:
        raise ValueError(f"x must be float32 or float64 [n, p], not {x.dtype}{list(x.shape)}")
    (n, p), device = x.shape, x.device
    if group.dtype != torch.int32 or group.shape != (n,):
        raise ValueError(f"group must be int32[{n}], not {group.dtype}{list(group.shape)}")
    if groups < 0 or not bool(((group >= -1) & (group < groups)).all()):
        raise ValueError(f"group must be -1 to {groups - 1}")
    least = torch.as_tensor(least, dtype=torch.float64).to(device).expand(p)
    if not bool((least >= 0).all()):
        raise ValueError("least must not be negative")
    return launch(x.contiguous(), group, groups, prepare(least))


def prepare(least):
    """What `launch` measures spreads by: GAUSSIAN, and the least spread of each metric, float64[p] on the device."""
    return torch.cat([torch.full((1,), GAUSSIAN, dtype=torch.float64, device=least.device), least])


def launch(x, group, groups: int, spread) -> Peers:
    """Compare rows, contiguous, whose groups are known to fit. Asks the device nothing, so that a CUDA graph can hold it (see
    `kernels.device.tick`): n, p and groups are static."""
    (n, p), device = x.shape, x.device
    ordered, order = torch.sort(group, stable=True)
    starts = torch.searchsorted(ordered, torch.arange(groups + 1, dtype=torch.int32, device=device))
    deviation, median, mad = (
        torch.full(shape, torch.nan, dtype=torch.float64, device=device) for shape in ((n, p), (groups, p), (groups, p))
    )
    out = Peers(deviation, median, mad, torch.zeros((groups, p), dtype=torch.int32, device=device))
    if n and groups:
        peers_kernel[(groups, triton.cdiv(p, METRICS))](
            x, order, starts, spread, *out, p, ROWS=ROWS, METRICS=METRICS, enable_fp_fusion=False
        )
    return out
