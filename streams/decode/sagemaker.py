"""SageMaker data capture: JSON lines, each an inference with what went in and what came out, to rows of `inference`."""

from __future__ import annotations

import base64
import binascii
import csv
from typing import Any

import numpy as np
import orjson

from streams.decode.attributes import as_type
from streams.decode.format import Format, reject
from streams.decode.json_rows import time_us
from streams.decode.payload import MOST_ROWS, request_rows, response_rows
from streams.decode.tables import Gathered
from streams.names import TEXT
from streams.records import Decoded, RawBatch


class NoCapture(ValueError):
    """The message says why it is none."""


def decode(raw: RawBatch, index: np.ndarray, fmt: Format, stream: str | None) -> Decoded:
    """A row for each instance of a capture: features from CSV or JSON, the prediction, the time of inference. The captured file does not
    name the endpoint: `model` and, where no custom attribute `name=value` of the topic's `principal` is there, `principal` are the
    topic's name.

    Reject: `sagemaker`, for a line that is no capture.
    """
    gathered, out = Gathered(), Decoded()
    for i in index.tolist():
        for number, line in enumerate(raw.value(i).splitlines()):
            if not line.strip():
                continue
            try:
                for row in capture(line, raw.partition.topic, fmt):
                    gathered.add("inference", row, int(raw.offsets[i]))
            except NoCapture as problem:
                out.rejects.append(reject(raw, i, "sagemaker", str(problem), number))
    out.rows = gathered.done()
    return out


def capture(line: bytes, topic: str, fmt: Format) -> list[dict[str, Any]]:
    """The rows of one line. Raises NoCapture."""
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise NoCapture(f"not JSON: {error}") from error
    captured = document.get("captureData") if isinstance(document, dict) else None
    about = document.get("eventMetadata") if isinstance(document, dict) else None
    if not isinstance(captured, dict) or not isinstance(about, dict):
        raise NoCapture("no captureData or no eventMetadata in it")
    asked, answered = body(captured, "endpointInput"), body(captured, "endpointOutput")
    requests = [] if asked is None else request_rows(asked)
    responses = [] if answered is None else response_rows(answered)
    try:
        time = time_us(about["inferenceTime"])
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise NoCapture("eventMetadata.inferenceTime is missing or no time") from error
    custom = about.get("customAttributes")
    pairs = [a.partition("=") for a in (custom if isinstance(custom, list) else []) if isinstance(a, str)]
    given = {name: value for name, _, value in pairs}
    principal = next((given[p] for p in fmt.principal if given.get(p)), topic)
    common = {"time": time, "model": topic, "principal": principal, "provider": "sagemaker",
              "request_id": as_type(about.get("eventId"), TEXT)}  # fmt: skip
    count = max(len(requests), len(responses))
    both = [(requests[k] if k < len(requests) else {}) | (responses[k] if k < len(responses) else {}) for k in range(count)]
    return [row | common for row in both]


def body(captured: dict[str, Any], side: str) -> Any:
    """What went in or came out, decoded; None where it was not captured. Raises NoCapture."""
    part = captured.get(side)
    if part is None:
        return None
    data = part.get("data") if isinstance(part, dict) else None
    if not isinstance(data, str):
        raise NoCapture(f"{side}.data is missing or no text")
    kind = part.get("encoding", "")
    if kind == "BASE64":
        try:
            data = base64.b64decode(data, validate=True).decode()
        except (binascii.Error, ValueError) as error:
            raise NoCapture(f"{side}.data: no text in Base64") from error
        kind = "JSON" if "json" in str(part.get("observedContentType", "")) else "CSV"
    if kind == "JSON":
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise NoCapture(f"{side}.data: not JSON: {error}") from error
    try:
        return [[number(cell) for cell in line] for line in csv.reader(data.splitlines()[:MOST_ROWS]) if line]
    except csv.Error as error:
        raise NoCapture(f"{side}.data: not CSV: {error}") from error


def number(text: str) -> float | str:
    """A number, or the text."""
    try:
        return float(text)
    except ValueError:
        return text.strip()
