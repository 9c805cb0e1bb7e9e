"""Numba: mahalanobis. Devices go to threads; a device's rows are taken one after the other, in the order given."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

LARGEST = 1e150  # a value beyond this is not a measurement, and its square would overflow
FLOOR = 0.01  # least scale of a metric, as a share of the range it had while the device was learned
TINY = 1e-12  # least scale as a share of its mean: below it is the rounding of float64


@njit(nogil=True, cache=True)
def due(ticks, every):
    """Whether the inverse is refreshed at this tick: every `every` ticks, and at first whenever an eighth to a quarter was added."""
    if ticks % every == 0:
        return True
    step = 1
    while step * 16 <= ticks:
        step *= 2
    return ticks < every and ticks % step == 0


@njit(nogil=True, cache=True)
def invert(a, out):
    """Inverse of a symmetric positive definite matrix by Cholesky; a is overwritten. False, out undefined, if it is not definite."""
    p = len(a)
    for j in range(p):
        d = a[j, j]
        for k in range(j):
            d -= a[j, k] * a[j, k]
        if not d > 1e-9:
            return False
        d = np.sqrt(d)
        a[j, j] = d
        for i in range(j + 1, p):
            s = a[i, j]
            for k in range(j):
                s -= a[i, k] * a[j, k]
            a[i, j] = s / d
    for j in range(p):  # the lower triangle becomes its own inverse
        a[j, j] = 1.0 / a[j, j]
        for i in range(j + 1, p):
            s = 0.0
            for k in range(j, i):
                s -= a[i, k] * a[k, j]
            a[i, j] = s / a[i, i]
    for i in range(p):
        for j in range(i + 1):
            s = 0.0
            for k in range(i, p):
                s += a[k, i] * a[k, j]
            out[i, j] = s
            out[j, i] = s
    return True


@njit(nogil=True, cache=True)
def rescale(weight, mean, cov, low, high, scale):
    """Each metric's scale: its standard deviation, at least FLOOR of the range it has had; 0 while it has not moved."""
    for j in range(len(mean)):
        span = high[j] - low[j]
        scale[j] = max(np.sqrt(cov[j, j]), FLOOR * span, TINY * abs(mean[j])) if weight[j] > 0.0 and span > 0.0 else 0.0


@njit(nogil=True, cache=True)
def refresh(weight, cov, scale, ridge, precision):
    """Inverse of covariance in units of the scales, plus ridge. A metric not seen yet is left out; one that never moved has no variance."""
    p = len(scale)
    work = np.empty((p, p))
    extra = ridge
    while True:
        for i in range(p):
            for j in range(i + 1):
                work[i, j] = cov[i, j] / (scale[i] * scale[j]) if scale[i] > 0.0 and scale[j] > 0.0 else 0.0
            work[i, i] += extra
        if invert(work, precision):
            break
        extra *= 4.0  # pairs seen at different times need not form a definite matrix
    for j in range(p):
        if weight[j] == 0.0:
            precision[j, j] = 0.0


@njit(nogil=True, cache=True)
def marginal(precision, gone, g):
    """Turn g = precision @ z, with z 0 where a metric is missing (`gone`), into the marginal precision of the others times z.

    With O what was observed and M what was not, (C_OO)^-1 = P_OO - P_OM P_MM^-1 P_MO.
    """
    count = len(gone)
    block = np.empty((count, count))
    inverse = np.empty((count, count))
    for a in range(count):
        for b in range(count):
            block[a, b] = precision[gone[a], gone[b]]
    invert(block, inverse)  # a principal block of an inverse is definite
    for a in range(count):
        x = 0.0
        for b in range(count):
            x += inverse[a, b] * g[gone[b]]
        block[0, a] = x
    for j in range(len(g)):
        for a in range(count):
            g[j] -= precision[j, gone[a]] * block[0, a]


@njit(nogil=True, cache=True)
def deviations(x, weight, mean, low, high, scale, precision, clip, learning, d, z, gone):
    """Deviation d of each metric from its mean, clipped, and z in scales; NaN and 0 where it is missing.

    Returns how many are observed, how many of these are in the inverse, and how many in it are missing: gone[:missing].
    """
    observed = judged = missing = 0
    for j in range(len(mean)):
        v = np.float64(x[j])
        z[j] = 0.0
        if not abs(v) <= LARGEST:
            d[j] = np.nan
            if precision[j, j] > 0.0:
                gone[missing] = j
                missing += 1
            continue
        observed += 1
        d[j] = v - mean[j]
        if weight[j] == 0.0:
            continue
        if precision[j, j] > 0.0:
            judged += 1
        if scale[j] == 0.0 or (not learning and not high[j] > low[j]):
            scale[j] = max(scale[j], abs(d[j]) / clip)  # a metric that had never moved: the greatest move so far is `clip` scales
        if scale[j] > 0.0:
            z[j] = min(max(d[j] / scale[j], -clip), clip)
            if not learning:
                d[j] = z[j] * scale[j]
    return observed, judged, missing


@njit(nogil=True, cache=True)
def learn(x, d, w, decay, learning, weight, mean, cov, low, high, rate):
    """Move mean and covariance by a row of weight w. Each metric has its own total weight, so that one that comes late starts afresh."""
    p = len(mean)
    for j in range(p):
        rate[j] = -1.0
        if np.isnan(d[j]):
            continue
        if learning:
            low[j] = min(low[j], x[j]) if weight[j] > 0.0 else x[j]
            high[j] = max(high[j], x[j]) if weight[j] > 0.0 else x[j]
        weight[j] = decay * weight[j] + w
        rate[j] = w / weight[j]
        mean[j] += rate[j] * d[j]
    for i in range(p):
        if rate[i] < 0.0:
            continue
        for j in range(p):
            if rate[j] >= 0.0:
                a = max(rate[i], rate[j])
                cov[i, j] = (1.0 - a) * (cov[i, j] + a * d[i] * d[j])


@njit(nogil=True, cache=True)
def fold_device(x, rows, weight, mean, cov, low, high, scale, precision, ticks, recent, rule, warmup, learning_ticks, every, out):
    """The rows of one device, x[rows], in order. Returns its ticks."""
    decay, ridge, clip, guard, doubt = rule
    distance, score, counts, parts = out
    p = len(mean)
    d, z, g, rate = np.empty(p), np.empty(p), np.empty(p), np.empty(p)
    gone = np.empty(p, np.int64)
    for row in rows:
        learning = ticks < learning_ticks
        observed, judged, missing = deviations(x[row], weight, mean, low, high, scale, precision, clip, learning, d, z, gone)
        counts[row] = observed
        if observed == 0:
            continue
        for i in range(p):
            s = 0.0
            for j in range(p):
                s += precision[i, j] * z[j]
            g[i] = s
        if missing:
            marginal(precision, gone[:missing], g)
        total = 0.0
        for j in range(p):
            total += z[j] * g[j]
        known = judged + missing
        fill = known / judged if judged else 1.0
        total = max(total, 0.0) * fill
        w = 1.0 if learning or total < guard * known else doubt
        learn(x[row], d, w, decay, learning, weight, mean, cov, low, high, rate)
        ticks += 1
        if due(ticks, every):
            if learning:
                rescale(weight, mean, cov, low, high, scale)
            refresh(weight, cov, scale, ridge, precision)
        if ticks <= warmup:
            continue
        at = ticks - warmup - 1
        recent[at % len(recent)] = total
        filled = min(at + 1, len(recent))
        s = 0.0
        for k in range(filled):
            s += recent[k]
        distance[row] = total
        score[row] = s / filled
        if len(parts):
            for j in range(p):
                parts[row, j] = np.nan if np.isnan(d[j]) else z[j] * g[j] * fill
    return ticks


@njit(nogil=True, cache=True, parallel=True)
def fold(x, order, starts, slots, weight, mean, cov, low, high, scale, precision, ticks, recent, rule, warmup, learning_ticks, every, out):
    """Devices slots[i] with rows order[starts[i]:starts[i + 1]]."""
    for i in prange(len(slots)):
        s = slots[i]
        rows = order[starts[i] : starts[i + 1]]
        model = weight[s], mean[s], cov[s], low[s], high[s], scale[s], precision[s]
        ticks[s] = fold_device(x, rows, *model, ticks[s], recent[s], rule, warmup, learning_ticks, every, out)
