"""Triton: transitions. Contexts of all rows are found by one sort; then rows are scored in parallel, or, when they are learned as
well, group by group in their order, since each row's counts are the next one's.

64-bit tokens are int64 tensors here, whose bits are those of the CPU's uint64.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl

from kernels.runs import runs

BLOCK = 256
CONTEXT: tl.constexpr = tl.constexpr(0xD6E8FEB86659FD93)
GRAM: tl.constexpr = tl.constexpr(0xA0761D6478BD642F)


@triton.jit
def extended(h, token):
    """The hash of an n-gram with one more token in front, as in `cpu.extended`."""
    h = (h ^ token.to(tl.uint64, bitcast=True)) + 0x9E3779B97F4A7C15
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9
    h = (h ^ (h >> 27)) * 0x94D049BB133111EB
    return h ^ (h >> 31)


@triton.jit(do_not_specialize=["M"])
def transitions_kernel(
    tokens, before, contexts_of, slots, groups, order, starts, counts, out, n, M, scale, LEARN: tl.constexpr, BLOCK: tl.constexpr
):
    """LEARN: one program per group walks its rows order[starts[g]:starts[g + 1]]; else a program scores BLOCK rows at once, those with a
    slot. `before` and `contexts_of`: the token before the last and the last token of each row; `scale`: float64[2], the vocabulary and
    the prior."""
    vocabulary, prior = tl.load(scale), tl.load(scale + 1)
    mask = (M - 1).to(tl.uint64)
    if LEARN:
        start = tl.load(starts + tl.program_id(0))
        steps = tl.load(starts + tl.program_id(0) + 1) - start
    else:
        start = tl.program_id(0).to(tl.int64) * BLOCK
        steps = tl.minimum(n - start, 1)
    for t in range(steps):
        if LEARN:
            i = tl.load(order + start + t + tl.arange(0, BLOCK))
            here = i < n
        else:
            i = start + tl.arange(0, BLOCK)
            here = i < n
            here = here & (tl.load(slots + i, mask=here, other=-1) >= 0)
        u = tl.load(before + i, mask=here, other=0)
        v = tl.load(contexts_of + i, mask=here, other=0)
        w = tl.load(tokens + i, mask=here, other=0)
        table = counts + tl.load(groups + i, mask=here, other=0).to(tl.int64) * M
        empty = tl.zeros((BLOCK,), tl.uint64)
        after_v = extended(empty + CONTEXT, v)
        one = extended(empty + GRAM, w)
        two = extended(one, v)
        at_all = table + ((empty + CONTEXT) & mask).to(tl.int64)
        at_one = table + (one & mask).to(tl.int64)
        at_v = table + (after_v & mask).to(tl.int64)
        at_two = table + (two & mask).to(tl.int64)
        at_uv = table + (extended(after_v, u) & mask).to(tl.int64)
        at_three = table + (extended(two, u) & mask).to(tl.int64)
        p = (tl.load(at_one, mask=here, other=0) + prior / vocabulary) / (tl.load(at_all, mask=here, other=0) + prior)
        p = (tl.load(at_two, mask=here, other=0) + prior * p) / (tl.load(at_v, mask=here, other=0) + prior)
        p = (tl.load(at_three, mask=here, other=0) + prior * p) / (tl.load(at_uv, mask=here, other=0) + prior)
        tl.store(out + i, -tl.log2(p), mask=here)
        if LEARN:
            tl.debug_barrier()
            tl.atomic_add(at_all, 1, mask=here)
            tl.atomic_add(at_one, 1, mask=here)
            tl.atomic_add(at_v, 1, mask=here)
            tl.atomic_add(at_two, 1, mask=here)
            tl.atomic_add(at_uv, 1, mask=here)
            tl.atomic_add(at_three, 1, mask=here)
            tl.debug_barrier()


@triton.jit
def remember_kernel(tokens, contexts_of, ordered, order, contexts, n, BLOCK: tl.constexpr):
    """The last row of each slot leaves its context and its token behind. ordered: slots, ascending; order: the rows they are of."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(ordered + at, mask=at < n, other=-1)
    final = (slot >= 0) & (slot != tl.load(ordered + at + 1, mask=at + 1 < n, other=-2))
    row = tl.load(order + at, mask=final, other=0)
    place = contexts + 2 * slot.to(tl.int64)
    tl.store(place, tl.load(contexts_of + row, mask=final, other=0), mask=final)
    tl.store(place + 1, tl.load(tokens + row, mask=final, other=0), mask=final)


def transitions(tokens, slots, contexts, counts, *, groups, vocabulary, prior, learn):
    """As `kernels.transitions.transitions`, for tensors."""
    n, device = len(tokens), tokens.device
    if tokens.dtype not in (torch.int64, torch.uint64) or contexts.dtype != tokens.dtype or counts.dtype != torch.int32:
        raise ValueError("tokens and contexts must be uint64 or int64, counts int32")
    slots = each("slots", slots, n, len(contexts), -1, device)
    groups = each("groups", groups, n, len(counts), 0, device)
    arrays = tokens.contiguous(), slots.contiguous(), contexts, counts, groups.contiguous()
    return contexts, counts, launch(*arrays, prepare(vocabulary, prior, device), learn)


def prepare(vocabulary: float, prior: float, device):
    """float64[2], the vocabulary and the prior on the device, as `launch` takes them."""
    return torch.tensor([vocabulary, prior], dtype=torch.float64, device=device)


def launch(tokens, slots, contexts, counts, groups, scale, learn: bool):
    """Surprisal float64[n] of tokens whose slots and groups are known to fit. Asks the device nothing, so that a CUDA graph can hold it
    (see `kernels.device.tick`): n and the sizes of the tables are static."""
    n = len(tokens)
    out = torch.full((n,), torch.nan, dtype=torch.float64, device=tokens.device)
    if n and len(contexts):
        tokens, contexts = tokens.view(torch.int64), contexts.view(torch.int64)
        ordered, order = torch.sort(slots, stable=True)
        before, last = preceding(tokens, ordered, order, contexts)
        grid = (triton.cdiv(n, BLOCK),)
        remember_kernel[grid](tokens, last, ordered, order, contexts, n, BLOCK=BLOCK)
        rows, starts, keys = runs(torch.where(slots >= 0, groups, -1), len(counts)) if learn else (order, order, order)
        transitions_kernel[(len(keys),) if learn else grid](
            tokens, before, last, slots, groups, rows, starts, counts, out, n, counts.shape[1], scale,
            LEARN=learn, BLOCK=1 if learn else BLOCK, num_warps=1 if learn else 4, enable_fp_fusion=False,
        )  # fmt: skip
    return out


def preceding(tokens, ordered, order, contexts):
    """The token before the last and the last token of each row. ordered: slots, ascending; order: the rows they are of."""
    n = len(tokens)
    at = torch.arange(n, device=tokens.device)
    first = torch.ones(n, dtype=torch.bool, device=tokens.device)
    first[1:] = ordered[1:] != ordered[:-1]
    second = torch.zeros_like(first)
    second[1:] = first[:-1] & ~first[1:]
    held = contexts[ordered.clamp(min=0).long()]
    here = tokens[order]
    last, before = torch.empty_like(tokens), torch.empty_like(tokens)
    last[order] = torch.where(first, held[:, 1], here[(at - 1).clamp(min=0)])
    before[order] = torch.where(first, held[:, 0], torch.where(second, held[:, 1], here[(at - 2).clamp(min=0)]))
    return before, last


def each(name, rows, n, size, least, device):
    """int32[n] of row numbers from a tensor or one int, checked against the table's size."""
    if isinstance(rows, int | np.integer):
        rows = torch.full((n,), int(rows), dtype=torch.int32, device=device)
    if rows.dtype != torch.int32 or tuple(rows.shape) != (n,):
        raise ValueError(f"{name} must be int32[{n}], not {rows.dtype}{list(rows.shape)}")
    if n and not (int(rows.min()) >= least and int(rows.max()) < size):
        raise ValueError(f"{name} must be from {least} to {size - 1}")
    return rows
