"""Triton: profile. A column is read once; each program keeps its histogram and sums in registers and writes them once, as integers,
and Torch adds the programs' parts up. Rows with slots of their own go by integer atomics instead.

A value's place is found by halving in the thresholds, which stay in the L1 cache.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl

from kernels.profile import Profile, check
from kernels.profile.edges import MAX_QUANTA, Edges

BLOCK = 1024
MOST_STEPS = 4096  # blocks of a program, at most: 2**12 squares a lane of up to 2**50 fit int64
ROWS = 1024
PROGRAMS = 1056  # of a launch at least, where there is work for them: 8 for each of 132 multiprocessors


@triton.jit
def place_of(x, thresholds, row, T: tl.constexpr, STEP: tl.constexpr, bins, WIDTH: tl.constexpr):
    """The place of each value in a histogram row: the number of thresholds <= x, `WIDTH + 1` for all of them, the last for NaN.
    STEP: the greatest power of two that is at most T."""
    reached = tl.zeros(x.shape, tl.int32)
    half: tl.constexpr = STEP
    for power in tl.static_range(16):
        if (half >> power) > 0:
            next_up = tl.minimum(reached + (half >> power), T)
            edge = tl.load(thresholds + row * T + next_up - 1)
            reached = tl.where(edge <= x, next_up, reached)
    place = tl.where(reached <= bins, reached, WIDTH + 1)
    return tl.where(tl.abs(x) <= float("inf"), place, WIDTH + 2)


@triton.jit
def quanta_of(x, center, per_quantum, END: tl.constexpr):
    """int64 round((x - center) * per_quantum), halves to even, within +-END; 0 for what is not finite."""
    d = (tl.where(tl.abs(x) < float("inf"), x, center) - center) * per_quantum
    d = tl.minimum(tl.maximum(d, -END), END)
    low = tl.floor(d)
    k = low.to(tl.int64)
    rest = d - low
    return k + tl.where((rest > 0.5) | ((rest == 0.5) & ((k & 1) == 1)), 1, 0)


@triton.jit
def with_nulls(x, valid, bit, here, VALID: tl.constexpr):
    """NaN where the validity bitmap has a zero."""
    if VALID:
        byte = tl.load(valid + (bit >> 3), mask=here, other=0).to(tl.int32)
        x = tl.where((byte >> (bit & 7).to(tl.int32)) & 1 == 1, x, float("nan"))
    return x


@triton.jit
def columns_kernel(
    values, valid, first_bit, edge_of, thresholds, bins, centers, per_quantum, counts, sums, ends, n, share,
    T: tl.constexpr, STEP: tl.constexpr, WIDTH: tl.constexpr, PLACES: tl.constexpr, END: tl.constexpr, VALID: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (c, f) folds rows c * share to (c + 1) * share of column f into its part: counts[f, c], sums[f, c], ends[f, c]."""
    c, f = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    e = tl.load(edge_of + f).to(tl.int64)
    used = tl.load(bins + e)
    center, scale = tl.load(centers + e), tl.load(per_quantum + e)
    held = tl.zeros((PLACES,), tl.int32)
    number: tl.constexpr = values.dtype.element_ty
    finite_count = tl.zeros((BLOCK,), tl.int32)
    total = tl.zeros((BLOCK,), tl.int64)
    squares = tl.zeros((BLOCK,), tl.int64)  # see MOST_STEPS
    least = tl.full((BLOCK,), float("inf"), number)
    most = tl.full((BLOCK,), float("-inf"), number)
    stop = tl.minimum((c + 1) * share, n)
    for start in range(c * share, stop, BLOCK):
        i = start + tl.arange(0, BLOCK)
        here = i < stop
        x = tl.load(values + f * n + i, mask=here, other=float("nan"))
        x = with_nulls(x, valid, first_bit + i, here, VALID)
        place = place_of(x, thresholds, e, T, STEP, used, WIDTH)
        held += tl.histogram(place, PLACES, mask=here)
        finite = tl.abs(x) < float("inf")
        k = quanta_of(x, center, scale, END)
        finite_count += finite.to(tl.int32)
        total += k
        squares += k * k
        least = tl.minimum(least, tl.where(finite, x, float("inf")))
        most = tl.maximum(most, tl.where(finite, x, float("-inf")))
    part = f * tl.num_programs(0) + c
    tl.store(counts + part * PLACES + tl.arange(0, PLACES), held)
    tl.store(sums + part * 4, tl.sum(finite_count.to(tl.int64), axis=0))
    tl.store(sums + part * 4 + 1, tl.sum(total, axis=0))
    tl.store(sums + part * 4 + 2, tl.sum(squares & 0xFFFFFFFF, axis=0))
    tl.store(sums + part * 4 + 3, tl.sum(squares >> 32, axis=0))
    tl.store(ends + part * 2, tl.min(least, axis=0).to(tl.float64))
    tl.store(ends + part * 2 + 1, tl.max(most, axis=0).to(tl.float64))


@triton.jit
def rows_kernel(
    values, valid, first_bit, slots, edge_rows, thresholds, bins, centers, per_quantum, counts, moments, keys, n,
    T: tl.constexpr, STEP: tl.constexpr, WIDTH: tl.constexpr, END: tl.constexpr, VALID: tl.constexpr, MOMENTS: tl.constexpr,
    EXTREMES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fold each value into the state row of its slot. `keys`: int64[S, 2], the extremes as order keys."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(slots + i, mask=i < n, other=-1).to(tl.int64)
    here = slot >= 0
    x = tl.load(values + i, mask=here, other=float("nan"))
    x = with_nulls(x, valid, first_bit + i, here, VALID)
    e = tl.load(edge_rows + slot, mask=here, other=0).to(tl.int64)
    place = place_of(x, thresholds, e, T, STEP, tl.load(bins + e), WIDTH)
    one = tl.full((BLOCK,), 1, tl.int64)
    tl.atomic_add(counts + slot * (WIDTH + 3) + place, one, mask=here, sem="relaxed")
    finite = here & (tl.abs(x) < float("inf"))
    if MOMENTS:
        k = quanta_of(x, tl.load(centers + e), tl.load(per_quantum + e), END)
        tl.atomic_add(moments + slot * 4, one, mask=finite, sem="relaxed")
        tl.atomic_add(moments + slot * 4 + 1, k, mask=finite, sem="relaxed")
        tl.atomic_add(moments + slot * 4 + 2, (k * k) & 0xFFFFFFFF, mask=finite, sem="relaxed")
        tl.atomic_add(moments + slot * 4 + 3, (k * k) >> 32, mask=finite, sem="relaxed")
    if EXTREMES:
        bits = x.to(tl.float64).to(tl.int64, bitcast=True)
        key = bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)
        tl.atomic_min(keys + slot * 2, key, mask=finite, sem="relaxed")
        tl.atomic_max(keys + slot * 2 + 1, key, mask=finite, sem="relaxed")


@lru_cache(maxsize=256)
def tables_on(edges: Edges, number: torch.dtype, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Thresholds, bins, centers and 1 / quantum of these edges on the device; copied once."""
    thresholds, bins, centers, per_quantum, *_ = edges.tables(np.float32 if number == torch.float32 else np.float64)
    return tuple(torch.from_numpy(a).to(device) for a in (thresholds, bins, centers, per_quantum))


def profile(values, slots, edges: Edges, state: Profile, *, valid, first_bit, edge_rows) -> Profile:
    """As `kernels.profile.profile`, for tensors of float32 or float64."""
    if values.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"values must be float32 or float64, not {values.dtype}")
    check(values, slots, edges, state, valid, first_bit, edge_rows)
    return launch(values.contiguous(), slots, edges, state, valid=valid, first_bit=first_bit, edge_rows=edge_rows)


def launch(values, slots, edges: Edges, state: Profile, *, valid=None, first_bit=0, edge_rows=None) -> Profile:
    """Fold values, contiguous, of arguments that are known to fit. Asks the device nothing, so that a CUDA graph can hold it (see
    `kernels.device.tick`): all shapes are static, and the tables of `edges` are on the device after the first call."""
    if edge_rows is None:
        edge_rows = torch.arange(len(state.counts), device=values.device, dtype=torch.int32) * int(len(edges) > 1)
    if not values.numel():
        return state
    tables = tables_on(edges, values.dtype, values.device)
    t = edges.thresholds.shape[1]
    shape = {"T": t, "STEP": 1 << (t.bit_length() - 1), "WIDTH": edges.width, "END": float(MAX_QUANTA), "VALID": valid is not None}
    if values.ndim == 1 and not isinstance(slots, int | np.integer):
        fold_rows(values, slots, tables, state, valid, first_bit, edge_rows, shape)
    else:
        slots = torch.full((1,), int(slots), dtype=torch.int32, device=values.device) if values.ndim == 1 else slots
        fold_columns(values.view(len(slots), -1), slots, tables, state, valid, first_bit, edge_rows, shape)
    return state


def fold_columns(values, slots, tables, state, valid, first_bit, edge_rows, shape):
    """Fold columns [F, n] into the state rows `slots`."""
    columns, n = values.shape
    device = values.device
    share = min(triton.cdiv(triton.cdiv(n, triton.cdiv(PROGRAMS, columns)), BLOCK), MOST_STEPS) * BLOCK
    cuts = triton.cdiv(n, share)
    places = triton.next_power_of_2(shape["WIDTH"] + 3)
    counts = torch.empty((columns, cuts, places), dtype=torch.int32, device=device)
    sums = torch.empty((columns, cuts, 4), dtype=torch.int64, device=device)
    ends = torch.empty((columns, cuts, 2), dtype=torch.float64, device=device)
    at = slots.long()
    columns_kernel[(cuts, columns)](
        values, counts if valid is None else valid, first_bit, edge_rows[at].contiguous(), *tables, counts, sums, ends, n, share,
        PLACES=places, BLOCK=BLOCK, enable_fp_fusion=False, **shape,
    )  # fmt: skip
    state.counts.index_add_(0, at, counts.sum(1, dtype=torch.int64)[:, : shape["WIDTH"] + 3])
    if state.moments is not None:
        state.moments.index_add_(0, at, sums.sum(1))
        carry(state.moments)
    if state.extremes is not None:
        state.extremes[:, 0].scatter_reduce_(0, at, ends[:, :, 0].amin(1), "amin")
        state.extremes[:, 1].scatter_reduce_(0, at, ends[:, :, 1].amax(1), "amax")


def fold_rows(values, slots, tables, state, valid, first_bit, edge_rows, shape):
    """Fold values [n] into the state rows of their slots."""
    n = len(values)
    counts, moments, extremes = state
    keys = counts if extremes is None else order_keys(extremes.view(torch.int64))
    rows_kernel[(triton.cdiv(n, ROWS),)](
        values, counts if valid is None else valid, first_bit, slots, edge_rows, *tables, counts, counts if moments is None else moments,
        keys, n, MOMENTS=moments is not None, EXTREMES=extremes is not None, BLOCK=ROWS, enable_fp_fusion=False, **shape,
    )  # fmt: skip
    if moments is not None:
        carry(moments)
    if extremes is not None:
        extremes.copy_(order_keys(keys).view(torch.float64))


def carry(moments):
    """Bring the limbs of the sum of squares into their normal form."""
    moments[:, 3] += moments[:, 2] >> 32
    moments[:, 2] &= 0xFFFFFFFF


def order_keys(bits):
    """The bits of float64 as integers that sort as the floats do, and back."""
    return bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)
