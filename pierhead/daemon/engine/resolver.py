"""Serves the embedded name server: the sockets at 127.0.0.11 that containers' shims lend to the daemon.

What is known is answered at once; other names are asked of the host's name servers, from the host's network namespace.
While no daemon runs, queries wait in the sockets' queues.
"""

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

from pierhead.driver.networkdriver import dns

log = logging.getLogger("pierd")

IN_FLIGHT = 1024
"""Questions to upstream servers at any moment, of all containers."""

PATIENCE = 2.0
"""Seconds for each upstream server; the C library gives us 5 in all."""

SERVERS = 3
CONNECTIONS = 64
"""TCP connections of one container."""

IDLE = 10.0
PORT = 53
HOST_FILE = "/etc/resolv.conf"


@dataclass(frozen=True, slots=True)
class Scope:
    """What one container may know. upstreams: servers given for it, empty: the host's; None: nobody is asked."""

    zone: Callable[[], dns.Zone]
    upstreams: Callable[[], tuple[str, ...] | None]


@dataclass(slots=True)
class _Served:
    udp: socket.socket
    tcp: socket.socket
    scope: Scope
    tasks: "set[asyncio.Task[None]]" = field(default_factory=set)
    connections: int = 0


class Resolvers:
    """All containers' resolver sockets. Everything happens on the loop's thread."""

    def __init__(self) -> None:
        self._served: dict[str, _Served] = {}
        self._zones: dict[str, dns.Zone] = {}
        self.asking = 0
        """Questions to upstream servers that wait for their answer now."""
        self._host: tuple[tuple[int, int], dns.ResolvConf] = ((0, 0), dns.ResolvConf())

    def serve(self, container: str, sockets: tuple[socket.socket, socket.socket], scope: Scope) -> None:
        """Answer on a container's sockets (udp, listening tcp) from now on; they are closed at ``stop``."""
        self.stop(container)
        udp, tcp = sockets
        udp.setblocking(False)
        tcp.setblocking(False)
        served = _Served(udp, tcp, scope)
        self._served[container] = served
        loop = asyncio.get_running_loop()
        loop.add_reader(udp.fileno(), self._datagrams, served)
        loop.add_reader(tcp.fileno(), self._connections, served)

    def serves(self, container: str) -> bool:
        """Whether the container has a resolver; it keeps it when it leaves its last network with names."""
        return container in self._served

    def stop(self, container: str) -> None:
        """Serve a container no longer. Idempotent."""
        served = self._served.pop(container, None)
        if served is None:
            return
        loop = asyncio.get_running_loop()
        for one in (served.udp, served.tcp):
            loop.remove_reader(one.fileno())
            one.close()
        for task in served.tasks:
            task.cancel()

    def close(self) -> None:
        """Stop all."""
        for container in list(self._served):
            self.stop(container)

    def zone(self, network: str, make: Callable[[], dns.Zone]) -> dns.Zone:
        """A network's names, made anew only after ``changed``."""
        zone = self._zones.get(network)
        if zone is None:
            zone = self._zones[network] = make()
        return zone

    def changed(self, network: str) -> None:
        """Names or addresses in a network are others now."""
        self._zones.pop(network, None)

    def host(self) -> dns.ResolvConf:
        """The host's resolv.conf, read again when it has changed."""
        try:
            status = os.stat(HOST_FILE)
            version = (status.st_mtime_ns, status.st_ino)
            if version != self._host[0]:
                with open(HOST_FILE, encoding="utf-8", errors="replace") as file:
                    self._host = version, dns.parse_resolv_conf(file.read())
        except OSError:
            self._host = (0, 0), dns.ResolvConf()
        return self._host[1]

    # Containers' side ------------------------------------------------------------------------------------------------

    def _datagrams(self, served: _Served) -> None:
        for _ in range(64):
            try:
                query, client = served.udp.recvfrom(65535)
            except OSError:
                return
            try:
                answer = dns.answer(query, served.scope.zone())
            except dns.Malformed:
                continue
            if answer is not None:
                self._send(served, answer, client)
            else:
                self._spawn(served, self._forward_datagram(served, query, client))

    def _send(self, served: _Served, answer: bytes, client: tuple[str, int]) -> None:
        try:
            served.udp.sendto(answer, client)
        except OSError as error:
            log.debug("resolver: answer to %s: %s", client, error)

    def _spawn(self, served: _Served, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        served.tasks.add(task)

        def done(finished: "asyncio.Task[None]") -> None:
            served.tasks.discard(finished)
            if not finished.cancelled() and (error := finished.exception()) is not None:
                log.error("resolver: %s", error, exc_info=error)

        task.add_done_callback(done)

    async def _forward_datagram(self, served: _Served, query: bytes, client: tuple[str, int]) -> None:
        answer = await self._forward(served, query, tcp=False)
        if served.udp.fileno() >= 0:
            self._send(served, answer, client)

    def _connections(self, served: _Served) -> None:
        while True:
            try:
                connection, _ = served.tcp.accept()
            except OSError:
                return
            if served.connections >= CONNECTIONS:
                connection.close()
                continue
            served.connections += 1
            self._spawn(served, self._connection(served, connection))

    async def _connection(self, served: _Served, connection: socket.socket) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=connection)
            try:
                while True:
                    async with asyncio.timeout(IDLE):
                        (length,) = struct.unpack(">H", await reader.readexactly(2))
                        query = await reader.readexactly(length)
                    answer = dns.answer(query, served.scope.zone(), tcp=True)
                    if answer is None:
                        answer = await self._forward(served, query, tcp=True)
                    writer.write(struct.pack(">H", len(answer)) + answer)
                    async with asyncio.timeout(IDLE):
                        await writer.drain()
            finally:
                writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, dns.Malformed):
            return
        finally:
            served.connections -= 1

    # The other side --------------------------------------------------------------------------------------------------

    async def _forward(self, served: _Served, query: bytes, *, tcp: bool) -> bytes:
        """The first useful answer of the upstream servers, under the query's own id; SERVFAIL if there is none."""
        servers = served.scope.upstreams()
        if servers is None or self.asking >= IN_FLIGHT:
            return dns.refusal(query, dns.SERVFAIL if servers is None else dns.REFUSED)
        self.asking += 1
        try:
            last = b""
            for server in (servers or self.host().nameservers)[:SERVERS]:
                # An id of our own, and a port of the kernel's choice for each question, against forged answers.
                sent = dns.with_id(query, int.from_bytes(os.urandom(2)))
                try:
                    async with asyncio.timeout(PATIENCE):
                        reply = await (_ask_tcp(server, sent) if tcp else _ask_udp(server, sent))
                except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                    log.debug("resolver: %s: %s", server, error)
                    continue
                last = dns.with_id(reply, int.from_bytes(query[:2]))
                if dns.code(reply) not in (dns.SERVFAIL, dns.REFUSED, dns.NOTIMP):
                    return last
            return last or dns.refusal(query)
        finally:
            self.asking -= 1


def _family(server: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in server else socket.AF_INET


async def _ask_udp(server: str, query: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    with socket.socket(_family(server), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as upstream:
        upstream.connect((server, PORT))  # connected: the kernel drops what comes from anywhere else
        await loop.sock_sendall(upstream, query)
        while True:
            reply = await loop.sock_recv(upstream, 65535)
            if dns.answers(reply, query):
                return reply


async def _ask_tcp(server: str, query: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(server, PORT)
    try:
        writer.write(struct.pack(">H", len(query)) + query)
        (length,) = struct.unpack(">H", await reader.readexactly(2))
        reply = await reader.readexactly(length)
        if not dns.answers(reply, query):
            raise OSError("an answer to another question")
        return reply
    finally:
        writer.close()
