"""Links that stand on another one, as rtnetlink messages: macvlan, ipvlan, VLANs; and dummies, which may be stood on.

Sources: linux/if_link.h, drivers/net/macvlan.c, drivers/net/ipvlan/ipvlan_main.c, net/8021q/vlan_netlink.c.
"""

import errno
import struct

from pierhead.linux.netlink import (
    IFLA_ADDRESS,
    IFLA_GROUP,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINK,
    IFLA_LINKINFO,
    IFLA_NET_NS_FD,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    RTM_NEWLINK,
    Netlink,
    attribute,
    link_header,
    mac_bytes,
    message,
    nested,
    text,
    u32,
)

IFLA_MACVLAN_MODE = 1
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}

IFLA_IPVLAN_MODE, IFLA_IPVLAN_FLAGS = 1, 2
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}

IFLA_VLAN_ID = 1
VLAN_IDS = range(1, 4095)

_NEW = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
_U16 = struct.Struct("=H")


def _u16(kind: int, value: int) -> bytes:
    return attribute(kind, _U16.pack(value))


def _into(
    netns: int, parent: int, inside: str, index: int, group: int, kind: str, *data: bytes, mac: str = ""
) -> bytes:
    body = link_header(index=index) + text(IFLA_IFNAME, inside) + u32(IFLA_LINK, parent) + u32(IFLA_GROUP, group)
    if mac:
        body += attribute(IFLA_ADDRESS, mac_bytes(mac))
    body += u32(IFLA_NET_NS_FD, netns)
    body += nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, kind), nested(IFLA_INFO_DATA, *data))
    return message(RTM_NEWLINK, _NEW, body)


def macvlan_into(netns: int, *, parent: int, mode: str, inside: str, index: int, group: int, mac: str = "") -> bytes:
    """A macvlan on the link of index ``parent`` here, born in the namespace ``netns`` (a descriptor of the sender's).

    mode: of MACVLAN_MODES.  Without mac the kernel makes one up; in mode passthru it takes the parent's anyway.
    EINVAL: the parent is another's in mode passthru; EBUSY: something else has it (a bridge, an ipvlan).
    """
    return _into(netns, parent, inside, index, group, "macvlan", u32(IFLA_MACVLAN_MODE, MACVLAN_MODES[mode]), mac=mac)


def ipvlan_into(netns: int, *, parent: int, mode: str, flag: str, inside: str, index: int, group: int) -> bytes:
    """An ipvlan on the link of index ``parent`` here, born in ``netns``; it has the parent's MAC address.

    mode and flag (of IPVLAN_MODES and IPVLAN_FLAGS) are the parent's: the last one made decides for all.  EBUSY as
    for a macvlan.
    """
    data = (_u16(IFLA_IPVLAN_MODE, IPVLAN_MODES[mode]), _u16(IFLA_IPVLAN_FLAGS, IPVLAN_FLAGS[flag]))
    return _into(netns, parent, inside, index, group, "ipvlan", *data)


def vlan_add(name: str, *, parent: int, vlan: int, group: int) -> bytes:
    """A VLAN's link on another one. EOPNOTSUPP: the kernel has no 8021q; EEXIST: the name or the VLAN is there."""
    body = link_header() + text(IFLA_IFNAME, name) + u32(IFLA_LINK, parent) + u32(IFLA_GROUP, group)
    body += nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, "vlan"), nested(IFLA_INFO_DATA, _u16(IFLA_VLAN_ID, vlan)))
    return message(RTM_NEWLINK, _NEW, body)


def dummy_add(name: str, *, group: int) -> bytes:
    """A link that leads nowhere. EOPNOTSUPP: the kernel has no dummy; EEXIST: the name is taken."""
    body = link_header() + text(IFLA_IFNAME, name) + u32(IFLA_GROUP, group)
    return message(RTM_NEWLINK, _NEW, body + nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, "dummy")))


def supported(kind: str) -> bool:
    """Whether the kernel can make links of a kind that needs a parent; it loads the module if there is one.

    It is asked for one without a parent, which it refuses (EINVAL) if it knows the kind at all.
    """
    body = link_header() + nested(IFLA_LINKINFO, text(IFLA_INFO_KIND, kind))
    with Netlink() as netlink:
        return netlink.results([message(RTM_NEWLINK, _NEW, body)]) != [errno.EOPNOTSUPP]
