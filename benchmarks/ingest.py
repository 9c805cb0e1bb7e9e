"""How fast records become columns: `python -m benchmarks.ingest`. Ratios to peers in the same run, medians of five, one core."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.json as reader
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from streams.decode import Format, decode, otlp
from streams.decode.otlp_walk import walk
from streams.decode.tables import Gathered
from streams.records import Partition, RawBatch

SPANS, SPANS_A_RECORD, LINES = 100_000, 500, 500_000
FIRST_US = 1_700_000_000_000_000


def median_s(run: Callable[[], object], times: int = 5) -> float:
    """Median seconds of several runs, after one that compiles and warms up."""
    run()
    taken = []
    for _ in range(times):
        started = time.process_time()
        run()
        taken.append(time.process_time() - started)
    return statistics.median(taken)


def requests() -> list[bytes]:
    """Export requests with spans of about 480 bytes and 12 attributes."""
    values = []
    for first in range(0, SPANS, SPANS_A_RECORD):
        request = ExportTraceServiceRequest()
        group = request.resource_spans.add()
        group.resource.attributes.add(key="service.name").value.string_value = "gateway"
        scope = group.scope_spans.add()
        for i in range(first, first + SPANS_A_RECORD):
            span = scope.spans.add(trace_id=i.to_bytes(16, "big"), span_id=i.to_bytes(8, "big"), name="chat llama-3-70b-instruct", kind=3)
            span.start_time_unix_nano = 1_700_000_000_000_000_000 + i * 1_000_000
            span.end_time_unix_nano = span.start_time_unix_nano + 250_000_000
            texts = {
                "gen_ai.operation.name": "chat", "gen_ai.provider.name": "vllm", "gen_ai.request.model": "llama-3-70b-instruct",
                "gen_ai.response.model": "llama-3-70b-instruct", "user.id": f"user-{i % 5000:06d}",
                "gen_ai.conversation.id": f"c-{i % 20_000:08d}", "server.address": "inference-7.example.org",
            }  # fmt: skip
            for key, text in texts.items():
                span.attributes.add(key=key).value.string_value = text
            numbers = {"gen_ai.usage.input_tokens": i % 4096, "gen_ai.usage.output_tokens": i % 512, "gen_ai.request.max_tokens": 1024}
            for key, number in numbers.items():
                span.attributes.add(key=key).value.int_value = number
            for key, value in {"gen_ai.request.temperature": 0.7, "gen_ai.request.top_p": 0.95}.items():
                span.attributes.add(key=key).value.double_value = value
        values.append(request.SerializeToString())
    return values


def traces() -> None:
    """OTLP: ours, protobuf's parse alone, and parse and walk."""
    values = requests()
    raw, index = RawBatch.of(Partition("t"), values), np.arange(len(values))
    ours = SPANS / median_s(lambda: otlp.traces(raw, index, Format()))
    parse = SPANS / median_s(lambda: [ExportTraceServiceRequest.FromString(v) for v in values])
    some = values[: len(values) // 10]

    def by_objects() -> None:
        gathered = Gathered()
        for value in some:
            walk("traces", ExportTraceServiceRequest.FromString(value), Format(), 0, gathered)
        gathered.done()

    objects = SPANS / 10 / median_s(by_objects, 3)
    size = sum(map(len, values)) / SPANS
    print(f"otlp traces, {size:.0f} B a span: {ours:,.0f} spans/s; {ours / parse:.2f} x protobuf's parse alone ({parse:,.0f}),")
    print(f"    {ours / objects:.0f} x parse and walk to the same columns ({objects:,.0f})")


def lines() -> None:
    """JSON lines: ours, and Arrow's reader alone on the joined text."""
    rows = [
        orjson.dumps(
            {
                "time": 1_700_000_000_000_000 + i * 1000,
                "principal": f"p{i % 1000}",
                "model": "m",
                "operation": "chat",
                "input_tokens": i % 100,
            }
        )
        for i in range(LINES)
    ]
    raw, text = RawBatch.of(Partition("t"), rows), pa.py_buffer(b"\n".join(rows))
    size = text.size / 1e6
    ours = size / median_s(lambda: decode(raw, Format("inference")))
    alone = size / median_s(lambda: reader.read_json(pa.BufferReader(text)))
    rate = ours * 1e6 / len(rows[0])
    print(f"json lines of {len(rows[0])} B: {ours:,.0f} MB/s, {rate:,.0f} rows/s; {ours / alone:.2f} x Arrow's reader ({alone:,.0f} MB/s)")


if __name__ == "__main__":
    traces()
    lines()
