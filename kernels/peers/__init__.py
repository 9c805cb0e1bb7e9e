"""peers: how far each device is from those that should be like it: deviation from its group's median in units of the group's MAD.

Stateless: one call is one tick, or one window, of a fleet. A value that is NaN or infinite is missing: it counts for no group and has no
deviation. Blind to what moves a whole group, and to groups of fewer than three, where a median says nothing: `values` is for the caller.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["GAUSSIAN", "Peers", "peers"]

GAUSSIAN = 1.4826022185056018
"""MAD times this estimates the standard deviation of Gaussian values."""


class Peers(NamedTuple):
    """deviation float64[n, p], signed; NaN where the value is missing or the row is left out. Per group float64[g, p]: median and mad
    (median absolute deviation, not scaled), NaN for a group without values; values int32[g, p], how many it has."""

    deviation: np.ndarray
    median: np.ndarray
    mad: np.ndarray
    values: np.ndarray


def peers(x, group, groups: int, *, least=0.0) -> Peers:
    """Compare rows with the other rows of their group, metric by metric.

    x: float32 or float64 [n, p]; group: int32[n], 0 to groups - 1, or -1 to leave a row out.
    least: float or [p], the least spread, in the metric's units, that deviations are measured in. The deviation is
      (x - median) / max(GAUSSIAN * mad, least); where that is 0 / 0 it is 0, and infinite for a value off a median that all others share.

    Raises ValueError for shapes or types that do not fit.

    >>> x = np.array([[50.0], [51.0], [49.0], [50.0], [90.0], [np.nan]])
    >>> result = peers(x, np.zeros(6, np.int32), 1)
    >>> result.deviation[:, 0].round(1).tolist(), result.median.item(), result.mad.item(), result.values.item()
    ([0.0, 0.7, -0.7, 0.0, 27.0, nan], 50.0, 1.0, 5)
    """
    if type(x).__module__.partition(".")[0] == "torch":
        from kernels.peers import gpu

        return gpu.peers(x, group, groups, least=least)
    from kernels.peers import cpu

    if x.dtype not in (np.float32, np.float64) or x.ndim != 2:
        raise ValueError(f"x must be float32 or float64 [n, p], not {x.dtype}{list(x.shape)}")
    n, p = x.shape
    if group.dtype != np.int32 or group.shape != (n,):
        raise ValueError(f"group must be int32[{n}], not {group.dtype}{list(group.shape)}")
    if groups < 0 or (n and not -1 <= group.min() <= group.max() < groups):
        raise ValueError(f"group must be -1 to {groups - 1}")
    least = np.broadcast_to(np.asarray(least, np.float64), (p,)).copy()
    if not (least >= 0).all():
        raise ValueError("least must not be negative")
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(groups + 1), "left")
    out = Peers(np.full((n, p), np.nan), np.full((groups, p), np.nan), np.full((groups, p), np.nan), np.zeros((groups, p), np.int32))
    if n and groups:
        cpu.compare(x, order, starts, GAUSSIAN, least, *out)
    return out
