"""Word n-grams of rows in hashed buckets, and how often benign rows have each: the null of what a trigger phrase does.

A row's grams are its words and each three neighbouring words, as `kernels.textsketch` reads words; a bucket counts the rows that have one
of its grams, once each. 65,536 buckets and one that counts rows with words: counts add, and take the same room however many grams there
are (Weinberger et al. 2009; a count-min of one row).

The null of a bucket is Poisson at the upper end of the reference's rate (3 rows where it had none: the rule of three). Benign texts come
in bursts, so each block of the reference is held against the rest of it as a window would be, and evidence is divided by what makes the
worst of the blocks ordinary (as quasi-likelihood divides by the dispersion; McCullagh and Nelder 1989).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit
from scipy import special

from engine.batch import Batch
from kernels.textsketch.cpu import FNV, PAIR, READ, WORD, mix

BUCKETS = 1 << 16
ROWS = BUCKETS
"""The column that counts rows with words."""
SHIFT = np.uint64(48)
BLOCK_ROWS = 256
LOOKS = (256, 512, 1024, 2048)
"""Rows of a window at which it is looked at; it starts anew after the last."""
BLOCKS = "poisoning.learning.grams"
"""Counts of the blocks of a reference that is being learned."""


@njit(nogil=True, cache=True)
def hashed_grams(data, starts, codes, rows):
    """How many grams the texts starts[i]:starts[i + 1] have; bucket and text of each go into `codes` and `rows`, where these have room."""
    n = 0
    for i in range(len(starts) - 1):
        word = second = first = np.uint64(0)
        for at in range(starts[i], starts[i + 1] + 1):
            raw = data[at] if at < starts[i + 1] else np.uint8(32)
            if WORD[raw]:
                word = (word ^ np.uint64(READ[raw])) * FNV + np.uint64(1)
            elif word:
                third = mix(word)
                if n < len(codes):
                    codes[n], rows[n] = third >> SHIFT, i
                n += 1
                if first:
                    if n < len(codes):
                        codes[n], rows[n] = mix((first * PAIR + second) * PAIR + third) >> SHIFT, i
                    n += 1
                first, second, word = second, third, np.uint64(0)
    return n


def grams(batch: Batch, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(place in `rows` int64[n], bucket int64[n]): each bucket of each row once, and `ROWS` for each row with words."""
    if "text" not in batch.columns:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    texts = text_of(batch.array("text").take(pa.array(rows)))
    _, offsets, data = texts.buffers()
    starts = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    content = np.frombuffer(data or b"", np.uint8)
    nothing = np.empty(0, np.int64)
    n = hashed_grams(content, starts, nothing, nothing)
    code, of_row = np.empty(n, np.int64), np.empty(n, np.int64)
    hashed_grams(content, starts, code, of_row)
    of_row, code = np.divmod(np.unique(of_row * (BUCKETS + 1) + code), BUCKETS + 1)
    some = np.unique(of_row)
    return np.concatenate([of_row, some]), np.concatenate([code, np.full(len(some), ROWS)])


def text_of(column: pa.Array) -> pa.Array:
    """The column as large strings without nulls."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return pc.fill_null(column.cast(pa.large_string()), "")


def upper(count: np.ndarray) -> np.ndarray:
    """The upper end of the mean of a Poisson count.

    >>> upper(np.array([0, 100])).tolist()
    [3.0, 123.0]
    """
    return count + 2 * np.sqrt(count) + 3.0


def surprise(window: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """-log10 P(a benign window has as many rows), per bucket, of counts int [BUCKETS + 1] each; 0 where there are fewer than 4."""
    expected = upper(reference[:BUCKETS]) * (window[ROWS] / reference[ROWS])
    out = np.zeros(BUCKETS)
    more = np.flatnonzero((window[:BUCKETS] >= 4) & (window[:BUCKETS] > expected))
    out[more] = -np.log10(np.maximum(special.gammainc(window[more], expected[more]), 1e-300))
    return out


@dataclass(frozen=True)
class GramNull:
    """`counts` int64 [BUCKETS + 1]: rows of the reference; `dispersion`: what evidence is divided by, 1 for independent rows."""

    counts: np.ndarray
    dispersion: float

    def scores(self, window: np.ndarray) -> np.ndarray:
        """-log10 of each bucket's p-value, as one of all buckets."""
        return np.maximum(0.0, surprise(window, self.counts) - np.log10(BUCKETS)) / self.dispersion

    def record(self) -> dict[str, Any]:
        """Named arrays, for checkpoints and baselines."""
        return {"counts": self.counts, "dispersion": self.dispersion}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> GramNull:
        """The reverse of `record`."""
        return cls(np.asarray(record["counts"]), float(record["dispersion"]))


def gram_null(blocks: np.ndarray) -> GramNull | None:
    """Fit from counts of consecutive blocks of about 256 rows, int [blocks, BUCKETS + 1]; None for fewer than two blocks with words.

    The largest of m independent -log10 p is about log10 m; half as much again for the chance in the largest itself.
    """
    blocks = blocks[blocks[:, ROWS] > 0].astype(np.int64)
    if len(blocks) < 2:
        return None
    total, worst, m = blocks.sum(0), 0.0, 0
    for size in (look // BLOCK_ROWS for look in LOOKS):
        for first in range(0, len(blocks) - size + 1, size):
            if 2 * size <= len(blocks):
                block = blocks[first : first + size].sum(0)
                worst = max(worst, float(surprise(block, total - block).max()) - float(np.log10(BUCKETS)))
                m += 1
    return GramNull(total, max(1.0, 1.5 * worst / float(np.log10(m + 1))))


def pane_rows(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of cells (pane, bucket, count, ...): the panes in order, the rows with words that each has, and each cell's place among the panes."""
    panes, at = np.unique(cells[:, 0], return_inverse=True)
    return panes, np.bincount(at, np.where(cells[:, 1] == ROWS, cells[:, 2], 0), len(panes)).astype(np.int64), at


def learned(arrays: dict[str, np.ndarray], cells: np.ndarray) -> None:
    """Add cells (pane, bucket, count) to the blocks of a reference; a block ends with the pane that fills it."""
    blocks = arrays.get(BLOCKS, np.zeros((1, BUCKETS + 1), np.int32))
    _, rows, at = pane_rows(cells)
    block, held = len(blocks) - 1, int(blocks[-1, ROWS])
    of_pane = np.empty(len(rows), np.int64)
    for i, new in enumerate(rows.tolist()):
        if held >= BLOCK_ROWS:
            block, held = block + 1, 0
        of_pane[i] = block
        held += new
    if block >= len(blocks):
        blocks = np.concatenate([blocks, np.zeros((block + 1 - len(blocks), BUCKETS + 1), np.int32)])
    np.add.at(blocks, (of_pane[at], cells[:, 1]), cells[:, 2])
    arrays[BLOCKS] = blocks
