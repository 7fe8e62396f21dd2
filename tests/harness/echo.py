"""Servers that say whom they see, and clients that ask them, each in any network namespace: published ports, tried out.

The sockets are this process's own: nothing has to run in the namespace.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.harness.netns import call_in
from tests.harness.processes import DEADLINE

SCTP = 132
KINDS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, SCTP),
}


def plain(address: str) -> str:
    """An address without the prefix of IPv4 in IPv6."""
    return address.removeprefix("::ffff:")


@contextmanager
def server(netns: str, port: int, proto: str = "tcp", name: str = "") -> Iterator[None]:
    """Answers every client on every address of both families with "<name> <the client's address>"."""
    kind, number = KINDS[proto]

    def made() -> socket.socket:
        bound = socket.socket(socket.AF_INET6, kind, number)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind(("::", port))
        return bound

    listener = call_in(netns, made)
    listener.settimeout(0.1)
    if proto != "udp":
        listener.listen(64)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            try:
                if proto == "udp":
                    _, peer = listener.recvfrom(100)
                    listener.sendto(f"{name} {plain(peer[0])}".encode(), peer)
                else:
                    connection, peer = listener.accept()
                    with connection:
                        connection.sendall(f"{name} {plain(peer[0])}".encode())
            except TimeoutError:
                continue
            except OSError:
                continue  # one client's trouble, not the server's

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        listener.close()


def ask(netns: str, address: str, port: int, proto: str = "tcp", patience: float = DEADLINE / 6) -> str:
    """The server's answer to a client in a namespace, or "" (refused, unreachable, or silence for so many seconds)."""
    kind, number = KINDS[proto]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def work() -> str:
        with socket.socket(family, kind, number) as client:
            client.settimeout(patience)
            try:
                client.connect((address, port))
                if proto == "udp":
                    client.send(b"?")
                return client.recv(200).decode()
            except OSError:
                return ""

    return call_in(netns, work)


def silent(netns: str, address: str, port: int, proto: str = "tcp") -> bool:
    """Nothing answers: a short wait is enough, for what gets through does so in well under a millisecond."""
    return ask(netns, address, port, proto, patience=0.5) == ""
