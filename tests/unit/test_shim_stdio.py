"""A shim's handling of stdio, without a container: pipes on one side, clients on the other."""

import os
import socket
from collections.abc import Iterator

import pytest

from pierhead.driver.execdriver.loop import Loop
from pierhead.driver.execdriver.protocol import CLOSE_STDIN, STDERR, STDIN, STDOUT
from pierhead.driver.execdriver.stdio import MOST_PENDING, Stdio

ALL = STDIN | STDOUT | STDERR | CLOSE_STDIN


class Process:
    """A process that the test plays: its ends of the pipes."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.done = 0
        self.stdio = Stdio(self.loop, None, self._finished)
        self.stdin, theirs = os.pipe()
        out, self.stdout = os.pipe()
        err, self.stderr = os.pipe()
        self.stdio.open(theirs, out, err)
        os.set_blocking(self.stdin, False)
        self.clients: list[socket.socket] = []

    def _finished(self) -> None:
        self.done += 1

    def client(self, flags: int = ALL) -> socket.socket:
        near, far = socket.socketpair()
        self.stdio.add(near, flags)
        far.setblocking(False)
        self.clients.append(far)
        return far

    def turn(self, rounds: int = 50) -> None:
        """Let the shim handle what is there, without waiting."""
        for _ in range(rounds):
            for descriptor, events in self.loop.epoll.poll(0, 16):
                handler = self.loop.handlers.get(descriptor)
                if handler is not None:
                    handler(events)

    def end(self) -> None:
        os.close(self.stdout)
        os.close(self.stderr)
        self.stdio.process_ended()


@pytest.fixture
def played() -> Iterator[Process]:
    made = Process()
    yield made
    for one in made.clients:
        one.close()
    made.stdio.abandon()
    os.close(made.stdin)
    made.loop.epoll.close()


def drain(descriptor: int) -> bytes:
    found = b""
    try:
        while data := os.read(descriptor, 65536):
            found += data
    except BlockingIOError:
        pass
    return found


def test_stdin_that_the_process_does_not_read_yet_is_kept_and_its_end_comes_after_it(played: Process) -> None:
    client = played.client()
    client.setblocking(True)
    sent = os.urandom(150_000)
    client.sendall(sent)
    client.shutdown(socket.SHUT_WR)
    received = b""
    for _ in range(20):
        played.turn()
        received += drain(played.stdin)
    assert received == sent
    assert os.read(played.stdin, 1) == b""


def test_stdin_ends_after_what_was_sent_by_a_client_that_vanished(played: Process) -> None:
    client = played.client()
    client.setblocking(True)
    client.sendall(b"x" * 100_000)
    played.turn()
    client.close()
    os.write(played.stdout, b"into the void")
    played.turn()
    assert played.stdio.clients == []
    received = b""
    for _ in range(20):
        played.turn()
        received += drain(played.stdin)
    assert set(received) == {ord("x")} and len(received) > 65536
    assert os.read(played.stdin, 1) == b""


def test_a_process_that_closed_its_stdin_does_not_stop_the_client(played: Process) -> None:
    client = played.client()
    client.setblocking(True)
    client.sendall(b"x" * 100_000)
    played.turn()
    os.close(played.stdin)
    played.turn()
    client.sendall(b"y" * 100_000)
    played.turn()
    os.write(played.stdout, b"out")
    played.turn()
    assert client.recv(100).endswith(b"out")
    played.stdin = os.open(os.devnull, os.O_RDONLY)


def test_output_is_held_back_for_a_slow_client_and_the_memory_bounded(played: Process) -> None:
    slow, fast = played.client(), played.client()
    os.set_blocking(played.stdout, False)
    written = 0
    for _ in range(5000):
        try:
            written += os.write(played.stdout, b"z" * 4096)
        except BlockingIOError:
            break
        played.turn(2)
        drain(fast.fileno())
    assert written < 3 * MOST_PENDING
    assert all(len(client.pending) < MOST_PENDING + 65536 for client in played.stdio.clients)
    received = len(drain(slow.fileno()))
    while received < written:
        played.turn(5)
        drain(fast.fileno())
        more = len(drain(slow.fileno()))
        assert more or played.stdio.clients
        received += more
    os.write(played.stdout, b"goes on")
    played.turn()
    assert drain(slow.fileno()).endswith(b"goes on")


def test_the_end_is_reported_once_and_the_rest_still_delivered(played: Process) -> None:
    slow = played.client()
    os.set_blocking(played.stdout, False)
    written = 0
    for _ in range(300):
        written += os.write(played.stdout, b"z" * 2048)
        played.turn(2)
    played.end()
    assert played.done == 1
    received = 0
    for _ in range(200):
        played.turn(2)
        received += len(drain(slow.fileno()))
    assert received > written
    assert slow.recv(10) == b"" and played.stdio.clients == []
    assert played.done == 1


def test_input_that_came_too_late_does_not_turn_the_end_into_an_error(played: Process) -> None:
    client = played.client(STDOUT)
    client.send(b"nobody reads this")
    played.turn()
    os.write(played.stdout, b"out")
    played.end()
    client.setblocking(True)
    assert client.recv(100).endswith(b"out")
    assert client.recv(100) == b""


def test_an_idle_shim_sleeps(played: Process) -> None:
    client = played.client()
    client.shutdown(socket.SHUT_WR)
    played.turn()
    half = played.client(STDOUT)
    half.shutdown(socket.SHUT_WR)
    played.turn()
    assert played.loop.epoll.poll(0, 16) == []
