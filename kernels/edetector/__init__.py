"""edetector: e-detectors over steps of many rows: how much the counts of a bounded quantity say that its mean has left its null value.

A step is what one slot saw in one pane of time: `totals` rows, of which `successes` succeeded (or, of values in [0, 1], their sum). A slot
has T tests on the same rows (several thresholds of one latency) and L lanes, lane l on test l // (L / T). A lane bets that the mean is
`alternative` and not `null`: its growth over a step is the likelihood ratio

    G = (alternative / null)^successes ((1 - alternative) / (1 - null))^(totals - successes)

For 0/1 values that is the product over rows of 1 + bet (x - null); other values in [0, 1] give no more in expectation, since a^x b^(1-x)
<= x a + (1 - x) b. So while each row's mean, given the past, is at most null (at least null for a lane with alternative < null),
E[G | past] <= 1, however rows depend on each other, and order within a step does not matter.

    M <- G (M + spend)        e = sum of weights x M;  at e >= 1: an alarm, and M <- 0

`spend` is what the step may add to the expected number of false alarms, known before the step is seen. M + alarms - sum of spend is a
supermartingale, so the expected number of false alarms up to any time is at most what was spent until then. With a constant spend of
1 / A this is the Shiryaev-Roberts e-detector, and the average run length is at least A steps. Beside it each lane keeps its CUSUM: the
log growth since its last minimum, which is where the change most likely began, and the rows since then.

State: float64[S, 5, L]: M; CUSUM; time at which it left its minimum, microseconds; successes and rows since then. Zeros before the
first step. M stops at `CAP`, the CUSUM at `LOG_CAP`, which only lowers e and lets a process come back soon after a change is over.

Source: Shin, Ramdas, Rinaldo, "E-detectors", New England Journal of Statistics in Data Science 2024 (here with spend for the constant 1).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

CAP = 1e12
LOG_CAP = 60.0
PARTS = 5

__all__ = ["CAP", "LOG_CAP", "PARTS", "Steps", "edetector", "growths"]


class Steps(NamedTuple):
    """What each step says. `e`: float64[n], before a reset (NaN: slot -1); `lane`: int32[n], the one that contributes most (-1: none does);
    `since_us`, `successes`, `rows`: float64[n] of that lane's CUSUM."""

    e: Any
    lane: Any
    since_us: Any
    successes: Any
    rows: Any


def edetector(
    successes: Any, totals: Any, spend: Any, time_us: Any, slots: Any, null: Any, alternative: Any, power: Any, weights: Any, state: Any
) -> tuple[Any, Steps]:
    """Fold steps into their slots' processes, in order; return the state (updated in place) and what each step says.

    successes: float64[n, T] in [0, totals]; totals, spend, time_us (end of the step): float64[n]; slots: int32[n], -1 is left out.
    null, alternative: float64[S, L] in (0, 1); power: float64[S, L] in (0, 1], the share of a row that a row is worth where rows come
    in clusters: G is raised to it, which keeps E[G | past] <= 1; weights: float64[S, L], not negative, at most 1 in sum, 0 for a
    lane that is not used.

    Raises ValueError for shapes and types that do not fit, a slot beyond the state, means or weights out of bounds. The result does not
    depend on the cut into batches.

    >>> state, lanes = np.zeros((1, PARTS, 1)), np.ones((1, 1))
    >>> n = np.full(30, 10.0)
    >>> k = np.where(np.arange(30) < 20, 1.0, 5.0)[:, None]
    >>> tables = 0.1 * lanes, 0.4 * lanes, lanes, lanes
    >>> _, steps = edetector(k, n, np.full(30, 1e-6), np.arange(30.0), np.zeros(30, np.int32), *tables, state)
    >>> int(np.argmax(steps.e >= 1)), float(steps.since_us[22]), float(steps.successes[22] / steps.rows[22])
    (22, 19.0, 0.5)
    """
    if type(successes).__module__.partition(".")[0] == "torch":
        from kernels.edetector import gpu

        return gpu.edetector(successes, totals, spend, time_us, slots, null, alternative, power, weights, state)
    from kernels.edetector import cpu

    if successes.ndim != 2 or successes.dtype != np.float64:
        raise ValueError(f"successes must be float64[n, T], not {successes.dtype}{list(successes.shape)}")
    n, tests = successes.shape
    for name, column in (("totals", totals), ("spend", spend), ("time_us", time_us)):
        if column.dtype != np.float64 or column.shape != (n,):
            raise ValueError(f"{name} must be float64[{n}], not {column.dtype}{list(column.shape)}")
    if state.dtype != np.float64 or state.ndim != 3 or state.shape[1] != PARTS or state.shape[2] % max(1, tests):
        raise ValueError(f"state must be float64[S, {PARTS}, L], L a multiple of {tests}, not {state.dtype}{list(state.shape)}")
    if slots.dtype != np.int32 or slots.shape != (n,) or (n and int(slots.max()) >= len(state)):
        raise ValueError(f"slots must be int32[{n}] in a state of {len(state)} rows")
    up, down = growths(null, alternative, power, weights, (len(state), state.shape[2]))
    return state, Steps(*cpu.edetector(successes, totals, spend, time_us, slots, up, down, np.ascontiguousarray(weights), state))


def growths(
    null: np.ndarray, alternative: np.ndarray, power: np.ndarray, weights: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """(log growth of a success, of a failure), float64[S, L] each; 0 for lanes without weight. Raises ValueError, as `edetector` says."""
    for name, table in (("null", null), ("alternative", alternative), ("power", power), ("weights", weights)):
        if table.dtype != np.float64 or table.shape != shape:
            raise ValueError(f"{name} must be float64{list(shape)}, not {table.dtype}{list(table.shape)}")
    if (weights < 0).any() or (weights.sum(axis=1) > 1 + 1e-9).any():
        raise ValueError("weights must not be negative, and at most 1 in sum")
    used = weights > 0
    if (used & ~((null > 0) & (null < 1) & (alternative > 0) & (alternative < 1))).any():
        raise ValueError("null and alternative must be between 0 and 1")
    if (used & ~((power > 0) & (power <= 1))).any():
        raise ValueError("power must be over 0 and at most 1")
    a, b = np.where(used, alternative, 0.5), np.where(used, null, 0.5)
    return power * (np.log(a) - np.log(b)), power * (np.log1p(-a) - np.log1p(-b))
