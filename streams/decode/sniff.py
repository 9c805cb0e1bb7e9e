"""What a record is: by its headers, by the topic's setting, by its content."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from streams.decode.format import Format
from streams.decode.lines import may_hold
from streams.records import Headers, RawBatch

CONTENT_TYPES: Mapping[bytes, str] = {
    b"application/json": "json",
    b"application/x-ndjson": "json",
    b"application/jsonl": "json",
    b"application/vnd.apache.arrow.stream": "arrow",
    b"application/vnd.apache.arrow.file": "arrow",
    b"application/x-protobuf": "otlp_proto",
    b"application/cloudevents+json": "cloudevents",
    b"application/cloudevents-batch+json": "cloudevents",
    b"text/plain": "prometheus",
    b"application/openmetrics-text": "prometheus",
}
JSON_KINDS: tuple[tuple[bytes, str], ...] = (
    (b'"resourceSpans"', "otlp_json"), (b'"resourceMetrics"', "otlp_json"), (b'"resourceLogs"', "otlp_json"),
    (b'"specversion"', "cloudevents"), (b'"captureData"', "sagemaker"),
)  # fmt: skip
"""What a JSON record is when it holds this key near its beginning."""
SAMPLE = re.compile(
    rb"(?:# (?:HELP|TYPE|UNIT|EOF)\b|[A-Za-z_:][\w:]*[ \t]*(?:\{[^\n]*\})?[ \t]+[-+.\dNI]\S*(?:[ \t]+-?[\d.]+)?[ \t\r]*(?:#|\n|\Z))"
)
"""How Prometheus text begins: a comment of its own, or a sample."""
KERNEL = re.compile(rb"NVRM: Xid|nvidia-nvswitch\d*: SXid")
DMESG = re.compile(rb"\[(?:\w{3} \w{3} [ \d]\d | *\d+\.\d{6}\] )")
BEGINNING = 4096
BLANK = frozenset(b" \t\r\n")


def encodings_of(raw: RawBatch, index: np.ndarray, fmt: Format) -> dict[tuple[str, str | None], np.ndarray]:
    """Positions of records by (encoding, stream). A topic's own setting decides; else a record's headers; else its content.

    The header `telltale-format` names an encoding and `telltale-stream` a stream; `content-type` and CloudEvents' `ce_` headers are
    understood. An encoding `""` is one that was not recognised.
    """
    if not len(index):
        return {}
    if raw.headers is None:
        if fmt.encoding != "auto":
            return {(fmt.encoding, fmt.stream): index}
        if (kind := uniform_json(raw, index)) is not None:
            return {(kind, fmt.stream): index}
    groups: dict[tuple[str, str | None], list[int]] = {}
    for i in index.tolist():
        said, stream = (None, None) if raw.headers is None else by_headers(raw.headers[i])
        encoding = fmt.encoding if fmt.encoding != "auto" else said or by_content(raw, i)
        groups.setdefault((encoding, stream or fmt.stream), []).append(i)
    return {key: np.array(positions, np.int64) for key, positions in groups.items()}


def uniform_json(raw: RawBatch, index: np.ndarray) -> str | None:
    """`json` when all records begin like a JSON object and none can be one of the special kinds; None: look at each."""
    data = np.frombuffer(raw.data, np.uint8)
    if not (data[raw.starts[index]] == ord("{")).all():
        return None
    if not may_hold(data):
        return "json"
    whole = bytes(raw.data) if isinstance(raw.data, memoryview) else raw.data
    return None if any(key in whole for key, _ in JSON_KINDS) else "json"


def by_headers(headers: Headers) -> tuple[str | None, str | None]:
    """(encoding, stream) as the headers have them, or None where they do not say.

    >>> by_headers([("content-type", b"application/json; charset=utf-8"), ("telltale-stream", b"agent")])
    ('json', 'agent')
    """
    encoding = stream = named = None
    for name, value in headers:
        lower = name.lower()
        if lower == "telltale-format":
            named = value.decode("ascii", "replace")
        elif lower == "telltale-stream":
            stream = value.decode("ascii", "replace")
        elif lower == "ce_specversion":
            encoding = "cloudevents"
        elif lower == "content-type" and encoding is None:
            encoding = CONTENT_TYPES.get(value.split(b";")[0].strip().lower())
    return named or encoding, stream


def by_content(raw: RawBatch, record: int) -> str:
    """The encoding that a record's bytes look like; `""` when they look like nothing we know."""
    start, end = int(raw.starts[record]), int(raw.ends[record])
    head = bytes(raw.data[start : min(end, start + BEGINNING)])
    if head[:6] == b"ARROW1" or head[:4] == b"\xff\xff\xff\xff":
        return "arrow"
    if head[0] == 0x0A and fits(head, end - start):
        return "otlp_proto"
    text = head.lstrip(b" \t\r\n")
    if DMESG.match(text):
        return "kernel_log"
    if text[:1] in (b"{", b"["):
        return next((kind for key, kind in JSON_KINDS if key in head), "json")
    if SAMPLE.match(head.lstrip(b" \t\r\n")):
        return "prometheus"
    return "kernel_log" if KERNEL.search(head) else ""


def fits(head: bytes, length: int) -> bool:
    """Whether a protobuf field 1 of bytes stands at the beginning, with a length that the record can hold."""
    size = shift = 0
    for i, byte in enumerate(head[1:6], 1):
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return 0 < size <= length - i - 1
    return False
