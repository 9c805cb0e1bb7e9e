"""Responses off the socket: the client's parser gets the same bytes, however they are cut, and from a socket that closes or fails."""

from __future__ import annotations

import random
import socket
from types import SimpleNamespace

import pytest
from kafka.errors import KafkaConnectionError
from kafka.protocol.parser import KafkaProtocol

from streams.sources import kafka_frames


class Parser(KafkaProtocol):
    """Collects frames as bytes instead of decoding them."""

    def _process_response(self, read_buffer):  # type: ignore[no-untyped-def]
        assert isinstance(read_buffer, kafka_frames.Frame)
        return bytes(read_buffer[0 : len(read_buffer)])


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setattr("kafka.protocol.parser.KafkaBytes", kafka_frames.Frame)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize("seed", range(6))
def test_frames_come_whole_however_they_are_cut(pair, seed: int) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = pair
    chance = random.Random(seed)
    sizes = [
        chance.choice([1, 5, 4096, kafka_frames.READ_BYTES, kafka_frames.READ_BYTES + 1, kafka_frames.LARGE_BYTES, 700_001])
        for _ in range(12)
    ]
    sent = [chance.randbytes(size) for size in sizes]
    stream = b"".join(len(value).to_bytes(4, "big") + value for value in sent)
    transport = SimpleNamespace(_sock=ours, _protocol=SimpleNamespace(parser=Parser(receive_message_max_bytes=1 << 24)))
    got: list[bytes] = []
    at = 0
    while len(got) < len(sent):
        if at < len(stream):
            at += theirs.send(stream[at : at + chance.choice([1, 3, 1000, 70_000, 200_000])])
        data, error = kafka_frames.received(transport)
        assert error is None
        got += transport._protocol.parser.receive_bytes(data)
    assert got == sent


@pytest.mark.parametrize("length", [10, 1_000_000])
def test_a_socket_that_closes_in_the_middle_is_an_error(pair, length: int) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = pair
    parser = Parser(receive_message_max_bytes=1 << 24)
    transport = SimpleNamespace(_sock=ours, _protocol=SimpleNamespace(parser=parser))
    theirs.send(length.to_bytes(4, "big") + b"abc")
    theirs.close()
    for _ in range(3):
        data, error = kafka_frames.received(transport)
        parser.receive_bytes(data)
        if error is not None:
            break
    assert isinstance(error, KafkaConnectionError)


def test_a_transport_without_the_clients_parser_is_read_as_it_is(pair) -> None:  # type: ignore[no-untyped-def]
    ours, theirs = pair
    theirs.send(b"HTTP/1.1 200 OK\r\n\r\n")
    assert kafka_frames.received(SimpleNamespace(_sock=ours, _protocol=SimpleNamespace())) == (b"HTTP/1.1 200 OK\r\n\r\n", None)
    assert kafka_frames.received(SimpleNamespace(_sock=ours, _protocol=None)) == (b"", None)
