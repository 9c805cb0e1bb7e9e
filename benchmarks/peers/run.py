"""Time the peers and print JSON: name, items a second, and for PSI the answers. Run by the peers' own Python (see README.md); `run.py mmd` by that of alibi-detect."""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.peers import work


def timed(name: str, count: int, call) -> dict:
    start = time.perf_counter()
    answer = call()
    return {"name": name, "items": count, "items_per_s": count / (time.perf_counter() - start), "answer": answer}


def evidently_psi(rows: int) -> dict:
    import pandas as pd
    from evidently import Report
    from evidently.presets import DataDriftPreset

    before, after = (pd.DataFrame(a[:, :rows].T, columns=[f"c{i}" for i in range(len(a))]) for a in (work.reference(), work.current()))

    def call() -> dict[str, float]:
        report = Report([DataDriftPreset(num_method="psi")]).run(after, before).dict()
        values = {m["config"]["column"]: m["value"] for m in report["metrics"] if "column" in m.get("config", {})}
        return {column: float(value) for column, value in values.items()}

    return timed("Evidently PSI report", rows * work.COLUMNS, call)


def evidently_distances() -> dict:
    import importlib

    import pandas as pd
    from evidently.legacy.core import ColumnType

    def tests(module: str, name: str):
        return getattr(importlib.import_module(f"evidently.legacy.calculations.stattests.{module}"), name)

    psi, js, kl = tests("psi", "_psi"), tests("jensenshannon", "_jensenshannon"), tests("kl_div", "_kl_div")
    hellinger, energy = tests("hellinger_distance", "_hellinger_distance"), tests("energy_distance", "_energy_dist")
    tvd, wasserstein = tests("tvd_stattest", "_total_variation_distance"), tests("wasserstein_distance_norm", "_wasserstein_distance_norm")
    before, after = (pd.Series(np.repeat(np.arange(len(counts)), counts)) for counts in work.histograms())
    categories, numbers = ColumnType.Categorical, ColumnType.Numerical

    def call() -> dict[str, float]:
        found = {
            "psi": psi(before, after, categories, 0.1)[0],
            "jensen_shannon": js(before, after, categories, 0.1)[0],
            "kullback_leibler": kl(before, after, categories, 0.1)[0],
            "hellinger": hellinger(before.copy(), after.copy(), categories, 0.1)[0],
            "total_variation": tvd(before, after),
            "wasserstein_normed": wasserstein(before, after, numbers, 0.1)[0],
            "energy": energy(before, after, numbers, 0.1)[0],
        }
        return {name: float(value) for name, value in found.items()}

    return timed("Evidently distances", 1, call)


def scipy_tests() -> list[dict]:
    from scipy.stats import ks_2samp, wasserstein_distance

    a, b = work.reference()[0], work.current()[0]
    return [
        timed("scipy ks_2samp", len(b), lambda: float(ks_2samp(a, b).statistic)),
        timed("scipy wasserstein_distance", len(b), lambda: float(wasserstein_distance(a, b))),
    ]


def river_detectors(n: int = 100_000) -> list[dict]:
    from river import drift

    def follow(detector) -> int:
        alarms = 0
        for x in work.stream(n).tolist():
            detector.update(x)
            alarms += detector.drift_detected
        return alarms

    return [timed("River ADWIN", n, lambda: follow(drift.ADWIN())), timed("River PageHinkley", n, lambda: follow(drift.PageHinkley()))]


def datasketch_sketches(n: int = 100_000) -> list[dict]:
    from datasketch import HyperLogLog

    def call() -> float:
        sketch = HyperLogLog(p=12)
        for item in work.items(n):
            sketch.update(item.tobytes())
        return float(sketch.count())

    return [timed("datasketch HyperLogLog", n, call)]


def datasketch_minhash(n: int = 1000) -> dict:
    """MinHash of each text's words and pairs of words."""
    from datasketch import MinHash

    texts = work.texts(n)

    def call() -> float:
        total = 0
        for text in texts:
            words = text.split()
            sketch = MinHash(num_perm=32)
            sketch.update_batch([*words, *(a + b" " + b for a, b in pairwise(words))])
            total += int(sketch.hashvalues[0])
        return float(total)

    return timed("datasketch MinHash", n, call)


def alibi_mmd(n: int = 1000) -> dict:
    """Online MMD of rows of 384 against a reference of 1,000, windows of 50; few bootstraps, since setting up is not timed."""
    from alibi_detect.cd import MMDDriftOnline

    rows = work.embeddings(n, work.DIMS, 10)
    reference = work.embeddings(1000, work.DIMS, 9)
    detector = MMDDriftOnline(reference, ert=150, window_size=work.WINDOW, backend="pytorch", n_bootstraps=300, verbose=False)
    return timed("alibi-detect online MMD", n, lambda: float(sum(detector.predict(row)["data"]["test_stat"] for row in rows)))


def scikit_learn() -> list[dict]:
    from sklearn.kernel_approximation import RBFSampler
    from sklearn.neighbors import NearestNeighbors

    rows = work.embeddings(20_000, 384, 5)
    sampler = RBFSampler(gamma=0.5 / 384, n_components=1024, random_state=0).fit(rows[:10])
    queries, reservoir = work.embeddings(2_000, 256, 6), work.embeddings(20_000, 256, 7)
    index = NearestNeighbors(n_neighbors=50, algorithm="brute").fit(reservoir)
    return [
        timed("scikit-learn RBFSampler + mean", len(rows), lambda: float(np.square(sampler.transform(rows).mean(0)).sum())),
        timed("scikit-learn NearestNeighbors", len(queries), lambda: float(index.kneighbors(queries)[0].mean())),
    ]


if __name__ == "__main__":
    np.seterr(all="ignore")
    if sys.argv[1:] == ["mmd"]:
        print(json.dumps([alibi_mmd()]))
        sys.exit()
    found = [
        evidently_psi(int(sys.argv[1]) if len(sys.argv) > 1 else work.ROWS),
        evidently_distances(),
        datasketch_minhash(),
        *scipy_tests(),
        *river_detectors(),
        *datasketch_sketches(),
        *scikit_learn(),
    ]
    print(json.dumps(found))
