"""Rows of a feedback or training stream as numbers: a unit vector's Fourier features, near-duplicate buckets, who disagrees."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyarrow as pa

from engine.batch import Batch
from engine.detectors.poisoning_grams import text_of
from engine.detectors.poisoning_reference import FEATURES
from kernels.rff import frequencies
from kernels.textsketch import NO_HASH, textsketch

DIMS = 128
BANDS = 8
HASHES = 32
CLASSES = 32
CODE_BITS = np.uint64(12)


@lru_cache(maxsize=1)
def features() -> np.ndarray:
    """float32 [128, 256]: frequencies for unit vectors, whose distances lie under 2."""
    return frequencies(DIMS, FEATURES, sigma=1.0, seed=7)


@lru_cache(maxsize=8)
def signs(width: int) -> np.ndarray:
    """float32 [width, 128]: a random projection (Johnson and Lindenstrauss), the same for the same width everywhere."""
    return np.random.default_rng(width).choice(np.array([-1, 1], np.float32), (width, DIMS))


def sketched(batch: Batch, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(unit vectors float32 [n, 128], buckets int64 [n, 8]) of these rows; NaN and -1 where a row has neither embedding nor text.

    A producer's embedding is what a row's vector is made of where there is one, else its text's n-grams. Buckets come from the text's
    MinHash, four of its 32 at a time: two texts share one with probability 1 - (1 - J^4)^8, J the Jaccard similarity of their word
    grams. Without text they are signs of the vector, 16 at a time.
    """
    vectors = np.full((len(rows), DIMS), np.nan, np.float32)
    buckets = np.full((len(rows), BANDS), -1, np.int64)
    if "text" in batch.columns:
        texts = text_of(batch.array("text").take(pa.array(rows)))
        _, offsets, data = texts.buffers()
        starts = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
        sketch = textsketch(np.frombuffer(data or b"", np.uint8), starts, dims=DIMS, hashes=HASHES)
        some = (sketch.minhash != NO_HASH).any(1)
        vectors[some] = sketch.projection[some]
        buckets[some] = codes(sketch.minhash[some].reshape(-1, BANDS, HASHES // BANDS))
    if "embedding" in batch.columns and (given := batch.vectors("embedding")) is not None:
        given = given[rows]
        usable = np.isfinite(given).all(1) & (np.abs(given).max(1, initial=0) > 0)
        turned = given[usable] @ signs(given.shape[1])
        vectors[usable] = turned / np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-30)
        without = usable & (buckets < 0).all(1)
        bits = np.packbits(vectors[without] > 0, axis=1).astype(np.uint64).reshape(-1, BANDS, DIMS // 8 // BANDS)
        buckets[without] = codes(bits)
    return vectors, buckets


def codes(parts: np.ndarray) -> np.ndarray:
    """int64 [n, bands]: a 52-bit code of each band's numbers uint64 [n, bands, k]; -1 where most are NO_HASH."""
    h = np.arange(parts.shape[1], dtype=np.uint64)[None] * np.uint64(0xD6E8FEB86659FD93) + np.uint64(1)
    h = np.broadcast_to(h, parts.shape[:2]).copy()
    for k in range(parts.shape[2]):
        h = (h ^ parts[:, :, k]) * np.uint64(0x9E3779B97F4A7C15)
        h ^= h >> np.uint64(29)
    out = (h >> CODE_BITS).astype(np.int64)
    out[(parts == NO_HASH).sum(2) > parts.shape[2] // 2] = -1
    return out


def disagreement(batch: Batch, rows: np.ndarray) -> np.ndarray:
    """int64[n]: 2 * class + (1 if the row's label is not the consensus, or where there is none the model's prediction); -1: no opinion.

    The class is that of the consensus, one of 32 by its hash (classes that share a place share a rate).
    """
    out = np.full(len(rows), -1, np.int64)
    label_codes, labels = batch.codes("label")
    for name in ("predicted", "consensus"):  # the consensus, where there is one, overrules
        if name not in batch.columns:
            continue
        other_codes, others = batch.codes(name)
        place = np.array([-1 if v is None else crc(v) % CLASSES for v in others], np.int64)
        known = {v: i for i, v in enumerate(labels)}
        same_as = np.array([-2 if v is None else known.get(v, -1) for v in others], np.int64)
        told = place[other_codes[rows]] >= 0
        differs = same_as[other_codes[rows]] != label_codes[rows]
        out[told] = (2 * place[other_codes[rows]] + differs)[told]
    return out


def crc(text: str | None) -> int:
    """A stable small hash."""
    import zlib

    return zlib.crc32((text or "").encode())
