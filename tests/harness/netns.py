"""Network namespaces that a test makes, and the small world of hosts in them.

Nothing here touches the machine's own network. ``nsenter`` is used and not ``ip netns exec``, which hides the cgroups.
"""

import ctypes
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from tests.harness.processes import DEADLINE, Output, run

T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
DOCKERS = dict.fromkeys(("8.8.8.8", "8.8.4.4"))
"""Whom a container asks on a machine that has no name server for it."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A named network namespace."""

    name: str

    @property
    def path(self) -> str:
        return f"/run/netns/{self.name}"

    def argv(self, *command: str) -> list[str]:
        """The command line that runs a command in here."""
        return ["nsenter", f"--net={self.path}", "--", *command]

    def run(self, *command: str, stdin: bytes = b"", timeout: float = DEADLINE) -> Output:
        return run(self.argv(*command), stdin=stdin, timeout=timeout)

    def ip(self, *arguments: str) -> Output:
        return run(["ip", "-n", self.name, *arguments]).check()

    def configure(self, *commands: str) -> None:
        """Several commands of ip's, by one process."""
        run(["ip", "-n", self.name, "-batch", "-"], stdin="\n".join(commands).encode()).check()

    def call(self, work: Callable[[], T]) -> T:
        """Run a function in a thread that has joined this namespace; sockets it makes stay in here."""
        return call_in(self.path, work)

    def connect(self, address: str, port: int, timeout: float = DEADLINE / 6) -> socket.socket:
        """A TCP connection made from in here."""
        return self.call(lambda: socket.create_connection((address, port), timeout))

    def http_get(self, address: str, port: int, path: str = "/", timeout: float = DEADLINE / 6) -> str:
        """The whole answer (head and body) of one HTTP/1.0 request sent from in here."""
        with self.connect(address, port, timeout) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        return answer.decode(errors="replace")

    def interfaces(self) -> set[str]:
        return {line.split(":")[1].strip().split("@")[0] for line in self.ip("-o", "link").lines}

    def addresses(self) -> str:
        return self.ip("-o", "addr").stdout

    def tables(self) -> set[str]:
        """The nft tables in here, as "family name"."""
        return {line.removeprefix("table ").strip() for line in self.run("nft", "list", "tables").check().lines if line}


def call_in(path: str, work: Callable[[], T]) -> T:
    """Run a function in a thread that joins the network namespace at the path (/proc/<pid>/ns/net too) and ends."""
    result: list[T] = []
    failed: list[BaseException] = []

    def inside() -> None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _libc.setns(fd, CLONE_NEWNET):
                    error = ctypes.get_errno()
                    raise OSError(error, os.strerror(error), path)
            finally:
                os.close(fd)
            result.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return result[0]


@contextmanager
def namespace(name: str) -> Iterator[Namespace]:
    """A new namespace with lo up; deleted at the end (with the interfaces that only it holds)."""
    run(["ip", "netns", "add", name]).check()
    try:
        made = Namespace(name)
        made.ip("link", "set", "lo", "up")
        yield made
    finally:
        run(["ip", "netns", "delete", name])


@dataclass(frozen=True, slots=True)
class World:
    """The engine's machine, and a neighbour on its network.

    host: has ens33 (192.0.2.10/24), lo, and libvirt's virbr0 (192.168.122.1/24), as in the source article.
    neighbour: "another host", 192.0.2.20; it is the host's default route and knows no way back to any container. The
    addresses of the machine's name servers are its own too: nobody serves there, and whoever asks is told so at once.
    """

    host: Namespace
    neighbour: Namespace
    host_address: str = "192.0.2.10"
    neighbour_address: str = "192.0.2.20"


@contextmanager
def world(prefix: str) -> Iterator[World]:
    """Two machines and the cable between them; both names begin with the prefix, and another run may use it too."""
    prefix = f"{prefix}-{os.getpid()}"
    with ExitStack() as stack:
        host = stack.enter_context(namespace(f"{prefix}-host"))
        neighbour = stack.enter_context(namespace(f"{prefix}-next"))
        host.configure(
            f"link add ens33 type veth peer name ens33 netns {neighbour.name}",
            "address add 192.0.2.10/24 dev ens33",
            "address add 2001:db8::10/64 dev ens33 nodad",
            "link set ens33 up",
            "route add default via 192.0.2.20",
            "link add virbr0 type bridge",
            "address add 192.168.122.1/24 dev virbr0",
            "link set virbr0 up",
        )
        neighbour.configure(
            "address add 192.0.2.20/24 dev ens33",
            "address add 2001:db8::20/64 dev ens33 nodad",
            "link set ens33 up",
            *(f"address add {server}/32 dev lo" for server in name_servers()),
        )
        # To every one who asks, and not to some a second.
        neighbour.call(lambda: Path("/proc/sys/net/ipv4/icmp_ratelimit").write_text("0"))
        yield World(host, neighbour)


@cache
def name_servers() -> list[str]:
    """Whom containers ask unless they are told otherwise, by IPv4."""
    lines = [line.split() for line in Path("/etc/resolv.conf").read_text().splitlines()]
    named = [ip_address(words[1]) for words in lines if words[:1] == ["nameserver"]]
    return [*{str(one): None for one in named if one.version == 4 and not one.is_loopback} | DOCKERS]
