"""Joins a hijacked connection to a process's stdio: bytes both ways, half-close both ways, back-pressure both ways."""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import cast

from pierhead.daemon.server.answer import Attached
from pierhead.daemon.server.detach import Scanner

log = logging.getLogger("pierd")

LINGER = 5.0
"""Seconds that a client has to close its side after it has got all output (its last input would otherwise make the
kernel answer our close with a reset, which can overtake the output)."""


class Relay(asyncio.BufferedProtocol):
    """Is the protocol of the process's side; the connection calls the ``client_…`` methods for the client's.

    ``done`` is set when both are finished with.
    """

    def __init__(
        self,
        client: asyncio.Transport,
        attached: Attached,
        connection: socket.socket,
        *,
        stdin: bool,
        detach_keys: bytes,
        abandoned: Callable[[], bool],
        scratch: memoryview,
    ) -> None:
        """abandoned: says, after the client's end of file, whether it has closed altogether."""
        self._client = client
        self._attached = attached
        self._connection = connection
        self._stdin = stdin
        self._scanner = Scanner(detach_keys) if detach_keys and stdin else None
        self._abandoned = abandoned
        self._scratch = scratch
        self._process: asyncio.Transport | None = None
        self._client_ended = False
        self._output_ended = False
        self._loop = asyncio.get_running_loop()
        self._linger: asyncio.TimerHandle | None = None
        self.done: asyncio.Future[None] = self._loop.create_future()

    async def start(self) -> None:
        """Take over the process's socket."""
        self._connection.setblocking(False)
        await self._loop.create_unix_connection(lambda: self, sock=self._connection)

    # The client's side

    def client_data(self, data: bytes) -> None:
        """What the client sent: the process's input."""
        if not self._stdin or self._process is None or self._output_ended:
            return
        if self._scanner is not None:
            data, detached = self._scanner.feed(data)
            if detached:
                self._detach(data)
                return
        if data and not self._process.is_closing():
            self._process.write(data)

    def client_eof(self) -> None:
        """The client sends no more: the end of stdin; or it is gone."""
        self._client_ended = True
        if self._output_ended:
            self._finish()
            return
        if self._process is None or self._process.is_closing():
            return
        if self._stdin and self._process.can_write_eof():
            self._process.write_eof()
        if self._abandoned():
            self._process.close()

    def client_lost(self) -> None:
        """The client is gone."""
        if self._process is not None:
            self._process.close()
        self._finish()

    def client_paused(self) -> None:
        """The client does not read: neither do we."""
        if self._process is not None and not self._output_ended:
            self._process.pause_reading()

    def client_resumed(self) -> None:
        """The client reads again."""
        if self._process is not None and not self._output_ended:
            self._process.resume_reading()

    def _detach(self, rest: bytes) -> None:
        if self._process is not None:
            if rest:
                self._process.write(rest)
            self._process.close()
        self._attached.detached()

    def stop(self) -> None:
        """Let go of the process's side."""
        self._finish()
        if self._process is not None:
            self._process.close()

    # The process's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready."""
        self._process = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to receive."""
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Output."""
        self._client.write(self._scratch[:nbytes].tobytes())

    def eof_received(self) -> bool:
        """All output is out."""
        return False

    def pause_writing(self) -> None:
        """The process does not read its input: the client has to wait."""
        if not self._client_ended:
            self._client.pause_reading()

    def resume_writing(self) -> None:
        """The process reads again."""
        if not self._client_ended and not self._client.is_closing():
            self._client.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """All output is out, or the process's side broke, or we closed it."""
        if self._output_ended:
            return
        self._output_ended = True
        if self._client.is_closing() or self._client_ended:
            self._finish()
            return
        self._client.resume_reading()
        if self._client.can_write_eof():
            self._client.write_eof()
        self._linger = self._loop.call_later(LINGER, self._finish)

    def _finish(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if not self.done.done():
            self.done.set_result(None)
