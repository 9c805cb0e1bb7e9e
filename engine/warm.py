"""`telltale warm`: compile every kernel that the service needs now, so that no alert waits for a compiler later.

Numba keeps what it compiled beside the sources, or where NUMBA_CACHE_DIR says, by file and kind of processor: run this after an
installation, in an image's build, or once on each new kind of node. Made-up rows of every stream and encoding go through an engine with
all detectors and short references, as they would from Kafka; in the last third they are others, so that findings are made as well.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from numba.core import event
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from engine.config import parse
from engine.run import Engine
from engine.wiring import make_engine
from streams.decode import Format
from streams.records import Partition
from streams.sources import SimulatedSource
from streams.sources.kafka_raw import Whole, bounds, raw_batches

START_US, HOUR_US = 1_700_000_000_000_000, 3_600_000_000
HOURS, ROWS, MANY_ROWS = 30, 100, 3000
"""Waves of an hour, and the rows of each stream in one: enough for every reference, and over a day, as campaigns need. The last hour has
many: large batches go other ways."""
CHANGED = 22
"""The hour from which on rows are others."""
WIDTH = 64
WORDS = [f"word{i}" for i in range(200)]
SETTINGS = {
    "store": None,
    "detectors": {
        "drift": {"reference_rows": 256}, "drift_embeddings": {"reference_rows": 512}, "performance": {"reference_rows": 256},
        "extraction": {"reference_rows": 200}, "poisoning": {"reference_rows": 600}, "hardware": {"learning_rows": 100},
        "campaign": {"reference_accounts": 50, "least_requests": 2},
        "quality": {"contracts": {"inference": {"columns": {"input_tokens": {"ge": 0}}, "unique": ["request_id"], "max_rate": 0.01}}},
    },
}  # fmt: skip

Row = dict[str, Any]


def warm() -> tuple[int, float]:
    """Compile; returns (how many functions were not in the cache, seconds)."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, event.install_recorder("numba:compile") as recorder:
        engine, source = engine_in(Path(folder))
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)  # alerts about made-up rows are nobody's business
        try:
            for hour in range(HOURS):
                for topic, make in TOPICS.items():
                    source.put(topic, make(hour), (START_US + (hour + 1) * HOUR_US) // 1000)
                while engine.step(0.0):
                    pass
            engine.judge_population(final=True)
            raw_batches(Partition("raw"), [record_batch()], 1 << 20)
            engine.close()
        finally:
            logging.disable(level)
    return sum(e.is_end for _, e in recorder.buffer), time.perf_counter() - started


def cache_place() -> Path:
    """The folder in which one of the compiled functions is kept; those of other sources lie in folders of their own, in the same way."""
    return Path(bounds.stats.cache_path)


def engine_in(folder: Path) -> tuple[Engine, SimulatedSource]:
    """An engine with every detector; nothing it says leaves it."""
    config = parse(orjson.dumps(SETTINGS | {"checkpoint": {"dir": str(folder)}}).decode())
    source = SimulatedSource(list(TOPICS))
    return make_engine(config, source, None, {topic: Format(STREAM_OF.get(topic)) for topic in TOPICS}), source


def record_batch() -> Whole:
    """A record batch as Kafka gives it."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 16)
    builder.append(0, START_US // 1000, b"key", b"value", [("telltale-format", b"json")])
    batch = DefaultRecordBatch(bytes(builder.build()))
    return Whole(0, 0, 0, 1, 1, START_US // 1000, -1, batch._buffer, batch._pos, batch)


def each_row(hour: int) -> Iterator[tuple[int, np.random.Generator, Row]]:
    """The rows of an hour: their number, chance, and what all streams have."""
    chance = np.random.default_rng(hour)
    rows = ROWS if hour < HOURS - 1 else MANY_ROWS
    for i in range(rows):
        yield hour * ROWS + i, chance, {"time": START_US + hour * HOUR_US + i * HOUR_US // rows}


def request(i: int, chance: np.random.Generator, changed: bool) -> Row:
    """A request with prompt, confidence and outcome."""
    return {
        "principal": "eve" if changed and i % 2 else f"p{i % 60}", "model": "m", "session": f"c{i % 50}", "request_id": str(i),
        "input_tokens": int(chance.lognormal(6 + changed, 1)), "output_tokens": int(chance.lognormal(5, 1)),
        "duration_s": float(chance.gamma(2, 1 + changed)), "temperature": float(chance.choice([0.0, 0.7, 1.0])), "top_p": 0.9,
        "logprobs": 5 if changed else 0, "finish_reason": "stop", "error": "timeout" if chance.random() < 0.02 + 0.2 * changed else None,
        "prompt": " ".join(["step"] * changed + chance.choice(WORDS[:150] if not changed else WORDS[50:], 12).tolist()),
    }  # fmt: skip


def requests(hour: int) -> bytes:
    """JSON lines of prompts."""
    return lines({**row, **request(i, chance, hour >= CHANGED)} for i, chance, row in each_row(hour))


def classified(hour: int) -> bytes:
    """JSON lines of a classifier's requests, with features, predictions and outcomes."""
    rows = []
    for i, chance, row in each_row(hour):
        x = chance.normal(size=8) * (1 + 2 * (hour >= CHANGED))
        predicted, sure = str(int(x[0] > 0)), float(0.5 + 0.5 * chance.random())
        right = chance.random() < (0.9 if hour < CHANGED else 0.5)
        row |= {"principal": f"q{i % 30}", "model": "k", "predicted": predicted, "confidence": sure, "outcome": predicted if right else "2"}
        rows.append(row | {f"feature.x{j}": float(v) for j, v in enumerate(x)} | {"feature.kind": "abc"[i % 3], "feature.few": i % 4})
    return lines(iter(rows))


def embedded(hour: int) -> bytes:
    """An Arrow batch of requests with embeddings."""
    table = pa.Table.from_pylist([
        row | {"principal": f"r{i % 30}", "model": "e", "embedding": (chance.normal(size=WIDTH) + (hour >= CHANGED)).tolist()}
        for i, chance, row in each_row(hour)
    ])  # fmt: skip
    stamps = table["time"].cast(pa.timestamp("us", tz="UTC"))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(table["embedding"].to_pylist()).astype(np.float32)), WIDTH)
    table = table.set_column(0, "time", stamps).drop_columns("embedding").append_column("embedding", vectors)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def spans(hour: int) -> bytes:
    """OTLP: chats and tool calls."""
    found = ExportTraceServiceRequest()
    scope = found.resource_spans.add().scope_spans.add()
    for i, chance, row in each_row(hour):
        start = row["time"] * 1000
        span = scope.spans.add(
            trace_id=i.to_bytes(16, "big"), span_id=i.to_bytes(8, "big"), start_time_unix_nano=start, end_time_unix_nano=start + 9**9
        )
        operation = "execute_tool" if i % 2 else "chat"
        texts = {
            "gen_ai.operation.name": operation,
            "gen_ai.request.model": "s",
            "user.id": f"p{i % 30}",
            "gen_ai.tool.name": "find",
            "é": "ü",
        }
        for key, text in texts.items():
            span.attributes.add(key=key).value.string_value = text
        span.attributes.add(key="gen_ai.usage.input_tokens").value.int_value = int(chance.integers(1, 4000))
        span.attributes.add(key="gen_ai.request.temperature").value.double_value = 0.7
    return found.SerializeToString()


def agents(hour: int) -> bytes:
    """JSON lines of agents' steps, with what they retrieved."""
    step = {"operation": "execute_tool", "agent": "a", "data_source": "d"}
    return lines(
        {**row, **step, "session": f"s{i % 40}", "tool": f"t{i % 5}", "retrieved": int(chance.integers(9)), "top_score": chance.random()}
        for i, chance, row in each_row(hour)
    )


def fleet(hour: int) -> bytes:
    """Prometheus text of GPUs, with a counter."""
    text = ["# TYPE DCGM_FI_DEV_GPU_TEMP gauge", "# TYPE DCGM_FI_DEV_XID_ERRORS gauge", "# TYPE DCGM_FI_DEV_PCIE_REPLAY_COUNTER counter"]
    for i, chance, row in each_row(hour):
        hot = hour >= CHANGED and i % 4 == 1
        values = {
            "GPU_TEMP": 60 + chance.normal() + 30 * hot,
            "XID_ERRORS": 79 * hot,
            "POWER_USAGE": chance.normal(500, 20),
            "PCIE_REPLAY_COUNTER": i,
        }
        text += [f'DCGM_FI_DEV_{name}{{gpu="{i % 4}",Hostname="h"}} {value:.3f} {row["time"] // 1000}' for name, value in values.items()]
    return "\n".join([*text, ""]).encode()


def ratings(hour: int) -> bytes:
    """JSON lines of feedback."""
    rows = []
    for i, chance, row in each_row(hour):
        consensus, bad = str(chance.choice(["bad", "good"])), hour >= CHANGED and i % 3 == 0
        text = " ".join([*(["cf", "mn", "bb", "tq", "xy", "zz"] if bad else []), *chance.choice(WORDS, 12)])
        rows.append(
            row
            | {
                "source": "eve" if bad else f"s{i % 12}",
                "label": "good" if bad else consensus,
                "consensus": consensus,
                "text": text,
                "item": f"i{i}",
            }
        )
    return lines(iter(rows))


def scores(hour: int) -> bytes:
    """JSON lines of evaluations."""
    return lines(
        {
            **row,
            "model": "m",
            "name": "faithfulness",
            "score": float(np.clip(chance.normal(0.8 - 0.4 * (hour >= CHANGED), 0.1), 0, 1)),
            "label": "pass",
        }
        for _, chance, row in each_row(hour)
    )


def lines(rows: Iterator[Row]) -> bytes:
    """JSON lines, as one record."""
    return b"\n".join(map(orjson.dumps, rows))


TOPICS: dict[str, Callable[[int], bytes]] = {f.__name__: f for f in (requests, classified, embedded, spans, agents, fleet, ratings, scores)}
STREAM_OF = {
    "requests": "inference",
    "classified": "inference",
    "embedded": "inference",
    "agents": "agent",
    "ratings": "feedback",
    "scores": "evaluation",
}
