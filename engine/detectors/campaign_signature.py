"""What an account looks like, as integers that add: the content of its requests, their sizes, parameters, hours and gaps.

A request's content is the hashed n-gram projection of its prompt, or of its embedding in random directions. Summed over an account it
shows what the requests have in common, a template for instance, while what differs averages out.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from engine.batch import Batch
from engine.detectors.extraction_views import embedding, ragged
from kernels import rowsums
from kernels.surprisal import hashes
from kernels.textsketch import textsketch

HOUR_US = 3_600_000_000
CONTENT = 128
SIZES = {"content": CONTENT, "requests": 1, "kind": 2, "bytes": 14, "output": 14, "parameters": 16, "hours": 24, "gaps": 8}
"""Columns of a signature. `kind`: requests with text, with an embedding. `bytes`, `output`: powers of two of the prompt's bytes (tokens,
where there is no prompt) and of the output's tokens. `parameters`: hash of model, sampling parameters and limits. `gaps`: seconds since
the account's last request of the same hour, in powers of e."""
ENDS = np.cumsum(list(SIZES.values()))
WIDTH = int(ENDS[-1])
BLOCKS = {name: slice(int(end) - size, int(end)) for (name, size), end in zip(SIZES.items(), ENDS, strict=True)}
COMPARED = ("content", "bytes", "output", "parameters")
"""What accounts are compared by; hours and gaps depend on how much of a day has passed, and are shown as evidence."""
PARAMETERS = ("temperature", "top_p", "top_k", "max_tokens", "logprobs", "choices")
PHI = np.uint64(0x9E3779B97F4A7C15)
M1 = np.uint64(0xBF58476D1CE4E5B9)


def content(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(float32[n, CONTENT] of each row, int64[n] 0 text, 1 embedding, -1 neither, int64[n] bytes of text)."""
    n = len(batch)
    values, kind, size = np.zeros((n, CONTENT), np.float32), np.full(n, -1), np.zeros(n, np.int64)
    vectors = embedding(batch)
    if vectors is not None:
        norm = np.linalg.norm(vectors, axis=1, keepdims=True)
        fit = (np.isfinite(norm) & (norm > 0))[:, 0]
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (vectors.shape[1], CONTENT)).astype(np.float32) / np.sqrt(CONTENT)
        values[fit] = (vectors[fit] / norm[fit]) @ signs
        kind[fit] = 1
    if "prompt" in batch.columns:
        text = ragged(batch.array("prompt"))
        size = np.diff(text["starts"])
        fit = (kind < 0) & (size > 0)
        if fit.any():
            projection = textsketch(text["data"], text["starts"], dims=CONTENT, hashes=0).projection
            values[fit] = projection[fit]
            kind[fit] = 0
    return values, kind, size


def bins(batch: Batch, kind: np.ndarray, size: np.ndarray) -> np.ndarray:
    """int16[n, 6] columns of a signature that each row counts in, -1 for none; gaps are not among them."""
    tokens = np.nan_to_num(batch.floats("input_tokens")) if "input_tokens" in batch.columns else np.zeros(len(batch))
    return np.column_stack([
        np.full(len(batch), BLOCKS["requests"].start),
        np.where(kind >= 0, BLOCKS["kind"].start + kind, -1),
        column("bytes", power_of_two(np.where(size > 0, size, tokens), 2)),
        column("output", power_of_two(batch.floats("output_tokens"), 0) if "output_tokens" in batch.columns else np.full(len(batch), -1)),
        column("parameters", parameters(batch)),
        column("hours", batch.time_us // HOUR_US % 24),
    ]).astype(np.int16)  # fmt: skip


def column(block: str, at: np.ndarray) -> np.ndarray:
    """Columns of a block, by place in it; a place beyond the block is its last, a negative one is none."""
    place = BLOCKS[block]
    return np.where(at >= 0, np.minimum(place.start + at, place.stop - 1), -1)


def power_of_two(values: np.ndarray, low: int) -> np.ndarray:
    """int64: which power of two a value reaches, from 2**low on; -1 where it is null or 0."""
    known = np.nan_to_num(values.astype(np.float64))
    return np.where(known > 0, np.maximum(0, np.log2(np.maximum(known, 1)).astype(np.int64) - low), -1)


def parameters(batch: Batch) -> np.ndarray:
    """int64[n]: bucket of the hash of the model and the sampling parameters."""
    return ((parameter_hash(batch) * M1) >> np.uint64(60)).astype(np.int64)


def parameter_hash(batch: Batch) -> np.ndarray:
    """uint64[n]: hash of the model and the sampling parameters."""
    codes, models = batch.codes("model") if "model" in batch.columns else (np.zeros(len(batch), np.int32), [""])
    named = ragged(pa.array([m or "" for m in models], pa.large_string()))
    of_model = hashes(named["data"], named["starts"])
    h = of_model[codes] if len(models) else np.zeros(len(batch), np.uint64)
    for name in PARAMETERS:
        value = batch.floats(name).astype(np.float32) if name in batch.columns else np.full(len(batch), np.nan, np.float32)
        h = ((h ^ np.where(np.isnan(value), np.float32(-7.5), value).view(np.uint32)) + PHI) * M1
        h ^= h >> np.uint64(31)
    return h


def gaps(slot: np.ndarray, time_us: np.ndarray, last_us: np.ndarray) -> np.ndarray:
    """int64[n] columns of the gap since the slot's last request, -1 for its first. `last_us` int64[S], 0 for none yet, is brought up to
    date."""
    order = np.argsort(slot, kind="stable")
    at, when = slot[order], time_us[order]
    before = np.empty(len(order), np.int64)
    first = np.append(True, at[1:] != at[:-1])[: len(order)]
    before[1:] = when[:-1]
    before[first] = last_us[at[first]]
    gap = np.full(len(order), -1)
    told = before > 0
    gap[told] = np.log(np.maximum(1.0, (when[told] - before[told]) / 1e6)).astype(np.int64)
    last = np.append(first[1:], True)[: len(order)]
    last_us[at[last]] = when[last]
    out = np.empty(len(order), np.int64)
    out[order] = column("gaps", gap)
    return out


def fold(
    batch: Batch, rows: np.ndarray, slot: np.ndarray, told: tuple[np.ndarray, np.ndarray], sums: np.ndarray, last_us: np.ndarray
) -> None:
    """Add these rows of a batch to their slots' signatures; `told`: content and bins of all the batch's rows."""
    values, of_bins = told
    keep = slot >= 0
    rows, slot = rows[keep], slot[keep]
    gap = gaps(slot, batch.time_us[rows], last_us)
    rowsums.fold(slot, values[rows], np.column_stack([of_bins[rows], gap]).astype(np.int16), sums)


def compared(sums: np.ndarray) -> np.ndarray:
    """float64[accounts, R]: means per request of what accounts are compared by, from summed signatures int[accounts, WIDTH]."""
    requests = np.maximum(1, sums[:, BLOCKS["requests"]])
    parts = [sums[:, BLOCKS[name]] / requests for name in COMPARED]
    parts[0] = parts[0] / rowsums.GRAIN
    return np.column_stack(parts)
