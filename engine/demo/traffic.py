"""Requests as telemetry: the digits classifier's clients as Arrow, and an LLM's traffic as OpenTelemetry spans.

The LLM's prompt and answer lengths are log-normal with the moments of Azure's published traces (Patel et al., ISCA 2024;
github.com/Azure/AzurePublicDataset, CC-BY-4.0): first those of the code service, and after the drift those of conversation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue

from engine.demo.digits import Client, Server
from engine.demo.record import Record

DIGITS_TOPIC, LLM_TOPIC = "demo.digits", "demo.llm"
DIGITS_MODEL, LLM_MODEL = "digits-mlp", "chat-8b"
CODE = ((6.9986, 1.3602), (2.7882, 0.8472))
CONVERSATION = ((6.6333, 0.9852), (5.0190, 0.8590))
"""Mean and deviation of ln(context tokens) and of ln(generated tokens)."""
SECONDS_PER_TOKEN, FIRST_TOKEN_S = 0.012, 0.18


@dataclass(frozen=True)
class Visit:
    """A client, and when it comes and goes."""

    client: Client
    from_us: int
    to_us: int


class DigitsTraffic:
    """Everybody's requests to the digits server, answered by it, in order of time."""

    def __init__(self, server: Server, visits: Sequence[Visit], start_us: int, rng: np.random.Generator):
        self.server, self.visits, self.next_us, self.rng = server, visits, start_us, rng

    def records(self, until_us: int) -> Iterator[Record]:
        """Serve what arrives until then: one Arrow IPC stream, with the image as embedding and its summary as features."""
        asked: list[tuple[Client, np.ndarray, np.ndarray]] = []
        for visit in self.visits:
            begin, end = max(self.next_us, visit.from_us), min(until_us, visit.to_us)
            n = int(self.rng.poisson(visit.client.rate_per_s * max(0, end - begin) / 1e6))
            if n and len(images := visit.client.queries(n)):
                asked.append((visit.client, images, np.sort(self.rng.integers(begin, end, len(images)))))
        self.next_us = until_us
        if not asked:
            return
        images = np.concatenate([a[1] for a in asked])
        labels, confidences = self.server.answer(images)
        first = 0
        for client, mine, _ in asked:
            client.answered(mine, labels[first : first + len(mine)])
            first += len(mine)
        times = np.concatenate([a[2] for a in asked])
        names = np.repeat([a[0].name for a in asked], [len(a[1]) for a in asked])
        order = np.argsort(times, kind="stable")
        value = arrow_stream(times[order], names[order], images[order], labels[order], confidences[order])
        yield Record(DIGITS_TOPIC, int(times[order[-1]]), value, len(order))


def arrow_stream(times: np.ndarray, names: np.ndarray, images: np.ndarray, labels: np.ndarray, confidences: np.ndarray) -> bytes:
    """Canonical inference rows as an Arrow IPC stream."""
    n = len(times)
    batch = pa.record_batch(
        {
            "time": pa.array(times, pa.timestamp("us", tz="UTC")),
            "principal": pa.array(names).dictionary_encode(),
            "model": pa.array([DIGITS_MODEL] * n).dictionary_encode(),
            "operation": pa.array(["classify"] * n).dictionary_encode(),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(images.ravel()), images.shape[1]),
            "predicted": pa.array(labels.astype(str)).dictionary_encode(),
            "confidence": pa.array(confidences),
            "feature.ink": pa.array(images.mean(1)),
            "feature.contrast": pa.array(images.std(1)),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


class LlmTraffic:
    """Requests to a language model, whose mix changes from code to conversation at `drift_us`. Their lengths are drawn, not generated."""

    def __init__(self, start_us: int, drift_us: int, rate_per_s: float, rng: np.random.Generator):
        self.next_us, self.drift_us, self.rate_per_s, self.rng = start_us, drift_us, rate_per_s, rng
        self.users = [f"team-{i:02d}" for i in range(20)]

    def records(self, until_us: int) -> Iterator[Record]:
        """The spans that end until then, as one OTLP export."""
        n = int(self.rng.poisson(self.rate_per_s * (until_us - self.next_us) / 1e6))
        times = np.sort(self.rng.integers(self.next_us, until_us, n))
        self.next_us = until_us
        if not n:
            return
        request = ExportTraceServiceRequest()
        resource = request.resource_spans.add()
        resource.resource.attributes.append(attribute("service.name", "vllm"))
        scope = resource.scope_spans.add()
        for time_us in times.tolist():
            self._span(scope.spans.add(), time_us)
        yield Record(LLM_TOPIC, int(times[-1]), request.SerializeToString(), n)

    def _span(self, span, time_us: int) -> None:  # type: ignore[no-untyped-def]
        context, generated = CONVERSATION if time_us >= self.drift_us else CODE
        prompt_tokens = int(np.clip(self.rng.lognormal(*context), 3, 16_000))
        output_tokens = int(np.clip(self.rng.lognormal(*generated), 1, 4_000))
        duration_s = FIRST_TOKEN_S + output_tokens * SECONDS_PER_TOKEN * float(self.rng.lognormal(0, 0.15))
        span.trace_id, span.span_id, span.kind = self.rng.bytes(16), self.rng.bytes(8), 2
        span.name = f"chat {LLM_MODEL}"
        span.end_time_unix_nano = time_us * 1000
        span.start_time_unix_nano = time_us * 1000 - int(duration_s * 1e9)
        span.attributes.extend(
            [
                attribute("gen_ai.operation.name", "chat"), attribute("gen_ai.provider.name", "vllm"),
                attribute("gen_ai.request.model", LLM_MODEL), attribute("user.id", self.users[int(self.rng.integers(len(self.users)))]),
                attribute("gen_ai.usage.input_tokens", prompt_tokens), attribute("gen_ai.usage.output_tokens", output_tokens),
                attribute("gen_ai.request.temperature", 0.7), attribute("gen_ai.response.finish_reasons", ["stop"]),
                attribute("gen_ai.response.time_to_first_chunk", FIRST_TOKEN_S),
            ]
        )  # fmt: skip


def attribute(name: str, value: str | int | float | list[str]) -> KeyValue:
    """A span attribute."""
    if isinstance(value, str):
        held = AnyValue(string_value=value)
    elif isinstance(value, int):
        held = AnyValue(int_value=value)
    elif isinstance(value, float):
        held = AnyValue(double_value=value)
    else:
        held = AnyValue(array_value=ArrayValue(values=[AnyValue(string_value=v) for v in value]))
    return KeyValue(key=name, value=held)
