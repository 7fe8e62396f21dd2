"""A container's side of an endpoint that has a link: the same for every kind of link."""

import os
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from pierhead.driver.networkdriver.api import Endpoint
from pierhead.driver.networkdriver.endpointoptions import dotted
from pierhead.linux import netlink

FIRST_INDEX = 128
"""ifindex of a container's first link inside; others have this plus their number. Low ones belong to lo and the
kernel's fallback tunnels, and the host's own links, whose numbers cost an older kernel time
(``libcontainer.network.make_and_move``); ifconfig reads two hex digits of one."""


def index(endpoint: Endpoint) -> int:
    """The ifindex of the endpoint's link inside."""
    return FIRST_INDEX + endpoint.number


def routes(endpoint: Endpoint, hops: Iterable[IPv4Address | IPv6Address]) -> list[bytes]:
    """The default routes that the endpoint gives, each through a next hop."""
    return [netlink.route_add(index(endpoint), hop) for hop in hops if hop.version in endpoint.routed]


def messages(endpoint: Endpoint, *more: bytes, mac: str = "", group: int | None = None) -> tuple[bytes, ...]:
    """lo and the link go up, with its addresses; then what else is to be sent (routes).

    mac: set before it goes up.  group: its group from now on (0: nobody's), where it had one.
    """
    link = index(endpoint)
    found = [netlink.link_set(index=netlink.LOOPBACK_INDEX, up=True)]
    if mac:
        found.append(netlink.link_set(index=link, mac=mac))
    addresses: list[IPv4Interface | IPv6Interface] = []
    addresses += [address for address in (endpoint.ipv4, endpoint.ipv6) if address is not None]
    found += [netlink.address_add(link, address) for address in (*addresses, *endpoint.link_local)]
    found.append(netlink.link_set(index=link, up=True, group=group))
    return (*found, *more)


def sysctls(endpoint: Endpoint, *, advertised: bool) -> tuple[tuple[str, str], ...]:
    """IPv6 on or off on the link, then what its user asks for.

    advertised: routers on its wire may give it prefixes and routes, as by the kernel's default; else the engine alone.
    """
    if not ipv6():
        return endpoint.sysctls
    prefix = f"net.ipv6.conf.{dotted(endpoint.interface)}"
    if endpoint.ipv6 is None and not any(address.version == 6 for address in endpoint.link_local):
        return ((f"{prefix}.disable_ipv6", "1"), *endpoint.sysctls)
    on = ((f"{prefix}.disable_ipv6", "0"),)
    return (*on, *endpoint.sysctls) if advertised else (*on, (f"{prefix}.accept_ra", "0"), *endpoint.sysctls)


def ipv6() -> bool:
    """Whether the kernel has IPv6."""
    return os.path.exists("/proc/sys/net/ipv6")
