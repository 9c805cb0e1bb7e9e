"""Oracle of textsketch: grams by regular expressions and slices, counted in a dictionary, hashed with Python's integers."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import numpy as np

TOP = 2**64
M1, M2, PAIR, FNV = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93, 0x100000001B3


def mix(h: int) -> int:
    h = h * M1 % TOP
    return (h ^ h >> 31) * M2 % TOP


def word_hash(word: bytes) -> int:
    h = 0
    for c in word:
        h = ((h ^ c) * FNV + 1) % TOP
    return mix(h)


def grams(text: bytes) -> tuple[Counter, set]:
    """Hashes of all grams with their counts, and the set of those of words."""
    read = text.translate(bytes(c + 32 if 65 <= c <= 90 else c for c in range(256)))
    spaced = b" " + b" ".join(re.split(rb"[\t-\r ]+", read.strip(b"\t\n\v\f\r "))) + b" "
    if spaced == b"  ":
        return Counter(), set()
    all_grams = Counter()
    for size in (3, 4, 5):
        for i in range(len(spaced) - size + 1):
            all_grams[mix(int.from_bytes(spaced[i : i + size], "big") | size << 56)] += 1
    words = [word_hash(w) for w in re.findall(rb"[0-9a-z\x80-\xff]+", read)]
    pairs = [mix((a * PAIR + b) % TOP) for a, b in pairwise(words)]
    all_grams.update(words + pairs)
    return all_grams, set(words + pairs)


def textsketch(text: bytes, dims: int, hashes: int):
    """(projection, simhash, minhash) of one text."""
    counts, words = grams(text)
    sums = np.zeros(dims, np.int64)
    bits = dims.bit_length() - 1
    for h, count in counts.items():
        sums[h >> 64 - bits] += count * (1 - 2 * (h >> 63 - bits & 1))
    projection = sums / max(1.0, np.sqrt((sums**2).sum()))
    minhash = np.full(hashes, TOP - 1, np.uint64)
    for h in words if hashes else ():
        again = mix(h ^ h >> 32)
        at = (again ^ again >> 32) % hashes
        minhash[at] = min(int(minhash[at]), again)
    signs = np.array([1 if mix(j + 1) >> 63 else -1 for j in range(dims)])
    folded = (sums * signs).reshape(-1, 64).sum(0)
    hadamard = np.array([[(-1) ** (i & j).bit_count() for j in range(64)] for i in range(64)])
    simhash = sum(1 << b for b in range(64) if (hadamard @ folded)[b] > 0)
    return projection, simhash, minhash
