"""The Linux bridge of one network: made, given its addresses and settings, looked after, mended.

A bridge that its user has made himself may be named in the options, as with Docker: it is used and left in place.
"""

import errno
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from pierhead.driver.networkdriver import inside, marks, sysctls
from pierhead.driver.networkdriver.api import Endpoint, Network
from pierhead.driver.networkdriver.bridgeoptions import NAME, BridgeOptions
from pierhead.driver.networkdriver.outside import egress_mtu
from pierhead.errors import Forbidden
from pierhead.linux import netlink
from pierhead.linux.netlink import Link, Netlink


@dataclass(frozen=True, slots=True)
class Links:
    """The host's interfaces, read once for many bridges. mtu: of the way out."""

    by_name: dict[str, Link]
    addresses: list[tuple[int, IPv4Interface | IPv6Interface]]
    mtu: int

    @classmethod
    def read(cls, link: Netlink) -> "Links":
        """Raises OSError."""
        return cls({found.name: found for found in link.links()}, link.addresses(), egress_mtu(link))

    def at(self, index: int) -> list[IPv4Interface | IPv6Interface]:
        """An interface's addresses."""
        return [interface for number, interface in self.addresses if number == index]


@dataclass(frozen=True, slots=True)
class HostBridge:
    """One network's bridge. group: the instance's mark, which a user's own bridge does not carry."""

    network: Network
    options: BridgeOptions
    group: int

    def settings(self, *, users: bool) -> dict[str, str]:
        """The kernel's settings that it needs. Pure. users: it is its user's own, and his IPv6 is not ours to change.

        route_localnet lets the host's own clients of 127.0.0.1 be led to containers; it may be set only after the
        table's raw chain drops what others send to 127.0.0.0/8.
        """
        name = self.options.name
        found = dict([self.unannounced(), (f"ipv4/conf/{name}/forwarding", "1")])
        if self.options.default:
            # Ports of the bridge that are apart do not hear each other ask for addresses. The bridge answers for all
            # of them (RFC 3069), so that what links open is routed, and the rules decide.
            found[f"ipv4/conf/{name}/proxy_arp_pvlan"] = "0" if self.options.icc else "1"
            if not self.options.icc:
                found[f"ipv4/conf/{name}/send_redirects"] = "0"
                found[f"ipv4/neigh/{name}/proxy_delay"] = "0"
        if users and self.network.ipv6 and inside.ipv6():
            found[f"ipv6/conf/{name}/disable_ipv6"] = "0"
            found[f"ipv6/conf/{name}/forwarding"] = "1"
        if inside.ipv6() and not users:
            found[f"ipv6/conf/{name}/accept_ra"] = "0"
            # While its own link-local address is tentative (a second from the first port on), the kernel asks for no
            # neighbour on behalf of others: nobody outside would reach a container meanwhile.
            found[f"ipv6/conf/{name}/accept_dad"] = "0"
            found[f"ipv6/conf/{name}/disable_ipv6"] = "0" if self.network.ipv6 else "1"
            if self.network.ipv6:
                found[f"ipv6/conf/{name}/forwarding"] = "1"
        return found

    def unannounced(self) -> tuple[str, str]:
        """The one setting whose change the kernel does not announce, with the value that it should have. Pure."""
        return f"ipv4/conf/{self.options.name}/route_localnet", "0" if self.network.internal else "1"

    def addresses(self) -> list[IPv4Interface | IPv6Interface]:
        """What the bridge itself has: the gateways' addresses, unless it is to be no gateway. Pure."""
        return [
            ip_interface(f"{pool.gateway}/{pool.subnet.prefixlen}")
            for pool in self.network.pools
            if pool.gateway is not None and self.options.gated(pool.subnet.version)
        ]

    def make(self, link: Netlink) -> None:
        """Make it, or what it lacks. Idempotent. Raises OSError, Forbidden if the name is another interface's."""
        name = self.options.name
        found = link.link(name)
        users = found is not None and self._users(found)
        if found is not None and found.group != self.group and not users:
            raise self._taken()
        mtu = self.options.mtu or (0 if users else egress_mtu(link))
        if found is None:
            # An address of its own: else the bridge takes the lowest of its ports' and changes it with them.
            mac = "02:42:" + hashlib.sha256(self.network.id.encode()).digest()[:4].hex(":")
            # Another start may be making it again too.
            link.send(netlink.bridge_add(name, group=self.group, mac=mac, mtu=mtu), ignore=(errno.EEXIST,))
            found = link.link(name)
            if found is None:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name)
            if found.group != self.group:
                raise self._taken()
        for path, value in self.settings(users=users).items():
            sysctls.write(path, value)
        wanted = self.addresses()
        there = [interface for index, interface in link.addresses() if index == found.index]
        if users:
            messages = [
                netlink.address_add(found.index, interface, marks.PROTOCOL)
                for interface in wanted
                if interface not in there
            ]
        else:
            messages = [netlink.address_add(found.index, interface) for interface in wanted]
            messages += [
                netlink.address_delete(found.index, interface)  # of a default bridge that has moved out of the way
                for interface in there
                if self._astray(interface, wanted)
            ]
        link.send(*messages, netlink.link_set(index=found.index, up=True, mtu=mtu if found.mtu != mtu else 0))

    def _taken(self) -> Forbidden:
        return Forbidden(
            f"cannot create network {self.network.id} ({self.options.name}): an interface of that name exists and is "
            f"not this engine's; choose another with -o {NAME}=…"
        )

    def give_back(self, link: Netlink) -> None:
        """Take what we added from a bridge that stays, its user's own. Idempotent. Raises OSError."""
        found = link.link(self.options.name)
        if found is None or not self._users(found):
            return
        path, _ = self.unannounced()
        sysctls.write(path, "0")  # the rules that keep neighbours from the host's loopback go next
        ours = self.addresses()
        link.send(
            *(
                netlink.address_delete(index, interface)
                for index, interface in link.addresses(protocol=marks.PROTOCOL)
                if index == found.index and interface in ours
            ),
            ignore=(errno.EADDRNOTAVAIL,),
        )

    def _users(self, found: Link) -> bool:
        """Whether the link of that name is a bridge which its user has made, and not any engine's."""
        return found.kind == "bridge" and not found.group and found.name not in marks.DEFAULT_BRIDGES

    def _astray(self, interface: IPv4Interface | IPv6Interface, wanted: Sequence[object]) -> bool:
        if interface.ip.is_link_local or interface in wanted:
            return False
        return not (self.options.inhibit_ipv4 and interface.version == 4)

    def damage(self, links: Links, endpoints: Iterable[Endpoint]) -> list[str]:
        """What is not as it should be, in words. Reads settings only; the rest is in ``links``."""
        name = self.options.name
        found = links.by_name.get(name)
        if found is None:
            return [f"bridge {name} was deleted"]
        said = []
        if not found.up:
            said.append(f"bridge {name} was set down")
        there = links.at(found.index)
        said += [
            f"address {interface} of bridge {name} was removed"
            for interface in self.addresses()
            if interface not in there
        ]
        mtu = self.options.mtu or (links.mtu if found.group == self.group else found.mtu)
        if found.mtu != mtu:
            said.append(f"bridge {name} has MTU {found.mtu} and should have {mtu}")
        said += [
            f"setting net/{path} was changed to {value}"
            for path, wanted in self.settings(users=found.group != self.group).items()
            if (value := sysctls.read(path)) != wanted
        ]
        for endpoint in endpoints:
            port = links.by_name.get(marks.host_link(endpoint.id))
            if port is not None and port.master != found.index:
                said.append(f"port {port.name} was taken off bridge {name}")
            elif port is not None and not port.up:
                said.append(f"port {port.name} of bridge {name} was set down")
        return said

    def port(self, name: str) -> list[bytes]:
        """Messages that make a link its port, with the flags that the port needs. Pure but for br_netfilter's state."""
        filtered = bridged_frames_are_filtered()
        messages = []
        if not self.options.icc or filtered:
            # With br_netfilter on, a translated packet to its own bridge is bridged, not routed: a container then
            # reaches its own published port only if the port sends frames back where they came from.
            messages.append(netlink.port_set(name, isolated=not self.options.icc, hairpin=filtered))
        return messages

    def replug(self, link: Netlink, links: Links, endpoints: Iterable[Endpoint]) -> None:
        """Ports of a bridge that was made anew, or that somebody took off it. Raises OSError."""
        bridge = link.link(self.options.name)
        for endpoint in endpoints:
            port = links.by_name.get(marks.host_link(endpoint.id))
            if bridge is not None and port is not None and (port.master != bridge.index or not port.up):
                link.send(
                    netlink.link_set(port.name, master=bridge.index),
                    *self.port(port.name),
                    netlink.link_set(port.name, up=True),
                    ignore=(errno.ENODEV,),
                )


FILTERED = {4: "bridge/bridge-nf-call-iptables", 6: "bridge/bridge-nf-call-ip6tables"}
"""Settings of the present namespace; they are there where br_netfilter is."""


def bridged_frames_are_filtered(version: int = 4) -> bool:
    """Whether br_netfilter gives bridged frames of an IP version to the IP hooks in the present namespace."""
    return sysctls.read(FILTERED[version]) == "1"


def filtered() -> tuple[int, ...]:
    """The IP versions for which it does."""
    return tuple(version for version in FILTERED if bridged_frames_are_filtered(version))
