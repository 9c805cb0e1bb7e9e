"""The versioned registry of telemetry names: what the canonical columns are, and which names on the wire mean them.

`COLUMNS` says which columns each stream has and of what type. `ATTRIBUTES` maps span, event and log attributes of every dialect to
them; a rename upstream is one more row, and old names go on being understood. Metrics have a table of their own (`metrics.py`), and
so have XID errors (`xid.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from streams.metrics import HW_STATES, METRICS, Metric
from streams.xid import XID, XidCode

__all__ = [
    "ATTRIBUTES",
    "COLUMNS",
    "HW_STATES",
    "METRICS",
    "OPERATIONS",
    "SPAN_KINDS",
    "SPARSE",
    "STREAMS",
    "TOTAL",
    "VERSION",
    "XID",
    "Attribute",
    "Column",
    "Metric",
    "XidCode",
    "column",
]  # fmt: skip

VERSION = "2026.1"
"""Grows whenever a row changes."""

TIME = pa.timestamp("us", tz="UTC")
TEXT = pa.string()
CONTENT = pa.large_string()
VECTOR = pa.list_(pa.float32())


@dataclass(frozen=True)
class Column:
    """One canonical column. `type` None: float32 or string, as the producer sends it. `unit`: `us`, `s`, `1`, `By`, or empty."""

    name: str
    type: pa.DataType | None
    required: bool = False
    unit: str = ""


@dataclass(frozen=True)
class Attribute:
    """One attribute name of one dialect, and the column it means. Of several that are present, the one listed first wins."""

    name: str
    column: str
    since: str
    source: str
    resource: bool = False
    """Whether it is looked for on the resource as well as on the span."""


def _columns(required: str, **types: pa.DataType) -> dict[str, Column]:
    common = {"time": TIME, "tenant": TEXT, "trace_id": pa.binary(16), "span_id": pa.binary(8), "parent_span_id": pa.binary(8)}
    needed = {"time", *required.split()}
    unit = {"time": "us", "duration_s": "s", "ttft_s": "s", "bytes_out": "By"}
    return {name: Column(name, kind, name in needed, unit.get(name, "")) for name, kind in (common | types).items()}


COLUMNS: dict[str, dict[str, Column]] = {
    "inference": _columns(
        "principal model",
        principal=TEXT, model=TEXT, operation=TEXT, provider=TEXT, server=TEXT, device=TEXT, session=TEXT,
        input_tokens=pa.int32(), output_tokens=pa.int32(), cached_tokens=pa.int32(), reasoning_tokens=pa.int32(), max_tokens=pa.int32(),
        top_k=pa.int32(), choices=pa.int32(), logprobs=pa.int32(),
        temperature=pa.float32(), top_p=pa.float32(), duration_s=pa.float32(), ttft_s=pa.float32(), stream=pa.bool_(),
        finish_reason=TEXT, error=TEXT, logit_bias_tokens=pa.list_(pa.int32()), prompt=CONTENT, embedding=VECTOR,
        predicted=TEXT, confidence=pa.float32(), request_id=TEXT, part=TEXT, outcome=TEXT,
    ),
    "agent": _columns(
        "session operation",
        session=TEXT, operation=TEXT, principal=TEXT, agent=TEXT, role=TEXT, tool=TEXT, server=TEXT, peer=TEXT, protocol=TEXT, method=TEXT,
        arguments=CONTENT, result=CONTENT, user_prompt=CONTENT,
        destinations=pa.list_(pa.uint64()), prompt_items=pa.list_(pa.uint64()), result_items=pa.list_(pa.uint64()),
        definition_hash=pa.uint64(), definition=CONTENT, denied=pa.bool_(), error=TEXT, tokens=pa.int64(), bytes_out=pa.int64(),
        data_source=TEXT, documents=CONTENT, retrieved=pa.int32(), top_score=pa.float32(),
    ),
    "hardware": _columns(
        "host device", host=TEXT, device=TEXT, rack=TEXT, job=TEXT, rank=pa.int32(), sku=TEXT, xid=pa.int32(), log=CONTENT
    ),
    "feedback": _columns(
        "source label",
        source=TEXT, model=TEXT, item=TEXT, label=TEXT, consensus=TEXT, predicted=TEXT, confidence=pa.float32(), text=CONTENT,
        embedding=VECTOR,
    ),
    "evaluation": _columns("model name score", model=TEXT, name=TEXT, score=pa.float32(), label=TEXT, session=TEXT),
}  # fmt: skip
"""The canonical columns of each stream, by name. An embedding is a list of one length within a batch."""

STREAMS = tuple(COLUMNS)

FAMILIES: dict[str, dict[str, pa.DataType | None]] = {"inference": {"feature.": None}, "hardware": {"metric.": pa.float32()}}
"""Open families of columns: any name with the prefix is a column of the stream."""

TOTAL = "_total"
"""`metric.<name>_total` is a counter that only grows until its producer restarts, in double precision: the engine makes `metric.<name>` of
it, the rate per second. `metric.<name>_sum_total` with `metric.<name>_count_total` is a histogram: it becomes the mean of what came in
between."""
SPARSE = {b"telltale.sparse": b"1"}
"""Metadata of a metric's field that comes only when something happened, so that its silence is no news."""


def column(stream: str, name: str) -> Column | None:
    """The canonical column of that name, or None where the stream has none.

    >>> column("inference", "feature.age"), column("inference", "shoe_size")
    (Column(name='feature.age', type=None, required=False, unit=''), None)
    """
    known = COLUMNS[stream].get(name)
    if known is None:
        for prefix, kind in FAMILIES.get(stream, {}).items():
            if name.startswith(prefix) and len(name) > len(prefix):
                return Column(name, pa.float64() if stream == "hardware" and name.endswith(TOTAL) else kind)
    return known


def _rows(source: str, since: str, pairs: Sequence[tuple[str, str]], resource: bool = False) -> list[Attribute]:
    return [Attribute(name, target, since, source, resource) for target, names in pairs for name in names.split()]


SEMCONV = "OpenTelemetry semantic conventions, GenAI (development)"

ATTRIBUTES: tuple[Attribute, ...] = (
    *_rows("OpenTelemetry semantic conventions", "1.41.1", [
        ("principal", "user.id enduser.id"), ("role", "user.roles enduser.role"), ("error", "error.type"),
        ("server", "server.address service.name"), ("host", "host.name host.id k8s.node.name"), ("tenant", "tenant.id"),
    ], resource=True),
    *_rows(SEMCONV, "1.41.1", [
        ("operation", "gen_ai.operation.name"), ("provider", "gen_ai.provider.name"),
        ("session", "gen_ai.conversation.id session.id"),
        ("agent", "gen_ai.agent.name gen_ai.agent.id gen_ai.workflow.name"), ("tool", "gen_ai.tool.name"),
        ("model", "gen_ai.request.model gen_ai.response.model"),
        ("max_tokens", "gen_ai.request.max_tokens"), ("temperature", "gen_ai.request.temperature"), ("top_p", "gen_ai.request.top_p"),
        ("top_k", "gen_ai.request.top_k"), ("choices", "gen_ai.request.choice.count"), ("stream", "gen_ai.request.stream"),
        ("finish_reason", "gen_ai.response.finish_reasons"), ("ttft_s", "gen_ai.response.time_to_first_chunk"),
        ("input_tokens", "gen_ai.usage.input_tokens"), ("output_tokens", "gen_ai.usage.output_tokens"),
        ("cached_tokens", "gen_ai.usage.cache_read.input_tokens"), ("reasoning_tokens", "gen_ai.usage.reasoning.output_tokens"),
        ("arguments", "gen_ai.tool.call.arguments"), ("result", "gen_ai.tool.call.result"),
        ("definition", "gen_ai.tool.definitions gen_ai.tool.description"),
        ("prompt", "gen_ai.input.messages gen_ai.retrieval.query.text"),
        ("data_source", "gen_ai.data_source.id"), ("documents", "gen_ai.retrieval.documents"),
        ("name", "gen_ai.evaluation.name"), ("score", "gen_ai.evaluation.score.value"), ("label", "gen_ai.evaluation.score.label"),
    ]),
    *_rows("OpenTelemetry semantic conventions, MCP (development)", "1.41.1", [
        ("mcp_method", "mcp.method.name"), ("session", "mcp.session.id"),
    ]),
    *_rows("A2A attributes (proposed)", "2026", [("a2a_method", "a2a.method.name"), ("tenant", "a2a.tenant"), ("session", "a2a.task.id")]),
    *_rows("deprecated GenAI names, still emitted", "1.27", [
        ("provider", "gen_ai.system"), ("input_tokens", "gen_ai.usage.prompt_tokens"),
        ("output_tokens", "gen_ai.usage.completion_tokens"), ("prompt", "gen_ai.prompt"),
    ]),
    *_rows("OpenInference", "1.0", [
        ("kind", "openinference.span.kind"), ("model", "llm.model_name embedding.model_name"), ("provider", "llm.provider llm.system"),
        ("input_tokens", "llm.token_count.prompt"), ("output_tokens", "llm.token_count.completion"),
        ("cached_tokens", "llm.token_count.prompt_details.cache_read"),
        ("reasoning_tokens", "llm.token_count.completion_details.reasoning"),
        ("tool", "tool.name"), ("arguments", "tool.parameters"), ("definition", "tool.description"), ("agent", "agent.name"),
        ("prompt", "input.value"), ("result", "output.value"), ("top_score", "retrieval.documents.0.document.score"),
    ]),
    *_rows("OpenLLMetry", "0.40", [
        ("kind", "traceloop.span.kind llm.request.type"), ("session", "traceloop.association.properties.session_id"),
        ("principal", "traceloop.association.properties.user_id"), ("agent", "traceloop.workflow.name"),
        ("arguments", "traceloop.entity.input"), ("result", "traceloop.entity.output"),
        ("cached_tokens", "gen_ai.usage.cache_read_input_tokens"), ("stream", "gen_ai.is_streaming llm.is_streaming"),
    ]),
    *_rows("vLLM tracing", "0.6", [
        ("ttft_s", "gen_ai.latency.time_to_first_token"), ("choices", "gen_ai.request.n"),
    ]),
    *_rows("Telltale: what no convention names", "2026.1", [
        ("logprobs", "telltale.logprobs"), ("predicted", "telltale.predicted"), ("confidence", "telltale.confidence"),
        ("outcome", "telltale.outcome"),
        ("retrieved", "telltale.retrieved"), ("top_score", "telltale.top_score"),
        ("device", "telltale.device hw.id"), ("peer", "telltale.peer"), ("denied", "telltale.denied"),
    ]),
)  # fmt: skip
"""Names on spans, events and log records. `mcp_method`, `a2a_method` and `kind` are not columns: they decide operation and protocol."""

OPERATIONS: dict[str, str] = {
    **dict.fromkeys(("chat", "generate_content", "text_completion", "embeddings"), "inference"),
    **dict.fromkeys(
        ("retrieval", "create_agent", "invoke_agent", "invoke_workflow", "execute_tool", "plan", "create_memory", "search_memory",
         "update_memory", "upsert_memory", "delete_memory"), "agent",
    ),
}  # fmt: skip
"""Which stream a span belongs to, by `gen_ai.operation.name`; an operation not listed is an agent's."""

SPAN_KINDS: dict[str, str] = {
    "LLM": "chat", "EMBEDDING": "embeddings", "TOOL": "execute_tool", "AGENT": "invoke_agent", "RETRIEVER": "retrieval",
    "CHAIN": "invoke_workflow", "RERANKER": "retrieval", "GUARDRAIL": "invoke_workflow", "PROMPT": "invoke_workflow",
    "tool": "execute_tool", "agent": "invoke_agent", "workflow": "invoke_workflow", "task": "invoke_workflow",
    "completion": "text_completion", "embedding": "embeddings", "rerank": "retrieval",
}  # fmt: skip
"""Operations of OpenInference's span kinds (capitals) and of OpenLLMetry's span kinds and request types. EVALUATOR is left out: its result
comes as an evaluation event."""
