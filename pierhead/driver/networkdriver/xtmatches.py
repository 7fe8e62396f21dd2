"""The matches of iptables' rules, whose structures are in the kernel's rules: on a packet, and as text.

Sources: linux/netfilter/xt_*.h, linux/netfilter_ipv4/ip_tables.h, linux/netfilter_ipv6/ip6_tables.h,
iptables-extensions(8).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from struct import unpack_from

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}

INVERTED_IN, INVERTED_OUT, INVERTED_SOURCE, INVERTED_TARGET, INVERTED_PROTO = 0x01, 0x02, 0x08, 0x10, 0x40
"""IPT_INV_*."""
_DNAT = 0x80


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet to ask about.

    iif, oif: names of the interfaces it comes in and goes out by, "" where there is none.  established: its connection
    is known and answered.  reply: it goes against the direction of the connection's first packet.  dnat: the
    connection's target has been translated.
    """

    source: IPv4Address | IPv6Address
    target: IPv4Address | IPv6Address
    proto: str = "tcp"
    sport: int = 40000
    dport: int = 80
    iif: str = ""
    oif: str = ""
    established: bool = False
    reply: bool = False
    dnat: bool = False

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.target.version


Kind = Callable[[IPv4Address | IPv6Address], int]
"""An address's RTN_*: whether it is the host's own."""


def header(data: bytes, packet: Packet) -> bool:
    """Whether the addresses, interfaces and protocol of a rule are the packet's (struct ipt_ip or ip6t_ip6)."""
    size = 4 if len(data) < 100 else 16
    at = 4 * size
    if size == 4:
        protocol, inverted = unpack_from("=H", data, 80)[0], data[83]
        source, target, source_mask, target_mask = (data[place : place + 4] for place in (0, 4, 8, 12))
    else:
        protocol, inverted = unpack_from("=H", data, 128)[0], data[132]
        source, target, source_mask, target_mask = (data[place : place + 16] for place in (0, 16, 32, 48))
    names = [data[at + 16 * place : at + 16 * place + 16] for place in range(4)]
    tests = (
        (_masked(packet.source.packed, source_mask) == source, INVERTED_SOURCE),
        (_masked(packet.target.packed, target_mask) == target, INVERTED_TARGET),
        (_masked(packet.iif.encode().ljust(16, b"\0"), names[2]) == _masked(names[0], names[2]), INVERTED_IN),
        (_masked(packet.oif.encode().ljust(16, b"\0"), names[3]) == _masked(names[1], names[3]), INVERTED_OUT),
        (protocol in (0, PROTOCOLS[packet.proto]), INVERTED_PROTO),
    )
    return all(fits != bool(inverted & flag) for fits, flag in tests)


def _masked(value: bytes, mask: bytes) -> bytes:
    return bytes(one & other for one, other in zip(value, mask, strict=True))


def matches(name: str, revision: int, data: bytes, packet: Packet, kind: Kind) -> bool | None:
    """Whether a match lets the packet through; None where that cannot be known."""
    known = _MATCHES.get(name)
    if known is None:
        return None
    return known(revision, data, packet, kind)


def _always(revision: int, data: bytes, packet: Packet, kind: Kind) -> bool | None:
    return True


def _ports(revision: int, data: bytes, packet: Packet, kind: Kind) -> bool | None:
    """struct xt_tcp, xt_udp and xt_sctp: two ranges of ports; of tcp also flags."""
    low, high, first, last = unpack_from("=4H", data)
    inverted = data[11] if packet.proto == "tcp" else data[8]
    if packet.proto not in ("tcp", "udp"):
        return None
    fits = (low <= packet.sport <= high) != bool(inverted & 1) and (first <= packet.dport <= last) != bool(inverted & 2)
    if fits and packet.proto == "tcp" and data[9]:
        flags = 0x10 if packet.established else 0x02
        return bool((flags & data[9] == data[10]) != bool(inverted & 4))
    return bool(fits)


def _multiport(revision: int, data: bytes, packet: Packet, kind: Kind) -> bool | None:
    """struct xt_multiport_v1."""
    if revision != 1:
        return None
    side, count, *ports = unpack_from("=BB15H", data)
    flags, inverted = data[32:47], data[47]
    ranges, at = [], 0
    while at < count:
        wide = bool(flags[at])
        ranges.append((ports[at], ports[at + 1] if wide else ports[at]))
        at += 2 if wide else 1
    asked = {0: (packet.sport,), 1: (packet.dport,)}.get(side, (packet.sport, packet.dport))
    return any(low <= port <= high for low, high in ranges for port in asked) != bool(inverted)


def _conntrack(revision: int, data: bytes, packet: Packet, kind: Kind) -> bool | None:
    """struct xt_conntrack_mtinfo1 to 3: states, status and direction are known beforehand, the rest is not."""
    if revision not in (1, 2, 3):
        return None
    wanted, inverted = unpack_from("=HH", data, 146)
    state = unpack_from("=H", data, 150)[0] if revision > 1 else data[150]
    if wanted & ~0x1001:
        return None
    if wanted & 0x1:
        bits = (0x02 if packet.established else 0x08) | (_DNAT if packet.dnat else 0)
        if bool(bits & state) == bool(inverted & 0x1):
            return False
    # In XT_CONNTRACK_DIRECTION the inverted bit itself says: against the direction.
    return not (wanted & 0x1000 and packet.reply != bool(inverted & 0x1000))


def _state(revision: int, data: bytes, packet: Packet, kind: Kind) -> bool | None:
    return bool(unpack_from("=I", data)[0] & (0x02 if packet.established else 0x08))


def _address_kind(revision: int, data: bytes, packet: Packet, kind: Kind) -> bool | None:
    """struct xt_addrtype_info_v1."""
    source, target, flags = unpack_from("=HHI", data)
    if revision != 1 or flags & 0xC:
        return None
    if source and bool(1 << kind(packet.source) & source) == bool(flags & 1):
        return False
    return not (target and bool(1 << kind(packet.target) & target) == bool(flags & 2))


def _mark(revision: int, data: bytes, packet: Packet, kind: Kind) -> bool | None:
    mark, _ = unpack_from("=II", data)
    return bool((mark == 0) != bool(data[8]))  # what rules set is followed for nftables' own marks only


def _range(revision: int, data: bytes, packet: Packet, kind: Kind) -> bool | None:
    """struct xt_iprange_mtinfo."""
    size = 4 if packet.version == 4 else 16
    flags = data[64]
    for address, at, wanted, inverted in ((packet.source, 0, 0x1, 0x10), (packet.target, 32, 0x2, 0x20)):
        inside = data[at : at + size] <= address.packed <= data[at + 16 : at + 16 + size]
        if flags & wanted and inside == bool(flags & inverted):
            return False
    return True


_MATCHES: Mapping[str, Callable[[int, bytes, Packet, Kind], bool | None]] = {
    "comment": _always,
    "limit": _always,
    "tcp": _ports,
    "udp": _ports,
    "multiport": _multiport,
    "conntrack": _conntrack,
    "state": _state,
    "addrtype": _address_kind,
    "mark": _mark,
    "iprange": _range,
    "icmp": lambda revision, data, packet, kind: packet.proto == "icmp" and data[0] in (8, 255),
    "icmp6": lambda revision, data, packet, kind: packet.proto == "icmpv6" and data[0] == 128,
}
