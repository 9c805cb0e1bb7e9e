"""Oracle of rowsums, row by row, in Python integers."""

import math


def fold(slot, values, bins, grain, sums):
    out = [list(map(int, row)) for row in sums]
    for s, row, at in zip(slot.tolist(), values.tolist(), bins.tolist(), strict=True):
        if s < 0:
            continue
        for j, value in enumerate(row):
            if not math.isnan(value):
                out[s][j] += round(value * grain)  # to even, as rint does
        for b in at:
            if b >= 0:
                out[s][b] += 1
    return out


def powers(values, low, columns):
    last = columns.stop - columns.start - 1
    return [
        columns.start + min(last, max(0, math.frexp(v)[1] - 1 - low)) if 0 < v < math.inf else columns.start + last if v > 0 else -1
        for v in values.tolist()
    ]


def gaps(slot, time_us, columns, last_us):
    out, last = [], list(last_us.tolist())
    for s, t in zip(slot.tolist(), time_us.tolist(), strict=True):
        if s < 0:
            out.append(-9)  # left as it was
            continue
        known = last[s] > 0
        out.append(min(columns.stop - 1, columns.start + int(math.log(max(1.0, (t - last[s]) / 1e6)))) if known else -1)
        last[s] = t
    return out, last
