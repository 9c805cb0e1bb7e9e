"""Numba: neighbors. Four queries meet 128 rows of the reservoir at a time; what is near enough is kept, the rest is forgotten."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from kernels.prefetch import prefetch
from kernels.rff.cpu import COLUMNS, products

ROWS = 4
TASK = 64  # rows of a task: a block of the others stays in the L2 cache while they pass by
LINE = 16  # float32 of a cache line
CHUNK = 16  # values of a block; few chunks have one that is kept
ROOM = 192  # candidates beyond k that gather before the k least are told apart
LANES = 64  # values that LLVM compares at once; what is left over goes one by one
TWO = np.float32(2)
MOST = np.int32(2**31 - 1)
LOW = (1 << 32) - 1
AHEAD = 16  # rows of a band whose codes are fetched before they are compared


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def squared_norm(row):
    s = np.float32(0)
    for j in range(len(row)):
        s += row[j] * row[j]
    return s


@njit(nogil=True, cache=True, parallel=True)
def squared_norms(x):
    """float32[n]: infinite for rows that have NaN or infinity, so that they are near to nobody."""
    out = np.empty(len(x), np.float32)
    for i in prange(len(x)):
        s = squared_norm(x[i])
        out[i] = s if s < np.inf else np.inf
    return out


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def squared_distance(a, b):
    s = 0.0
    for j in range(len(a)):
        off = np.float64(a[j]) - np.float64(b[j])
        s += off * off
    return s


@njit(nogil=True, cache=True)
def settle(query, reservoir, rows, distance, index):
    """The distances of rows of the reservoir, computed in float64, in ascending order, and the rows, the first of equals first."""
    for j in range(len(rows)):
        value = np.float32(np.sqrt(squared_distance(query, reservoir[rows[j]])))
        i = j
        while i > 0 and (distance[i - 1] > value or (distance[i - 1] == value and index[i - 1] > rows[j])):
            distance[i] = distance[i - 1]
            index[i] = index[i - 1]
            i -= 1
        distance[i] = value
        index[i] = rows[j]


@njit(nogil=True, cache=True, parallel=True)
def blocks_of(rows):
    """float32 [blocks, d, 128]: 128 rows as columns, one block after the other; zeros at the end."""
    n, dims = rows.shape
    out = np.zeros(((n + COLUMNS - 1) // COLUMNS, dims, COLUMNS), np.float32)
    for block in prange(len(out)):
        first = block * COLUMNS
        for start in range(0, min(COLUMNS, n - first), LINE):
            part = rows[first + start : min(n, first + start + LINE)]
            for k in range(dims):
                for j in range(len(part)):
                    out[block, k, start + j] = part[j, k]
    return out


@njit(nogil=True, cache=True)
def fetch(blocks, block, step, steps):
    """Fetch a share of a block, while those before it are used."""
    memory, size = blocks.ravel(), blocks.shape[1] * COLUMNS
    lines = size // LINE
    for line in range(lines * step // steps, lines * (step + 1) // steps):
        prefetch(memory, block * size + line * LINE)


@njit(nogil=True, cache=True)
def keep_least(k, bits, rows, used):
    """Keep the k least of the first `used` candidates, of equal ones the first, in the order they have; the greatest of these. The
    arrays have room up to the next multiple of 64."""
    whole = (used + LANES - 1) // LANES * LANES
    bits[used:whole] = MOST
    found = np.int32(0)  # built from its highest bit down: a bit is set if fewer than k lie below
    for step in range(31):
        trial = np.int32(found | np.int32(1 << (30 - step)))
        below = np.int32(0)
        for j in range(whole):
            below = np.int32(below + np.int32(bits[j] < trial))
        found = trial if below < k else found
    equal = k
    for j in range(whole):
        equal -= bits[j] < found
    kept = 0
    for j in range(used):
        held, row = bits[j], rows[j]
        taken = (held < found) | ((held == found) & (equal > 0))
        equal -= held == found
        bits[kept], rows[kept] = held, row
        kept += taken
    return found


@njit(nogil=True, cache=True)
def nearer(values, width, own, norms, limit):
    """Turn products into squared distances, in place; how many of them are below the limit."""
    found = np.int32(0)
    for j in range(width):
        values[j] = own + norms[j] - TWO * values[j]
        found = np.int32(found + np.int32(values[j] < limit))
    return found


@njit(nogil=True, cache=True)
def gather(values, width, first, k, bits, rows, used, worst):
    """Add those of rows first to first + width to the candidates that are nearer than worst[0]; how many there are then.

    values float32[128]: squared distances. bits: those of the candidates' distances as int32, which ascend as they do; below zero, which
    is rounding, they are zero.
    """
    as_bits = values.view(np.int32)
    values[width:] = np.inf
    for start in range(0, COLUMNS, CHUNK):
        limit, found = worst[0], np.int32(0)
        for j in range(CHUNK):
            found = np.int32(found + np.int32(values[start + j] < limit))
        if found:
            for j in range(CHUNK):
                bits[used] = max(as_bits[start + j], np.int32(0))
                rows[used] = first + start + j
                used += values[start + j] < limit
            if used > k + ROOM - CHUNK:
                worst.view(np.int32)[0] = keep_least(k, bits, rows, used)
                used = k
    return used


@njit(nogil=True, cache=True)
def search(queries, asked, reservoir, blocks, own, norms, first, stop, distance, index):
    """The nearest of rows first to stop of the reservoir to the queries `asked`: all these meet one block before the next."""
    k = distance.shape[1]
    dots = np.empty((ROWS, COLUMNS), np.float32)
    quad = np.empty(ROWS, np.int64)
    bits = np.empty((len(asked), k + ROOM + LANES), np.int32)
    rows = np.empty_like(bits)
    used = np.zeros(len(asked), np.int64)
    worst = np.full((len(asked), 1), np.inf, np.float32)
    while first < stop:
        block, inside = first // COLUMNS, first % COLUMNS
        width = min(COLUMNS - inside, stop - first)
        norm = norms[first : first + width]
        for at in range(0, len(asked), ROWS):
            filled = min(ROWS, len(asked) - at)
            for r in range(ROWS):
                quad[r] = asked[at + min(r, filled - 1)]
            fetch(blocks, block + 1, at // ROWS, (len(asked) + ROWS - 1) // ROWS)
            products(queries, quad, blocks[block], inside, width, dots)
            for r in range(filled):
                a = at + r
                if nearer(dots[r], width, own[quad[r]], norm, worst[a, 0]):
                    used[a] = gather(dots[r], width, first, k, bits[a], rows[a], used[a], worst[a])
        first += width
    for a in range(len(asked)):
        if used[a] > k:
            keep_least(k, bits[a], rows[a], used[a])
        i = asked[a]
        if own[i] < np.inf:
            settle(queries[i], reservoir, rows[a, : min(k, used[a])], distance[i], index[i])


@njit(nogil=True, cache=True, parallel=True)
def nearest(queries, reservoir, order, segments, starts, distance, index):
    """Queries in the order of their segments."""
    blocks = blocks_of(reservoir)
    norms = squared_norms(reservoir)
    own = squared_norms(queries)
    n = len(order)
    for task in prange((n + TASK - 1) // TASK):
        at = task * TASK
        end = min(n, at + TASK)
        while at < end:
            segment = segments[order[at]]
            upto = at + 1
            while upto < end and segments[order[upto]] == segment:
                upto += 1
            if segment >= 0:
                search(queries, order[at:upto], reservoir, blocks, own, norms, starts[segment], starts[segment + 1], distance, index)
            at = upto


@njit(nogil=True, cache=True)
def turn(step, tasks):
    """The task of a step: early and late rows in turn, since the first have most others after them."""
    return step // 2 if step % 2 == 0 else tasks - 1 - step // 2


@njit(nogil=True, cache=True, parallel=True)
def count_pairs(unit, there, blocks, least):
    """int64[n]: later rows that each row is like. there: bool[n], rows that can be like others; blocks: of `blocks_of`."""
    n = len(unit)
    counts = np.zeros(n, np.int64)
    tasks = (n + TASK - 1) // TASK
    for step in prange(tasks):
        dots = np.empty((ROWS, COLUMNS), np.float32)
        quad = np.empty(ROWS, np.int64)
        start = turn(step, tasks) * TASK
        stop = min(n, start + TASK)
        for first in range(start // COLUMNS * COLUMNS, n, COLUMNS):
            width = min(COLUMNS, n - first)
            others = there[first : first + width]
            for at in range(start, stop, ROWS):
                for r in range(ROWS):
                    quad[r] = min(at + r, stop - 1)
                fetch(blocks, first // COLUMNS + 1, (at - start) // ROWS, TASK // ROWS)
                products(unit, quad, blocks[first // COLUMNS], 0, width, dots)
                for i in range(at, min(at + ROWS, stop)):
                    if there[i]:
                        hits = np.int32(0)
                        for j in range(max(0, i + 1 - first), width):
                            hits += np.int32((dots[i - at, j] >= least) & others[j])
                        counts[i] += hits
    return counts


@njit(nogil=True, cache=True, parallel=True)
def write_pairs(unit, there, blocks, least, counts, places, first_out, second_out, similarity):
    """The counts[i] pairs of row i from places[i] on, as far as there is room."""
    n = len(unit)
    room = len(first_out)
    for task in prange((n + ROWS - 1) // ROWS):
        if places[task * ROWS] >= room or not counts[task * ROWS : task * ROWS + ROWS].any():
            continue
        dots = np.empty((ROWS, COLUMNS), np.float32)
        quad = np.minimum(task * ROWS + np.arange(ROWS), n - 1)
        filled = min(ROWS, n - task * ROWS)
        at = places[quad].copy()
        for first in range(task * ROWS // COLUMNS * COLUMNS, n, COLUMNS):
            width = min(COLUMNS, n - first)
            products(unit, quad, blocks[first // COLUMNS], 0, width, dots)
            for r in range(filled):
                for j in range(width):
                    if dots[r, j] >= least and first + j > quad[r] and there[quad[r]] and there[first + j]:
                        if at[r] < room:
                            first_out[at[r]] = quad[r]
                            second_out[at[r]] = first + j
                            similarity[at[r]] = dots[r, j]
                        at[r] += 1


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def dot(a, b):
    s = 0.0
    for j in range(len(a)):
        s += np.float64(a[j]) * np.float64(b[j])
    return s


@njit(nogil=True, cache=True, parallel=True, error_model="numpy")
def unit_rows(signatures, unit, there):
    """Write rows divided by their length to unit, and to there, bool, whether that makes sense; zero where it does not."""
    for i in prange(len(signatures)):
        norm = np.sqrt(dot(signatures[i], signatures[i]))
        there[i] = 0 < norm < np.inf
        for j in range(signatures.shape[1]):
            unit[i, j] = signatures[i, j] / np.float32(norm) if there[i] else np.float32(0)


@njit(nogil=True, cache=True, parallel=True)
def band_codes(unit, directions, bands, bits):
    """uint32[n, bands]: signs along the directions, `bits` of them a number. directions: blocks of 128, of whole bands as many as fit."""
    n = len(unit)
    codes = np.zeros((n, bands), np.uint32)
    held = COLUMNS // bits
    for task in prange((n + TASK - 1) // TASK):
        dots = np.empty((ROWS, COLUMNS), np.float32)
        quad = np.empty(ROWS, np.int64)
        stop = min(n, task * TASK + TASK)
        for block in range(len(directions)):
            for at in range(task * TASK, stop, ROWS):
                for r in range(ROWS):
                    quad[r] = min(at + r, stop - 1)
                products(unit, quad, directions[block], 0, COLUMNS, dots)
                for r in range(min(ROWS, stop - at)):
                    for band in range(min(held, bands - block * held)):
                        signs = dots[r, band * bits : band * bits + bits]
                        code = np.uint32(0)
                        for j in range(bits):
                            code |= np.uint32(np.uint32(signs[j] > 0) << np.uint32(j))
                        codes[at + r, block * held + band] = code
    return codes


@njit(nogil=True, cache=True)
def apart(a, b, words):
    """Bits in which the first words of two rows of codes differ."""
    total = np.uint32(0)
    for w in range(words):
        x = np.uint32(a[w] ^ b[w])
        x = np.uint32(x - ((x >> np.uint32(1)) & np.uint32(0x55555555)))
        x = np.uint32((x & np.uint32(0x33333333)) + ((x >> np.uint32(2)) & np.uint32(0x33333333)))
        x = np.uint32((x + (x >> np.uint32(4))) & np.uint32(0x0F0F0F0F))
        total = np.uint32(total + (np.uint32(x * np.uint32(0x01010101)) >> np.uint32(24)))
    return total


@njit(nogil=True, cache=True)
def alike(unit, codes, i, j, words, most_apart, least):
    """Whether two rows are alike; those whose codes are too far apart are not looked at."""
    return apart(codes[i], codes[j], words) <= most_apart and dot(unit[i], unit[j]) >= least


@njit(nogil=True, cache=True, parallel=True)
def count_runs(unit, codes, keys, widest, words, most_apart, least):
    """int64[n]: the rows that each is like of the next `widest` of the same code. keys: code << 32 | row, ascending."""
    n, row = len(keys), codes.shape[1]
    counts = np.zeros(n, np.int64)
    memory = codes.ravel()
    for a in prange(n):
        if a + AHEAD < n:
            soon = (keys[a + AHEAD] & LOW) * row
            prefetch(memory, soon)
            prefetch(memory, soon + words - 1)
        found = 0
        for b in range(a + 1, min(n, a + 1 + widest)):
            if keys[b] >> 32 != keys[a] >> 32:
                break
            found += alike(unit, codes, keys[a] & LOW, keys[b] & LOW, words, most_apart, least)
        counts[a] = found
    return counts


@njit(nogil=True, cache=True)
def write_runs(unit, codes, keys, widest, words, most_apart, least, counts):
    """int64: i * rows + j of the pairs i < j that `count_runs` has counted."""
    out = np.empty(counts.sum(), np.int64)
    used = 0
    for a in np.flatnonzero(counts):
        for b in range(a + 1, min(len(keys), a + 1 + widest)):
            if keys[b] >> 32 != keys[a] >> 32:
                break
            i, j = keys[a] & LOW, keys[b] & LOW
            if alike(unit, codes, i, j, words, most_apart, least):
                out[used] = min(i, j) * len(unit) + max(i, j)
                used += 1
    return out


@njit(nogil=True, cache=True)
def cosines(unit, first, second):
    """float32[c]: dot products of the pairs' rows."""
    out = np.empty(len(first), np.float32)
    for c in range(len(first)):
        out[c] = dot(unit[first[c]], unit[second[c]])
    return out
