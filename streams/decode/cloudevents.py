"""CloudEvents 1.0, in structured, batched and binary mode: rows of ours in `data`, and payload logs of KServe and Seldon."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import orjson

from streams import names
from streams.decode import json
from streams.decode.attributes import as_type
from streams.decode.format import Format, reject
from streams.decode.json_rows import time_us
from streams.decode.payload import request_rows, response_rows
from streams.decode.tables import Gathered
from streams.records import Decoded, RawBatch

REQUIRED = ("id", "source", "type", "specversion")
VERSIONS = ("1.0", "0.3")
PAYLOADS = {
    f"{prefix}.serving.inference.{part}": part for prefix in ("org.kubeflow", "io.seldon") for part in ("request", "response")
}  # fmt: skip
"""Types of payload logs: which half of an inference it is."""
STREAM = "telltalestream"
"""The extension that names the stream of rows in `data`, where the topic does not."""


class NoEvent(ValueError):
    """The message says why it is none."""


def decode(raw: RawBatch, index: np.ndarray, fmt: Format, stream: str | None) -> Decoded:
    """Rows of `inference` from payload logs: a request and its response are two rows with one `request_id`, which the engine joins. Else
    the rows in `data`, as JSON lines have them; the event's `time` stands in for one that they lack.

    Rejects: `cloudevents` (no event, or one without a required attribute), and what JSON rows may be rejected for.
    """
    gathered, out = Gathered(), Decoded()
    for i in index.tolist():
        try:
            events = events_of(raw, i)
        except NoEvent as problem:
            out.rejects.append(reject(raw, i, "cloudevents", str(problem)))
            continue
        for number, event in enumerate(events):
            try:
                checked(event)
                if event["type"] in PAYLOADS:
                    for row in payload(event, fmt, int(raw.timestamps_ms[i])):
                        gathered.add("inference", row, int(raw.offsets[i]))
                else:
                    part = plain(raw, i, number, event, fmt, event.get(STREAM) or stream)
                    out.rows += part.rows
                    out.rejects += part.rejects
            except NoEvent as problem:
                out.rejects.append(reject(raw, i, "cloudevents", str(problem), number))
    out.rows += gathered.done()
    return out


def events_of(raw: RawBatch, record: int) -> list[Any]:
    """The events of one record; `data` is decoded where it is JSON. Raises NoEvent."""
    headers = {} if raw.headers is None else {n.lower(): v.decode("utf-8", "replace") for n, v in raw.headers[record]}
    if "ce_specversion" in headers:
        event: dict[str, Any] = {n.removeprefix("ce_"): v for n, v in headers.items() if n.startswith("ce_")}
        return [event | {"data": from_json(raw.value(record))}]
    whole = from_json(raw.value(record))
    return whole if isinstance(whole, list) else [whole]


def from_json(value: bytes) -> Any:
    """Raises NoEvent naming the place where it is no JSON."""
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise NoEvent(f"not JSON: {error}") from error


def checked(event: Any) -> None:
    """Raises NoEvent unless it is an event, with its data decoded."""
    if not isinstance(event, dict):
        raise NoEvent(f"a {type(event).__name__}, not an event")
    for name in REQUIRED:
        if not isinstance(event.get(name), str) or not event[name]:
            raise NoEvent(f"the attribute {name} is missing or no text")
    if event["specversion"] not in VERSIONS:
        raise NoEvent(f"specversion {event['specversion'][:20]!r}; {' and '.join(VERSIONS)} are read")
    if "data_base64" in event:
        try:
            event["data"] = from_json(base64.b64decode(event["data_base64"], validate=True))
        except (binascii.Error, TypeError, ValueError) as error:
            raise NoEvent(f"data_base64: {error}") from error
    if event.get("data") is None:
        raise NoEvent("no data")


def moment(event: Mapping[str, Any], stamp_ms: int) -> int | None:
    """When it happened, microseconds: the event's time, else the record's. Raises NoEvent."""
    if "time" not in event:
        return stamp_ms * 1000 if stamp_ms >= 0 else None
    try:
        return time_us(event["time"])
    except (ValueError, TypeError, OverflowError) as error:
        raise NoEvent("time is no RFC 3339 text") from error


def payload(event: Mapping[str, Any], fmt: Format, stamp_ms: int) -> list[dict[str, Any]]:
    """Rows of one half of an inference. Of several instances each has the event's id and its number."""
    part, data = PAYLOADS[event["type"]], event["data"]
    rows = request_rows(data) if part == "request" else response_rows(data)
    service = event.get("inferenceservicename") or (data.get("model_name") if isinstance(data, dict) else None)
    model = as_type(service, names.TEXT) or event["source"].rstrip("/").rpartition("/")[2] or event["source"]
    given = next((as_type(event[p], names.TEXT) for p in fmt.principal if p in event), None)
    common = {"time": moment(event, stamp_ms), "server": event["source"], "provider": "kserve" if "kubeflow" in event["type"] else "seldon"}
    found = []
    for k, row in enumerate(rows):
        number = event["id"] if len(rows) == 1 else f"{event['id']}/{k}"
        principal = given or row.get("principal") or model
        found.append({"model": model} | row | common | {"principal": principal, "request_id": number, "part": part})
    return found


def plain(raw: RawBatch, record: int, number: int, event: Mapping[str, Any], fmt: Format, stream: str | None) -> Decoded:
    """Rows in `data`, one or a list, by the JSON decoder; its complaints are about the whole record."""
    when = moment(event, int(raw.timestamps_ms[record]))
    rows = event["data"] if isinstance(event["data"], list) else [event["data"]]
    filled = [{"time": when} | row if isinstance(row, dict) else row for row in rows]
    one = RawBatch.of(raw.partition, [b"\n".join(orjson.dumps(row) for row in filled) or b"[]"], offsets=raw.offsets[record : record + 1])
    part = json.decode(one, np.zeros(1, np.int64), fmt, stream)
    return Decoded(part.rows, [replace(r, value=raw.value(record), row=number) for r in part.rejects])
