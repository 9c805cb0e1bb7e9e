"""From Kafka to alerts, beside clients that fetch the same records from the same broker and drop them (confluent-kafka; the engine's own
source; of large records kafka-python's consumer as it comes): `make bench-ingest`.

    python -m benchmarks.end_to_end [--rows 6000000] [--partitions 4] [--codec lz4] [--client PYTHON] [--rounds 3]

Small records are JSON of about 100 bytes, large ones OTLP requests of 500 spans (265 KB) and Arrow batches of requests with embeddings
(245 KB). The engine runs all detectors with a Kafka sink and checkpoints, in one process. Rates count from the assignment of the
partitions to the last record, and of the second half of the records alone: what goes on when references are learned and fetching has
begun. Rounds alternate, and the median of each is taken. `--client`: a Python that has confluent-kafka. Needs a Kafka, found as the
tests find it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numba
import numpy as np
import pyarrow as pa

from benchmarks import ingest
from benchmarks.__main__ import processor
from benchmarks.parity import T0, rows_of
from engine import heap
from engine.config import parse
from engine.run import Engine
from engine.wiring import make_engine, make_kafka_source
from streams.records import Partition, unpacked
from streams.sources import KafkaSource
from tests.support.kafka import Cluster, connect, unique_group

ROOT = Path(__file__).parents[1]
ARROW_ROWS, WIDTH, LARGE_BYTES = 60, 1024, 10_000


def arrow_records(n: int) -> list[bytes]:
    """Requests with an embedding, 245 KB a record."""
    generator, values = np.random.default_rng(0), []
    for k in range(n):
        numbers = generator.standard_normal(ARROW_ROWS * WIDTH, np.float32)
        table = pa.table({
            "time": pa.array(T0 + (k * ARROW_ROWS + np.arange(ARROW_ROWS)) * 500, pa.timestamp("us", tz="UTC")),
            "principal": [f"p{i % 50}" for i in range(ARROW_ROWS)], "model": ["m"] * ARROW_ROWS,
            "input_tokens": pa.array(generator.integers(1, 4000, ARROW_ROWS), pa.int32()),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(numbers), WIDTH),
        })  # fmt: skip
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        values.append(sink.getvalue().to_pybytes())
    return values


def engine_over(cluster: Cluster, topic: str, folder: Path, alerts: str) -> Engine:
    """The engine as `telltale run` makes it."""
    config = parse(json.dumps({
        "source": {"kafka": {"bootstrap": cluster.bootstrap, "group": unique_group(), "topics": [{"name": topic, "stream": "inference"}]}},
        "sinks": {"out": {"type": "kafka", "bootstrap": cluster.bootstrap, "alerts": alerts}},
        "checkpoint": {"dir": str(folder / unique_group()), "interval_s": 5},
    }))  # fmt: skip
    return make_engine(config, make_kafka_source(config), None)


def rate(source: KafkaSource, turn: Callable[[], int], count: int) -> tuple[float, float]:
    """Records a second, from the moment when the partitions are assigned until the last record is done with; and of the second half."""
    told, first, seen, half = source._on_assigned, list[float](), 0, (0, 0.0)

    def assigned(partitions: Sequence[Partition]) -> None:
        told(partitions)
        first.append(time.perf_counter())

    source._on_assigned = assigned
    while seen < count:
        seen += turn()
        if not half[0] and 2 * seen >= count:
            half = seen, time.perf_counter()
    ended = time.perf_counter()
    return seen / (ended - first[0]), (seen - half[0]) / (ended - half[1])


def scored(cluster: Cluster, topic: str, folder: Path, alerts: str, count: int) -> tuple[tuple[float, float], Engine]:
    """The rates of the engine, and the engine, closed."""
    engine = engine_over(cluster, topic, folder, alerts)
    found = rate(engine.source, lambda: engine.step(0.5), count)  # type: ignore[arg-type]
    assert not engine.rejected, engine.rejected
    engine.close()
    return found, engine


def dropped(cluster: Cluster, topic: str, count: int, raw: bool) -> tuple[float, float]:
    """The rates of the engine's own source, its records thrown away; or of kafka-python as it is."""
    source = KafkaSource(cluster.bootstrap, unique_group(), [topic], raw=raw)
    source.on_change(lambda partitions: None, lambda partitions: None)
    found = rate(source, lambda: sum(len(batch) for batch in unpacked(source.packed(0.5, 8 << 20))), count)
    source.close()
    return found


def client(python: Path, verb: str, *args: object) -> str:
    """confluent-kafka, in its environment."""
    command = [str(python), str(ROOT / "benchmarks" / "peers" / "kafka_client.py"), verb, *map(str, args)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def measured(
    cluster: Cluster, folder: Path, python: Path, name: str, values: Iterable[bytes], options: argparse.Namespace
) -> dict[str, object]:
    """All rates over one topic with these records."""
    topic, alerts = cluster.topic(options.partitions, **{"max.message.bytes": str(16 << 20)}), cluster.topic(1)
    file = folder / "records"
    count = total = 0
    with file.open("wb") as out:
        for value in values:
            out.write(len(value).to_bytes(4, "little") + value)
            count, total = count + 1, total + len(value)
    client(python, "produce", cluster.bootstrap, topic, file, options.partitions, options.codec)
    size = total / count
    rates: dict[str, list[tuple[float, float]]] = {
        "telltale": [], "source, dropping": [], "confluent-kafka, dropping": [], "kafka-python, dropping": [],
    }  # fmt: skip
    scored(cluster, topic, folder, alerts, count)  # compiles, and warms the broker's page cache
    stages: dict[str, float] = {}
    if size < LARGE_BYTES:
        del rates["kafka-python, dropping"]  # a twentieth of the others
    for _ in range(options.rounds):
        if "kafka-python, dropping" in rates:
            whole, half = client(Path(sys.executable), "stock", cluster.bootstrap, topic, count, options.partitions).split()
            rates["kafka-python, dropping"].append((float(whole), float(half)))
        whole, half = client(python, "drop", cluster.bootstrap, topic, count, options.partitions).split()
        rates["confluent-kafka, dropping"].append((float(whole), float(half)))
        rates["source, dropping"].append(dropped(cluster, topic, count, raw=True))
        found, engine = scored(cluster, topic, folder, alerts, count)
        rates["telltale"].append(found)
        sums = [s for m in engine.metrics.stage_s.collect() for s in m.samples if s.name.endswith("_sum")]
        stages = {s.labels["stage"]: round(s.value * found[0] / count, 3) for s in sums}
    medians, steady = ({who: statistics.median(r[k] for r in found) for who, found in rates.items()} for k in (0, 1))
    said = {
        "records": name, "bytes": round(size), "count": count, "rows": engine.rows, "alerts": sum(engine.opened.values()),
        "records_per_s": {who: round(found) for who, found in medians.items()},
        "second_half_records_per_s": {who: round(found) for who, found in steady.items()},
        "rounds": {who: [[round(r) for r in pair] for pair in found] for who, found in rates.items()},
        "telltale_mb_per_s": round(medians["telltale"] * size / 1e6, 1),
        "telltale_rows_per_s": round(medians["telltale"] * engine.rows / count),
        # no rate where all of the second half came at once: more records are wanted
        "against_confluent_kafka_second_half": round(steady["telltale"] / other, 2) if (other := steady["confluent-kafka, dropping"]) else None,
        "against": {who: round(medians["telltale"] / found, 2) for who, found in medians.items() if who != "telltale"},
        "share_of_stages": stages,
    }  # fmt: skip
    print(json.dumps(said, indent=1), flush=True)
    return said


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.end_to_end")
    parser.add_argument("--rows", type=int, default=6_000_000)
    parser.add_argument("--large", type=int, default=600, help="how many large records of each kind")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--codec", default="lz4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--client", type=Path, default=ROOT / ".venv-ingest" / "bin" / "python")
    parser.add_argument("--out", type=Path, help="write JSON there")
    parser.add_argument("--only", default="", help="json, otlp or arrow")
    options = parser.parse_args()
    heap.keep()
    ingest.SPANS = options.large * ingest.SPANS_A_RECORD
    kinds: dict[str, Callable[[], Iterable[bytes]]] = {
        "json": lambda: rows_of(options.rows), "otlp": ingest.requests, "arrow": lambda: arrow_records(options.large),
    }  # fmt: skip
    said = []
    with tempfile.TemporaryDirectory() as folder:
        cluster, broker = connect(Path(folder) / "kafka")
        try:
            for name, make in kinds.items():
                if options.only in ("", name):
                    said.append(measured(cluster, Path(folder), options.client, name, make(), options))
        finally:
            if broker is not None:
                broker.stop()
    result = {
        "machine": f"{processor()}, {numba.get_num_threads()} threads",
        "codec": options.codec,
        "partitions": options.partitions,
        "results": said,
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
