"""Windows of a series: three tumbling ones side by side, which close with the pane that fills them; and the tests of full ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numba import njit

from engine.detectors.drift_reference import BINS, Reference
from engine.detectors.drift_statistics import g_tests, log10_f_tail

SCALES = (256, 1024, 4096)


class Full(NamedTuple):
    """Windows of one series that are full. `scale`: int64[E], which of SCALES; `since_us`, `end_us`: int64[E]; `counts`: int64[E, 35];
    `expected`: float64[E, C, 36], what the rows' hours (channel 0) and segments (the others) would make of the reference: counts, and the
    sum over rows of 1 / reference rows that they rest on."""

    series: str
    scale: np.ndarray
    since_us: np.ndarray
    end_us: np.ndarray
    counts: np.ndarray
    expected: np.ndarray


class Tests(NamedTuple):
    """What the tests of W windows say, float64[W] each. `wander`: what G was divided by; `psi_net`: the smoothed PSI less what chance and
    wandering explain."""

    log10_p: np.ndarray
    g: np.ndarray
    df: np.ndarray
    wander: np.ndarray
    psi_net: np.ndarray


class Windows(NamedTuple):
    """W windows that are full, of any series: `series`: int64[W], places in `names`; `scale`, `since_us`, `end_us`: as in `Full`;
    `counts`: float64[W, 35], and what was expected of them, counts as well."""

    names: list[str]
    series: np.ndarray
    scale: np.ndarray
    since_us: np.ndarray
    end_us: np.ndarray
    counts: np.ndarray
    expected: np.ndarray


def fill(series: str, sketch: tuple[np.ndarray, np.ndarray, np.ndarray], pane_us: int, held: tuple[np.ndarray, ...]) -> Full | None:
    """Add panes in their order to the windows of a series, and take out those that are full.

    sketch: panes int64[P], counts int64[P, 35], and float64[P, C, 36], what `expected` grows by; C may be 0. held: counts int64[3, 35],
    since_us int64[3], expected float64[3, C, 36] of the windows, which are updated in place.
    """
    panes, counts, added = sketch
    window, since, expected = held
    rows = int(counts.sum())
    most = sum((int(window[i].sum()) + rows) // scale for i, scale in enumerate(SCALES))
    scale, since_us, end_us = np.empty((3, most), np.int64)
    full, full_expected = np.empty((most, BINS), np.int64), np.empty((most, added.shape[1], BINS + 1))
    expected = expected[:, : added.shape[1]]
    n = fill_panes(panes, counts, added, pane_us, np.array(SCALES), window, since, expected, scale, since_us, end_us, full, full_expected)
    return Full(series, scale[:n], since_us[:n], end_us[:n], full[:n], full_expected[:n]) if n else None


@njit(nogil=True, cache=True)
def fill_panes(panes, counts, added, pane_us, scales, window, since, expected, scale, since_us, end_us, full, full_expected):
    """The loop of `fill`; returns how many windows came full."""
    n = 0
    held = np.empty(len(scales), np.int64)
    for i in range(len(scales)):
        held[i] = window[i].sum()
    for p in range(len(panes)):
        rows = counts[p].sum()
        for i in range(len(scales)):
            for b in range(counts.shape[1]):
                window[i, b] += counts[p, b]
            for c in range(added.shape[1]):
                for b in range(added.shape[2]):
                    expected[i, c, b] += added[p, c, b]
            held[i] += rows
            if held[i] >= scales[i]:
                scale[n], since_us[n], end_us[n] = i, since[i], (panes[p] + 1) * pane_us
                full[n] = window[i]
                full_expected[n] = expected[i]
                window[i] = 0
                expected[i] = 0
                held[i], since[i] = 0, end_us[n]
                n += 1
    return n


def windows_of(full: Sequence[Full], references: Mapping[str, Reference]) -> Windows:
    """Full windows with what is expected of each: the reference's counts, or by the hours of its rows where the reference knows them."""
    names = [one.series for one in full]
    series = np.repeat(np.arange(len(full)), [len(one.scale) for one in full])
    counts = np.concatenate([one.counts for one in full]).astype(np.float64)
    expected = np.array([references[name].counts for name in names], np.float64)[series]
    first = 0
    for one in full:
        if references[one.series].hours is not None and one.expected.shape[1]:
            for i in range(len(one.scale)):
                expected[first + i] = rested(one.expected[i, 0], float(counts[first + i].sum()))
        first += len(one.scale)
    scale, since_us, end_us = (np.concatenate([getattr(one, part) for one in full]) for part in ("scale", "since_us", "end_us"))
    return Windows(names, series, scale, since_us, end_us, counts, expected)


def rested(expected: np.ndarray, rows: float) -> np.ndarray:
    """float64[35]: expected shares, as counts of as many rows as they rest on. `expected`: float64[36], of a window of so many rows."""
    return expected[:BINS] / expected[:BINS].sum() * (rows / expected[BINS])


def judged(windows: Windows, references: Mapping[str, Reference]) -> Tests:
    """G-tests of windows against what is expected of them: p-values of an F distribution, for how much the series wanders, and depends on
    itself, is an estimate too."""
    known = [references[name] for name in windows.names]
    learned = np.array([(r.tau, r.shape, r.scale_df, r.least_wander) for r in known])
    tau, shape, scale_df, least = learned.T[:, windows.series]
    g, df, psi = g_tests(windows.expected, windows.counts).T
    m, n = windows.expected.sum(axis=1), windows.counts.sum(axis=1)
    wander = np.maximum(1 + tau * m * n / (m + n), least)
    return Tests(log10_f_tail(g / wander / df, df * shape, scale_df), g, df, wander, psi - df * (1 / n + 1 / m) - df * tau)
