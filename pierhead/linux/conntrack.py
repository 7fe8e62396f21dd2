"""Connection tracking: messages that make the kernel forget flows. ``nft.Netfilter.forget`` sends them.

Source: linux/netfilter/nfnetlink_conntrack.h; deletion by a filter needs Linux 5.8.
"""

import struct
from ipaddress import IPv4Address, IPv6Address

from pierhead.linux.netlink import NLM_F_ACK, attribute, nested
from pierhead.linux.nft import NFPROTO_IPV4, NFPROTO_IPV6, nfnetlink

NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_DELETE = 2
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_FILTER = 1, 2, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V6_SRC = 1, 3
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


def _forget(family: int, original: int, reply: int, *tuples: bytes) -> bytes:
    flags = nested(
        CTA_FILTER,
        attribute(CTA_FILTER_ORIG_FLAGS, struct.pack("=I", original)),
        attribute(CTA_FILTER_REPLY_FLAGS, struct.pack("=I", reply)),
    )
    kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE
    return nfnetlink(kind, NLM_F_ACK, family, 0, b"".join(tuples) + flags)


def forget_connections(address: IPv4Address | IPv6Address) -> list[bytes]:
    """Messages that delete every tracked connection from or to an address, before and after address translation."""
    family, source = (NFPROTO_IPV4, CTA_IP_V4_SRC) if address.version == 4 else (NFPROTO_IPV6, CTA_IP_V6_SRC)
    packed = address.packed
    return [
        # What it opened; what was opened to it directly; what was translated to it (it is the source of replies).
        _forget(family, FILTER_IP_SRC, 0, _tuple(CTA_TUPLE_ORIG, (source, packed))),
        _forget(family, 0, FILTER_IP_SRC, _tuple(CTA_TUPLE_REPLY, (source, packed))),
    ]


def forget_port(family: int, protocol: int, port: int) -> bytes:
    """A message that deletes the tracked flows to a port: without it a running UDP flow would pass by a new mapping."""
    return _forget(family, FILTER_PROTO_NUM | FILTER_PROTO_DST_PORT, 0, _tuple(CTA_TUPLE_ORIG, None, protocol, port))
