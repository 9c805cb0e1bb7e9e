"""Scraping against real HTTP servers: prometheus-client's own, and ones that misbehave."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from engine import config as configuration
from engine.config import ConfigError
from engine.metrics import Metrics
from engine.outbox import Outbox, Route
from engine.run import Engine
from engine.wiring import make_detectors, make_formats, make_scrape_source, make_source
from streams.decode import Format, decode
from streams.sources import ScrapeSource, SeveralSources, SimulatedSource, Target
from tests.engine.test_missing import Kept


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.seen.append(dict(self.headers))
        status, kind, body = self.server.answer()
        self.send_response(status)
        self.send_header("content-type", kind)
        if status == 302:
            self.send_header("location", "http://127.0.0.1:1/")
        self.end_headers()
        for piece in body:
            self.wfile.write(piece)
            self.wfile.flush()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    site = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    site.seen, site.answer = [], lambda: (200, "text/plain; version=0.0.4", [b'DCGM_FI_DEV_GPU_TEMP{gpu="0"} 41\n'])
    site.url = f"http://127.0.0.1:{site.server_port}/metrics"
    thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield site
    site.shutdown()
    site.server_close()
    thread.join()


def scraped(target: Target, most: int = 1, **more) -> list[dict]:
    """Rows of the first scrapes of a target."""
    source = ScrapeSource([target], **more)
    rows, until = [], time.monotonic() + 20
    try:
        records = 0
        while records < most and time.monotonic() < until:
            for raw in source.poll(0.2, 1 << 20):
                records += len(raw)
                decoded = decode(raw, Format("hardware", "prometheus"))
                assert decoded.rejects == []
                rows += [{k: v for k, v in r.items() if v is not None} for part in decoded.rows for r in part.table.to_pylist()]
    finally:
        source.close()
    return rows


def test_the_real_clients_server_is_read() -> None:
    registry = CollectorRegistry()
    Gauge("vllm:num_requests_running", "r", ["model_name"], registry=registry).labels("llama").set(4)
    Counter("vllm:prompt_tokens", "t", ["model_name"], registry=registry).labels("llama").inc(10)
    site, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        rows = scraped(Target(f"http://127.0.0.1:{site.server_port}/metrics", {"rack": "r1"}, interval_s=0.1))
    finally:
        site.shutdown()
        site.server_close()
        thread.join()
    llama, itself = sorted(rows, key=lambda r: r["device"], reverse=True)
    assert (llama["metric.requests_running"], llama["metric.prompt_tokens_total"], llama["rack"]) == (4, 10, "r1")
    assert itself["metric.up"] == 1 and itself["host"] == f"127.0.0.1:{site.server_port}" and itself["metric.scrape_duration"] > 0


def test_a_header_goes_along_and_is_looked_up_anew(server) -> None:
    tokens = iter(["one", "two", "three", *["more"] * 1000])
    scraped(Target(server.url, headers=lambda: {"Authorization": next(tokens)}, interval_s=0.05), most=2)
    assert [s["Authorization"] for s in server.seen[:2]] == ["one", "two"]


@pytest.mark.parametrize(
    "answer",
    [
        (500, "text/plain", [b"no"]), (200, "text/html", [b"<html>"]), (302, "text/plain", []),
        (200, "text/plain", [b"x" * 1000] * 20), (200, "text/plain", (time.sleep(0.1) or b"a 1\n" for _ in range(100))),
    ],
    ids=["error", "html", "redirect", "too large", "drips"],
)  # fmt: skip
def test_what_is_no_answer_is_a_target_that_is_down(server, answer) -> None:
    server.answer = lambda: answer
    (row,) = scraped(Target(server.url, interval_s=0.1, timeout_s=0.5), max_bytes=10_000)
    assert row["metric.up"] == 0 and row["host"] == f"127.0.0.1:{server.server_port}"


def test_nobody_there() -> None:
    (row,) = scraped(Target("http://127.0.0.1:1/metrics", interval_s=0.1))
    assert row["metric.up"] == 0


def test_a_fault_in_the_headers_is_raised_by_poll(server) -> None:
    def gone() -> dict:
        raise ConfigError("h: the environment has no variable X")

    with pytest.raises(ConfigError, match="no variable X"):
        scraped(Target(server.url, headers=gone, interval_s=0.1))


def test_offsets_go_on_after_a_restart_and_pausing_asks_nobody(server) -> None:
    source = ScrapeSource([Target(server.url, interval_s=0.05)])
    try:
        source.on_change(lambda partitions: source.seek(partitions[0], 40), lambda partitions: None)
        while not (batches := source.poll(0.2, 1 << 20)):
            pass
        assert batches[0].offsets[0] == 40 and batches[0].timestamps_ms[0] > 0
        source.pause()
        time.sleep(0.3)
        before = len(server.seen)
        time.sleep(0.3)
        assert len(server.seen) == before and source.poll(0.0, 1 << 20) == [] and not source.caught_up(source.partition)
    finally:
        source.close()


CONFIG = """
source:
  scrape:
    targets: [{{url: "{url}", headers: {{Authorization: "file:{token}"}}, interval_s: 0.2}}]
detectors: {{drift: null, extraction: null, hardware: null, missing: {{least_s: 0.5}}}}
store: null
"""


def test_a_target_that_dies_is_an_alert_and_ends_when_it_is_back(server, tmp_path) -> None:
    (tmp_path / "token").write_text("Bearer t")
    config = configuration.parse(CONFIG.format(url=server.url, token=tmp_path / "token"))
    source, kept = make_source(config), Kept()
    outbox = Outbox([Route("kept", kept, frozenset({"alert"}))], threads=False)
    engine = Engine(config, make_detectors(config), source, make_formats(config), outbox, Metrics())
    source.on_change(engine.assigned, engine.revoked)
    key, well = f"127.0.0.1:{server.server_port}/- up", server.answer

    def until(condition) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end
            engine.step(0.05)
            outbox.flush(0.0)

    try:
        until(lambda: engine.rows >= 2)
        server.answer = lambda: (503, "text/plain", [])
        until(lambda: any(a["key"] == key for a in kept.alerts))
        server.answer = well
        until(lambda: any(a["key"] == key and a["status"] == "resolved" for a in kept.alerts))
    finally:
        source.close()
    assert server.seen[0]["Authorization"] == "Bearer t"


def test_a_secret_that_is_not_there_stops_the_start(tmp_path) -> None:
    config = configuration.parse(CONFIG.format(url="http://127.0.0.1:1/", token=tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"source.scrape.targets.0.headers.Authorization"):
        make_scrape_source(config.source.scrape)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source: {}", "nothing to read from"), ("source: {scrape: {targets: []}}", "source.scrape.targets"),
        ("source: {scrape: {targets: [{url: ftp://x}]}}", "not an http or https address"),
        ("source: {scrape: {targets: [{url: http://u:p@x}]}}", "no user or password"),
        ("source: {scrape: {targets: [{url: http://x}, {url: http://x}]}}", "listed twice"),
        ("source: {scrape: {name: t, targets: [{url: http://x}]}, kafka: {bootstrap: b, topics: [{name: t}]}}", "is a topic of kafka's"),
    ],
)  # fmt: skip
def test_wrong_configuration_names_the_key(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configuration.parse(text)


def test_several_sources_are_one() -> None:
    a, b = SimulatedSource(["a"]), SimulatedSource(["b"])
    both, told = SeveralSources([a, b]), []
    both.on_change(told.extend, lambda partitions: None)
    b.put("b", b"x", 1)
    (raw,) = both.poll(0.0, 1 << 20)
    assert raw.partition.topic == "b" and [p.topic for p in told] == ["a", "b"]
    assert both.lag(told[0]) == 0 and both.caught_up(told[1]) and both.confirm()
    both.seek(told[1], 0)
    both.commit({told[1]: 1})
    both.pause()
    assert both.poll(0.0, 1 << 20) == []
    both.resume()
    both.close()
