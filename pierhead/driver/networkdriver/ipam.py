"""Addresses: which subnet a network gets, and which address an endpoint gets. Pure but for ``occupied``.

Docker's words are kept where it has any; a clash also says whose subnet it is.
"""

import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from pierhead.driver.networkdriver.api import Pool
from pierhead.errors import Forbidden, InvalidParameter, PierheadError, listed
from pierhead.linux.netlink import Netlink

Prefix = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

LISTED = 4
"""How many of a list are named in a message."""


@dataclass(frozen=True, slots=True)
class Occupied:
    """A subnet that is in use on the host. owner: for a message ("interface virbr0", "route through ens33").

    direct: an interface's own subnet; else a route that leads through a gateway.  device: the interface.
    """

    prefix: Prefix
    owner: str
    direct: bool
    device: str = ""


@dataclass(frozen=True, slots=True)
class SubnetRequest:
    """One entry of the API's IPAM.Config, as given; empty strings where nothing was said."""

    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    aux: Mapping[str, str] | None = None


def occupied(ignore_group: int = 0) -> list[Occupied]:
    """What the present network namespace uses: interface addresses and routes. Raises OSError.

    ignore_group: links of this group (our own bridges) do not count; the database knows their pools.
    """
    with Netlink() as netlink:
        names = {link.index: link for link in netlink.links()}
        ours = {index for index, link in names.items() if ignore_group and link.group == ignore_group}
        found = [
            Occupied(interface.network, f"interface {name}", True, name)
            for index, interface in netlink.addresses(without=ours)
            for name in [names[index].name if index in names else str(index)]
            if not interface.ip.is_loopback and not interface.ip.is_link_local
        ]
        found += [
            Occupied(
                route.prefix,
                f"a route through {names[route.interface].name if route.interface in names else route.gateway}",
                route.gateway is None,
                names[route.interface].name if route.interface in names else "",
            )
            for route in netlink.routes(without=ours)
            if route.prefix is not None and not route.prefix.is_link_local
        ]
    return found


# Pools ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AddressPool:
    """Where new networks get their subnets from: those of prefix length ``size`` in ``base``."""

    base: Prefix
    size: int


DOCKER_POOLS = (
    *(AddressPool(IPv4Network(f"172.{second}.0.0/16"), 16) for second in range(17, 32)),
    AddressPool(IPv4Network("192.168.0.0/16"), 20),
)
"""Docker's, in its order: 31 networks, and no more."""

SMALL_POOLS = (AddressPool(IPv4Network("172.16.0.0/16"), 24), AddressPool(IPv4Network("10.192.0.0/12"), 24))
"""Ours, when Docker's are used up: some thousand."""


def unique_local_pool(instance: str) -> AddressPool:
    """The instance's own IPv6 prefix (RFC 4193: fd, 40 bits of its own), in /64s. instance: 8 hex digits."""
    return AddressPool(IPv6Network(f"fd{instance[:2]}:{instance[2:6]}:{instance[6:8]}00::/48"), 64)


def _span(prefix: Prefix) -> tuple[int, int]:
    first = int(prefix.network_address)
    return first, first + prefix.num_addresses - 1


def choose(taken: Iterable[Prefix], pools: Iterable[AddressPool]) -> Prefix | None:
    """The first subnet of the pools (all of one IP version) that touches nothing in ``taken``; None: there is none."""
    given = list(pools)
    version = given[0].base.version if given else 4
    used = sorted(_span(prefix) for prefix in taken if prefix.version == version)
    for pool in given:
        first, last = _span(pool.base)
        width = 1 << (pool.base.max_prefixlen - pool.size)
        for low, high in used:
            if first <= high and low < first + width:
                first = (high // width + 1) * width
        if first + width - 1 <= last:
            return type(pool.base)((first, pool.size))
    return None


def exhausted(pools: Iterable[AddressPool], networks: Iterable[Prefix], host: Iterable[Occupied]) -> InvalidParameter:
    """That ``choose`` found nothing: whose the pools are now, and what helps."""
    bases = [pool.base for pool in pools]

    def touched(prefix: Prefix) -> bool:
        return any(prefix.version == base.version and prefix.overlaps(base) for base in bases)

    count = sum(map(touched, networks))
    others = [f"{one.prefix} of {one.owner}" for one in host if touched(one.prefix)]
    if len(others) > LISTED:
        others[LISTED:] = [f"{len(others) - LISTED} more"]
    holders = ", ".join([f"{count} networks", *others])
    shown = ", ".join(map(str, bases[:LISTED])) + (", …" if len(bases) > LISTED else "")
    return InvalidParameter(
        f"all predefined address pools have been fully subnetted: {shown} held by {holders}; remove networks that "
        "nothing uses ('network prune'), choose a --subnet, or give the daemon more with --default-address-pool"
    )


def parse(requests: Iterable[SubnetRequest], *, ipv6: bool) -> list[Pool]:
    """Check what was asked for. Raises InvalidParameter with everything that is wrong, in Docker's words.

    Gateways are as given, or None (see ``complete``).
    """
    errors: list[str] = []
    pools: list[Pool] = []
    for request in requests:
        try:
            subnet = ip_network(request.subnet, strict=False)
        except ValueError:
            errors.append(f"invalid subnet {request.subnet}: invalid CIDR block notation")
            continue
        if "/" not in request.subnet:
            errors.append(f"invalid subnet {request.subnet}: invalid CIDR block notation")
            continue
        if subnet.is_loopback or subnet.is_multicast or subnet.network_address.is_unspecified:
            errors.append(f"invalid subnet {request.subnet}: its addresses are no container's")
            continue
        if subnet.version == 6 and not ipv6:
            continue  # as Docker: an IPv6 subnet without --ipv6 is not used
        if str(subnet) != _canonical(request.subnet):
            errors.append(f"invalid subnet {request.subnet}: it should be {subnet}")
        ip_range = _ip_range(request.ip_range, subnet, errors)
        gateway = _inside(request.gateway, subnet, f"gateway {request.gateway}", errors)
        aux = {
            name: address
            for name, value in (request.aux or {}).items()
            if (address := _inside(value, subnet, f"auxiliary address {name}", errors)) is not None
        }
        pools.append(Pool(subnet, gateway, ip_range, aux))
    if errors:
        raise InvalidParameter("invalid network config:\n" + listed(errors))
    for at, pool in enumerate(pools):
        for other in pools[:at]:
            if pool.subnet.version == other.subnet.version and pool.subnet.overlaps(other.subnet):
                raise Forbidden("invalid pool request: Pool overlaps with other one on this address space")
    return pools


def _canonical(subnet: str) -> str:
    address, _, length = subnet.partition("/")
    return f"{ip_address(address)}/{length}"


def _ip_range(text: str, subnet: Prefix, errors: list[str]) -> Prefix | None:
    if not text:
        return None
    try:
        prefix = ip_network(text, strict=False)
    except ValueError:
        errors.append(f"invalid ip-range {text}: invalid CIDR block notation")
        return None
    if prefix.version != subnet.version:
        errors.append(f"invalid ip-range {text}: parent subnet is an IPv{subnet.version} block")
    elif prefix.prefixlen < subnet.prefixlen:
        errors.append(f"invalid ip-range {text}: CIDR block is bigger than its parent subnet {subnet}")
    elif str(prefix) != _canonical(text):
        errors.append(f"invalid ip-range {text}: it should be {prefix}")
    elif not prefix.overlaps(subnet):
        errors.append(f"invalid ip-range {text}: parent subnet {subnet} doesn't contain ip-range")
    else:
        return prefix
    return None


def _inside(text: str, subnet: Prefix, what: str, errors: list[str]) -> Address | None:
    if not text:
        return None
    try:
        address = ip_address(text.partition("/")[0])
    except ValueError:
        errors.append(f"invalid {what}: invalid address")
        return None
    if address.version != subnet.version:
        errors.append(f"invalid {what}: parent subnet is an IPv{subnet.version} block")
    elif address not in subnet:
        errors.append(f"invalid {what}: parent subnet {subnet} doesn't contain this address")
    else:
        return address
    return None


def complete(pool: Pool) -> Pool:
    """A pool with a gateway: the first address of the subnet (of the range, as Docker does) that is not auxiliary.

    Raises PierheadError where gateway and auxiliary addresses cannot all be had.
    """
    taken = _ends(pool.subnet)
    gateway = pool.gateway
    if gateway is not None:
        if int(gateway) in taken:
            raise PierheadError(f"failed to allocate gateway ({gateway}): Address already in use")
        taken.add(int(gateway))
    for name, address in pool.aux.items():
        if int(address) in taken:
            raise PierheadError(f"failed to allocate secondary ip address ({name}:{address}): Address already in use")
        taken.add(int(address))
    if gateway is not None:
        return pool
    first, last = _span(pool.ip_range or pool.subnet)
    for number in range(first, last + 1):
        if number not in taken:
            address = type(pool.subnet.network_address)(number)
            return Pool(pool.subnet, address, pool.ip_range, pool.aux)
    raise PierheadError("failed to allocate gateway (): no available addresses on this pool")


def refuse_overlap(pool: Pool, known: Mapping[str, str], host: Iterable[Occupied]) -> None:
    """Raise Forbidden if the subnet touches another network's or one that an interface of the host is in.

    known: subnet to network name.
    """
    said = "invalid pool request: Pool overlaps with other one on this address space"
    for subnet, name in known.items():
        other = ip_network(subnet)
        if other.version == pool.subnet.version and other.overlaps(pool.subnet):
            raise Forbidden(f"{said}: {pool.subnet} touches {subnet} of network {name}; choose another --subnet")
    for one in host:
        if one.direct and one.prefix.version == pool.subnet.version and one.prefix.overlaps(pool.subnet):
            raise Forbidden(f"{said}: {pool.subnet} touches {one.prefix} of {one.owner}; choose another --subnet")


# Addresses -----------------------------------------------------------------------------------------------------------


def _ends(subnet: Prefix) -> set[int]:
    """Addresses of a subnet that nobody may have: IPv4's first and last (RFC 3021: not of a /31), IPv6's first."""
    if subnet.max_prefixlen - subnet.prefixlen < 2:
        return set()
    first, last = _span(subnet)
    return {first, last} if subnet.version == 4 else {first}


def _reserved(pool: Pool) -> set[int]:
    """Addresses of the subnet that no endpoint may have."""
    found = {int(address) for address in pool.aux.values()} | _ends(pool.subnet)
    if pool.gateway is not None:
        found.add(int(pool.gateway))
    return found


def _number(address: str) -> int:
    """An address as a number: a network of some hundred endpoints is read at every start, so no objects are made."""
    return int.from_bytes(socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address))


def allocate(
    pools: Iterable[Pool],
    used: Collection[str],
    *,
    own: Collection[str] = (),
    resting: Mapping[str, int] | None = None,
) -> tuple[Address, Pool] | None:
    """A free address: one of ``own`` (what the same name had before); else the lowest that nobody had; else, of the
    ``resting`` ones, that which was given back first. None if there is none.

    used, own, resting: addresses without prefix length; resting maps to the time of release.
    """
    given = list(pools)
    taken = set(map(_number, used))
    for address in map(ip_address, own):
        for pool in given:
            if address in pool.subnet and int(address) not in taken | _reserved(pool):
                return address, pool
    waiting = {_number(address): released for address, released in (resting or {}).items()}
    oldest: tuple[int, int, Pool] | None = None
    for pool in given:
        refused = taken | _reserved(pool)
        first, last = _span(pool.ip_range or pool.subnet)
        for number in range(first, last + 1):
            if number in refused:
                continue
            if number not in waiting:
                return type(pool.subnet.network_address)(number), pool
            if oldest is None or waiting[number] < oldest[0]:
                oldest = waiting[number], number, pool
    if oldest is None:
        return None
    return type(oldest[2].subnet.network_address)(oldest[1]), oldest[2]


def claim(pools: Iterable[Pool], used: Collection[str], wanted: Address) -> Pool:
    """The pool of an address that the user asked for. Raises PierheadError if it is taken or in no pool."""
    for pool in pools:
        if wanted in pool.subnet:
            if str(wanted) in used or int(wanted) in _reserved(pool):
                raise Forbidden("Address already in use")
            return pool
    raise InvalidParameter(f"no configured subnet or ip-range contain the IP address {wanted}")


def mac(address: IPv4Address) -> str:
    """02:42 and the address: neighbours' caches stay right when an address goes to another container."""
    return "02:42:" + address.packed.hex(":")
