"""What a handler gives back, as data: a whole reply, a stream, or a raw connection. The connection writes it."""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from socket import socket
from typing import Protocol

from pierhead import __version__
from pierhead.wire import codec, space, versions
from pierhead.wire.space import Released
from pierhead.wire.system import ErrorResponse

JSON = "application/json"
RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"

_COMMON = (
    f"Api-Version: {versions.CURRENT}\r\n"
    "Docker-Experimental: false\r\n"
    "Ostype: linux\r\n"
    f"Server: Pierhead/{__version__} (linux)\r\n"
)
_REASONS = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer. Without a content type there is no body."""

    status: int = 200
    body: bytes = b""
    content_type: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Stream:
    """A body that comes piece by piece; the header is sent at once, and so is each piece."""

    chunks: AsyncIterator[bytes]
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


class Attached(Protocol):
    """The server's view of ``jobs.streams.Attached``."""

    @property
    def connection(self) -> socket | None: ...
    @property
    def terminal(self) -> bool: ...
    @property
    def history(self) -> AsyncIterator[bytes] | None: ...
    @property
    def detached(self) -> Callable[[], None]: ...


@dataclass(frozen=True, slots=True)
class Hijack:
    """The connection stops being HTTP and is joined to a process's stdio.

    attached None: only ``output`` is sent (and then the end).
    detach_keys: scanned for in what the client types; empty: not scanned.
    """

    attached: Attached | None
    content_type: str = RAW_STREAM
    stdin: bool = True
    detach_keys: bytes = b""
    output: bytes = b""


Answer = Reply | Stream | Hijack


def json(value: object, status: int = 200) -> Reply:
    """A struct, or lists and maps of them. Like Go's encoder, with a newline at the end."""
    return Reply(status, codec.encode(value) + b"\n", JSON)


def error(message: str, status: int) -> Reply:
    """Docker's form of every error."""
    return Reply(status, codec.encode(ErrorResponse(message=message)) + b"\n", JSON)


def removed(released: Released | None, reply: Reply) -> Reply:
    """A reply that says in its header, where no client of Docker's looks, what was given back."""
    if released is None:
        return reply
    return replace(
        reply,
        headers=(
            (space.RECLAIMED, str(released.space_reclaimed)),
            (space.FREE_CHANGE, str(released.free_space_change)),
        ),
    )


NO_CONTENT = Reply(204)
OK = Reply(200)
CREATED = Reply(201)

_date: tuple[int, str] = (0, "")


def _today() -> str:
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = (now, time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT\r\n", time.gmtime(now)))
    return _date[1]


def reply_bytes(reply: Reply, *, head_only: bool, minor: int, keep_alive: bool) -> bytes:
    """A reply on the wire."""
    lines = [f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, '')}\r\n", _COMMON, _today()]
    lines += [f"{name}: {value}\r\n" for name, value in reply.headers]
    body = reply.body
    if reply.status in (204, 304) or reply.status < 200:
        body = b""
    else:
        if reply.content_type:
            lines.append(f"Content-Type: {reply.content_type}\r\n")
        lines.append(f"Content-Length: {len(body)}\r\n")
    lines.append(_connection(minor, keep_alive))
    lines.append("\r\n")
    head = "".join(lines).encode("latin-1")
    return head if head_only or not body else head + body


def stream_head(stream: Stream, *, minor: int, keep_alive: bool) -> bytes:
    """The head of a streamed answer: chunked, or until the end of the connection for HTTP/1.0."""
    headers = "".join(f"{name}: {value}\r\n" for name, value in stream.headers)
    framing = "Transfer-Encoding: chunked\r\n" if minor else ""
    connection = _connection(minor, keep_alive and minor == 1)
    headers += f"Content-Type: {stream.content_type}\r\n"
    return f"HTTP/1.1 200 OK\r\n{_COMMON}{_today()}{headers}{framing}{connection}\r\n".encode("latin-1")


def hijack_head(content_type: str, upgrade: bool) -> bytes:
    """The last bytes of HTTP on a connection that becomes a raw stream. Without Upgrade the type is always "raw"."""
    if upgrade:
        return (
            f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
            f"{_COMMON}\r\n"
        ).encode("latin-1")
    return f"HTTP/1.1 200 OK\r\nContent-Type: {RAW_STREAM}\r\n\r\n".encode("latin-1")


def _connection(minor: int, keep_alive: bool) -> str:
    if not keep_alive:
        return "Connection: close\r\n"
    return "" if minor else "Connection: keep-alive\r\n"
