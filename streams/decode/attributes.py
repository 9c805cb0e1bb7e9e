"""What attributes mean: from the attributes of a span, an event, a log record or a data point to a row of a stream.

These are the rules; they are written for one row, over plain dictionaries. Attributes of the wrong kind for their column count as absent:
telemetry is written by many hands, and one odd attribute must not cost the row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa

from streams import names

EVALUATION, EVALUATION_NAME = "gen_ai.evaluation.result", "gen_ai.evaluation.name"
DETAILS = "gen_ai.client.inference.operation.details"
"""The event that has all of an inference's attributes; one within a span repeats what the span says."""
XID_LINE = re.compile(r"\b(?:NVRM: Xid|nvidia-nvswitch\d*: SXid) \((?:PCI:)?([^)]*)\)")
HOSTS = (
    "host.name", "host_name", "Hostname", "hostname", "k8s.node.name", "k8s_node_name", "node", "host.id", "host_id", "instance",
    "service.instance.id", "service_instance_id",
)  # fmt: skip

RANKED: dict[str, list[tuple[str, bool]]] = {}
for _attribute in names.ATTRIBUTES:
    RANKED.setdefault(_attribute.column, []).append((_attribute.name, _attribute.resource))


def pick(target: str, attributes: Mapping[str, Any], resource: Mapping[str, Any]) -> Any:
    """The value of the best-ranked attribute that is there: the span's own first, then, where the registry says so, the resource's."""
    for name, _ in RANKED[target]:
        if name in attributes:
            return attributes[name]
    return next((resource[name] for name, shared in RANKED[target] if shared and name in resource), None)


def as_type(value: Any, kind: pa.DataType) -> Any:
    """An attribute's value as one of a column's type, or None where it is of another kind.

    >>> as_type(3.0, pa.int32()), as_type(["stop"], pa.string()), as_type("x", pa.float32())
    (3, 'stop', None)
    """
    if value is None:
        return None
    if pa.types.is_large_string(kind):
        return value if isinstance(value, str) else orjson.dumps(jsonable(value)).decode()
    if pa.types.is_string(kind):
        if isinstance(value, list):
            value = value[0] if value else None
        if isinstance(value, bool):
            return "true" if value else "false"
        return value if isinstance(value, str) else str(value) if isinstance(value, int) else None
    if pa.types.is_boolean(kind):
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if pa.types.is_floating(kind):
        return float(value)
    limit = 1 << kind.bit_width - 1
    return int(value) if value == int(value) and -limit <= value < limit else None


def jsonable(value: Any) -> Any:
    """Attribute values as JSON has them."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [jsonable(v) for v in value]
    if isinstance(value, dict):
        return {k: jsonable(v) for k, v in value.items()}
    return value if not isinstance(value, float) or math.isfinite(value) else None


def operation_of(attributes: Mapping[str, Any], resource: Mapping[str, Any]) -> str | None:
    """The GenAI operation that a span is, or None when it is none: named, or told by its OpenInference kind or its protocol's method."""
    named = pick("operation", attributes, resource)
    if isinstance(named, str) and named:
        return named
    kind = pick("kind", attributes, resource)
    if isinstance(kind, str) and kind in names.SPAN_KINDS:
        return names.SPAN_KINDS[kind]
    method = pick("mcp_method", attributes, resource)
    if isinstance(method, str) and method:
        return "execute_tool" if method == "tools/call" else method
    return "invoke_agent" if isinstance(pick("a2a_method", attributes, resource), str) else None


def span_row(
    attributes: Mapping[str, Any], resource: Mapping[str, Any], principal: Sequence[str], start_ns: int, end_ns: int, failed: str | None
) -> tuple[str, dict[str, Any]] | None:
    """(stream, row without ids) of a span, or None when it is no GenAI, agent or MCP span.

    `failed`: the status message of a span whose status is an error (`error` when that is empty). The row's time is the span's end: that is
    when it is sent, so rows come about in order. A span that names no principal is its service's.
    """
    operation = operation_of(attributes, resource)
    if operation is None:
        return None
    stream = names.OPERATIONS.get(operation, "agent")
    row: dict[str, Any] = {"operation": operation, "time": (end_ns or start_ns) // 1000 or None}
    for name, column in names.COLUMNS[stream].items():
        target = "prompt" if name == "user_prompt" else name
        if name not in row and target in RANKED and column.type is not None:
            row[name] = as_type(pick(target, attributes, resource), column.type)
    given = next((where[p] for where in (attributes, resource) for p in principal if p in where), None)
    row["principal"] = as_type(given, pa.string()) or row["principal"] or as_type(resource.get("service.name"), pa.string())
    row["error"] = row["error"] or failed
    if stream == "inference":
        row["duration_s"] = (end_ns - start_ns) / 1e9 if end_ns >= start_ns > 0 else None
    else:
        mcp, a2a = pick("mcp_method", attributes, resource), pick("a2a_method", attributes, resource)
        row["protocol"] = "mcp" if isinstance(mcp, str) and mcp else "a2a" if isinstance(a2a, str) else None
        row["method"] = as_type(mcp or a2a, pa.string())
        used = [as_type(pick(t, attributes, resource), pa.int64()) for t in ("input_tokens", "output_tokens")]
        row["tokens"] = as_type(sum(u for u in used if u is not None), pa.int64()) if any(u is not None for u in used) else None
    return stream, row


def evaluation_row(attributes: Mapping[str, Any], outer: Mapping[str, Any], resource: Mapping[str, Any], time_ns: int) -> dict[str, Any]:
    """A `gen_ai.evaluation.result` event, or a span with its attributes; model and session may stand on the event's span (`outer`)."""
    row: dict[str, Any] = {"time": time_ns // 1000 or None}
    for name, column in names.COLUMNS["evaluation"].items():
        if name in RANKED and column.type is not None:
            value = as_type(pick(name, attributes, {}), column.type)
            row[name] = value if value is not None else as_type(pick(name, outer, resource), column.type)
    return row


def log_row(body: Any, attributes: Mapping[str, Any], resource: Mapping[str, Any], time_ns: int) -> dict[str, Any] | None:
    """A kernel-log line about an XID as a row of `hardware`; None for any other line."""
    match = XID_LINE.search(body) if isinstance(body, str) else None
    if match is None:
        return None
    return {"time": time_ns // 1000 or None, "host": named(HOSTS, attributes, resource), "device": match[1], "log": body[:4096]}


def named(wanted: Sequence[str], attributes: Mapping[str, Any], resource: Mapping[str, Any]) -> str | None:
    """The first of these attributes that is there, as text."""
    for where in (attributes, resource):
        for name in wanted:
            if (text := as_type(where.get(name), pa.string())) is not None:
                return text
    return None
