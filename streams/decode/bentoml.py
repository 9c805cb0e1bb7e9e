"""BentoML's monitoring, as its OTLP monitor writes it: a log record an inference, with the values and, in `bento_meta`, their roles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from streams.decode.attributes import as_type
from streams.decode.payload import MOST_FEATURES, prediction, scalar

SCOPE = "bentoml_monitor_data"
"""The instrumentation scope of these records: the name of BentoML's logger."""
NO_REQUEST = "None"


def monitored_row(body: Any, resource: Mapping[str, Any], principal: Sequence[str], time_ns: int) -> dict[str, Any] | None:
    """A row of `inference`: features, prediction and outcome by their roles. None for a record without `bento_meta`, which nothing can be
    said of (BentoML leaves it out where its `meta_sample_rate` is below 1).

    The model is the monitor's name. Without a configured principal, in the body or the resource, the service is the principal.
    """
    meta = body.get("bento_meta") if isinstance(body, dict) else None
    schema = meta.get("schema") if isinstance(meta, dict) else None
    if not isinstance(meta, dict) or not isinstance(schema, dict):
        return None
    service = as_type(resource.get("service.name"), pa.string())
    given = next((where[p] for where in (body, resource) for p in principal if p in where), None)
    row: dict[str, Any] = {
        "time": time_ns // 1000 or None, "model": as_type(meta.get("monitor_name"), pa.string()), "provider": "bentoml", "server": service,
        "principal": as_type(given, pa.string()) or service,
    }  # fmt: skip
    if (request := as_type(body.get("request_id"), pa.string())) != NO_REQUEST:
        row["request_id"] = request
    for name, about in list(schema.items())[:MOST_FEATURES]:
        role, value = about.get("role") if isinstance(about, dict) else None, scalar(body.get(name))
        if role == "feature" and name and value is not None:
            row[f"feature.{name}"] = value
        elif role == "prediction":
            row |= prediction(body.get(name))
        elif role == "target":
            row["outcome"] = prediction(body.get(name)).get("predicted")
    return row
