"""Arrivals: when rows of devices and their metrics usually come, and which of them stayed away. Sequential, so the cut of batches changes
nothing.

A usual interval is an exponentially weighted mean of gaps, with the mean deviation from it beside it (as TCP estimates its time-outs), so
what comes irregularly is given more time. While a whole partition is silent nobody's clock goes on: that is one thing missing, not each
device.
"""

from __future__ import annotations

import numba
import numpy as np

LEARNED = 8
"""Arrivals before an interval is believed."""
MEMORY = 64
NEWEST, SKIPPED, TOLD, SEEN = range(4)
"""What a partition's array holds: the newest row's time, microseconds of silence left out so far, whether the present one was told,
rows."""
METRIC, DEVICE, PARTITION, TARGET = range(4)
"""Kinds of events."""
DOWN_ROWS = 3
"""Failed scrapes in a row before a target is down."""


@numba.njit(cache=True, nogil=True)
def limit_of(interval_us, jitter_us, intervals, least_us):
    """The longest gap that is nothing yet, microseconds."""
    return max(intervals * interval_us, interval_us + 4.0 * intervals * jitter_us, least_us)


@numba.njit(cache=True, nogil=True)
def awake(at_us, skipped_us, last_us, last_skipped, interval_us, jitter_us, rows, intervals, least_us):
    """(devices that were not overdue at `at_us`: int64[k], the median of their limits); nothing at all for that long is a silence."""
    found, limits = np.empty(len(rows), np.int64), np.empty(len(rows), np.float64)
    n = 0
    for d in range(len(rows)):
        if rows[d] >= LEARNED:
            limit = limit_of(interval_us[d], jitter_us[d], intervals, least_us)
            if (at_us - skipped_us) - (last_us[d] - last_skipped[d]) <= limit:
                found[n], limits[n] = d, limit
                n += 1
    return found[:n], (np.sort(limits[:n])[n // 2] if n else 0.0)


@numba.njit(cache=True, nogil=True)
def fold(
    slots, time_us, present, regular, up, last_us, last_skipped, interval_us, jitter_us, rows, told, metric_us, metric_skipped,
    metric_interval, metric_jitter, metric_rows, metric_told, down_us, down_rows, down_told, partition, intervals, least_us,
):  # fmt: skip
    """Fold rows in order. Returns events (kind, row, device, metric, last seen, usual interval, limit, whether back), and the devices
    that a partition's silence concerns (event, device).

    `slots`: int32[n] device of each row; `present`: bool[n, m] which metrics it has; `regular`: bool[m], whether a metric's silence is
    news; `up`: float64[n], NaN, or 0 where a target did not answer. The rest is state, by device, by device and metric, or of the
    partition. A gap is no part of the interval that it is measured by. A device says itself, by its rows, which metrics it goes on
    without; its own absence shows when it returns, or at the watermark.
    """
    events = [(0, 0, 0, 0, 0, 0.0, 0.0, False) for _ in range(0)]
    whose = [(0, 0) for _ in range(0)]
    for i in range(len(slots)):
        d, now = slots[i], time_us[i]
        if d < 0 or not present[i].any():
            continue
        newest = partition[NEWEST]
        if partition[SEEN] and now > newest and (partition[TOLD] or now - newest > least_us):
            others, limit = awake(newest, partition[SKIPPED], last_us, last_skipped, interval_us, jitter_us, rows, intervals, least_us)
            silence = len(others) > 1 and now - newest > limit
            if partition[TOLD] or silence:
                for other in others:
                    whose.append((len(events), other))
                events.append((PARTITION, i, -1, -1, newest, 0.0, limit, True))
                partition[TOLD] = 0
            if silence:  # of event time; one that was told by the clock alone must not move what rows are measured by
                partition[SKIPPED] += now - newest
        partition[NEWEST] = max(newest, now) if partition[SEEN] else now
        partition[SEEN] = 1
        skipped = partition[SKIPPED]
        before = last_us[d] - last_skipped[d] if rows[d] else now - skipped
        gap = (now - skipped) - before
        limit = limit_of(interval_us[d], jitter_us[d], intervals, least_us)
        overdue = rows[d] >= LEARNED and gap > limit
        if told[d] or overdue:
            events.append((DEVICE, i, d, -1, last_us[d], interval_us[d], limit, True))
            told[d] = 0
        if not overdue and rows[d] > 0 and gap > 0:
            weight = 1.0 / min(rows[d], MEMORY)
            if rows[d] > 1:
                jitter_us[d] += (abs(gap - interval_us[d]) - jitter_us[d]) * weight
            interval_us[d] += (gap - interval_us[d]) * weight
        if up[i] == 0.0:
            down_rows[d] += 1
            down_us[d] = now if down_rows[d] == 1 else down_us[d]
            if not down_told[d] and down_rows[d] >= DOWN_ROWS and now - down_us[d] >= least_us:
                down_told[d] = 1
                events.append((TARGET, i, d, -1, down_us[d], interval_us[d], 0.0, False))
        elif up[i] > 0.0:
            if down_told[d]:
                events.append((TARGET, i, d, -1, down_us[d], interval_us[d], 0.0, True))
            down_told[d] = down_rows[d] = 0
        for c in range(present.shape[1] if up[i] != 0.0 else 0):
            since = before - (metric_us[d, c] - metric_skipped[d, c]) if metric_rows[d, c] else 0
            bound = limit_of(metric_interval[d, c], metric_jitter[d, c], intervals, least_us)
            if present[i, c] and regular[c]:
                if metric_told[d, c]:
                    events.append((METRIC, i, d, c, metric_us[d, c], metric_interval[d, c], bound, True))
                    metric_told[d, c] = 0
                elif metric_rows[d, c]:
                    apart = float((now - skipped) - (metric_us[d, c] - metric_skipped[d, c]))
                    if apart > 0 and (metric_rows[d, c] < LEARNED or apart <= bound):
                        weight = 1.0 / min(metric_rows[d, c], MEMORY)
                        if metric_rows[d, c] > 1:
                            metric_jitter[d, c] += (abs(apart - metric_interval[d, c]) - metric_jitter[d, c]) * weight
                        metric_interval[d, c] += (apart - metric_interval[d, c]) * weight
                metric_rows[d, c] += 1
                if now - skipped >= metric_us[d, c] - metric_skipped[d, c] or metric_rows[d, c] == 1:
                    metric_us[d, c], metric_skipped[d, c] = now, skipped
            elif not present[i, c] and metric_rows[d, c] >= LEARNED and not metric_told[d, c] and since > bound:
                events.append((METRIC, i, d, c, metric_us[d, c], metric_interval[d, c], bound, False))
                metric_told[d, c] = 1
        rows[d] += 1
        if rows[d] == 1 or now - skipped >= before:
            last_us[d], last_skipped[d] = now, skipped
    return events, whose
