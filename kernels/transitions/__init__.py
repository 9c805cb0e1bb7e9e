"""transitions: how surprising each token of a sequence is after the two before it, learned from counts that add.

A token (a tool, a page, a command) is a uint64. Each slot is a sequence (a session) and remembers its last two tokens; each group (a
tenant, a role, a model) has counts of tokens, pairs and triples and of their contexts. With prior strength k, vocabulary V and
counts c, each order leans on the one below it where it has seen little:

    p1(w) = (c(w) + k / V) / (c() + k);  p2(w | v) = (c(v w) + k p1) / (c(v .) + k);  p3(w | u v) = (c(u v w) + k p2) / (c(u v .) + k)

surprisal = -log2 p3, in bits: higher is more unusual. Each row is scored before it is learned.

- contexts uint64[S, 2]: the token before last and the last token of each slot; zeros at the start of a sequence
- counts int32[G, M], M a power of two: a hash table without probing, so counts of two states add; an n-gram that falls on another's
  place is taken for more common than it is, so let M be several times the number of n-grams. Counts must stay under 2**31

Source: MacKay and Peto, "A hierarchical Dirichlet language model", Natural Language Engineering 1995.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["transitions"]


def transitions(
    tokens: Any,
    slots: Any,
    contexts: Any,
    counts: Any,
    *,
    groups: Any = 0,
    vocabulary: float = 1000.0,
    prior: float = 2.0,
    learn: bool = True,
) -> tuple[Any, Any, Any]:
    """Score tokens uint64[n] and learn them, row by row; return contexts and counts (updated in place) and surprisal float64[n].

    slots: int32[n], the sequence of each token, or an int for all; -1 leaves a row out, its surprisal is NaN.
    groups: int32[n] or an int, the row of `counts` that a token is scored by and learned into.
    learn: False leaves `counts` as they are; contexts move on all the same.

    The result does not depend on the cut into batches. With `learn` it depends on the order of rows within a group, without only on
    that within a slot. Raises ValueError for shapes and types that do not fit, and unless prior > 0 and vocabulary >= 1.

    >>> tokens = np.array([1, 2, 3] * 20 + [1, 3], np.uint64)
    >>> _, _, bits = transitions(tokens, 0, np.zeros((1, 2), np.uint64), np.zeros((1, 256), np.int32), vocabulary=100)
    >>> bool(bits[59] < 0.5), bool(bits[61] > 4)
    (True, True)
    """
    if type(tokens).__module__.partition(".")[0] == "torch":
        from kernels.transitions import gpu

        return gpu.transitions(tokens, slots, contexts, counts, groups=groups, vocabulary=vocabulary, prior=prior, learn=learn)
    from kernels.transitions import cpu

    if tokens.dtype != np.uint64 or tokens.ndim != 1:
        raise ValueError(f"tokens must be uint64[n], not {tokens.dtype}{list(tokens.shape)}")
    if contexts.dtype != np.uint64 or contexts.ndim != 2 or contexts.shape[1] != 2:
        raise ValueError(f"contexts must be uint64[S, 2], not {contexts.dtype}{list(contexts.shape)}")
    width = counts.shape[-1] if counts.ndim else 0
    if counts.dtype != np.int32 or counts.ndim != 2 or width < 1 or width & (width - 1):
        raise ValueError(f"counts must be int32[G, power of two], not {counts.dtype}{list(counts.shape)}")
    slots = each("slots", slots, len(tokens), len(contexts), least=-1)
    groups = each("groups", groups, len(tokens), len(counts), least=0)
    if not (prior > 0 and vocabulary >= 1):
        raise ValueError(f"prior must be positive and vocabulary at least 1, not {prior} and {vocabulary}")
    bits = cpu.transitions(tokens, slots, groups, contexts, counts, float(vocabulary), float(prior), learn)
    return contexts, counts, bits


def each(name: str, rows: Any, n: int, size: int, least: int) -> np.ndarray:
    """int32[n] of row numbers from an array or one int, checked against the table's size."""
    rows = np.full(n, rows, np.int32) if isinstance(rows, int | np.integer) else rows
    if rows.dtype != np.int32 or rows.shape != (n,):
        raise ValueError(f"{name} must be int32[{n}], not {rows.dtype}{list(rows.shape)}")
    if n and not (int(rows.min()) >= least and int(rows.max()) < size):
        raise ValueError(f"{name} must be from {least} to {size - 1}")
    return rows
