"""The same rows through a real Kafka broker and through `backtest`: the same alerts, and the rate of each.

    python -m benchmarks.parity [--rows 1000000] [--partitions 4]

Rows are JSON lines of a fleet and of inference traffic with faults and a drift in them, about 130 bytes each. The service is a real
`telltale run` process; its rate counts from the first record that it reads to the last alert that it delivers. Needs a Kafka, found as the
tests find it.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson

from benchmarks.quality.backtests import backtest
from tests.e2e.service import Service, alerts, produce
from tests.support.kafka import connect

T0 = 1_760_000_000_000_000
PER_SECOND = 2000


def rows_of(n: int, seed: int = 0) -> Iterator[bytes]:
    """Inference rows in event-time order: four models, five hundred principals; one model's traffic changes at two thirds."""
    generator = np.random.default_rng(seed)
    model = generator.integers(0, 4, n)
    shifted = (np.arange(n) > 2 * n // 3) & (model == 2)
    tokens = generator.lognormal(6 + 0.6 * shifted, 1).astype(int)
    duration = generator.gamma(2, 0.5, n)
    principal = generator.integers(0, 500, n)
    for i in range(n):
        yield orjson.dumps({
            "time": T0 + i * 1_000_000 // PER_SECOND, "principal": f"p{principal[i]}", "model": f"m{model[i]}",
            "input_tokens": int(tokens[i]), "duration_s": round(float(duration[i]), 4),
        })  # fmt: skip


def main() -> None:
    """Print both rates, and whether the alerts are the same; exit code 1 when they are not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--partitions", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        said = compare(Path(folder), options.rows, options.partitions)
    print(json.dumps(said, indent=1))
    raise SystemExit(1 if said["only_kafka"] or said["only_backtest"] else 0)


def compare(folder: Path, n: int, partitions: int) -> dict[str, object]:
    """Both runs."""
    values = list(rows_of(n))
    (folder / "rows.jsonl").write_bytes(b"\n".join(values) + b"\n")
    outcome = backtest("inference", [folder / "rows.jsonl"], folder / "backtest")
    expected = {a["data"]["id"]: a["data"]["key"] for a in outcome.alerts}
    cluster, broker = connect(folder / "kafka")
    try:
        topic = cluster.topic(partitions=partitions)
        produce(cluster, topic, values, [orjson.loads(v)["principal"].encode() for v in values])
        service = Service(folder, cluster, [{"name": topic, "stream": "inference"}])
        started = time.monotonic()
        service.start()
        ready = time.monotonic()
        while counted(service) < n:
            time.sleep(0.1)
        seconds = time.monotonic() - ready
        while len(got := alerts(cluster, service.alerts)) < len(expected) and time.monotonic() - ready < seconds + 30:
            time.sleep(0.5)
        time.sleep(3)
        got = alerts(cluster, service.alerts)
        code = service.stop()
    finally:
        if broker is not None:
            broker.stop()
    found = {a["id"]: a["key"] for a in got.values()}
    return {
        "rows": n, "partitions": partitions, "start_to_ready_s": round(ready - started, 1),
        "backtest_rows_per_s": outcome.summary["rows_per_s"], "kafka_rows_per_s": round(n / seconds), "late": outcome.summary["late"], "exit_code": code,
        "alerts": sorted(expected.values()),
        "only_kafka": sorted(found[i] for i in found.keys() - expected.keys()),
        "only_backtest": sorted(expected[i] for i in expected.keys() - found.keys()),
    }  # fmt: skip


def counted(service: Service) -> float:
    """Rows that the service has taken in."""
    found = re.search(r'^telltale_rows_total\{stream="inference"\} (\S+)$', service.get("/metrics"), re.M)
    return float(found[1]) if found else 0.0


if __name__ == "__main__":
    main()
