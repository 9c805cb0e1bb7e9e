"""OTLP metrics from OpenTelemetry's own SDK, in both temporalities, up to the rates that the detectors see."""

from __future__ import annotations

import numpy as np
import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, UpDownCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource

from engine import counters
from engine.batch import Batch
from engine.schema import align
from engine.state import State
from streams.decode import Format, decode
from streams.records import Partition, RawBatch

RESOURCE = Resource({"service.name": "vllm", "host.name": "n1"})
DELTA = dict.fromkeys((Counter, Histogram, UpDownCounter), AggregationTemporality.DELTA)
MODEL = {"gen_ai.request.model": "llama"}


def exported(reader: InMemoryMetricReader) -> bytes:
    return encode_metrics(reader.get_metrics_data()).SerializeToString()


def batches(values: list[bytes]) -> tuple[list[Batch], State]:
    """Each record decoded, aligned and rated, as the engine does."""
    state = State()
    state.declare(counters.ARRAYS)
    found = []
    for k, value in enumerate(values):
        raw = RawBatch.of(Partition("t"), [value], first_offset=k)
        decoded = decode(raw, Format())
        assert decoded.rejects == []
        for rows in decoded.rows:
            batch, misfits = align(rows, raw, state, 1 << 60, 0)
            assert misfits == [] and batch is not None
            found.append(counters.rated(batch, state))
    return found, state


@pytest.mark.parametrize("preferred", [{}, DELTA], ids=["cumulative", "delta"])
@pytest.mark.parametrize("views", [[], [View(instrument_type=Histogram, aggregation=ExponentialBucketHistogramAggregation())]])
def test_counters_and_histograms_become_rates_and_means(preferred, views) -> None:
    reader = InMemoryMetricReader(preferred_temporality=preferred)
    meter = MeterProvider([reader], resource=RESOURCE, views=views).get_meter("t")
    tokens, ttft = meter.create_counter("vllm_prompt_tokens"), meter.create_histogram("gen_ai.server.time_to_first_token")
    values = []
    for step in range(3):
        for reason in ("stop", "length"):
            tokens.add(50, MODEL | {"reason": reason})
            ttft.record(0.25 * (step + 1), MODEL | {"reason": reason})
        values.append(exported(reader))
    found, _ = batches(values)
    assert [b.table.column("device").to_pylist() for b in found] == [["llama"]] * 3
    assert found[0].table.column("host").to_pylist() == ["n1"]
    ttfts = np.concatenate([b.floats("metric.ttft") for b in found])
    assert ttfts[1:].tolist() == [0.5, 0.75]
    times = np.concatenate([b.time_us for b in found])
    gained = np.array([b.floats("metric.prompt_tokens")[0] for b in found[1:]]) * np.diff(times) / 1e6
    np.testing.assert_allclose(gained, [100, 100], rtol=0.2 if preferred else 1e-3)
    assert all(("metric.ttft" in b.sparse) == bool(preferred) for b in found)


def test_gauges_of_other_kinds_than_the_registry_says_are_nobodys() -> None:
    reader = InMemoryMetricReader(preferred_temporality=DELTA)
    meter = MeterProvider([reader], resource=RESOURCE).get_meter("t")
    meter.create_up_down_counter("hw.gpu.memory.usage").add(1 << 20, {"hw.id": "g"})
    meter.create_histogram("hw.power").record(3, {"hw.id": "g"})
    meter.create_gauge("gen_ai.server.request.duration").set(3)
    assert batches([exported(reader)])[0] == []


def test_hardware_metrics_by_semantic_conventions() -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], resource=RESOURCE).get_meter("t")
    meter.create_up_down_counter("hw.gpu.memory.usage").add(3 << 20, {"hw.id": "g"})
    meter.create_gauge("hw.gpu.utilization").set(0.5, {"hw.id": "g"})
    for state, on in (("ok", 0), ("degraded", 1), ("failed", 0)):
        meter.create_up_down_counter("hw.status").add(on, {"hw.id": "g", "hw.state": state})
    meter.create_counter("hw.errors").add(2, {"hw.id": "g", "error.type": "ecc"})
    (batch,), _ = batches([exported(reader)])
    row = batch.table.to_pylist()[0]
    assert (row["metric.fb_used"], row["metric.gpu_util"], row["metric.status"], row["device"]) == (3.0, 0.5, 1.0, "g")
    assert row["metric.errors"] is None and batch.arrived["metric.errors"].all()
