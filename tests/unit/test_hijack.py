"""attach and exec: a connection that stops being HTTP carries every byte of both directions, and both ends."""

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pierhead.daemon.server.answer import MULTIPLEXED_STREAM, RAW_STREAM, Answer, Hijack
from pierhead.daemon.server.body import Body
from pierhead.daemon.server.detach import DEFAULT
from pierhead.daemon.server.head import Request
from tests.harness.serving import Serving, Stdio, read_all, read_until, request

UPGRADE = ("Connection: Upgrade", "Upgrade: tcp")


class Attaching:
    """A server whose /attach gives ``stdio``, once ``ready``."""

    def __init__(self, path: str) -> None:
        self.serving = Serving(path)
        self.serving.handlers["/attach"] = self._attach
        self.stdio = Stdio()
        self.stdin = True
        self.keys = b""
        self.ready = threading.Event()
        self.ready.set()
        self.bodies: list[bytes] = []

    async def _attach(self, request: Request, body: Body) -> Answer:
        self.bodies.append(await body.read(1000))
        await asyncio.to_thread(self.ready.wait)
        kind = RAW_STREAM if self.stdio.terminal else MULTIPLEXED_STREAM
        return Hijack(self.stdio, kind, stdin=self.stdin, detach_keys=self.keys)

    def open(self, *headers: str, body: bytes = b"", then: bytes = b"") -> tuple[socket.socket, bytes]:
        """A hijacked connection, and the head of the answer."""
        client = self.serving.connect()
        client.sendall(request("POST", "/attach", *headers, body=body) + then)
        return client, read_until(client, b"\r\n\r\n")


@pytest.fixture
def attaching(tmp_path: Path) -> Iterator[Attaching]:
    attaching = Attaching(str(tmp_path / "s"))
    yield attaching
    attaching.ready.set()
    attaching.stdio.process.close()
    attaching.serving.close()


def test_a_client_that_asks_for_an_upgrade_gets_101_and_the_stream_s_kind(attaching: Attaching) -> None:
    client, head = attaching.open(*UPGRADE)
    assert head.startswith(b"HTTP/1.1 101 UPGRADED\r\n")
    assert b"Content-Type: application/vnd.docker.multiplexed-stream\r\n" in head
    assert b"Connection: Upgrade\r\nUpgrade: tcp\r\n" in head
    client.close()


def test_a_client_that_does_not_ask_gets_200_and_a_raw_stream(attaching: Attaching) -> None:
    client, head = attaching.open()
    assert head == b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"
    client.sendall(b"in")
    assert attaching.stdio.process.recv(10) == b"in"
    client.close()


@pytest.mark.parametrize("headers", [(), UPGRADE], ids=["no upgrade", "upgrade"])
def test_input_sent_before_the_answer_reaches_the_process(attaching: Attaching, headers: tuple[str, ...]) -> None:
    attaching.ready.clear()
    with attaching.serving.connect() as client:
        client.sendall(request("POST", "/attach", *headers) + b"early ")
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        attaching.ready.set()
        assert read_all(attaching.stdio.process) == b"early GET / HTTP/1.1\r\n\r\n"
        attaching.stdio.process.sendall(b"output")
        attaching.stdio.process.close()
        assert read_all(client).endswith(b"\r\n\r\noutput")


def test_the_body_of_an_exec_start_is_not_its_input(attaching: Attaching) -> None:
    """Upgrade and Content-Length together: the parser's trap."""
    body = b'{"Detach":false,"Tty":false}'
    client, _ = attaching.open(*UPGRADE, body=body, then=b"input")
    client.shutdown(socket.SHUT_WR)
    assert read_all(attaching.stdio.process) == b"input"
    assert attaching.bodies == [body]
    client.close()


def test_output_goes_on_after_the_end_of_input(attaching: Attaching) -> None:
    client, _ = attaching.open(*UPGRADE)
    client.sendall(b"all")
    client.shutdown(socket.SHUT_WR)
    assert read_all(attaching.stdio.process) == b"all"
    for number in range(10):
        attaching.stdio.process.sendall(b"line %d\n" % number)
        assert read_until(client, b"\n") == b"line %d\n" % number
    attaching.stdio.process.close()
    assert read_all(client) == b""
    client.close()


def test_all_output_arrives_though_the_client_still_types(attaching: Attaching) -> None:
    """A close with unread input in the kernel would reset the connection over the last output."""
    client, _ = attaching.open(*UPGRADE)
    client.sendall(b"typed and never read")
    output = os.urandom(3 * 1024 * 1024)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(read_all(client)))
    reader.start()
    attaching.stdio.process.sendall(output)
    attaching.stdio.process.close()
    reader.join(20)
    assert received == [output]
    client.sendall(b"more")
    client.close()


def test_bulk_passes_both_ways_at_once(attaching: Attaching) -> None:
    client, _ = attaching.open(*UPGRADE)
    there, back = os.urandom(8 * 1024 * 1024), os.urandom(8 * 1024 * 1024)
    received: dict[str, bytes] = {}

    def send(sock: socket.socket, data: bytes) -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    threads = [
        threading.Thread(target=send, args=(client, there)),
        threading.Thread(target=send, args=(attaching.stdio.process, back)),
        threading.Thread(target=lambda: received.update(client=read_all(client))),
        threading.Thread(target=lambda: received.update(process=read_all(attaching.stdio.process))),
    ]
    for thread in threads:
        thread.start()
    threads[0].join(30)
    for thread in threads:
        thread.join(30)
    # The end of output ends the connection; what the process had read by then is a beginning of what was sent.
    assert received["client"] == back
    assert there.startswith(received["process"])
    client.close()


def test_a_process_that_does_not_read_stops_the_client(attaching: Attaching) -> None:
    client, _ = attaching.open(*UPGRADE)
    client.settimeout(0.5)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 64 * 1024 * 1024:
            sent += client.send(bytes(1024 * 1024))
    assert sent < 8 * 1024 * 1024
    client.settimeout(20)
    client.shutdown(socket.SHUT_WR)
    assert len(read_all(attaching.stdio.process)) == sent
    client.close()


def test_a_client_that_does_not_read_stops_the_process(attaching: Attaching) -> None:
    client, _ = attaching.open(*UPGRADE)
    process = attaching.stdio.process
    process.settimeout(0.5)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 64 * 1024 * 1024:
            sent += process.send(bytes(1024 * 1024))
    assert sent < 8 * 1024 * 1024
    process.close()
    assert len(read_all(client)) == sent
    client.close()


def test_a_client_that_is_gone_lets_go_of_the_process(attaching: Attaching) -> None:
    """Its last input still arrives."""
    client, _ = attaching.open(*UPGRADE)
    client.sendall(b"last words")
    client.close()
    assert read_all(attaching.stdio.process) == b"last words"
    with pytest.raises(BrokenPipeError):
        while True:
            attaching.stdio.process.sendall(b"anybody?")


def test_input_is_not_passed_on_unless_asked_for(attaching: Attaching) -> None:
    attaching.stdin = False
    client, _ = attaching.open(*UPGRADE)
    client.sendall(b"nobody wants this")
    client.shutdown(socket.SHUT_WR)
    attaching.stdio.process.sendall(b"out")
    assert read_until(client, b"out") == b"out"
    attaching.stdio.process.setblocking(False)
    with pytest.raises(BlockingIOError):
        attaching.stdio.process.recv(10)
    client.close()


def test_history_comes_before_the_present(attaching: Attaching) -> None:
    async def history() -> AsyncIterator[bytes]:
        yield b"old "
        yield b"older "

    attaching.stdio.history = history()
    attaching.stdio.process.sendall(b"new")
    attaching.stdio.process.close()
    client, head = attaching.open(*UPGRADE)
    assert (head + read_all(client)).endswith(b"\r\n\r\nold older new")
    client.close()


def test_detach_keys_leave_the_process_alone(attaching: Attaching) -> None:
    attaching.keys = DEFAULT
    attaching.stdio.terminal = True
    client, _ = attaching.open(*UPGRADE)
    client.sendall(b"ls\n\x10")
    assert attaching.stdio.process.recv(10) == b"ls\n"
    client.sendall(b"\x11")
    assert read_all(client) == b""
    assert attaching.stdio.detaches == ["detached"]
    client.close()


def test_closing_the_server_ends_attached_clients(tmp_path: Path) -> None:
    attaching = Attaching(str(tmp_path / "s"))
    client, _ = attaching.open(*UPGRADE)
    attaching.serving.close()
    assert read_all(client) == b""
    assert read_all(attaching.stdio.process) == b""
    client.close()
    attaching.stdio.process.close()


def test_output_never_arrives_together_with_the_head(attaching: Attaching) -> None:
    """docker-py reads the head through a buffer, and loses what came with it."""
    attaching.stdio.process.sendall(b"at once")
    with attaching.serving.connect() as client:
        client.sendall(request("POST", "/attach", *UPGRADE))
        assert client.recv(65536).endswith(b"\r\n\r\n")
        assert client.recv(65536) == b"at once"
