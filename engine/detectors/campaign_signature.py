"""What an account looks like, as integers that add: the content of its requests, their sizes, parameters, hours and gaps.

A request's content is the hashed n-gram projection of its prompt, or of its embedding in random directions. Summed over an account it
shows what the requests have in common, a template for instance, while what differs averages out.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numba import njit

from engine import tally
from engine.batch import Batch
from engine.detectors.extraction_views import ragged
from kernels import countsketch, rowsums
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
MISSING = np.float32(-7.5)
MISSING_BITS = np.uint64(MISSING.view(np.uint32))
NOTHING = tally.plain(np.full(1, MISSING), np.float32)


def content(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(float32[n, CONTENT] of each row, or [n, 0] where none has content, int64[n] 0 text, 1 embedding, -1 neither, int64[n] bytes of
    text)."""
    n = len(batch)
    values, kind, size = np.zeros((n, 0), np.float32), np.full(n, -1), np.zeros(n, np.int64)
    sketches = batch.sketches("embedding") if "embedding" in batch.columns else None
    if sketches is not None:
        short, length = sketches
        fit = np.isfinite(length) & (length > 0)
        values = np.zeros((n, CONTENT), np.float32)
        values[fit] = in_directions(short[fit]) / length[fit, None]
        kind[fit] = 1
    if "prompt" in batch.columns:
        text = ragged(batch.array("prompt"))
        size = np.diff(text["starts"])
        fit = (kind < 0) & (size > 0)
        if fit.any():
            projection = textsketch(text["data"], text["starts"], dims=CONTENT, hashes=0).projection
            if not values.shape[1]:
                values = np.zeros((n, CONTENT), np.float32)
            values[fit] = projection[fit]
            kind[fit] = 0
    return values, kind, size


def in_directions(short: np.ndarray) -> np.ndarray:
    """float32[n, CONTENT]: vectors in random directions; sketches of more coordinates are sketched again."""
    if short.shape[1] > CONTENT:
        return countsketch.sketched(short, CONTENT)[0]
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (short.shape[1], CONTENT)).astype(np.float32) / np.sqrt(CONTENT)
    return np.asarray(short @ signs)


def bins(batch: Batch, kind: np.ndarray, size: np.ndarray) -> np.ndarray:
    """int16[n, 7] columns of a signature that each row counts in, -1 for none; the last two are for hours and gaps, which `fold` fills
    in."""
    out = np.full((len(batch), 7), -1, np.int16)
    out[:, 0] = BLOCKS["requests"].start
    told = kind.max(initial=-1) >= 0
    if told:
        out[:, 1] = np.where(kind >= 0, BLOCKS["kind"].start + kind, -1)
    if told or "input_tokens" in batch.columns:
        tokens = batch.floats("input_tokens").astype(np.float64) if "input_tokens" in batch.columns else np.zeros(len(batch))
        rowsums.powers(np.where(size > 0, size, tokens) if told else tokens, 2, BLOCKS["bytes"], out[:, 2])
    if "output_tokens" in batch.columns:
        rowsums.powers(batch.floats("output_tokens").astype(np.float64), 0, BLOCKS["output"], out[:, 3])
    out[:, 4] = BLOCKS["parameters"].start + parameters(batch)
    return out


def parameters(batch: Batch) -> np.ndarray:
    """int64[n]: bucket of the hash of the model and the sampling parameters."""
    h, codes = distinct_hashes(batch)
    bucket = ((h * M1) >> np.uint64(60)).astype(np.int64)
    return bucket if codes is None else bucket[codes]


def parameter_hash(batch: Batch) -> np.ndarray:
    """uint64[n]: hash of the model and the sampling parameters."""
    h, codes = distinct_hashes(batch)
    return h if codes is None else h[codes]


def distinct_hashes(batch: Batch) -> tuple[np.ndarray, np.ndarray | None]:
    """The hash of each row's model and sampling parameters, and None; or, where there are no parameters, of each model, and each row's
    position in them."""
    return batch.once("parameters", parameter_hashes)


def parameter_hashes(batch: Batch) -> tuple[np.ndarray, np.ndarray | None]:
    """As `distinct_hashes`, made anew."""
    if not len(batch):
        return np.empty(0, np.uint64), None
    codes, models = batch.codes("model") if "model" in batch.columns else (np.zeros(len(batch), np.int32), [""])
    named = ragged(pa.array([m or "" for m in models], pa.large_string()))
    h, of_rows = hashes(named["data"], named["starts"]), False
    for name in PARAMETERS:
        if name not in batch.columns:
            mixed(h, NOTHING)
            continue
        if not of_rows:
            h, of_rows = h[codes], True
        mixed(h, batch.floats(name))
    return h, None if of_rows else codes


@njit(nogil=True, cache=True)
def mixed(h, values):
    """Mix values into hashes, in place: uint64[n], float32[n], or float32[1] for all; a missing one (NaN) counts as -7.5."""
    step = np.int64(len(values) > 1)
    for i in range(len(h)):
        value = np.float32(values[i * step])
        bits = np.uint64(value.view(np.uint32))
        if np.isnan(value):
            bits = MISSING_BITS
        mix = ((h[i] ^ bits) + PHI) * M1
        h[i] = mix ^ (mix >> np.uint64(31))


def fold(
    hour: int, time_us: np.ndarray, slot: np.ndarray, values: np.ndarray, of_bins: np.ndarray, sums: np.ndarray, last_us: np.ndarray
) -> None:
    """Add rows of that hour to their slots' signatures (slot < 0: none); `values`, `of_bins`: as of `content` and `bins`, whose last
    two columns are filled in. `last_us`: int64[S] time of each slot's last request, 0 for none yet; it is brought up to date."""
    of_bins[:, 5] = BLOCKS["hours"].start + hour % 24
    rowsums.gaps(slot, time_us, BLOCKS["gaps"], of_bins[:, 6], last_us)
    rowsums.fold(slot, values, of_bins, sums)


def compared(sums: np.ndarray) -> np.ndarray:
    """float64[accounts, R]: means per request of what accounts are compared by, from summed signatures int[accounts, WIDTH]."""
    requests = np.maximum(1, sums[:, BLOCKS["requests"]])
    parts = [sums[:, BLOCKS[name]] / requests for name in COMPARED]
    parts[0] = parts[0] / rowsums.GRAIN
    return np.column_stack(parts)
