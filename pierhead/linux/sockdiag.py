"""Who holds a port: sock_diag(7) lists the sockets of this network namespace, /proc tells whose they are."""

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from pierhead.linux.netlink import NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, attributes, error_of, message, split

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
TCP_LISTEN, TCP_CLOSE, TCP_BOUND_INACTIVE = 10, 7, 13
"""Sockets that keep a port: listening, unconnected datagram, and (Linux 6.8) bound ones that do not listen."""

_REQUEST = struct.Struct("=BBBxI")
_ID_SIZE = 48
_MESSAGE_SIZE = 4 + _ID_SIZE + 20
INET_DIAG_SKV6ONLY = 11


@dataclass(frozen=True, slots=True)
class Bound:
    """A socket that keeps a port of an address; wildcard addresses are 0.0.0.0 and ::.

    serves: it takes connections or datagrams, and does not just keep the port.  only: of :: that it does not keep IPv4
    too (IPV6_V6ONLY).  device: the ifindex that it is bound to, or 0.
    """

    address: IPv4Address | IPv6Address
    port: int
    inode: int
    only: bool = False
    serves: bool = True
    device: int = 0


def bound(protocol: int, opened: socket.socket | None = None) -> Iterator[Bound]:
    """Every socket of IPPROTO_TCP or IPPROTO_UDP that keeps a port, both families. Raises OSError.

    opened: a NETLINK_SOCK_DIAG socket of another network namespace, which then is the one that is asked.
    """
    serving = TCP_LISTEN if protocol == socket.IPPROTO_TCP else TCP_CLOSE
    states = 1 << TCP_LISTEN | 1 << TCP_BOUND_INACTIVE if protocol == socket.IPPROTO_TCP else 1 << TCP_CLOSE
    diag = opened or socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
    with nullcontext() if opened else diag:
        for family in (socket.AF_INET, socket.AF_INET6):
            request = _REQUEST.pack(family, protocol, 0, states) + bytes(_ID_SIZE)
            diag.send(message(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, request))
            done = False
            while not done:
                for kind, body in split(diag.recv(1 << 18)):
                    if kind == NLMSG_DONE:
                        done = True
                    elif kind == NLMSG_ERROR:
                        number = error_of(body)
                        raise OSError(number, os.strerror(number), "sock_diag")
                    else:
                        yield _parse(body, serving)


def _parse(body: memoryview, serving: int) -> Bound:
    family, state = body[0], body[1]
    (port,) = struct.unpack_from(">H", body, 4)
    source = bytes(body[8:24])
    (device,) = struct.unpack_from("=I", body, 40)
    (inode,) = struct.unpack_from("=I", body, 4 + _ID_SIZE + 16)
    address = IPv4Address(source[:4]) if family == socket.AF_INET else IPv6Address(source)
    only = any(kind == INET_DIAG_SKV6ONLY and value[0] for kind, value in attributes(body[_MESSAGE_SIZE:]))
    return Bound(address, port, inode, only, state == serving, device)


def clashes(one: Bound, wanted: IPv4Address | IPv6Address | None) -> bool:
    """Whether a socket keeps its port of ``wanted`` (None: of every address)."""
    holder = one.address
    if wanted is None or holder == wanted:
        return True
    if holder.is_unspecified and (holder.version == wanted.version or (holder.version == 6 and not one.only)):
        return True
    return wanted.is_unspecified and holder.version == wanted.version


def holder(protocol: int, wanted: IPv4Address | IPv6Address | None, port: int) -> tuple[int, str] | None:
    """The process (pid, name) that holds a port, or None if it cannot be found."""
    inodes = {one.inode for one in bound(protocol) if one.port == port and clashes(one, wanted)}
    if not inodes:
        return None
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        try:
            if not inodes.isdisjoint(_sockets(pid)):
                return pid, _name(pid)
        except OSError:
            continue  # it has ended meanwhile, or is not ours to look at
    return None


def owners(pids: Iterable[int]) -> dict[int, str]:
    """The sockets that these processes have open: by inode, the name of the first process that has it."""
    found: dict[int, str] = {}
    for pid in pids:
        try:
            name = _name(pid)
            for inode in _sockets(pid):
                found.setdefault(inode, name)
        except OSError:
            continue
    return found


def _sockets(pid: int) -> Iterator[int]:
    """The inodes of a process's sockets."""
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
        except FileNotFoundError:
            continue  # just closed
        if target.startswith("socket:["):
            yield int(target[8:-1])


def _name(pid: int) -> str:
    with open(f"/proc/{pid}/comm") as file:
        return file.read().strip()
