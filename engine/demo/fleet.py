"""A small simulated fleet: what dcgm-exporter would say of 4 hosts with 8 GPUs each, once a second, and the faults put into it.

The ranges are those of a published cluster: the quantiles of GPU and memory temperature, power and utilisation of "Kalos" (A100-80GB)
in AcmeTrace (Hu et al., NSDI 2024; github.com/InternLM/AcmeTrace, CC-BY-4.0): power 62 W (5th percentile) to 413 W (95th), GPU
25 to 62 C, memory 40 to 64 C, utilisation 0 to 100 %; the simulated GPUs run jobs, so they stay in the upper half of these. Clocks are
NVIDIA's for the A100: 1,410 MHz, slowed down for heat from 85 C.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import orjson

from engine.alerts import time_text
from engine.demo.record import Record

TOPIC = "demo.hardware"
HOSTS, GPUS = 4, 8
TICK_US = 1_000_000
IDLE_W, BUSY_W = 62.0, 413.0
ROOM_C, MEMORY_OVER_GPU_C = 21.0, 11.0
C_PER_W = 0.095
FULL_MHZ, HOT_C = 1410.0, 85.0
HEAT_TICKS, LOAD_TICKS = 45.0, 300.0
"""Ticks in which temperature follows power, and in which a job's load wanders."""
HW_THERMAL = 0x40
"""The bit of DCGM_FI_DEV_CLOCK_THROTTLE_REASONS for hardware thermal slowdown."""


@dataclass(frozen=True)
class Fault:
    """Something that breaks. `kind`: `xid79` (one error, then the GPU is off the bus), `throttle` (a fan fails: the GPU heats up and
    slows down) or `vanish` (its metrics just stop)."""

    kind: str
    host: int
    gpu: int
    start_us: int

    @property
    def device(self) -> str:
        """The key that alerts carry."""
        return f"{host_name(self.host)}/gpu{self.gpu}"


def host_name(host: int) -> str:
    """Name of the host of that number."""
    return f"node-{host:02d}"


class Fleet:
    """The state of all GPUs, advanced tick by tick. Arrays are float64[hosts, gpus]."""

    def __init__(self, start_us: int, faults: list[Fault], rng: np.random.Generator):
        self.next_us = start_us
        self.faults = faults
        self.rng = rng
        self.load = rng.uniform(0.75, 0.95, HOSTS)
        self.efficiency = rng.normal(1.0, 0.03, (HOSTS, GPUS))
        self.cooling = rng.normal(1.0, 0.06, (HOSTS, GPUS))
        self.power = np.full((HOSTS, GPUS), 330.0)
        self.temperature = ROOM_C + C_PER_W * self.power

    def records(self, until_us: int) -> Iterator[Record]:
        """The scrapes up to that time: one record per host and tick, a JSON line per GPU."""
        while self.next_us < until_us:
            self._tick()
            for host in range(HOSTS):
                lines = [orjson.dumps(row) for gpu in range(GPUS) if (row := self._row(host, gpu)) is not None]
                if lines:
                    yield Record(TOPIC, self.next_us, b"\n".join(lines), len(lines))
            self.next_us += TICK_US

    def _tick(self) -> None:
        noise = self.rng.normal
        self.load += (0.85 - self.load) / LOAD_TICKS + noise(0, 0.006, HOSTS)
        self.load = np.clip(self.load, 0.4, 1.0)
        self.busy = np.clip(self.load[:, None] + noise(0, 0.02, (HOSTS, GPUS)), 0, 1)
        self.clock = FULL_MHZ - 15.0 * self.rng.integers(0, 3, (HOSTS, GPUS))
        rise = C_PER_W * self.cooling
        for fault in self.faults:
            if fault.kind == "throttle" and self.next_us >= fault.start_us:
                rise[fault.host, fault.gpu] *= 2.4
                over = max(0.0, self.temperature[fault.host, fault.gpu] - HOT_C)
                self.clock[fault.host, fault.gpu] = max(735.0, FULL_MHZ - 120.0 * over)
        wanted = IDLE_W + (BUSY_W - IDLE_W) * self.busy * self.efficiency * (self.clock / FULL_MHZ)
        self.power += (wanted - self.power) * 0.5 + noise(0, 4.0, (HOSTS, GPUS))
        self.temperature += (ROOM_C + rise * self.power - self.temperature) / HEAT_TICKS + noise(0, 0.08, (HOSTS, GPUS))

    def _row(self, host: int, gpu: int) -> dict[str, object] | None:
        xid, throttle = 0, 0
        for fault in self.faults:
            since_us = self.next_us - fault.start_us
            if (fault.host, fault.gpu) != (host, gpu) or since_us < 0:
                continue
            if fault.kind == "vanish" or (fault.kind == "xid79" and since_us >= 2 * TICK_US):
                return None
            xid = 79 if fault.kind == "xid79" else xid
            throttle = HW_THERMAL if fault.kind == "throttle" and self.clock[host, gpu] < FULL_MHZ - 60 else throttle
        busy, watt, celsius = (float(a[host, gpu]) for a in (self.busy, self.power, self.temperature))
        small = self.rng.normal(0, 1, 6).tolist()
        return {
            "time": time_text(self.next_us), "host": host_name(host), "device": f"gpu{gpu}", "sku": "A100-SXM4-80GB", "xid": xid,
            "metric.gpu_temp": round(celsius), "metric.memory_temp": round(celsius + MEMORY_OVER_GPU_C + 0.5 * small[0]),
            "metric.power_usage": round(watt, 1), "metric.gpu_util": round(min(1.0, busy + 0.02 * small[1]), 2),
            "metric.sm_clock": float(self.clock[host, gpu]), "metric.sm_active": round(float(0.8 * busy + 0.01 * small[2]), 3),
            "metric.tensor_active": round(float(0.45 * busy + 0.01 * small[3]), 3),
            "metric.dram_active": round(float(0.5 * busy + 0.01 * small[4]), 3),
            "metric.nvlink_bandwidth": round(float(busy * 1.1e11 * (1 + 0.02 * small[5]))), "metric.clocks_event_reasons": throttle,
        }  # fmt: skip
