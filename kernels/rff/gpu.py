"""Triton: rff. A program takes 128 rows by 64 frequencies: the product in bfloat16, cosine and sine on the accumulator, then sums by key.

Rows come in the order of their keys, so that most tiles hold few: a tile adds each key's rows up before it touches the state, by integer
atomics, which any order leaves the same. A tile of many keys adds row by row. The n x D matrix never leaves the registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK_N = 128
BLOCK_F = 64
BLOCK_D = 64
FEW = 8  # keys of a tile up to which each is summed apart


@triton.jit
def cosine_sine(u):
    """Cosine and sine of u turns, as kernels/rff/cpu.py has them."""
    t = u - ((u + 12582912.0) - 12582912.0)
    t = tl.where(tl.abs(u) < 4194304.0, t, 0.0)
    s = t * t
    c = 60.16762924194336 + s * (-25.967599868774414 + s * 6.528658390045166)
    c = 1.0 + s * (-19.73920440673828 + s * (64.93911743164062 + s * (-85.45014190673828 + s * c)))
    q = 42.02592849731445 + s * (-14.899847030639648 + s * 3.2381374835968018)
    q = t * (6.2831854820251465 + s * (-41.34170150756836 + s * (81.60513305664062 + s * (-76.70301818847656 + s * q))))
    return c, q


@triton.jit
def nearest_integer(v):
    """Round to the nearest integer, ties to even: adding and taking off 1.5 * 2**23 leaves no fraction of |v| < 2**22."""
    return ((v + 12582912.0) - 12582912.0).to(tl.int32)


@triton.jit
def add_tile(sums, key, features, column, inside, values, first_key, last_key, FEW: tl.constexpr):
    """Add values int32 [rows, columns] to the state rows of their keys, which ascend; those of key -1 are left out."""
    first_key = tl.maximum(first_key, 0)
    if last_key - first_key < FEW:
        for offset in range(0, last_key - first_key + 1):
            k = first_key + offset
            total = tl.sum(tl.where((key == k)[:, None], values, 0), axis=0)
            tl.atomic_add(sums + k.to(tl.int64) * features + column, total.to(sums.dtype.element_ty), mask=inside, sem="relaxed")
    else:
        at = sums + key.to(tl.int64)[:, None] * features + column[None, :]
        tl.atomic_add(at, values.to(sums.dtype.element_ty), mask=(key >= 0)[:, None] & inside[None, :], sem="relaxed")


@triton.jit
def fold_kernel(
    x, order, keys, w, sums, n, dims, half,
    BLOCK_N: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_D: tl.constexpr, FEW: tl.constexpr,
):  # fmt: skip
    """x bfloat16 [n, dims], w bfloat16 [dims, half]; order int64 and keys int32 [n], rows sorted by key."""
    place = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    column = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    is_row, is_column = place < n, column < half
    row = tl.load(order + place, mask=is_row, other=0)
    key = tl.load(keys + place, mask=is_row, other=-1)
    turns = tl.zeros((BLOCK_N, BLOCK_F), tl.float32)
    for start in range(0, dims, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        a = tl.load(x + row[:, None] * dims + d[None, :], mask=is_row[:, None] & (d < dims)[None, :], other=0.0)
        b = tl.load(w + d[:, None].to(tl.int64) * half + column[None, :], mask=(d < dims)[:, None] & is_column[None, :], other=0.0)
        turns = tl.dot(a, b, turns, input_precision="ieee")
    first_key = tl.min(tl.where(is_row, key, 2147483647))
    last_key = tl.max(key)
    cosine, sine = cosine_sine(turns)
    add_tile(sums, key, 2 * half, column, is_column, nearest_integer(cosine * 16384.0), first_key, last_key, FEW)
    add_tile(sums, key, 2 * half, column + half, is_column, nearest_integer(sine * 16384.0), first_key, last_key, FEW)


def rff(x: torch.Tensor, slots: torch.Tensor, w: torch.Tensor, sums: torch.Tensor, counts: torch.Tensor):
    """As `kernels.rff.rff`, of tensors on one device."""
    keys = len(counts)
    half = w.shape[1]
    if x.ndim != 2 or x.dtype not in (torch.float32, torch.bfloat16) or w.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(
            f"x and w must be float32 or bfloat16 [n, d] and [d, D/2], not {x.dtype}{list(x.shape)} and {w.dtype}{list(w.shape)}"
        )
    if w.ndim != 2 or w.shape[0] != x.shape[1] or sums.shape != (keys, 2 * half) or sums.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"sums must be int32 or int64 [{keys}, {2 * half}] for w {list(w.shape)} and x {list(x.shape)}")
    if slots.dtype != torch.int32 or slots.shape != (len(x),) or counts.dtype != torch.int64:
        raise ValueError(f"slots must be int32[{len(x)}] and counts int64")
    if len(slots) and not bool(((slots >= -1) & (slots < keys)).all()):
        raise ValueError(f"slots must be in a state of {keys} rows, or -1")
    launch(x, slots, halves(w), sums, counts)
    return sums, counts


def halves(a):
    """Rounded to bfloat16; as float32 for Triton's interpreter, which has no arithmetic of bfloat16: these numbers are the same."""
    a = a.to(torch.bfloat16).contiguous()
    return a.float() if a.device.type == "cpu" else a


def launch(x, slots, w, sums, counts) -> None:
    """Add rows [n, d] whose slots are known to be in the state; w of `halves`. Asks the device nothing, so that a CUDA
    graph can hold it (see `kernels.device.tick`): n, d, D and the state's size are static."""
    n, half = len(x), w.shape[1]
    if not n or not len(counts):
        return
    key, order = torch.sort(torch.where(torch.isfinite(x).all(1), slots, -1), stable=True)
    counts.scatter_add_(0, key.clamp(min=0).long(), (key >= 0).long())
    fold_kernel[(triton.cdiv(n, BLOCK_N), triton.cdiv(half, BLOCK_F))](
        halves(x), order, key, w, sums, n, x.shape[1], half,
        BLOCK_N=BLOCK_N, BLOCK_F=BLOCK_F, BLOCK_D=BLOCK_D, FEW=FEW, num_warps=8, num_stages=3, enable_fp_fusion=True,
    )  # fmt: skip
