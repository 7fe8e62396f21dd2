"""Ipvlan networks: containers share the MAC address of a parent interface and have addresses of their own.

In mode l2 they are on the parent's wire, with its routers as gateways. In l3 the host's kernel routes: containers send
everything to their link without a next hop, no broadcast reaches them, and other hosts need a route to their subnet
through this one; l3s is the same through the host's netfilter. The flag says whether containers of one parent reach
each other directly (bridge), not at all (private), or over the wire (vepa).
"""

import errno
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

from pierhead.driver.networkdriver import inside
from pierhead.driver.networkdriver.api import Endpoint, Network
from pierhead.driver.networkdriver.parented import ParentedDriver
from pierhead.errors import PierheadError
from pierhead.libcontainer.spec import NETNS_FD
from pierhead.linux import netlink, sublinks

MODE = "ipvlan_mode"
FLAG = "ipvlan_flag"


def _mode(network: Network) -> str:
    return network.options.get(MODE) or "l2"


def _flag(network: Network) -> str:
    return network.options.get(FLAG) or "bridge"


class IpvlanDriver(ParentedDriver):
    """Networks of driver "ipvlan"."""

    name = "ipvlan"
    prefix = "di-"
    own_mac = False

    def next_hops(self, network: Network, endpoint: Endpoint) -> tuple[IPv4Address | IPv6Address, ...]:
        """Routers on the parent's wire in mode l2; else the link alone."""
        return super().next_hops(network, endpoint) if _mode(network) == "l2" else ()

    def gated(self, network: Network) -> bool:
        """Only where a default route leads to one."""
        return self.outward(network) and _mode(network) == "l2"

    def _check_options(self, network: Network) -> None:
        if _mode(network) not in sublinks.IPVLAN_MODES:
            raise PierheadError(
                f"requested ipvlan mode '{_mode(network)}' is not valid, 'l2' mode is the ipvlan driver default"
            )
        if _flag(network) not in sublinks.IPVLAN_FLAGS:
            raise PierheadError(
                f"requested ipvlan flag '{_flag(network)}' is not valid, 'bridge' is the ipvlan driver default"
            )

    def _check_sharing(self, network: Network, others: Sequence[Network]) -> None:
        for other in others:  # mode and flag are the parent's, not the link's
            raise PierheadError(
                f"network {self.prefix}{other.id[:12]} is already using parent interface {self._parent(network)}"
            )

    def _link(self, network: Network, endpoint: Endpoint, parent: int) -> bytes:
        return sublinks.ipvlan_into(
            NETNS_FD,
            parent=parent,
            mode=_mode(network),
            flag=_flag(network),
            inside=endpoint.interface,
            index=inside.index(endpoint),
            group=self._group,
        )

    def _busy(self, network: Network) -> tuple[int, ...]:
        return (errno.EBUSY, errno.EADDRINUSE)

    def _routes(self, network: Network, endpoint: Endpoint) -> list[bytes]:
        if _mode(network) == "l2":
            return super()._routes(network, endpoint)
        addresses = [address for address in (endpoint.ipv4, endpoint.ipv6) if address is not None]
        versions = [address.version for address in addresses if address.version in endpoint.routed]
        link = inside.index(endpoint)
        return [netlink.route_add(link, None, version=version) for version in versions] if self.outward(network) else []
