"""Numba loops of the tailcounts op."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def count_due(slot, rows, every):
    """How many times a key comes due in this batch."""
    seen = np.zeros(len(rows), np.int64)
    due = 0
    for i in range(len(slot)):
        s = slot[i]
        if s >= 0:
            seen[s] += 1
            if (rows[s] + seen[s]) % every == 0:
                due += 1
    return due


@njit(nogil=True, cache=True)
def fold(slot, bins, rows, counts, halves, every, bets, power, out_row, out_length, out_told, out_log_e, out_counts):
    features, size = bins.shape[2], len(bets)
    window = np.empty((2, features, size), np.int64)
    evidence = np.empty(features)
    due = 0
    for i in range(len(slot)):
        s = slot[i]
        if s < 0:
            continue
        for w in range(len(halves)):
            if rows[s] > 0 and rows[s] % halves[w] == 0:  # the present half is full: it becomes the past
                counts[s, w, 0] = counts[s, w, 1]
                counts[s, w, 1] = 0
            for tail in range(2):
                for f in range(features):
                    b = bins[i, tail, f]
                    if b < size:
                        counts[s, w, 1, tail, f, b] += 1
        rows[s] += 1
        if rows[s] % every:
            continue
        out_row[due] = i
        for w in range(len(halves)):
            for tail in range(2):
                for f in range(features):
                    for b in range(size):
                        window[tail, f, b] = counts[s, w, 0, tail, f, b] + np.int64(counts[s, w, 1, tail, f, b])
            full = (rows[s] - 1) // halves[w]
            out_length[due, w] = rows[s] - max(0, full - 1) * halves[w]
            out_told[due, w] = 0
            for f in range(features):
                out_told[due, w] = max(out_told[due, w], window[0, f].sum())
            log_evidence(window, bets, evidence)
            top = evidence.max()
            out_log_e[due, w] = top + np.log(np.exp(power * (evidence - top)).sum() / features) / power
            if w == len(halves) - 1:
                out_counts[due] = window
        due += 1


@njit(nogil=True, cache=True)
def log_evidence(window, bets, out):
    """Log of the average over tails and bets of each feature's e-values."""
    size, kinds = bets.shape
    grown = np.empty(2 * kinds)
    for f in range(window.shape[1]):
        for tail in range(2):
            for k in range(kinds):
                total = 0.0
                for b in range(size):
                    total += window[tail, f, b] * bets[b, k]
                grown[tail * kinds + k] = total
        top = grown.max()
        out[f] = top + np.log(np.exp(grown - top).sum() / len(grown))
