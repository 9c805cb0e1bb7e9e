"""CloudEvents as the real library writes them, payload logs, SageMaker data capture, kernel logs; and damage to any of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.schema import align
from engine.worker import Worker
from streams.decode import Format, decode
from streams.records import Headers, Partition, RawBatch

AT = datetime(2026, 1, 1, tzinfo=UTC)
ROW = {"host": "h", "device": "g0", "metric.gpu_temp": 41.0}
REQUEST = {"instances": [{"age": 31, "job": "nurse"}, {"age": 40, "job": "cook"}]}
RESPONSE = {"predictions": [[0.1, 0.9], "no"]}
CAPTURE = {
    "captureData": {
        "endpointInput": {"observedContentType": "text/csv", "mode": "INPUT", "data": "132,25,blue\n1,2,red", "encoding": "CSV"},
        "endpointOutput": {"observedContentType": "application/json", "mode": "OUTPUT", "data": '{"predictions": [0.0135, 0.5]}', "encoding": "JSON"},
    },
    "eventMetadata": {"eventId": "e-1", "customAttributes": ["user=u1"], "inferenceTime": "2026-01-01T00:00:00Z"}, "eventVersion": "0",
}  # fmt: skip


def event(kind: str, data: object, ident: str = "id-1", **more: str):
    """An event made by the library."""
    from cloudevents.core.v1.event import CloudEvent

    attributes = {
        "id": ident,
        "source": "http://n1/iris",
        "type": kind,
        "specversion": "1.0",
        "time": AT,
        "datacontenttype": "application/json",
    }
    return CloudEvent(attributes=attributes | more, data=data)


def structured(*args, **more) -> bytes:
    from cloudevents.core.formats.json import JSONFormat

    return JSONFormat().write(event(*args, **more))


def binary(*args, **more) -> tuple[bytes, Headers]:
    from cloudevents.core.bindings.kafka import to_binary_event

    message = to_binary_event(event(*args, **more))
    return message.value, tuple((k, v) for k, v in message.headers.items())


def read(values: list[bytes], fmt: Format | None = None, headers: list[Headers] | None = None):
    decoded = decode(RawBatch.of(Partition("iris"), values, headers=headers), fmt or Format())
    return {p.stream: [{k: v for k, v in r.items() if v is not None} for r in p.table.to_pylist()] for p in decoded.rows}, decoded.rejects


def test_rows_of_ours_in_all_three_modes() -> None:
    value, headers = binary("x.gpu", ROW)
    batch = b"[" + structured("x.gpu", [ROW, ROW]) + b"," + structured("x.gpu", ROW, telltalestream="hardware") + b"]"
    for values, heads in (([structured("x.gpu", ROW)], None), ([value], [headers]), ([batch], None)):
        rows, rejects = read(values, Format("hardware"), heads)
        assert rejects == [] and all(r == ROW | {"time": AT} for r in rows["hardware"]), rows
    (rejected,) = read([structured("x.gpu", ROW)])[1]
    assert rejected.reason == "format"


def test_payload_logs_of_both_modes_become_one_row_an_inference() -> None:
    asked, answered = (f"org.kubeflow.serving.inference.{p}" for p in ("request", "response"))
    value, headers = binary(answered, RESPONSE, inferenceservicename="iris")
    raw = RawBatch.of(
        Partition("logs"), [structured(asked, REQUEST, inferenceservicename="iris"), value], headers=[(), headers],
        timestamps_ms=np.array([1_767_225_600_000] * 2),
    )  # fmt: skip
    decoded = decode(raw, Format())
    assert decoded.rejects == [] and [r.table.num_rows for r in decoded.rows] == [4]
    for cut in (1, 4):
        rows = joined(raw, decoded, cut)
        assert [(r["feature.age"], r["feature.job"], r["predicted"], r["model"], r["request_id"]) for r in rows] == [
            (31.0, "nurse", "1", "iris", "id-1/0"), (40.0, "cook", "no", "iris", "id-1/1"),
        ]  # fmt: skip


class Keeps:
    """A detector that keeps the rows it is shown."""

    name, streams = "keeps", ("inference",)

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def arrays(self):
        return ()

    def observe(self, batch, state) -> None:
        self.rows += batch.table.to_pylist()


def joined(raw: RawBatch, decoded, cut: int) -> list[dict]:
    """What detectors see of it."""
    keeps = Keeps()
    worker = Worker(Partition("logs"), {"keeps": keeps}, "", None, {})
    for part in decoded.rows:
        for first in range(0, part.table.num_rows, cut):
            rows = type(part)(part.stream, part.table.slice(first, cut), part.offsets[first : first + cut])
            batch, misfits = align(rows, raw, worker.state, 1 << 60, 0)
            assert misfits == []
            worker.observe(batch)
    return keeps.rows


def test_a_half_that_waits_too_long_goes_on_alone_and_plain_rows_pass() -> None:
    lines = [
        {"time": 0, "principal": "p", "model": "m", "request_id": "a", "part": "request", "input_tokens": 5},
        {"time": 1_000_000, "principal": "p", "model": "m", "input_tokens": 6},
        {"time": 2_000_000, "principal": "m", "model": "m", "request_id": "b", "part": "response", "output_tokens": 9},
        {"time": 3_000_000, "principal": "u", "model": "m", "request_id": "b", "part": "request", "input_tokens": 7},
        {"time": 90_000_000, "principal": "p", "model": "m", "input_tokens": 8},
    ]
    raw = RawBatch.of(Partition("logs"), [orjson.dumps(line) for line in lines])
    for cut in (1, 5):
        rows = joined(raw, decode(raw, Format("inference")), cut)
        assert [(r.get("input_tokens"), r.get("output_tokens"), r["principal"]) for r in rows] == [
            (6, None, "p"), (7, 9, "u"), (5, None, "p"), (8, None, "p"),
        ]  # fmt: skip


def test_tensors_and_chats() -> None:
    v2 = {
        "inputs": [
            {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]},
            {"name": "y", "shape": [2, 1], "data": [[5], [6]]},
        ]
    }
    chat = {"model": "llama", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "user": "u1", "stream": True}
    asked = "org.kubeflow.serving.inference.request"
    rows, _ = read([structured(asked, v2), structured(asked, chat, "id-2")])
    assert rows["inference"][1]["feature.x.1"] == 4.0 and rows["inference"][1]["feature.y"] == 6.0
    last = rows["inference"][2]
    assert (last["model"], last["max_tokens"], last["principal"], last["stream"]) == ("llama", 9, "u1", True)


def test_sagemaker_data_capture() -> None:
    line = json.dumps(CAPTURE).encode()
    rows, rejects = read([line + b"\n" + line, b'{"captureData": 1}'], Format(principal=("user",)))
    assert [(r.reason, r.offset) for r in rejects] == [("sagemaker", 1)]
    assert rows["inference"][0] == {
        "time": AT, "model": "iris", "principal": "u1", "provider": "sagemaker", "request_id": "e-1", "feature.0": 132.0, "feature.1": 25.0,
        "feature.2": "blue", "feature.prediction": 0.0135,
    }  # fmt: skip
    assert len(rows["inference"]) == 4


def test_kernel_log_lines() -> None:
    text = b"""[Thu Jan  1 00:00:00 2026] NVRM: Xid (PCI:0000:9b:00): 119, pid=1, Timeout
2026-01-01T00:00:00+00:00 n2 kernel: NVRM: Xid (PCI:0000:05:00): 79, GPU has fallen off the bus.
Jan  1 00:00:00 n3 kernel: nvidia-nvswitch0: SXid (PCI:0000:c5:00.0): 22013, Non-fatal
Jan  1 00:00:00 n3 kernel: eth0: link up
"""
    raw = RawBatch.of(Partition("t"), [text], timestamps_ms=np.array([1_767_225_600_000]), headers=[(("telltale-host", b"n1"),)])
    decoded = decode(raw, Format())
    (part,) = decoded.rows
    assert part.table.column("host").to_pylist() == ["n1", "n2", "n3"] and set(part.table.column("time").to_pylist()) == {AT}
    assert [r.reason for r in read([b"\xff NVRM: Xid (PCI:1): 79"])[1]] == ["kernel_log"]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b'{"specversion": "1.0"', "not JSON"), (b'{"specversion": "1.0", "id": "a", "source": "s"}', "attribute type"),
        (b'{"specversion": "2.0", "id": "a", "source": "s", "type": "t"}', "specversion '2.0'"), (b'[1, "specversion"]', "a int, not"),
        (b'{"specversion": "1.0", "id": "a", "source": "s", "type": "t"}', "no data"),
        (b'{"specversion": "1.0", "id": "a", "source": "s", "type": "t", "data_base64": "?"}', "data_base64"),
        (b'{"specversion": "1.0", "id": "a", "source": "s", "type": "t", "data": {}, "time": 1.5}', "time is no"),
    ],
)  # fmt: skip
def test_what_is_no_event_says_why(value: bytes, why: str) -> None:
    (rejected,) = [r for r in read([value], Format("hardware"))[1]][:1]
    assert rejected.reason == "cloudevents" and why in rejected.detail


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["instances", "inputs", "predictions", "outputs", "choices", "usage", "messages", "name", "shape", "data", "label", "score", "x"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["request", "response"]), JSON)
def test_any_payload_is_rows_or_rejects(part: str, data: object) -> None:
    value = json.dumps(
        {"specversion": "1.0", "id": "a", "source": "s", "type": f"org.kubeflow.serving.inference.{part}", "data": data}
    ).encode()
    capture = json.dumps(
        {"captureData": {"endpointInput": {"data": json.dumps(data), "encoding": "JSON"}}, "eventMetadata": {"inferenceTime": 1}}
    ).encode()
    raw = RawBatch.of(Partition("t"), [value, capture], timestamps_ms=np.array([1, 1]))
    for rows in decode(raw, Format()).rows:
        align(rows, raw, Worker(Partition("t"), {}, "", None, {}).state, 1 << 60, 0)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damage_is_rejected_never_worse(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([structured("org.kubeflow.serving.inference.request", REQUEST), json.dumps(CAPTURE).encode()]))
    value = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    encoding = data.draw(st.sampled_from(["cloudevents", "sagemaker", "kernel_log"]))
    assert all(r.detail for r in decode(RawBatch.of(Partition("t"), [bytes(value)]), Format("inference", encoding)).rejects)
