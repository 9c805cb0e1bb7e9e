"""evidence: e-detectors for streams of bounded values: how much the data say that the mean has left its null value.

Each row multiplies a bet's growth 1 + bet * (x - null_mean) into the bet's process M of its slot:

- "shiryaev-roberts": M <- growth * (M + 1); "cusum": M <- growth * max(M, 1). While the mean (given the past) is null_mean, or on
  the far side of it for every bet's sign, an alarm at e >= A has an average run length of at least A, whatever the dependence
- "product": M <- growth * M, from M = 1: an e-process, P(ever e >= 1/alpha) <= alpha; it does not recover what it lost, so it suits
  a test with a known start. With null_mean 1/2 on smoothed ranks it is the conformal test martingale

e is the weighted mean of the bets' processes. Positive bets gain when the mean rises, negative ones when it falls.
State: float64[S, 8], one process per bet; zeros before the first row ("product": ones). M stops
growing at `cap`, which keeps every promise (it only lowers e) and lets the process come back soon after a change is over.

Source: Shin, Ramdas, Rinaldo, "E-detectors", New England Journal of Statistics in Data Science 2024; Vovk et al., "Conformal test
martingales", 2021.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

BETS = 8
RULES = {  # M <- growth * max(M + add, least), and at least floor
    "shiryaev-roberts": (1.0, 0.0, 0.0),
    "cusum": (0.0, 1.0, 0.0),
    "product": (0.0, 0.0, 1e-300),
}
Kind = Literal["shiryaev-roberts", "cusum", "product"]

__all__ = ["BETS", "RULES", "Kind", "bets_for", "evidence"]


def bets_for(null_mean: float, direction: Literal["rise", "fall", "both"] = "both") -> np.ndarray:
    """float64[8]: bets spaced geometrically from 1/50 to 3/4 of the largest that keeps growth positive, on the sides asked for.

    ValueError unless 0 < null_mean < 1.

    >>> bets_for(0.5, "rise").round(2).tolist()
    [0.04, 0.07, 0.11, 0.19, 0.32, 0.53, 0.89, 1.5]
    """
    if not 0 < null_mean < 1:
        raise ValueError(f"the null mean must be between 0 and 1, not {null_mean}")
    rise, fall = 1 / null_mean, -1 / (1 - null_mean)
    if direction == "both":
        share = np.geomspace(0.02, 0.75, BETS // 2)
        return np.concatenate([share * rise, share * fall])
    return np.geomspace(0.02, 0.75, BETS) * (rise if direction == "rise" else fall)


def evidence(
    values: Any,
    slots: Any,
    null_mean: Any,
    bets: Any,
    state: Any,
    *,
    kind: Kind = "shiryaev-roberts",
    weights: Any = None,
    cap: float = 1e15,
) -> tuple[Any, Any]:
    """Fold values into their slots' processes, row by row; return the state (updated in place) and each row's e-value, float64[n].

    values: float32 or float64 [n] in [0, 1]; what is outside is clipped, NaN changes nothing and repeats the slot's e-value.
    slots: int32[n], or an int for all; a row of slot -1 is left out, its e-value is NaN.
    null_mean: a float, or float64[S]. bets: float64[8], or float64[S, 8] (0: a bet not used). weights: float64[8] that sum to 1
    (equal by default).

    Raises ValueError for shapes and types that do not fit, a slot beyond the state, an unknown kind, and a bet that could make
    growth negative. The result does not depend on the cut into batches: rows of a slot are taken in order.

    >>> state = np.zeros((1, 8))
    >>> _, e = evidence(np.repeat([0.1, 0.9], 50), 0, 0.1, bets_for(0.1, "rise"), state)
    >>> bool(e[49] < 100), bool(e[59] > 1e5)
    (True, True)
    """
    if type(values).__module__.partition(".")[0] == "torch":
        from kernels.evidence import gpu

        return gpu.evidence(values, slots, null_mean, bets, state, kind=kind, weights=weights, cap=cap)
    from kernels.evidence import cpu

    values = np.ascontiguousarray(values)
    if values.dtype not in (np.float32, np.float64) or values.ndim != 1:
        raise ValueError(f"values must be float32[n] or float64[n], not {values.dtype}{list(values.shape)}")
    if state.dtype != np.float64 or state.ndim != 2 or state.shape[1] != BETS:
        raise ValueError(f"state must be float64[S, {BETS}], not {state.dtype}{list(state.shape)}")
    rows = len(state)
    if isinstance(slots, int | np.integer):
        slots = np.full(len(values), slots, np.int32)
    if slots.dtype != np.int32 or slots.shape != values.shape or (len(slots) and int(slots.max()) >= rows):
        raise ValueError(f"slots must be int32[{len(values)}] in a state of {rows} rows")
    null_mean, bets, weights = settings(null_mean, bets, weights, rows)
    if kind not in RULES:
        raise ValueError(f"kind must be one of {', '.join(RULES)}, not {kind}")
    return state, cpu.evidence(values, slots, null_mean, bets, weights, state, RULES[kind], float(cap))


def settings(null_mean: Any, bets: Any, weights: Any, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Null means float64[1 or S], bets float64[1 or S, 8] and weights float64[8], checked."""
    null_mean = np.atleast_1d(np.asarray(null_mean, np.float64))
    bets = np.atleast_2d(np.asarray(bets, np.float64))
    weights = np.full(BETS, 1 / BETS) if weights is None else np.asarray(weights, np.float64)
    if null_mean.shape not in {(1,), (rows,)} or bets.shape not in {(1, BETS), (rows, BETS)}:
        raise ValueError(f"null_mean must be a float or float64[{rows}], bets float64[{BETS}] or float64[{rows}, {BETS}]")
    if weights.shape != (BETS,) or (weights < 0).any() or abs(weights.sum() - 1) > 1e-9:
        raise ValueError(f"weights must be {BETS} that sum to 1")
    growth = 1 + np.minimum(bets * (0 - null_mean[:, None]), bets * (1 - null_mean[:, None]))
    if not ((growth >= 0) & (null_mean[:, None] >= 0) & (null_mean[:, None] <= 1)).all():
        raise ValueError("a bet could make growth negative: bets must be in [-1 / (1 - null_mean), 1 / null_mean]")
    return null_mean, bets, weights
