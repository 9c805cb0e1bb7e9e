"""Triton: evidence. Rows are sorted by slot; a program takes some slots and walks their rows in step, a lane for each slot and bet."""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl

from kernels.evidence import BETS, RULES, settings
from kernels.runs import runs

RUNS = 16  # slots of a program


@triton.jit
def evidence_kernel(
    values, order, starts, keys, null_mean, bets, weights, state, rule, out, runs,
    OWN_MEAN: tl.constexpr, OWN_BETS: tl.constexpr, RUNS: tl.constexpr, BETS: tl.constexpr,
):  # fmt: skip
    """Walk the rows order[starts[r]:starts[r + 1]] of slot keys[r], in that order, for the RUNS runs of this program.
    `rule`: float64[4], add, least, floor and cap, since scalar arguments would be float32."""
    add, least, floor, cap = tl.load(rule), tl.load(rule + 1), tl.load(rule + 2), tl.load(rule + 3)
    r = tl.program_id(0) * RUNS + tl.arange(0, RUNS)
    j = tl.arange(0, BETS)
    here = r < runs
    start = tl.load(starts + r, mask=here, other=0)
    stop = tl.load(starts + r + 1, mask=here, other=0)
    here = stop > start
    slot = tl.load(keys + r, mask=here, other=0).to(tl.int64)
    mean = tl.load(null_mean + slot * OWN_MEAN, mask=here, other=0.5)
    bet = tl.load(bets + slot[:, None] * (OWN_BETS * BETS) + j[None, :], mask=here[:, None], other=0.0)
    weight = tl.load(weights + j)
    at = state + slot[:, None] * BETS + j[None, :]
    m = tl.load(at, mask=here[:, None], other=0.0)
    for t in range(tl.max(stop - start, axis=0)):
        going = here & (start + t < stop)
        row = tl.load(order + start + t, mask=going, other=0)
        x = tl.load(values + row, mask=going, other=0.0).to(tl.float64)
        known = going & (tl.abs(x) <= float("inf"))
        x = tl.minimum(tl.maximum(x, 0.0), 1.0)
        next_m = (1.0 + bet * (x - mean)[:, None]) * tl.maximum(m + add, least)
        next_m = tl.minimum(tl.maximum(next_m, floor), cap)
        m = tl.where(known[:, None], next_m, m)
        tl.store(out + row, tl.sum(m * weight[None, :], axis=1), mask=going)
    tl.store(at, m, mask=here[:, None])


def evidence(values, slots, null_mean, bets, state, *, kind, weights, cap):
    """As `kernels.evidence.evidence`, for tensors; null_mean, bets and weights may be numbers or NumPy arrays."""
    device = values.device
    if values.dtype not in (torch.float32, torch.float64) or values.ndim != 1:
        raise ValueError(f"values must be float32[n] or float64[n], not {values.dtype}{list(values.shape)}")
    if state.dtype != torch.float64 or state.ndim != 2 or state.shape[1] != BETS:
        raise ValueError(f"state must be float64[S, {BETS}], not {state.dtype}{list(state.shape)}")
    if kind not in RULES:
        raise ValueError(f"kind must be one of {', '.join(RULES)}, not {kind}")
    if isinstance(slots, int | np.integer):
        slots = torch.full(values.shape, int(slots), dtype=torch.int32, device=device)
    if slots.dtype != torch.int32 or slots.shape != values.shape:
        raise ValueError(f"slots must be int32[{len(values)}]")
    if len(slots) and int(slots.max()) >= len(state):
        raise ValueError(f"slots must be int32[{len(values)}] in a state of {len(state)} rows")
    return state, launch(values, slots, state, *prepare(null_mean, bets, weights, kind, cap, state))


def prepare(null_mean, bets, weights, kind, cap, state):
    """The settings on the state's device, as `launch` takes them: null means, bets, weights, and the rule with its cap."""
    tables = [torch.from_numpy(a).to(state.device) for a in settings(null_mean, bets, weights, len(state))]
    return *tables, torch.tensor([*RULES[kind], cap], dtype=torch.float64, device=state.device)


def launch(values, slots, state, null_mean, bets, weights, rule):
    """Fold values whose slots are known to be in the state; e-values float64[n]. Asks the device nothing, so that a CUDA graph can hold
    it (see `kernels.device.tick`): n and the state's size are static."""
    out = torch.full(values.shape, torch.nan, dtype=torch.float64, device=values.device)
    if len(values) and len(state):
        order, starts, keys = runs(slots, len(state))
        evidence_kernel[(triton.cdiv(len(keys), RUNS),)](
            values, order, starts, keys, null_mean, bets, weights, state, rule, out, len(keys),
            OWN_MEAN=int(len(null_mean) > 1), OWN_BETS=int(len(bets) > 1), RUNS=RUNS, BETS=BETS, enable_fp_fusion=False,
        )  # fmt: skip
    return out
