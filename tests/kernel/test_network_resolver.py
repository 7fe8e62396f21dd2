"""The resolver with real sockets: a container's queries, a host's name server, and what lies between."""

import asyncio
import os
import socket
import struct
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address

import dns.flags
import dns.message
import dns.rrset
import pytest

from pierhead.daemon.engine import upstream as upstreams_module
from pierhead.daemon.engine.resolver import ONES_SHARE, Resolvers, Scope
from pierhead.daemon.engine.upstream import Health, Servers
from pierhead.driver.networkdriver.zone import Member, View, Zone
from tests.harness.netns import Namespace, namespace

PORT = 61053
SO_RCVBUFFORCE = 33
"""What is tested here are our own queues: the kernel's hold all that is sent."""

Answering = Callable[[dns.message.Message, bytes], list[bytes]]


@pytest.fixture
def host() -> Iterator[Namespace]:
    with namespace(f"h4r-host-{os.getpid()}") as made:
        yield made


@pytest.fixture
def container() -> Iterator[Namespace]:
    with namespace(f"h4r-box-{os.getpid()}") as made:
        yield made


def view_of(address: str = "172.18.0.2", *, closed: bool = False) -> View:
    zone = Zone("n")
    zone.update({"1": Member(("web",), (ip_address(address),))})
    return View((zone,), closed=closed)


VIEW = view_of()


def lent(container: Namespace) -> tuple[socket.socket, socket.socket]:
    """What init makes and the shim lends."""

    def make() -> tuple[socket.socket, socket.socket]:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 22)
        udp.bind(("127.0.0.11", PORT))
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind(("127.0.0.11", PORT))
        tcp.listen(16)
        return udp, tcp

    return container.call(make)


@dataclass
class Upstream:
    """A name server at an address of the loop's namespace (or, with ``inside``, of another)."""

    answering: Answering
    address: str = "127.0.0.1"
    inside: Namespace | None = None
    seen: int = 0
    queries: list[tuple[bytes, tuple[str, int]]] = field(default_factory=list)
    datagrams: socket.socket | None = None
    stream: asyncio.Server | None = None

    async def start(self) -> None:
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET

        def bound(kind: int) -> socket.socket:
            made = socket.socket(family, kind)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 22)
            made.bind((self.address, 53))
            made.setblocking(False)
            return made

        def both() -> tuple[socket.socket, socket.socket]:
            return bound(socket.SOCK_DGRAM), bound(socket.SOCK_STREAM)

        self.datagrams, listener = both() if self.inside is None else self.inside.call(both)
        asyncio.get_running_loop().add_reader(self.datagrams.fileno(), self._read)
        self.stream = await asyncio.start_server(self._connected, sock=listener)

    def _read(self) -> None:
        assert self.datagrams is not None
        query, peer = self.datagrams.recvfrom(65535)
        self.seen += 1
        self.queries.append((query, peer))
        for reply in self.answering(dns.message.from_wire(query), query):
            self.datagrams.sendto(reply, peer)

    def reply(self, number: int) -> None:
        """A late answer to one of the datagrams."""
        assert self.datagrams is not None
        query, peer = self.queries[number]
        self.datagrams.sendto(truly(dns.message.from_wire(query), query)[0], peer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack(">H", await reader.readexactly(2))
        query = await reader.readexactly(length)
        self.seen += 1
        for reply in self.answering(dns.message.from_wire(query), query):
            writer.write(struct.pack(">H", len(reply)) + reply)
        writer.close()

    async def stop(self) -> None:
        assert self.datagrams is not None and self.stream is not None
        asyncio.get_running_loop().remove_reader(self.datagrams.fileno())
        self.datagrams.close()
        self.stream.close()


@asynccontextmanager
async def serving(*upstreams: Upstream):  # type: ignore[no-untyped-def]
    async with AsyncExitStack() as stack:
        for one in upstreams:
            await one.start()
            stack.push_async_callback(one.stop)
        yield


def truly(query: dns.message.Message, wire: bytes) -> list[bytes]:
    return saying("192.0.2.80")(query, wire)


def saying(address: str) -> Answering:
    def answering(query: dns.message.Message, wire: bytes) -> list[bytes]:
        reply = dns.message.make_response(query)
        reply.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", address))
        return [reply.to_wire()]

    return answering


def failing(query: dns.message.Message, wire: bytes) -> list[bytes]:
    reply = dns.message.make_response(query)
    reply.set_rcode(2)
    return [reply.to_wire()]


def silent(query: dns.message.Message, wire: bytes) -> list[bytes]:
    return []


def run(
    host: Namespace,
    container: Namespace,
    work: Callable[[Resolvers, Upstream], Coroutine[object, object, None]],
    *,
    answering: Answering = truly,
    servers: Callable[[], Servers] = lambda: Servers(("127.0.0.1",)),
    view: Callable[[], View] = lambda: VIEW,
    others: Sequence[Upstream] = (),
    health: Health | None = None,
) -> Upstream:
    sockets = lent(container)
    upstream = Upstream(answering)

    async def all_of_it() -> None:
        resolvers = Resolvers(health)
        async with serving(upstream, *others):
            resolvers.serve("c", sockets, Scope(view, servers))
            try:
                async with asyncio.timeout(60):
                    await work(resolvers, upstream)
            finally:
                await resolvers.close(0)

    host.call(lambda: asyncio.run(all_of_it()))
    return upstream


async def ask(container: Namespace, name: str, kind: str = "A", patience: float = 20) -> dns.message.Message:
    query = dns.message.make_query(name, kind)

    def opened() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setblocking(False)
        made.connect(("127.0.0.11", PORT))
        return made

    with container.call(opened) as client:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, query.to_wire())
        async with asyncio.timeout(patience):
            reply = dns.message.from_wire(await loop.sock_recv(client, 65535))
    assert query.is_response(reply)
    return reply


async def ask_tcp(container: Namespace, *names: str) -> list[dns.message.Message]:
    connection = container.call(lambda: socket.create_connection(("127.0.0.11", PORT), 10))
    reader, writer = await asyncio.open_connection(sock=connection)
    replies = []
    for name in names:
        wire = dns.message.make_query(name, "A").to_wire()
        writer.write(struct.pack(">H", len(wire)) + wire)
        (length,) = struct.unpack(">H", await reader.readexactly(2))
        replies.append(dns.message.from_wire(await reader.readexactly(length)))
    writer.close()
    return replies


def address(reply: dns.message.Message) -> str:
    return str(reply.answer[0][0])


def test_own_names_are_answered_and_others_are_asked_of_the_hosts_server(host: Namespace, container: Namespace) -> None:
    async def work(resolvers: Resolvers, upstream: Upstream) -> None:
        assert address(await ask(container, "web")) == "172.18.0.2"
        assert upstream.seen == 0
        assert address(await ask(container, "example.com")) == "192.0.2.80"
        assert upstream.seen == 1
        replies = await ask_tcp(container, "web", "example.com")
        assert [address(reply) for reply in replies] == ["172.18.0.2", "192.0.2.80"]

    run(host, container, work)


def test_a_name_follows_its_container(host: Namespace, container: Namespace) -> None:
    present = ["172.18.0.2"]

    async def work(resolvers: Resolvers, upstream: Upstream) -> None:
        assert address(await ask(container, "web")) == "172.18.0.2"
        present[0] = "172.18.0.77"
        resolvers.changed("n")
        assert address(await ask(container, "web")) == "172.18.0.77"

    run(host, container, work, view=lambda: view_of(present[0]))


def test_an_internal_network_asks_nobody(host: Namespace, container: Namespace) -> None:
    """CVE-2024-29018: a question is a way out."""

    async def work(resolvers: Resolvers, upstream: Upstream) -> None:
        for kind in ("A", "AAAA", "TXT", "PTR", "ANY"):
            assert (await ask(container, "secret.example.com", kind)).rcode() == 3
        assert (await ask_tcp(container, "secret.example.com"))[0].rcode() == 3

    assert run(host, container, work, view=lambda: view_of(closed=True)).seen == 0


def test_forged_answers_are_ignored(host: Namespace, container: Namespace) -> None:
    def forging(query: dns.message.Message, wire: bytes) -> list[bytes]:
        [true] = truly(query, wire)
        other_id = struct.pack(">H", query.id ^ 1) + true[2:].replace(b"\xc0\x00\x02\x50", b"\x06\x06\x06\x06")
        other = dns.message.make_response(dns.message.make_query("other.com", "A", id=query.id)).to_wire()
        return [other_id, other, b"", b"x", wire, true]

    async def work(resolvers: Resolvers, upstream: Upstream) -> None:
        assert address(await ask(container, "example.com")) == "192.0.2.80"

    run(host, container, work, answering=forging)


# Servers that fail ---------------------------------------------------------------------------------------------------


def test_a_server_that_fails_or_is_not_there_is_followed_by_the_next(host: Namespace, container: Namespace) -> None:
    async def work(resolvers: Resolvers, upstream: Upstream) -> None:
        assert address(await ask(container, "example.com")) == "192.0.2.80"
        assert address((await ask_tcp(container, "example.com"))[0]) == "192.0.2.80"

    for first in ("127.0.0.9", "198.51.100.1", "2001:db8::1"):
        run(host, container, work, servers=lambda first=first: Servers((first, "127.0.0.1")))  # type: ignore[misc]
    broken = Upstream(failing, "127.0.0.2")
    run(host, container, work, servers=lambda: Servers(("127.0.0.2", "127.0.0.1")), others=[broken])
    assert broken.seen == 2


def test_a_silent_server_is_waited_for_once_and_asked_last_until_it_answers(
    host: Namespace, container: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise every look-up of every program takes seconds for as long as the first server is down."""
    monkeypatch.setattr(upstreams_module, "PATIENCE", 1.0)
    now = [100.0]
    first = Upstream(silent, "127.0.0.2")

    async def work(resolvers: Resolvers, upstream: Upstream) -> None:
        assert address(await ask(container, "example.com")) == "192.0.2.80"
        assert (first.seen, upstream.seen) == (1, 1)
        for number in range(5):
            assert address(await ask(container, "example.com")) == "192.0.2.80"
            assert (first.seen, upstream.seen) == (1, 2 + number)
        now[0] += 11
        assert address(await ask(container, "example.com")) == "192.0.2.80", "answered at once by the other one"
        assert first.seen == 2, "and the first was tried"
        first.answering = saying("192.0.2.81")
        now[0] += 11
        await ask(container, "example.com")
        while health.order(servers) != ["127.0.0.2", "127.0.0.1"]:
            await asyncio.sleep(0.01)
        before = upstream.seen
        assert address(await ask(container, "example.com")) == "192.0.2.81"
        assert upstream.seen == before, "the first of the list is the first again"

    health = Health(lambda: now[0])
    servers = Servers(("127.0.0.2", "127.0.0.1"))
    run(host, container, work, servers=lambda: servers, others=[first], health=health)


def test_a_slow_answer_is_better_than_none(
    host: Namespace, container: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstreams_module, "PATIENCE", 0.2)
    slow = Upstream(silent, "127.0.0.2")

    def waking(query: dns.message.Message, wire: bytes) -> list[bytes]:
        """The second server is asked, and says nothing: now the first one answers."""
        slow.reply(0)
        return []

    async def work(resolvers: Resolvers, upstream: Upstream) -> None:
        assert address(await ask(container, "example.com")) == "192.0.2.80"
        assert upstream.seen == 1

    servers = Servers(("127.0.0.2", "127.0.0.1"))
    run(host, container, work, answering=waking, servers=lambda: servers, others=[slow])


def test_when_nobody_answers_the_client_is_told(host: Namespace, container: Namespace) -> None:
    async def work(resolvers: Resolvers, upstream: Upstream) -> None:
        assert (await ask(container, "example.com")).rcode() == 2

    run(host, container, work, answering=silent)
    run(host, container, work, servers=lambda: Servers(()))
    run(host, container, work, servers=lambda: Servers(("127.0.0.9",)))


def test_health_is_remembered_for_each_place_and_all_are_asked_when_none_is_well() -> None:
    now = [100.0]
    health = Health(lambda: now[0])
    three = Servers(("a", "b", "c", "d"))
    assert health.order(three) == ["a", "b", "c"] and health.due(three) == []
    health.failed("", "a")
    assert health.order(three) == ["b", "c", "a"] and health.due(three) == []
    assert health.order(Servers(("a", "b"), None, "elsewhere")) == ["a", "b"]
    now[0] += 11
    assert health.due(three) == ["a"], "one question is sent to it too"
    assert health.due(three) == [] and health.order(three) == ["b", "c", "a"], "and only one"
    health.answered("", "a")
    assert health.order(three) == ["a", "b", "c"]
    for server in "abc":
        health.failed("", server)
    assert health.order(three) == ["a", "b", "c"]


# Where and how others are asked --------------------------------------------------------------------------------------


def test_servers_are_asked_over_ipv6_too(host: Namespace, container: Namespace) -> None:
    six = Upstream(saying("192.0.2.66"), "::1")

    async def work(resolvers: Resolvers, upstream: Upstream) -> None:
        assert address(await ask(container, "example.com")) == "192.0.2.66"
        assert address((await ask_tcp(container, "example.com"))[0]) == "192.0.2.66"

    run(host, container, work, servers=lambda: Servers(("::1",)), others=[six])
    assert six.seen == 2


def test_servers_given_for_a_container_are_asked_from_its_own_network(host: Namespace, container: Namespace) -> None:
    """--dns 127.0.0.1 is the container's loopback, and a server on an internal network is reached from there only."""
    own = Upstream(saying("192.0.2.99"), "127.0.0.1", inside=container)

    async def opener(family: int, kind: int) -> socket.socket:
        return container.call(lambda: socket.socket(family, kind))

    async def work(resolvers: Resolvers, upstream: Upstream) -> None:
        assert address(await ask(container, "example.com")) == "192.0.2.99"
        assert address((await ask_tcp(container, "example.com"))[0]) == "192.0.2.99"
        assert upstream.seen == 0, "the host's server was asked"

    run(host, container, work, servers=lambda: Servers(("127.0.0.1",), opener, "c"), others=[own])
    assert own.seen == 2


def test_a_truncated_answer_says_so_and_the_whole_comes_over_tcp(host: Namespace, container: Namespace) -> None:
    def large(query: dns.message.Message, wire: bytes) -> list[bytes]:
        reply = dns.message.make_response(query)
        for number in range(200):
            name = query.question[0].name
            reply.answer.append(dns.rrset.from_text(name, 60, "IN", "TXT", f'"{number} {"x" * 100}"'))
        if upstream_over_udp[0]:
            reply.answer.clear()
            reply.flags |= dns.flags.TC
        return [reply.to_wire(max_size=65535)]

    upstream_over_udp = [True]

    async def work(resolvers: Resolvers, upstream: Upstream) -> None:
        assert (await ask(container, "example.com")).flags & dns.flags.TC
        upstream_over_udp[0] = False
        whole = (await ask_tcp(container, "example.com"))[0]
        assert sum(len(rrset) for rrset in whole.answer) == 200 and not whole.flags & dns.flags.TC

    run(host, container, work, answering=large)


# Hostile and busy containers -----------------------------------------------------------------------------------------


def test_garbage_and_half_open_connections_do_not_stop_it(host: Namespace, container: Namespace) -> None:
    async def work(resolvers: Resolvers, upstream: Upstream) -> None:
        def noise() -> list[socket.socket]:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.connect(("127.0.0.11", PORT))
                for size in range(500):
                    client.send(b"\xff" * (size % 90))
            held = [socket.create_connection(("127.0.0.11", PORT), 10) for _ in range(70)]
            for connection in held[:10]:
                connection.send(b"\0")
            return held

        held = await asyncio.to_thread(container.call, noise)
        try:
            assert address(await ask(container, "web")) == "172.18.0.2"
        finally:
            for connection in held:
                connection.close()

    run(host, container, work)


def flood(container: Namespace, count: int, name: str = "n{}.example.com") -> None:
    with container.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
        client.connect(("127.0.0.11", PORT))
        for number in range(count):
            client.send(dns.message.make_query(name.format(number), "A").to_wire())


def test_a_flood_of_questions_is_bounded(host: Namespace, container: Namespace) -> None:
    async def work(resolvers: Resolvers, upstream: Upstream) -> None:
        await asyncio.to_thread(flood, container, 3000)
        for _ in range(20):
            assert resolvers.asking <= ONES_SHARE
            await asyncio.sleep(0.02)
        assert address(await ask(container, "web")) == "172.18.0.2"

    run(host, container, work, answering=silent)


def test_one_containers_flood_takes_nothing_from_another(host: Namespace, container: Namespace) -> None:
    """Its questions that nobody answers fill its own share, and the other's names and questions are answered."""

    def deaf_to_the_flood(query: dns.message.Message, wire: bytes) -> list[bytes]:
        return truly(query, wire) if "example" not in str(query.question[0].name) else []

    with namespace(f"h4r-other-{os.getpid()}") as other:

        async def work(resolvers: Resolvers, upstream: Upstream) -> None:
            resolvers.serve("o", lent(other), Scope(lambda: VIEW, lambda: Servers(("127.0.0.1",))))
            await asyncio.to_thread(flood, container, 2000)
            for number in range(20):
                assert address(await ask(other, "web", patience=20)) == "172.18.0.2"
                assert address(await ask(other, f"n{number}.test", patience=20)) == "192.0.2.80"
            assert resolvers.asking >= 100, "the flood is over: this has shown nothing"

        run(host, container, work, answering=deaf_to_the_flood)


def test_many_parallel_questions_of_one_container_are_all_answered(host: Namespace, container: Namespace) -> None:
    """More than may be under way at once: the others wait for their turn."""

    async def work(resolvers: Resolvers, upstream: Upstream) -> None:
        loop = asyncio.get_running_loop()
        client = container.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 22)
        client.connect(("127.0.0.11", PORT))
        client.setblocking(False)
        with client:
            left = set()
            for number in range(600):
                query = dns.message.make_query(f"n{number}.test", "A", id=number)
                left.add(query.id)
                client.send(query.to_wire())
            deadline = time.monotonic() + 30
            while left and time.monotonic() < deadline:
                async with asyncio.timeout(30):
                    reply = dns.message.from_wire(await loop.sock_recv(client, 4096))
                assert address(reply) == "192.0.2.80"
                left.discard(reply.id)

    run(host, container, work)


# The daemon's end ----------------------------------------------------------------------------------------------------


def test_what_has_been_read_is_answered_before_the_daemon_ends_and_the_rest_waits_for_the_next(
    host: Namespace, container: Namespace
) -> None:
    sockets = lent(container)
    again = sockets[0].dup(), sockets[1].dup()

    async def all_of_it() -> None:
        upstream = Upstream(silent)
        resolvers, following = Resolvers(), Resolvers()
        async with serving(upstream):
            scope = Scope(lambda: VIEW, lambda: Servers(("127.0.0.1",)))
            resolvers.serve("c", sockets, scope)
            asked = asyncio.ensure_future(ask(container, "example.com"))
            while not upstream.queries:
                await asyncio.sleep(0.01)
            closing = asyncio.ensure_future(resolvers.close(20))
            await asyncio.sleep(0.1)
            waits = asyncio.ensure_future(ask(container, "web"))
            await asyncio.sleep(0.1)
            assert not asked.done() and not waits.done() and not closing.done()
            upstream.reply(0)
            assert address(await asked) == "192.0.2.80"
            await closing
            assert not waits.done()
            following.serve("c", again, scope)
            assert address(await waits) == "172.18.0.2"
            await following.close(0)

    host.call(lambda: asyncio.run(all_of_it()))
