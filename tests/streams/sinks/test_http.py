"""Webhook, Alertmanager and file sinks against a real HTTP server and a real file."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from engine.alerts import Alert, message
from streams.records import Message
from streams.sinks import AlertmanagerSink, FileSink, WebhookSink


class Receiver(HTTPServer):
    """Keeps what it was sent; answers by `answer(body)`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[str, dict, bytes]] = []
        self.answer = lambda body: 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((self.path, dict(self.headers), body))
        self.send_response(self.server.answer(body))
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def an_alert(key: str) -> Message:
    onset, seen = 1_700_000_000_000_000, 1_700_000_001_000_000
    return message(Alert(key, "rules", "hardware", key, "", "firing", "error", "t", "s", onset, seen, None, 1.0, 1.0), "/x")


def test_a_webhook_gets_each_event_once(receiver: Receiver) -> None:
    sink = WebhookSink(receiver.url, {"authorization": "Bearer s"})
    messages = [an_alert("a"), an_alert("b")]
    assert sink.send(messages) == {m.id for m in messages}
    assert [json.loads(body)["subject"] for _, _, body in receiver.got] == ["hardware/a", "hardware/b"]
    headers = {k.lower(): v for k, v in receiver.got[0][1].items()}
    assert headers["idempotency-key"] == messages[0].id and headers["authorization"] == "Bearer s"
    assert headers["content-type"].startswith("application/cloudevents+json")


def test_a_webhook_that_fails_is_tried_again_and_one_refusal_holds_up_nobody(receiver: Receiver) -> None:
    sink, messages = WebhookSink(receiver.url), [an_alert("a"), an_alert("b")]
    receiver.answer = lambda body: 503
    with pytest.raises(ConnectionError):
        sink.send(messages)
    receiver.answer = lambda body: 400 if b"hardware/a" in body else 200
    assert sink.send(messages) == {m.id for m in messages}
    with pytest.raises(ValueError, match="file:///etc/passwd"):
        WebhookSink("file:///etc/passwd")


def test_alertmanager_gets_labels_and_times(receiver: Receiver) -> None:
    sink = AlertmanagerSink(receiver.url)
    assert len(sink.send([an_alert("h/d")])) == 1
    (path, _, body), (alert,) = receiver.got[0], json.loads(receiver.got[0][2])
    assert path == "/api/v2/alerts" and body
    assert alert["labels"]["alertname"] == "telltale_rules" and alert["labels"]["key"] == "h/d"
    assert alert["startsAt"] == "2023-11-14T22:13:20+00:00" and alert["endsAt"] > alert["startsAt"]


def test_a_file_gets_a_line_each(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "a.jsonl")
    assert len(sink.send([an_alert("a"), an_alert("b")])) == 2
    sink.close()
    assert [json.loads(line)["data"]["key"] for line in (tmp_path / "a.jsonl").read_bytes().splitlines()] == ["a", "b"]
