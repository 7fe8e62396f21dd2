"""Published ports on the shim's side: sockets that only reserve a port, and some that also serve it.

The kernel's NAT carries nearly all traffic.  It cannot take ::1 or IPv6 to an IPv4-only container; there the reserving
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

MOST_PEERS = 1024
UDP_IDLE = 90.0
"""Datagram peers that are remembered for one port, and for how many seconds (docker-proxy's time)."""


class _End:
    """One end of a forwarded connection: what is read here goes to ``other``; pending came from there."""

    __slots__ = ("connected", "connection", "eof", "other", "pending", "shut")

    def __init__(self, connection: socket.socket, connected: bool) -> None:
        self.connection = connection
        self.connected = connected
        self.pending = bytearray()
        self.eof = False  # it sends no more
        self.shut = False  # it has been told that it gets no more
        self.other: _End = self


class Forwards:
    """All reserved ports of one container."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.sockets: list[socket.socket] = []
        self.ends: set[_End] = set()
        self.peers: dict[socket.socket, dict[object, tuple[socket.socket, list[float]]]] = {}

    def hold(self, payload: tuple[Any, ...], descriptors: list[int]) -> None:
        """A HOLD message: (replace what was held, (address to serve or None, …)) and the sockets."""
        replace, addresses = payload
        if replace:
            self.release()
        for address, descriptor in zip(addresses, descriptors, strict=True):
            held = socket.socket(fileno=descriptor)
            self.sockets.append(held)
            if address is not None:
                self._serve(held, address)

    def release(self) -> None:
        """Give the reserved ports back; connections that are being served go on."""
        for held in self.sockets:
            self.loop.forget(held.fileno())
            for peer, _ in self.peers.pop(held, {}).values():
                self.loop.forget(peer.fileno())
                peer.close()
            held.close()
        self.sockets = []

    def close(self) -> None:
        """The container has ended: close everything."""
        self.release()
        for end in list(self.ends):
            self._close(end)

    def _serve(self, held: socket.socket, address: tuple[str, int]) -> None:
        held.setblocking(False)
        if held.type == socket.SOCK_STREAM:
            try:
                held.listen(128)
            except OSError:
                return  # reserved nevertheless
            self.loop.watch(held.fileno(), IN, lambda events: self._accept(held, address))
        elif held.type == socket.SOCK_DGRAM:
            self.peers[held] = {}
            self.loop.watch(held.fileno(), IN, lambda events: self._datagram(held, address))

    # Connections

    def _accept(self, held: socket.socket, address: tuple[str, int]) -> None:
        try:
            descriptor, _ = held._accept()  # type: ignore[attr-defined]
        except OSError:
            return
        client = socket.socket(fileno=descriptor)
        client.setblocking(False)
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        server = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        near, far = _End(client, True), _End(server, False)
        near.other, far.other = far, near
        self.ends |= {near, far}
        try:
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
        if events:
            self.loop.watch(descriptor, events, lambda events: self._ready(end, events))
        else:
            self.loop.forget(descriptor)

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
                count = end.connection.recv_into(buffer)
                end.eof = not count
                end.other.pending += buffer[:count]
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

    def _close(self, end: _End) -> None:
        for one in (end, end.other):
            if one in self.ends:
                self.ends.discard(one)
                self.loop.forget(one.connection.fileno())
                one.connection.close()

    # Datagrams

    def _datagram(self, held: socket.socket, address: tuple[str, int]) -> None:
        try:
            count, source = held.recvfrom_into(buffer)
        except OSError:
            return
        peers = self.peers[held]
        peer, seen = peers.get(source, (None, [0.0]))
        if peer is None:
            if len(peers) >= MOST_PEERS:
                self._forget_peer(held, min(peers, key=lambda key: peers[key][1][0]))
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            fresh = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            try:
                fresh.connect(address)
            except OSError:
                fresh.close()
                return
            peers[source] = fresh, seen
            self.loop.watch(fresh.fileno(), IN, lambda events: self._answer(held, fresh, source))
            self.loop.later(UDP_IDLE, self._expire)
            peer = fresh
        seen[0] = time.monotonic()
        try:
            peer.send(buffer[:count])
        except OSError:
            pass  # as a datagram may be lost on any way

    def _answer(self, held: socket.socket, peer: socket.socket, source: tuple[str, int]) -> None:
        try:
            count = peer.recv_into(buffer)
            self.peers[held][source][1][0] = time.monotonic()
            held.sendto(buffer[:count], source)
        except OSError:
            pass  # refused, or lost

    def _forget_peer(self, held: socket.socket, source: object) -> None:
        peer, _ = self.peers[held].pop(source)
        self.loop.forget(peer.fileno())
        peer.close()

    def _expire(self) -> None:
        oldest = time.monotonic() - UDP_IDLE
        for held, peers in self.peers.items():
            for source in [source for source, (_, seen) in peers.items() if seen[0] <= oldest]:
                self._forget_peer(held, source)
        if any(self.peers.values()):
            self.loop.later(UDP_IDLE, self._expire)
