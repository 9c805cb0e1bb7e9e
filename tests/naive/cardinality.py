"""Oracle of `kernels.cardinality`: Python integers and dictionaries, one item at a time."""

from __future__ import annotations

import math

import numpy as np

WORD = 2**64


def hashed(item: int) -> int:
    h = (item + 0x9E3779B97F4A7C15) % WORD
    h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 % WORD
    h = (h ^ h >> 27) * 0x94D049BB133111EB % WORD
    return h ^ h >> 31


def places(item: int, number: int, size: int) -> list[int]:
    h = hashed(item)
    return [(h % 2**32 + j * (h >> 32 | 1)) % size for j in range(number)]


def add_distinct(items, slots, registers):
    registers = registers.copy()
    m = registers.shape[1]
    for item, slot in zip(items.tolist(), slots.tolist(), strict=True):
        if slot >= 0:
            bits = f"{hashed(item):064b}"
            place, rest = int(bits[: m.bit_length() - 1], 2), bits[m.bit_length() - 1 :]
            registers[slot, place] = max(int(registers[slot, place]), (rest + "1").index("1") + 1)
    return registers


def distinct(registers):
    """The estimate as the solution of Ertl's equation by summing the definition's series to its end."""
    out = []
    for row in registers:
        m, q = len(row), 64 - (len(row).bit_length() - 1)
        if not row.any():
            out.append(0.0)
            continue
        empty, full = np.mean(row == 0), np.mean(row == q + 1)
        small = empty + sum(empty ** (2**k) * 2 ** (k - 1) for k in range(1, 40))
        x = 1 - full
        large = (1 - x - sum((1 - x ** (2.0**-k)) ** 2 * 2.0**-k for k in range(1, 40))) / 3 if 0 < x < 1 else 0.0
        middle = math.fsum(2.0 ** -int(k) for k in row if 1 <= k <= q)
        out.append(m * m / (2 * math.log(2)) / (m * small + middle + m * large * 2.0**-q))
    return np.array(out)


def add_counts(items, slots, counts, weights=None):
    counts = counts.copy()
    weights = np.ones(len(items), int) if weights is None else weights
    for item, slot, weight in zip(items.tolist(), slots.tolist(), weights.tolist(), strict=True):
        if slot >= 0:
            for j, place in enumerate(places(item, counts.shape[1], counts.shape[2])):
                counts[slot, j, place] += weight
    return counts


def counts_of(items, slots, counts):
    return np.array(
        [
            min(int(counts[slot, j, place]) for j, place in enumerate(places(item, counts.shape[1], counts.shape[2]))) if slot >= 0 else 0
            for item, slot in zip(items.tolist(), slots.tolist(), strict=True)
        ],
        np.int32,
    )


def add_members(items, slots, bits, hashes=4):
    words = [[int(word) for word in row] for row in bits]
    for item, slot in zip(items.tolist(), slots.tolist(), strict=True):
        if slot >= 0:
            for place in places(item, hashes, 64 * bits.shape[1]):
                words[slot][place // 64] |= 1 << place % 64
    return np.array(words, np.uint64).reshape(bits.shape)


def members(items, slots, bits, hashes=4):
    return np.array(
        [
            slot >= 0 and all(int(bits[slot, place // 64]) >> place % 64 & 1 for place in places(item, hashes, 64 * bits.shape[1]))
            for item, slot in zip(items.tolist(), slots.tolist(), strict=True)
        ],
        bool,
    )
