"""Numba: transitions. Rows in order: score, then learn, then move the context on."""

from __future__ import annotations

import numpy as np
from numba import njit

# The hashes of the empty context and the empty n-gram; large, so that tokens that are small numbers do not cancel them.
CONTEXT = np.uint64(0xD6E8FEB86659FD93)
GRAM = np.uint64(0xA0761D6478BD642F)


@njit(nogil=True, cache=True)
def extended(h, token):
    """The hash of an n-gram with one more token in front. Source of the mixer: SplitMix64's finaliser (Steele, Lea, Flood 2014)."""
    h = (h ^ token) + np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


@njit(nogil=True, cache=True)
def transitions(tokens, slots, groups, contexts, counts, vocabulary, prior, learn):
    """Entry from `kernels.transitions.transitions`, which has checked the arguments."""
    mask = np.uint64(counts.shape[1] - 1)
    nothing = CONTEXT & mask
    out = np.full(len(tokens), np.nan)
    for i in range(len(tokens)):
        slot, group = slots[i], groups[i]
        if slot < 0:
            continue
        u, v, w = contexts[slot, 0], contexts[slot, 1], tokens[i]
        after_v = extended(CONTEXT, v)
        one = extended(GRAM, w)
        two = extended(one, v)
        three = extended(two, u) & mask
        after_uv, after_v, one, two = extended(after_v, u) & mask, after_v & mask, one & mask, two & mask
        p = (counts[group, one] + prior / vocabulary) / (counts[group, nothing] + prior)
        p = (counts[group, two] + prior * p) / (counts[group, after_v] + prior)
        p = (counts[group, three] + prior * p) / (counts[group, after_uv] + prior)
        out[i] = -np.log2(p)
        if learn:
            counts[group, nothing] += 1
            counts[group, one] += 1
            counts[group, after_v] += 1
            counts[group, two] += 1
            counts[group, after_uv] += 1
            counts[group, three] += 1
        contexts[slot, 0] = v
        contexts[slot, 1] = w
    return out
