"""What others change in a network namespace, as the kernel announces it: nftables' rules, links, addresses, routes.

Sources: linux/netfilter/nf_tables.h, linux/rtnetlink.h.
"""

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pierhead.linux.netlink import (
    IFLA_GROUP,
    IFLA_IFNAME,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    NETLINK_ROUTE,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    attributes,
    split,
)
from pierhead.linux.nft import NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES, NFNLGRP_NFTABLES

SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1
NFT_MSG_DELTABLE, NFT_MSG_DELCHAIN, NFT_MSG_DELRULE, NFT_MSG_NEWGEN = 2, 5, 8, 15
NFTA_GEN_PROC_PID, NFTA_GEN_PROC_NAME = 2, 3
RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE = 1, 5, 7, 9, 11
RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF, RTM_NEWNETCONF, NETCONFA_FORWARDING = 24, 25, 80, 2
AF_BRIDGE = 7


def _listen(protocol: int, *groups: int) -> socket.socket:
    listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    listener.bind((0, 0))
    for group in groups:
        listener.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
    return listener


def rules() -> socket.socket:
    """A non-blocking socket that becomes readable when somebody changes the ruleset. Raises OSError."""
    return _listen(NETLINK_NETFILTER, NFNLGRP_NFTABLES)


def links() -> socket.socket:
    """The same for links, addresses, routes, and whether they forward."""
    groups = (RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE)
    return _listen(NETLINK_ROUTE, *groups, RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF)


@dataclass(frozen=True, slots=True)
class Transaction:
    """One change of the ruleset. tables: whose tables; bared: those that lost a chain or a rule; thread and program:
    who did it."""

    tables: frozenset[str]
    bared: frozenset[str]
    thread: int
    program: str

    @property
    def own(self) -> bool:
        """Whether a thread of this process did it."""
        return os.path.exists(f"/proc/self/task/{self.thread}")


class Transactions:
    """Puts transactions together: their parts come in one or many datagrams, and the last part says whose they are."""

    def __init__(self) -> None:
        self._tables: set[str] = set()
        self._bared: set[str] = set()

    def feed(self, datagram: bytes) -> Iterator[Transaction]:
        """The transactions that end in a datagram."""
        for kind, body in split(datagram):
            if kind >> 8 != NFNL_SUBSYS_NFTABLES:
                continue
            values = dict(attributes(body[4:]))
            if kind & 0xFF != NFT_MSG_NEWGEN:
                table = values.get(1, b"").rstrip(b"\0").decode(errors="replace")  # in every kind of message
                self._tables.add(table)
                if kind & 0xFF in (NFT_MSG_DELTABLE, NFT_MSG_DELCHAIN, NFT_MSG_DELRULE):
                    self._bared.add(table)
                continue
            thread = struct.unpack(">I", values[NFTA_GEN_PROC_PID])[0] if NFTA_GEN_PROC_PID in values else 0
            program = values.get(NFTA_GEN_PROC_NAME, b"").rstrip(b"\0").decode(errors="replace")
            yield Transaction(frozenset(self._tables), frozenset(self._bared), thread, program)
            self._tables, self._bared = set(), set()


def concerns_links(datagram: bytes, group: int) -> bool:
    """Whether what is announced may have taken a bridge, its address, its port, forwarding or the way out.

    group: of the caller's own links, whose veth pairs come and go with its containers.
    """
    for kind, body in split(datagram):
        if kind == RTM_DELADDR:
            return True
        if kind == RTM_NEWNETCONF and dict(attributes(body[4:])).get(NETCONFA_FORWARDING) == bytes(4):
            return True
        if kind in (RTM_NEWROUTE, RTM_DELROUTE) and body[1] == 0:  # a default route
            return True
        if kind not in (RTM_NEWLINK, RTM_DELLINK):
            continue
        if body[0] == AF_BRIDGE:
            if kind == RTM_DELLINK:  # a port was taken off its bridge
                return True
            continue
        values = dict(attributes(body[16:]))
        info = dict(attributes(values.get(IFLA_LINKINFO, b"")))
        own = IFLA_GROUP in values and struct.unpack("=I", values[IFLA_GROUP])[0] == group
        if not (own and info.get(IFLA_INFO_KIND, b"").startswith(b"veth")) and IFLA_IFNAME in values:
            return True
    return False
