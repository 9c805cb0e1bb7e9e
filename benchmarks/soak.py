"""A `telltale run` process on a real Kafka for minutes: what it idles at, its full load, how late alerts are at half of that, what a dead sink does
to its memory, and whether memory stays flat.

    python -m benchmarks.soak [--minutes 10] [--latency-s 30] [--down-s 60] [--load 0.25] [--stall all --stall-s 12]      (0 leaves a phase out)

Traffic is inference rows, 50 JSON lines a record, and single hardware records of which each must become an alert (`probes.py`). The broker and
the producer share the machine. An alert's delay runs from the row's own time, taken when it is sent, to its arrival at a consumer of the
alerts topic. `--stall`: meanwhile the engine, the broker, the producer or the processor is made to stand still or to starve, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.probes import LINES, PARTITIONS, QUIET_S, Arrivals, Traffic, account
from tests.e2e.chaos.proxy import Proxy
from tests.e2e.service import Service
from tests.support.kafka import Broker

PREFILLED = 400_000
STALLS = ("engine", "broker", "producer", "cpu")
STALL_EVERY_S = 20.0


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


class Stalls:
    """Makes one part after the other stand still for `seconds`, `STALL_EVERY_S` apart, until stopped; `cpu` starves them all."""

    def __init__(self, kinds: list[str], seconds: float, service: Service, broker: Broker, traffic: Traffic):
        self.kinds, self.seconds, self.service, self.broker, self.traffic = kinds, seconds, service, broker, traffic
        self.done, self.stop = Counter[str](), threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Stalls:
        if self.kinds:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        if self.kinds:
            self.thread.join()

    def _run(self) -> None:
        while not self.stop.wait(STALL_EVERY_S):
            kind = self.kinds[self.done.total() % len(self.kinds)]
            self.done[kind] += 1
            if kind == "producer":
                self.traffic.held.set()
                self.stop.wait(self.seconds)
                self.traffic.held.clear()
            elif kind == "cpu":
                loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4 * (os.cpu_count() or 1))]
                self.stop.wait(self.seconds)
                for loop in loops:
                    loop.kill()
                    loop.wait()
            else:
                process = self.service.process if kind == "engine" else self.broker.process
                process.send_signal(signal.SIGSTOP)
                self.stop.wait(self.seconds)
                process.send_signal(signal.SIGCONT)


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
    """All phases; prints one JSON object, and exits with 1 when a row that must become an alert did not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--latency-s", type=float, default=30)
    parser.add_argument("--down-s", type=float, default=60)
    parser.add_argument("--load", type=float, default=0.25, help="of the full load, in the soak")
    parser.add_argument("--stall", choices=("all", *STALLS), action="append", default=[], help="what stands still, in the soak")
    parser.add_argument("--stall-s", type=float, default=12)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        said = run(Path(folder), options)
    print(json.dumps(said, indent=1))
    return 0 if said["fates"].keys() <= {"found"} and not said["reader_fault"] else 1


def run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The phases in turn."""
    proxy = Proxy()
    broker = Broker(folder / "broker", heap="512m", advertised=[proxy.port])
    cluster = broker.start()
    proxy.start(broker.behind[0])
    topics = {"inference": cluster.topic(PARTITIONS, "inference"), "hardware": cluster.topic(1, "hardware")}
    service = Service(
        folder, cluster, [{"name": topic, "stream": stream, "encoding": "json"} for stream, topic in topics.items()],
        detectors={"rules": {"quiet_s": QUIET_S}, "missing": None}, limits={"outbox_messages": 5000}, checkpoint={"dir": str(folder / "c"), "interval_s": 5},
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
        wait(lambda: not gauge(service, "telltale_lag_records"), 60)
        time.sleep(10)  # two checkpoints: the first still has the last rows to write
        used, started = watched.cpu_s(), time.monotonic()
        time.sleep(20)
        said["idle_cpu_share_of_a_core"] = round((watched.cpu_s() - used) / (time.monotonic() - started), 4)
        if options.latency_s:
            said |= at_half_load(traffic, arrivals, full, options.latency_s)
        if options.down_s:
            said |= sink_down(service, traffic, watched, proxy, full, options.down_s)
        if options.minutes:
            started = time.monotonic()
            with Stalls(list(STALLS) if "all" in options.stall else options.stall, options.stall_s, service, broker, traffic) as stalls:
                traffic.run(options.load * full, 60 * options.minutes)
            samples = watched.since(started)
            said |= {
                "soak_minutes": options.minutes, "soak_rows_per_s": round(options.load * full), "rss_mb_first": round(samples[len(samples) // 5, 1]),
                "rss_mb_last": round(samples[-1, 1]), "rss_slope_mb_per_minute": slope(samples), "devices": traffic.devices,
                "stalls": dict(stalls.done), "late_rows": gauge(service, "telltale_late_rows_total"),
            }  # fmt: skip
        traffic.end()
        wait(lambda: arrivals.fault or traffic.probes.keys() <= arrivals.resolved or time.sleep(0.5), 60)
    except TimeoutError:
        pass  # told below, by what became of each probe
    finally:
        for one in (watched, arrivals):
            one.stop.set()
            one.thread.join(5)
        traffic.producer.close()
        arrivals.consumer.close()
        said["exit_code"] = service.stop()
        said |= account(service, topics["hardware"], traffic.probes, folder)
        proxy.close()
        broker.stop()
    return said | {"versions_duplicated": arrivals.duplicates, "reader_fault": arrivals.fault}


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
    delays = np.array([arrivals.at[t] - t / 1e6 for t in mine])
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
