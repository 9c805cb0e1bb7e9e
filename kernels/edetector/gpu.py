"""Triton: edetector. Steps are sorted by slot; a program takes some slots and walks their steps in step, a lane of the device for each
slot and bet."""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl

from kernels.edetector import CAP, LOG_CAP, PARTS, Steps, growths
from kernels.runs import runs

RUNS = 4  # slots of a program


@triton.jit
def edetector_kernel(
    successes, totals, spend, time_us, order, starts, keys, up, down, weights, state, caps, out, lane_out, runs, tests, lanes, of_test, n,
    RUNS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Walk the steps order[starts[r]:starts[r + 1]] of slot keys[r], in that order, for the RUNS runs of this program. `caps`: float64[2],
    since scalar arguments would be float32; `out`: float64[4, n], e, since, successes and rows."""
    cap, log_cap = tl.load(caps), tl.load(caps + 1)
    r = tl.program_id(0) * RUNS + tl.arange(0, RUNS)
    j = tl.arange(0, LANES)
    here = r < runs
    start = tl.load(starts + r, mask=here, other=0)
    stop = tl.load(starts + r + 1, mask=here, other=0)
    here = stop > start
    slot = tl.load(keys + r, mask=here, other=0).to(tl.int64)
    there = here[:, None] & (j < lanes)[None, :]
    table = slot[:, None] * lanes + j[None, :]
    weight = tl.load(weights + table, mask=there, other=0.0)
    used = there & (weight > 0)
    grow_up = tl.load(up + table, mask=used, other=0.0)
    grow_down = tl.load(down + table, mask=used, other=0.0)
    at = state + slot[:, None] * (5 * lanes) + j[None, :]
    m = tl.load(at, mask=used, other=0.0)
    cusum = tl.load(at + lanes, mask=used, other=0.0)
    since = tl.load(at + 2 * lanes, mask=used, other=0.0)
    won = tl.load(at + 3 * lanes, mask=used, other=0.0)
    seen = tl.load(at + 4 * lanes, mask=used, other=0.0)
    for t in range(tl.max(stop - start, axis=0)):
        going = here & (start + t < stop)
        row = tl.load(order + start + t, mask=going, other=0)
        total = tl.load(totals + row, mask=going, other=0.0)
        money = tl.load(spend + row, mask=going, other=0.0)
        now = tl.load(time_us + row, mask=going, other=0.0)
        live = used & going[:, None]
        k = tl.load(successes + row[:, None] * tests + j[None, :] // of_test, mask=live, other=0.0)
        log_growth = k * grow_up + (total[:, None] - k) * grow_down
        next_m = tl.minimum(tl.exp(tl.minimum(log_growth, 700.0)) * (m + money[:, None]), cap)
        next_cusum = tl.minimum(cusum + log_growth, log_cap)
        ended = next_cusum <= 0
        m = tl.where(live, next_m, m)
        cusum = tl.where(live, tl.where(ended, 0.0, next_cusum), cusum)
        since = tl.where(live & ended, now[:, None], since)
        won = tl.where(live, tl.where(ended, 0.0, won + k), won)
        seen = tl.where(live, tl.where(ended, 0.0, seen + total[:, None]), seen)
        share = tl.where(used, m * weight, 0.0)
        e = tl.sum(share, axis=1)
        most = tl.max(share, axis=1)
        best = tl.min(tl.where(used & (share == most[:, None]), j[None, :], LANES), axis=1)
        best = tl.where(most > 0, best, -1)
        chosen = j[None, :] == best[:, None]
        tl.store(lane_out + row, best, mask=going)
        tl.store(out + row, e, mask=going)
        tl.store(out + n + row, tl.sum(tl.where(chosen, since, 0.0), axis=1), mask=going)
        tl.store(out + 2 * n + row, tl.sum(tl.where(chosen, won, 0.0), axis=1), mask=going)
        tl.store(out + 3 * n + row, tl.sum(tl.where(chosen, seen, 0.0), axis=1), mask=going)
        m = tl.where(going[:, None] & (e >= 1.0)[:, None], 0.0, m)
    tl.store(at, m, mask=used)
    tl.store(at + lanes, cusum, mask=used)
    tl.store(at + 2 * lanes, since, mask=used)
    tl.store(at + 3 * lanes, won, mask=used)
    tl.store(at + 4 * lanes, seen, mask=used)


def edetector(successes, totals, spend, time_us, slots, null, alternative, power, weights, state):
    """As `kernels.edetector.edetector`, for tensors; null, alternative, power and weights may be NumPy arrays."""
    if successes.dtype != torch.float64 or successes.ndim != 2:
        raise ValueError(f"successes must be float64[n, T], not {successes.dtype}{list(successes.shape)}")
    n, tests = successes.shape
    for name, column in (("totals", totals), ("spend", spend), ("time_us", time_us)):
        if column.dtype != torch.float64 or column.shape != (n,):
            raise ValueError(f"{name} must be float64[{n}], not {column.dtype}{list(column.shape)}")
    if state.dtype != torch.float64 or state.ndim != 3 or state.shape[1] != PARTS or state.shape[2] % max(1, tests):
        raise ValueError(f"state must be float64[S, {PARTS}, L], L a multiple of {tests}, not {state.dtype}{list(state.shape)}")
    if slots.dtype != torch.int32 or slots.shape != (n,):
        raise ValueError(f"slots must be int32[{n}]")
    if n and int(slots.max()) >= len(state):
        raise ValueError(f"slots must be int32[{n}] in a state of {len(state)} rows")
    return state, launch(successes, totals, spend, time_us, slots, state, *prepare(null, alternative, power, weights, state))


def prepare(null, alternative, power, weights, state):
    """The bets on the state's device, as `launch` takes them: growths up and down, weights, and the caps."""
    device = state.device
    null, alternative, power, weights = (a.cpu().numpy() if isinstance(a, torch.Tensor) else a for a in (null, alternative, power, weights))
    up, down = growths(null, alternative, power, weights, (len(state), state.shape[2]))
    tables = [torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (up, down, weights)]
    return *tables, torch.tensor([CAP, LOG_CAP], dtype=torch.float64, device=device)


def launch(successes, totals, spend, time_us, slots, state, up, down, weights, caps) -> Steps:
    """Take steps whose slots are known to be in the state. Asks the device nothing, so that a CUDA graph can hold it (see
    `kernels.device.tick`): n and the state's size are static."""
    (n, tests), device, lanes = successes.shape, successes.device, state.shape[2]
    out = torch.zeros((4, n), dtype=torch.float64, device=device)
    out[0].fill_(torch.nan)
    lane = torch.full((n,), -1, dtype=torch.int32, device=device)
    if n and len(state):
        order, starts, keys = runs(slots, len(state))
        edetector_kernel[(triton.cdiv(len(keys), RUNS),)](
            successes, totals, spend, time_us, order, starts, keys, up, down, weights, state, caps, out, lane, len(keys), tests, lanes,
            lanes // tests, n, RUNS=RUNS, LANES=max(2, triton.next_power_of_2(lanes)), enable_fp_fusion=False,
        )  # fmt: skip
    return Steps(out[0], lane, out[1], out[2], out[3])
