"""How fast records become columns: `python -m benchmarks.ingest [--out FILE]`. Ratios to peers in the same run, medians of seven, one core.

Batches are as large as the engine polls them, about 8 MB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.json as reader
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from benchmarks.__main__ import processor
from engine.schema import align
from engine.state import State
from streams.decode import Format, decode, otlp
from streams.decode.otlp_walk import walk
from streams.decode.tables import Gathered
from streams.records import Decoded, Partition, RawBatch

SPANS, SPANS_A_RECORD, LINES = 15_000, 500, 80_000
FIRST_US = 1_700_000_000_000_000


def median_s(run: Callable[[], object], times: int = 7) -> float:
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


def parse_all(values: list[bytes]) -> None:
    """protobuf's own parse, one request at a time."""
    for value in values:
        ExportTraceServiceRequest.FromString(value)


def aligned(raw: RawBatch, decoded: Decoded) -> None:
    """What the engine does with decoded rows before a detector sees them."""
    state = State()
    for rows in decoded.rows:
        align(rows, raw, state, 60_000_000, 0)


def traces() -> dict[str, float]:
    """OTLP: ours, protobuf's parse alone, and parse and walk."""
    values = requests()
    raw, index = RawBatch.of(Partition("t"), values), np.arange(len(values))
    ours = SPANS / median_s(lambda: otlp.traces(raw, index, Format()))
    whole = SPANS / median_s(lambda: aligned(raw, decode(raw, Format(encoding="otlp_proto"))))
    parse = SPANS / median_s(lambda: parse_all(values))
    some = values[: len(values) // 10]

    def by_objects() -> None:
        gathered = Gathered()
        for value in some:
            walk("traces", ExportTraceServiceRequest.FromString(value), Format(), 0, gathered)
        gathered.done()

    objects = SPANS / 10 / median_s(by_objects, 3)
    size = sum(map(len, values)) / SPANS
    print(f"otlp traces, {size:.0f} B a span: {ours:,.0f} spans/s; {ours / parse:.2f} x protobuf's parse alone ({parse:,.0f}),")
    print(f"    {ours / objects:.0f} x parse and walk to the same columns ({objects:,.0f}); {whole:,.0f} decoded and aligned")
    return {
        "bytes_a_span": size,
        "spans_per_s": ours,
        "decoded_and_aligned": whole,
        "protobuf_parse_alone": parse,
        "parse_and_walk": objects,
    }


def lines(row: Callable[[int], dict]) -> dict[str, float]:
    """JSON lines: ours, and Arrow's reader alone on the joined text."""
    rows = [orjson.dumps(row(i)) for i in range(LINES)]
    raw, text = RawBatch.of(Partition("t"), rows), pa.py_buffer(b"\n".join(rows))
    size = text.size / 1e6
    ours = size / median_s(lambda: decode(raw, Format("inference")))
    whole = size / median_s(lambda: aligned(raw, decode(raw, Format("inference"))))
    alone = size / median_s(lambda: reader.read_json(pa.BufferReader(text), read_options=reader.ReadOptions(use_threads=False)))
    each = text.size / len(rows)
    print(
        f"json lines of {each:.0f} B: {ours:,.0f} MB/s, {ours * 1e6 / each:,.0f} rows/s; {ours / alone:.2f} x Arrow's reader ({alone:,.0f} MB/s);"
    )
    print(f"    {whole:,.0f} MB/s decoded and aligned")
    return {"bytes_a_line": each, "mb_per_s": ours, "decoded_and_aligned": whole, "arrow_reader_alone": alone}


def short(i: int) -> dict:
    """A request, about 95 B."""
    return {"time": FIRST_US + i * 1000, "principal": f"p{i % 1000}", "model": "m", "operation": "chat", "input_tokens": i % 100}


def long(i: int) -> dict:
    """A request with more of the columns, about 300 B."""
    return short(i) | {
        "provider": "vllm", "server": "inference-7.example.org", "session": f"c-{i % 20_000:08d}", "output_tokens": i % 512, "max_tokens": 1024,
        "temperature": 0.7, "top_p": 0.95, "duration_s": (i % 977) / 256, "stream": False, "finish_reason": "stop",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest")
    parser.add_argument("--out", type=Path, help="write JSON there")
    options = parser.parse_args()
    said = {"machine": processor(), "otlp_traces": traces(), "json_short": lines(short), "json_long": lines(long)}
    if options.out:
        options.out.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
