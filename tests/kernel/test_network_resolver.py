"""The resolver with real sockets: a container's queries, a host's name server, and what lies between."""

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import dns.message
import dns.rrset
import pytest

from pierhead.daemon.engine.resolver import Resolvers, Scope
from pierhead.driver.networkdriver.dns import Zone
from tests.harness.netns import Namespace, namespace

PORT = 61053
ZONE = Zone({"web": (ip_address("172.18.0.2"),)}, {})
Answering = Callable[[dns.message.Message, bytes], list[bytes]]


@pytest.fixture
def host() -> Iterator[Namespace]:
    with namespace("h4r-host") as made:
        yield made


@pytest.fixture
def container() -> Iterator[Namespace]:
    with namespace("h4r-box") as made:
        yield made


def lent(container: Namespace) -> tuple[socket.socket, socket.socket]:
    """What init makes and the shim lends."""

    def make() -> tuple[socket.socket, socket.socket]:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.11", PORT))
        tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind(("127.0.0.11", PORT))
        tcp.listen(16)
        return udp, tcp

    return container.call(make)


@dataclass
class Upstream:
    """A name server on the host's loopback."""

    answering: Answering
    seen: int = 0
    datagrams: socket.socket | None = None
    stream: asyncio.Server | None = None

    async def start(self) -> None:
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.datagrams.setblocking(False)
        self.datagrams.bind(("127.0.0.1", 53))
        asyncio.get_running_loop().add_reader(self.datagrams.fileno(), self._read)
        self.stream = await asyncio.start_server(self._connected, "127.0.0.1", 53)

    def _read(self) -> None:
        assert self.datagrams is not None
        query, peer = self.datagrams.recvfrom(65535)
        self.seen += 1
        for reply in self.answering(dns.message.from_wire(query), query):
            self.datagrams.sendto(reply, peer)

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


def truly(query: dns.message.Message, wire: bytes) -> list[bytes]:
    reply = dns.message.make_response(query)
    reply.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "192.0.2.80"))
    return [reply.to_wire()]


def run(
    host: Namespace,
    container: Namespace,
    work: Callable[[Resolvers, Upstream], Coroutine[object, object, None]],
    *,
    answering: Answering = truly,
    upstreams: tuple[str, ...] | None = ("127.0.0.1",),
    zone: Callable[[], Zone] = lambda: ZONE,
) -> Upstream:
    sockets = lent(container)
    upstream = Upstream(answering)

    async def all_of_it() -> None:
        resolvers = Resolvers()
        await upstream.start()
        resolvers.serve("c", sockets, Scope(zone, lambda: upstreams))
        try:
            async with asyncio.timeout(60):
                await work(resolvers, upstream)
        finally:
            resolvers.close()
            await upstream.stop()

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


def test_own_names_are_answered_and_others_are_asked_of_the_hosts_server(host: Namespace, container: Namespace) -> None:
    async def work(resolvers: Resolvers, upstream: Upstream) -> None:
        assert str((await ask(container, "web")).answer[0][0]) == "172.18.0.2"
        assert upstream.seen == 0
        assert str((await ask(container, "example.com")).answer[0][0]) == "192.0.2.80"
        assert upstream.seen == 1
        replies = await ask_tcp(container, "web", "example.com")
        assert [str(reply.answer[0][0]) for reply in replies] == ["172.18.0.2", "192.0.2.80"]

    run(host, container, work)


def test_a_name_follows_its_container(host: Namespace, container: Namespace) -> None:
    present = {"web": (ip_address("172.18.0.2"),)}

    async def work(resolvers: Resolvers, upstream: Upstream) -> None:
        assert str((await ask(container, "web")).answer[0][0]) == "172.18.0.2"
        present["web"] = (ip_address("172.18.0.77"),)
        assert str((await ask(container, "web")).answer[0][0]) == "172.18.0.77"

    run(host, container, work, zone=lambda: Zone(dict(present), {}))


def test_an_internal_network_asks_nobody(host: Namespace, container: Namespace) -> None:
    """CVE-2024-29018: a question is a way out."""

    async def work(resolvers: Resolvers, upstream: Upstream) -> None:
        assert (await ask(container, "secret.example.com")).rcode() == 2
        assert (await ask_tcp(container, "secret.example.com"))[0].rcode() == 2

    assert run(host, container, work, upstreams=None).seen == 0


def test_forged_answers_are_ignored(host: Namespace, container: Namespace) -> None:
    def forging(query: dns.message.Message, wire: bytes) -> list[bytes]:
        [true] = truly(query, wire)
        other_id = struct.pack(">H", query.id ^ 1) + true[2:].replace(b"\xc0\x00\x02\x50", b"\x06\x06\x06\x06")
        other = dns.message.make_response(dns.message.make_query("other.com", "A", id=query.id)).to_wire()
        return [other_id, other, b"", b"x", wire, true]

    async def work(resolvers: Resolvers, upstream: Upstream) -> None:
        assert str((await ask(container, "example.com")).answer[0][0]) == "192.0.2.80"

    run(host, container, work, answering=forging)


def test_a_server_that_fails_or_is_silent_is_followed_by_the_next(host: Namespace, container: Namespace) -> None:
    async def work(resolvers: Resolvers, upstream: Upstream) -> None:
        assert str((await ask(container, "example.com")).answer[0][0]) == "192.0.2.80"

    run(host, container, work, upstreams=("127.0.0.9", "127.0.0.1"))


def test_when_nobody_answers_the_client_is_told(host: Namespace, container: Namespace) -> None:
    async def work(resolvers: Resolvers, upstream: Upstream) -> None:
        assert (await ask(container, "example.com")).rcode() == 2

    run(host, container, work, answering=lambda query, wire: [])


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
            assert str((await ask(container, "web")).answer[0][0]) == "172.18.0.2"
        finally:
            for connection in held:
                connection.close()

    run(host, container, work)


def test_a_flood_of_questions_is_bounded(host: Namespace, container: Namespace) -> None:
    async def work(resolvers: Resolvers, upstream: Upstream) -> None:
        def flood() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.connect(("127.0.0.11", PORT))
                for number in range(3000):
                    client.send(dns.message.make_query(f"n{number}.example.com", "A").to_wire())

        await asyncio.to_thread(container.call, flood)
        for _ in range(20):
            assert resolvers.asking <= 1024
            await asyncio.sleep(0.02)
        assert str((await ask(container, "web")).answer[0][0]) == "172.18.0.2"

    run(host, container, work, answering=lambda query, wire: [])
