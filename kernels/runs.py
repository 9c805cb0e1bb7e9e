"""Rows grouped by slot for Triton kernels, without asking the device anything: what a CUDA graph can hold. Needs torch."""

from __future__ import annotations

from typing import Any

import torch


def runs(slots: Any, rows: int) -> tuple[Any, Any, Any]:
    """The rows of each slot, as (order int64[n], starts int64[m + 1], keys int32[m]): rows order[starts[r]:starts[r + 1]] are those of
    state row keys[r], in the order given. slots: int32[n] of a state of `rows` rows, -1 to leave a row out.

    m is min(n, rows), whatever the slots are, so that shapes are static; runs that are not needed are empty, and their key is 0.
    """
    n, device = len(slots), slots.device
    ordered, order = torch.sort(slots, stable=True)
    if rows <= n:
        keys = torch.arange(rows + 1, dtype=torch.int32, device=device)
        return order, torch.searchsorted(ordered, keys), keys[:-1]
    fresh = ordered >= 0
    fresh[1:] &= ordered[1:] != ordered[:-1]
    run = torch.where(ordered >= 0, torch.cumsum(fresh, 0) - 1, n)
    place = torch.arange(n, device=device)
    starts = torch.full((n + 1,), n, dtype=torch.int64, device=device).scatter_reduce_(0, run, place, "amin")
    starts[n:].fill_(n)  # where rows left out have gone
    keys = torch.zeros(n + 1, dtype=torch.int32, device=device).scatter_(0, run, ordered)
    return order, starts, keys[:n]
