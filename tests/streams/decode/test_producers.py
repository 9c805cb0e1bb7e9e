"""Spans and log events as real instrumentations make them: OpenInference's of the OpenAI client, the MCP SDK's own, OpenTelemetry's log SDK."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from streams.decode import Format, decode
from streams.decode.bentoml import monitored_row
from streams.records import Partition, RawBatch

RESOURCE = Resource({"service.name": "gateway", "host.name": "n1"})
ANSWER = {
    "id": "c1", "object": "chat.completion", "created": 1, "model": "llama-3-8b",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 2}},
}  # fmt: skip


def tracing() -> tuple[InMemorySpanExporter, TracerProvider]:
    exporter, provider = InMemorySpanExporter(), TracerProvider(resource=RESOURCE)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter, provider


def rows(value: bytes) -> dict[str, list[dict]]:
    decoded = decode(RawBatch.of(Partition("t"), [value]), Format())
    assert decoded.rejects == []
    found: dict[str, list[dict]] = {}
    for part in decoded.rows:
        found.setdefault(part.stream, []).extend({k: v for k, v in r.items() if v is not None} for r in part.table.to_pylist())
    return found


class Model(BaseHTTPRequestHandler):
    """Answers as OpenAI's API does."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps(ANSWER).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def model() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_openinference_of_the_openai_client(model: str) -> None:
    openai = pytest.importorskip("openai")
    instrumentation = pytest.importorskip("openinference.instrumentation.openai")
    from openinference.instrumentation import using_attributes

    exporter, provider = tracing()
    instrumentor = instrumentation.OpenAIInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        with openai.OpenAI(base_url=model, api_key="x") as client, using_attributes(user_id="u7", session_id="s1"):
            client.chat.completions.create(model="llama", messages=[{"role": "user", "content": "q"}], max_tokens=5)
    finally:
        instrumentor.uninstrument()
    (chat,) = rows(encode_spans(exporter.get_finished_spans()).SerializeToString())["inference"]
    expected = {
        "principal": "u7", "session": "s1", "operation": "chat", "model": "llama-3-8b", "input_tokens": 7, "output_tokens": 3,
        "cached_tokens": 2, "server": "gateway",
    }  # fmt: skip
    assert {k: chat.get(k) for k in expected} == expected and chat["duration_s"] > 0


def test_the_mcp_sdks_own_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    mcp = pytest.importorskip("mcp")
    from mcp.server.mcpserver import MCPServer
    from mcp.shared import _otel

    exporter, provider = tracing()
    monkeypatch.setattr(_otel, "_tracer", provider.get_tracer("mcp-python-sdk"))
    server = MCPServer("tools", log_level="CRITICAL")

    @server.tool()
    def add(a: int, b: int) -> int:
        return a + b

    @server.tool()
    def fail() -> int:
        raise ValueError("no")

    async def talk() -> None:
        async with mcp.Client(server) as client:
            await client.list_tools()
            await client.call_tool("add", {"a": 1, "b": 2})
            await client.call_tool("fail", {})

    logging.disable(logging.CRITICAL)
    try:
        asyncio.run(talk())
    finally:
        logging.disable(logging.NOTSET)
    found = rows(encode_spans(exporter.get_finished_spans()).SerializeToString())["agent"]
    calls = [r for r in found if r.get("tool")]
    assert [(r["operation"], r["tool"], r.get("error"), r["protocol"], r["method"]) for r in calls] == [
        ("execute_tool", "add", None, "mcp", "tools/call"), ("execute_tool", "fail", "tool_error", "mcp", "tools/call"),
    ]  # fmt: skip
    assert "tools/list" in {r["operation"] for r in found} and all(r["session"] for r in found)


def test_log_events_of_the_sdk() -> None:
    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

    exporter, provider = InMemoryLogRecordExporter(), LoggerProvider(resource=RESOURCE)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    logger = provider.get_logger("t")

    def emit(name: str | None, attributes: dict, body: str | None = None) -> None:
        logger.emit(LogRecord(
            timestamp=1_700_000_000_000_000_000, event_name=name, attributes=attributes, body=body, severity_number=SeverityNumber.INFO,
        ))  # fmt: skip

    emit("gen_ai.evaluation.result", {
        "gen_ai.evaluation.name": "groundedness", "gen_ai.evaluation.score.value": 0.5, "gen_ai.evaluation.score.label": "pass",
        "gen_ai.request.model": "llama",
    })  # fmt: skip
    emit("gen_ai.client.inference.operation.details", {
        "gen_ai.operation.name": "chat", "gen_ai.request.model": "llama", "gen_ai.usage.input_tokens": 9, "user.id": "u1",
    })  # fmt: skip
    emit(None, {}, "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.")
    emit("gen_ai.user.message", {"gen_ai.system": "openai"}, "hi")
    found = rows(encode_logs(exporter.get_finished_logs()).SerializeToString())
    assert [(r["name"], r["score"], r["label"], r["model"]) for r in found["evaluation"]] == [("groundedness", 0.5, "pass", "llama")]
    assert [(r["principal"], r["input_tokens"]) for r in found["inference"]] == [("u1", 9)] and "duration_s" not in found["inference"][0]
    assert [r["device"] for r in found["hardware"]] == ["0000:3b:00"] and found.keys() == {"evaluation", "inference", "hardware"}


def test_bentomls_monitor() -> None:
    value = (Path(__file__).parent / "samples" / "bentoml-1.4.40.binpb").read_bytes()
    found = rows(value)["inference"]
    kept = [(r["model"], r["provider"], r["feature.sepal length"], r["feature.region"], r["predicted"], r["outcome"]) for r in found]
    assert kept == [
        ("iris_classifier_prediction", "bentoml", 4.9, "eu", "setosa", "setosa"),
        ("iris_classifier_prediction", "bentoml", 6.5, "eu", "virginica", "virginica"),
    ]
    assert all(r["time"] and r["principal"] == r["server"] for r in found)


@pytest.mark.parametrize("body", ["text", {}, {"bento_meta": 1}, {"bento_meta": {"schema": [1]}}, {"bento_meta": {"schema": {"a": 1}}}])
def test_what_bentoml_would_not_write_is_no_row_or_a_bare_one(body) -> None:
    row = monitored_row(body, {"service.name": "s"}, (), 1000)
    assert row is None or {k: v for k, v in row.items() if v is not None} == {
        "time": 1,
        "provider": "bentoml",
        "server": "s",
        "principal": "s",
    }


def test_openllmetrys_names() -> None:
    exporter, provider = tracing()
    tracer = provider.get_tracer("t")
    old = {"gen_ai.system": "openai", "gen_ai.request.model": "m", "gen_ai.usage.prompt_tokens": 4, "llm.is_streaming": True,
           "llm.request.type": "completion"}  # fmt: skip
    with tracer.start_as_current_span("openai.completion", attributes=old):
        pass
    kind = {"traceloop.span.kind": "tool", "traceloop.entity.input": "{}", "traceloop.association.properties.session_id": "s"}
    with tracer.start_as_current_span("x.tool", attributes=kind):
        pass
    found = rows(encode_spans(exporter.get_finished_spans()).SerializeToString())
    (asked,), (tool,) = found["inference"], found["agent"]
    assert (asked["operation"], asked["input_tokens"], asked["stream"], asked["provider"]) == ("text_completion", 4, True, "openai")
    assert (tool["operation"], tool["arguments"], tool["session"]) == ("execute_tool", "{}", "s")
