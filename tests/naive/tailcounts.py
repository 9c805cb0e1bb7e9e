"""Tail counts by keeping every row, and evidence by multiplying every bet."""

import numpy as np


def fold(slot, bins, halves, every, factors, power=1.0):
    """[(row, lengths, evidence)] of all rows at once. `factors`: [B, K] growth of each bet by bin."""
    kept, out = {}, []
    for i, s in enumerate(slot):
        if s < 0:
            continue
        rows = kept.setdefault(int(s), [])
        rows.append(bins[i])
        if len(rows) % every:
            continue
        lengths, evidence = [], []
        for half in halves:
            start = max(0, (len(rows) - 1) // half - 1) * half
            lengths.append(len(rows) - start)
            of_feature = []
            for f in range(bins.shape[2]):
                products = []
                for tail in range(2):
                    for k in range(factors.shape[1]):
                        products.append(np.prod([factors[r[tail, f], k] for r in rows[start:] if r[tail, f] < len(factors)]))
                of_feature.append(np.mean(products))
            evidence.append(np.mean(np.array(of_feature) ** power) ** (1 / power))
        out.append((i, lengths, evidence))
    return out
