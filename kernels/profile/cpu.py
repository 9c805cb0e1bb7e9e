"""Numba: profile. Rows are taken in blocks that stay in the L1 cache, one loop per purpose, so that LLVM vectorises each.

Bins are found by cells (see `places`). Sums, squares, minimum and maximum are integer reductions. A block with NaN, infinity or a value
off the grid of the moments takes slower loops that leave those out.

Kernels get each array of values twice: as floats `x`, and their bits `b` as integers of the same size.
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, njit, prange

from kernels.profile.edges import MAX_QUANTA
from kernels.profile.places import COUNTERS, count_block, places_by_cells, places_by_halving, settle_counts

BLOCK = 2048  # 8 KB of float32; |k| <= 2**25 keeps a block's sum of squares under 2**61
LIMB = 32  # bits of the lower limb of the sum of squares
ONE_THREAD = 1 << 16  # values under which starting threads costs more than it saves
TASK = 1 << 18  # values of a task, at most
SPREAD = (-np.unpackbits(np.arange(256, dtype=np.uint8), bitorder="little").view(np.int8)).view(np.uint64)  # a byte of 0 or -1 for each bit


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
def find_nulls(n, valid, first_bit, room):
    """Whether the validity bitmap (least significant bit first, as Arrow's) has a zero among n bits; if so, the first n bytes of room,
    uint8[9 * BLOCK / 8], are -1 where it has. (A zero right after the n bits may count too.)"""
    gone = room[BLOCK:]
    whole = (n + 7) >> 3
    shift = np.uint32(first_bit & 7)
    byte = valid[first_bit >> 3 :]
    after = byte[1:]
    paired = min(whole, len(after))
    missing = np.uint8(0)
    for k in range(paired):
        gone[k] = ~np.uint8((np.uint32(byte[k]) | np.uint32(after[k]) << np.uint32(8)) >> shift)
        missing |= gone[k]
    if paired < whole:
        gone[paired] = ~np.uint8(np.uint32(byte[paired]) >> shift)
        missing |= gone[paired]
    if missing != 0:
        masks = room[:BLOCK].view(np.uint64)
        for k in range(whole):
            masks[k] = SPREAD[gone[k]]
    return missing != 0


@njit(nogil=True, cache=True)
def first_present(b, masks, low, high):
    """The bits of the first value that is not null and whose order key is from low to high; all ones, a NaN, if there is none."""
    key = b.dtype.type
    sign = key(8 * b.itemsize - 1)
    rest = key(~(key(1) << sign))
    for i in range(len(b)):
        if masks[i] == 0 and low <= key(b[i] ^ ((b[i] >> sign) & rest)) <= high:
            return b[i]
    return key(-1)


@njit(nogil=True, cache=True)
def fill_nulls(b, masks, stand_in, out):
    """Copy the bits of values to out, with stand_in where the mask is -1; how many those are."""
    word = b.dtype.type
    filled = word(0)
    for i in range(len(b)):
        mask = word(masks[i])
        out[i] = b[i] ^ ((b[i] ^ stand_in) & mask)
        filled = word(filled - mask)
    return np.int64(filled)


@njit(nogil=True, cache=True)
def count_nan(x, b):
    one = b.dtype.type
    nan = one(0)
    for i in range(len(x)):
        nan = one(nan + one(x[i] != x[i]))
    return np.int64(nan)


@njit(nogil=True, cache=True)
def fold_run(x, b, valid, first_bit, e, edges, infinity, histogram_alone, placed, sums, ends):
    """Fold values of edge row e. placed int64[width + 3]: the histogram row; sums int64[4]: finite values, sum, lower and upper limb of
    the sum of squares; ends: the least and greatest order key.

    Nulls of a bitmap stand in as a value of the run on the grid, which keeps the plain loops, and are taken back; as NaN before the first
    such value."""
    thresholds, bins, centers, per_quantum, grid, width = edges[:6]
    cells = edges[6:]
    scratch, places, room = np.empty(BLOCK, x.dtype), np.empty(BLOCK, np.int32), np.empty(9 * BLOCK // 8, np.uint8)
    masks = room.view(np.int8)
    scratch_bits = scratch.view(b.dtype)
    held = np.zeros((COUNTERS, 2 * cells[2].shape[1]), np.uint32)
    plain = np.zeros((COUNTERS, width + 3), np.uint32)
    reached = np.zeros(thresholds.shape[1], np.int64)
    nans, stood = np.int64(0), np.int64(0)
    stand_in = np.full(1, -1, b.dtype)
    value = stand_in.view(x.dtype)
    for start in range(0, len(x), BLOCK):
        xs, bs = x[start : start + BLOCK], b[start : start + BLOCK]
        filled = np.int64(0)
        if len(valid) > 0 and find_nulls(len(bs), valid, first_bit + start, room):
            if value[0] != value[0]:
                stand_in[0] = first_present(bs, masks, grid[e, 0], grid[e, 1])
            filled = fill_nulls(bs, masks, stand_in[0], scratch_bits)
            filled *= np.int64(value[0] == value[0])
            xs, bs = scratch[: len(xs)], scratch_bits[: len(xs)]
        stood += filled
        count_block(xs, bs, e, thresholds, bins, cells, x[start : start + BLOCK], places, held, plain, reached)
        if histogram_alone:
            nans += count_nan(xs, bs)
            continue
        low, high = extreme_keys(bs)
        if grid[e, 0] <= low and high <= grid[e, 1]:
            finite = np.int64(len(xs))
            total, squares = grid_sums(xs, centers[e], per_quantum[e])
        else:
            finite, nan, low, high = guarded_extreme_keys(bs, infinity)
            nans += nan
            total, squares = guarded_grid_sums(xs, bs, centers[e], per_quantum[e], infinity)
        if filled:
            k = np.int64(np.rint((value[0] - centers[e]) * per_quantum[e]))
            finite, total, squares = finite - filled, total - filled * k, squares - filled * k * k
        sums[0] += finite
        sums[1] += total
        sums[2] += squares & ((1 << LIMB) - 1)
        sums[3] += squares >> LIMB
        ends[0] = min(ends[0], low)
        ends[1] = max(ends[1], high)
    settle_counts(e, bins, width, cells, held, plain, reached, len(x), nans, placed)
    if stood:
        place = np.sum(thresholds[e, : bins[e] + 1] <= value[0])
        placed[place if place <= bins[e] else width + 1] -= stood
        placed[width + 2] += stood


@njit(nogil=True, cache=True)
def settle(row, placed, sums, low, high, counts, moments, extremes):
    """Add a run's sums to a state row: the limbs are carried into their normal form."""
    for j in range(len(placed)):
        counts[row, j] += placed[j]
    if len(moments):
        moments[row, 0] += sums[0]
        moments[row, 1] += sums[1]
        lower = moments[row, 2] + sums[2]
        moments[row, 2] = lower & ((1 << LIMB) - 1)
        moments[row, 3] += sums[3] + (lower >> LIMB)
    if len(extremes) and sums[0]:
        extremes[row, 0] = min(extremes[row, 0], low)
        extremes[row, 1] = max(extremes[row, 1], high)


@njit(nogil=True, cache=True)
def fold_task(task, cuts, values, bits, valid, first_bit, rows, edge_rows, edges, infinity, histogram_alone, placed, sums, ends):
    """Fold one of the `cuts` parts of a column of values [F, n] into sums of its own."""
    column, cut, n = task // cuts, task % cuts, values.shape[1]
    start, stop = n * cut // cuts, n * (cut + 1) // cuts
    ends[0] = np.iinfo(bits.dtype).max
    ends[1] = np.iinfo(bits.dtype).min
    fold_run(
        values[column, start:stop], bits[column, start:stop], valid, first_bit + start, edge_rows[rows[column]], edges, infinity,
        histogram_alone, placed, sums, ends,
    )  # fmt: skip


# One function each, not one compiled twice: Numba's cache knows a function by its name and line, not by `parallel`.
@njit(nogil=True, cache=True)
def fold_tasks_alone(cuts, values, bits, valid, first_bit, rows, edge_rows, edges, infinity, histogram_alone, placed, sums, ends):
    for task in range(len(sums)):
        fold_task(
            task, cuts, values, bits, valid, first_bit, rows, edge_rows, edges, infinity, histogram_alone, placed[task], sums[task],
            ends[task],
        )  # fmt: skip


@njit(nogil=True, cache=True, parallel=True)
def fold_tasks_together(cuts, values, bits, valid, first_bit, rows, edge_rows, edges, infinity, histogram_alone, placed, sums, ends):
    for task in prange(len(sums)):
        fold_task(
            task, cuts, values, bits, valid, first_bit, rows, edge_rows, edges, infinity, histogram_alone, placed[task], sums[task],
            ends[task],
        )  # fmt: skip


@njit(nogil=True, cache=True)
def settle_tasks(cuts, number, rows, placed, sums, ends, counts, moments, extremes):
    """Add the sums of all tasks to the state, in order. ends: order keys, which become bits of floats of the type of `number`."""
    sign, rest = 8 * ends.itemsize - 1, np.iinfo(ends.dtype).max
    for task in range(len(sums)):
        ends[task] ^= (ends[task] >> sign) & rest
        low, high = ends[task].view(number.dtype)
        settle(rows[task // cuts], placed[task], sums[task], low, high, counts, moments, extremes)


def fold_columns(values, bits, valid, first_bit, rows, edge_rows, edges, infinity, counts, moments, extremes):
    """Fold values [F, n]; column f goes into state row rows[f]. Columns are cut into tasks; their sums are settled in order."""
    columns, n = values.shape
    cuts = max(1, -(-n // TASK))
    tasks = columns * cuts
    placed = np.zeros((tasks, counts.shape[1]), np.int64)
    sums = np.zeros((tasks, 4), np.int64)
    ends = np.empty((tasks, 2), bits.dtype)
    histogram_alone = not len(moments) and not len(extremes)
    fold = fold_tasks_together if values.size >= ONE_THREAD else fold_tasks_alone
    fold(cuts, values, bits, valid, first_bit, rows, edge_rows, edges, infinity, histogram_alone, placed, sums, ends)
    settle_tasks(cuts, values[:0, :0], rows, placed, sums, ends, counts, moments, extremes)


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
    thresholds, bins, centers, per_quantum, _, width = edges[:6]
    cells = edges[6:]
    one_row = 0 if len(thresholds) == 1 else -1
    by_cells = np.all(cells[1] > 0)
    place = np.empty(BLOCK, np.int32)
    scratch, room = np.empty(BLOCK, values.dtype), np.empty(9 * BLOCK // 8, np.uint8)
    scratch_bits = scratch.view(bits.dtype)
    for start in range(0, len(values), BLOCK):
        x, s = values[start : start + BLOCK], slots[start : start + BLOCK]
        if len(valid) and find_nulls(len(x), valid, first_bit + start, room):
            fill_nulls(bits[start : start + BLOCK], room.view(np.int8), bits.dtype.type(-1), scratch_bits)
            x = scratch[: len(x)]
        if by_cells:
            places_by_cells(x, s, edge_rows, one_row, cells, width, place)
        else:
            places_by_halving(x, s, edge_rows, thresholds, bins, width, place)
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
