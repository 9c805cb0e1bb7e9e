"""Checkpoints: nothing lost, damage found out, one commit point."""

import os
import threading
import uuid

import numpy as np
import pytest

from engine.checkpoint import CheckpointError, Checkpoints
from engine.snapshot import Snapshot
from engine.state import ArraySpec, State
from engine.storage import Folder, storage
from streams.sources import Fenced
from tests.support.s3 import s3


@pytest.fixture(scope="module")
def server():
    with s3() as options:
        yield options


@pytest.fixture(params=["folder", "s3"])
def kept(request, tmp_path):
    """What opens the same checkpoints again and again, as other processes would."""
    if request.param == "folder":
        return lambda: Checkpoints(storage(f"file://{tmp_path}", {}))
    options, place = request.getfixturevalue("server"), f"s3://checkpoints/{uuid.uuid4().hex}"
    return lambda: Checkpoints(storage(place, options))


def owner(folder, *places):
    checkpoints = Checkpoints(folder) if not callable(folder) else folder()
    checkpoints.claim(places)
    return checkpoints


def newest(checkpoints, name="p"):
    return checkpoints.storage.path / str(checkpoints.files(name)[0])


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


def test_what_is_read_is_what_was_written(kept):
    folder = owner(kept, "topic-0")
    written = filled(42)
    folder.save("topic-0", written)
    read, damaged = kept().load("topic-0", {"default": 8})
    assert damaged == []
    assert (read.next_offset, read.outbox, read.meta) == (42, written.outbox, written.meta)
    np.testing.assert_array_equal(read.state["x"], written.state["x"])
    table, before = read.state.table("device"), written.state.table("device")
    assert (table.keys, table.index, table.free) == (before.keys, before.index, before.free)
    assert read.state.watermarks == {"hardware": 123}
    read.state.declare([ArraySpec("x", "float64", ("device", 2), fill=np.nan)])
    assert read.state.slots("device", ["a", "new"], 6).tolist() == [0, 2]


def test_names_that_no_file_can_have(tmp_path):
    names = ["a/../b\x00", "a/..", "ü✓-0", "a", "a.00000001.000000000001.ckpt", "a.00000001.owner", "a@population"]
    folder = owner(tmp_path, *names)
    for number, name in enumerate(names):
        folder.save(name, filled(number))
    assert [folder.load(name)[0].next_offset for name in names] == list(range(len(names)))
    assert {p.parent for p in tmp_path.rglob("*.ckpt")} == {tmp_path}


def test_two_files_are_kept_whatever_is_written(kept):
    for offset in range(4):
        folder = owner(kept, "p", "q")
        for more in range(3):
            folder.save("p", filled(10 * offset + more))
            folder.save("q", filled(0))
    assert folder.load("p")[0].next_offset == 32
    there = [n for n in folder.storage.names() if n.startswith("p.")]
    assert sorted(n.rpartition(".")[2] for n in there) == ["ckpt", "ckpt", "owner"]


def test_a_former_owner_overwrites_nothing(kept):
    old = owner(kept, "p", "q")
    old.save("p", filled(1))
    new = owner(kept, "p")
    assert new.load("p")[0].next_offset == 1
    new.save("p", filled(2))
    for offset in range(100, 104):  # it was stopped, and knows nothing yet
        old.save("p", filled(offset))
        assert kept().load("p")[0].next_offset == 2
    with pytest.raises(Fenced, match=r"p belongs to another process now \(epoch 2, ours was 1\)"):
        old.check()
    new.check()
    new.save("p", filled(3))
    assert owner(kept, "p").load("p")[0].next_offset == 3
    old.release("p")
    old.check()


def test_a_former_owner_s_last_checkpoint_is_used_when_the_new_one_wrote_none(kept):
    owner(kept, "p").save("p", filled(1))
    owner(kept, "p")
    assert owner(kept, "p").load("p")[0].next_offset == 1


def test_of_many_claims_at_once_each_gets_an_epoch_of_its_own(kept):
    many = [kept() for _ in range(8)]
    start = threading.Barrier(len(many))

    def claim(checkpoints):
        start.wait()
        checkpoints.claim(["p", "q"])

    threads = [threading.Thread(target=claim, args=(c,)) for c in many]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place in "pq":
        assert len({c.epochs[place] for c in many}) == len(many)
    last = max(many, key=lambda c: c.epochs["p"])
    last.release("q")
    last.check()


def test_who_is_not_the_owner_any_more_claims_nothing(kept):
    with pytest.raises(Fenced, match="p: taken by another process"):
        kept().claim(["p"], lambda: False)
    first, second, asked = kept(), kept(), []

    def confirm() -> bool:
        """The first is stopped after it was told that it is the owner; before it goes on, the second becomes the owner."""
        asked.append(True)
        if len(asked) == 1:
            second.claim(["p"])
        return len(asked) == 1

    with pytest.raises(Fenced):
        first.claim(["p"], confirm)
    assert (len(asked), first.epochs, second.epochs) == (2, {}, {"p": 1})


@pytest.mark.parametrize("cut", [0, 10, 0.5, -1])
def test_a_cut_file_falls_back_to_the_one_before(tmp_path, cut):
    folder = owner(tmp_path, "p")
    folder.save("p", filled(1))
    folder.save("p", filled(2))
    size = newest(folder).stat().st_size
    os.truncate(newest(folder), int(size * cut) if isinstance(cut, float) else cut % size)
    snapshot, damaged = folder.load("p")
    assert snapshot.next_offset == 1
    assert len(damaged) == 1 and "p.00000001.000000000002.ckpt" in damaged[0]


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path):
    folder = owner(tmp_path, "p")
    folder.save("p", filled(1))
    folder.save("p", filled(2))
    path = newest(folder)
    good = path.read_bytes()
    outcomes = set()
    for position in range(0, len(good), 97):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x55]) + good[position + 1 :])
        snapshot, damaged = folder.load("p")
        outcomes.add((snapshot.next_offset, bool(damaged)))
    assert outcomes <= {(1, True), (2, False)}
    assert (1, True) in outcomes


def test_nothing_readable_is_an_error_and_not_a_fresh_start(tmp_path):
    folder = owner(tmp_path, "p")
    folder.save("p", filled(1))
    newest(folder).write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"p\.00000001\.000000000001\.ckpt"):
        folder.load("p")
    assert folder.load("other") == (None, [])


def test_a_failed_write_leaves_the_old_one(tmp_path, monkeypatch):
    folder = owner(tmp_path, "p")
    folder.save("p", filled(1))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        folder.save("p", filled(2))
    monkeypatch.undo()
    assert folder.load("p")[0].next_offset == 1
    assert list(tmp_path.glob("*.tmp")) == []


def test_what_a_killed_writer_left_is_removed_by_the_next_owner(tmp_path):
    owner(tmp_path, "p").save("p", filled(1))
    (tmp_path / "p.00000001.000000000002.ckpt.tmp").write_bytes(b"half")
    (tmp_path / "p.00000002.owner.99.tmp").write_bytes(b"")
    (tmp_path / "somebody's notes").write_text("are left alone")
    folder = owner(tmp_path, "p")
    assert folder.load("p")[0].next_offset == 1
    assert sorted(f.name for f in tmp_path.iterdir() if "owner" not in f.name) == ["p.00000001.000000000001.ckpt", "somebody's notes"]


def test_places_that_are_none():
    for place, why in (("gs://bucket/x", "neither a path"), ("s3:///x", "neither a path"), ("file://host/x", "neither a path")):
        with pytest.raises(ValueError, match=why):
            storage(place, {})
    with pytest.raises(ValueError, match="options are for s3"):
        storage("/tmp", {"endpoint_url": "x"})


def test_a_store_that_is_away_or_has_no_such_bucket_is_an_oserror(server):
    away = storage("s3://checkpoints/x", server | {"endpoint_url": "http://127.0.0.1:1"})
    away._client.meta.config.retries = {"max_attempts": 0}
    for store in (away, storage("s3://no-such-bucket/x", server)):
        for verb in (store.names, lambda s=store: s.open("a"), lambda s=store: s.create("a", b""), lambda s=store: s.delete("a")):
            with pytest.raises(OSError):
                verb()


def test_a_store_that_ignores_conditions_is_refused(server, monkeypatch):
    store = storage("s3://checkpoints/y", server)
    put = store._client.put_object
    monkeypatch.setattr(store._client, "put_object", lambda IfNoneMatch=None, **more: put(**more))
    with pytest.raises(OSError, match="must not"):
        store.create("a", b"")


def test_a_folder_is_made(tmp_path):
    assert Folder(tmp_path / "a" / "b").names() == []
