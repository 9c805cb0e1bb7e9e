"""Hardware, rules and missing: each fault is found on the device that has it, and the cut of batches changes nothing."""

import numpy as np
import pyarrow as pa
import pytest

from engine.batch import Batch
from engine.detectors.hardware import Hardware, HardwareSettings
from engine.detectors.missing import Missing, MissingSettings
from engine.detectors.rules import Rules, RulesSettings
from engine.evidence import Budget
from engine.finding import Context
from engine.worker import Worker
from streams.records import Partition

S = 1_000_000


def fleet(ticks: int, devices: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of a fleet, tick by tick: load drives temperature and power."""
    generator = np.random.default_rng(seed)
    load = np.clip(0.7 + 0.1 * generator.standard_normal((ticks, devices)), 0, 1)
    return {
        "time": np.repeat(np.arange(ticks) * S, devices),
        "device": np.array([f"gpu{d}" for _ in range(ticks) for d in range(devices)], object),
        "metric.gpu_temp": (40 + 40 * load + generator.standard_normal((ticks, devices))).ravel(),
        "metric.power": (100 + 500 * load + 10 * generator.standard_normal((ticks, devices))).ravel(),
        "metric.clock": (1900 + 20 * generator.standard_normal((ticks, devices))).ravel(),
    }


def run(detector, columns: dict[str, np.ndarray], cut: int):
    """Alert versions and score rows."""
    worker = Worker(Partition("t"), {detector.name: detector}, "", None, {})
    alerts, scores = [], []
    n = len(columns["time"])
    for first in range(0, n, cut):
        rows = slice(first, min(n, first + cut))
        table = {"host": pa.array(["h"] * len(columns["time"][rows]))}
        table |= {k: pa.array(v[rows]) for k, v in columns.items() if k != "time"}
        worker.state.watermarks["hardware"] = int(columns["time"][rows].max())
        worker.observe(Batch("hardware", pa.RecordBatch.from_pydict(table), columns["time"][rows], np.arange(rows.start, rows.stop)))
        said, changed = worker.judge("hardware")
        alerts += changed
        scores += [
            (s.keys[k], int(t), round(float(x), 9), bool(a))
            for s in said
            for k, t, x, a in zip(s.key, s.time_us, s.score, s.alarm, strict=True)
        ]
    return alerts, sorted(scores)


def hardware() -> Hardware:
    return Hardware(HardwareSettings(), Context(Budget()))


@pytest.fixture(scope="module")
def throttled() -> dict[str, np.ndarray]:
    """gpu2 runs hot and slow from tick 2,000 on."""
    columns = fleet(2400, 4)
    sick = (columns["device"] == "gpu2") & (columns["time"] >= 2000 * S)
    columns["metric.gpu_temp"][sick] += 25
    columns["metric.clock"][sick] -= 400
    return columns


def test_a_throttling_gpu_is_found_at_once_and_no_other(throttled):
    alerts, scores = run(hardware(), throttled, cut=400)
    assert {a.key for a in alerts} == {"h/gpu2"}
    assert 2000 * S <= alerts[0].onset_us <= 2005 * S
    assert {m["metric"] for m in alerts[0].evidence["metrics"][:2]} == {"gpu_temp", "clock"}
    assert len(scores) == 2400 * 4


def test_scores_and_alerts_do_not_depend_on_the_cut(throttled):
    one = run(hardware(), throttled, cut=9600)
    for cut in (7, 1000):
        alerts, scores = run(hardware(), throttled, cut)
        assert scores == one[1]
        assert {a.id for a in alerts} == {a.id for a in one[0]}


def test_a_healthy_fleet_is_silent():
    alerts, _ = run(hardware(), fleet(6000, 4, seed=5), cut=2000)
    assert alerts == []


def test_a_device_that_vanishes_and_one_metric_that_does():
    columns = fleet(300, 3)
    keep = ~((columns["device"] == "gpu1") & (columns["time"] >= 100 * S) & (columns["time"] < 200 * S))
    columns["metric.clock"][(columns["device"] == "gpu0") & (columns["time"] >= 150 * S)] = np.nan
    columns = {k: v[keep] for k, v in columns.items()}
    results = [run(Missing(MissingSettings(), Context(Budget())), columns, cut)[0] for cut in (5, 64, 10_000)]
    for alerts in results:
        assert {a.key for a in alerts} == {"h/gpu1", "h/gpu0 clock"}
        vanished = [a for a in alerts if a.key == "h/gpu1"]
        assert vanished[0].onset_us == (99 + 10) * S
        assert (vanished[-1].status, vanished[-1].resolved_us) == ("resolved", 200 * S)
    assert len({frozenset(a.id for a in alerts) for alerts in results}) == 1


def test_xid_gauges_and_log_lines():
    columns = fleet(20, 1)
    xid = np.zeros(20, np.int32)
    xid[5:] = 79  # a gauge that goes on showing it
    columns["xid"] = xid
    alerts, _ = run(Rules(RulesSettings(), Context(Budget())), columns, cut=3)
    assert [(a.key, a.severity, a.action, a.count) for a in alerts] == [("h/gpu0 xid 79", "critical", "RESTART_BM", 1)]
    log = {"time": np.arange(4) * S, "device": np.array(["gpu0"] * 4, object)}
    log["log"] = np.array(
        [
            "NVRM: Xid (PCI:0000:05:00): 95, pid=12, Uncontained ECC error", "usb 1-1: new device",
            "NVRM: Xid (PCI:0000:05:00): 95, pid=12, Uncontained ECC error", "NVRM: Xid (PCI:0000:05:00): 99999, pid=1",
        ],
        object,
    )  # fmt: skip
    worker_alerts, _ = run(Rules(RulesSettings(), Context(Budget())), log, cut=4)
    assert [(a.key, a.action) for a in worker_alerts] == [("h/gpu0 xid 95", "COMPONENT_RESET"), ("h/gpu0 xid 99999", "UNKNOWN")]


def test_a_gpu_that_says_it_slows_down():
    columns = fleet(40, 2)
    reasons = np.zeros(80, np.float32)
    reasons[(columns["device"] == "gpu1") & (columns["time"] >= 10 * S) & (columns["time"] < 20 * S)] = 0x40 + 4
    columns["metric.clocks_event_reasons"] = reasons
    for cut in (3, 80):
        alerts, _ = run(Rules(RulesSettings(throttle_quiet_s=5), Context(Budget())), columns, cut)
        assert [(a.key, a.status, a.severity) for a in alerts if a.key] == [
            ("h/gpu1 hardware thermal slowdown", "firing", "error"), ("h/gpu1 hardware thermal slowdown", "resolved", "error"),
        ]  # fmt: skip
        assert (alerts[0].onset_us, alerts[1].resolved_us, alerts[1].count) == (10 * S, 24 * S, 10)
