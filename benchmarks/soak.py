"""A `telltale run` process on a real Kafka for minutes: what it idles at, its full load, how late alerts are at half of that, what a dead sink does
to its memory, and whether memory stays flat.

    python -m benchmarks.soak [--minutes 10] [--latency-s 30] [--down-s 60] [--load 0.25]      (0 leaves a phase out)

Traffic is inference rows, 50 JSON lines a record, and single hardware records of which each must become an alert. The broker and the producer
share the machine. An alert's delay runs from the row's own time, taken when it is sent, to its arrival at a consumer of the alerts topic.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from tests.e2e.chaos.proxy import Proxy
from tests.e2e.service import Service
from tests.support.kafka import Broker

LINES, PARTITIONS, PROBES_A_SECOND, PREFILLED = 50, 4, 20, 400_000
TICK_S = 0.1
DEVICES_PER_PROBE_A_SECOND = 12
"""None comes round before its alert has resolved, so each row is an alert of its own."""


class Traffic:
    """Writes rows at a rate until stopped; `sent`: rows; `probes`: device and time of each row that must become an alert."""

    def __init__(self, bootstrap: str, topics: dict[str, str]):
        self.producer = KafkaProducer(bootstrap_servers=bootstrap, acks=1, linger_ms=5, batch_size=1 << 18, compression_type="lz4")
        self.topics, self.sent, self.probes = topics, 0, dict[int, float]()
        generator = np.random.default_rng(0)
        self.bodies = [
            orjson.dumps({"principal": f"p{p}", "model": f"m{p % 4}", "input_tokens": int(t), "duration_s": round(float(d), 3)})[1:]
            for p, t, d in zip(
                generator.integers(0, 500, 5000), generator.lognormal(6, 1, 5000), generator.gamma(2, 0.5, 5000), strict=True
            )
        ]
        self._next = self._probed = 0

    def record(self) -> None:
        """Fifty rows of now."""
        start = b'{"time":%d,' % (time.time_ns() // 1000)
        first = self._next % (len(self.bodies) - LINES)
        self.producer.send(
            self.topics["inference"], b"\n".join([start + b for b in self.bodies[first : first + LINES]]), partition=self._next % PARTITIONS
        )
        self._next += 1
        self.sent += LINES

    def probe(self, devices: int) -> None:
        """One row that must become an alert: another device each time, until they come round."""
        now = self._probed = max(time.time_ns() // 1000, self._probed + 1)
        row = {"time": now, "host": f"h{len(self.probes) % devices}", "device": "gpu0", "xid": 79, "log": "NVRM: Xid (PCI:0): 79"}
        self.producer.send(self.topics["hardware"], orjson.dumps(row), partition=0)
        self.probes[now] = now / 1e6

    def run(self, rate: float, seconds: float, probes_a_second: float = PROBES_A_SECOND) -> None:
        """So many rows a second for so long."""
        started = time.monotonic()
        base_rows, base_probes = self.sent, len(self.probes)
        while (passed := time.monotonic() - started) < seconds:
            while self.sent - base_rows < rate * passed:
                self.record()
            while len(self.probes) - base_probes < probes_a_second * passed:
                self.probe(int(probes_a_second * DEVICES_PER_PROBE_A_SECOND))
            time.sleep(TICK_S / 5)
        self.producer.flush()


class Arrivals:
    """Reads the alerts topic; when each onset of a rule's alert arrived, and how often a version came twice."""

    def __init__(self, bootstrap: str, topic: str):
        self.consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, fetch_max_wait_ms=20)
        self.consumer.assign([TopicPartition(topic, 0)])
        self.consumer.seek_to_beginning()
        self.at, self.versions, self.duplicates, self.stop = dict[int, float](), set[tuple[str, int]](), 0, threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.stop.is_set():
            for records in self.consumer.poll(timeout_ms=50).values():
                now = time.time()
                for record in records:
                    alert = json.loads(record.value)["data"]
                    version = (alert["id"], alert["sequence"])
                    self.duplicates += version in self.versions
                    self.versions.add(version)
                    if alert["detector"] == "rules":
                        self.at.setdefault(alert["onset_us"], now)


class Watched:
    """Memory and CPU of the process, sampled each second."""

    def __init__(self, pid: int):
        self.pid, self.samples, self.stop = pid, list[tuple[float, float]](), threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def rss_mb(self) -> float:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _run(self) -> None:
        while not self.stop.wait(1.0):
            try:
                self.samples.append((time.monotonic(), self.rss_mb()))
            except OSError:
                return

    def since(self, when: float) -> np.ndarray:
        """float64[n, 2] seconds and MB."""
        return np.array([s for s in self.samples if s[0] >= when]).reshape(-1, 2)


def gauge(service: Service, name: str) -> float:
    """The sum of a metric over its labels."""
    return sum(float(v) for v in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", service.get("/metrics"), re.M))


def wait(condition: Any, seconds: float) -> None:
    """Until it holds. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come to rest")
        time.sleep(0.1)


def slope(samples: np.ndarray) -> float:
    """MB a minute, by least squares over the last four fifths."""
    kept = samples[len(samples) // 5 :]
    return round(float(np.polyfit(kept[:, 0] / 60, kept[:, 1], 1)[0]), 3) if len(kept) > 10 else float("nan")


def main() -> int:
    """All phases; prints one JSON object, and exits with 1 when an alert was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--latency-s", type=float, default=30)
    parser.add_argument("--down-s", type=float, default=60)
    parser.add_argument("--load", type=float, default=0.25, help="of the full load, in the soak")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        said = run(Path(folder), options)
    print(json.dumps(said, indent=1))
    return 1 if said["alerts_lost"] else 0


def run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The phases in turn."""
    proxy = Proxy()
    broker = Broker(folder / "broker", heap="512m", advertised=[proxy.port])
    cluster = broker.start()
    proxy.start(broker.behind[0])
    topics = {"inference": cluster.topic(PARTITIONS, "inference"), "hardware": cluster.topic(1, "hardware")}
    service = Service(
        folder, cluster, [{"name": topic, "stream": stream, "encoding": "json"} for stream, topic in topics.items()],
        detectors={"rules": {"quiet_s": 5}, "missing": None}, limits={"outbox_messages": 5000}, checkpoint={"dir": str(folder / "c"), "interval_s": 5},
    )  # fmt: skip
    service.config["sinks"]["out"]["bootstrap"] = f"127.0.0.1:{proxy.port}"
    traffic = Traffic(cluster.bootstrap, topics)
    said: dict[str, Any] = {"load_average": os.getloadavg()[0]}
    try:
        service.start()
        traffic.run(1000, 5)  # what is compiled is compiled
        full = full_load(service, traffic)
        said["full_rows_per_s"] = round(full)
        watched = Watched(service.process.pid)
        arrivals = Arrivals(cluster.bootstrap, service.alerts)
        time.sleep(2)
        used, started = watched.cpu_s(), time.monotonic()
        time.sleep(15)
        said["idle_cpu_share_of_a_core"] = round((watched.cpu_s() - used) / (time.monotonic() - started), 4)
        if options.latency_s:
            said |= at_half_load(traffic, arrivals, full, options.latency_s)
        if options.down_s:
            said |= sink_down(service, traffic, watched, proxy, full, options.down_s)
        if options.minutes:
            started = time.monotonic()
            traffic.run(options.load * full, 60 * options.minutes)
            samples = watched.since(started)
            said |= {
                "soak_minutes": options.minutes, "soak_rows_per_s": round(options.load * full), "rss_mb_first": round(samples[len(samples) // 5, 1]),
                "rss_mb_last": round(samples[-1, 1]), "rss_slope_mb_per_minute": slope(samples),
            }  # fmt: skip
        wait(lambda: traffic.probes.keys() <= arrivals.at.keys() or time.sleep(0.5), 60)
    except TimeoutError:
        pass  # told below as what was lost
    finally:
        for one in (watched, arrivals):
            one.stop.set()
            one.thread.join(5)
        traffic.producer.close()
        arrivals.consumer.close()
        said["exit_code"] = service.stop()
        proxy.close()
        broker.stop()
    lost = traffic.probes.keys() - arrivals.at.keys()
    return said | {
        "alerts_expected": len(traffic.probes),
        "alerts_lost": len(lost),
        "onsets_unknown": len(arrivals.at.keys() - traffic.probes.keys()),
        "versions_duplicated": arrivals.duplicates,
    }


def full_load(service: Service, traffic: Traffic) -> float:
    """Rows a second that the engine takes from topics that are full when it starts, nothing else being written."""
    service.stop()
    for _ in range(PREFILLED // LINES):
        traffic.record()
    traffic.producer.flush()
    service.start()
    wait(lambda: gauge(service, "telltale_rows_total") >= PREFILLED * 0.1, 120)
    before, started = gauge(service, "telltale_rows_total"), time.monotonic()
    wait(lambda: gauge(service, "telltale_rows_total") >= PREFILLED * 0.95, 120)
    return (gauge(service, "telltale_rows_total") - before) / (time.monotonic() - started)


def at_half_load(traffic: Traffic, arrivals: Arrivals, full: float, seconds: float) -> dict[str, Any]:
    """Delays of alerts while half of the full load flows."""
    before, sent, started = set(traffic.probes), traffic.sent, time.monotonic()
    traffic.run(full / 2, seconds)
    rate = (traffic.sent - sent) / (time.monotonic() - started)
    mine = traffic.probes.keys() - before
    wait(lambda: mine <= arrivals.at.keys(), 60)
    delays = np.array([arrivals.at[t] - traffic.probes[t] for t in mine])
    p50, p99 = np.quantile(delays, [0.5, 0.99])
    return {
        "half_load_rows_per_s": round(rate), "probes": len(mine), "event_to_alert_p50_s": round(float(p50), 3),
        "event_to_alert_p99_s": round(float(p99), 3), "event_to_alert_max_s": round(float(delays.max()), 3),
    }  # fmt: skip


def sink_down(service: Service, traffic: Traffic, watched: Watched, proxy: Proxy, full: float, seconds: float) -> dict[str, Any]:
    """The Kafka sink can't be reached while rows and 500 alerts a second come."""
    calm, started = watched.rss_mb(), time.monotonic()
    proxy.set("cut")
    traffic.run(full / 2, seconds, probes_a_second=500)
    outbox, lag, paused = (gauge(service, f"telltale_{name}") for name in ("outbox_messages", "lag_records", "paused"))
    samples = watched.since(started)
    proxy.set("pass")
    healed = time.monotonic()
    wait(lambda: not gauge(service, "telltale_lag_records") and not gauge(service, "telltale_outbox_messages"), 180)
    return {
        "sink_down_s": seconds, "rss_mb_before": round(calm), "rss_mb_most": round(samples[:, 1].max()), "outbox_messages": int(outbox),
        "paused": bool(paused), "lag_records": int(lag), "caught_up_s": round(time.monotonic() - healed, 1),
        "rss_slope_while_paused_mb_per_minute": slope(samples[len(samples) // 2 :]),
    }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
