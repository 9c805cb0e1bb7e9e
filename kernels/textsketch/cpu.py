"""Numba: textsketch. Tasks of about 64 KB of text go to threads. Grams of 3 to 5 bytes are windows of one 64-bit register."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

TASK_BYTES = 1 << 16
M1 = np.uint64(0xBF58476D1CE4E5B9)
M2 = np.uint64(0x94D049BB133111EB)
PAIR = np.uint64(0xD6E8FEB86659FD93)  # odd: keeps (a, b) and (b, a) apart
FNV = np.uint64(0x100000001B3)
SPACE = np.uint8(32)
BITS = 64


def byte_table() -> tuple[np.ndarray, np.ndarray]:
    """For each byte: what it is read as (lower case, blanks as space), and whether it belongs to a word."""
    read = np.arange(256, dtype=np.uint8)
    read[65:91] += 32
    read[9:14] = SPACE
    word = np.zeros(256, np.bool_)
    word[48:58] = word[65:91] = word[97:123] = word[128:] = True
    return read, word


READ, WORD = byte_table()


def tasks(offsets: np.ndarray) -> np.ndarray:
    """int64: texts at which tasks begin, and their number. A task has at most 1,024 texts, and TASK_BYTES unless a text has more."""
    n = len(offsets) - 1
    starts = offsets[:-1].astype(np.int64) - int(offsets[0])
    number = starts // TASK_BYTES + np.arange(n) // 1024
    return np.append(np.flatnonzero(np.diff(number, prepend=-1)), n)


@njit(nogil=True, cache=True, inline="always")
def mix(h):
    """Two rounds of multiply and shift; the highest bits are the best."""
    h *= M1
    h ^= h >> np.uint64(31)
    return h * M2


@njit(nogil=True, cache=True, inline="always")
def add(h, shift, sums):
    """Add a gram: the highest bits of its hash choose the coordinate, the next one the sign."""
    sums[h >> shift] += np.int32(1) - np.int32((h >> (shift - np.uint64(2))) & np.uint64(2))


@njit(nogil=True, cache=True, inline="always")
def keep_least(h, least):
    """Keep the least hash of each class; the lowest bits, mixed once more, are the class."""
    h = mix(h ^ (h >> np.uint64(32)))
    at = (h ^ (h >> np.uint64(32))) & np.uint64(len(least) - 1)
    least[at] = min(least[at], h)


@njit(nogil=True, cache=True)
def add_word(word, before, shift, sums, least):
    """Add a word and its pair with the word before (0: none). Returns the word's hash."""
    h = mix(word)
    add(h, shift, sums)
    if len(least):
        keep_least(h, least)
    if before:
        pair = mix(before * PAIR + h)
        add(pair, shift, sums)
        if len(least):
            keep_least(pair, least)
    return h


@njit(nogil=True, cache=True)
def add_text(text, shift, sums, least):
    """Add all grams of a text; False if it has none."""
    window = np.uint64(SPACE)
    filled = 1
    word = before = np.uint64(0)
    blank = True
    for i in range(len(text) + 1):
        raw = text[i] if i < len(text) else SPACE
        c = READ[raw]
        if WORD[raw]:
            word = (word ^ np.uint64(c)) * FNV + np.uint64(1)
        elif word:
            before = add_word(word, before, shift, sums, least)
            word = np.uint64(0)
        if c == SPACE:
            if blank:
                continue  # a run of blanks is one space, and the text starts after one
            blank = True
        else:
            blank = False
        window = window << np.uint64(8) | np.uint64(c)
        filled += 1
        if filled >= 5:
            add(mix(window & np.uint64(0xFFFFFF) | np.uint64(3 << 56)), shift, sums)
            add(mix(window & np.uint64(0xFFFFFFFF) | np.uint64(4 << 56)), shift, sums)
            add(mix(window & np.uint64(0xFFFFFFFFFF) | np.uint64(5 << 56)), shift, sums)
        elif filled >= 3:
            add(mix(window & np.uint64(0xFFFFFF) | np.uint64(3 << 56)), shift, sums)
            if filled >= 4:
                add(mix(window & np.uint64(0xFFFFFFFF) | np.uint64(4 << 56)), shift, sums)
    return filled > 1


@njit(nogil=True, cache=True)
def rotated_signs(sums, work):
    """SimHash: bit b is whether coordinate b of Hadamard's transform of the sums, their signs flipped at random, is positive.

    The transform is folded to 64 coordinates first: the sums with the same place modulo 64 are added, each with its sign.
    """
    for b in range(BITS):
        work[b] = 0
    for j in range(len(sums)):
        work[j % BITS] += sums[j] if mix(np.uint64(j + 1)) >> np.uint64(63) else -sums[j]
    half = 1
    while half < BITS:
        for start in range(0, BITS, 2 * half):
            for j in range(start, start + half):
                a, b = work[j], work[j + half]
                work[j] = a + b
                work[j + half] = a - b
        half *= 2
    h = np.uint64(0)
    for b in range(BITS):
        if work[b] > 0:
            h |= np.uint64(1) << np.uint64(b)
    return h


@njit(nogil=True, cache=True, parallel=True)
def sketch(data, offsets, valid, first_bit, starts, projection, simhash, minhash):
    """Texts starts[t]:starts[t + 1] are task t. The outputs are zero, and NO_HASH, where nothing is written."""
    dims = projection.shape[1]
    shift = np.uint64(64)
    while (1 << (64 - shift)) < dims:
        shift -= np.uint64(1)
    for t in prange(len(starts) - 1):
        sums = np.empty(dims, np.int32)
        work = np.empty(BITS, np.int64)
        for i in range(starts[t], starts[t + 1]):
            bit = first_bit + i
            if len(valid) and not valid[bit >> 3] >> (bit & 7) & 1:
                continue
            sums[:] = 0
            if not add_text(data[offsets[i] : offsets[i + 1]], shift, sums, minhash[i]):
                continue
            square = np.int64(0)
            for j in range(dims):
                square += np.int64(sums[j]) * np.int64(sums[j])
            if square == 0:
                continue
            norm = np.float32(1.0 / np.sqrt(np.float64(square)))
            for j in range(dims):
                projection[i, j] = np.float32(sums[j]) * norm
            simhash[i] = rotated_signs(sums, work)
