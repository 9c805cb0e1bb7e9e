"""All pairs of alike signatures on a CPU: what it costs as their number grows, and what banding misses.

    python -m benchmarks.pairs [--out DIR] [--most 1000000]

Signatures are random unit vectors of 256 dimensions; one in a hundred belongs to a group of 20 whose members lie around a point of their
own, at cosines of about .9 with each other. `similar_pairs` compares all with all as long as that takes seconds, `banded_pairs` goes on to
a million, with the bands and bits that `banding` chooses. Recall is of the pairs that the exact search finds, or of the planted ones where
that is too slow; beside it that of the pairs with cosines from .85 to .9. Prints a table; DIR gets `pairs.json` and `pairs.svg`.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np

from kernels.neighbors import Pairs, banded_pairs, banding, recall, similar_pairs

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
DIMS = 256
LEAST = 0.85
GROUP = 20
SPREAD = 0.33
EXACT_UP_TO = 60_000
HARD = 0.9  # pairs below it are those that banding finds least of


def signatures(n: int, seed: int = 0) -> np.ndarray:
    """float32 [n, 256]; the first n // 100 rows are in groups of 20."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, DIMS), dtype=np.float32)
    planted = n // 100 // GROUP * GROUP
    centers = rows[:planted:GROUP].copy()
    rows[:planted] = np.repeat(centers, GROUP, axis=0) + SPREAD * rows[:planted]
    return rows


def planted_pairs(rows: np.ndarray) -> dict[tuple[int, int], float]:
    """The pairs of one group that lie over the threshold, and their cosines."""
    out = {}
    for first in range(0, len(rows) // 100 // GROUP * GROUP, GROUP):
        unit = rows[first : first + GROUP] / np.linalg.norm(rows[first : first + GROUP], axis=1, keepdims=True)
        cosines = unit @ unit.T
        a, b = np.nonzero(np.triu(cosines >= LEAST, 1))
        out |= {(first + i, first + j): float(cosines[i, j]) for i, j in zip(a.tolist(), b.tolist(), strict=True)}
    return out


def as_pairs(found: Pairs) -> dict[tuple[int, int], float]:
    return dict(zip(zip(found.first.tolist(), found.second.tolist(), strict=True), found.similarity.tolist(), strict=True))


def timed(search: Any, rounds: int) -> tuple[float, Pairs]:
    """Best time of some rounds, and the pairs."""
    best, found = np.inf, None
    for _ in range(rounds):
        started = time.perf_counter()
        found = search()
        best = min(best, time.perf_counter() - started)
    assert found is not None
    return best, found


def measure(n: int) -> dict[str, Any]:
    """One size: seconds of both searches, recall."""
    rows = signatures(n)
    bands, bits = banding(n, LEAST)
    seconds, banded = timed(lambda: banded_pairs(rows, LEAST), 2 if n <= 100_000 else 1)
    got = as_pairs(banded).keys()
    row: dict[str, Any] = {
        "n": n, "bands": bands, "bits": bits, "banded_s": seconds, "banded_rows_per_s": n / seconds, "pairs": len(got),
    }  # fmt: skip
    wanted = planted_pairs(rows)
    if n <= EXACT_UP_TO:
        row["exact_s"], exact = timed(lambda: similar_pairs(rows, LEAST), 1)
        wanted = as_pairs(exact)
    hard = {pair for pair, cosine in wanted.items() if cosine < HARD}
    row |= {
        "recall": len(got & wanted.keys()) / max(1, len(wanted)), "recall_below_.9": len(got & hard) / max(1, len(hard)),
        "recall_promised": recall(LEAST, bands, bits), "wrong": len(got - wanted.keys()) if n <= EXACT_UP_TO else None,
    }  # fmt: skip
    row["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return row


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pairs", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--most", type=int, default=SIZES[-1])
    options = parser.parse_args()
    small = signatures(2000)
    banded_pairs(small, LEAST), similar_pairs(small, LEAST)  # compiled before anything is timed
    rows = []
    print(
        f"{'n':>9}  {'banded s':>9}  {'rows/s':>8}  {'exact s':>8}  {'bands':>5}  {'bits':>4}  {'recall':>6}  {'<.9':>5}  {'wrong':>5}  {'peak GiB':>8}"
    )
    for n in (s for s in SIZES if s <= options.most):
        row = measure(n)
        rows.append(row)
        exact = f"{row['exact_s']:8.2f}" if "exact_s" in row else " " * 8
        wrong = " " * 5 if row["wrong"] is None else f"{row['wrong']:5}"
        said = f"{n:9,}  {row['banded_s']:9.2f}  {row['banded_rows_per_s']:8,.0f}  {exact}  {row['bands']:5}  {row['bits']:4}"
        print(f"{said}  {row['recall']:6.3f}  {row['recall_below_.9']:5.3f}  {wrong}  {row['peak_gib']:8.2f}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "pairs.json").write_text(
        json.dumps({"machine": platform.processor() or platform.machine(), "least": LEAST, "rows": rows}, indent=1) + "\n"
    )
    plot(rows, options.out / "pairs.svg")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds against n, both axes logarithmic."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    axes.loglog([r["n"] for r in rows], [r["banded_s"] for r in rows], "o-", label="banded_pairs")
    exact = [r for r in rows if "exact_s" in r]
    axes.loglog([r["n"] for r in exact], [r["exact_s"] for r in exact], "s-", label="similar_pairs (all with all)")
    axes.set_xlabel("signatures of 256 dimensions")
    axes.set_ylabel("seconds, two cores")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
