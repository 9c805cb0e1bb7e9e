"""OTLP in JSON: hexadecimal ids, lowerCamelCase keys, int64 as text or number; unknown fields are ignored."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from google.protobuf.json_format import ParseDict, ParseError  # type: ignore[import-untyped]

from streams.decode.format import Format, reject
from streams.decode.otlp_walk import REQUESTS, walk
from streams.decode.tables import Gathered
from streams.records import Decoded, RawBatch

SIGNALS: Mapping[str, str] = {"resourceSpans": "traces", "resourceMetrics": "metrics", "resourceLogs": "logs"}
IDS = ("traceId", "spanId", "parentSpanId")


def decode(raw: RawBatch, index: np.ndarray, fmt: Format, stream: str | None) -> Decoded:
    """The same rows as from protobuf. Rejects: `json` (not JSON), `otlp` (JSON, but no export request)."""
    gathered, out = Gathered(), Decoded()
    for i in index.tolist():
        try:
            document = orjson.loads(raw.value(i))
        except orjson.JSONDecodeError as error:
            out.rejects.append(reject(raw, i, "json", f"not JSON: {error}"))
            continue
        signal = next((s for key, s in SIGNALS.items() if isinstance(document, dict) and key in document), None)
        if signal is None:
            out.rejects.append(reject(raw, i, "otlp", f"none of {', '.join(SIGNALS)} in it"))
            continue
        try:
            request = ParseDict(with_bytes(document), REQUESTS[signal](), ignore_unknown_fields=True, max_recursion_depth=64)
        except (ParseError, ValueError, TypeError, AttributeError, RecursionError) as error:
            out.rejects.append(reject(raw, i, "otlp", str(error)[:200]))
            continue
        walk(signal, request, fmt, int(raw.offsets[i]), gathered)
    out.rows = gathered.done()
    return out


def with_bytes(value: Any) -> Any:
    """The document with ids in Base64, as protobuf's JSON has bytes. Raises ValueError for ids that are not hexadecimal."""
    if isinstance(value, list):
        return [with_bytes(v) for v in value]
    if not isinstance(value, dict):
        return value
    return {k: base64.b64encode(bytes.fromhex(v)).decode() if k in IDS and isinstance(v, str) else with_bytes(v) for k, v in value.items()}
