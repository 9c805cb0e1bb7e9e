"""Damaged checkpoints: whichever file is lost, what comes out is what came out of an undisturbed run."""

from pathlib import Path

import pytest

from engine.checkpoint import Checkpoints
from engine.config import Config
from engine.metrics import Metrics
from engine.outbox import Outbox, Route
from engine.run import Engine
from engine.wiring import make_detectors
from streams.decode import Format
from streams.records import Partition, RawBatch
from tests.e2e.chaos import workload
from tests.e2e.chaos.reference import Collected

PARTS = [Partition("inference", p) for p in range(2)]


class Source:
    """Remembers where the engine wants to go on."""

    def __init__(self):
        self.at = dict.fromkeys(PARTS, 0)

    def seek(self, partition, offset):
        self.at[partition] = offset

    def lag(self, partition):
        return None

    def commit(self, offsets): ...

    def on_change(self, *callbacks): ...

    def confirm(self):
        return True


def engine_on(folder: Path | None, sink: Collected) -> tuple[Engine, Source]:
    config, source = Config(detectors=workload.DETECTORS), Source()
    outbox = Outbox([Route("all", sink, frozenset({"alert"}))], threads=False)
    checkpoints = Checkpoints(folder) if folder else None
    formats = {"inference": Format("inference", "json", (), 1 << 24)}
    engine = Engine(config, make_detectors(config), source, formats, outbox, Metrics(), checkpoints)  # type: ignore[arg-type]
    engine.assigned(PARTS)
    return engine, source


def values() -> dict[Partition, list[bytes]]:
    out = {p: [] for p in PARTS}
    for number in range(3):
        for record in workload.segment(5, number, len(PARTS)):
            if record.stream == "inference":
                out[PARTS[record.partition]].append(record.value)
    return out


def feed(engine: Engine, source: Source, rows: dict[Partition, list[bytes]], until: int, step: int = 200) -> None:
    """All partitions side by side to about that offset, with a checkpoint after each step."""
    while any(source.at[p] < min(until, len(rows[p])) for p in PARTS):
        for p in PARTS:
            if part := rows[p][source.at[p] : min(until, source.at[p] + step)]:
                engine.process(RawBatch.of(p, part, first_offset=source.at[p]))
                source.at[p] += len(part)
        engine.judge_population()
        engine.outbox.flush(0)
        engine.checkpoint()


@pytest.fixture(scope="module")
def undisturbed():
    wanted = Collected()
    feed(*engine_on(None, wanted), values(), 1 << 40)
    return wanted


@pytest.mark.parametrize("damaged", ["inference-0@population", "inference-0", "inference-1"])
def test_one_damaged_file_changes_nothing(tmp_path, damaged, undisturbed):
    rows, found = values(), Collected()
    feed(*engine_on(tmp_path, found), rows, 2300)
    path = max(tmp_path.glob(f"{damaged}.0*.ckpt"))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    feed(*engine_on(tmp_path, found), rows, 1 << 40)
    assert {k.split(":")[0] for k in undisturbed.seen.keys.values()} == {"drift", "extraction"}
    assert found.seen.states() == undisturbed.seen.states()


def test_what_has_not_changed_is_not_written_again(tmp_path):
    def files() -> set[str]:
        return {f.name for f in tmp_path.glob("*.ckpt")}

    rows = values()
    engine, source = engine_on(tmp_path, Collected())
    feed(engine, source, rows, 400)
    engine.checkpoint()  # messages are delivered since
    before = files()
    engine.judge_population()
    engine.checkpoint()
    assert files() == before
    first = PARTS[0]
    engine.process(RawBatch.of(first, rows[first][400:401], first_offset=400))
    engine.checkpoint()
    assert {f.rsplit(".", 3)[0] for f in files() - before} == {str(first)}
    again, _ = engine_on(tmp_path, Collected())
    assert again.workers[first].next_offset == 401
    before = files()
    again.checkpoint()  # of its own epoch, though nothing has changed: a former owner's do not count any more
    assert {f.rsplit(".", 2)[0] for f in files() - before} == {
        f"{name}.00000002" for name in ("inference-0", "inference-1", "inference-0@population")
    }
