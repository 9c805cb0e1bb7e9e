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
def under(known, value):
    """How many of ascending numbers lie under a value, without a branch that depends on it."""
    base, n = 0, len(known)
    while n > 1:
        half = n // 2
        base += half * (known[base + half - 1] < value)
        n -= half
    return base + (known[base] < value)


@njit(nogil=True, cache=True)
def normal_scores(values, grid, quantiles, out):
    """Fill one row of normal scores; 0 for NaN, and where the reference has none."""
    for k in range(len(values)):
        out[k] = 0.0
        if not np.isnan(values[k]) and not np.isnan(grid[k, 0]):
            left = under(grid[k], values[k])
            right = left
            if left < grid.shape[1] and grid[k, left] == values[k]:
                right = left + 1
                while right < grid.shape[1] and grid[k, right] == values[k]:
                    right += 1
            out[k] = quantiles[left + right]


@njit(nogil=True, cache=True)
def combined(values, grid, quantiles, mean, precision, needed, work):
    """The squared Mahalanobis length of one row's normal scores, NaN where a needed feature is missing, or all are."""
    missing = 0
    for k in range(len(values)):
        if np.isnan(values[k]):
            missing += 1
            if needed[k]:
                return np.float32(np.nan)
    if missing == len(values):
        return np.float32(np.nan)
    normal_scores(values, grid, quantiles, work)
    for k in range(len(values)):
        work[k] -= mean[k]
    total = 0.0
    for k in range(len(values)):
        row = 0.0
        for j in range(len(values)):
            row += precision[k, j] * work[j]
        total += row * work[k]
    return np.float32(total)


@njit(nogil=True, cache=True)
def combine(values, grid, quantiles, mean, precision, needed, out):
    work = np.empty(values.shape[1])
    for i in range(len(values)):
        out[i] = combined(values[i], grid, quantiles, mean, precision, needed, work)


@njit(nogil=True, cache=True)
def tail_bins(values, grid, quantiles, mean, precision, needed, upper, lower, missing, out):
    """`upper`, `lower`: ascending edges of values and of their negatives."""
    features = values.shape[1]
    work = np.empty(features)
    for i in range(len(values)):
        for k in range(features + 1):
            value = values[i, k] if k < features else combined(values[i], grid, quantiles, mean, precision, needed, work)
            if np.isnan(value):
                out[i, 0, k] = missing
                out[i, 1, k] = missing
            else:
                out[i, 0, k] = under(upper[k], value)
                out[i, 1, k] = under(lower[k], -value)


@njit(nogil=True, cache=True)
def binned(values, upper, lower, missing, out):
    """As `tail_bins`, of values alone."""
    for i in range(len(values)):
        for k in range(values.shape[1]):
            value = values[i, k]
            if np.isnan(value):
                out[i, 0, k] = missing
                out[i, 1, k] = missing
            else:
                out[i, 0, k] = under(upper[k], value)
                out[i, 1, k] = under(lower[k], -value)


@njit(nogil=True, cache=True)
def drawn(starts, wanted, lengths, weights):
    """Add 1 for each row of each window: `wanted[w]` rows, in stretches of `lengths[w]` from the next of the starts on."""
    rows, at = len(weights), 0
    for w in range(len(wanted)):
        left = wanted[w]
        while left > 0:
            row = starts[at]
            for _ in range(min(left, lengths[w])):
                weights[row, w] += 1
                row = row + 1 if row + 1 < rows else 0
            left -= lengths[w]
            at += 1


@njit(nogil=True, cache=True)
def weighed(bins, weights, counts):
    """Add each row's weights to the counters of its bins, [2, F, B, windows]: all windows at once, in vectors."""
    size = counts.shape[2]
    for i in range(len(bins)):
        for tail in range(2):
            for f in range(bins.shape[2]):
                b = bins[i, tail, f]
                if b < size:
                    cell = counts[tail, f, b]
                    for w in range(len(cell)):
                        cell[w] += weights[i, w]


@njit(nogil=True, cache=True)
def evidence(counts, bets, power, out):
    """Log evidence of windows, counts [2, F, B, windows]."""
    tails, features, size, windows = counts.shape
    window, of_feature = np.empty((tails, features, size), np.int32), np.empty(features)
    for w in range(windows):
        window[:] = counts[:, :, :, w]
        log_evidence(window, bets, of_feature)
        top = of_feature.max()
        out[w] = top + np.log(np.exp(power * (of_feature - top)).sum() / features) / power


@njit(nogil=True, cache=True)
def fold(
    slot, bins, offsets, time_us, rows, counts, samples, since, halves, steps, bets, power, unusual,
    out_row, out_length, out_since, out_told, out_log_e, out_counts, out_samples,
):  # fmt: skip
    features, size, kept = bins.shape[2], bets.shape[1], samples.shape[1] - 1
    window = np.empty((2, features, size), np.int32)
    evidence = np.empty(features)
    due = 0
    for i in range(len(slot)):
        s = slot[i]
        if s < 0:
            continue
        most = 0
        for tail in range(2):
            for f in range(features):
                b = bins[i, tail, f]
                if b < size:
                    most = max(most, b)
        if most >= unusual:
            samples[s, samples[s, kept] % kept] = offsets[i]
            samples[s, kept] += 1
        for w in range(len(halves)):
            if rows[s] > 0 and rows[s] % halves[w] == 0:  # the present half is full: it becomes the past
                counts[s, w, 0] = counts[s, w, 1]
                counts[s, w, 1] = 0
                since[s, w, 0] = since[s, w, 1]
            if rows[s] % halves[w] == 0:
                since[s, w, 1] = time_us[i]
            for tail in range(2):
                for f in range(features):
                    b = bins[i, tail, f]
                    if b < size:
                        counts[s, w, 1, tail, f, b] += 1
        rows[s] += 1
        if rows[s] % steps[0]:
            continue
        out_row[due] = i
        for j in range(kept):
            out_samples[due, j] = samples[s, j] if j < samples[s, kept] else -1
        for w in range(len(halves)):
            full = (rows[s] - 1) // halves[w]
            out_length[due, w] = rows[s] - max(0, full - 1) * halves[w]
            out_since[due, w] = since[s, w, 0 if full > 0 else 1]
            if rows[s] % steps[w] and w < len(halves) - 1:
                continue
            for tail in range(2):
                for f in range(features):
                    for b in range(size):
                        window[tail, f, b] = np.int32(counts[s, w, 0, tail, f, b]) + np.int32(counts[s, w, 1, tail, f, b])
            for f in range(features):
                out_told[due, w] = max(out_told[due, w], window[0, f].sum())
            if w == len(halves) - 1:
                out_counts[due] = window
            if rows[s] % steps[w] == 0:
                log_evidence(window, bets, evidence)
                top = evidence.max()
                out_log_e[due, w] = top + np.log(np.exp(power * (evidence - top)).sum() / features) / power
        due += 1


@njit(nogil=True, cache=True)
def log_evidence(window, bets, out):
    """Log of the average over tails and bets of each feature's e-values."""
    _, size, kinds = bets.shape
    grown = np.empty(2 * kinds)
    for f in range(window.shape[1]):
        grown[:] = 0
        for tail in range(2):
            for b in range(size):
                n = window[tail, f, b]
                if n:
                    for k in range(kinds):
                        grown[tail * kinds + k] += n * bets[f, b, k]
        top = grown.max()
        out[f] = top + np.log(np.exp(grown - top).sum() / len(grown))
