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
