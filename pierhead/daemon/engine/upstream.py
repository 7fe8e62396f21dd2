"""Questions to other name servers: whom to ask, in which order, how long; and how each of them has answered of late."""

import asyncio
import errno
import logging
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from pierhead.driver.networkdriver import dns

log = logging.getLogger("pierd")

PORT = 53
SERVERS = 3
"""As many as the C library asks."""

PATIENCE = 2.0
"""Seconds before the next server is asked too; an answer of the first is taken all the same. Not less: where the
servers do not know the same names, their order counts."""

LAST_PATIENCE = 4.5
"""Seconds for all of it; the C library gives us 5."""

RESTING = 10.0
"""Seconds that a server which did not answer is asked after the others; then one question goes to it as well."""

USELESS = (dns.SERVFAIL, dns.REFUSED, dns.NOTIMP)
"""Codes after which the next server is asked."""

Sockets = Callable[[int, int], Awaitable[socket.socket]]
"""Opens a socket (family, type) in a container's network namespace. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Whom to ask for one container.

    opener: None: from the host's network namespace.  place: whose namespace that is; health is remembered for each
    apart.
    """

    addresses: tuple[str, ...] = ()
    opener: Sockets | None = None
    place: str = ""


class Health:
    """Which servers have not answered of late."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rests: dict[tuple[str, str], float] = {}

    def order(self, servers: Servers) -> list[str]:
        """In the order to be asked: those that answer as they are listed, those that did not come last."""
        listed = list(dict.fromkeys(servers.addresses))[:SERVERS]
        return sorted(listed, key=lambda one: (servers.place, one) in self._rests)

    def due(self, servers: Servers) -> list[str]:
        """Those that did not answer and have rested: to be tried beside the others, once."""
        if not self._rests:
            return []
        now = self._clock()
        due = [one for one in self.order(servers)[1:] if self._rests.get((servers.place, one), now + 1) <= now]
        for one in due:
            self._rests[servers.place, one] = now + RESTING
        return due

    def failed(self, place: str, server: str) -> None:
        """It did not answer, or could not be reached."""
        if len(self._rests) > 1024:
            self._rests.clear()
        if (place, server) not in self._rests:
            log.info("name server %s does not answer: others are asked first", server)
        self._rests[place, server] = self._clock() + RESTING

    def answered(self, place: str, server: str) -> None:
        """It did."""
        if self._rests.pop((place, server), None) is not None:
            log.info("name server %s answers again", server)


class Asking:
    """A question on its way: the servers in turn, the next one too when the first is slow. ``done`` is called once.

    Everything happens on the loop's thread; over UDP from the host without a task, for there may be many.
    """

    __slots__ = "_again _asked _deadline _done _health _last _loop _number _query _servers _tcp _timer _waiting".split()

    def __init__(
        self, query: bytes, servers: Servers, health: Health, done: Callable[[bytes], None], *, tcp: bool
    ) -> None:
        """query: what ``dns.parse`` has read. done: takes the first useful answer, under the query's own id; SERVFAIL
        if there is none."""
        self._loop = asyncio.get_running_loop()
        self._number = query[:2]
        # An id of our own, and a port of the kernel's choice for each question, against forged answers.
        self._query = os.urandom(2) + query[2:]
        self._servers = servers
        self._health = health
        self._done: Callable[[bytes], None] | None = done
        self._tcp = tcp
        self._last = b""
        self._waiting = health.order(servers)
        self._asked: dict[str, Callable[[], object]] = {}
        """Who has been asked and has not answered, and what ends the waiting for it."""
        self._again: dict[str, Callable[[], object]] = {}
        """What asks those among them once more who are asked by datagram."""
        self._deadline = self._loop.time() + LAST_PATIENCE
        self._timer = self._loop.call_later(PATIENCE, self._late)

    def start(self) -> None:
        """Ask. ``done`` may be called before this returns."""
        if self._waiting:
            self._ask(self._waiting.pop(0))
        else:
            self._finish(b"")

    def cancel(self) -> None:
        """Nobody wants the answer any more."""
        self._done = None
        self._close()

    def _close(self) -> None:
        self._timer.cancel()
        for end in self._asked.values():
            end()
        self._asked.clear()
        self._again.clear()

    def _finish(self, answer: bytes) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        for server in self._asked if self._loop.time() > self._deadline - LAST_PATIENCE + PATIENCE else ():
            self._health.failed(self._servers.place, server)
        self._close()
        done(self._number + answer[2:] if answer else dns.refusal(self._number + self._query[2:]))

    def _late(self) -> None:
        """The servers asked so far are slow."""
        left = self._deadline - self._loop.time()
        if left <= 0:
            self._finish(self._last)
            return
        self._timer = self._loop.call_later(min(PATIENCE, left), self._late)
        if self._waiting:
            self._ask(self._waiting.pop(0))
            return
        for again in self._again.values():
            again()  # a datagram may have been lost

    def _answered(self, server: str, reply: bytes | None) -> None:
        """None: it could not be asked."""
        if self._done is None:
            return
        end = self._asked.pop(server, None)
        if end is not None:
            end()
        self._again.pop(server, None)
        if reply is None:
            self._health.failed(self._servers.place, server)
        else:
            self._health.answered(self._servers.place, server)
            self._last = reply
            if dns.code(reply) not in USELESS:
                self._finish(reply)
                return
        if not self._asked:
            if self._waiting:
                self._ask(self._waiting.pop(0))
            else:
                self._finish(self._last)

    # Asking one server

    def _ask(self, server: str) -> None:
        if not self._tcp and self._servers.opener is None:
            try:
                self._send(server, socket.socket(family(server), socket.SOCK_DGRAM | socket.SOCK_CLOEXEC))
            except OSError as error:  # no descriptor is left
                log.debug("resolver: %s: %s", server, error)
                self._answered(server, None)
            return
        task = self._loop.create_task(self._ask_in_steps(server))
        self._asked[server] = task.cancel

    async def _ask_in_steps(self, server: str) -> None:
        kind = socket.SOCK_STREAM if self._tcp else socket.SOCK_DGRAM
        reply: bytes | None = None
        try:
            if self._servers.opener is None:
                made = socket.socket(family(server), kind | socket.SOCK_CLOEXEC)
            else:
                made = await self._servers.opener(family(server), kind)
            if not self._tcp:
                self._send(server, made)
                return
            reply = await _over_tcp(server, made, self._query)
        except (OSError, EOFError) as error:
            log.debug("resolver: %s: %s", server, error)
        self._asked.pop(server, None)  # this task ends by itself
        self._answered(server, reply)

    def _send(self, server: str, upstream: socket.socket) -> None:
        upstream.setblocking(False)
        try:
            upstream.connect((server, PORT))  # connected: the kernel drops what comes from anywhere else
            upstream.send(self._query)
        except OSError as error:
            log.debug("resolver: %s: %s", server, error)
            upstream.close()
            self._asked.pop(server, None)
            self._answered(server, None)
            return
        self._loop.add_reader(upstream.fileno(), self._receive, server, upstream)

        def end() -> None:
            self._loop.remove_reader(upstream.fileno())
            upstream.close()

        def again() -> None:
            with suppress(OSError):  # ``_receive`` is told
                upstream.send(self._query)

        self._asked[server] = end
        self._again[server] = again

    def _receive(self, server: str, upstream: socket.socket) -> None:
        for _ in range(16):
            try:
                reply = upstream.recv(65535)
            except BlockingIOError:
                return
            except OSError as error:  # refused by the machine that it is not on
                log.debug("resolver: %s: %s", server, error)
                self._answered(server, None)
                return
            if dns.is_reply(reply, self._query):
                self._answered(server, reply)
                return


def family(server: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in server else socket.AF_INET


async def _over_tcp(server: str, connection: socket.socket, query: bytes) -> bytes:
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (server, PORT))
    except BaseException:
        connection.close()
        raise
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        writer.write(struct.pack(">H", len(query)) + query)
        (length,) = struct.unpack(">H", await reader.readexactly(2))
        reply = await reader.readexactly(length)
        if not dns.is_reply(reply, query):
            raise OSError(errno.EPROTO, "an answer to another question")
        return reply
    finally:
        writer.close()
