"""A request's body, as it arrives: of known length or in chunks, with back-pressure on the client."""

import asyncio
import re
from collections import deque
from collections.abc import Callable

from pierhead.errors import InvalidParameter, PierheadError

HIGH, LOW = 512 * 1024, 128 * 1024
MAX_LINE = 4096
MAX_TRAILER = 16 * 1024
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")


class ClientGone(PierheadError):
    """The client went away in the middle of its request."""

    status = 400


class BodyTooLarge(PierheadError):
    """A JSON body larger than anything this API has use for."""

    status = 413


class Body:
    """An asynchronous iterator over the body's bytes, fed by the connection.

    ``pause`` and ``resume`` are called when more than HIGH bytes wait to be read, and when less than LOW do again;
    ``wanted`` when the handler reads for the first time (the moment for "100 Continue").
    """

    __slots__ = (
        "_buffered",
        "_chunks",
        "_complete",
        "_decoder",
        "_error",
        "_left",
        "_paused",
        "_waiter",
        "pause",
        "resume",
        "started",
        "wanted",
    )

    def __init__(self, length: int) -> None:
        """length: bytes; -1: chunked."""
        self._left = length
        self._decoder = _Chunks() if length < 0 else None
        self._complete = length == 0
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._error: PierheadError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
        self.started = False
        self.pause: Callable[[], None] = _nothing
        self.resume: Callable[[], None] = _nothing
        self.wanted: Callable[[], None] = _nothing

    @property
    def complete(self) -> bool:
        """Every byte has arrived (perhaps not been read)."""
        return self._complete

    @property
    def failed(self) -> bool:
        """The rest of the connection cannot be read as HTTP any more."""
        return self._error is not None

    @property
    def empty(self) -> bool:
        """The request has no body."""
        return self._complete and not self._chunks and not self.started

    def feed(self, data: bytes) -> bytes:
        """Take what belongs to the body; returns the rest (the next request, or a raw stream's beginning)."""
        if self._complete:
            return data
        if self._decoder is None:
            mine, rest = data[: self._left], data[self._left :]
            self._left -= len(mine)
            self._take(mine)
            self._complete = self._left == 0
        else:
            try:
                rest = self._decoder.feed(data, self._take)
            except InvalidParameter as error:
                self.fail(error)
                return b""
            self._complete = self._decoder.done
        self._wake()
        if self._buffered > HIGH and not self._paused and not self._complete:
            self._paused = True
            self.pause()
        return rest

    def fail(self, error: PierheadError) -> None:
        """Nothing more comes; readers get the error once what has arrived is read."""
        if not self._complete:
            self._error = error
            self._wake()

    def _take(self, data: bytes) -> None:
        if data:
            self._chunks.append(data)
            self._buffered += len(data)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> "Body":
        return self

    async def __anext__(self) -> bytes:
        if not self.started:
            self.started = True
            if not self._complete and not self._chunks:
                self.wanted()
        while not self._chunks:
            if self._complete:
                raise StopAsyncIteration
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        chunk = self._chunks.popleft()
        self._buffered -= len(chunk)
        if self._paused and self._buffered < LOW:
            self._paused = False
            self.resume()
        return chunk

    async def read(self, limit: int) -> bytes:
        """All of it. Raises BodyTooLarge beyond ``limit`` bytes."""
        parts: list[bytes] = []
        size = 0
        async for part in self:
            size += len(part)
            if size > limit:
                raise BodyTooLarge(f"request body is larger than {limit} bytes")
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _nothing() -> None:
    """Nobody to tell."""


class _Chunks:
    """The chunked coding (RFC 9112, 7.1), strictly: CRLF, plain hexadecimal sizes, extensions and trailers ignored."""

    __slots__ = ("_left", "_line", "_state", "_trailer", "done")

    def __init__(self) -> None:
        self._state = "size"
        self._line = b""
        self._left = 0
        self._trailer = 0
        self.done = False

    def feed(self, data: bytes, take: Callable[[bytes], None]) -> bytes:
        """Decode; returns what follows the last chunk. Raises InvalidParameter."""
        position = 0
        while position < len(data) and not self.done:
            if self._state == "data":
                piece = data[position : position + self._left]
                position += len(piece)
                self._left -= len(piece)
                take(piece)
                if not self._left:
                    self._state = "end"
                continue
            end = data.find(b"\n", position)
            stop = len(data) if end < 0 else end + 1
            self._line += data[position:stop]
            position = stop
            if len(self._line) > MAX_LINE:
                raise InvalidParameter("malformed chunked encoding")
            if end >= 0:
                line, self._line = self._line, b""
                self._take_line(line)
        return data[position:]

    def _take_line(self, line: bytes) -> None:
        if not line.endswith(b"\r\n") or b"\r" in line[:-2]:
            raise InvalidParameter("malformed chunked encoding")
        line = line[:-2]
        if self._state == "size":
            match = _CHUNK.fullmatch(line)
            if match is None:
                raise InvalidParameter("malformed chunked encoding")
            self._left = int(match[1], 16)
            self._state = "data" if self._left else "trailer"
        elif self._state == "end":
            if line:
                raise InvalidParameter("malformed chunked encoding")
            self._state = "size"
        else:
            self._trailer += len(line)
            if self._trailer > MAX_TRAILER:
                raise InvalidParameter("malformed chunked encoding")
            self.done = not line
