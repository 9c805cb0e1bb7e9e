"""What people wrote to a model, and what looks like a secret, goes where it must and nowhere else."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from engine.backtest import backtest
from engine.checkpoint import Checkpoints
from engine.config import parse
from engine.redact import Redact, redacted
from engine.schema import align
from engine.wiring import make_detectors
from engine.worker import Worker
from streams.decode import Format, decode
from streams.records import Partition, RawBatch

MARK = "My-Secret-Diagnosis"
SECRETS = (
    "sk-proj-AbCdEfGh0123456789xyz", "AKIAIOSFODNN7EXAMPLE", "ghp_0123456789abcdefghijABCDEFGHIJ", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln",
    "Bearer abcdef0123456789", "password=hunter22", '"api_key": "0123456789"', "hf_abcdefghijklmnopqrst",
)  # fmt: skip


def rows() -> list[bytes]:
    good = [
        {
            "time": 1_700_000_000_000_000 + i * 1000,
            "principal": f"p{i % 3}",
            "model": "m",
            "input_tokens": i,
            "prompt": f"{MARK} {i} of patient {i * 7}",
        }
        for i in range(3000)
    ]
    bad = [
        dict(good[0], time=MARK),
        dict(good[0], input_tokens=MARK),
        dict(good[0], stream=MARK),
        dict(good[0], trace_id=MARK),
        {"prompt": MARK},
    ]
    return [json.dumps(row).encode() for row in [*good, *bad]] + [b'{"prompt": "%s", ' % MARK.encode()]


def test_content_is_in_no_log_no_alert_no_detail_and_no_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(rows()))
    with caplog.at_level(logging.DEBUG):
        backtest(parse("{}"), "inference", [tmp_path / "in.jsonl"], tmp_path / "out")
    assert MARK not in caplog.text
    assert MARK not in (tmp_path / "out" / "alerts.jsonl").read_text()
    letters = [json.loads(line) for line in (tmp_path / "out" / "dead_letters.jsonl").read_text().splitlines()]
    assert len(letters) == 6 and all(MARK not in letter["detail"] for letter in letters)

    config = parse("{}")
    worker = Worker(Partition("t"), make_detectors(config), config.hash, None, {"default": 1000}, "inference")
    raw = RawBatch.of(Partition("t"), rows()[:3000])
    for part in decode(raw, Format("inference")).rows:
        batch, _ = align(part, raw, worker.state, config.future_us, config.lateness_us)
        assert batch is not None
        worker.observe(batch)
        worker.judge("inference")
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.claim([worker.name])
    checkpoints.save(worker.name, worker.snapshot([]))
    held = b"".join(path.read_bytes() for path in (tmp_path / "checkpoints").rglob("*") if path.is_file())
    assert held and MARK.encode() not in held


@pytest.mark.parametrize("secret", SECRETS)
def test_what_looks_like_a_secret_is_not_logged(secret: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(redact := Redact())
    try:
        logging.getLogger("engine.run").warning("firing high inference/%s: odd requests", secret)
        try:
            raise ValueError(secret)
        except ValueError:
            logging.getLogger("engine.run").exception("fault")
    finally:
        caplog.handler.removeFilter(redact)
    assert "[secret]" in caplog.text and secret.rsplit(maxsplit=1)[-1].rsplit("=", maxsplit=1)[-1].strip('"') not in caplog.text


def test_usual_lines_are_left_as_they_are() -> None:
    line = "firing high m/input_tokens: tokens 4711 of 1700000000000000 at 10.0.0.1:9092 (task sk-1, skill-set, risk_token)"
    assert redacted(line) == line
