"""False alarms of extraction where users are few and what they send wanders, through the backtest.

    python -m benchmarks.quality.moods [--users 2 5 20 200] [--memory 0.9 0.98 0.99 0.995] [--seeds 501 502 503 504] [--own]

Embeddings and confidences follow an AR(1) that keeps that share of itself from row to row: one for the whole stream, or, with `--own`, one
of each user's own. 60,000 rows, 20 s apart; one deployment a seed; budget of one false alarm a week.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.quality.nulls import Null, deployment, memory, poisson_interval, steady, synthetic_inference, table
from engine.evidence import WEEK_US

ROWS, WIDTH = 60_000, 8
NULL = Null("synthetic", "inference", ("extraction",), synthetic_inference)


def traffic(seed: int, users: int, kept: float, own: bool, n: int = ROWS) -> pa.Table:
    """Requests of so many users, in which nothing is wrong."""
    generator = np.random.default_rng(seed)
    who = generator.integers(0, users, n)

    def mood() -> np.ndarray:
        if not own:
            return memory(generator, n, kept)
        out = np.empty(n)
        for user in range(users):
            mine = np.flatnonzero(who == user)
            out[mine] = memory(generator, len(mine), kept)
        return out

    confidence = 1 / (1 + np.exp(-(1.5 + 1.2 * mood())))
    vectors = (generator.normal(size=(n, WIDTH)) + 0.3 * mood()[:, None]).astype(np.float32)
    return table(
        steady(n), principal=np.array([f"u{i}" for i in range(users)], object)[who], model="m", confidence=confidence.astype(np.float32),
        predicted=np.where(generator.random(n) < 0.5, "a", "b").astype(object),
        embedding=pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), WIDTH),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.moods", description="False alarms where few users wander.")
    parser.add_argument("--users", nargs="+", type=int, default=[2, 5, 20, 200])
    parser.add_argument("--memory", nargs="+", type=float, default=[0.9, 0.98, 0.99, 0.995])
    parser.add_argument("--seeds", nargs="+", type=int, default=[501, 502, 503, 504])
    parser.add_argument("--own", action="store_true", help="each user wanders by himself")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        for users in options.users:
            for kept in options.memory:
                weeks, alerts = 0.0, 0
                for seed in options.seeds:
                    rows = traffic(seed, users, kept, options.own)
                    weeks += float(np.ptp(rows["time"].cast(pa.int64()).to_numpy())) / WEEK_US
                    alerts += int(deployment(NULL, rows, 1.0, Path(work)).get("extraction", 0))
                low, high = poisson_interval(alerts, weeks)
                print(f"{users} users, memory {kept}: {alerts} alerts in {weeks:.1f} weeks, {low:.2f} to {high:.2f} a week", flush=True)


if __name__ == "__main__":
    main()
