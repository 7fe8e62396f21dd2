"""rtnetlink by hand: encoders that give bytes, and a socket that sends them.

Encoders are pure, so a plan can hold ready messages that another process only sends (``NetworkSetup.host`` and
``.inside``).  A message made here asks for an acknowledgement; its sequence number is 0 and its order in the datagram
identifies the answer.  Sources: rtnetlink(7), linux/if_link.h, linux/if_addr.h, linux/rtnetlink.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from types import TracebackType

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Prefix = IPv4Network | IPv6Network

NETLINK_ROUTE = 0
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26

IFF_UP = 0x1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_LINKINFO, IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD = 18, 20, 26, 27, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
VETH_INFO_PEER = 1
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1
IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 4, 33
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS, IFA_PROTO = 1, 2, 4, 8, 11
IFA_F_NODAD = 0x02
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_METRICS, RTA_TABLE, RTAX_MTU = 1, 4, 5, 7, 8, 15, 2
RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RTN_UNICAST = 254, 3, 0, 253, 1
NDA_DST, NDA_LLADDR = 1, 2

LOOPBACK_INDEX = 1
"""lo is made with the namespace, so it always has this index."""

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_U32 = struct.Struct("=I")


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def u32(kind: int, value: int) -> bytes:
    """An attribute of 32 bits in the machine's order."""
    return attribute(kind, _U32.pack(value))


def text(kind: int, value: str) -> bytes:
    """A NUL-terminated string."""
    return attribute(kind, os.fsencode(value) + b"\0")


def attributes(data: bytes | memoryview) -> Iterator[tuple[int, bytes]]:
    """What a run of attributes holds, type without the flags; stops at a malformed one."""
    at, size = 0, len(data)
    while at + 4 <= size:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4 or at + length > size:
            return
        yield kind & NLA_TYPE_MASK, bytes(data[at + 4 : at + length])
        at += (length + 3) & ~3


def message(kind: int, flags: int, body: bytes) -> bytes:
    """A netlink message with its header."""
    return _HEADER.pack(16 + len(body), kind, flags | NLM_F_REQUEST, 0, 0) + body


def mac_bytes(value: str) -> bytes:
    """A MAC address as the kernel has it."""
    return bytes.fromhex(value.replace(":", ""))


# Links ---------------------------------------------------------------------------------------------------------------


def link_header(flags: int = 0, change: int = 0, index: int = 0) -> bytes:
    """What every link message begins with (struct ifinfomsg)."""
    return _LINK.pack(socket.AF_UNSPEC, 0, index, flags, change)


def veth_into(netns: int, *, inside: str, index: int, mac: str, mtu: int, outside: str, group: int) -> bytes:
    """A veth pair whose one end is born in the namespace ``netns`` (a descriptor of the process that sends this).

    The end inside has the given name and ifindex: known beforehand, so that addresses and routes for it can be
    encoded too.  The kernel takes an ifindex only for the message's main device, hence the end inside is that one and
    the host's is its "peer", made in the sender's namespace.
    """
    peer = link_header() + text(IFLA_IFNAME, outside) + u32(IFLA_MTU, mtu) + u32(IFLA_GROUP, group)
    return message(
        RTM_NEWLINK,
        NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
        link_header(index=index)
        + text(IFLA_IFNAME, inside)
        + attribute(IFLA_ADDRESS, mac_bytes(mac))
        + u32(IFLA_MTU, mtu)
        + u32(IFLA_NET_NS_FD, netns)
        + nested(
            IFLA_LINKINFO,
            text(IFLA_INFO_KIND, "veth"),
            nested(IFLA_INFO_DATA, attribute(VETH_INFO_PEER | NLA_F_NESTED, peer)),
        ),
    )


def bridge_add(name: str, *, group: int, mac: str = "", mtu: int = 0) -> bytes:
    """A bridge with the kernel's defaults (no STP, no forward delay). EEXIST if the name is taken."""
    extra = attribute(IFLA_ADDRESS, mac_bytes(mac)) if mac else b""
    if mtu:
        extra += u32(IFLA_MTU, mtu)
    return message(
        RTM_NEWLINK,
        NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
        link_header()
        + text(IFLA_IFNAME, name)
        + u32(IFLA_GROUP, group)
        + extra
        + nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, "bridge")),
    )


def link_set(
    name: str = "",
    *,
    index: int = 0,
    up: bool | None = None,
    master: int | None = None,
    mtu: int = 0,
    mac: str = "",
    alias: str = "",
    group: int | None = None,
) -> bytes:
    """Change a link, named or numbered. master 0 takes it off its bridge."""
    flags = IFF_UP if up else 0
    change = 0 if up is None else IFF_UP
    body = link_header(flags, change, index)
    if not index:
        body += text(IFLA_IFNAME, name)
    if master is not None:
        body += u32(IFLA_MASTER, master)
    if mtu:
        body += u32(IFLA_MTU, mtu)
    if mac:
        body += attribute(IFLA_ADDRESS, mac_bytes(mac))
    if alias:
        body += text(IFLA_IFALIAS, alias)
    if group is not None:
        body += u32(IFLA_GROUP, group)
    return message(RTM_SETLINK, NLM_F_ACK, body)


def link_no_autoconf(name: str) -> bytes:
    """Give the link no IPv6 address of the kernel's own making (addrgenmode none). To be sent before it goes up."""
    mode = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))
    body = link_header() + text(IFLA_IFNAME, name) + nested(IFLA_AF_SPEC, nested(socket.AF_INET6, mode))
    return message(RTM_SETLINK, NLM_F_ACK, body)


def port_set(name: str, *, isolated: bool = False, hairpin: bool = False) -> bytes:
    """A bridge port's flags: isolated ports reach the bridge but not each other."""
    data = b""
    if isolated:
        data += attribute(IFLA_BRPORT_ISOLATED, b"\1")
    if hairpin:
        data += attribute(IFLA_BRPORT_MODE, b"\1")
    body = link_header() + text(IFLA_IFNAME, name)
    body += nested(IFLA_LINKINFO, attribute(IFLA_INFO_SLAVE_KIND, b"bridge\0"), nested(IFLA_INFO_SLAVE_DATA, data))
    return message(RTM_NEWLINK, NLM_F_ACK, body)


def link_delete(name: str = "", *, index: int = 0) -> bytes:
    """Remove a link, named or numbered. For a veth this waits for RCU, 9 to 52 ms: never on a stop path."""
    return message(RTM_DELLINK, NLM_F_ACK, link_header(index=index) + (b"" if index else text(IFLA_IFNAME, name)))


def group_delete(group: int) -> bytes:
    """Remove every link of a group, whatever its kind, and wait for RCU once for all of them. ENODEV: there is none."""
    return message(RTM_DELLINK, NLM_F_ACK, link_header() + u32(IFLA_GROUP, group))


# Addresses, routes ---------------------------------------------------------------------------------------------------


def _family(address: Address) -> int:
    return int(socket.AF_INET if address.version == 4 else socket.AF_INET6)


def address_add(index: int, interface: Interface, protocol: int = 0) -> bytes:
    """An address with its prefix. IPv6 without duplicate address detection: the engine itself hands out addresses.

    Adding one that is there already is no error (NLM_F_REPLACE).  protocol: who has added it (Linux 5.18); 0: unsaid.
    """
    address = interface.ip
    scope = RT_SCOPE_UNIVERSE
    body = _ADDRESS.pack(_family(address), interface.network.prefixlen, 0, scope, index)
    body += attribute(IFA_LOCAL, address.packed) + attribute(IFA_ADDRESS, address.packed)
    if isinstance(interface, IPv4Interface):
        if interface.network.prefixlen < 31:
            body += attribute(IFA_BROADCAST, interface.network.broadcast_address.packed)
    else:
        body += u32(IFA_FLAGS, IFA_F_NODAD)
    if protocol:
        body += attribute(IFA_PROTO, bytes([protocol]))
    return message(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, body)


def address_delete(index: int, interface: Interface) -> bytes:
    """Take an address away. EADDRNOTAVAIL if it is not there."""
    body = _ADDRESS.pack(_family(interface.ip), interface.network.prefixlen, 0, 0, index)
    body += attribute(IFA_LOCAL, interface.ip.packed) + attribute(IFA_ADDRESS, interface.ip.packed)
    return message(RTM_DELADDR, NLM_F_ACK, body)


def route_add(index: int, gateway: Address | None, destination: Prefix | None = None, *, version: int = 4) -> bytes:
    """A route through ``gateway`` (None: on the link itself); destination None is the default route."""
    known = gateway if gateway is not None else destination.network_address if destination is not None else None
    family = _family(known) if known is not None else (socket.AF_INET if version == 4 else socket.AF_INET6)
    length = destination.prefixlen if destination is not None else 0
    scope = RT_SCOPE_UNIVERSE if gateway is not None else RT_SCOPE_LINK
    body = _ROUTE.pack(family, length, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0)
    if destination is not None and length:
        body += attribute(RTA_DST, destination.network_address.packed)
    if gateway is not None:
        body += attribute(RTA_GATEWAY, gateway.packed)
    body += u32(RTA_OIF, index)
    return message(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, body)


def route_delete(added: bytes) -> bytes:
    """What takes back the route of a ``route_add`` message."""
    return message(RTM_DELROUTE, NLM_F_ACK, added[_HEADER.size :])


# The socket ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Link:
    """One network interface of the namespace. kind: "veth", "bridge", …, or "" for a real device; parent: the index of
    the link that it stands on (of its namespace or, for a veth's other end, perhaps of another), 0 for none."""

    index: int
    name: str
    up: bool
    mtu: int
    master: int
    group: int
    kind: str
    mac: str
    parent: int = 0


@dataclass(frozen=True, slots=True)
class Route:
    """One route of the main table. prefix None: the default route; interface: its link's index."""

    prefix: Prefix | None
    gateway: Address | None
    interface: int


@dataclass(frozen=True, slots=True)
class Way:
    """How the kernel would send to a target. interface: a link's index; source: the address it would take; mtu: the
    route's own, 0 where it has none."""

    interface: int
    source: Address | None
    mtu: int


def error_of(body: bytes | memoryview) -> int:
    """The errno of an NLMSG_ERROR message's body, 0 for an acknowledgement."""
    return -int(struct.unpack_from("=i", body)[0])


def split(datagram: bytes) -> Iterator[tuple[int, memoryview]]:
    """The messages of a datagram: type and body."""
    view = memoryview(datagram)
    at = 0
    while at + 16 <= len(view):
        length, kind, _, _, _ = _HEADER.unpack_from(view, at)
        if length < 16 or at + length > len(view):
            return
        yield kind, view[at + 16 : at + length]
        at += (length + 3) & ~3


class Netlink:
    """A NETLINK_ROUTE socket of the calling process's network namespace. Cheap: open one, use it, close it."""

    def __init__(self, opened: socket.socket | None = None) -> None:
        """Open, or take over a socket that was opened in another network namespace. Raises OSError."""
        self._socket = opened or socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        self._socket.bind((0, 0))

    def __enter__(self) -> "Netlink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def results(self, messages: Iterable[bytes]) -> list[int]:
        """Send them in one datagram; the kernel executes all of them. Returns an errno (0: done) for each, in order."""
        prepared = list(messages)
        if not prepared:
            return []
        self._socket.send(b"".join(prepared))
        answers: list[int] = []
        while len(answers) < len(prepared):
            for kind, body in split(self._socket.recv(65536)):
                if kind == NLMSG_ERROR:
                    answers.append(error_of(body))
        return answers

    def send(self, *messages: bytes, ignore: Iterable[int] = ()) -> None:
        """Send them in one datagram; all are executed even if one fails. Raises the first error not to be ignored."""
        ignored = set(ignore)
        for number in self.results(messages):
            if number and number not in ignored:
                raise OSError(number, os.strerror(number), "rtnetlink")

    def _dump(self, kind: int, body: bytes) -> Iterator[memoryview]:
        for attempt in range(8):
            self._socket.send(message(kind, NLM_F_DUMP, body))
            found: list[memoryview] = []
            interrupted = False
            done = False
            while not done:
                datagram = self._socket.recv(1 << 20)
                interrupted = interrupted or bool(struct.unpack_from("=H", datagram, 6)[0] & 0x10)
                for answer, data in split(datagram):
                    if answer == NLMSG_DONE:
                        done = True
                    elif answer == NLMSG_ERROR:
                        number = error_of(data)
                        raise OSError(number, os.strerror(number), "rtnetlink dump")
                    else:
                        found.append(data)
            # NLM_F_DUMP_INTR: something changed meanwhile, the answer may be incomplete; ask again.
            if not interrupted or attempt == 7:
                yield from found
                return

    def links(self) -> list[Link]:
        """Every interface."""
        return [_parse_link(body) for body in self._dump(RTM_GETLINK, link_header())]

    def link(self, name: str) -> Link | None:
        """One interface by name, or None."""
        return self._one_link(link_header() + text(IFLA_IFNAME, name), name)

    def link_at(self, index: int) -> Link | None:
        """One interface by its index, or None."""
        return self._one_link(link_header(index=index), f"interface {index}") if index else None

    def _one_link(self, asked: bytes, what: str) -> Link | None:
        try:
            self._socket.send(message(RTM_GETLINK, 0, asked))
            for kind, body in split(self._socket.recv(65536)):
                if kind == NLMSG_ERROR:
                    number = error_of(body)
                    raise OSError(number, os.strerror(number), what)
                return _parse_link(body)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
        return None

    def addresses(self, without: Container[int] = (), protocol: int = 0) -> list[tuple[int, Interface]]:
        """Every address: (its link's index, address with prefix).

        without: indices of links whose are left out.  protocol: only those that were added with it.
        """
        found: list[tuple[int, Interface]] = []
        for body in self._dump(RTM_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0)):
            family, length, _, _, index = _ADDRESS.unpack_from(body)
            if index in without:
                continue
            values = dict(attributes(body[_ADDRESS.size :]))
            packed = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS)
            if packed is None or (protocol and values.get(IFA_PROTO) != bytes([protocol])):
                continue
            if family == socket.AF_INET:
                found.append((index, IPv4Interface((packed, length))))
            elif family == socket.AF_INET6:
                found.append((index, IPv6Interface((packed, length))))
        return found

    def routes(self, without: Container[int] = ()) -> list[Route]:
        """The main table's routes of both families. without: indices of links through which they are left out."""
        found: list[Route] = []
        for body in self._dump(RTM_GETROUTE, _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0)):
            family, length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
            if kind != RTN_UNICAST or family not in (socket.AF_INET, socket.AF_INET6):
                continue
            values = dict(attributes(body[_ROUTE.size :]))
            table = _U32.unpack(values[RTA_TABLE])[0] if RTA_TABLE in values else table
            interface = _U32.unpack(values[RTA_OIF])[0] if RTA_OIF in values else 0
            if table != RT_TABLE_MAIN or interface in without:
                continue
            network, address = (IPv4Network, IPv4Address) if family == socket.AF_INET else (IPv6Network, IPv6Address)
            prefix = network((values[RTA_DST], length)) if RTA_DST in values and length else None
            gateway = address(values[RTA_GATEWAY]) if RTA_GATEWAY in values else None
            found.append(Route(prefix, gateway, interface))
        return found

    def way_to(self, target: Address) -> Way | None:
        """The kernel's choice among all tables and rules, or None where it has no route. Nothing is sent."""
        body = _ROUTE.pack(_family(target), 8 * len(target.packed), 0, 0, 0, 0, 0, 0, 0)
        self._socket.send(message(RTM_GETROUTE, 0, body + attribute(RTA_DST, target.packed)))
        for kind, answer in split(self._socket.recv(65536)):
            if kind == NLMSG_ERROR:
                return None
            values = dict(attributes(answer[_ROUTE.size :]))
            metrics = dict(attributes(values.get(RTA_METRICS, b"")))
            address = IPv4Address if target.version == 4 else IPv6Address
            return Way(
                _U32.unpack(values[RTA_OIF])[0] if RTA_OIF in values else 0,
                address(values[RTA_PREFSRC]) if RTA_PREFSRC in values else None,
                _U32.unpack(metrics[RTAX_MTU])[0] if RTAX_MTU in metrics else 0,
            )
        return None


def _parse_link(body: memoryview) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    values = dict(attributes(body[_LINK.size :]))
    # It comes first; behind it a bridge tells fifty settings.
    kinds = (value for kind, value in attributes(values.get(IFLA_LINKINFO, b"")) if kind == IFLA_INFO_KIND)

    def number(kind: int) -> int:
        return int(_U32.unpack(values[kind])[0]) if kind in values else 0

    return Link(
        index=index,
        name=os.fsdecode(values.get(IFLA_IFNAME, b"").rstrip(b"\0")),
        up=bool(flags & IFF_UP),
        mtu=number(IFLA_MTU),
        master=number(IFLA_MASTER),
        group=number(IFLA_GROUP),
        kind=next(kinds, b"").rstrip(b"\0").decode(),
        mac=values.get(IFLA_ADDRESS, b"").hex(":"),
        parent=number(IFLA_LINK),
    )
