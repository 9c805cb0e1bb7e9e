"""NannyML's CBPE on the census rows, printed as JSON: estimated accuracy, F1 and AUROC by chunk of 20,000 rows. Run by NannyML's own Python:
`python -W ignore cbpe.py employment_ma.parquet` (see ../README.md)."""

from __future__ import annotations

import json
import sys
import time

import nannyml
import pandas as pd

CHUNK = 20_000
METRICS = ("accuracy", "f1", "roc_auc")

rows = pd.read_parquet(sys.argv[1])[["part", "employed", "prediction", "predicted_probability"]]
reference, analysis = (rows[rows["part"] == part].reset_index(drop=True) for part in ("reference", "analysis"))
estimator = nannyml.CBPE(
    y_pred_proba="predicted_probability", y_pred="prediction", y_true="employed", problem_type="classification_binary",
    metrics=list(METRICS), chunk_size=CHUNK,
)  # fmt: skip
estimator.fit(reference)
started = time.perf_counter()
frame = estimator.estimate(analysis.drop(columns="employed")).filter(period="analysis").to_df()
seconds = time.perf_counter() - started
chunks = [
    {m: float(frame[(m, "value")].iloc[i]) for m in METRICS} | {"alert": bool(frame[("accuracy", "alert")].iloc[i])}
    for i in range(len(frame))
]
print(json.dumps({"version": nannyml.__version__, "rows_per_s": len(analysis) / seconds, "chunks": chunks}))
