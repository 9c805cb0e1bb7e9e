"""The outbox: nothing is forgotten before every sink has it, and nobody waits for a dead one."""

import threading
import time

import pytest

from engine.outbox import Outbox, Route
from streams.records import Message


class Recorder:
    """A sink in memory that can be taken down."""

    def __init__(self, down: bool = False):
        self.down = down
        self.got: list[str] = []
        self.fault: Exception | None = None

    def send(self, messages):
        if self.fault:
            raise self.fault
        if self.down:
            raise ConnectionError("down")
        self.got += [m.id for m in messages]
        return {m.id for m in messages}

    def close(self):
        pass


def messages(*ids: str, kind: str = "alert") -> list[Message]:
    return [Message(i, kind, "k", b"\x00v", (("h", b"\xff"),), {"id": i}) for i in ids]


def until(condition, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@pytest.fixture
def pair():
    up, down = Recorder(), Recorder(down=True)
    outbox = Outbox([Route("up", up, frozenset({"alert"})), Route("down", down, frozenset({"alert", "dead_letter"}))], limit=10)
    yield outbox, up, down
    down.down = False
    outbox.close()


def test_a_dead_sink_delays_only_itself_and_loses_nothing(pair):
    outbox, up, down = pair
    outbox.put("p", messages("a", "b"))
    assert until(lambda: up.got == ["a", "b"])
    assert [r["waiting"] for r in outbox.pending("p")] == [["down"], ["down"]]
    down.down = False
    assert outbox.flush(5)
    assert down.got == ["a", "b"]
    assert up.got == ["a", "b"]


def test_pending_survives_a_restart_byte_for_byte(pair):
    outbox, up, _ = pair
    outbox.put("p", messages("a"))
    until(lambda: up.got == ["a"])
    kept = outbox.pending("p")
    sink = Recorder()
    fresh = Outbox([Route("down", sink, frozenset({"alert"}))], threads=False)
    fresh.restore("p", kept)
    fresh.put("p", messages("a"))  # the replay makes it again
    (entry,) = fresh.entries["p"].values()
    assert (entry.message.value, entry.message.headers) == (b"\x00v", (("h", b"\xff"),))
    assert fresh.flush(1)
    assert sink.got == ["a"]


def test_held_messages_wait_for_the_checkpoint():
    sink = Recorder()
    outbox = Outbox([Route("s", sink, frozenset({"trigger"}))], threads=False)
    outbox.put("p", messages("t", kind="trigger"), held=True)
    outbox.flush(0.01)
    assert sink.got == []
    assert len(outbox.pending("p")) == 1
    outbox.release_held()
    assert outbox.flush(1)
    assert sink.got == ["t"]


def test_full_and_forgotten(pair):
    outbox, _, down = pair
    outbox.put("p", messages(*"abcdefghij"))
    assert outbox.full
    outbox.forget("p")
    assert not outbox.full
    down.down = False
    time.sleep(0.3)
    assert set(down.got) <= set("abcdefghij")


def test_a_kind_nobody_takes_is_not_kept():
    outbox = Outbox([Route("s", Recorder(), frozenset({"alert"}))], threads=False)
    outbox.put("p", messages("x", kind="dead_letter"))
    assert outbox.size == 0


def test_a_fault_in_a_sink_reaches_the_main_thread():
    sink = Recorder()
    sink.fault = RuntimeError("bug")
    outbox = Outbox([Route("s", sink, frozenset({"alert"}))])
    outbox.put("p", messages("a"))
    with pytest.raises(RuntimeError, match="bug"):
        outbox.flush(5)
    with pytest.raises(RuntimeError, match="bug"):
        outbox.check()
    assert threading.active_count() < 50
