"""The whole path on a real broker: OTLP, JSON and Arrow in; alerts on a topic and over REST; poison, kill -9, broker restart."""

import io
import json

import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from engine.remediate import verify
from tests.e2e.service import QUIET, Service, alerts, produce, records, until
from tests.support.kafka import Broker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]
T0 = 1_760_000_000_000_000


def row(i: int, xid: int = 0, host: str = "h0") -> dict:
    return {"time": T0 + i * 1_000_000, "host": host, "device": "gpu0", "xid": xid, "metric.gpu_temp": 50 + i % 7}


def lines(rows) -> list[bytes]:
    return [json.dumps(r).encode() for r in rows]


def arrow(rows) -> bytes:
    sink = io.BytesIO()
    batch = pa.RecordBatch.from_pylist(rows)
    batch = batch.set_column(0, "time", batch["time"].cast(pa.timestamp("us", tz="UTC")))
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def spans(n: int) -> bytes:
    """What the SDK's own exporter would send: chat spans of one user."""
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("test")
    for i in range(n):
        attributes = {
            "gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.provider.name": "vllm", "user.id": f"u{i % 3}",
            "gen_ai.usage.input_tokens": 100 + i % 50, "gen_ai.usage.output_tokens": 7,
        }  # fmt: skip
        with tracer.start_as_current_span("chat m", attributes=attributes):
            pass
    return encode_spans(memory.get_finished_spans()).SerializeToString()


@pytest.fixture
def service(kafka, tmp_path):
    made: list[Service] = []

    def make(*topics: dict, cluster=None, **more) -> Service:
        made.append(Service(tmp_path, cluster or kafka, topics, detectors=QUIET, **more))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_three_encodings_in_alerts_and_triggers_out(kafka, service, tmp_path):
    json_topic, arrow_topic, otlp_topic = (kafka.topic(name=n) for n in ("json", "arrow", "otlp"))
    key = Ed25519PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    running = service(
        {"name": json_topic, "stream": "hardware"}, {"name": arrow_topic, "stream": "hardware"}, {"name": otlp_topic},
        remediation={"policies": [{"detector": "rules", "actions": ["RESTART_BM"]}], "signing_key": f"file:{tmp_path}/key.pem"},
    ).start()  # fmt: skip
    produce(kafka, json_topic, lines([row(i, xid=79 if i == 5 else 0) for i in range(20)]))
    produce(kafka, arrow_topic, [arrow([row(i, xid=48 if i == 7 else 0, host="h1") for i in range(20)])])
    produce(kafka, otlp_topic, [spans(50)])
    got = until(lambda: len(a := alerts(kafka, running.alerts)) == 2 and a, "two alerts", running)
    assert {a["key"] for a in got.values()} == {"h0/gpu0 xid 79", "h1/gpu0 xid 48"}
    event = next(r for r in records(kafka, running.alerts) if json.loads(r.value)["data"]["key"].startswith("h0"))
    assert dict(event.headers)["content-type"] == b"application/cloudevents+json; charset=UTF-8"
    (trigger,) = until(lambda: records(kafka, running.triggers), "the trigger", running)
    assert verify(said := json.loads(trigger.value), key.public_key())
    assert (said["data"]["action"], said["data"]["target"]) == ("RESTART_BM", "h0/gpu0")
    over_rest = until(lambda: len(p := running.get("/api/v1/alerts")["alerts"]) == 2 and p, "alerts over REST", running)
    assert {a["id"] for a in over_rest} == set(got)
    one = running.get(f"/api/v1/alerts/{over_rest[0]['id']}")
    assert one["evidence"]["xid"] in (79, 48)
    metrics = until(lambda: 'telltale_rows_total{stream="inference"} 50.0' in (m := running.get("/metrics")) and m, "spans", running)
    assert 'telltale_rows_total{stream="hardware"} 40.0' in metrics
    assert running.stop() == 0, running.said()


def test_poison_becomes_dead_letters_and_costs_no_other_row(kafka, service):
    topic = kafka.topic(**{"max.message.bytes": str(64 << 20)})
    running = service({"name": topic, "stream": "hardware", "encoding": "json"}, limits={"record_bytes": 1 << 20, "idle_s": 1.0}).start()
    good = lines([row(0, xid=79)])[0]
    bad = {
        1: b"{not json", 2: b"\xff\xfe\x00garbage", 4: lines([{"time": T0, "device": "gpu0"}])[0],
        5: lines([{**row(1), "xid": "many"}])[0], 6: b"x" * (50 << 20), 8: lines([{**row(2), "time": "2999-01-01T00:00:00Z"}])[0],
    }  # fmt: skip
    values = [bad.get(i, b"" if i == 7 else good) for i in range(10)]
    produce(kafka, topic, values)
    dead = until(lambda: len(r := records(kafka, running.dead)) >= len(bad) and r, "dead letters", running)
    where = {int(dict(r.headers)["telltale-offset"]): dict(r.headers)["telltale-reason"].decode() for r in dead}
    assert set(where) == set(bad), where
    assert where[6] == "too_large" and where[8] == "time"
    assert next(r for r in dead if dict(r.headers)["telltale-offset"] == b"1").value == bad[1]
    until(lambda: alerts(kafka, running.alerts), "the alert of the good rows", running)
    assert 'telltale_rows_total{stream="hardware"} 3.0' in running.get("/metrics")


def test_kill_9_loses_no_alert_and_invents_none(kafka, service):
    topic = kafka.topic(partitions=2)
    rows = [row(i, xid=[0, 31, 48, 79, 94][i % 5] if i % 50 < 5 else 0, host=f"h{i // 50}") for i in range(3000)]
    expected = {f"{r['host']}/gpu0 xid {r['xid']}" for r in rows if r["xid"]}
    running = service({"name": topic, "stream": "hardware"}).start()
    keys = [r["host"].encode() for r in rows]
    for part in range(6):
        produce(kafka, topic, lines(rows[part * 500 : part * 500 + 500]), keys[part * 500 : part * 500 + 500])
        if part in (1, 3):
            running.kill()
            running.start()
    got = until(lambda: len(a := alerts(kafka, running.alerts)) >= len(expected) and a, "all alerts", running)
    assert sorted(a["key"] for a in got.values()) == sorted(expected)
    until(lambda: len(running.get("/api/v1/alerts?limit=500")["alerts"]) == len(expected), "all alerts over REST", running)


def test_a_broker_that_crashes_and_returns(tmp_path, service):
    broker = Broker(tmp_path / "broker")
    cluster = broker.start()
    try:
        topic = cluster.topic()
        running = service({"name": topic, "stream": "hardware"}, cluster=cluster).start()
        produce(cluster, topic, lines([row(0, xid=79, host="before")]))
        until(lambda: alerts(cluster, running.alerts), "the first alert", running)
        broker.kill()
        broker.start()
        produce(cluster, topic, lines([row(1, xid=79, host="after")]))
        got = until(lambda: len(a := alerts(cluster, running.alerts)) == 2 and a, "the second alert", running)
        assert {a["labels"]["device"] for a in got.values()} == {"before/gpu0", "after/gpu0"}
    finally:
        broker.stop()
