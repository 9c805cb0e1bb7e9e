"""The in-process source keeps the promises that the Kafka source keeps."""

from __future__ import annotations

import threading

import pytest

from streams.records import Partition
from streams.sources.simulated import SimulatedSource

P = Partition("t")


def polled(source: SimulatedSource, timeout_s: float = 0.0, max_bytes: int = 1 << 20) -> list[tuple[int, bytes]]:
    return [(int(o), b.value(i)) for b in source.poll(timeout_s, max_bytes) for i, o in enumerate(b.offsets)]


def filled(n: int) -> SimulatedSource:
    source = SimulatedSource(["t"])
    for i in range(n):
        source.put("t", b"v%d" % i, 1000 + i)
    return source


def test_records_come_once_in_order_with_their_timestamps() -> None:
    source = filled(3)
    (batch,) = source.poll(0.0, 1 << 20)
    assert (batch.partition, batch.offsets.tolist(), batch.timestamps_ms.tolist()) == (P, [0, 1, 2], [1000, 1001, 1002])
    assert polled(source) == [] and batch.resume_at == 3


def test_a_poll_is_bounded_but_always_moves() -> None:
    source = filled(5)
    assert [len(polled(source, max_bytes=5)) for _ in range(3)] == [2, 2, 1]
    source = filled(2)
    assert len(polled(source, max_bytes=1)) == 1


def test_partitions_are_assigned_at_the_first_poll_and_revoked_on_close() -> None:
    source, said = SimulatedSource(["t", "u"]), []
    source.on_change(lambda p: said.append(("+", list(p))), lambda p: said.append(("-", list(p))))
    source.poll(0.0, 1)
    source.poll(0.0, 1)
    source.close()
    both = [P, Partition("u")]
    assert said == [("+", both), ("-", both)]


def test_seek_goes_back_as_far_as_the_last_commit() -> None:
    source = filled(4)
    polled(source)
    source.commit({P: 2})
    source.seek(P, 2)
    assert polled(source) == [(2, b"v2"), (3, b"v3")]
    for gone in (1, 5):
        with pytest.raises(ValueError, match=f"offset {gone} is not within"):
            source.seek(P, gone)


def test_a_commit_beyond_what_was_polled_loses_nothing() -> None:
    source = filled(3)
    source.commit({P: 3})
    assert len(polled(source)) == 3


def test_pause_and_lag() -> None:
    source = filled(3)
    source.pause()
    assert polled(source) == [] and source.lag(P) == 3
    source.resume()
    assert len(polled(source)) == 3 and source.lag(P) == 0


def test_a_full_source_makes_producers_wait_until_something_is_taken() -> None:
    source = SimulatedSource(["t"], limit_bytes=4)
    source.put("t", b"full", 0)
    second = threading.Thread(target=source.put, args=("t", b"more", 0))
    second.start()
    assert source.lag(P) == 1 and second.is_alive()
    assert polled(source) == [(0, b"full")]
    second.join(10)
    assert polled(source, timeout_s=1.0) == [(1, b"more")]


def test_closing_wakes_producers_who_wait() -> None:
    source, accepted = SimulatedSource(["t"], limit_bytes=1), []
    source.put("t", b"full", 0)
    waiting = threading.Thread(target=lambda: accepted.append(source.put("t", b"more", 0)))
    waiting.start()
    source.close()
    waiting.join(10)
    assert accepted == [False]


def test_a_topic_that_it_does_not_have_is_an_error() -> None:
    with pytest.raises(KeyError):
        SimulatedSource(["t"]).put("u", b"", 0)
