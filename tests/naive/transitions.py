"""Oracle of `kernels.transitions`: dictionaries of tuples, no hash table. It agrees where no two n-grams share a place."""

from __future__ import annotations

import math
from collections import Counter


def transitions(tokens, slots, groups, *, vocabulary, prior, learn=True, learned=None, contexts=None):
    """(surprisal of each token, counts by (group, kind, n-gram), last two tokens by slot)."""
    counts = Counter() if learned is None else Counter(learned)
    last = {} if contexts is None else dict(contexts)
    out = []
    for w, slot, group in zip(tokens, slots, groups, strict=True):
        if slot < 0:
            out.append(math.nan)
            continue
        u, v = last.get(slot, (0, 0))
        p = 1 / vocabulary
        for before in ((), (v,), (u, v)):
            p = (counts[group, "gram", (*before, w)] + prior * p) / (counts[group, "context", before] + prior)
        out.append(-math.log2(p))
        if learn:
            for before in ((), (v,), (u, v)):
                counts[group, "gram", (*before, w)] += 1
                counts[group, "context", before] += 1
        last[slot] = (v, w)
    return out, counts, last
