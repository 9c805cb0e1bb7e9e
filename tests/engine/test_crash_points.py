"""The process dies at every step of a checkpoint, a claim and a delivery, and in between; after the restart nothing is lost or invented.

Before everything that outlives the process, or that lets something else do so, is a point: each link, rename, sync and deletion that
the storage makes, each message a sink takes, each release of held triggers, each commit to the source. What lies between two points
leaves no trace. The run is repeated once for every point.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from engine import storage
from engine.checkpoint import Checkpoints
from engine.config import Config
from engine.metrics import Metrics
from engine.outbox import Outbox, Route
from engine.remediate import Remediation
from engine.run import Engine
from engine.wiring import make_detectors
from streams.decode import Format
from streams.records import Message, Partition, RawBatch

PARTS = [Partition("gpus", 0), Partition("gpus", 1), Partition("traffic", 0)]
T0 = 1_760_000_000_000_000
KEY = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
CONFIG = Config(
    detectors={
        "rules": {"quiet_s": 30},
        "drift": {"reference_rows": 256, "quiet_s": 60},
        **dict.fromkeys(("hardware", "missing", "extraction", "rates", "campaign", "performance"), None),
    },
    remediation={"policies": [{"detector": "rules", "actions": ["RESTART_BM"]}], "signing_key": "env:UNUSED"},
)  # type: ignore[arg-type]


class Crash(BaseException):
    """The process is gone."""


class Points:
    """Counts the points that a run comes to, and ends it at one of them."""

    def __init__(self, fatal: int = -1):
        self.fatal, self.passed, self.names = fatal, 0, list[str]()

    def at(self, name: str) -> None:
        self.names.append(name)
        self.passed += 1
        if self.passed - 1 == self.fatal:
            raise Crash(name)

    def before(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **more: Any) -> Any:
            self.at(name)
            return call(*args, **more)

        return wrapped


class System:
    """`os` as the storage sees it."""

    O_RDONLY = os.O_RDONLY

    def __init__(self, points: Points):
        for name in ("replace", "link", "fsync"):
            setattr(self, name, points.before(name, getattr(os, name)))
        self.listdir, self.open, self.close = os.listdir, os.open, os.close


class World:
    """What outlives the process: the topics' records, what was published, and the offsets that the source was told."""

    def __init__(self) -> None:
        self.records = {p: rows(p) for p in PARTS}
        self.last: dict[str, tuple[int, str, int | None]] = {}
        self.triggers: set[str] = set()

    def take(self, message: Message) -> None:
        event = json.loads(message.value)
        if message.kind == "trigger":
            self.triggers.add(event["id"])
            return
        alert = event["data"]
        if alert["sequence"] >= self.last.get(alert["id"], (-1,))[0]:
            self.last[alert["id"]] = alert["sequence"], alert["status"], alert["resolved_us"]

    @property
    def said(self) -> Any:
        return {i: state[1:] for i, state in self.last.items()}, self.triggers


class Sink:
    """Takes messages one by one; the process may die after the world has one and before the outbox knows."""

    def __init__(self, world: World, points: Points):
        self.world, self.points = world, points

    def send(self, messages: Any) -> set[str]:
        for message in messages:
            self.points.at("message")
            self.world.take(message)
        self.points.at("confirmation")
        return {m.id for m in messages}

    def close(self) -> None: ...


class Source:
    def __init__(self, points: Points):
        self.at = dict.fromkeys(PARTS, 0)
        self.commit = points.before("commit", lambda offsets: None)

    def on_change(self, *callbacks: Any) -> None: ...

    def confirm(self) -> bool:
        return True

    def seek(self, partition: Partition, offset: int) -> None:
        self.at[partition] = offset

    def lag(self, partition: Partition) -> None:
        return None


def rows(partition: Partition) -> list[bytes]:
    """GPUs that report errors; traffic of a model that becomes another."""
    out: list[dict[str, Any]] = []
    generator = np.random.default_rng(partition.number)
    for i in range(600):
        time_us = T0 + i * 400_000
        if partition.topic == "gpus":
            xid = {41: 79, 300: 48, 477: 94}.get(i + partition.number, 0)
            out.append({"time": time_us, "host": f"h{partition.number}", "device": "gpu0", "xid": xid})
        else:
            tokens = float(generator.lognormal(6 + 2 * (300 < i < 400), 0.4))
            out.append({"time": time_us, "principal": "p", "model": "m", "input_tokens": int(tokens)})
    return [json.dumps(row).encode() for row in out]


def lived(world: World, folder: Path, points: Points) -> None:
    """One life of the process: claim, restore, read to the end with a checkpoint after every step, hand over."""
    source = Source(points)
    outbox = Outbox([Route("out", Sink(world, points), frozenset({"alert", "trigger"}))], threads=False)
    outbox.release_held = points.before("release", outbox.release_held)  # type: ignore[method-assign]
    formats = {"gpus": Format("hardware", "json"), "traffic": Format("inference", "json")}
    remediation = Remediation(CONFIG.remediation.policies, KEY, 60.0)
    parts = CONFIG, make_detectors(CONFIG), source, formats, outbox, Metrics(), Checkpoints(folder), remediation
    engine = Engine(*parts)  # type: ignore[arg-type]
    engine.checkpoints.storage.delete = points.before("delete", engine.checkpoints.storage.delete)  # type: ignore[union-attr,method-assign]
    engine.assigned(PARTS)
    step = 200
    while any(source.at[p] < len(world.records[p]) for p in PARTS):
        for p in PARTS:
            values = world.records[p][source.at[p] : source.at[p] + step]
            if values:
                engine.process(RawBatch.of(p, values, first_offset=source.at[p]))
                source.at[p] += len(values)
        engine.judge_population()
        if points.passed % 2:
            outbox.flush(0)  # sometimes messages wait until the checkpoint holds them
        engine.checkpoint()
        outbox.flush(0)
    outbox.flush(0)
    engine.revoked(PARTS)


def test_a_crash_at_any_point_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed, count = World(), Points()
    monkeypatch.setattr(storage, "os", System(count))
    lived(undisturbed, tmp_path / "undisturbed", count)
    alerts, triggers = undisturbed.said
    assert len(alerts) == 7 and len(triggers) == 2, "three errors of two devices and a drift; two of them are acted on"
    assert set(count.names) == {"replace", "link", "fsync", "delete", "message", "confirmation", "release", "commit"}
    for fatal in range(count.passed):
        world, folder, points = World(), tmp_path / str(fatal), Points(fatal)
        monkeypatch.setattr(storage, "os", System(points))
        with pytest.raises(Crash):
            lived(world, folder, points)
        again = Points()
        monkeypatch.setattr(storage, "os", System(again))
        lived(world, folder, again)
        assert world.said == undisturbed.said, f"died at point {fatal}: {points.names[-1]}"
