"""The way out of the host: which interface leads to the world, and how large its packets may be."""

import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from pierhead.linux.netlink import Link, Netlink

SOMEBODY = {4: ip_address("9.9.9.9"), 6: ip_address("2620:fe::fe")}
"""An address out there that no list of bogus ones holds: routes are asked for it. Nothing is sent to it."""

ETHERNET = 1500
_SIOCGIFMTU, _SIOCGIFINDEX = 0x8921, 0x8933


@dataclass(frozen=True, slots=True)
class Egress:
    """How the host sends to the world. address: its own there; mtu: the route's, else the interface's."""

    link: Link
    address: IPv4Address | IPv6Address | None
    mtu: int


def egress(netlink: Netlink) -> dict[int, Egress]:
    """By IP version; none for one without a default route. Policy routing counts, as for a VPN. Raises OSError."""
    found = {}
    for version, target in SOMEBODY.items():
        way = netlink.way_to(target)
        if way is None:
            continue
        link = netlink.link_at(way.interface)
        if link is not None:
            found[version] = Egress(link, way.source, way.mtu or link.mtu)
    return found


def egress_mtu(netlink: Netlink) -> int:
    """The largest packet that leaves the host whole by either IP version; Ethernet's where none leaves."""
    return min((way.mtu for way in egress(netlink).values()), default=ETHERNET)


@dataclass(frozen=True, slots=True)
class Device:
    """An interface of the present network namespace."""

    index: int
    mtu: int


def device(name: str) -> Device:
    """By ioctl, which takes microseconds where a netlink answer takes a tenth of a millisecond. Raises OSError."""
    request = struct.pack("16s24x", os.fsencode(name))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as opened:
        try:
            answers = [fcntl.ioctl(opened, call, request) for call in (_SIOCGIFINDEX, _SIOCGIFMTU)]
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), name) from error
    index, mtu = (struct.unpack_from("=i", answer, 16)[0] for answer in answers)
    return Device(index, mtu)
