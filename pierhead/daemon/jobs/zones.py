"""The names that a container can ask for: each network's zone out of GraphDB, and the resolver that answers for it."""

import asyncio
import errno
import logging
import socket
import zlib
from ipaddress import ip_address

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.engine.resolver import Scope
from pierhead.daemon.engine.running import Running
from pierhead.daemon.engine.upstream import Servers
from pierhead.daemon.jobs import endpoints
from pierhead.daemon.jobs.describe import dns_names, host_config_of
from pierhead.daemon.jobs.network_rows import pools_of
from pierhead.driver.networkdriver import dns, resolvconf
from pierhead.driver.networkdriver.zone import Member, View, Zone
from pierhead.graph.graphdb import Row
from pierhead.libcontainer.spec import NetworkSetup
from pierhead.linux import nftdump, nftrules
from pierhead.linux.nft import NETLINK_NETFILTER, Netfilter
from pierhead.wire.containers import HostConfig

log = logging.getLogger("pierd")

NETFILTER = (int(socket.AF_NETLINK), int(socket.SOCK_RAW), NETLINK_NETFILTER)
"""A socket that asks for a namespace's rules."""

_TABLE = "pierhead"
"""In a container."""

SPARE = 8
"""Sockets that are opened in a container's network namespace at a time."""


def overrides(engine: Engine, host: HostConfig) -> resolvconf.Overrides:
    """What a container's configuration, or the daemon's, says about names instead of the host's resolv.conf."""
    config = engine.config
    return resolvconf.Overrides(
        tuple(host.dns or config.dns),
        tuple(host.dns_search or config.dns_search),
        tuple(host.dns_options or config.dns_opts),
    )


# Zones ---------------------------------------------------------------------------------------------------------------


def zone_of(engine: Engine, row: Row) -> Zone:
    """The names of everything that is joined to a network now. row: one of ``endpoint_rows``."""
    network = row["network_id"]

    def make() -> Zone:
        # The subnets of a parent's network (macvlan) are others' too: they may have names for its addresses.
        ours = row["driver"] == "bridge"
        return Zone(row["network_name"], tuple(pool.subnet for pool in pools_of(engine, network)) if ours else ())

    return engine.resolvers.zone(network, make, lambda zone: _update(engine, network, zone))


def _update(engine: Engine, network: str, zone: Zone) -> None:
    known = zone.members
    members: dict[str, Member] = {}
    rows = engine.db.all(
        "SELECT e.id, e.container_id, e.ipv4, e.ipv6, c.name FROM endpoint e JOIN container c ON c.id = e.container_id "
        "WHERE e.network_id = ? AND e.active = 1",
        (network,),
    )
    for row in rows:
        # An endpoint has a new id whenever it gets addresses, and only a container's name can change meanwhile.
        member = known.get(row["id"])
        if member is None or member.names[0] != row["name"]:
            settings = engine.db.one("SELECT settings FROM endpoint WHERE id = ?", (row["id"],))
            names = dns_names(engine.containers.get(row["container_id"]), endpoints.asked(settings))
            addresses = (ip_address(text.partition("/")[0]) for text in (row["ipv4"], row["ipv6"]) if text)
            member = Member(tuple(names), tuple(addresses))
        members[row["id"]] = member
    zone.update(members)


def _links(engine: Engine, rows: list[Row], zones: dict[str, Zone]) -> dict[bytes, dict[Zone, bytes]]:
    """What the container calls others (``--link name:alias``), for itself alone: Compose links on every network."""
    found: dict[bytes, dict[Zone, bytes]] = {}
    for row in rows:
        for link in endpoints.asked(row).links or ():
            name, _, alias = link.partition(":")
            target = dns.encoded(name.lower())
            for form in (alias or name, f"{alias or name}.{row['network_name']}"):
                wire = dns.encoded(form.lower())
                if wire is not None and target is not None:
                    found.setdefault(wire, {}).setdefault(zones[row["network_id"]], target)
    return found


# Resolvers -----------------------------------------------------------------------------------------------------------


def resolver_setup(container_id: str) -> NetworkSetup:
    """The resolver's sockets on a high port of 127.0.0.11, outside the ephemeral range, and a rule that leads there.

    A bound :53 would be in the way of containers that serve DNS themselves.
    """
    port = _port(container_id)
    return NetworkSetup(nft=nftrules.local_redirect(_TABLE, dns.ADDRESS, 53, port), resolver=port)


def _port(container_id: str) -> int:
    return 61000 + zlib.crc32(container_id.encode()) % 4000


def led(netfilter: Netfilter) -> bool:
    """Whether the rules of a container's namespace lead to its resolver's sockets. Raises OSError."""
    found = nftdump.steady(netfilter, lambda: nftdump.read_rules(netfilter, _TABLE))
    return len(found) == len(("udp", "tcp"))


async def lead_again(engine: Engine) -> list[str]:
    """Make the rules of containers that have lost them (one with NET_ADMIN may flush its own) again; says of which."""
    said = []
    for container_id in engine.resolvers.all():
        running = engine.running.get(container_id)
        try:
            if running is None or not await _lead_again(running):
                continue
        except OSError as error:
            log.warning("container %s: its names cannot be looked after: %s", container_id[:12], error)
            continue
        name = engine.containers.get(container_id).name
        said.append(f"the rule within {name} that leads {dns.ADDRESS}:53 to the engine was removed")
    return said


async def _lead_again(running: Running) -> bool:
    """Returns whether it was necessary. Raises OSError."""
    netfilter = Netfilter((await running.open_sockets([NETFILTER]))[0])
    try:
        if await blocking(led, netfilter):
            return False
        batch = nftrules.local_redirect(_TABLE, dns.ADDRESS, 53, _port(running.id), again=True)
        serial, answer = running.expect()
        running.monitor.join_network(NetworkSetup(nft=batch), serial)
        await answer
        return True
    finally:
        await blocking(netfilter.close)


def serve(engine: Engine, container_id: str, sockets: tuple[socket.socket, socket.socket]) -> None:
    """Answer on the container's resolver sockets."""
    opener = _Opener(engine, container_id)

    def given() -> resolvconf.Overrides:
        return overrides(engine, host_config_of(engine.containers.get(container_id)))

    def view() -> View:
        rows = [row for row in endpoints.endpoint_rows(engine, container_id) if row["active"]]
        # The way out first: where two networks know a name, that one's is meant, as Docker does.
        rows.sort(key=lambda row: (not row["gateway"], -endpoints.asked(row).gw_priority, row["network_name"]))
        named = [row for row in rows if endpoints.named(engine, row["driver"], row["network_name"])]
        zones = {row["network_id"]: zone_of(engine, row) for row in named}
        says = given()
        ndots = resolvconf.ndots(says.options or engine.resolvers.host().options)
        return View(
            tuple(zones.values()),
            _links(engine, named, zones),
            closed=not says.nameservers and not any(endpoints.outward(engine, row) for row in rows),
            dotted=bool(ndots),
        )

    def servers() -> Servers | None:
        # Those given are asked as the container would ask them: one may be a container, or on an internal network.
        listed = given().nameservers
        return (
            Servers(tuple(one for one in listed if one != str(dns.ADDRESS)), opener, container_id) if listed else None
        )

    engine.resolvers.serve(container_id, sockets, Scope(view, servers, opener.close))


class _Opener:
    """Sockets of a container's network namespace, some of them opened beforehand: its shim forks for each request."""

    def __init__(self, engine: Engine, container_id: str) -> None:
        self._engine = engine
        self._container = container_id
        self._spare: dict[tuple[int, int], list[socket.socket]] = {}
        self._turn = asyncio.Lock()
        self._closed = False

    async def __call__(self, family: int, kind: int) -> socket.socket:
        """Raises OSError."""
        spare = self._spare.setdefault((family, kind), [])
        if not spare:
            async with self._turn:
                if not spare:
                    spare += await self._open(family, kind)
        return spare.pop()

    async def _open(self, family: int, kind: int) -> tuple[socket.socket, ...]:
        running = self._engine.running.get(self._container)
        if running is None:
            raise ProcessLookupError(errno.ESRCH, "the container does not run")
        opened = await running.open_sockets([(family, kind, 0)] * (SPARE if kind == socket.SOCK_DGRAM else 1))
        if self._closed:
            for one in opened:
                one.close()
            raise ProcessLookupError(errno.ESRCH, "the container does not run")
        return opened

    def close(self) -> None:
        """They would keep the namespace."""
        self._closed = True
        for spare in self._spare.values():
            for one in spare:
                one.close()
            spare.clear()
