"""Oracle of mahalanobis: one device, lists and dense solves; the marginal of what is observed is taken from the matrix, not its inverse."""

from __future__ import annotations

import numpy as np


def refreshes(ticks: int, every: int) -> bool:
    """Every `every` ticks; before that at ticks 1..15, then at the multiples of 2 up to 31, of 4 up to 63, and so on."""
    if ticks % every == 0:
        return True
    return ticks < every and ticks % 2 ** max(0, ticks.bit_length() - 4) == 0


def scores(x, rule, window=30, warmup=200, learning_ticks=10_000, every=200):
    """(distance, score, observed, parts) of one device's rows."""
    n, p = x.shape
    mean, weight = np.zeros(p), np.zeros(p)
    cov, scale = np.zeros((p, p)), np.zeros(p)
    low, high = np.full(p, np.inf), np.full(p, -np.inf)
    matrix, inside = np.eye(p), np.zeros(p, bool)
    distance, score, parts = np.full(n, np.nan), np.full(n, np.nan), np.full((n, p), np.nan)
    past, ticks = [], 0
    for i in range(n):
        row = x[i].astype(np.float64)
        seen = np.isfinite(row) & (np.abs(np.nan_to_num(row)) <= 1e150)
        if not seen.any():
            continue
        learning = ticks < learning_ticks
        d = np.where(seen, np.where(seen, row, 0) - mean, 0)
        z = np.zeros(p)
        for j in np.flatnonzero(seen & (weight > 0)):
            if scale[j] == 0 or (not learning and low[j] >= high[j]):
                scale[j] = max(scale[j], abs(d[j]) / rule.clip)
            if scale[j] > 0:
                z[j] = np.clip(d[j] / scale[j], -rule.clip, rule.clip)
                if not learning:
                    d[j] = z[j] * scale[j]
        judged = np.flatnonzero(seen & inside)
        known = inside.sum()
        total, part = 0.0, np.zeros(p)
        if len(judged):
            part[judged] = z[judged] * np.linalg.solve(matrix[np.ix_(judged, judged)], z[judged]) * known / len(judged)
            total = part.sum()
        w = 1.0 if learning or total < rule.guard * known else rule.doubt
        if learning:
            low[seen] = np.minimum(low[seen], row[seen])
            high[seen] = np.maximum(high[seen], row[seen])
        weight[seen] = rule.decay * weight[seen] + w
        rate = np.where(seen, w / np.where(seen, weight, 1), np.nan)
        mean[seen] += rate[seen] * d[seen]
        a = np.maximum(rate[:, None], rate[None])
        cov = np.where(np.isnan(a), cov, (1 - a) * (cov + a * np.outer(d, d)))
        ticks += 1
        if refreshes(ticks, every):
            inside = weight > 0
            if learning:
                moved = high > low
                scale = np.where(moved, np.maximum(np.sqrt(np.diag(cov)), 0.01 * np.where(moved, high - low, 0)), 0)
            s = np.where(scale > 0, scale, np.inf)
            matrix = cov / np.outer(s, s)
            jitter = rule.ridge
            while np.linalg.eigvalsh(matrix + jitter * np.eye(p)).min() <= 1e-9:
                jitter *= 4
            matrix = matrix + jitter * np.eye(p)
        if ticks > warmup:
            past.append(total)
            distance[i], score[i] = total, np.mean(past[-window:])
            parts[i, seen] = part[seen]
    return distance, score, np.isfinite(x).sum(1), parts
