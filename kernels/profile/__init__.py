"""profile: fold values into per-series histograms, moments, minimum, maximum and null counts.

The state of S series is three arrays that a fold updates in place:

- counts int64[S, width + 3]: below, the bins, above, null. A row's place is below when it is less than the first edge (or -inf),
  above when more than the last (or +inf), null when it is NaN or its bit in the validity bitmap is zero
- moments int64[S, 4]: finite values n, sum of k, and sum of k * k in two limbs (lower 32 bits, the rest), k being the value on the
  grid of its `Edges`. Integers: the result does not depend on the order of the rows, the batches or the threads
- extremes float64[S, 2]: least and greatest finite value; +inf and -inf before the first

Counts and moments of two states add; extremes take the lesser and the greater. All bounds hold for 2**37 values per series at the
end of the grid, and for 2**42 within the reference's range.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from kernels.profile.edges import Edges, category_edges, from_edges, quantile_edges, stack, uniform_edges

__all__ = [
    "Edges", "Profile", "Summary", "category_edges", "empty", "from_edges", "merge", "profile", "quantile_edges", "stack", "summary",
    "uniform_edges",
]  # fmt: skip


class Profile(NamedTuple):
    """The state of S series (see the module); `moments` and `extremes` may be None where only the histogram is wanted."""

    counts: np.ndarray
    moments: np.ndarray | None = None
    extremes: np.ndarray | None = None


class Summary(NamedTuple):
    """Per series, float64[S] each: finite values, their mean, variance (of the population, not the sample), least, greatest."""

    finite: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    low: np.ndarray
    high: np.ndarray


def empty(series: int, width: int = 32) -> Profile:
    """The state of `series` series that have seen nothing, for edges of `width` bins."""
    counts = np.zeros((series, width + 3), np.int64)
    return Profile(counts, np.zeros((series, 4), np.int64), np.tile([np.inf, -np.inf], (series, 1)))


def profile(
    values: Any, slots: Any, edges: Edges, state: Profile, *, valid: Any = None, first_bit: int = 0, edge_rows: Any = None
) -> Profile:
    """Fold values into the state of their series, in place, and return it.

    values: float32 or float64, C-contiguous; other numbers and booleans are converted (8 and 16 bits to float32, wider ones to
      float64, which rounds integers beyond 2**53). [n] with `slots` an int (all rows belong to that state row) or int32[n] (the
      state row of each value, -1 to leave it out); or [F, n], F columns, with `slots` int32[F].
    edges: the edges of each state row. One row of edges serves all; else as many as state rows, or `edge_rows` int32[S] says which.
    valid: uint8 validity bitmap as Arrow has it, whose bit `first_bit` belongs to the first value; for values [n] only.

    Raises ValueError for shapes or types that do not fit, and for slots beyond the state.
    Throughput: see benchmarks/README.md; fastest is one series a call (or column), of bins of one width. `slots` of their own per row
    cost about three times as much.

    >>> edges = uniform_edges(0, 4, bins=4)
    >>> state = profile(np.array([-1, 0, 1.5, 4, 9, np.nan]), 0, edges, empty(1, 4))
    >>> state.counts[0].tolist(), state.extremes[0].tolist()
    ([1, 1, 1, 0, 1, 1, 1], [-1.0, 9.0])
    """
    if type(values).__module__.partition(".")[0] == "torch":
        from kernels.profile import gpu  # needs torch

        return gpu.profile(values, slots, edges, state, valid=valid, first_bit=first_bit, edge_rows=edge_rows)
    from kernels.profile import cpu

    values = as_floats(values)
    rows = len(state.counts)
    check(values, slots, edges, state, valid, first_bit, edge_rows)
    if edge_rows is None:
        edge_rows = np.zeros(rows, np.int32) if len(edges) == 1 else np.arange(rows, dtype=np.int32)
    if values.size:
        cpu.profile(values, slots, edges, *state, valid, first_bit, edge_rows)
    return state


def as_floats(values: Any) -> np.ndarray:
    """Values as contiguous float32 or float64, without a copy where they are that."""
    values = np.asarray(values)
    if values.dtype not in (np.float32, np.float64):
        if values.dtype.kind not in "iufb":
            raise ValueError(f"values must be numbers, not {values.dtype}")
        values = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
    return np.ascontiguousarray(values)


def check(values: Any, slots: Any, edges: Edges, state: Profile, valid: Any, first_bit: int, edge_rows: Any) -> None:
    """ValueError unless the arguments of `profile`, NumPy's or Torch's, fit together."""
    counts, moments, extremes = state
    rows = len(counts)
    expect("counts", counts, "int64", (rows, edges.width + 3))
    if moments is not None:
        expect("moments", moments, "int64", (rows, 4))
    if extremes is not None:
        expect("extremes", extremes, "float64", (rows, 2))
    if values.ndim not in (1, 2):
        raise ValueError(f"values must be [n] or [F, n], not of {values.ndim} dimensions")
    if isinstance(slots, int | np.integer):
        if values.ndim == 2:
            raise ValueError("columns need a slot each")
        if not 0 <= int(slots) < rows:
            raise ValueError(f"slot {slots} is not in a state of {rows} rows")
    else:
        expect("slots", slots, "int32", (len(values),))
        if len(slots) and (int(slots.max()) >= rows or (values.ndim == 2 and int(slots.min()) < 0)):
            raise ValueError(f"slots must be in a state of {rows} rows")
    if valid is not None:
        if values.ndim == 2:
            raise ValueError("a validity bitmap goes with one column; let columns have NaN where they are null")
        expect("valid", valid, "uint8", tuple(valid.shape))
        if first_bit < 0 or 8 * len(valid) < first_bit + len(values):
            raise ValueError("valid must have a bit for every value")
    if edge_rows is not None:
        expect("edge_rows", edge_rows, "int32", (rows,))
        if rows and not 0 <= int(edge_rows.min()) <= int(edge_rows.max()) < len(edges):
            raise ValueError("edge_rows must name a row of edges for every state row")
    elif len(edges) not in (1, rows):
        raise ValueError(f"edges of {len(edges)} series for a state of {rows}: say which by edge_rows")


def expect(name: str, array: Any, dtype: str, shape: tuple[int, ...]) -> None:
    """ValueError unless the array has this type and shape."""
    got = str(array.dtype).removeprefix("torch.")
    if got != dtype or tuple(array.shape) != shape:
        raise ValueError(f"{name} must be {dtype}{list(shape)}, not {got}{list(array.shape)}")


def merge(state: Profile, other: Profile) -> Profile:
    """Add another state of the same series and edges to `state`, in place, and return it.

    >>> edges = uniform_edges(0, 1, bins=1)
    >>> a, b = (profile(np.array([x]), 0, edges, empty(1, 1)) for x in (0.25, 0.75))
    >>> merge(a, b).extremes[0].tolist()
    [0.25, 0.75]
    """
    np.add(state.counts, other.counts, out=state.counts)
    if state.moments is not None and other.moments is not None:
        state.moments[...] += other.moments
        state.moments[:, 3] += state.moments[:, 2] >> 32
        state.moments[:, 2] &= 2**32 - 1
    if state.extremes is not None and other.extremes is not None:
        np.minimum(state.extremes[:, 0], other.extremes[:, 0], out=state.extremes[:, 0])
        np.maximum(state.extremes[:, 1], other.extremes[:, 1], out=state.extremes[:, 1])
    return state


def summary(state: Profile, edges: Edges, edge_rows: np.ndarray | None = None) -> Summary:
    """Mean and variance from the moments (which the state must have), and the extremes; NaN where a series has no value.

    >>> edges = uniform_edges(0, 10)
    >>> s = summary(profile(np.array([2.0, 4.0, np.inf]), 0, edges, empty(1)), edges)
    >>> float(s.finite[0]), float(s.mean[0]), float(s.variance[0])
    (2.0, 3.0, 1.0)
    """
    if state.moments is None or state.extremes is None:
        raise ValueError("a summary needs moments and extremes")
    e = np.broadcast_to(0, len(state.counts)) if len(edges) == 1 else np.arange(len(state.counts)) if edge_rows is None else edge_rows
    n = state.moments[:, 0]
    k = state.moments[:, 1].astype(object)  # Python's integers: n * sum(k * k) - sum(k) ** 2 cancels
    squares = state.moments[:, 3].astype(object) * 2**32 + state.moments[:, 2]
    seen = np.maximum(n, 1)
    spread = np.array(n.astype(object) * squares - k * k, dtype=np.float64)
    mean = edges.center[e] + np.array(k, np.float64) / seen * edges.quantum[e]
    variance = spread / seen / seen * edges.quantum[e] ** 2
    missing = n == 0
    mean, variance, low, high = (np.where(missing, np.nan, a) for a in (mean, variance, state.extremes[:, 0], state.extremes[:, 1]))
    return Summary(n.astype(np.float64), mean, variance, low, high)
