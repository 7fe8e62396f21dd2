"""Published ports on the shim's side: sockets that only reserve a port, and some that also serve it.

The kernel's NAT carries nearly all traffic.  It cannot take ::1, or IPv6 to an IPv4-only container; there the reserving
socket listens, and what comes is copied to the container's address, in this process: no proxy process a port.
The zygote imports this.
"""

from __future__ import annotations

import _socket as socket
import os
import time

from pierhead.driver.execdriver.loop import ERR, HUP, IN, OUT, Loop
from pierhead.driver.execdriver.stdio import buffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MOST_PENDING = 128 * 1024
"""Bytes kept for one direction of a connection before its source is not read any more."""

BACKLOG = 4096
ACCEPTED = 16
"""Connections taken from one socket before the others have their turn."""

BREATH = 0.1
"""Seconds without accepting, when there is no descriptor or memory left for one more connection."""

MOST_PEERS = 1024
UDP_IDLE = 90.0
"""Datagram peers that are remembered for one port, and for how many seconds (docker-proxy's time)."""

_NODELAY = {6: 1, 132: 3}  # TCP_NODELAY, SCTP_NODELAY
_FULL = (12, 23, 24, 105)  # ENOMEM, ENFILE, EMFILE, ENOBUFS
_WHERE = {2: (0, 8, 8), 10: (41, 49, 50)}
"""Level and option by which a datagram tells the address it was sent to, and the message that sends from one:
IP_PKTINFO; IPV6_RECVPKTINFO and IPV6_PKTINFO."""


class _Port:
    """One reservation socket. target: (IPv4 address, IPv6 address, port) of the container if it is served."""

    __slots__ = ("name", "peers", "socket", "space", "target")

    def __init__(self, held: socket.socket) -> None:
        held.setblocking(False)
        self.socket = held
        self.target: tuple[str, str, int] | None = None
        self.peers: dict[object, _Peer] = {}
        self.space = held.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel tells twice of it
        address, number = held.getsockname()[:2]
        self.name = held.proto, address, number

    def inside(self, client: str) -> tuple[int, tuple[str, int]]:
        """Family and address of the container for a client: its own family, if the container has it."""
        assert self.target is not None
        ipv4, ipv6, port = self.target
        address = ipv4 if ipv4 and (not ipv6 or "." in client) else ipv6
        return (socket.AF_INET if address == ipv4 else socket.AF_INET6), (address, port)


class _End:
    """One end of a forwarded connection: what is read here goes to ``other``; pending came from there."""

    __slots__ = ("connected", "connection", "eof", "other", "pending", "port", "shut")

    def __init__(self, connection: socket.socket, connected: bool, port: _Port) -> None:
        self.connection = connection
        self.connected = connected
        self.port = port
        self.pending = bytearray()
        self.eof = False  # it sends no more
        self.shut = False  # it has been told that it gets no more
        self.other: _End = self


class _Peer:
    """One sender of datagrams to a port: a socket of its own to the container, and what its answers are sent from."""

    __slots__ = ("origin", "seen", "socket")

    def __init__(self, made: socket.socket, origin: list[tuple[int, int, bytes]]) -> None:
        self.socket = made
        self.origin = origin
        self.seen = 0.0


class Forwards:
    """All reserved ports of one container."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.ports: list[_Port] = []
        self.ends: set[_End] = set()

    def hold(self, payload: tuple[Any, ...], descriptors: list[int]) -> None:
        """A HOLD message: (target of a socket that is to be served or None, …) and the sockets."""
        for target, descriptor in zip(payload, descriptors, strict=True):
            port = _Port(socket.socket(fileno=descriptor))
            self.ports.append(port)
            self._set(port, target)

    def keep(self, payload: tuple[Any, ...], descriptors: list[int]) -> None:
        """A KEEP message: ((protocol, address, port, target or None), …). What is not among them is given back, and
        its connections end."""
        wanted = {entry[:3]: entry[3] for entry in payload}
        for port in self.ports[:]:
            if port.name in wanted:
                self._set(port, wanted[port.name])
            else:
                self.ports.remove(port)
                self._release(port)
                for end in [end for end in self.ends if end.port is port]:
                    self._close(end)

    def close(self) -> None:
        """The container has ended: close everything."""
        for port in self.ports:
            self._release(port)
        self.ports = []
        for end in list(self.ends):
            self._close(end)

    def _release(self, port: _Port) -> None:
        self.loop.forget(port.socket.fileno())
        for key in list(port.peers):
            self._forget_peer(port, key)
        port.socket.close()

    def _set(self, port: _Port, target: tuple[str, str, int] | None) -> None:
        """Serve a port, from now on or at another address, or only reserve it."""
        held, served = port.socket, port.target is not None
        port.target = target
        if held.type == socket.SOCK_DGRAM:
            for key in list(port.peers):
                self._forget_peer(port, key)
            if target is None:
                self.loop.forget(held.fileno())
                held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # nobody reads what strays in
                return
            level, option, _ = _WHERE[held.family]
            held.setsockopt(level, option, 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, port.space)
            self.loop.watch(held.fileno(), IN, lambda events: self._datagram(port))
        elif target is not None:
            try:
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                held.listen(BACKLOG)
            except OSError:
                port.target = None
                return  # reserved nevertheless
            self.loop.watch(held.fileno(), IN, lambda events: self._accept(port))
        elif served:
            self.loop.forget(held.fileno())
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            held.shutdown(socket.SHUT_RDWR)  # it listens no more; the port stays its own

    # Connections

    def _accept(self, port: _Port) -> None:
        for _ in range(ACCEPTED):
            try:
                descriptor, client = port.socket._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _FULL:
                    self.loop.forget(port.socket.fileno())
                    self.loop.later(BREATH, self._go_on)
                return
            self._connect(port, socket.socket(fileno=descriptor), client[0])

    def _go_on(self) -> None:
        for port in self.ports:
            if port.target is not None and port.socket.type != socket.SOCK_DGRAM:
                self._set(port, port.target)

    def _connect(self, port: _Port, client: socket.socket, source: str) -> None:
        family, address = port.inside(source)
        near = _End(client, True, port)
        try:
            server = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, client.proto)
        except OSError:
            client.close()
            return
        far = _End(server, False, port)
        near.other, far.other = far, near
        self.ends |= {near, far}
        try:
            for one in (client, server):
                one.setblocking(False)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                one.setsockopt(one.proto, _NODELAY[one.proto], 1)
            server.connect(address)
            far.connected = True
        except BlockingIOError:
            pass
        except OSError:
            self._close(near)
            return
        self._watch(near)
        self._watch(far)

    def _watch(self, end: _End) -> None:
        if end not in self.ends:
            return
        events = 0
        if end.connected and not end.eof and len(end.other.pending) < MOST_PENDING:
            events |= IN
        if not end.connected or end.pending:
            events |= OUT
        descriptor = end.connection.fileno()
        if not events:
            self.loop.forget(descriptor)
        elif self.loop.masks.get(descriptor) != events:
            self.loop.watch(descriptor, events, lambda events: self._ready(end, events))

    def _ready(self, end: _End, events: int) -> None:
        try:
            if not end.connected:
                error = end.connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    raise OSError(error, os.strerror(error))
                end.connected = True
            if events & OUT and end.pending:
                del end.pending[: end.connection.send(memoryview(end.pending)[:65536])]
            if events & (IN | HUP | ERR) and not end.eof:
                self._pass_on(end)
            for one in (end, end.other):
                # What one has sent to its end is passed on, so that half-closed protocols work.
                if one.other.eof and not one.pending and not one.shut and one.connected:
                    one.shut = True
                    one.connection.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self._close(end)
            return
        if end.shut and end.other.shut:
            self._close(end)
            return
        self._watch(end)
        self._watch(end.other)

    def _pass_on(self, end: _End) -> None:
        """Read once, and write at once what the other end takes."""
        count = end.connection.recv_into(buffer)
        end.eof = not count
        other, sent = end.other, 0
        if count and other.connected and not other.pending:
            try:
                sent = other.connection.send(buffer[:count])
            except BlockingIOError:
                pass
        other.pending += buffer[sent:count]

    def _close(self, end: _End) -> None:
        for one in (end, end.other):
            if one in self.ends:
                self.ends.discard(one)
                self.loop.forget(one.connection.fileno())
                one.connection.close()

    # Datagrams

    def _datagram(self, port: _Port) -> None:
        level, _, kind = _WHERE[port.socket.family]
        try:
            count, ancillary, _, source = port.socket.recvmsg_into([buffer], 64)
        except OSError:
            return
        origin = [(level, kind, _origin(data)) for at, what, data in ancillary if (at, what) == (level, kind)]
        key = source, *(data for _, _, data in origin)
        peer = port.peers.get(key)
        if peer is None:
            family, address = port.inside(source[0])
            if len(port.peers) >= MOST_PEERS:
                self._forget_peer(port, min(port.peers, key=lambda key: port.peers[key].seen))
            try:
                made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                made.connect(address)
            except OSError:
                return
            peer = port.peers[key] = _Peer(made, origin)
            self.loop.watch(made.fileno(), IN, lambda events: self._answer(port, key))
            self.loop.later(UDP_IDLE, self._expire)
        peer.seen = time.monotonic()
        try:
            peer.socket.send(buffer[:count])
        except OSError:
            pass  # as a datagram may be lost on any way

    def _answer(self, port: _Port, key: Any) -> None:
        peer = port.peers[key]
        try:
            count = peer.socket.recv_into(buffer)
            peer.seen = time.monotonic()
            port.socket.sendmsg([buffer[:count]], peer.origin, 0, key[0])
        except OSError:
            pass  # refused, or lost

    def _forget_peer(self, port: _Port, key: object) -> None:
        made = port.peers.pop(key).socket
        self.loop.forget(made.fileno())
        made.close()

    def _expire(self) -> None:
        oldest = time.monotonic() - UDP_IDLE
        for port in self.ports:
            for key in [key for key, peer in port.peers.items() if peer.seen <= oldest]:
                self._forget_peer(port, key)
        if any(port.peers for port in self.ports):
            self.loop.later(UDP_IDLE, self._expire)


def _origin(data: bytes) -> bytes:
    """The address that a datagram came to, as the one that its answer is sent from. The interface is left to routes,
    but for link-local addresses."""
    if len(data) == 12:  # interface, address to answer from, address that was sent to
        return bytes(4) + data[4:8] + bytes(4)
    return data if data[:1] == b"\xfe" else data[:16] + bytes(4)
