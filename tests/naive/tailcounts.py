"""Tail counts by keeping every row, and evidence by multiplying every bet."""

import numpy as np


def fold(slot, bins, halves, steps, factors, power, unusual):
    """What is said after each steps[0] rows of a key, of all rows at once. `factors`: [F, B, K] growth of each bet by feature and bin."""
    kept, out = {}, []
    size = factors.shape[1]
    for i, s in enumerate(slot.tolist()):
        if s < 0:
            continue
        rows = kept.setdefault(s, [])
        rows.append(i)
        if len(rows) % steps[0]:
            continue
        said = {"row": i, "lengths": [], "first": [], "evidence": []}
        for half, step in zip(halves, steps, strict=True):
            start = int(max(0, (len(rows) - 1) // half - 1) * half)
            said["lengths"].append(len(rows) - start)
            said["first"].append(rows[start])
            of_feature = []
            for f in range(bins.shape[2]):
                products = []
                for tail in range(2):
                    for k in range(factors.shape[2]):
                        products.append(np.prod([factors[f, bins[r, tail, f], k] for r in rows[start:] if bins[r, tail, f] < size]))
                of_feature.append(np.mean(products))
            said["evidence"].append(np.nan if len(rows) % step else np.mean(np.array(of_feature) ** power) ** (1 / power))
        said["unusual"] = [r for r in rows if any(unusual <= b < size for b in bins[r].ravel())][-3:]
        out.append(said)
    return out


def drawn_evidence(bins, starts, wanted, lengths, factors, power):
    """Log evidence of windows of rows that are listed one by one. `factors`: [F, B, K] growth of each bet."""
    starts, rows, out = iter(starts.tolist()), len(bins), []
    for most, length in zip(wanted.tolist(), lengths.tolist(), strict=True):
        drawn = []
        while len(drawn) < most:
            first = next(starts)
            drawn += [(first + k) % rows for k in range(length)]
        of_feature = []
        for f in range(bins.shape[2]):
            chosen = [[factors[f, bins[r, tail, f]] for r in drawn[:most] if bins[r, tail, f] < factors.shape[1]] for tail in range(2)]
            products = [np.prod(np.array(c).reshape(-1, factors.shape[2]), axis=0) for c in chosen]
            of_feature.append(np.mean(products))
        out.append(np.log(np.mean(np.array(of_feature) ** power)) / power)
    return np.array(out)
