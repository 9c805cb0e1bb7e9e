"""OTLP as the OpenTelemetry SDK's own encoder writes it."""

from __future__ import annotations

import base64
import json

from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from streams.decode import Format, decode
from streams.decode.otlp import signal_of
from streams.records import Partition, RawBatch

RESOURCE = Resource.create({"service.name": "gateway", "host.name": "n1"})
CHAT = {
    "gen_ai.operation.name": "chat", "gen_ai.request.model": "llama", "gen_ai.system": "vllm", "user.id": "u7",
    "gen_ai.usage.prompt_tokens": 11, "gen_ai.usage.output_tokens": 22, "gen_ai.response.finish_reasons": ["stop"],
    "gen_ai.request.temperature": 0.25, "gen_ai.request.top_k": 40.0, "api_key": "k1",
}  # fmt: skip


def traces():
    exporter = InMemorySpanExporter()
    provider = TracerProvider(resource=RESOURCE)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("chat llama", attributes=CHAT) as span:
        span.add_event("gen_ai.evaluation.result", {"gen_ai.evaluation.name": "groundedness", "gen_ai.evaluation.score.value": 0.5})
        with tracer.start_as_current_span(
            "tools/call", attributes={"mcp.method.name": "tools/call", "gen_ai.tool.name": "send", "error.type": "tool_error"}
        ):
            pass
        with tracer.start_as_current_span("SELECT"):
            pass
    return encode_spans(exporter.get_finished_spans())


def rows(value: bytes, fmt: Format = Format()) -> dict[str, list[dict]]:  # noqa: B008 - frozen
    decoded = decode(RawBatch.of(Partition("t"), [value]), fmt)
    assert decoded.rejects == []
    return {part.stream: part.table.to_pylist() for part in decoded.rows}


def test_spans_become_rows_of_their_streams() -> None:
    found = rows(traces().SerializeToString())
    (chat,), (tool,), (evaluation,) = found["inference"], found["agent"], found["evaluation"]
    expected = {
        "principal": "u7", "model": "llama", "provider": "vllm", "operation": "chat", "input_tokens": 11, "output_tokens": 22, "top_k": 40,
        "temperature": 0.25, "finish_reason": "stop", "server": "gateway",
    }  # fmt: skip
    assert {k: chat[k] for k in expected} == expected
    assert chat["duration_s"] > 0
    assert (tool["operation"], tool["protocol"], tool["tool"], tool["error"]) == ("execute_tool", "mcp", "send", "tool_error")
    assert tool["session"] == chat["trace_id"].hex() and tool["parent_span_id"] == chat["span_id"]
    assert (evaluation["name"], evaluation["score"], evaluation["model"], evaluation["span_id"]) == (
        "groundedness",
        0.5,
        "llama",
        chat["span_id"],
    )


def test_a_span_with_an_evaluation_s_attributes_is_one() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(resource=RESOURCE)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    scores = {"gen_ai.evaluation.name": "relevance", "gen_ai.evaluation.score.value": 4.0, "gen_ai.evaluation.score.label": "pass"}
    with provider.get_tracer("test").start_as_current_span("evaluate", attributes=scores | {"gen_ai.request.model": "llama"}):
        pass
    with provider.get_tracer("test").start_as_current_span("chat llama", attributes=CHAT | scores):
        pass
    finished = exporter.get_finished_spans()
    found = rows(encode_spans(finished).SerializeToString())
    assert [(e["name"], e["score"], e["label"], e["model"]) for e in found["evaluation"]] == [("relevance", 4.0, "pass", "llama")] * 2
    assert [int(e["time"].timestamp() * 1e6) for e in found["evaluation"]] == [s.end_time // 1000 for s in finished]
    assert len(found["inference"]) == 1 and found.keys() == {"evaluation", "inference"}


def test_the_configured_attribute_is_the_principal() -> None:
    assert rows(traces().SerializeToString(), Format(principal=("none", "api_key")))["inference"][0]["principal"] == "k1"


def test_json_gives_the_same_rows() -> None:
    request = traces()
    document = MessageToDict(request)
    for group in document["resourceSpans"]:
        for scope in group["scopeSpans"]:
            for span in scope["spans"]:
                for key in ("traceId", "spanId", "parentSpanId"):
                    if key in span:
                        span[key] = base64.b64decode(span[key]).hex()
    assert rows(json.dumps(document).encode()) == rows(request.SerializeToString())


def test_gauges_of_one_device_make_one_row() -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], resource=RESOURCE).get_meter("test")
    for gpu in ("0", "1"):
        meter.create_gauge("DCGM_FI_DEV_GPU_TEMP").set(40 + int(gpu), {"gpu": gpu})
        meter.create_gauge("DCGM_FI_DEV_GPU_UTIL").set(50.0, {"gpu": gpu})
        meter.create_gauge("DCGM_FI_DEV_XID_ERRORS").set(79, {"gpu": gpu})
    meter.create_counter("unheard.of").add(1)
    value = encode_metrics(reader.get_metrics_data()).SerializeToString()
    assert signal_of(RawBatch.of(Partition("t"), [value]), 0) == "metrics"
    found = rows(value)["hardware"]
    assert {(r["host"], r["device"]) for r in found} == {("n1", "gpu0"), ("n1", "gpu1")}
    merged: dict[str, dict] = {}
    for row in found:
        merged.setdefault(row["device"], {}).update({k: v for k, v in row.items() if v is not None})
    assert merged["gpu1"]["metric.gpu_temp"] == 41.0 and merged["gpu1"]["metric.gpu_util"] == 0.5 and merged["gpu1"]["xid"] == 79


def test_kernel_lines_about_xids_become_rows() -> None:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    request = ExportLogsServiceRequest()
    group = request.resource_logs.add()
    group.resource.attributes.add(key="host.name").value.string_value = "n1"
    scope = group.scope_logs.add()
    for body in ("NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.", "eth0: link up"):
        record = scope.log_records.add(time_unix_nano=1_700_000_000_000_000_000)
        record.body.string_value = body
    value = request.SerializeToString()
    assert signal_of(RawBatch.of(Partition("t"), [value]), 0) == "logs"
    (row,) = rows(value)["hardware"]
    assert (row["host"], row["device"]) == ("n1", "0000:3b:00") and ": 79," in row["log"]


def test_a_truncated_request_is_rejected_and_no_other() -> None:
    value = traces().SerializeToString()
    decoded = decode(RawBatch.of(Partition("t"), [value[:-3], value]), Format(encoding="otlp_proto"))
    assert [(r.offset, r.reason) for r in decoded.rejects] == [(0, "protobuf")]
    assert {part.stream for part in decoded.rows} == {"inference", "agent", "evaluation"}
    assert all((part.offsets == 1).all() for part in decoded.rows)
