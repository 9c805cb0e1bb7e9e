"""Numba loops of the surprisal op. Symbols are 64-bit hashes; a gram's count lies at its hash in one table shared by all models."""

from __future__ import annotations

import numpy as np
from numba import njit

BYTES, WORDS, CLASSES = 0, 1, 2
ORDERS = (4, 2, 3)
ALPHABET = (256.0, 20_000.0, 1_000.0)
"""Size of each model's alphabet, for what was never seen: 1 / size."""
PRIOR = 2.0
"""Weight, in counts, of the next lower order."""
GRAIN = 64.0
"""Surprisal is rounded to 1 / GRAIN bits, so that texts that surprise alike are ties."""
START = np.uint64(0x9E3779B97F4A7C15)
PHI = np.uint64(0x9E3779B97F4A7C15)
M1 = np.uint64(0xBF58476D1CE4E5B9)
M2 = np.uint64(0x94D049BB133111EB)
NO_HASH = np.uint64(2**64 - 1)


@njit(nogil=True, cache=True, inline="always")
def mix(h: np.uint64) -> np.uint64:
    """splitmix64's finaliser."""
    h += PHI
    h = (h ^ (h >> np.uint64(30))) * M1
    h = (h ^ (h >> np.uint64(27))) * M2
    return h ^ (h >> np.uint64(31))


@njit(nogil=True, cache=True, inline="always")
def longer(h: np.uint64, symbol: np.uint64) -> np.uint64:
    """The hash of a gram with one symbol more. Symbols are mixed already, so one multiplication a symbol will do."""
    h = (h ^ symbol) * M1
    return h ^ (h >> np.uint64(32))


@njit(nogil=True, cache=True)
def symbols_of_bytes() -> np.ndarray:
    """uint64[256]: the symbol of each byte."""
    out = np.empty(256, np.uint64)
    for b in range(256):
        out[b] = mix(np.uint64(b))
    return out


BYTE_SYMBOLS = symbols_of_bytes()


@njit(nogil=True, cache=True)
def is_letter(c: int) -> bool:
    """ASCII letters, and every byte of a multi-byte character."""
    return 97 <= c <= 122 or 65 <= c <= 90 or c >= 128


@njit(nogil=True, cache=True)
def tokens(data, a, b, common, words, classes, lengths):
    """Write the hashes of words (in lower case) and of their classes; returns how many. A word: letters, digits, or one symbol."""
    n = 0
    i = a
    while i < b:
        c = data[i]
        if c == 32 or 9 <= c <= 13:
            i += 1
            continue
        j = i + 1
        kind = 2
        if is_letter(c):
            kind = 0
            while j < b and is_letter(data[j]):
                j += 1
        elif 48 <= c <= 57:
            kind = 1
            while j < b and 48 <= data[j] <= 57:
                j += 1
        h = np.uint64(j - i)
        uppers = 0
        for k in range(i, j):
            x = data[k]
            if 65 <= x <= 90:
                uppers += 1
                x += 32
            h = mix(h ^ np.uint64(x))
        words[n] = h
        lengths[n] = j - i
        at = np.searchsorted(common, h)
        if at < len(common) and common[at] == h:
            classes[n] = h
        elif kind == 1:
            classes[n] = mix(np.uint64(1000 + min(j - i, 5)))
        elif kind == 2:
            classes[n] = mix(np.uint64(2000 + c))
        else:
            shape = 0
            if uppers == j - i and uppers > 1:
                shape = 2
            elif 65 <= c <= 90:
                shape = 1
            tail = np.uint64(data[j - 1] | 32)
            if j - i > 1:
                tail = tail * np.uint64(256) + np.uint64(data[j - 2] | 32)
            classes[n] = mix(np.uint64(3000 + shape) * np.uint64(65536) + tail)
        n += 1
        i = j
    return n


@njit(nogil=True, cache=True)
def add(symbols, n, model, order, table, sign):
    """Count the grams of one text: symbols[0] is START, n symbols in all."""
    mask = np.uint64(len(table) - 1)
    for i in range(n):
        h = np.uint64(model + 1)
        for k in range(min(order, i + 1)):
            h = longer(h, symbols[i - k])
            table[h & mask] += sign


@njit(nogil=True, cache=True)
def bits(symbols, n, model, order, alphabet, table, totals):
    """(mean surprisal in bits, share of symbols never seen) of one text."""
    mask = np.uint64(len(table) - 1)
    before = np.zeros(8, np.int64)
    now = np.zeros(8, np.int64)
    total = 0.0
    product = 1.0
    unseen = 0
    for i in range(n):
        h = np.uint64(model + 1)
        deepest = min(order, i + 1)
        for k in range(deepest):
            h = longer(h, symbols[i - k])
            now[k] = table[h & mask]
        if i > 0:
            if now[0] <= 0:
                unseen += 1
            likely, out_of = 1.0, alphabet  # p as a fraction: one division a symbol, not one an order
            for k in range(deepest):
                seen = totals[model] if k == 0 else before[k - 1]
                if seen <= 0:
                    break
                likely = min(now[k], seen) * out_of + PRIOR * likely
                out_of *= seen + PRIOR
            product *= likely / out_of
            if product < 1e-200:  # a symbol's p is over 1e-60
                total -= np.log2(product)
                product = 1.0
        for k in range(deepest):
            before[k] = now[k]
    total -= np.log2(product)
    return np.round(total / max(1, n - 1) * GRAIN) / GRAIN, unseen / max(1, n - 1)


@njit(nogil=True, cache=True)
def symbols_of(data, a, b, common, byte_symbols, words, classes, lengths):
    """Fill the three symbol sequences of a text, each behind a START; returns (bytes, words), without the STARTs."""
    byte_symbols[0] = START
    words[0] = START
    classes[0] = START
    for i in range(a, b):
        byte_symbols[1 + i - a] = BYTE_SYMBOLS[data[i]]
    n = tokens(data, a, b, common, words[1:], classes[1:], lengths)
    return b - a, n


@njit(nogil=True, cache=True)
def fold(byte_symbols, words, classes, nb, nw, table, sign):
    """Count the grams of one text in the three models."""
    add(byte_symbols, nb + 1, BYTES, ORDERS[0], table, sign)
    add(words, nw + 1, WORDS, ORDERS[1], table, sign)
    add(classes, nw + 1, CLASSES, ORDERS[2], table, sign)


@njit(nogil=True, cache=True)
def count(data, starts, common, table, totals, sign, max_bytes):
    byte_symbols = np.empty(max_bytes + 1, np.uint64)
    words = np.empty(max_bytes + 1, np.uint64)
    classes = np.empty(max_bytes + 1, np.uint64)
    lengths = np.empty(max_bytes + 1, np.int64)
    for t in range(len(starts) - 1):
        a, b = starts[t], min(starts[t + 1], starts[t] + max_bytes)
        nb, nw = symbols_of(data, a, b, common, byte_symbols, words, classes, lengths)
        fold(byte_symbols, words, classes, nb, nw, table, sign)
        totals[BYTES] += sign * nb
        totals[WORDS] += sign * nw
        totals[CLASSES] += sign * nw


@njit(nogil=True, cache=True)
def hashes(data, starts):
    out = np.empty(len(starts) - 1, np.uint64)
    for t in range(len(out)):
        h = np.uint64(starts[t + 1] - starts[t])
        word = np.uint64(0)
        for i in range(starts[t], starts[t + 1]):
            word = word << np.uint64(8) | np.uint64(data[i])
            if (i - starts[t]) % 8 == 7:
                h = mix(h ^ word)
                word = np.uint64(0)
        out[t] = mix(h ^ word)
    return out


@njit(nogil=True, cache=True)
def distinct_words(data, starts, max_bytes):
    """uint64[...]: each text's distinct words, one after the other."""
    common = np.empty(0, np.uint64)
    words = np.empty(max_bytes, np.uint64)
    classes = np.empty(max_bytes, np.uint64)
    lengths = np.empty(max_bytes, np.int64)
    out = np.empty(0, np.uint64)
    used = 0
    for t in range(len(starts) - 1):
        a, b = starts[t], min(starts[t + 1], starts[t] + max_bytes)
        n = tokens(data, a, b, common, words, classes, lengths)
        if used + n > len(out):
            larger = np.empty(2 * (used + n) + 1024, np.uint64)
            larger[:used] = out[:used]
            out = larger
        ordered = np.sort(words[:n])
        for i in range(n):
            if i == 0 or ordered[i] != ordered[i - 1]:
                out[used] = ordered[i]
                used += 1
    return out[:used].copy()


@njit(nogil=True, cache=True)
def distinct(words, places, stamps, stamp):
    """How many different words: a hash set in `places`, of which those marked `stamp` are in use. At least half of it is free."""
    mask = len(places) - 1
    count = 0
    for word in words:
        at = np.int64(word & np.uint64(mask))
        while stamps[at] == stamp and places[at] != word:
            at = (at + 1) & mask
        if stamps[at] != stamp:
            stamps[at] = stamp
            places[at] = word
            count += 1
    return count


@njit(nogil=True, cache=True)
def keep_least(h, least):
    """Keep the least hash of each class; the lowest bits are the class."""
    h = mix(h)
    at = h & np.uint64(len(least) - 1)
    least[at] = min(least[at], h)


@njit(nogil=True, cache=True)
def minhash(words, least, out):
    """One-permutation MinHash of words and pairs of neighbours, 16 bits of each class's least hash; 0: the class is empty."""
    least[:] = NO_HASH
    for i in range(len(words)):
        keep_least(words[i], least)
        if i > 0:
            keep_least(longer(words[i - 1], words[i]), least)
    for k in range(len(out)):
        out[k] = 0 if least[k] == NO_HASH else max(np.uint64(1), mix(least[k]) & np.uint64(0xFFFF))


@njit(nogil=True, cache=True)
def features(data, starts, common, table, totals, own, max_bytes, out, hashes_out):
    byte_symbols = np.empty(max_bytes + 1, np.uint64)
    words = np.empty(max_bytes + 1, np.uint64)
    classes = np.empty(max_bytes + 1, np.uint64)
    lengths = np.empty(max_bytes + 1, np.int64)
    size = 2
    while size < 2 * max_bytes:
        size *= 2
    places, stamps = np.empty(size, np.uint64), np.zeros(size, np.int64)
    least = np.empty(hashes_out.shape[1], np.uint64)
    for t in range(len(starts) - 1):
        a, b = starts[t], min(starts[t + 1], starts[t] + max_bytes)
        if a == b:
            out[t, :] = np.nan
            hashes_out[t, :] = 0
            continue
        nb, nw = symbols_of(data, a, b, common, byte_symbols, words, classes, lengths)
        if own:
            fold(byte_symbols, words, classes, nb, nw, table, -1)
        out[t, 0], _ = bits(byte_symbols, nb + 1, BYTES, ORDERS[0], ALPHABET[0], table, totals)
        out[t, 1], out[t, 4] = bits(words, nw + 1, WORDS, ORDERS[1], ALPHABET[1], table, totals)
        out[t, 2], out[t, 3] = bits(classes, nw + 1, CLASSES, ORDERS[2], ALPHABET[2], table, totals)
        if own:
            fold(byte_symbols, words, classes, nb, nw, table, 1)
        upper = digit = symbol = 0
        for i in range(a, b):
            c = data[i]
            if 65 <= c <= 90:
                upper += 1
            elif 48 <= c <= 57:
                digit += 1
            elif c > 32 and not is_letter(c):
                symbol += 1
        letters = 0
        for i in range(nw):
            letters += lengths[i]
        out[t, 5] = np.log(starts[t + 1] - a)
        out[t, 6] = np.log(max(1, nw))
        out[t, 7] = upper / nb
        out[t, 8] = digit / nb
        out[t, 9] = symbol / nb
        out[t, 10] = letters / max(1, nw)
        minhash(words[1 : nw + 1], least, hashes_out[t])
        out[t, 11] = distinct(words[1 : nw + 1], places, stamps, t + 1) / max(1, nw)
