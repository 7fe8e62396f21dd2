"""Messages between daemon, zygote and shims: what an upgraded daemon and a running container must agree on."""

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from pierhead.driver.execdriver import protocol


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        yield one, other


def test_a_message_arrives_as_it_was_sent() -> None:
    payload = (1, "text", b"bytes", None, True, (2**60, -1))
    assert protocol.decode(protocol.encode(protocol.EXITED, payload, 3)) == (protocol.EXITED, payload, 3)


def test_the_format_of_version_1_does_not_change() -> None:
    # A shim that was started by an older release goes on speaking this.
    message = protocol.encode(protocol.RESIZE, (24, 80, None))
    assert message == bytes.fromhex("0104000010000000") + b"(\x03\0\0\0i\x18\0\0\0iP\0\0\0N"
    assert struct.pack("=BBHI", 1, 0, 1, 0) == protocol.FORK


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x01",
        b"\x63" + protocol.encode(4, ())[1:],
        protocol.encode(4, (1, 2)) + b"x",
        protocol.encode(4, (1, 2))[:-1],
        struct.pack("=BBHI", 1, 4, 0, 5) + b"i\0\0\0\0",
    ],
)
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError):
        protocol.decode(message)


def test_a_message_that_no_datagram_can_hold_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="bytes"):
        protocol.encode(protocol.JOIN, (b"x" * (1 << 18),))


def test_descriptors_arrive_close_on_exec(pair: tuple[socket.socket, socket.socket]) -> None:
    sent = [os.memfd_create(f"m{number}") for number in range(protocol.MOST_DESCRIPTORS)]
    try:
        protocol.send(pair[0], protocol.encode(protocol.HOLD, (), len(sent)), sent)
        message, received = protocol.receive(pair[1])
        assert protocol.decode(message)[2] == len(received) == len(sent)
        assert not any(os.get_inheritable(descriptor) for descriptor in received)
        assert os.path.sameopenfile(sent[7], received[7])
        for descriptor in received:
            os.close(descriptor)
    finally:
        for descriptor in sent:
            os.close(descriptor)


def test_the_end_of_a_connection_is_an_empty_message(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    assert protocol.receive(pair[1]) == (b"", [])


def test_a_peer_that_does_not_read_never_makes_the_sender_wait(pair: tuple[socket.socket, socket.socket]) -> None:
    message = protocol.encode(protocol.JOIN, (b"x" * 60000,))
    with pytest.raises(BlockingIOError):
        for _ in range(1000):
            protocol.send(pair[0], message)
