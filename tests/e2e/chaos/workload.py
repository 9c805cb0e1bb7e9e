"""The input: deterministic rows with plenty of deterministic alerts, in segments that follow each other in event time.

Hardware: a fleet in which GPUs report XID errors and slowdowns, fall off the bus and come back, lose a metric, and behave as they never
did. Inference: principals of whom one in each segment sends what no benign one does, and a model whose traffic changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import orjson

T0_US = 1_760_000_000_000_000
SECONDS = 150
HOSTS = 12
PRINCIPALS = 16
FEATURES = 8
QUERIES_A_SECOND = 16
ATTACK_QUERIES = 160
XIDS = (31, 43, 48, 63, 79, 94, 95, 119)
DETECTORS = {
    "rules": {"quiet_s": 120, "throttle_quiet_s": 20},
    "hardware": {"quiet_s": 60},
    "missing": {"intervals": 5, "least_s": 5},
    "extraction": {"reference_rows": 300, "quiet_s": 200},
    "drift": {"reference_rows": 512, "quiet_s": 200},
}
"""Settings under which every kind of alert opens and resolves within a few segments."""


@dataclass(frozen=True)
class Record:
    """A record on its way to a partition of one of the two topics (`hardware`, `inference`)."""

    stream: str
    partition: int
    value: bytes


def segment(seed: int, number: int, partitions: int) -> list[Record]:
    """The records of one segment, in the order in which producers send them; the same for the same arguments."""
    generator = np.random.default_rng([seed, number])
    start = T0_US + number * SECONDS * 1_000_000
    rows = fleet(generator, start) + queries(generator, start, number)
    rows.sort(key=lambda row: row[0])
    return [Record(stream, which % partitions, orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)) for _, stream, which, row in rows]


Row = tuple[int, str, int, dict[str, object]]


def fleet(generator: np.random.Generator, start: int) -> list[Row]:
    """One row a second of each host's GPU, with what goes wrong in this segment."""
    rows: list[Row] = []
    for host in range(HOSTS):
        at = generator.integers(10, SECONDS - 45, 6)
        errors = {int(second): int(generator.choice(XIDS)) for second in at[:2]}
        gone = range(at[2], at[2] + 30) if generator.random() < 0.35 else range(0)
        slow = range(at[3], at[3] + 10) if generator.random() < 0.5 else range(0)
        dark = range(at[4], at[4] + 25) if generator.random() < 0.35 else range(0)
        hot = range(at[5], at[5] + 15) if generator.random() < 0.35 else range(0)
        noise = generator.normal(size=(SECONDS, 3))
        for second in range(SECONDS):
            if second in gone:
                continue
            time_us = start + second * 1_000_000 + host * 1_000
            row: dict[str, object] = {
                "time": time_us, "host": f"h{host}", "device": "gpu0", "xid": errors.get(second, 0),
                "metric.gpu_temp": round(60 + 2 * noise[second, 0] + 30 * (second in hot), 3),
                "metric.gpu_util": round(80 + 5 * noise[second, 1], 3),
                "metric.clocks_event_reasons": 0x40 if second in slow else 0,
            }  # fmt: skip
            if second not in dark:
                row["metric.power_usage"] = round(500 + 20 * noise[second, 2] + 3 * noise[second, 0], 3)
            rows.append((time_us, "hardware", host, row))
    return rows


def queries(generator: np.random.Generator, start: int, number: int) -> list[Row]:
    """Inference rows: benign principals, one who is not, and a model whose traffic is another in every second segment."""
    n = SECONDS * QUERIES_A_SECOND
    when = start + np.sort(generator.integers(0, SECONDS * 1_000_000, n))
    who = generator.integers(0, PRINCIPALS, n)
    model = generator.integers(0, 2, n)
    attack = np.zeros(n, bool)
    attack[generator.choice(n, ATTACK_QUERIES, replace=False)] = number > 0
    tokens = generator.lognormal(6 + 1.0 * ((model == 1) & (number % 2 == 1)), 0.5).astype(int)
    vectors = generator.normal(size=(n, FEATURES)) * np.where(attack, 6.0, 1.0)[:, None]
    rows: list[Row] = []
    for i in range(n):
        principal = PRINCIPALS + number if attack[i] else int(who[i])
        row: dict[str, object] = {
            "time": int(when[i]), "principal": f"eve{number}" if attack[i] else f"p{principal}", "model": f"m{model[i]}",
            "input_tokens": int(tokens[i]), "confidence": 0.9,
        }  # fmt: skip
        row |= {f"feature.x{j}": round(float(v), 4) for j, v in enumerate(vectors[i])}
        rows.append((int(when[i]), "inference", principal, row))
    return rows
