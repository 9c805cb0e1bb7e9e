"""How long `telltale run` takes from its start to the first scored batch, and what it costs when nothing comes.

    python -m benchmarks.start [attempts] [idle seconds] [partitions]

Wall time says nothing on a machine that is busy otherwise; the CPU seconds beside it do.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from tests.e2e.service import Service, produce
from tests.support.kafka import Cluster, connect, unique_group

T0_US = 1_760_000_000_000_000


def measure(cluster: Cluster, folder: Path, attempts: int, idle_s: float, partitions: int) -> None:
    """Print a line an attempt, and one for the idle time after the last."""
    topic = cluster.topic(partitions)
    rows = [{"time": T0_US + i * 1000, "principal": f"p{i % 7}", "model": "m", "input_tokens": 100 + i % 50} for i in range(500)]
    produce(cluster, topic, [json.dumps(row).encode() for row in rows], [b"%d" % i for i in range(len(rows))])
    for attempt in range(attempts):
        place = folder / str(attempt)
        place.mkdir()
        service = Service(place, cluster, [{"name": topic, "stream": "inference"}], checkpoint={"dir": str(place / "checkpoints")})
        service.config["source"]["kafka"]["group"] = unique_group()
        began = time.monotonic()
        try:
            service.start()
            while not re.search(r'telltale_rows_total\{stream="inference"\} \d', service.get("/metrics")):
                time.sleep(0.02)
            print(f"first batch scored after {time.monotonic() - began:.2f} s, {cpu_s(service):.2f} s of CPU", flush=True)
            if attempt == attempts - 1:
                time.sleep(5.0)
                used, since = cpu_s(service), time.monotonic()
                time.sleep(idle_s)
                print(f"idle: {100 * (cpu_s(service) - used) / (time.monotonic() - since):.2f} % of a core")
        finally:
            service.close()


def cpu_s(service: Service) -> float:
    """CPU seconds that the process has used."""
    fields = Path(f"/proc/{service.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        cluster, broker = connect(Path(directory) / "kafka")
        try:
            given = [*sys.argv[1:], *("3", "30", "1")[len(sys.argv) - 1 :]]
            measure(cluster, Path(directory), int(given[0]), float(given[1]), int(given[2]))
        finally:
            if broker is not None:
                broker.stop()
