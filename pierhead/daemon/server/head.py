"""The head of a request: httptools reads it, and what is ambiguous in it is refused.

Only the head goes through the parser; the body's framing is ours (``body``), so that bytes behind a request that turns
into a raw stream (attach, exec) can never be taken for HTTP.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import httptools

from pierhead.errors import InvalidParameter, PierheadError

MAX_HEAD = 64 * 1024
_CHUNKED = -1
_DIGITS = re.compile(rb"[0-9]{1,18}")


class HeadTooLarge(PierheadError):
    """The head of a request is longer than MAX_HEAD."""

    status = 431


class UnsupportedTransfer(PierheadError):
    """A Transfer-Encoding other than "chunked"."""

    status = 501


@dataclass(slots=True)
class Request:
    """A request's head. Header names are in lower case.

    length: bytes of the body; 0: none; -1: chunked.
    cancellable: set by the router; the handler is cancelled when the client goes away.
    """

    method: str
    target: str
    minor: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int = 0
    keep_alive: bool = True
    cancellable: bool = False

    @property
    def upgrade(self) -> str:
        """The protocol that the client wants to change to, or ""."""
        return self.headers.get("upgrade", "")

    @property
    def chunked(self) -> bool:
        """The body comes in chunks."""
        return self.length == _CHUNKED


class _Callbacks:
    """What httptools calls while it reads one head."""

    __slots__ = ("begun", "body", "complete", "headers", "url")

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.begun = 0
        self.complete = 0
        self.body = False

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.complete += 1

    def on_body(self, body: bytes) -> None:
        self.body = True


def parse(head: bytes) -> Request:
    """Read a head that ends in its empty line. Raises InvalidParameter, UnsupportedTransfer."""
    callbacks = _Callbacks()
    parser = httptools.HttpRequestParser(callbacks)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise InvalidParameter(f"malformed HTTP request: {error}") from None
    if callbacks.complete != 1 or callbacks.begun != 1 or callbacks.body:
        raise InvalidParameter("malformed HTTP request")
    version = parser.get_http_version()
    if version not in ("1.0", "1.1"):
        raise InvalidParameter(f"unsupported HTTP version {version}")
    minor = int(version[2])
    headers: dict[str, str] = {}
    lengths: list[bytes] = []
    transfers: list[bytes] = []
    hosts = 0
    for name, value in callbacks.headers:
        if name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            transfers.append(value)
        elif name == b"host":
            hosts += 1
        key, text = name.decode("latin-1"), value.decode("latin-1").strip()
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    if hosts > 1 or (minor == 1 and not hosts):
        raise InvalidParameter("missing required Host header" if not hosts else "too many Host headers")
    return Request(
        method=parser.get_method().decode("latin-1"),
        target=callbacks.url.decode("latin-1"),
        minor=minor,
        headers=headers,
        length=_body_length(lengths, transfers, minor),
        keep_alive=_keeps_alive(headers.get("connection", ""), minor),
    )


def _body_length(lengths: list[bytes], transfers: list[bytes], minor: int) -> int:
    """How long the body is. Anything that two servers could read differently is refused (request smuggling)."""
    if transfers:
        if lengths:
            raise InvalidParameter("both Content-Length and Transfer-Encoding")
        if len(transfers) > 1 or transfers[0].strip().lower() != b"chunked":
            raise UnsupportedTransfer("unsupported transfer encoding")
        if minor == 0:
            raise InvalidParameter("Transfer-Encoding needs HTTP/1.1")
        return _CHUNKED
    if not lengths:
        return 0
    if len(lengths) > 1 or not _DIGITS.fullmatch(lengths[0].strip()):
        raise InvalidParameter("bad Content-Length")
    return int(lengths[0])


def _keeps_alive(connection: str, minor: int) -> bool:
    if not connection:
        return minor == 1
    options = {option.strip() for option in connection.lower().split(",")}
    return "keep-alive" in options if minor == 0 else "close" not in options
