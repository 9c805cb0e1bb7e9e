"""OTLP by OpenTelemetry's own protobuf classes, object by object: metrics and logs (few a second), JSON, the measure of the fast way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from streams.decode import attributes as meaning
from streams.decode.format import Format
from streams.decode.tables import Gathered

REQUESTS: Mapping[str, Any] = {
    "traces": ExportTraceServiceRequest, "metrics": ExportMetricsServiceRequest, "logs": ExportLogsServiceRequest,
}  # fmt: skip
ERROR = 2


def walk(signal: str, request: Any, fmt: Format, offset: int, out: Gathered) -> None:
    """Add the rows of one parsed request."""
    {"traces": traces, "metrics": metrics, "logs": logs}[signal](request, fmt, offset, out)


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
    """Spans to `inference` and `agent`, their evaluation events to `evaluation`."""
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
                for event in span.events:
                    if event.name == meaning.EVALUATION:
                        row = meaning.evaluation_row(attributes_of(event.attributes), own, resource, event.time_unix_nano)
                        out.add("evaluation", row | ids, offset)


def logs(request: Any, fmt: Format, offset: int, out: Gathered) -> None:
    """Evaluation events to `evaluation`, kernel lines about XIDs to `hardware`; other records are nobody's."""
    for group in request.resource_logs:
        resource = attributes_of(group.resource.attributes)
        for scope in group.scope_logs:
            for record in scope.log_records:
                own, body = attributes_of(record.attributes), any_value(record.body)
                time_ns = record.time_unix_nano or record.observed_time_unix_nano
                if meaning.EVALUATION in (record.event_name, own.get("event.name")):
                    out.add("evaluation", meaning.evaluation_row(own, own, resource, time_ns) | identifiers(record), offset)
                elif (row := meaning.log_row(body, own, resource, time_ns)) is not None:
                    out.add("hardware", row, offset)


def metrics(request: Any, fmt: Format, offset: int, out: Gathered) -> None:
    """Gauges and sums that the registry knows, the points of one device and moment as one row of `hardware`."""
    for group in request.resource_metrics:
        resource = attributes_of(group.resource.attributes)
        rows: dict[tuple[str | None, str, int], dict[str, Any]] = {}
        for scope in group.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                for point in getattr(metric, kind).data_points if kind in ("gauge", "sum") else ():
                    value = point.as_double if point.WhichOneof("value") == "as_double" else float(point.as_int)
                    column = meaning.point_column(metric.name, value)
                    if column is not None:
                        place = meaning.point_place(attributes_of(point.attributes), resource)
                        time_us = point.time_unix_nano // 1000
                        row = rows.setdefault((*place, time_us), {"time": time_us or None, "host": place[0], "device": place[1]})
                        row[column[0]] = int(column[1]) if column[0] == "xid" else column[1]
        for row in rows.values():
            out.add("hardware", row, offset)
