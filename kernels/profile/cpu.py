"""Numba: profile. Rows are taken in blocks that stay in the L1 cache, one loop per purpose, so that LLVM vectorises each.

The histogram needs no table and no search: a value's bin is the number of thresholds <= value, so counting for each threshold the
values that reach it gives all bins by subtraction, eight values an instruction. Sums, squares, minimum and maximum are integer
reductions. A block with NaN, infinity or a value off the grid of the moments takes a slower loop that leaves those out.

Kernels get each array of values twice: as floats `x`, and their bits `b` as integers of the same size.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, njit, prange

from kernels.profile.edges import LANES, MAX_QUANTA

BLOCK = 2048  # 8 KB of float32; |k| <= 2**25 keeps a block's sum of squares under 2**61
LIMB = 32  # bits of the lower limb of the sum of squares
ONE_THREAD = 1 << 16  # values under which starting threads costs more than it saves
TASK = 1 << 18  # values of a task, at most


@njit(nogil=True, cache=True)
def count_reached(x, b, thresholds, first, reached):
    """Add to reached[first + j] the number of values >= thresholds[first + j], for the 11 lanes j.

    Eleven named counters stay in registers; each is as wide as a value, so that a comparison's mask is subtracted as it is.
    """
    one = b.dtype.type
    t0, t1, t2, t3 = thresholds[first], thresholds[first + 1], thresholds[first + 2], thresholds[first + 3]
    t4, t5, t6, t7 = thresholds[first + 4], thresholds[first + 5], thresholds[first + 6], thresholds[first + 7]
    t8, t9, t10 = thresholds[first + 8], thresholds[first + 9], thresholds[first + 10]
    n0 = n1 = n2 = n3 = n4 = n5 = n6 = n7 = n8 = n9 = n10 = one(0)
    for i in range(len(x)):
        v = x[i]
        n0 = one(n0 + one(v >= t0))
        n1 = one(n1 + one(v >= t1))
        n2 = one(n2 + one(v >= t2))
        n3 = one(n3 + one(v >= t3))
        n4 = one(n4 + one(v >= t4))
        n5 = one(n5 + one(v >= t5))
        n6 = one(n6 + one(v >= t6))
        n7 = one(n7 + one(v >= t7))
        n8 = one(n8 + one(v >= t8))
        n9 = one(n9 + one(v >= t9))
        n10 = one(n10 + one(v >= t10))
    for j, n in enumerate((n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10)):
        reached[first + j] += n


@njit(nogil=True, cache=True)
def extreme_keys(b):
    """Least and greatest order key."""
    key = b.dtype.type
    sign = key(8 * b.itemsize - 1)
    rest = key(~(key(1) << sign))
    low, high = rest, key(~rest)
    for i in range(len(b)):
        k = key(b[i] ^ ((b[i] >> sign) & rest))
        low = min(low, k)
        high = max(high, k)
    return low, high


@njit(nogil=True, cache=True)
def grid_sums(x, center, per_quantum):
    """Sum of k and of k * k, k = round((x - center) * per_quantum), of values that are all on the grid."""
    total = np.int64(0)
    squares = np.int64(0)
    for i in range(len(x)):
        k = np.int64(np.int32(np.rint((x[i] - center) * per_quantum)))
        total += k
        squares += k * k
    return total, squares


@njit(nogil=True, cache=True)
def guarded_grid_sums(x, b, center, per_quantum, infinity):
    """The same of any values: what is not finite counts nothing, what is off the grid counts as its end."""
    key = b.dtype.type
    rest = key(~(key(1) << key(8 * b.itemsize - 1)))
    end = x.dtype.type(MAX_QUANTA)
    zero = x.dtype.type(0)
    total = np.int64(0)
    squares = np.int64(0)
    for i in range(len(x)):
        d = (x[i] - center) * per_quantum
        d = d if d < end else end
        d = d if d > -end else -end
        d = d if key(b[i] & rest) < infinity else zero
        k = np.int64(np.int32(np.rint(d)))
        total += k
        squares += k * k
    return total, squares


@njit(nogil=True, cache=True)
def guarded_extreme_keys(b, infinity):
    """Finite values, NaN values, and the least and greatest order key of the finite ones."""
    key = b.dtype.type
    sign = key(8 * b.itemsize - 1)
    rest = key(~(key(1) << sign))
    finite = nan = key(0)
    low, high = rest, key(~rest)
    for i in range(len(b)):
        magnitude = key(b[i] & rest)
        k = key(b[i] ^ ((b[i] >> sign) & rest))
        finite = key(finite + key(magnitude < infinity))
        nan = key(nan + key(magnitude > infinity))
        low = min(low, k if magnitude < infinity else rest)
        high = max(high, k if magnitude < infinity else key(~rest))
    return np.int64(finite), np.int64(nan), low, high


@njit(nogil=True, cache=True)
def with_nulls(x, valid, first_bit, out):
    """Copy x to out, NaN where the validity bitmap (least significant bit first, as Arrow's) has a zero. True if it has one."""
    missing = False
    for i in range(len(x)):
        bit = first_bit + i
        if valid[bit >> 3] >> (bit & 7) & 1:
            out[i] = x[i]
        else:
            out[i] = np.nan
            missing = True
    return missing


@njit(nogil=True, cache=True)
def fold_run(x, b, valid, first_bit, thresholds, center, per_quantum, on_grid, infinity, reached, sums, ends):
    """Fold the values of one series. reached int64[T]; sums int64[5]: NaN values, finite values, sum, lower and upper limb of the
    sum of squares; ends: the least and greatest order key. `on_grid`: the order keys of the ends of the moments' grid."""
    scratch = np.empty(BLOCK, x.dtype)
    scratch_bits = scratch.view(b.dtype)
    for start in range(0, len(x), BLOCK):
        xs, bs = x[start : start + BLOCK], b[start : start + BLOCK]
        if len(valid) and with_nulls(xs, valid, first_bit + start, scratch):
            xs, bs = scratch[: len(xs)], scratch_bits[: len(xs)]
        for first in range(0, len(thresholds), LANES):
            count_reached(xs, bs, thresholds, first, reached)
        low, high = extreme_keys(bs)
        if on_grid[0] <= low and high <= on_grid[1]:
            finite, nan = len(xs), 0
            total, squares = grid_sums(xs, center, per_quantum)
        else:
            finite, nan, low, high = guarded_extreme_keys(bs, infinity)
            total, squares = guarded_grid_sums(xs, bs, center, per_quantum, infinity)
        sums[0] += nan
        sums[1] += finite
        sums[2] += total
        sums[3] += squares & ((1 << LIMB) - 1)
        sums[4] += squares >> LIMB
        ends[0] = min(ends[0], low)
        ends[1] = max(ends[1], high)


@njit(nogil=True, cache=True)
def settle(row, width, bins, rows, reached, sums, low, high, counts, moments, extremes):
    """Add a run's sums to a state row: thresholds reached become bins, the limbs are carried into their normal form."""
    nan = sums[0]
    counts[row, 0] += rows - nan - reached[0]
    for i in range(bins):
        counts[row, i + 1] += reached[i] - reached[i + 1]
    counts[row, width + 1] += reached[bins]
    counts[row, width + 2] += nan
    if len(moments):
        moments[row, 0] += sums[1]
        moments[row, 1] += sums[2]
        lower = moments[row, 2] + sums[3]
        moments[row, 2] = lower & ((1 << LIMB) - 1)
        moments[row, 3] += sums[4] + (lower >> LIMB)
    if len(extremes) and sums[1]:
        extremes[row, 0] = min(extremes[row, 0], low)
        extremes[row, 1] = max(extremes[row, 1], high)


@njit(nogil=True, cache=True)
def fold_task(task, cuts, values, bits, valid, first_bit, rows, edge_rows, edges, infinity, reached, sums, ends):
    """Fold one of the `cuts` parts of a column of values [F, n] into sums of its own."""
    thresholds, _, centers, per_quantum, grid, _ = edges
    column, cut, n = task // cuts, task % cuts, values.shape[1]
    start, stop = n * cut // cuts, n * (cut + 1) // cuts
    e = edge_rows[rows[column]]
    ends[0] = np.iinfo(bits.dtype).max
    ends[1] = np.iinfo(bits.dtype).min
    fold_run(
        values[column, start:stop], bits[column, start:stop], valid, first_bit + start, thresholds[e], centers[e], per_quantum[e],
        grid[e], infinity, reached, sums, ends,
    )  # fmt: skip


# One function each, not one compiled twice: Numba's cache knows a function by its name and line, not by `parallel`.
@njit(nogil=True, cache=True)
def fold_tasks_alone(cuts, values, bits, valid, first_bit, rows, edge_rows, edges, infinity, reached, sums, ends):
    for task in range(len(sums)):
        fold_task(
            task, cuts, values, bits, valid, first_bit, rows, edge_rows, edges, infinity, reached[task], sums[task], ends[task]
        )  # fmt: skip


@njit(nogil=True, cache=True, parallel=True)
def fold_tasks_together(cuts, values, bits, valid, first_bit, rows, edge_rows, edges, infinity, reached, sums, ends):
    for task in prange(len(sums)):
        fold_task(
            task, cuts, values, bits, valid, first_bit, rows, edge_rows, edges, infinity, reached[task], sums[task], ends[task]
        )  # fmt: skip


@njit(nogil=True, cache=True)
def settle_tasks(cuts, n, number, rows, edge_rows, bins, width, reached, sums, ends, counts, moments, extremes):
    """Add the sums of all tasks to the state, in order. ends: order keys, which become bits of floats of the type of `number`."""
    sign, rest = 8 * ends.itemsize - 1, np.iinfo(ends.dtype).max
    for task in range(len(sums)):
        column, cut = task // cuts, task % cuts
        held = n * (cut + 1) // cuts - n * cut // cuts
        row = rows[column]
        ends[task] ^= (ends[task] >> sign) & rest
        low, high = ends[task].view(number.dtype)
        settle(row, width, bins[edge_rows[row]], held, reached[task], sums[task], low, high, counts, moments, extremes)


def fold_columns(values, bits, valid, first_bit, rows, edge_rows, edges, infinity, counts, moments, extremes):
    """Fold values [F, n]; column f goes into state row rows[f]. Columns are cut into tasks; their sums are settled in order."""
    thresholds, bins, _, _, _, width = edges
    columns, n = values.shape
    cuts = max(1, -(-n // TASK))
    tasks = columns * cuts
    reached = np.zeros((tasks, thresholds.shape[1]), np.int64)
    sums = np.zeros((tasks, 5), np.int64)
    ends = np.empty((tasks, 2), bits.dtype)
    fold = fold_tasks_together if values.size >= ONE_THREAD else fold_tasks_alone
    fold(cuts, values, bits, valid, first_bit, rows, edge_rows, edges, infinity, reached, sums, ends)
    settle_tasks(cuts, n, values[:0, :0], rows, edge_rows, bins, width, reached, sums, ends, counts, moments, extremes)


@njit(nogil=True, cache=True)
def bins_by_comparison(x, b, thresholds, bins, width, out):
    """out[i]: the place of x[i] in a histogram row, all values having the same edges; NaN has the last place."""
    place = b.dtype.type
    last_bin, above, null = place(bins), place(width + 1), place(width + 2)
    out[: len(x)] = 0
    for first in range(0, len(thresholds), LANES):
        t0, t1, t2, t3 = thresholds[first], thresholds[first + 1], thresholds[first + 2], thresholds[first + 3]
        t4, t5, t6, t7 = thresholds[first + 4], thresholds[first + 5], thresholds[first + 6], thresholds[first + 7]
        t8, t9, t10 = thresholds[first + 8], thresholds[first + 9], thresholds[first + 10]
        for i in range(len(x)):
            v = x[i]
            c = place(place(v >= t0) + place(v >= t1) + place(v >= t2) + place(v >= t3) + place(v >= t4) + place(v >= t5))
            out[i] = place(out[i] + c + place(v >= t6) + place(v >= t7) + place(v >= t8) + place(v >= t9) + place(v >= t10))
    for i in range(len(x)):
        c = out[i] if out[i] <= last_bin else above
        out[i] = c if x[i] == x[i] else null


@njit(nogil=True, cache=True)
def bins_by_halving(x, slots, edge_rows, thresholds, bins, width, out):
    """The same where each value has the edges of its state row: a search without branches, of as many steps for every value."""
    step = 1
    while 2 * step <= thresholds.shape[1]:
        step *= 2
    for i in range(len(x)):
        v = x[i]
        e = edge_rows[max(slots[i], 0)]
        reached = 0
        half = step
        while half:
            next_up = min(reached + half, thresholds.shape[1])
            reached = next_up if thresholds[e, next_up - 1] <= v else reached
            half //= 2
        reached = reached if reached <= bins[e] else width + 1
        out[i] = width + 2 if np.isnan(v) else reached


@njit(nogil=True, cache=True)
def add_moments(x, slots, edge_rows, centers, per_quantum, moments):
    """Add finite values to the moments of their state rows."""
    end = np.float64(MAX_QUANTA)
    for i in range(len(x)):
        row = slots[i]
        if row < 0 or x[i] - x[i] != 0:
            continue
        e = edge_rows[row]
        d = np.float64((x[i] - centers[e]) * per_quantum[e])
        d = d if d < end else end
        k = np.int64(np.rint(d if d > -end else -end))
        moments[row, 0] += 1
        moments[row, 1] += k
        lower = moments[row, 2] + k * k
        moments[row, 2] = lower & ((1 << LIMB) - 1)
        moments[row, 3] += lower >> LIMB


@njit(nogil=True, cache=True)
def add_extremes(x, slots, extremes):
    """Let finite values widen the extremes of their state rows."""
    for i in range(len(x)):
        row = slots[i]
        if row < 0 or x[i] - x[i] != 0:
            continue
        extremes[row, 0] = min(extremes[row, 0], x[i])
        extremes[row, 1] = max(extremes[row, 1], x[i])


@njit(nogil=True, cache=True)
def fold_rows(values, bits, valid, first_bit, slots, edge_rows, edges, counts, moments, extremes):
    """Fold values [n]; row i goes into state row slots[i], or nowhere when that is negative."""
    thresholds, bins, centers, per_quantum, _, width = edges
    place = np.empty(BLOCK, bits.dtype)
    scratch = np.empty(BLOCK, values.dtype)
    for start in range(0, len(values), BLOCK):
        x, b, s = values[start : start + BLOCK], bits[start : start + BLOCK], slots[start : start + BLOCK]
        if len(valid) and with_nulls(x, valid, first_bit + start, scratch):
            x = scratch[: len(x)]
        if len(thresholds) == 1:
            bins_by_comparison(x, b, thresholds[0], bins[0], width, place)
        else:
            bins_by_halving(x, s, edge_rows, thresholds, bins, width, place)
        for i in range(len(x)):
            if s[i] >= 0:
                counts[s[i], place[i]] += 1
        if len(moments):
            add_moments(x, s, edge_rows, centers, per_quantum, moments)
        if len(extremes):
            add_extremes(x, s, extremes)


@njit(nogil=True, cache=True, parallel=True)
def fold_rows_together(values, bits, valid, first_bit, slots, edge_rows, edges, workers, counts, moments, extremes):
    """The same by several workers, each on its share of the rows and with a state of its own; these are added up at the end."""
    n = len(values)
    own_counts = np.zeros((workers, len(counts), counts.shape[1]), np.int64)
    own_moments = np.zeros((workers, len(moments), 4), np.int64)
    own_extremes = np.empty((workers, len(extremes), 2))
    own_extremes[:, :, 0] = np.inf
    own_extremes[:, :, 1] = -np.inf
    for w in prange(workers):
        start, stop = n * w // workers, n * (w + 1) // workers
        fold_rows(
            values[start:stop], bits[start:stop], valid, first_bit + start, slots[start:stop], edge_rows, edges, own_counts[w],
            own_moments[w], own_extremes[w],
        )  # fmt: skip
    for w in range(workers):
        for row in range(len(counts)):
            for i in range(counts.shape[1]):
                counts[row, i] += own_counts[w, row, i]
        for row in range(len(moments)):
            lower = moments[row, 2] + own_moments[w, row, 2]
            moments[row, 0] += own_moments[w, row, 0]
            moments[row, 1] += own_moments[w, row, 1]
            moments[row, 2] = lower & ((1 << LIMB) - 1)
            moments[row, 3] += own_moments[w, row, 3] + (lower >> LIMB)
        for row in range(len(extremes)):
            extremes[row, 0] = min(extremes[row, 0], own_extremes[w, row, 0])
            extremes[row, 1] = max(extremes[row, 1], own_extremes[w, row, 1])


def profile(values, slots, edges, counts, moments, extremes, valid, first_bit, edge_rows):
    """Entry from `kernels.profile.profile`, which has checked the arguments."""
    integer = np.int32 if values.dtype == np.float32 else np.int64
    bits = values.view(integer)
    moments = np.empty((0, 4), np.int64) if moments is None else moments
    extremes = np.empty((0, 2)) if extremes is None else extremes
    valid = np.empty(0, np.uint8) if valid is None else valid
    tables = edges.tables(values.dtype.type)
    if values.ndim == 1 and not np.isscalar(slots):
        if values.size >= ONE_THREAD and 4 * counts.size < values.size:
            workers = min(get_num_threads(), values.size // (4 * counts.size) + 1)
            fold_rows_together(values, bits, valid, first_bit, slots, edge_rows, tables, workers, counts, moments, extremes)
        else:
            fold_rows(values, bits, valid, first_bit, slots, edge_rows, tables, counts, moments, extremes)
        return
    infinity = values.dtype.type(np.inf).view(integer)
    rows = np.atleast_1d(np.asarray(slots, np.int32))
    fold_columns(np.atleast_2d(values), np.atleast_2d(bits), valid, first_bit, rows, edge_rows, tables, infinity, counts, moments, extremes)
