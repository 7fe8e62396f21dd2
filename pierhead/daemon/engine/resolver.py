"""Serves the embedded name server: the sockets at 127.0.0.11 that containers' shims lend to the daemon.

What is known is answered at once; other names are asked of other name servers.  While no daemon runs, queries wait in
the sockets' queues.
"""

import asyncio
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from functools import partial

from pierhead.daemon.engine.upstream import Asking, Health, Servers
from pierhead.driver.networkdriver import dns, resolvconf
from pierhead.driver.networkdriver.zone import View, Zone, answer

log = logging.getLogger("pierd")

IN_FLIGHT = 1024
"""Questions to other servers at any moment, of all containers."""

ONES_SHARE = 256
"""Of these, those of one container."""

MOST_WAITING, LONGEST_WAIT = 1024, 4.0
"""Questions of one container that may wait for their turn, and for how many seconds; others are refused."""

AT_A_TIME = 16
"""Datagrams of one container before the others get their turn."""

LONGEST_QUERY = 4096
CONNECTIONS = 64
"""TCP connections of one container."""

IDLE = 10.0


@dataclass(frozen=True, slots=True)
class Scope:
    """What one container may know, and whom its other questions go to (None: the host's name servers). Both hold until
    the next change of names. close: called at the end."""

    view: Callable[[], View]
    servers: Callable[[], Servers | None]
    close: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A question that waits for its turn to be asked of others."""

    query: bytes
    tcp: bool
    done: Callable[[bytes], None]
    since: float


@dataclass(slots=True)
class _Served:
    container: str
    udp: socket.socket
    tcp: socket.socket
    scope: Scope
    age: int = -1
    """The number of changes when ``view`` and ``servers`` were made."""
    view: View = field(default_factory=View)
    servers: Servers | None = None
    asking: set[Asking] = field(default_factory=set)
    waiting: deque[_Waiting] = field(default_factory=deque)
    tasks: "set[asyncio.Task[None]]" = field(default_factory=set)
    connections: int = 0


class Resolvers:
    """All containers' resolver sockets. Everything happens on the loop's thread."""

    def __init__(self, health: Health | None = None) -> None:
        self._served: dict[str, _Served] = {}
        self._zones: dict[str, Zone] = {}
        self._stale: set[str] = set()
        self._changes = 0
        self._health = health or Health()
        self.asking = 0
        """Questions to other servers that wait for their answer now."""
        self._lines: deque[str] = deque()
        """Containers whose questions wait for their turn."""
        self._host: tuple[tuple[int, int], resolvconf.ResolvConf] = ((0, 0), resolvconf.ResolvConf())

    def serve(self, container: str, sockets: tuple[socket.socket, socket.socket], scope: Scope) -> None:
        """Answer on a container's sockets (udp, listening tcp) from now on; they are closed at ``stop``."""
        self.stop(container)
        udp, tcp = sockets
        udp.setblocking(False)
        tcp.setblocking(False)
        served = _Served(container, udp, tcp, scope)
        self._served[container] = served
        loop = asyncio.get_running_loop()
        loop.add_reader(udp.fileno(), self._datagrams, served)
        loop.add_reader(tcp.fileno(), self._connections, served)

    def serves(self, container: str) -> bool:
        """Whether the container has a resolver; it keeps it when it leaves its last network with names."""
        return container in self._served

    def all(self) -> list[str]:
        """The containers that have one."""
        return list(self._served)

    def stop(self, container: str) -> None:
        """Serve a container no longer. Idempotent."""
        served = self._served.pop(container, None)
        if served is None:
            return
        self._deafen(served)
        for one in (served.udp, served.tcp):
            one.close()
        for question in served.asking:
            question.cancel()
        self.asking -= len(served.asking)
        served.asking.clear()
        served.waiting.clear()
        for task in served.tasks:
            task.cancel()
        served.scope.close()

    def _deafen(self, served: _Served) -> None:
        loop = asyncio.get_running_loop()
        for one in (served.udp, served.tcp):
            loop.remove_reader(one.fileno())

    async def close(self, patience: float = 1.0) -> None:
        """Stop all. What has been read is answered, if the other servers do so within ``patience`` seconds; what comes
        from now on waits for the next daemon."""
        for served in self._served.values():
            self._deafen(served)
        end = asyncio.get_running_loop().time() + patience
        while self.asking and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)  # what came last over TCP is written
        for container in list(self._served):
            self.stop(container)

    # What is known ---------------------------------------------------------------------------------------------------

    def zone(self, network: str, make: Callable[[], Zone], update: Callable[[Zone], None]) -> Zone:
        """A network's names, made once, and brought up to date after ``changed``."""
        zone = self._zones.get(network)
        if zone is None:
            zone = self._zones[network] = make()
            self._stale.add(network)
        if network in self._stale:
            self._stale.discard(network)
            update(zone)
        return zone

    def changed(self, network: str) -> None:
        """Names or addresses in a network are others now."""
        self._stale.add(network)
        self._changes += 1

    def gone(self, network: str) -> None:
        """There is no such network any more."""
        self._zones.pop(network, None)
        self._stale.discard(network)
        self._changes += 1

    def host(self) -> resolvconf.ResolvConf:
        """The host's resolv.conf, read again when it has changed."""
        try:
            status = os.stat(resolvconf.PATH)
            version = (status.st_mtime_ns, status.st_ino)
            if version != self._host[0]:
                with open(resolvconf.PATH, encoding="utf-8", errors="replace") as file:
                    self._host = version, resolvconf.parse(file.read())
        except OSError:
            self._host = (0, 0), resolvconf.ResolvConf()
        return self._host[1]

    def _view(self, served: _Served) -> View:
        if served.age != self._changes:
            served.age = self._changes
            try:
                served.view = served.scope.view()
                served.servers = served.scope.servers()
            except Exception as error:  # else the datagram would stay, and call for this again and again
                log.error("resolver of %s: its names stay as they were: %s", served.container, error, exc_info=error)
        return served.view

    # Containers' side ------------------------------------------------------------------------------------------------

    def _datagrams(self, served: _Served) -> None:
        udp = served.udp
        view = self._view(served)
        for _ in range(AT_A_TIME):
            try:
                query, client = udp.recvfrom(LONGEST_QUERY)
            except OSError:
                return
            try:
                found = answer(query, view)
                if found is not None:
                    udp.sendto(found, client)
                else:
                    self._forward(served, query, partial(self._send, served, client), tcp=False)
            except dns.Malformed:
                continue
            except OSError as error:
                log.debug("resolver: answer to %s: %s", client, error)

    def _send(self, served: _Served, client: tuple[str, int], reply: bytes) -> None:
        try:
            served.udp.sendto(reply, client)
        except OSError as error:
            log.debug("resolver: answer to %s: %s", client, error)

    def _connections(self, served: _Served) -> None:
        for _ in range(AT_A_TIME):
            try:
                connection, _ = served.tcp.accept()
            except OSError:
                return
            if served.connections >= CONNECTIONS:
                connection.close()
                continue
            served.connections += 1
            self._spawn(served, self._connection(served, connection))

    def _spawn(self, served: _Served, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        served.tasks.add(task)

        def done(finished: "asyncio.Task[None]") -> None:
            served.tasks.discard(finished)
            served.connections -= 1
            if not finished.cancelled() and (error := finished.exception()) is not None:
                log.error("resolver: %s", error, exc_info=error)

        task.add_done_callback(done)

    async def _connection(self, served: _Served, connection: socket.socket) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=connection)
            try:
                while True:
                    async with asyncio.timeout(IDLE):
                        (length,) = struct.unpack(">H", await reader.readexactly(2))
                        query = await reader.readexactly(length)
                    found = answer(query, self._view(served), tcp=True)
                    if found is None:
                        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
                        self._forward(served, query, partial(_settle, future), tcp=True)
                        found = await future
                    writer.write(struct.pack(">H", len(found)) + found)
                    async with asyncio.timeout(IDLE):
                        await writer.drain()
            finally:
                writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, dns.Malformed):
            return

    # The other side --------------------------------------------------------------------------------------------------

    def _forward(self, served: _Served, query: bytes, done: Callable[[bytes], None], *, tcp: bool) -> None:
        """Ask others. ``done`` gets the answer later, or at once where nobody can be asked."""
        now = asyncio.get_running_loop().time()
        if self.asking < IN_FLIGHT and len(served.asking) < ONES_SHARE:
            self._ask(served, _Waiting(query, tcp, done, now))
        elif len(served.waiting) < MOST_WAITING:
            if not served.waiting:
                self._lines.append(served.container)
            served.waiting.append(_Waiting(query, tcp, done, now))
        else:
            done(dns.refusal(query, dns.REFUSED))

    def _ask(self, served: _Served, one: _Waiting) -> None:
        servers = served.servers or Servers(self.host().nameservers)
        for server in self._health.due(servers):
            probe = _Waiting(one.query, one.tcp, lambda reply: None, one.since)
            self._start(served, probe, replace(servers, addresses=(server,)))
        self._start(served, one, servers)

    def _start(self, served: _Served, one: _Waiting, servers: Servers) -> None:
        def answered(reply: bytes) -> None:
            served.asking.discard(question)
            self.asking -= 1
            one.done(reply)
            if self._lines:
                asyncio.get_running_loop().call_soon(self._next)

        question = Asking(one.query, servers, self._health, answered, tcp=one.tcp)
        self.asking += 1
        served.asking.add(question)
        question.start()

    def _next(self) -> None:
        """There may be room for questions that wait: one of each container in turn."""
        now = asyncio.get_running_loop().time()
        for _ in range(len(self._lines)):
            if self.asking >= IN_FLIGHT:
                return
            served = self._served.get(self._lines.popleft())
            if served is None:
                continue
            while served.waiting and now - served.waiting[0].since > LONGEST_WAIT:
                late = served.waiting.popleft()
                late.done(dns.refusal(late.query, dns.REFUSED))
            if served.waiting and len(served.asking) < ONES_SHARE:
                self._ask(served, served.waiting.popleft())
            if served.waiting:
                self._lines.append(served.container)


def _settle(future: "asyncio.Future[bytes]", reply: bytes) -> None:
    if not future.done():
        future.set_result(reply)
