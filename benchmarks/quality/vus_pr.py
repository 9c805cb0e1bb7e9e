"""VUS-PR and average precision of score files, by the authors' package `vus` (Paparrizos et al., VLDB 2022), in an environment of its own.

    python vus_pr.py FILE.npz...       each with `score` and `label`; prints {FILE: {"vus_pr": ..., "ap": ...}} as JSON

Window 100 and 250 thresholds, as TSB-AD has it. The package asks for TensorFlow and more that this metric does not use, so it is
installed without its dependencies; `make quality` does that.
"""

import json
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from sklearn.metrics import average_precision_score
from vus.utils.metrics import metricor

WINDOW = 100
THRESHOLDS = 250


def measured(path: str) -> dict[str, float]:
    """Both figures of one file."""
    with np.load(path) as file:
        score, label = file["score"], file["label"].astype(int)
    *_, vus_pr = metricor().RangeAUC_volume_opt(labels_original=label, score=score, windowSize=WINDOW, thre=THRESHOLDS)
    return {"vus_pr": float(vus_pr), "ap": float(average_precision_score(label, score))}


if __name__ == "__main__":
    with ProcessPoolExecutor() as pool:
        print(json.dumps(dict(zip(sys.argv[1:], pool.map(measured, sys.argv[1:]), strict=True))))
