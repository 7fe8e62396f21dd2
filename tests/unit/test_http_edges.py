"""The edges of HTTP: what a client may send, cut as it likes, without confusing the server or itself."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pierhead.daemon.server import answer
from pierhead.daemon.server.answer import Answer, Reply, Stream
from pierhead.daemon.server.body import Body
from pierhead.daemon.server.head import Request
from tests.harness.serving import Serving, read_all, read_until, request, unchunk


async def echo(request: Request, body: Body) -> Answer:
    data = await body.read(10 * 1024 * 1024)
    return Reply(200, b"<" + data + b">", "text/plain")


async def ignore(request: Request, body: Body) -> Answer:
    return Reply(200, b"ignored", "text/plain")


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    serving = Serving(str(tmp_path / "s"))
    serving.handlers.update({"/echo": echo, "/ignore": ignore})
    yield serving
    serving.close()


def test_a_client_that_half_closes_after_its_request_gets_its_answer(serving: Serving) -> None:
    assert serving.talk(request("GET", "/echo")).endswith(b"\r\n\r\n<>")


def test_a_request_that_arrives_byte_by_byte_is_understood(serving: Serving) -> None:
    with serving.connect() as client:
        for byte in request("POST", "/echo", body=b"slow"):
            client.sendall(bytes([byte]))
        assert read_until(client, b">").endswith(b"<slow>")


def test_pipelined_requests_are_answered_in_order(serving: Serving) -> None:
    first, second = request("POST", "/echo", body=b"one"), request("POST", "/echo", body=b"two")
    data = serving.talk(first + second + request("GET", "/ignore"))
    assert data.count(b"HTTP/1.1 200 OK") == 3
    assert data.index(b"<one>") < data.index(b"<two>") < data.index(b"ignored")


def test_a_connection_serves_many_requests(serving: Serving) -> None:
    with serving.connect() as client:
        for number in range(50):
            client.sendall(request("POST", "/echo", body=b"%d" % number))
            assert read_until(client, b">").endswith(b"<%d>" % number)


def test_a_burst_of_clients_while_the_daemon_is_busy_is_served_to_the_last(serving: Serving) -> None:
    """A client that may not wait (Go's sockets never do) is refused where the queue of a unix socket is full."""
    busy, done = threading.Event(), threading.Event()

    def work() -> None:
        busy.set()
        done.wait(20)

    serving.loop.call_soon_threadsafe(work)
    assert busy.wait(20)
    with ExitStack() as stack:
        clients = []
        try:
            for _ in range(400):
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(serving.path)
                client.sendall(request("GET", "/ignore"))
                clients.append(client)
        finally:
            done.set()
        for client in clients:
            client.settimeout(20)
            assert read_until(client, b"ignored").startswith(b"HTTP/1.1 200 OK")


def test_a_chunked_body_arrives_whole_however_it_is_cut(serving: Serving) -> None:
    head = request("POST", "/echo", "Transfer-Encoding: chunked")
    body = b"3\r\nabc\r\n5;name=value\r\nde\r\nf\r\n0\r\nTrailer: x\r\n\r\n"
    for cut in range(len(body)):
        with serving.connect() as client:
            client.sendall(head + body[:cut])
            client.sendall(body[cut:] + request("GET", "/ignore"))
            client.shutdown(socket.SHUT_WR)
            data = read_all(client)
            assert b"<abcde\r\nf>" in data and data.endswith(b"ignored")


def test_a_client_that_is_refused_while_it_sends_still_gets_its_answer(serving: Serving) -> None:
    """Many a client sends all of an archive before it looks at what the daemon has to say about it."""
    size = 8 << 20
    with serving.connect() as client:
        client.sendall(request("POST", "/ignore", f"Content-Length: {size}"))
        for _ in range(size >> 16):
            client.sendall(bytes(1 << 16))
        assert read_all(client).endswith(b"ignored")


def test_head_has_the_length_but_not_the_body(serving: Serving) -> None:
    data = serving.talk(request("HEAD", "/ignore") + request("GET", "/ignore"))
    head, _, rest = data.partition(b"\r\n\r\n")
    assert b"Content-Length: 7" in head
    assert rest.startswith(b"HTTP/1.1 200 OK") and data.count(b"ignored") == 1


SMUGGLING = {
    "length and chunks": ("Content-Length: 5", "Transfer-Encoding: chunked"),
    "chunks and length": ("Transfer-Encoding: chunked", "Content-Length: 5"),
    "two lengths": ("Content-Length: 5", "Content-Length: 6"),
    "two equal lengths": ("Content-Length: 5", "Content-Length: 5"),
    "a list of lengths": ("Content-Length: 5, 5",),
    "a signed length": ("Content-Length: +5",),
    "a negative length": ("Content-Length: -5",),
    "a hexadecimal length": ("Content-Length: 0x5",),
    "an empty length": ("Content-Length: ",),
    "a huge length": ("Content-Length: 99999999999999999999999",),
    "an unknown coding": ("Transfer-Encoding: identity",),
    "a coding after chunked": ("Transfer-Encoding: chunked, gzip",),
    "chunked twice": ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    "xchunked": ("Transfer-Encoding: xchunked",),
    "a space before the colon": ("Transfer-Encoding : chunked",),
    "a folded header": ("X: y", " Transfer-Encoding: chunked"),
    "two hosts": ("Host: other",),
    "a control character": ("X: a\x00b",),
    "a header without a colon": ("nonsense",),
}


@pytest.mark.parametrize("headers", SMUGGLING.values(), ids=SMUGGLING)
def test_a_request_that_two_servers_could_read_differently_is_refused(
    serving: Serving, headers: tuple[str, ...]
) -> None:
    data = serving.talk(request("POST", "/echo", *headers) + b"0\r\n\r\nGET /ignore HTTP/1.1\r\nHost: x\r\n\r\n")
    assert data.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ")), data
    assert data.count(b"HTTP/1.1 ") == 1 and b"ignored" not in data


@pytest.mark.parametrize(
    "body",
    [
        b"5\nabcde\r\n0\r\n\r\n",
        b"-5\r\n",
        b"0x5\r\nabcde\r\n0\r\n\r\n",
        b"5 5\r\nabcde",
        b"2\r\nabc\r\n",
        b"\r\n",
        b"g\r\n",
    ],
    ids=repr,
)
def test_malformed_chunks_are_refused(serving: Serving, body: bytes) -> None:
    seen: list[bytes] = []

    async def handler(request: Request, body: Body) -> Answer:
        try:
            seen.append(await body.read(100))
        except Exception as error:
            return answer.error(str(error), 400)
        return answer.OK

    serving.handlers["/chunks"] = handler
    data = serving.talk(request("POST", "/chunks", "Transfer-Encoding: chunked") + body, half_close=False)
    assert data.startswith(b"HTTP/1.1 400 ") and not seen


@pytest.mark.parametrize(
    "data",
    [
        b"GET /echo HTTP/1.1\r\n\r\n",
        b"GET /echo HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET /echo\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /echo HTTP/1.1\nHost: x\n\n\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=repr,
)
def test_what_is_no_request_is_answered_and_the_connection_ends(serving: Serving, data: bytes) -> None:
    assert serving.talk(data).startswith(b"HTTP/1.1 400 ")


def test_a_head_of_more_than_64_kib_is_refused(serving: Serving) -> None:
    header = "X-Long: " + "x" * 60_000
    assert b"<>" in serving.talk(request("GET", "/echo", header))
    assert serving.talk(request("GET", "/echo", header, header)).startswith(b"HTTP/1.1 431 ")
    with serving.connect() as client:
        client.sendall(b"GET /echo HTTP/1.1\r\nX: " + b"x" * 70_000)
        assert read_all(client).startswith(b"HTTP/1.1 431 ")


def test_a_client_that_never_finishes_its_head_is_dropped(tmp_path: Path) -> None:
    serving = Serving(str(tmp_path / "slow"), head_timeout=0.05)
    try:
        with serving.connect() as client:
            client.sendall(b"GET /echo HTTP/1.1\r\n")
            assert read_all(client) == b""
    finally:
        serving.close()


def test_expect_continue_is_answered_when_the_body_is_wanted(serving: Serving) -> None:
    with serving.connect() as client:
        client.sendall(request("POST", "/echo", "Expect: 100-continue", "Content-Length: 4"))
        assert read_until(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"data")
        assert read_until(client, b">").endswith(b"<data>")


def test_a_body_that_nobody_wants_is_not_asked_for(serving: Serving) -> None:
    with serving.connect() as client:
        client.sendall(request("POST", "/ignore", "Expect: 100-continue", "Content-Length: 4000000000"))
        data = read_all(client)
    assert data.startswith(b"HTTP/1.1 200 OK") and b"Connection: close" in data


def test_the_rest_of_an_unread_body_is_no_request(serving: Serving) -> None:
    inner = request("GET", "/echo")
    data = serving.talk(request("POST", "/ignore", body=inner) + request("GET", "/ignore"))
    assert data.count(b"HTTP/1.1 200 OK") == 2 and b"<>" not in data


def test_an_upload_waits_for_its_reader(serving: Serving) -> None:
    """An image archive of gigabytes never sits in memory."""
    go = threading.Event()
    sizes: list[int] = []

    async def handler(request: Request, body: Body) -> Answer:
        await asyncio.to_thread(go.wait)
        size = 0
        async for chunk in body:
            size += len(chunk)
        sizes.append(size)
        return answer.OK

    serving.handlers["/load"] = handler
    total = 64 * 1024 * 1024
    with serving.connect() as client:
        client.sendall(request("POST", "/load", f"Content-Length: {total}"))
        client.settimeout(0.5)
        sent = 0
        block = bytes(1024 * 1024)
        with pytest.raises(TimeoutError):
            while sent < total:
                sent += client.send(block)
        assert sent < 16 * 1024 * 1024
        go.set()
        client.settimeout(20)
        while sent < total:
            sent += client.send(block[: total - sent])
        assert read_until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert sizes == [total]


def test_an_upload_that_breaks_off_is_an_error_for_its_handler(serving: Serving) -> None:
    failed = threading.Event()

    async def handler(request: Request, body: Body) -> Answer:
        try:
            async for _ in body:
                pass
        except Exception:
            failed.set()
            raise
        return answer.OK

    serving.handlers["/load"] = handler
    with serving.connect() as client:
        client.sendall(request("POST", "/load", "Content-Length: 100") + b"half")
    assert failed.wait(10)


def test_a_stream_sends_its_header_at_once_and_each_piece_as_it_comes(serving: Serving) -> None:
    steps = [threading.Event() for _ in range(2)]

    async def pieces() -> AsyncIterator[bytes]:
        for number, step in enumerate(steps):
            await asyncio.to_thread(step.wait)
            yield b"piece %d" % number

    async def handler(request: Request, body: Body) -> Answer:
        return Stream(pieces())

    serving.handlers["/stream"] = handler
    with serving.connect() as client:
        client.sendall(request("GET", "/stream"))
        assert b"Transfer-Encoding: chunked" in read_until(client, b"\r\n\r\n")
        steps[0].set()
        read_until(client, b"piece 0")
        steps[1].set()
        read_until(client, b"0\r\n\r\n")
        client.sendall(request("GET", "/ignore"))
        read_until(client, b"ignored")


def test_a_stream_to_an_http_1_0_client_ends_with_the_connection(serving: Serving) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    async def handler(request: Request, body: Body) -> Answer:
        return Stream(pieces())

    serving.handlers["/stream"] = handler
    data = serving.talk(b"GET /stream HTTP/1.0\r\n\r\n")
    assert b"chunked" not in data and data.endswith(b"\r\n\r\nab")


def test_a_stream_that_breaks_is_not_taken_for_a_complete_one(serving: Serving) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        raise RuntimeError("broken")

    async def handler(request: Request, body: Body) -> Answer:
        return Stream(pieces())

    serving.handlers["/stream"] = handler
    assert unchunk(serving.talk(request("GET", "/stream"))) == (b"a", False)


def test_a_stream_waits_for_a_slow_reader(serving: Serving) -> None:
    made: list[int] = []

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(200):
            made.append(number)
            yield bytes(256 * 1024)

    async def handler(request: Request, body: Body) -> Answer:
        return Stream(pieces())

    serving.handlers["/stream"] = handler
    with serving.connect() as client:
        client.sendall(request("GET", "/stream", "Connection: close"))
        read_until(client, b"\r\n\r\n")
        time.sleep(0.3)
        assert len(made) < 50
        assert len(read_all(client)) > 199 * 256 * 1024
    assert len(made) == 200


@pytest.mark.parametrize("over", ["unix", "tcp"])
@pytest.mark.parametrize("how", ["close", "half-close then close"])
def test_a_client_that_leaves_ends_its_stream(tmp_path: Path, over: str, how: str) -> None:
    """Nobody reads: the generator's clean-up runs, and events and logs do not pile up for ghosts."""
    ended = threading.Event()
    begun = threading.Event()

    async def silence() -> AsyncIterator[bytes]:
        try:
            begun.set()
            await asyncio.sleep(3600)
            yield b""
        finally:
            ended.set()

    async def handler(request: Request, body: Body) -> Answer:
        return Stream(silence())

    serving = Serving(str(tmp_path / "s"), "tcp://127.0.0.1:0" if over == "tcp" else "")
    serving.handlers["/events"] = handler
    try:
        client = serving.connect_tcp() if over == "tcp" else serving.connect()
        client.sendall(request("GET", "/events"))
        assert begun.wait(10)
        if how != "close":
            client.shutdown(socket.SHUT_WR)
            if over == "unix":
                assert not ended.wait(0.2), "a half-closed client still reads"
        client.close()
        assert ended.wait(10)
    finally:
        serving.close()


def test_a_client_that_leaves_ends_a_waiting_handler_but_no_work_in_progress(serving: Serving) -> None:
    """``wait`` is given up; a ``start`` is brought to its end."""
    cancelled, finished, begun = threading.Event(), threading.Event(), threading.Event()
    go = threading.Event()

    async def wait(request: Request, body: Body) -> Answer:
        request.cancellable = True
        begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return answer.OK

    async def work(request: Request, body: Body) -> Answer:
        begun.set()
        await asyncio.to_thread(go.wait)
        finished.set()
        return answer.OK

    serving.handlers.update({"/wait": wait, "/work": work})
    with serving.connect() as client:
        client.sendall(request("POST", "/wait"))
        assert begun.wait(10)
    assert cancelled.wait(10)
    begun.clear()
    with serving.connect() as client:
        client.sendall(request("POST", "/work"))
        assert begun.wait(10)
    go.set()
    assert finished.wait(10)


def test_closing_the_server_lets_work_end_and_cancels_streams(tmp_path: Path) -> None:
    serving = Serving(str(tmp_path / "s"))
    ended, begun, working = threading.Event(), threading.Event(), threading.Event()

    async def silence() -> AsyncIterator[bytes]:
        try:
            begun.set()
            await asyncio.sleep(3600)
            yield b""
        finally:
            ended.set()

    async def stream(request: Request, body: Body) -> Answer:
        return Stream(silence())

    async def work(request: Request, body: Body) -> Answer:
        working.set()
        await asyncio.sleep(0.3)
        return Reply(200, b"done", "text/plain")

    serving.handlers.update({"/events": stream, "/work": work})
    events, idle, worker = serving.connect(), serving.connect(), serving.connect()
    events.sendall(request("GET", "/events"))
    worker.sendall(request("GET", "/work"))
    assert begun.wait(10) and working.wait(10)
    serving.close()
    assert ended.is_set()
    assert read_all(worker).endswith(b"done")
    assert read_all(idle) == b""
    assert not (tmp_path / "s").exists()
    for client in (events, idle, worker):
        client.close()
