"""Names of metrics on the wire, and the canonical `metric.<name>` they become: DCGM by field id, vLLM, SGLang, Triton, OpenTelemetry.

DCGM renamed its fields in 4.6 and the exporter still emits the old names, so the numeric id is the key and both names are aliases.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One metric. `kind`: gauge, counter (becomes a rate per second, resets handled) or histogram (becomes the mean of what came in
    between). `scale` multiplies into `unit`. Several points of one device and moment are added up; of gauges the greatest counts."""

    name: str
    aliases: tuple[str, ...]
    kind: str
    unit: str
    source: str
    scale: float = 1.0
    field_id: int | None = None


def _dcgm(rows: str) -> list[Metric]:
    """Rows `id NAME canonical kind unit [scale]`; the exporter's name is DCGM_FI_ + group + NAME."""
    metrics = []
    for line in rows.strip().splitlines():
        number, names, canonical, kind, unit, *scale = line.split()
        group = "PROF" if 1000 <= int(number) < 1100 else "DEV"
        aliases = tuple(f"DCGM_FI_{group}_{name}" for name in names.split(",")) + tuple(names.split(",")) + (f"dcgm.{number}",)
        metrics.append(Metric(canonical, aliases, kind, unit, "DCGM 4.6.0", float(scale[0]) if scale else 1.0, int(number)))
    return metrics


DCGM = _dcgm("""
100 SM_CLOCK sm_clock gauge MHz
101 MEM_CLOCK mem_clock gauge MHz
112 CLOCKS_EVENT_REASONS,CLOCK_THROTTLE_REASONS clocks_event_reasons gauge 1
140 MEMORY_TEMP memory_temp gauge Cel
150 GPU_TEMP gpu_temp gauge Cel
155 POWER_USAGE power_usage gauge W
202 PCIE_REPLAY_COUNTER pcie_replay counter 1/s
203 GPU_UTIL gpu_util gauge 1 .01
230 XID_ERRORS xid_errors gauge 1
235 PCIE_MAX_LINK_GEN pcie_max_gen gauge 1
236 PCIE_MAX_LINK_WIDTH pcie_max_width gauge 1
237 PCIE_LINK_GEN pcie_gen gauge 1
238 PCIE_LINK_WIDTH pcie_width gauge 1
240 POWER_VIOLATION power_violation counter 1 1e-9
241 THERMAL_VIOLATION thermal_violation counter 1 1e-9
251 FB_FREE fb_free gauge MiBy
252 FB_USED fb_used gauge MiBy
310 ECC_SBE_VOL_TOTAL ecc_sbe_volatile counter 1/s
311 ECC_DBE_VOL_TOTAL ecc_dbe_volatile counter 1/s
312 ECC_SBE_AGG_TOTAL ecc_sbe_aggregate counter 1/s
313 ECC_DBE_AGG_TOTAL ecc_dbe_aggregate counter 1/s
390 RETIRED_SBE retired_pages_sbe gauge 1
391 RETIRED_DBE retired_pages_dbe gauge 1
392 RETIRED_PENDING retired_pages_pending gauge 1
393 UNCORRECTABLE_REMAPPED_ROWS remapped_rows_uncorrectable gauge 1
394 CORRECTABLE_REMAPPED_ROWS remapped_rows_correctable gauge 1
395 ROW_REMAP_FAILURE row_remap_failure gauge 1
396 ROW_REMAP_PENDING row_remap_pending gauge 1
409 NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL nvlink_crc_flit counter 1/s
419 NVLINK_CRC_DATA_ERROR_COUNT_TOTAL nvlink_crc_data counter 1/s
429 NVLINK_REPLAY_ERROR_COUNT_TOTAL nvlink_replay counter 1/s
439 NVLINK_RECOVERY_ERROR_COUNT_TOTAL nvlink_recovery counter 1/s
449 NVLINK_BANDWIDTH_TOTAL nvlink_bandwidth counter By/s
856 NVSWITCH_FATAL_ERRORS sxid_fatal gauge 1
857 NVSWITCH_NON_FATAL_ERRORS sxid_nonfatal gauge 1
1001 GR_ENGINE_ACTIVE gr_engine_active gauge 1
1002 SM_ACTIVE sm_active gauge 1
1004 PIPE_TENSOR_ACTIVE,TENSOR_ACTIVE tensor_active gauge 1
1005 DRAM_ACTIVE dram_active gauge 1
1216 NVLINK_SYMBOL_BER nvlink_symbol_ber gauge 1
1218 NVLINK_EFFECTIVE_BER nvlink_effective_ber gauge 1
1420 CLOCKS_EVENT_REASON_SW_POWER_CAP_NS clock_event_sw_power counter 1 1e-9
1421 CLOCKS_EVENT_REASON_SYNC_BOOST_NS clock_event_sync_boost counter 1 1e-9
1422 CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN_NS clock_event_sw_thermal counter 1 1e-9
1423 CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN_NS clock_event_hw_thermal counter 1 1e-9
1424 CLOCKS_EVENT_REASON_HW_POWER_BRAKE_NS clock_event_hw_power_brake counter 1 1e-9
1501 PCIE_CORRECTABLE_ERROR_TOTAL pcie_correctable counter 1/s
1507 MEMORY_UNREPAIRABLE memory_unrepairable gauge 1
1523 GPU_RECOVERY_ACTION gpu_recovery_action gauge 1
""")


def _serving(prefix: str, source: str, rows: str) -> list[Metric]:
    """Rows `canonical kind unit scale name[,old name]...`."""
    metrics = []
    for line in rows.strip().splitlines():
        canonical, kind, unit, scale, names = line.split()
        metrics.append(Metric(canonical, tuple(prefix + n for n in names.split(",")), kind, unit, source, float(scale)))
    return metrics


def _histograms(prefix: str, source: str, names: dict[str, str]) -> list[Metric]:
    """A histogram gives two counters; what is watched is the mean of what came in between: sum rate over count rate."""
    return [Metric(canonical, (prefix + name,), "histogram", "s", source) for name, canonical in names.items()]


SERVING = [
    *_serving("vllm:", "vLLM", """
requests_running gauge 1 1 num_requests_running
requests_waiting gauge 1 1 num_requests_waiting
kv_cache_usage gauge 1 1 kv_cache_usage_perc,gpu_cache_usage_perc
prefix_cache_queries counter 1/s 1 prefix_cache_queries,prefix_cache_queries_total
prefix_cache_hits counter 1/s 1 prefix_cache_hits,prefix_cache_hits_total
preemptions counter 1/s 1 num_preemptions_total,num_preemptions
prompt_tokens counter 1/s 1 prompt_tokens_total,prompt_tokens
generation_tokens counter 1/s 1 generation_tokens_total,generation_tokens
requests_finished counter 1/s 1 request_success_total,request_success
"""),
    *_histograms("vllm:", "vLLM", {
        "time_to_first_token_seconds": "ttft", "inter_token_latency_seconds": "inter_token_latency",
        "time_per_output_token_seconds": "inter_token_latency", "request_time_per_output_token_seconds": "request_time_per_output_token",
        "e2e_request_latency_seconds": "request_latency", "request_queue_time_seconds": "queue_time",
        "request_prefill_time_seconds": "prefill_time", "request_decode_time_seconds": "decode_time",
    }),
    *_serving("sglang:", "SGLang", """
requests_running gauge 1 1 num_running_reqs
requests_waiting gauge 1 1 num_queue_reqs
used_tokens gauge 1 1 num_used_tokens
kv_cache_usage gauge 1 1 token_usage
cache_hit_rate gauge 1 1 cache_hit_rate
generation_throughput gauge 1/s 1 gen_throughput
prompt_tokens counter 1/s 1 prompt_tokens_total,prompt_tokens
generation_tokens counter 1/s 1 generation_tokens_total,generation_tokens
"""),
    *_histograms("sglang:", "SGLang", {
        "time_to_first_token_seconds": "ttft", "inter_token_latency_seconds": "inter_token_latency",
        "e2e_request_latency_seconds": "request_latency",
    }),
    *_serving("nv_", "Triton Inference Server", """
requests_finished counter 1/s 1 inference_request_success
requests_failed counter 1/s 1 inference_request_failure
inferences counter 1/s 1 inference_count
executions counter 1/s 1 inference_exec_count
requests_waiting gauge 1 1 inference_pending_request_count
request_time counter 1 1e-6 inference_request_duration_us
queue_busy counter 1 1e-6 inference_queue_duration_us
compute_busy counter 1 1e-6 inference_compute_infer_duration_us
gpu_util gauge 1 1 gpu_utilization
power_usage gauge W 1 gpu_power_usage
fb_used gauge MiBy 9.5367431640625e-07 gpu_memory_used_bytes
"""),
    Metric("ttft", ("nv_inference_first_response_histogram_ms",), "histogram", "s", "Triton Inference Server", 1e-3),
]  # fmt: skip

OPENTELEMETRY = [
    Metric("gpu_util", ("hw.gpu.utilization",), "gauge", "1", "OpenTelemetry hw.*"),
    Metric("memory_util", ("hw.gpu.memory.utilization",), "gauge", "1", "OpenTelemetry hw.*"),
    Metric("fb_used", ("hw.gpu.memory.usage",), "gauge", "MiBy", "OpenTelemetry hw.*", 2.0**-20),
    Metric("memory_limit", ("hw.gpu.memory.limit",), "gauge", "MiBy", "OpenTelemetry hw.*", 2.0**-20),
    Metric("gpu_io", ("hw.gpu.io",), "counter", "By/s", "OpenTelemetry hw.*"),
    Metric("errors", ("hw.errors",), "counter", "1/s", "OpenTelemetry hw.*"),
    Metric("power_usage", ("hw.power",), "gauge", "W", "OpenTelemetry hw.*"),
    Metric("gpu_temp", ("hw.temperature",), "gauge", "Cel", "OpenTelemetry hw.*"),
    Metric("status", ("hw.status",), "gauge", "1", "OpenTelemetry hw.*"),
    *(Metric(canonical, (name,), "histogram", unit, "OpenTelemetry GenAI and MCP") for name, canonical, unit in (
        ("gen_ai.client.token.usage", "tokens_per_call", "1"),
        ("gen_ai.client.operation.duration", "client_latency", "s"),
        ("gen_ai.client.operation.time_to_first_chunk", "client_ttft", "s"),
        ("gen_ai.client.operation.time_per_output_chunk", "client_chunk_latency", "s"),
        ("gen_ai.server.request.duration", "request_latency", "s"),
        ("gen_ai.server.time_to_first_token", "ttft", "s"),
        ("gen_ai.server.time_per_output_token", "inter_token_latency", "s"),
        ("mcp.client.operation.duration", "mcp_client_latency", "s"),
        ("mcp.client.session.duration", "mcp_client_session", "s"),
        ("mcp.server.operation.duration", "mcp_server_latency", "s"),
        ("mcp.server.session.duration", "mcp_server_session", "s"),
    )),
]  # fmt: skip

PROMETHEUS = [Metric("up", ("up",), "gauge", "1", "Prometheus"),
              Metric("scrape_duration", ("scrape_duration_seconds",), "gauge", "s", "Prometheus")]  # fmt: skip
"""What a scrape says of itself. `up` 0: the target did not answer, and what it would have said is missing."""

HW_STATES = {"ok": 0.0, "degraded": 1.0, "predicted_failure": 2.0, "failed": 3.0}
"""`hw.status` has a point for each state, 1 for the one that holds; the canonical metric is how bad that state is."""


def spellings(name: str, unit: str) -> set[str]:
    """How a metric is written: as it stands, in small letters (OpenTelemetry's SDK), and as Prometheus has names with dots or colons.

    >>> sorted(spellings("hw.gpu.utilization", "1"))
    ['hw.gpu.utilization', 'hw_gpu_utilization', 'hw_gpu_utilization_ratio']
    """
    found = {name, name.lower()}
    if ":" in name:
        found.add(name.replace(":", "_"))
    if "." in name and not name.startswith("dcgm."):
        flat = name.replace(".", "_")
        found |= {flat, flat + PROMETHEUS_UNITS.get(unit, "")}
    return found


PROMETHEUS_UNITS = {"1": "_ratio", "s": "_seconds", "MiBy": "_bytes", "By/s": "_bytes", "W": "_watts", "Cel": "_celsius"}

METRICS: dict[str, Metric] = {
    spelling: metric
    for metric in (*DCGM, *SERVING, *OPENTELEMETRY, *PROMETHEUS)
    for alias in metric.aliases
    for spelling in spellings(alias, metric.unit)
}
"""Every metric by every name it has on the wire.

>>> METRICS["DCGM_FI_DEV_GPU_TEMP"].name, METRICS["vllm:gpu_cache_usage_perc"].name, METRICS["hw_temperature_celsius"].name
('gpu_temp', 'kv_cache_usage', 'gpu_temp')
"""
