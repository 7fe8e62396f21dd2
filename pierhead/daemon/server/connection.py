"""One client's connection: requests one after the other, answers in order, and what becomes of both when it ends."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

from pierhead.daemon.server import answer, head, peer
from pierhead.daemon.server.answer import Answer, Hijack, Reply, Stream
from pierhead.daemon.server.body import Body, ClientGone
from pierhead.daemon.server.head import MAX_HEAD, Request
from pierhead.daemon.server.progress import close
from pierhead.daemon.server.relay import Relay
from pierhead.errors import PierheadError

log = logging.getLogger("pierd")

HEAD_TIMEOUT = 60.0
"""Seconds from the first byte of a head to its last."""
MAX_DRAINED = 256 * 1024
"""A longer rest of a body that no handler wanted is not read; the connection is closed instead."""
LINGER = 5.0
"""Seconds that a client has to read its answer where it was still sending: a connection that is closed under a writer
gives it an error instead."""
GONE_CHECK = 1.0
"""Seconds between looks whether a half-closed client has closed altogether (nothing else tells)."""

SMALL = 16 * 1024
"""Bytes of a piece that is cheaper copied than sent by itself."""

Application = Callable[[Request, Body], Awaitable[Answer]]


class Connection(asyncio.BufferedProtocol):
    """HTTP/1.1 on one transport.

    At most one request is being handled; what the client sends meanwhile waits in ``_pending`` (a pipelined request,
    or the first input of a stream that is about to be hijacked).
    """

    def __init__(
        self,
        application: Application,
        connections: "set[Connection]",
        scratch: memoryview,
        *,
        head_timeout: float = HEAD_TIMEOUT,
    ) -> None:
        """scratch: what is received lands there first; one for all connections of a loop (asyncio's own way allocates
        256 KiB a read)."""
        self._application = application
        self._connections = connections
        self._scratch = scratch
        self._head_timeout = head_timeout
        self._loop = asyncio.get_running_loop()
        self._pending = bytearray()
        self._searched = 0
        self._request: Request | None = None
        self._body: Body | None = None
        self._task: asyncio.Task[None] | None = None
        self._relay: Relay | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reading = True
        self._eof = False
        self._lost = False
        self._closing = False
        self._deaf = False
        self._streaming = False
        self._hijacking = False
        self._writable: asyncio.Future[None] | None = None
        self._write_paused = False
        self._transport = cast(asyncio.Transport, None)

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client."""
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        sock = cast(socket.socket | None, transport.get_extra_info("socket"))
        if sock is not None and sock.family != socket.AF_UNIX:
            # The only way to learn of a TCP client that vanished while it listens to events or logs.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to receive."""
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes of a head, a body, or a raw stream."""
        data = self._scratch[:nbytes].tobytes()
        if self._relay is not None:
            self._relay.client_data(data)
            return
        if self._body is not None and not self._body.complete:
            data = self._body.feed(data)
            if not data:
                return
        if self._deaf:
            return
        self._pending += data
        if self._task is None:
            self._next()
        elif len(self._pending) > MAX_HEAD:
            self._pause()

    def eof_received(self) -> bool:
        """The client sends no more. It may still want its answer."""
        self._eof = True
        if self._relay is not None:
            self._relay.client_eof()
            return True
        if self._body is not None and not self._body.complete:
            self._body.fail(ClientGone("unexpected EOF"))
        if self._task is None:
            return False
        self._check_gone()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone: what only it wanted is cancelled."""
        self._lost = True
        self._connections.discard(self)
        self._stop_timer()
        if self._body is not None:
            self._body.fail(ClientGone("unexpected EOF"))
        if self._relay is not None:
            self._relay.client_lost()
        self.resume_writing()
        self._abandon()

    def pause_writing(self) -> None:
        """The client does not read its answer."""
        self._write_paused = True
        if self._relay is not None:
            self._relay.client_paused()

    def resume_writing(self) -> None:
        """It reads again."""
        self._write_paused = False
        if self._relay is not None:
            self._relay.client_resumed()
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # Reading requests

    def _next(self) -> None:
        """Begin with the next request if its head is complete."""
        pending = self._pending
        while pending.startswith(b"\r\n"):
            del pending[:2]
        end = pending.find(b"\r\n\r\n", max(0, self._searched - 3))
        if end < 0 and len(pending) <= MAX_HEAD:
            self._searched = len(pending)
            if pending and self._timer is None:
                self._timer = self._loop.call_later(self._head_timeout, self._too_slow)
            if self._eof:
                self._transport.close()
            return
        self._searched = 0
        self._stop_timer()
        try:
            if end < 0 or end > MAX_HEAD:
                raise head.HeadTooLarge("request header fields too large")
            request = head.parse(bytes(pending[: end + 4]))
        except PierheadError as error:
            self._refuse(error)
            return
        rest = bytes(pending[end + 4 :])
        pending.clear()
        body = Body(request.length)
        self._request, self._body = request, body
        if rest:
            pending += body.feed(rest)
        if not body.complete:
            body.pause, body.resume = self._pause, self._resume
            if request.headers.get("expect", "").lower() == "100-continue":
                body.wanted = self._continue
            if self._eof:
                body.fail(ClientGone("unexpected EOF"))
        self._task = self._loop.create_task(self._handle(request, body))

    def _refuse(self, error: PierheadError) -> None:
        """Answer what is no request, and hear no more."""
        self._deaf = True
        reply = answer.error(str(error), error.status)
        self._transport.write(answer.reply_bytes(reply, head_only=False, minor=1, keep_alive=False))
        self._transport.close()

    def _too_slow(self) -> None:
        self._timer = None
        self._deaf = True
        self._transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _continue(self) -> None:
        self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _pause(self) -> None:
        if self._reading and not self._eof and not self._lost:
            self._reading = False
            self._transport.pause_reading()

    def _resume(self) -> None:
        if not self._reading and not self._lost:
            self._reading = True
            if not self._transport.is_closing():
                self._transport.resume_reading()

    # Clients that go away

    def _check_gone(self) -> None:
        """After the client's end of file: cancel if it has closed, else look again later."""
        if self._task is None or self._lost or self._hijacking:
            return
        if self.has_closed():
            self._abandon()
        elif self._timer is None or self._timer.cancelled():
            self._timer = self._loop.call_later(GONE_CHECK, self._check_later)

    def _check_later(self) -> None:
        self._timer = None
        self._check_gone()

    def has_closed(self) -> bool:
        """After its end of file: whether the client reads no more either."""
        # Only a hijacked connection is half-closed on purpose where the kernel cannot tell the two apart.
        return peer.has_closed(self._transport, doubt=not self._hijacking)

    def _abandon(self) -> None:
        if self._task is None or self._request is None or self._hijacking:
            return
        if self._request.cancellable or self._streaming:
            self._task.cancel()

    # Answering

    async def _handle(self, request: Request, body: Body) -> None:
        keep = False
        try:
            result = await self._application(request, body)
            if isinstance(result, Reply):
                keep = await self._reply(request, body, result)
            elif isinstance(result, Stream):
                keep = await self._stream(request, body, result)
            else:
                await self._hijack(request, result)
        except asyncio.CancelledError:
            if not self._lost and not self._closing and not self.has_closed():
                log.debug("%s %s: cancelled", request.method, request.target)
        except Exception:
            log.exception("%s %s: the answer could not be sent", request.method, request.target)
        finally:
            self._finished(keep)

    def _finished(self, keep: bool) -> None:
        sending = self._body is not None and not self._body.complete and not self._eof
        self._task = self._request = self._body = None
        self._streaming = False
        if self._lost:
            return
        if not keep or self._closing:
            if sending and not self._closing:
                self._linger()
            else:
                self._transport.close()
            return
        self._stop_timer()
        self._resume()
        if self._pending or self._eof:
            self._next()

    def _linger(self) -> None:
        """Say no more, and hear nothing of what still comes, until the client closes or its time is over."""
        self._deaf = True
        self._stop_timer()
        self._timer = self._loop.call_later(LINGER, self._transport.close)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._resume()

    async def _reply(self, request: Request, body: Body, reply: Reply) -> bool:
        keep = request.keep_alive and not self._closing and await self._rest_of(body)
        if self._lost:
            return False
        self._transport.write(
            answer.reply_bytes(reply, head_only=request.method == "HEAD", minor=request.minor, keep_alive=keep)
        )
        if self._write_paused:
            await self._drain()
        return keep

    async def _rest_of(self, body: Body) -> bool:
        """Read what the handler left of the body. False: too much, or broken; the connection cannot go on."""
        if body.complete:
            return True
        if body.failed or (not body.started and self._request is not None and "expect" in self._request.headers):
            return False
        size = 0
        try:
            async for chunk in body:
                size += len(chunk)
                if size > MAX_DRAINED:
                    return False
        except PierheadError:
            return False
        return True

    async def _stream(self, request: Request, body: Body, stream: Stream) -> bool:
        """Write the pieces as they come. Without the last chunk the client knows that the stream broke."""
        self._streaming = True
        chunks = stream.chunks
        keep = request.keep_alive and request.minor == 1 and not self._closing
        chunked = request.minor == 1
        try:
            self._transport.write(answer.stream_head(stream, minor=request.minor, keep_alive=request.keep_alive))
            if request.method == "HEAD":
                return keep
            async for chunk in chunks:
                if self._lost:
                    return False
                if chunk:
                    self._write_piece(chunk, chunked)
                    if self._write_paused:
                        await self._drain()
        except PierheadError as error:
            log.warning("%s %s: broke off: %s", request.method, request.target, error)
            return False
        finally:
            await close(chunks)
        if chunked:
            self._transport.write(b"0\r\n\r\n")
        return keep and await self._rest_of(body)

    def _write_piece(self, piece: bytes, chunked: bool) -> None:
        if not chunked:
            self._transport.write(piece)
        elif len(piece) < SMALL:
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        else:
            self._transport.write(b"%x\r\n" % len(piece))
            self._transport.write(memoryview(piece))  # what the socket does not take is then copied once, not twice
            self._transport.write(b"\r\n")

    async def _drain(self) -> None:
        while self._write_paused and not self._lost:
            self._writable = self._loop.create_future()
            try:
                await self._writable
            finally:
                self._writable = None

    async def _hijack(self, request: Request, hijack: Hijack) -> None:
        """Stop speaking HTTP. From here on a client that leaves is the relay's to see, after its last input."""
        self._hijacking = True
        attached = hijack.attached
        try:
            self._transport.write(answer.hijack_head(hijack.content_type, bool(request.upgrade)))
            await peer.wait_until_read(self._transport)
            if hijack.output:
                self._transport.write(hijack.output)
            if attached is None:
                return
            if attached.history is not None:
                await self._write_all(attached.history)
            if attached.connection is None:
                return
            relay = Relay(
                self._transport,
                attached,
                attached.connection,
                stdin=hijack.stdin,
                detach_keys=hijack.detach_keys,
                abandoned=self.has_closed,
                scratch=self._scratch,
            )
            await relay.start()
        except BaseException:
            if attached is not None and attached.connection is not None:
                attached.connection.close()
            raise
        await self._run_relay(relay)

    async def _write_all(self, chunks: AsyncIterator[bytes]) -> None:
        """As they are, until the end or until the client is gone."""
        try:
            async for chunk in chunks:
                if self._lost:
                    return
                self._transport.write(chunk)
                if self._write_paused:
                    await self._drain()
        finally:
            await close(chunks)

    async def _run_relay(self, relay: Relay) -> None:
        self._relay = relay
        if self._pending:
            relay.client_data(bytes(self._pending))
            self._pending.clear()
        if self._write_paused:
            relay.client_paused()
        if self._lost:
            relay.client_lost()
        elif self._eof:
            relay.client_eof()
        self._resume()
        try:
            await relay.done
        finally:
            relay.stop()

    # The server's end

    def finish(self) -> "asyncio.Task[None] | None":
        """No further request after the one being handled; returns that one's task."""
        self._closing = True
        if self._task is None:
            self._transport.close()
        return self._task

    @property
    def endless(self) -> bool:
        """What is being handled may never end by itself (a stream, a wait, an attached client)."""
        return self._task is not None and (
            self._streaming or self._hijacking or (self._request is not None and self._request.cancellable)
        )

    def abort(self) -> None:
        """Drop the client."""
        self._transport.abort()
