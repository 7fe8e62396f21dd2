"""Parents of macvlan and ipvlan networks: interfaces of the host that containers' links stand on.

A parent is the user's (``-o parent=eth0``); or a VLAN's link that is made here on one of the user's (``eth0.100``,
where nothing of that name is there); or, where none is given, a dummy that leads nowhere.  What is made here carries
the instance's group.  What was there before does not, and is never changed.
"""

import errno
import os
from collections.abc import Collection, Iterable

from pierhead.errors import PierheadError
from pierhead.linux import netlink, sublinks
from pierhead.linux.netlink import Link, Netlink

MADE = ("vlan", "dummy")
"""The kinds of link that are made here."""


def make(name: str, *, driver: str, group: int, dummy: bool) -> None:
    """Make a parent if it is not there, and set ours up. Idempotent. Raises OSError, PierheadError in Docker's words.

    driver: for the words.  dummy: it is one; else what is not there can only be a VLAN's link.
    """
    with Netlink() as link:
        found = link.link(name)
        if found is None:
            what = sublinks.dummy_add(name, group=group) if dummy else _vlan(link, name, group)
            _made(link, what, name, dummy)
        elif found.group != group:
            return
        refused = link.results([netlink.link_set(name, up=True)])[0]
        if refused:
            said = os.strerror(refused).lower()
            raise PierheadError(f"failed to enable {name} the {driver} parent link: {said}")


def _vlan(link: Netlink, name: str, group: int) -> bytes:
    base, dot, number = name.partition(".")
    if not dot:
        raise PierheadError(f"invalid subinterface vlan name {name}, example formatting is eth0.10")
    if "." in number:
        raise PierheadError(
            f"required interface name format is: name.vlan_id, ex. eth0.10 for vlan 10, instead received {name}"
        )
    if not number.isdecimal():
        raise PierheadError(f"unable to parse a valid vlan id from: {number} (ex. eth0.10 for vlan 10)")
    found = link.link(base)
    if found is None:
        raise PierheadError(f"-o parent interface was not found on the host: {base}")
    if int(number) not in sublinks.VLAN_IDS:
        raise PierheadError(f"vlan id must be between 1-4094, received: {int(number)}")
    return sublinks.vlan_add(name, parent=found.index, vlan=int(number), group=group)


def _made(link: Netlink, message: bytes, name: str, dummy: bool) -> None:
    refused = link.results([message])[0]
    if refused == errno.EOPNOTSUPP:
        kind, module = ("dummy interfaces", "dummy") if dummy else ("VLANs", "8021q")
        remedy = "give an interface of the host with -o parent=…" if dummy else "give another parent"
        raise PierheadError(
            f"failed to create the parent link {name}: this kernel has no {kind} (modprobe {module}): {remedy}"
        )
    if refused and not dummy:
        raise PierheadError(f"failed to create {name} vlan link: {os.strerror(refused).lower()}")
    if refused:
        raise OSError(refused, os.strerror(refused), name)


def remove(name: str, *, group: int, kinds: Collection[str] = MADE) -> None:
    """Remove a link of one of these kinds if it was made here. Idempotent."""
    with Netlink() as link:
        found = link.link(name)
        if found is not None and found.group == group and found.kind in kinds:
            link.send(netlink.link_delete(name), ignore=(errno.ENODEV,))


def strays(wanted: Collection[str], *, prefix: str, group: int) -> tuple[str, ...]:
    """What was made here and is not wanted: VLANs' links, and dummies of a prefix."""

    def stray(found: Link) -> bool:
        made = found.kind == "vlan" or (found.kind == "dummy" and found.name.startswith(prefix))
        return found.group == group and made and found.name not in wanted

    with Netlink() as link:
        return tuple(found.name for found in link.links() if stray(found))


def children(kind: str, *, group: int) -> tuple[str, ...]:
    """Containers' links of a kind that are on the host. They are born in the container's namespace: one that is here
    was moved out of it, by whoever may, and it may be moved on."""
    with Netlink() as link:
        return tuple(found.name for found in link.links() if found.group == group and found.kind == kind)


def absent(names: Iterable[str]) -> frozenset[str]:
    """Those of which there is no link."""
    with Netlink() as link:
        return frozenset(names) - {found.name for found in link.links()}
