"""How surprising a text is under what was counted before: additive byte, word and word-class n-gram counts, hashed into one table.

The counts are the whole model, so it merges by addition and a text can be taken out again: the score of a text that was itself
counted is taken with its own counts left out, which is what a fresh text of the same source would get.
"""

from __future__ import annotations

import numpy as np

from kernels.surprisal import cpu

FEATURES = (
    "byte_bits", "word_bits", "class_bits", "unseen_classes", "unseen_words", "log_bytes", "log_words", "upper_share", "digit_share",
    "symbol_share", "word_length", "distinct_words",
)  # fmt: skip
TABLE_SLOTS = 1 << 20
MAX_BYTES = 2048
"""A text's surprisal is that of its first bytes; its length counts in full."""
COMMON_WORDS = 150
HASHES = 16


def new_model() -> tuple[np.ndarray, np.ndarray]:
    """(table int32[slots], totals int64[3]): an empty model."""
    return np.zeros(TABLE_SLOTS, np.int32), np.zeros(3, np.int64)


def common_words(data: np.ndarray, starts: np.ndarray, most: int = COMMON_WORDS, least: int = 3) -> np.ndarray:
    """uint64[<= most], sorted: hashes of the words that the most texts contain (at least `least` texts): the function words, mostly."""
    check(data, starts)
    words = cpu.distinct_words(data, starts, MAX_BYTES)
    values, texts = np.unique(words, return_counts=True)
    order = np.lexsort((values, -texts))[:most]
    return np.sort(values[order][texts[order] >= least])


def count(data: np.ndarray, starts: np.ndarray, common: np.ndarray, table: np.ndarray, totals: np.ndarray, sign: int = 1) -> None:
    """Add (or with sign -1 take out) the n-grams of ragged texts: uint8 `data`, text i is data[starts[i]:starts[i + 1]]."""
    check(data, starts)
    cpu.count(data, starts, common, table, totals, sign, MAX_BYTES)


def features(
    data: np.ndarray, starts: np.ndarray, common: np.ndarray, table: np.ndarray, totals: np.ndarray, own: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(float32[n, 12], the columns `FEATURES`, NaN for an empty text; uint16[n, HASHES] MinHash of words and pairs of neighbours, 0 for a
    class without any: one permutation, Li, Owen and Zhang 2012, cut to 16 bits, Li and Koenig 2010). `own`: the texts are in the counts,
    leave each one's own out.

    `byte_bits`, `word_bits`, `class_bits`: mean surprisal in bits of order-4 bytes, order-2 words and order-3 word classes (a common
    word is its own class; any other is its shape and its last two letters), interpolated down the orders with a Dirichlet prior
    (MacKay and Peto 1995). Word classes tell text from word salad; bytes tell one source from another.

    >>> text = np.frombuffer(b"the cat sat on the mat", np.uint8)
    >>> starts, common = np.array([0, len(text)]), np.empty(0, np.uint64)
    >>> table, totals = new_model()
    >>> count(text, starts, common, table, totals)
    >>> features(text, starts, common, table, totals)[0][0, :3].tolist()
    [0.578125, 1.3125, 0.75]
    >>> features(text, starts, common, table, totals, own=True)[0][0, :3].round(0).tolist()
    [12.0, 16.0, 12.0]
    """
    check(data, starts)
    out, minhash = np.empty((len(starts) - 1, len(FEATURES)), np.float32), np.empty((len(starts) - 1, HASHES), np.uint16)
    cpu.features(data, starts, common, table, totals, own, MAX_BYTES, out, minhash)
    return out, minhash


def hashes(data: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """uint64[n]: a hash of each whole text, to know a repeat by.

    >>> h = hashes(np.frombuffer(b"aba", np.uint8), np.arange(4))
    >>> bool(h[0] == h[2]), bool(h[0] == h[1])
    (True, False)
    """
    check(data, starts)
    return cpu.hashes(data, starts)


def check(data: np.ndarray, starts: np.ndarray) -> None:
    """Raises ValueError for what is not ragged bytes."""
    if data.dtype != np.uint8:
        raise ValueError(f"data must be uint8, not {data.dtype}")
    if len(starts) < 1 or starts[0] < 0 or starts[-1] > len(data) or (np.diff(starts) < 0).any():
        raise ValueError("starts must ascend within data")
