"""OTLP by OpenTelemetry's own protobuf classes, object by object: metrics and logs (few a second), JSON, the measure of the fast way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from streams.decode import attributes as meaning
from streams.decode.bentoml import SCOPE, monitored_row
from streams.decode.format import Format
from streams.decode.otlp_metrics import metrics
from streams.decode.tables import Gathered

REQUESTS: Mapping[str, Any] = {
    "traces": ExportTraceServiceRequest, "metrics": ExportMetricsServiceRequest, "logs": ExportLogsServiceRequest,
}  # fmt: skip
ERROR = 2


def walk(signal: str, request: Any, fmt: Format, offset: int, out: Gathered) -> None:
    """Add the rows of one parsed request."""
    if signal == "metrics":
        metrics(request, offset, out.points, attributes_of)
    else:
        {"traces": traces, "logs": logs}[signal](request, fmt, offset, out)


def any_value(value: Any) -> Any:
    """An AnyValue as Python's own: str, bool, int, float, bytes, list, dict, or None."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [any_value(v) for v in value.array_value.values]
    if kind == "kvlist_value":
        return attributes_of(value.kvlist_value.values)
    return getattr(value, kind) if kind else None


def attributes_of(pairs: Iterable[Any]) -> dict[str, Any]:
    """Attributes by name; of a name that stands twice, the first; those without a value are left out."""
    found: dict[str, Any] = {}
    for pair in pairs:
        if pair.key not in found and (value := any_value(pair.value)) is not None:
            found[pair.key] = value
    return found


def identifiers(thing: Any) -> dict[str, bytes | None]:
    """Trace and span ids, where they have the length that they must have."""
    trace, span = thing.trace_id, thing.span_id
    return {"trace_id": trace if len(trace) == 16 else None, "span_id": span if len(span) == 8 else None}


def traces(request: Any, fmt: Format, offset: int, out: Gathered) -> None:
    """Spans to `inference` and `agent`; their evaluation events, and spans that are evaluations themselves, to `evaluation`."""
    for group in request.resource_spans:
        resource = attributes_of(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                own = attributes_of(span.attributes)
                failed = (span.status.message or "error") if span.status.code == ERROR else None
                found = meaning.span_row(own, resource, fmt.principal, span.start_time_unix_nano, span.end_time_unix_nano, failed)
                ids = identifiers(span)
                if found is not None:
                    stream, row = found
                    row |= ids | {"parent_span_id": span.parent_span_id if len(span.parent_span_id) == 8 else None}
                    if stream == "agent" and row["session"] is None and ids["trace_id"] is not None:
                        row["session"] = ids["trace_id"].hex()
                    out.add(stream, row, offset)
                if meaning.EVALUATION_NAME in own:
                    ended_ns = span.end_time_unix_nano or span.start_time_unix_nano
                    out.add("evaluation", meaning.evaluation_row(own, own, resource, ended_ns) | ids, offset)
                for event in span.events:
                    if event.name == meaning.EVALUATION:
                        row = meaning.evaluation_row(attributes_of(event.attributes), own, resource, event.time_unix_nano)
                        out.add("evaluation", row | ids, offset)


def logs(request: Any, fmt: Format, offset: int, out: Gathered) -> None:
    """Evaluation events to `evaluation`, inferences told by an event outside any span to their stream, those that BentoML monitors to
    `inference`, kernel lines about XIDs to `hardware`; other records are nobody's."""
    for group in request.resource_logs:
        resource = attributes_of(group.resource.attributes)
        for scope in group.scope_logs:
            for record in scope.log_records:
                own, body = attributes_of(record.attributes), any_value(record.body)
                time_ns = record.time_unix_nano or record.observed_time_unix_nano
                if meaning.EVALUATION in (record.event_name, own.get("event.name")):
                    out.add("evaluation", meaning.evaluation_row(own, own, resource, time_ns) | identifiers(record), offset)
                elif scope.scope.name == SCOPE:
                    if (row := monitored_row(body, resource, fmt.principal, time_ns)) is not None:
                        out.add("inference", row, offset)
                elif meaning.DETAILS in (record.event_name, own.get("event.name")) and len(record.span_id) != 8:
                    if found := meaning.span_row(own, resource, fmt.principal, 0, time_ns, None):
                        out.add(found[0], found[1] | identifiers(record), offset)
                elif (row := meaning.log_row(body, own, resource, time_ns)) is not None:
                    out.add("hardware", row, offset)
