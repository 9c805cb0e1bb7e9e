"""Checkpoints: nothing lost, damage found out, one commit point."""

import os

import numpy as np
import pytest

from engine.checkpoint import CheckpointError, Checkpoints, Snapshot
from engine.state import ArraySpec, State


def filled(offset: int) -> Snapshot:
    state = State({"default": 8})
    state.declare([ArraySpec("x", "float64", ("device", 2), fill=np.nan)])
    slots = state.slots("device", ["a", "ü/✓", "c"], now_us=5)
    state["x"][slots, 0] = [1, 2, offset]
    state.table("device").protected.add("a")
    state.release("device", [2])
    state.records["counts"] = {"a": 1}
    state.watermarks["hardware"] = 123
    return Snapshot(state, offset, [{"id": "m1"}], {"frontiers": {"t-0": 9}})


def test_what_is_read_is_what_was_written(tmp_path):
    folder = Checkpoints(tmp_path)
    written = filled(42)
    folder.save("topic-0", written)
    read, damaged = folder.load("topic-0", {"default": 8})
    assert damaged == []
    assert (read.next_offset, read.outbox, read.meta) == (42, written.outbox, written.meta)
    np.testing.assert_array_equal(read.state["x"], written.state["x"])
    table, before = read.state.table("device"), written.state.table("device")
    assert (table.keys, table.index, table.free) == (before.keys, before.index, before.free)
    assert read.state.watermarks == {"hardware": 123}
    read.state.declare([ArraySpec("x", "float64", ("device", 2), fill=np.nan)])
    assert read.state.slots("device", ["a", "new"], 6).tolist() == [0, 2]


def test_names_that_no_file_can_have(tmp_path):
    folder = Checkpoints(tmp_path)
    folder.save("a/../b\x00", filled(1))
    folder.save("a/..", filled(2))
    assert folder.load("a/../b\x00")[0].next_offset == 1
    assert {p.parent for p in tmp_path.rglob("*.ckpt")} == {tmp_path}


@pytest.mark.parametrize("cut", [0, 10, 0.5, -1])
def test_a_cut_file_falls_back_to_the_one_before(tmp_path, cut):
    folder = Checkpoints(tmp_path)
    folder.save("p", filled(1))
    folder.save("p", filled(2))
    size = folder.path("p").stat().st_size
    os.truncate(folder.path("p"), int(size * cut) if isinstance(cut, float) else cut % size)
    snapshot, damaged = folder.load("p")
    assert snapshot.next_offset == 1
    assert len(damaged) == 1 and "p.ckpt" in damaged[0]


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path):
    folder = Checkpoints(tmp_path)
    folder.save("p", filled(1))
    folder.save("p", filled(2))
    good = folder.path("p").read_bytes()
    outcomes = set()
    for position in range(0, len(good), 97):
        folder.path("p").write_bytes(good[:position] + bytes([good[position] ^ 0x55]) + good[position + 1 :])
        snapshot, damaged = folder.load("p")
        outcomes.add((snapshot.next_offset, bool(damaged)))
    assert outcomes <= {(1, True), (2, False)}
    assert (1, True) in outcomes


def test_nothing_readable_is_an_error_and_not_a_fresh_start(tmp_path):
    folder = Checkpoints(tmp_path)
    folder.save("p", filled(1))
    folder.path("p").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="p.ckpt"):
        folder.load("p")
    assert folder.load("other") == (None, [])


def test_a_failed_write_leaves_the_old_one(tmp_path, monkeypatch):
    folder = Checkpoints(tmp_path)
    folder.save("p", filled(1))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        folder.save("p", filled(2))
    monkeypatch.undo()
    assert folder.load("p")[0].next_offset == 1
    assert list(tmp_path.glob("*.tmp")) == []
