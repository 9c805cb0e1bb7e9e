"""How far two histograms over the same bins are apart: the G-test that decides, and every distance that people ask for.

All distances are of the shares p (reference) and q (window) of the bins that either side has, and equal what scipy and Evidently say
of the same binned data. Where an order is needed (Kolmogorov-Smirnov, Wasserstein, energy, MMD) a bin stands at `places`: its middle, its
value, or the end of the reference's range for what lies beyond it.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from scipy import special


@njit(nogil=True, cache=True)
def g_tests(reference, window):
    """The G statistic of homogeneity of each pair of rows, its degrees of freedom, and their smoothed PSI.

    reference, window: float64[W, bins], counts. Returns float64[W, 3]. Bins that neither side has count for nothing; half a row is
    added to every other bin for the PSI, so that an empty one has a finite weight.
    """
    out = np.zeros((len(window), 3))
    for w in range(len(window)):
        m = n = 0.0
        used = 0
        for i in range(window.shape[1]):
            m += reference[w, i]
            n += window[w, i]
            used += reference[w, i] + window[w, i] > 0
        g = psi = 0.0
        for i in range(window.shape[1]):
            a, b = reference[w, i], window[w, i]
            if a + b <= 0:
                continue
            pooled = (a + b) / (m + n)
            if a > 0:
                g += a * np.log(a / (m * pooled))
            if b > 0:
                g += b * np.log(b / (n * pooled))
            p, q = (a + 0.5) / (m + 0.5 * used), (b + 0.5) / (n + 0.5 * used)
            psi += (q - p) * np.log(q / p)
        out[w, 0], out[w, 1], out[w, 2] = max(0.0, 2 * g), max(1, used - 1), psi
    return out


def log10_tail(x: np.ndarray, df: np.ndarray) -> np.ndarray:
    """log10 P(chi2 >= x), by the first two terms of its asymptotic series where the tail itself is zero in float64."""
    x, df = np.asarray(x, np.float64), np.asarray(df, np.float64)
    tail = special.chdtrc(df, x)
    a, half = df / 2, x / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        far = (a - 1) * np.log(half) - half - special.gammaln(a) + np.log1p((a - 1) / half)
        return np.where(tail > 1e-300, np.log(tail), far) / np.log(10)


def log10_f_tail(x: np.ndarray, df: np.ndarray, scale_df: np.ndarray) -> np.ndarray:
    """log10 P(F >= x) of a ratio of chi-squares by their degrees of freedom; by the first terms of the beta function's series where the
    tail itself is zero in float64."""
    x, df, scale_df = (np.asarray(v, np.float64) for v in (x, df, scale_df))
    tail = special.fdtrc(df, scale_df, x)
    a, b, y = scale_df / 2, df / 2, scale_df / (scale_df + df * x)
    with np.errstate(divide="ignore", invalid="ignore"):
        far = a * np.log(y) + b * np.log1p(-y) - np.log(a) - special.betaln(a, b) + np.log1p((a + b) / (a + 1) * y)
        return np.where(tail > 1e-300, np.log(tail), far) / np.log(10)


def filled(counts: np.ndarray) -> np.ndarray:
    """Shares, none of them zero: an empty bin has 0.0001, or a millionth of the smallest share if that is not greater (Evidently's way)."""
    share = counts / max(1.0, counts.sum())
    present = share[share > 0]
    least = present.min() if len(present) else 1.0
    return np.where(share == 0, least / 1e6 if least <= 1e-4 else 1e-4, share)


def distances(reference: np.ndarray, window: np.ndarray, places: np.ndarray | None = None) -> dict[str, float]:
    """Every distance of two histograms; `places`: float64[bins], where a bin lies on the line (NaN: nowhere), None for categories.

    psi, kullback_leibler: empty bins filled as Evidently does. jensen_shannon: the distance, natural logarithm, as scipy. wasserstein
    in the feature's unit, wasserstein_normed in standard deviations of the reference. mmd: the V-statistic of the squared maximum mean
    discrepancy with an RBF kernel of the reference's median distance (categories: the kernel of equality). energy: as scipy.

    >>> d = distances(np.array([50, 50]), np.array([25, 75]), np.array([0.0, 1.0]))
    >>> [round(d[k], 4) for k in ("total_variation", "wasserstein", "kolmogorov_smirnov", "psi")]
    [0.25, 0.25, 0.25, 0.2747]
    """
    keep = (reference + window) > 0
    a, b = reference[keep].astype(np.float64), window[keep].astype(np.float64)
    m, n = max(1.0, a.sum()), max(1.0, b.sum())
    p, q, pf, qf = a / m, b / n, filled(a), filled(b)
    mean, pooled = (p + q) / 2, (a + b) / (m + n)
    out = {
        "psi": ((qf - pf) * np.log(qf / pf)).sum(),
        "kullback_leibler": special.rel_entr(pf / pf.sum(), qf / qf.sum()).sum(),
        "jensen_shannon": np.sqrt(max(0.0, (special.rel_entr(p, mean) + special.rel_entr(q, mean)).sum() / 2)),
        "total_variation": np.abs(p - q).sum() / 2,
        "hellinger": np.sqrt(max(0.0, ((np.sqrt(p) - np.sqrt(q)) ** 2).sum() / 2)),
        "chi_square": ((a - m * pooled) ** 2 / (m * pooled) + (b - n * pooled) ** 2 / (n * pooled)).sum(),
        "g": 2 * (special.rel_entr(a, m * pooled) + special.rel_entr(b, n * pooled)).sum(),
        "mmd": ((p - q) ** 2).sum(),
    }
    if places is not None:
        out |= ordered_distances(reference, window, places)
    return {name: float(value) for name, value in out.items()}


def ordered_distances(reference: np.ndarray, window: np.ndarray, places: np.ndarray) -> dict[str, float]:
    """The distances that need an order, of the rows that have a place; none where a side has no such row."""
    on_line = np.isfinite(places) & ((reference + window) > 0)
    x, at = np.unique(places[on_line], return_inverse=True)
    a, b = (np.bincount(at, c[on_line], minlength=len(x)) for c in (reference, window))
    if not a.sum() or not b.sum():
        return {}
    p, q = a / a.sum(), b / b.sum()
    gap, steps = np.cumsum(p - q)[:-1], np.diff(x)
    spread = np.sqrt(max(0.0, (p * x**2).sum() - (p * x).sum() ** 2))
    wasserstein = (np.abs(gap) * steps).sum()
    between = np.abs(x[:, None] - x)
    kernel = np.exp(-(between**2) / (2 * median_of(between, np.outer(p, p)) ** 2))
    return {
        "kolmogorov_smirnov": float(np.abs(gap).max(initial=0.0)),
        "wasserstein": float(wasserstein),
        "wasserstein_normed": float(wasserstein / max(spread, 0.001)),
        "energy": float(np.sqrt(2 * (gap**2 * steps).sum())),
        "mmd": float(max(0.0, (p - q) @ kernel @ (p - q))),
    }


def median_of(values: np.ndarray, weights: np.ndarray) -> float:
    """The weighted median of the positive values; 1 where there is none."""
    chosen = (values > 0) & (weights > 0)
    if not chosen.any():
        return 1.0
    order = np.argsort(values[chosen])
    total = np.cumsum(weights[chosen][order])
    return float(values[chosen][order][np.searchsorted(total, total[-1] / 2)])
