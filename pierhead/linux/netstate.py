"""The state of one network namespace, as its kernel tells it: devices, bridge ports, routes, neighbours, sockets.

A netlink socket answers for the namespace in which it was opened, whoever asks through it: with sockets that were
opened elsewhere (``Monitor.open_sockets``) another namespace is read without being entered.  Sources: rtnetlink(7),
sock_diag(7), linux/if_link.h, linux/netconf.h.
"""

import errno
import os
import socket
import struct
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from pierhead.linux import netlink, sockdiag
from pierhead.linux.netlink import (
    IFLA_AF_SPEC,
    IFLA_IFALIAS,
    IFLA_INFO_DATA,
    IFLA_INFO_SLAVE_DATA,
    IFLA_LINKINFO,
    NLMSG_ERROR,
    Address,
    Interface,
    Netlink,
    attribute,
    attributes,
    message,
    split,
    u32,
)

KINDS = (
    (int(socket.AF_NETLINK), int(socket.SOCK_RAW), netlink.NETLINK_ROUTE),
    (int(socket.AF_NETLINK), int(socket.SOCK_RAW), sockdiag.NETLINK_SOCK_DIAG),
)
"""The sockets that a ``View`` is made of."""

IFF_LOWER_UP, IFF_LOOPBACK = 0x10000, 0x8
IFLA_LINK_NETNSID, IFLA_INET_CONF, IFLA_INET6_CONF = 37, 1, 2
IFLA_BRPORT_STATE, BR_STATE_FORWARDING = 1, 3
IFLA_MACVLAN_MODE = IFLA_IPVLAN_MODE = 1
RP_FILTER_AT, ROUTE_LOCALNET_AT, DISABLE_IPV6_AT = 7, 25, 26
RTM_GETNEIGH, RTM_GETNETCONF = 30, 82
NETCONFA_IFINDEX, NETCONFA_FORWARDING, NETCONFA_RP_FILTER, ALL = 1, 2, 3, -1
RTA_SRC, RTA_IIF, RTA_PREFSRC = 2, 3, 7
RTN_LOCAL, RTN_BROADCAST, RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT = 2, 3, 6, 7, 8
REFUSED = {RTN_BLACKHOLE: errno.EINVAL, RTN_UNREACHABLE: errno.EHOSTUNREACH, RTN_PROHIBIT: errno.EACCES}
NUD_INCOMPLETE, NUD_FAILED = 0x01, 0x20

_NEIGHBOUR = struct.Struct("=BxxxiHBB")


@dataclass(frozen=True, slots=True)
class Device:
    """One network interface.

    carrier: its cable is in: a veth whose other end is down has none.  peer: the ifindex of a veth's other end or of
    the device that it sits on (macvlan), in the namespace that ``elsewhere`` says is another one.  forwarding: of
    bridge ports, whether the bridge has enabled it; else whether packets that come in here are routed on.
    """

    index: int
    name: str
    kind: str
    up: bool
    carrier: bool
    loopback: bool
    mtu: int
    mac: str
    group: int
    master: int
    peer: int
    elsewhere: bool
    alias: str = ""
    mode: int = 0
    isolated: bool = False
    hairpin: bool = False
    blocked: bool = False
    forwarding: bool = False
    rp_filter: int = 0
    route_localnet: bool = False
    ipv6: bool = True
    addresses: tuple[Interface, ...] = ()

    def has(self, address: Address) -> bool:
        """Whether it has the address."""
        return any(interface.ip == address for interface in self.addresses)


@dataclass(frozen=True, slots=True)
class Decision:
    """What the kernel would do with a packet. kind: RTN_UNICAST, RTN_LOCAL, …; interface: the way out's ifindex."""

    kind: int
    interface: int
    gateway: Address | None = None
    source: Address | None = None


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry of the neighbour table. failed: nobody has answered for the address."""

    interface: int
    address: Address
    mac: str
    failed: bool


class View(Netlink):
    """One namespace, read through two sockets: of the calling process's own, or opened in another. Reads only."""

    def __init__(self, sockets: tuple[socket.socket, ...] = ()) -> None:
        """sockets: of KINDS, taken over. Raises OSError."""
        route, diag = sockets or (None, socket.socket(*KINDS[1]))
        self._diag = diag
        super().__init__(route)

    def close(self) -> None:
        """Close both sockets."""
        self._diag.close()
        super().close()

    def devices(self) -> list[Device]:
        """Every interface, with its addresses, in the order of their making."""
        addresses: dict[int, list[Interface]] = {}
        for index, interface in self.addresses():
            addresses.setdefault(index, []).append(interface)
        bodies = self._dump(netlink.RTM_GETLINK, bytes(16))
        return [_device(body, addresses) for body in bodies]

    def everywhere(self, version: int) -> tuple[bool, int]:
        """The settings of "all" for an IP version: whether the namespace forwards, and (IPv4) rp_filter.

        Without IPv6 in the kernel it forwards none.
        """
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        request = message(RTM_GETNETCONF, 0, bytes([family, 0, 0, 0]) + _i32(NETCONFA_IFINDEX, ALL))
        try:
            values = dict(attributes(self._ask(request)[4:]))
        except OSError:
            if version == 4:
                raise
            return False, 0
        return bool(_number(values, NETCONFA_FORWARDING)), _number(values, NETCONFA_RP_FILTER)

    def neighbours(self) -> list[Neighbour]:
        """The neighbour tables of both families, as far as they have been asked."""
        found = []
        for body in self._dump(RTM_GETNEIGH, _NEIGHBOUR.pack(0, 0, 0, 0, 0)):
            family, index, state, _, _ = _NEIGHBOUR.unpack_from(body)
            values = dict(attributes(body[_NEIGHBOUR.size :]))
            packed = values.get(netlink.NDA_DST)
            if family not in (socket.AF_INET, socket.AF_INET6) or packed is None:
                continue
            address = IPv4Address(packed) if family == socket.AF_INET else IPv6Address(packed)
            mac = values.get(netlink.NDA_LLADDR, b"").hex(":")
            found.append(Neighbour(index, address, mac, bool(state & (NUD_FAILED | NUD_INCOMPLETE))))
        return found

    def decide(self, to: Address, source: Address | None = None, *, came_in: int = 0) -> Decision:
        """The kernel's own answer to "where does a packet to this address go", policy routing included.

        came_in: the ifindex that it has come in at, for one that is forwarded or delivered; then ``source`` is
        checked as well.  Raises OSError: ENETUNREACH there is no route, EHOSTUNREACH it does not forward, EXDEV or
        (since Linux 6.14) EINVAL the source may not come from there (rp_filter, or an address of its own).
        """
        family = socket.AF_INET if to.version == 4 else socket.AF_INET6
        length = to.max_prefixlen
        body = struct.pack("=BBBBBBBBI", family, length, length if source is not None else 0, 0, 0, 0, 0, 0, 0)
        body += attribute(netlink.RTA_DST, to.packed)
        if source is not None:
            body += attribute(RTA_SRC, source.packed)
        if came_in:
            body += u32(RTA_IIF, came_in)
        answer = self._ask(message(netlink.RTM_GETROUTE, 0, body))
        values = dict(attributes(answer[12:]))
        if number := REFUSED.get(answer[7]):
            raise OSError(number, os.strerror(number), str(to))
        kind = IPv4Address if to.version == 4 else IPv6Address
        gateway, preferred = values.get(netlink.RTA_GATEWAY), values.get(RTA_PREFSRC)
        return Decision(
            answer[7],
            _number(values, netlink.RTA_OIF),
            None if gateway is None else kind(gateway),
            None if preferred is None else kind(preferred),
        )

    def bound(self, protocol: int) -> list[sockdiag.Bound]:
        """Every socket of IPPROTO_TCP or IPPROTO_UDP that keeps a port."""
        return list(sockdiag.bound(protocol, self._diag))

    def _ask(self, request: bytes) -> bytes:
        """The body of the one message that answers a request. Raises OSError."""
        self._socket.send(request)
        for kind, body in split(self._socket.recv(65536)):
            if kind == NLMSG_ERROR:
                number = netlink.error_of(body)
                raise OSError(number, os.strerror(number), "rtnetlink")
            return bytes(body)
        raise OSError(errno.EPROTO, "no answer", "rtnetlink")


def _i32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=i", value))


def _number(values: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(values.get(kind, b""), sys.byteorder)


def _text(values: dict[int, bytes], kind: int) -> str:
    return os.fsdecode(values.get(kind, b"").rstrip(b"\0"))


def _device(body: memoryview, addresses: dict[int, list[Interface]]) -> Device:
    _, _, index, flags, _ = struct.unpack_from("=BxHiII", body)
    values = dict(attributes(body[16:]))
    info = dict(attributes(values.get(IFLA_LINKINFO, b"")))
    data = dict(attributes(info.get(IFLA_INFO_DATA, b"")))
    kind = _text(info, netlink.IFLA_INFO_KIND)
    port: dict[int, bytes] = {}
    if _text(info, netlink.IFLA_INFO_SLAVE_KIND) == "bridge":
        port = dict(attributes(info.get(IFLA_INFO_SLAVE_DATA, b"")))
    families = dict(attributes(values.get(IFLA_AF_SPEC, b"")))
    ipv4 = dict(attributes(families.get(socket.AF_INET, b""))).get(IFLA_INET_CONF, b"")
    ipv6 = dict(attributes(families.get(socket.AF_INET6, b""))).get(IFLA_INET6_CONF, b"")
    return Device(
        index=index,
        name=_text(values, netlink.IFLA_IFNAME),
        kind=kind,
        up=bool(flags & netlink.IFF_UP),
        carrier=bool(flags & IFF_LOWER_UP),
        loopback=bool(flags & IFF_LOOPBACK),
        mtu=_number(values, netlink.IFLA_MTU),
        mac=values.get(netlink.IFLA_ADDRESS, b"").hex(":"),
        group=_number(values, netlink.IFLA_GROUP),
        master=_number(values, netlink.IFLA_MASTER),
        peer=_number(values, netlink.IFLA_LINK),
        elsewhere=IFLA_LINK_NETNSID in values,
        alias=_text(values, IFLA_IFALIAS),
        mode=_number(data, IFLA_MACVLAN_MODE) if kind in ("macvlan", "macvtap", "ipvlan") else 0,
        isolated=bool(_number(port, netlink.IFLA_BRPORT_ISOLATED)),
        hairpin=bool(_number(port, netlink.IFLA_BRPORT_MODE)),
        blocked=IFLA_BRPORT_STATE in port and _number(port, IFLA_BRPORT_STATE) != BR_STATE_FORWARDING,
        forwarding=bool(_setting(ipv4, 0)),
        rp_filter=_setting(ipv4, RP_FILTER_AT),
        route_localnet=bool(_setting(ipv4, ROUTE_LOCALNET_AT)),
        ipv6=bool(ipv6) and not _setting(ipv6, DISABLE_IPV6_AT),
        addresses=tuple(addresses.get(index, ())),
    )


def _setting(values: bytes, at: int) -> int:
    """One of a device's settings (its sysctls), as they come in an array."""
    return int(struct.unpack_from("=i", values, 4 * at)[0]) if len(values) >= 4 * at + 4 else 0
