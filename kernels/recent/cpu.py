"""Numba loop of the recent op."""

from __future__ import annotations

import numpy as np
from numba import njit

from kernels.countsketch.cpu import sketch, square


@njit(nogil=True, cache=True, fastmath={"reassoc"})
def nothing(values):
    """0, or NaN where a value is NaN or infinite."""
    total = np.float32(0)
    for j in range(len(values)):
        total += values[j] * np.float32(0)
    return total


@njit(nogil=True, cache=True)
def whole(vectors, out):
    for i in range(len(vectors)):
        out[i] = nothing(vectors[i]) == 0


@njit(nogil=True, cache=True)
def units(vector, center, scale, most, z):
    for j in range(len(z)):
        z[j] = min(max((vector[j] - center[j]) * scale[j], -most), most)


@njit(nogil=True, cache=True, fastmath={"contract"})
def projected(short, directions, out):
    """out = short @ directions, eight coordinates at a time: sums of few terms that wait for each other."""
    whole = len(short) - len(short) % 8
    out[:] = 0
    for j in range(0, whole, 8):
        a, b, c, d = short[j], short[j + 1], short[j + 2], short[j + 3]
        e, f, g, h = short[j + 4], short[j + 5], short[j + 6], short[j + 7]
        for k in range(len(out)):
            ab = a * directions[j, k] + b * directions[j + 1, k]
            cd = c * directions[j + 2, k] + d * directions[j + 3, k]
            ef = e * directions[j + 4, k] + f * directions[j + 5, k]
            gh = g * directions[j + 6, k] + h * directions[j + 7, k]
            out[k] += (ab + cd) + (ef + gh)
    for j in range(whole, len(short)):
        for k in range(len(out)):
            out[k] += short[j] * directions[j, k]


@njit(nogil=True, cache=True)
def placed(vectors, center, scale, signs, directions, most, points, distance):
    z, short = np.empty(vectors.shape[1], np.float32), np.empty(len(directions), np.float32)
    for i in range(len(vectors)):
        units(vectors[i], center, scale, most, z)
        distance[i] = np.sqrt(square(z) / len(z))
        sketch(z, signs, short)
        projected(short, directions, points[i])


@njit(nogil=True, cache=True)
def squared(ring, point, out):
    """Squared distances of a point to each column of a ring. A column's sum runs over dimensions in order, whatever is done at once."""
    out[:] = 0
    for d in range(ring.shape[0]):
        at = np.float32(point[d])
        for h in range(ring.shape[1]):
            difference = np.float32(ring[d, h]) - at
            out[h] += difference * difference


@njit(nogil=True, cache=True)
def summed(squares, nearest):
    """(how many squares are over 0, the sum of their roots); `nearest`: the least square over 0 of every len(nearest)-th, from each place
    on, infinite for none. Loops without a branch, which run in vectors."""
    near = len(nearest)
    nearest[:] = np.inf
    for first in range(0, len(squares), near):
        for k in range(near):
            square = squares[first + k]
            nearest[k] = min(nearest[k], square if square > 0 else np.float32(np.inf))
    count = 0
    for h in range(len(squares)):
        count += squares[h] > 0
    total = roots(squares)
    return count, total


@njit(nogil=True, cache=True, fastmath={"reassoc"})
def roots(squares):
    total = np.float32(0)
    for h in range(len(squares)):
        total += np.sqrt(squares[h])
    return total


@njit(nogil=True, cache=True)
def fold(slot, points, classes, seen, ring, of_class, near, least, grain, out):
    dims, held = ring.shape[1], ring.shape[2]
    point = np.empty(dims, np.int16)
    squares = np.empty(held, np.float32)
    nearest = np.empty(near, np.float32)
    scale = np.float32(1.0 / (np.sqrt(np.float64(dims)) * grain))
    for i in range(len(slot)):
        out[i, :] = np.nan
        s = slot[i]
        if s < 0:
            continue
        for d in range(dims):
            value = np.rint(points[i, d] * grain)
            if not value > -32767:  # NaN too
                value = np.float32(0) if np.isnan(value) else np.float32(-32767)
            point[d] = np.int16(min(value, np.float32(32767)))
        if seen[s] >= held:
            squared(ring[s], point, squares)
            count, total = summed(squares, nearest)
            if count >= least:
                used, mean, smallest = 0, np.float32(0), np.float32(np.inf)
                for k in range(near):
                    if nearest[k] < np.inf:
                        used += 1
                        mean += np.sqrt(nearest[k])
                        smallest = min(smallest, nearest[k])
                out[i, 0] = np.sqrt(smallest) * scale
                out[i, 1] = mean / np.float32(used) * scale
                out[i, 2] = total / np.float32(count) * scale
                step = squares[(seen[s] - 1) % held]
                if step > 0:
                    out[i, 3] = np.sqrt(step) * scale
                if classes[i] >= 0:
                    least_of_class = np.float32(np.inf)
                    for h in range(held):
                        if of_class[s, h] == classes[i]:
                            least_of_class = min(least_of_class, squares[h])
                    if 0 < least_of_class < np.inf:
                        out[i, 4] = np.sqrt(least_of_class) * scale
        place = seen[s] % held
        for d in range(dims):
            ring[s, d, place] = point[d]
        of_class[s, place] = classes[i]
        seen[s] += 1


@njit(nogil=True, cache=True)
def likeness(slot, minhash, seen, ring, out):
    held, hashes = ring.shape[1], ring.shape[2]
    for i in range(len(slot)):
        s = slot[i]
        if s < 0:
            continue
        if seen[s] >= held:
            most = total = np.float32(0)
            for h in range(held):
                equal = used = 0
                for k in range(hashes):
                    a, b = minhash[i, k], ring[s, h, k]
                    used += (a | b) != 0
                    equal += (a == b) & (a != 0)
                share = np.float32(equal) / np.float32(max(1, used))
                most = max(most, share)
                total += share
            out[i, 0] = most
            out[i, 1] = total / np.float32(held)
        ring[s, seen[s] % held] = minhash[i]
        seen[s] += 1


@njit(nogil=True, cache=True)
def repeats(slot, hashes, seen, ring, out):
    held = ring.shape[1]
    for i in range(len(slot)):
        s = slot[i]
        if s < 0:
            continue
        for h in range(min(seen[s], held)):
            if ring[s, h] == hashes[i]:
                out[i] = True
                break
        if not out[i]:
            ring[s, seen[s] % held] = hashes[i]
            seen[s] += 1
