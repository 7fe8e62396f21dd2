"""Questions about names, asked where a container would ask them: in its network namespace, at 127.0.0.11."""

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.reversename
import dns.rrset

from tests.harness.api import Api
from tests.harness.netns import call_in

SERVER = "127.0.0.11"
OUTSIDE = "192.0.2.80"
"""The address of example.com, and of every name below it."""

EXAMPLE = dns.name.from_text("example.com")


@dataclass(frozen=True, slots=True)
class Asker:
    """A running container. Needs nothing in its image."""

    netns: str

    def ask(self, name: str, kind: str = "A", *, tcp: bool = False, timeout: float = 20) -> dns.message.Message:
        query = dns.message.make_query(name, kind)
        exchange = dns.query.tcp if tcp else dns.query.udp
        return call_in(self.netns, lambda: exchange(query, SERVER, timeout=timeout))

    def addresses(self, name: str, kind: str = "A", *, tcp: bool = False) -> list[str]:
        """Sorted; none is an answer without any, or no such name."""
        return sorted(self.in_order(name, kind, tcp=tcp))

    def in_order(self, name: str, kind: str = "A", *, tcp: bool = False) -> list[str]:
        reply = self.ask(name, kind, tcp=tcp)
        return [str(item.address) for rrset in reply.answer for item in rrset]

    def name_of(self, address: str) -> str:
        """Of a PTR answer, without its final dot; "" if there is none."""
        reply = self.ask(dns.reversename.from_address(address).to_text(), "PTR")
        return str(reply.answer[0][0]).rstrip(".") if reply.answer else ""


def asker(api: Api, container: str) -> Asker:
    """A running container, by name or id."""
    return Asker(f"/proc/{api.inspect(container)['State']['Pid']}/ns/net")


class NameServer(threading.Thread):
    """Knows one address for everything below example.com, and nothing else; keeps the names that it was asked for."""

    def __init__(self, netns: str, address: str) -> None:
        super().__init__(daemon=True)
        self.names: list[str] = []
        self._ended, self._end = socket.socketpair()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET

        def bound(kind: int) -> socket.socket:
            made = socket.socket(family, kind)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((address, 53))
            return made

        self._udp = call_in(netns, lambda: bound(socket.SOCK_DGRAM))
        self._tcp = call_in(netns, lambda: bound(socket.SOCK_STREAM))
        self._tcp.listen()

    def run(self) -> None:
        """Until ``stop``."""
        while True:
            ready, _, _ = select.select([self._udp, self._tcp, self._ended], [], [])
            if self._ended in ready:
                return
            if self._udp in ready:
                data, peer = self._udp.recvfrom(4096)
                self._udp.sendto(self._answer(data), peer)
            if self._tcp in ready:
                connection, _ = self._tcp.accept()
                with connection:
                    connection.settimeout(20)
                    data = connection.recv(4096)
                    answer = self._answer(data[2:])
                    connection.sendall(len(answer).to_bytes(2) + answer)

    def _answer(self, data: bytes) -> bytes:
        query = dns.message.from_wire(data)
        question = query.question[0]
        self.names.append(question.name.to_text())
        reply = dns.message.make_response(query)
        if not question.name.is_subdomain(EXAMPLE):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        elif question.rdtype == dns.rdatatype.A:
            reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", OUTSIDE))
        return reply.to_wire()

    def stop(self) -> None:
        self._end.send(b"x")
        self.join()
        for one in (self._udp, self._tcp, self._end, self._ended):
            one.close()


@contextmanager
def name_server(netns: str, address: str) -> Iterator[NameServer]:
    """A name server at an address of a network namespace."""
    server = NameServer(netns, address)
    server.start()
    try:
        yield server
    finally:
        server.stop()
