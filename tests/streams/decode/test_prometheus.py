"""Prometheus text as real clients write it, as servers are documented to write it, and damaged."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from streams.decode import Format, decode
from streams.decode.sniff import encodings_of
from streams.records import Headers, Partition, RawBatch

NOW_MS = 1_700_000_000_000
DCGM = b"""# HELP DCGM_FI_DEV_GPU_TEMP GPU temperature (in C).
# TYPE DCGM_FI_DEV_GPU_TEMP gauge
DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-1b",pci_bus_id="00000000:3B:00.0",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="n1"} 41
DCGM_FI_DEV_GPU_TEMP{gpu="1",UUID="GPU-2c",pci_bus_id="00000000:5E:00.0",device="nvidia1",modelName="NVIDIA H100 80GB HBM3",Hostname="n1"} 62
# TYPE DCGM_FI_DEV_PCIE_REPLAY_COUNTER counter
DCGM_FI_DEV_PCIE_REPLAY_COUNTER{gpu="0",UUID="GPU-1b",Hostname="n1",modelName="NVIDIA H100 80GB HBM3"} 7
DCGM_FI_DEV_XID_ERRORS{gpu="1",UUID="GPU-2c",Hostname="n1",modelName="NVIDIA H100 80GB HBM3",err_code="79",err_msg="GPU has fallen off the bus"} 79
DCGM_FI_PROF_SM_ACTIVE{gpu="1",UUID="GPU-2c",GPU_I_PROFILE="1g.10gb",GPU_I_ID="7",Hostname="n1"} 0.25
"""
VLLM = b"""# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="llama"} 8.0
vllm:gpu_cache_usage_perc{engine="0",model_name="llama"} 0.5
vllm:prompt_tokens_total{engine="0",model_name="llama"} 1.23456789e+08
vllm:request_success_total{engine="0",finished_reason="stop",model_name="llama"} 10.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="llama"} 2.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="llama"} 0.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="llama"} 12.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="llama"} 12.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="llama"} 3.5
vllm:time_to_first_token_seconds_created{engine="0",model_name="llama"} 1.7e+09
"""
SGLANG = b"""sglang:num_running_reqs{engine_type="unified",model_name="qwen",pp_rank="0",tp_rank="0"} 3
sglang:token_usage{engine_type="unified",model_name="qwen",pp_rank="0",tp_rank="0"} .28
sglang:gen_throughput{engine_type="unified",model_name="qwen",pp_rank="0",tp_rank="0"} 86.5
"""
TRITON = b"""nv_inference_request_success{model="resnet",version="1"} 100
nv_inference_request_failure{model="resnet",reason="OTHER",version="1"} 1
nv_inference_request_failure{model="resnet",reason="BACKEND",version="1"} 2
nv_inference_request_duration_us{model="resnet",version="1"} 2500000
nv_gpu_memory_used_bytes{gpu_uuid="GPU-9"} 1048576
"""


def read(*values: bytes, stamp_ms: int = NOW_MS, headers: list[Headers] | None = None):
    stamps = np.full(len(values), stamp_ms, np.int64)
    return decode(RawBatch.of(Partition("t"), list(values), timestamps_ms=stamps, headers=headers), Format())


def rows(*values: bytes, **more) -> dict[str, dict]:
    decoded = read(*values, **more)
    assert decoded.rejects == []
    return {r["device"]: {k: v for k, v in r.items() if v is not None} for part in decoded.rows for r in part.table.to_pylist()}


def test_dcgm_exporter() -> None:
    found = rows(DCGM)
    assert found["GPU-1b"]["metric.gpu_temp"] == 41 and found["GPU-1b"]["metric.pcie_replay_total"] == 7
    assert found["GPU-2c"]["xid"] == 79 and found["GPU-2c"]["host"] == "n1" and found["GPU-2c"]["sku"] == "NVIDIA H100 80GB HBM3"
    assert found["GPU-2c:GPU_I_ID=7"]["metric.sm_active"] == 0.25
    assert found["GPU-1b"]["time"].timestamp() * 1000 == NOW_MS


def test_serving_metrics_old_names_and_new() -> None:
    labels = [((("telltale-labels"), b'{"instance": "10.0.0.1:8000", "rack": "r1"}'),)]
    llama = rows(VLLM, headers=labels)["llama"]
    assert llama == {
        "time": llama["time"], "host": "10.0.0.1:8000", "device": "llama", "rack": "r1", "metric.requests_running": 8.0,
        "metric.kv_cache_usage": 0.5, "metric.prompt_tokens_total": 123_456_789.0, "metric.requests_finished_total": 12.0,
        "metric.ttft_count_total": 12.0, "metric.ttft_sum_total": 3.5,
    }  # fmt: skip
    qwen = rows(SGLANG, headers=labels)["qwen"]
    assert qwen["metric.requests_running"] == 3 and qwen["metric.generation_throughput"] == 86.5
    triton = rows(TRITON, headers=labels)
    assert (
        triton["resnet:version=1"]["metric.requests_failed_total"] == 3 and triton["resnet:version=1"]["metric.request_time_total"] == 2.5
    )
    assert triton["GPU-9"]["metric.fb_used"] == 1


def test_an_old_and_a_new_name_of_one_thing_count_once() -> None:
    both = VLLM + b'vllm:kv_cache_usage_perc{engine="0",model_name="llama"} 0.6\n'
    both += b'vllm:prompt_tokens{engine="0",model_name="llama"} 9\n'
    found = rows(both, headers=[(("telltale-labels", b'{"instance": "i"}'),)])["llama"]
    assert found["metric.kv_cache_usage"] == 0.5 and found["metric.prompt_tokens_total"] == 123_456_789.0


@pytest.mark.parametrize("write", [generate_latest, generate_openmetrics])
def test_what_the_real_client_writes(write) -> None:
    registry = CollectorRegistry()
    Gauge("DCGM_FI_DEV_POWER_USAGE", "W", ["gpu", "Hostname"], registry=registry).labels("0", 'n"1\\\n').set(312.5)
    Counter("vllm:generation_tokens", "t", ["model_name"], registry=registry).labels("m").inc(17, {"trace_id": "ab"})
    ttft = Histogram("vllm:time_to_first_token_seconds", "s", ["model_name"], registry=registry)
    ttft.labels("m").observe(0.25, {"trace_id": "cd"})
    Gauge("nobody_knows", "?", registry=registry).set(1)
    text = write(registry)
    found = rows(text, headers=[(("telltale-labels", b'{"instance": "i"}'),)])
    assert found["gpu0"]["metric.power_usage"] == 312.5 and found["gpu0"]["host"] == 'n"1\\\n'
    assert found["m"]["metric.generation_tokens_total"] == 17 and found["m"]["metric.ttft_sum_total"] == 0.25
    assert found["m"]["metric.ttft_count_total"] == 1


def test_timestamps_of_both_formats_and_none() -> None:
    old = rows(b'DCGM_FI_DEV_GPU_TEMP{gpu="0",Hostname="n"} 41 1600000000123\n')["gpu0"]["time"]
    new = rows(b'# TYPE DCGM_FI_DEV_GPU_TEMP gauge\nDCGM_FI_DEV_GPU_TEMP{gpu="0",Hostname="n"} 41 1600000000.123\n# EOF\n')["gpu0"]["time"]
    assert old == new and old.timestamp() == 1600000000.123
    decoded = read(DCGM, stamp_ms=-1)
    assert [r.reason for r in decoded.rejects] == ["time"] and decoded.rows == []


def test_quoted_names_and_odd_spacing() -> None:
    text = b'{"hw.gpu.utilization", "hw.id"="g1" , host.name = "n"}   0.5  \r\n\n  DCGM_FI_DEV_GPU_TEMP { gpu = "0", Hostname="a}b" } 3\n'
    found = rows(b"# TYPE x gauge\n" + text)
    assert found["g1"]["metric.gpu_util"] == 0.5 and found["g1"]["host"] == "n" and found["gpu0"]["host"] == "a}b"


def test_a_status_is_how_bad_the_state_is() -> None:
    text = b'# TYPE hw_status gauge\nhw_status{hw_id="g",host_name="n",hw_state="ok"} 0\nhw_status{hw_id="g",host_name="n",hw_state="degraded"} 1\n'
    assert rows(text)["g"]["metric.status"] == 1


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"?x 1", "no metric name"), (b'a{b="c 1', "labels that do not end"), (b"DCGM_FI_DEV_GPU_TEMP", "no value"), (b"a 1 2 3", "more than"),
        (b'DCGM_FI_DEV_GPU_TEMP{gpu="0"} x', "a number"), (b'DCGM_FI_DEV_GPU_TEMP{gpu=0} 1', "labels that are none"),
        (b'DCGM_FI_DEV_GPU_TEMP{gpu="\xff"} 1', "a text"), (b'DCGM_FI_DEV_GPU_TEMP{gpu="0"} 1 1e3', "a number"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_sample_is_told_and_the_others_used(line: bytes, why: str) -> None:
    decoded = read(DCGM + line + b"\n")
    (reject,) = decoded.rejects
    assert reject.reason == "prometheus" and reject.detail.startswith("line 9, byte ")
    assert len(DCGM) <= int(re.findall(r"\d+", reject.detail)[1]) <= len(DCGM) + len(line)
    assert why in reject.detail and "1 such" in reject.detail
    assert decoded.rows[0].table.num_rows == 3


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_rejected_never_worse(data: st.DataObject) -> None:
    value = bytearray(data.draw(st.sampled_from([DCGM, VLLM, TRITON])))
    for _ in range(data.draw(st.integers(1, 6))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    decoded = decode(RawBatch.of(Partition("t"), [bytes(value)], timestamps_ms=np.array([1])), Format(encoding="prometheus"))
    assert all(r.reason in ("prometheus", "time") for r in decoded.rejects)


NAMES = st.sampled_from(["DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_POWER_USAGE", "unknown:x"])
LABELS = st.dictionaries(st.sampled_from(["gpu", "Hostname", "x"]), st.text(st.characters(codec="utf-8"), max_size=6), max_size=3)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(NAMES, LABELS, st.floats(allow_nan=False, width=16)), max_size=6))
def test_the_clients_own_parser_finds_the_same(samples) -> None:
    registry = {}
    lines = []
    for name, labels, value in samples:
        escaped = {k: v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for k, v in labels.items()}
        lines.append(name + "{" + ",".join(f'{k}="{v}"' for k, v in escaped.items()) + "} " + repr(value))
    text = "".join(line + "\n" for line in lines)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            registry.setdefault(sample.name, []).append(sample.value)
    raw = RawBatch.of(Partition("t"), [text.encode() or b"\n"], timestamps_ms=np.array([1]))
    decoded = decode(raw, Format(encoding="prometheus"))
    assert decoded.rejects == []
    temps = [r.get("metric.gpu_temp") for part in decoded.rows for r in part.table.to_pylist()]
    finite = [v for v in registry.get("DCGM_FI_DEV_GPU_TEMP", []) if np.isfinite(v)]
    assert max((t for t in temps if t is not None), default=None) == max(finite, default=None)


def test_it_is_recognised_by_content_and_by_header() -> None:
    for value in (DCGM, VLLM, SGLANG, TRITON, b'DCGM_FI_DEV_GPU_TEMP{gpu="0"} 1\n', b"up 1\n"):
        raw = RawBatch.of(Partition("t"), [value])
        assert [k[0] for k in encodings_of(raw, np.array([0]), Format())] == ["prometheus"], value
    raw = RawBatch.of(Partition("t"), [b"up 1"], headers=[(("content-type", b"text/plain; version=0.0.4"),)])
    assert [k[0] for k in encodings_of(raw, np.array([0]), Format())] == ["prometheus"]
