"""Runs: alarming rows of one key that follow each other, told as one thing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Run:
    """Alarming rows of one key, in the order they came: row positions in the batch, and the one with the highest score."""

    key: int
    rows: np.ndarray
    peak: int


def runs(key: np.ndarray, alarm: np.ndarray, time_us: np.ndarray, score: np.ndarray, quiet_us: int) -> Iterator[Run]:
    """Group the alarming rows of a batch by key, and split where more than `quiet_us` lies between two of them.

    >>> key, alarm = np.array([0, 1, 0, 0]), np.array([True, False, True, True])
    >>> [r.rows.tolist() for r in runs(key, alarm, np.array([1, 2, 3, 90]), np.ones(4), quiet_us=10)]
    [[0, 2], [3]]
    """
    index = np.flatnonzero(alarm)
    index = index[np.argsort(key[index], kind="stable")]
    if not len(index):
        return
    apart = np.diff(time_us[index]) > quiet_us
    cuts = np.flatnonzero((np.diff(key[index]) != 0) | apart) + 1
    for rows in np.split(index, cuts):
        yield Run(int(key[rows[0]]), rows, int(rows[np.argmax(score[rows])]))
