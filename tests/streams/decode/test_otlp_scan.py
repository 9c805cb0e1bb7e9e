"""The wire parser against OpenTelemetry's own protobuf classes: the same rows from the same bytes, damaged ones included."""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba.core.dispatcher import Dispatcher
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from streams import decode as decoders
from streams import names
from streams.decode import Format, otlp, otlp_columns
from streams.decode.otlp_columns import Spans
from streams.decode.otlp_scan import scan
from streams.decode.otlp_walk import walk
from streams.decode.tables import Gathered
from streams.records import Partition, RawBatch, Rows

FORMAT = Format(encoding="otlp_proto", principal=("api_key",))
TEXTS = st.one_of(st.text(max_size=12), st.sampled_from(["chat", "tools/call", "execute_tool", "LLM", "TOOL", "EVALUATOR", ""]))
SCALARS = st.one_of(
    TEXTS.map(lambda v: AnyValue(string_value=v)), st.integers(-(2**63), 2**63 - 1).map(lambda v: AnyValue(int_value=v)),
    st.floats().map(lambda v: AnyValue(double_value=v)), st.booleans().map(lambda v: AnyValue(bool_value=v)), st.just(AnyValue()),
)  # fmt: skip
VALUES = st.one_of(
    SCALARS, SCALARS, SCALARS, st.lists(SCALARS, max_size=3).map(lambda v: AnyValue(array_value=ArrayValue(values=v))),
    st.binary(max_size=4).map(lambda v: AnyValue(bytes_value=v)),
    SCALARS.map(lambda v: AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key="k", value=v)]))),
)  # fmt: skip
KNOWN = st.sampled_from([a.name for a in names.ATTRIBUTES])
KEYS = st.one_of(KNOWN, st.sampled_from(["api_key", "gen_ai.operation.name", "x"]), st.text(max_size=70))
PAIRS = st.lists(st.builds(KeyValue, key=KEYS, value=VALUES), max_size=8)
IDS = st.sampled_from([b"", b"x" * 8, b"y" * 16, bytes(range(16))])
TIMES = st.one_of(st.just(0), st.integers(0, 2**64 - 1), st.integers(1_700_000_000 * 10**9, 1_800_000_000 * 10**9))
EVENT_NAMES = st.sampled_from(["gen_ai.evaluation.result", "other"])
EVENTS = st.lists(st.builds(Span.Event, name=EVENT_NAMES, attributes=PAIRS, time_unix_nano=TIMES), max_size=1)
SPANS = st.builds(
    Span, trace_id=IDS, span_id=IDS, parent_span_id=IDS, name=TEXTS, start_time_unix_nano=TIMES, end_time_unix_nano=TIMES, attributes=PAIRS,
    events=EVENTS, status=st.builds(Status, code=st.sampled_from([0, 1, 2]), message=TEXTS), trace_state=TEXTS,
)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    for _ in range(draw(st.integers(1, 2))):
        group = request.resource_spans.add()
        group.resource.attributes.extend(draw(PAIRS))
        for _ in range(draw(st.integers(0, 2))):
            group.scope_spans.add().spans.extend(draw(st.lists(SPANS, max_size=3)))
    return request


def table(parts: list[Rows]) -> list[tuple]:
    """(stream, offset, row without nulls), in an order of its own."""
    found = []
    for part in parts:
        for offset, row in zip(part.offsets.tolist(), part.table.to_pylist(), strict=True):
            found.append((part.stream, offset, repr(sorted((k, v) for k, v in row.items() if v is not None))))
    return sorted(found)


def walked(raw: RawBatch) -> tuple[list[tuple], list[int]]:
    """Rows and rejected offsets by protobuf objects alone."""
    gathered, rejected = Gathered(), []
    for i in range(len(raw)):
        request = ExportTraceServiceRequest()
        try:
            request.ParseFromString(raw.value(i))
        except DecodeError:
            rejected.append(int(raw.offsets[i]))
            continue
        walk("traces", request, FORMAT, int(raw.offsets[i]), gathered)
    return table(gathered.done()), rejected


def request_with_everything() -> ExportTraceServiceRequest:
    """Spans of both streams with every kind of value, nested ones, events, links, a scope and a status."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add(schema_url="s")
    group.resource.attributes.add(key="service.name").value.string_value = "gateä"
    scope = group.scope_spans.add()
    scope.scope.name = "scöpe"
    for operation in ("chat", "execute_tool"):
        span = scope.spans.add(
            trace_id=b"t" * 16, span_id=b"s" * 8, name="n€", start_time_unix_nano=1 << 60, end_time_unix_nano=2 << 60, trace_state="a"
        )
        span.attributes.add(key="gen_ai.operation.name").value.string_value = operation
        span.attributes.add(key="gen_ai.usage.input_tokens").value.int_value = 300
        span.attributes.add(key="gen_ai.request.temperature").value.double_value = 0.5
        span.attributes.add(key="gen_ai.request.stream").value.bool_value = True
        span.attributes.add(key="gen_ai.response.finish_reasons").value.array_value.values.add().string_value = "stöp"
        span.attributes.add(key="unknöwn").value.kvlist_value.values.add(key="k").value.string_value = "é"
        span.status.code, span.status.message = 2, "faïled"
        span.events.add(name="other").attributes.add(key="k").value.bytes_value = b"\xff"
        span.links.add(trace_id=b"t" * 16, trace_state="b")
    return request


GOOD = request_with_everything().SerializeToString()


ENDS_TOO_SOON = ExportTraceServiceRequest()
ENDS_TOO_SOON.resource_spans.add().scope_spans.add().spans.add(start_time_unix_nano=1000, end_time_unix_nano=1).attributes.add(
    key="gen_ai.operation.name"
).value.string_value = "x"


@settings(max_examples=300, deadline=None)
@given(st.lists(requests(), min_size=1, max_size=3))
@example([ENDS_TOO_SOON])
def test_generated_requests_give_the_same_rows(batch: list[ExportTraceServiceRequest]) -> None:
    raw = RawBatch.of(Partition("t"), [r.SerializeToString() for r in batch])
    index = np.flatnonzero(raw.ends > raw.starts)
    assert table(otlp.traces(raw, index, FORMAT).rows) == walked(raw)[0]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_requests_are_taken_and_refused_alike(data: st.DataObject) -> None:
    value = bytearray(data.draw(requests()).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        if value:
            value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(value)))
    raw = RawBatch.of(Partition("t"), [bytes(value), bytes(value[:cut]), GOOD])
    decoded = otlp.traces(raw, np.flatnonzero(raw.ends > raw.starts), FORMAT)
    rows, rejected = walked(raw)
    assert sorted(r.offset for r in decoded.rejects) == rejected
    assert table(decoded.rows) == rows


def test_what_the_scan_takes_protobuf_takes() -> None:
    """Every byte of a request changed to every other: nothing that protobuf refuses is taken, and no record is read differently."""
    value = request_with_everything().SerializeToString()
    for at in range(len(value)):
        changed = [
            value[:at] + bytes([byte]) + value[at + 1 :]
            for byte in (0, 1, 2, 7, 8, 10, 18, 26, 34, 0x7F, 0x80, 0xC0, 0xED, 0xFF, value[at] ^ 1, value[at] ^ 4)
        ]
        raw = RawBatch.of(Partition("t"), changed)
        decoded = otlp.traces(raw, np.arange(len(raw)), FORMAT)
        rows, rejected = walked(raw)
        assert sorted(r.offset for r in decoded.rejects) == rejected
        assert table(decoded.rows) == rows


def test_usual_spans_are_not_left_to_the_walk() -> None:
    request = ExportTraceServiceRequest()
    span = (
        request.resource_spans.add()
        .scope_spans.add()
        .spans.add(trace_id=b"t" * 16, span_id=b"s" * 8, start_time_unix_nano=1, end_time_unix_nano=2)
    )
    span.attributes.add(key="gen_ai.operation.name").value.string_value = "chat"
    span.attributes.add(key="gen_ai.response.finish_reasons").value.array_value.values.add().string_value = "stop"
    raw = RawBatch.of(Partition("t"), [request.SerializeToString()] * 3)
    spans = Spans(raw, np.arange(3), ())
    assert spans.stopped.tolist() == [-1, -1, -1] and spans.rows.tolist() == [3, 0] and not len(spans.odd)
    assert spans.tables()[0].table.column("finish_reason").to_pylist() == ["stop"] * 3


def many(first: int, spans: int) -> bytes:
    """A request with a user of its own in each span but every third."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for i in range(first, first + spans):
        span = scope.spans.add(trace_id=b"t" * 16, span_id=i.to_bytes(8, "big"), start_time_unix_nano=i + 1, end_time_unix_nano=i + 2000)
        span.attributes.add(key="gen_ai.operation.name").value.string_value = "chat"
        span.attributes.add(key="user.id").value.string_value = f"user {i if i % 3 else i // 50}"
    return request.SerializeToString()


def test_what_a_batch_leaves_in_the_dictionaries_does_not_matter() -> None:
    """Many texts, few, and more again, with records in between that are taken back."""
    for spans in (700, 3, 1, 2000, 0, 150):
        values = [GOOD, many(0, spans), many(spans, 300)[:-1], many(spans // 2, spans), b"", many(5000, 2)[:-2], GOOD]
        raw = RawBatch.of(Partition("t"), values)
        decoded = otlp.traces(raw, np.flatnonzero(raw.ends > raw.starts), FORMAT)
        rows, rejected = walked(raw)
        assert (table(decoded.rows), [r.offset for r in decoded.rejects]) == (rows, rejected)
        assert rejected == [2, 5]


@pytest.mark.parametrize("most", [1, 2, 8, 50, 1 << 16])
def test_records_with_more_spans_than_the_first_makes_expect(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few rows one scan takes: it goes on at the record that it had no room for, and the walk sees one that no scan has."""
    for module in (otlp, otlp_columns):
        monkeypatch.setattr(module, "MOST_ROWS", most)
    request = request_with_everything()
    request.resource_spans[0].scope_spans[0].spans[0].name = "n" * 5000
    sparse = request.SerializeToString()
    raw = RawBatch.of(Partition("t"), [sparse, many(0, 7), GOOD, many(0, 40)[:-1], many(0, 40), GOOD, sparse, many(0, 7), many(0, 9)])
    scanned = []
    monkeypatch.setattr(otlp, "Spans", lambda *given: scanned.append(Spans(*given)) or scanned[-1])
    decoded = otlp.traces(raw, np.arange(len(raw)), FORMAT)
    rows, rejected = walked(raw)
    assert (table(decoded.rows), [r.offset for r in decoded.rejects]) == (rows, rejected)
    assert rejected == [3]
    assert sum(len(spans.stopped) for spans in scanned) == {1: 1, 2: 1, 8: 7, 50: 9, 1 << 16: 9}[most]
    assert len(scanned) > 1 or most <= 2


def test_no_scan_counts_references() -> None:
    """Numba would count them atomically, at the beginning of each function; that took two fifths of a scan."""
    modules = [importlib.import_module(f"streams.decode.{found.name}") for found in pkgutil.iter_modules(decoders.__path__)]
    compiled = {thing for module in modules for thing in vars(module).values() if isinstance(thing, Dispatcher)}
    assert scan in compiled
    assert [f.__name__ for f in compiled if f.targetoptions.get("_nrt") is not False] == []


def test_a_reject_names_the_byte() -> None:
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.add(name="n" * 50, trace_id=b"t" * 16)
    raw = RawBatch.of(Partition("t"), [request.SerializeToString()[:-10]])
    (reject,) = otlp.traces(raw, np.arange(1), FORMAT).rejects
    assert (reject.reason, "byte 0" in reject.detail) == ("protobuf", True)
