"""Connection tracking: making the kernel forget flows.

Newer kernels delete by a filter.  Linux 6.1 only dumps by one (5.8 and later do), and what it has dumped is deleted one
by one.  Source: linux/netfilter/nfnetlink_conntrack.h, net/netfilter/nf_conntrack_netlink.c.
"""

import errno
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from pierhead.linux.netlink import NLA_F_NESTED, NLM_F_ACK, NLM_F_DUMP, attribute, attributes, nested
from pierhead.linux.nft import NFPROTO_IPV4, NFPROTO_IPV6, Netfilter, nfnetlink

NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1, 2
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID, CTA_ZONE, CTA_FILTER = 1, 2, 12, 18, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST = 1, 2, 3, 4
CTA_PROTO_NUM, CTA_PROTO_DST_PORT = 1, 3
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
FILTER_IP_SRC, FILTER_PROTO_NUM, FILTER_PROTO_DST_PORT = 0x1, 0x8, 0x20


def _tuple(kind: int, address: tuple[int, bytes] | None, protocol: int = 0, port: int = 0) -> bytes:
    parts = []
    if address is not None:
        parts.append(nested(CTA_TUPLE_IP, attribute(*address)))
    if protocol:
        body = [attribute(CTA_PROTO_NUM, bytes([protocol]))]
        if port:
            body.append(attribute(CTA_PROTO_DST_PORT, struct.pack(">H", port)))
        parts.append(nested(CTA_TUPLE_PROTO, *body))
    return nested(kind, *parts)


@dataclass(frozen=True, slots=True)
class Flows:
    """Tracked connections that agree in some attributes. parts: tuples, and CTA_FILTER for what of them counts."""

    family: int
    parts: bytes

    def message(self, kind: int, flags: int) -> bytes:
        """A request about them."""
        return nfnetlink(NFNL_SUBSYS_CTNETLINK << 8 | kind, flags, self.family, 0, self.parts)


def _flows(family: int, original: int, reply: int, *tuples: bytes) -> Flows:
    flags = nested(
        CTA_FILTER,
        attribute(CTA_FILTER_ORIG_FLAGS, struct.pack("=I", original)),
        attribute(CTA_FILTER_REPLY_FLAGS, struct.pack("=I", reply)),
    )
    return Flows(family, b"".join(tuples) + flags)


def connections_of(address: IPv4Address | IPv6Address) -> list[Flows]:
    """Every tracked connection from or to an address, before and after address translation."""
    family, source = (NFPROTO_IPV4, CTA_IP_V4_SRC) if address.version == 4 else (NFPROTO_IPV6, CTA_IP_V6_SRC)
    return [
        # What it opened; what was opened to it directly; what was translated to it (it is the source of replies).
        _flows(family, FILTER_IP_SRC, 0, _tuple(CTA_TUPLE_ORIG, (source, address.packed))),
        translated_to(address),
    ]


def translated_to(address: IPv4Address | IPv6Address) -> Flows:
    """What is answered by an address: opened to it directly, or translated to it."""
    family, source = (NFPROTO_IPV4, CTA_IP_V4_SRC) if address.version == 4 else (NFPROTO_IPV6, CTA_IP_V6_SRC)
    return _flows(family, 0, FILTER_IP_SRC, _tuple(CTA_TUPLE_REPLY, (source, address.packed)))


def flows_to_port(family: int, protocol: int, port: int) -> Flows:
    """What goes to a port: a UDP flow that is not forgotten would pass by a new mapping."""
    return _flows(family, FILTER_PROTO_NUM | FILTER_PROTO_DST_PORT, 0, _tuple(CTA_TUPLE_ORIG, None, protocol, port))


def _entry(family: int, entry: bytes) -> bytes:
    """A message that deletes one entry of a dump, and none that has taken its place since."""
    values = dict(attributes(entry))
    body = attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, values[CTA_TUPLE_ORIG])
    body += b"".join(attribute(kind, values[kind]) for kind in (CTA_ID, CTA_ZONE) if kind in values)
    return nfnetlink(NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE, NLM_F_ACK, family, 0, body)


class Conntrack:
    """Makes the kernel forget flows, through a netfilter socket."""

    def __init__(self, netfilter: Netfilter) -> None:
        """Whether the kernel deletes by a filter is found out at the first use."""
        self._netfilter = netfilter
        self._by_filter = True

    def forget(self, flows: Iterable[Flows]) -> None:
        """Delete them. Nothing tracked is no error. Raises OSError."""
        for some in flows:
            if self._by_filter:
                try:
                    self._delete(some.message(IPCTNL_MSG_CT_DELETE, NLM_F_ACK))
                    continue
                except OSError as error:
                    # A kernel that looks for the one entry of a whole tuple, and this is not one (6.1 does).
                    if error.errno != errno.EINVAL:
                        raise
                    self._by_filter = False
            for entry in self._netfilter.dump(some.message(IPCTNL_MSG_CT_GET, NLM_F_DUMP), "conntrack dump"):
                self._delete(_entry(some.family, entry))

    def forget_to(self, flows: Flows, gone: Callable[[bytes, int, int], bool]) -> None:
        """Delete those of which ``gone`` is true of what they were opened to: packed address, protocol, port."""
        for entry in self._netfilter.dump(flows.message(IPCTNL_MSG_CT_GET, NLM_F_DUMP), "conntrack dump"):
            opened = dict(attributes(dict(attributes(entry))[CTA_TUPLE_ORIG]))
            addresses, transport = dict(attributes(opened[CTA_TUPLE_IP])), dict(attributes(opened[CTA_TUPLE_PROTO]))
            address = addresses.get(CTA_IP_V4_DST) or addresses.get(CTA_IP_V6_DST) or b""
            port = int.from_bytes(transport.get(CTA_PROTO_DST_PORT, b""), "big")
            if gone(address, transport[CTA_PROTO_NUM][0], port):
                self._delete(_entry(flows.family, entry))

    def _delete(self, message: bytes) -> None:
        try:
            self._netfilter.request(message, "conntrack delete")
        except FileNotFoundError:
            return
