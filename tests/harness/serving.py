"""The real server with handlers of the test's own, in a thread, and raw sockets to talk to it."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from pierhead.daemon.server.answer import Answer
from pierhead.daemon.server.body import Body
from pierhead.daemon.server.connection import Application
from pierhead.daemon.server.head import Request
from pierhead.daemon.server.serving import Server

TIMEOUT = 20.0
"""Seconds until a hanging server fails a test."""

Handler = Callable[[Request, Body], Awaitable[Answer]]


class Serving:
    """A server on a unix socket; ``handlers`` by path."""

    def __init__(
        self, path: str, host: str = "", head_timeout: float = 60.0, application: Application | None = None
    ) -> None:
        self.path = path
        self.handlers: dict[str, Handler] = {}
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.server = Server(application or self._handle, head_timeout=head_timeout)
        self.run(self.server.listen(host or f"unix://{path}"))

    async def _handle(self, request: Request, body: Body) -> Answer:
        return await self.handlers[request.target](request, body)

    def run(self, coroutine: "Awaitable[object]") -> object:
        """Await something on the server's loop."""

        async def awaited() -> object:
            return await coroutine

        return asyncio.run_coroutine_threadsafe(awaited(), self.loop).result(TIMEOUT)

    def connect(self) -> socket.socket:
        """A client."""
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(TIMEOUT)
        client.connect(self.path)
        return client

    def connect_tcp(self) -> socket.socket:
        """A client, where the server's host is TCP."""
        address, port = self.server.addresses[0][:2]  # type: ignore[index]
        return socket.create_connection((address, port), timeout=TIMEOUT)

    def talk(self, request: bytes, *, half_close: bool = True) -> bytes:
        """Send, and read to the end."""
        with self.connect() as client:
            client.sendall(request)
            if half_close:
                client.shutdown(socket.SHUT_WR)
            return read_all(client)

    def close(self) -> None:
        """End the server and its thread."""
        self.run(self.server.close(grace=1.0))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(TIMEOUT)
        self.loop.close()


def read_all(client: socket.socket) -> bytes:
    """Until the end of the stream."""
    parts = []
    while part := client.recv(65536):
        parts.append(part)
    return b"".join(parts)


def read_until(client: socket.socket, mark: bytes) -> bytes:
    """Until ``mark`` has been seen; what came with it is returned too."""
    data = b""
    while mark not in data:
        part = client.recv(65536)
        if not part:
            raise AssertionError(f"the stream ended before {mark!r}: {data!r}")
        data += part
    return data


def request(method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: docker", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def unchunk(answer: bytes) -> tuple[bytes, bool]:
    """The content of a chunked answer, and whether it came to its end."""
    _, _, rest = answer.partition(b"\r\n\r\n")
    content = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        if int(size, 16) == 0:
            return content, True
        content += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return content, False


@dataclass
class Stdio:
    """A fake process's stdio: the test plays the process on ``process``."""

    connection: socket.socket | None = None
    terminal: bool = False
    history: AsyncIterator[bytes] | None = None
    detaches: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.connection, self.process = socket.socketpair()
        self.process.settimeout(TIMEOUT)

    def detached(self) -> None:
        """What the server calls when the detach keys were typed."""
        self.detaches.append("detached")
