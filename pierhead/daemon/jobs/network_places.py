"""The network namespaces that a packet may pass: the host's and the containers', each to be asked what it would do."""

import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.jobs import rewiring
from pierhead.daemon.jobs.describe import host_config_of, network_kind
from pierhead.daemon.jobs.network_rows import network_of
from pierhead.daemon.jobs.network_sight import Looked, Sight, look
from pierhead.daemon.jobs.zones import NETFILTER
from pierhead.driver.networkdriver import marks
from pierhead.driver.networkdriver.api import Network
from pierhead.driver.networkdriver.packetpath import Decision, Host, Packet
from pierhead.errors import Conflict
from pierhead.graph.containers import Container
from pierhead.linux import nftdump
from pierhead.linux.netstate import KINDS, Device, View
from pierhead.linux.nft import Netfilter
from pierhead.linux.nftdump import Ruleset

Address = IPv4Address | IPv6Address


@dataclass(slots=True)
class Place:
    """One namespace. name: of the container that it was made for.  own: it is the host's.  containers: that one, and
    those that share it."""

    name: str
    own: bool
    sight: Sight
    containers: tuple[Container, ...] = ()
    view: View | None = None
    netfilter: Netfilter | None = None
    ruleset: Ruleset | None = None

    @property
    def surroundings(self) -> Host:
        """What its rules may ask of it."""
        devices = self.sight.devices
        return Host(
            {device.name: (device.index, device.group, device.kind) for device in devices},
            frozenset(interface.ip for device in devices for interface in device.addresses),
        )

    def close(self) -> None:
        """Let go of the sockets in it."""
        if self.view is not None:
            self.view.close()
        if self.netfilter is not None:
            self.netfilter.close()


@dataclass(frozen=True, slots=True)
class Found:
    """A device of a place that has an address."""

    place: Place
    device: Device


@dataclass(slots=True)
class Places:
    """All of them, seen at one moment; views and rules are opened when they are asked for the first time."""

    engine: Engine
    host: Place
    others: Sequence[Place]
    problems: Mapping[str, str]
    networks: Mapping[str, Network]
    """Of the engine's, by the host's interface that they stand on."""
    opened: list[Place] = field(default_factory=list)

    @classmethod
    async def look(cls, engine: Engine) -> "Places":
        """Look at the host and every container that runs. Raises OSError."""
        containers = [one for one in engine.containers.all() if one.live]
        looked = await look(engine, containers)
        rows = engine.db.all("SELECT * FROM network WHERE state = 'ready' AND config_only = 0")
        networks = {}
        for network in (network_of(engine, row) for row in rows):
            if device := engine.networks[network.driver].device(network):
                networks[device] = network
        host = Place("the host", True, looked.sights[looked.own], _in(looked, looked.own, containers))
        others = [
            Place(inside[0].name, False, sight, inside)
            for number, sight in looked.sights.items()
            if number != looked.own and (inside := _in(looked, number, containers))
        ]
        return cls(engine, host, others, looked.problems, networks)

    def close(self) -> None:
        """Let go of everything that was opened."""
        for place in self.opened:
            place.close()

    def of(self, container_id: str) -> Place | None:
        """Where a container is; None if it does not run or cannot be looked into."""
        for place in (self.host, *self.others):
            if any(one.id == container_id for one in place.containers):
                return place
        return None

    def having(self, address: Address, among: Iterable[Place] | None = None) -> list[Found]:
        """Every container's device that has an address."""
        return [
            Found(place, device)
            for place in (self.others if among is None else among)
            for device in place.sight.devices
            if not device.loopback and device.has(address)
        ]

    def at_end(self, outside: Device) -> Found | None:
        """The container's end of a cable whose end on the host this is."""
        for place in self.others:
            for device in place.sight.devices:
                if self.host.sight.other_end(device) == outside:
                    return Found(place, device)
        return None

    def network_with(self, address: Address) -> tuple[str, Network] | None:
        """The engine's network, with the host's interface of it, whose subnets hold an address."""
        for device, network in self.networks.items():
            if any(address.version == pool.subnet.version and address in pool.subnet for pool in network.pools):
                return device, network
        return None

    async def view(self, place: Place) -> View:
        """A place, to be asked. Raises OSError, TimeoutError."""
        if place.view is None:
            if place.own:
                place.view = View()
            else:
                route, diag, netfilter = await self.sockets(place, (*KINDS, NETFILTER))
                place.view, place.netfilter = View((route, diag)), Netfilter(netfilter)
            self.opened.append(place)
        return place.view

    async def sockets(self, place: Place, kinds: Sequence[tuple[int, int, int]]) -> tuple[socket.socket, ...]:
        """Sockets of a container's namespace. Raises OSError, TimeoutError, Conflict for one that has just ended."""
        running = self.engine.running.get(place.containers[0].id)
        try:
            if running is not None:
                return await running.open_sockets(kinds)
        except OSError as error:
            if not await rewiring.gone(running, error):
                raise
        raise Conflict(f"container {place.name} has just ended: ask again")

    async def rules(self, place: Place) -> Ruleset:
        """Everybody's rules in a place (of a container, nftables' alone). Raises OSError, TimeoutError."""
        if place.ruleset is None:
            await self.view(place)
            if place.netfilter is not None:
                place.ruleset = await blocking(nftdump.read, place.netfilter)
            else:
                place.ruleset = await blocking(self.engine.host_firewall.everything)
        return place.ruleset

    def is_ours(self, decision: Decision) -> bool:
        """Whether a decision is a rule's of the engine's own table."""
        return decision.base.table == marks.table(self.engine.db.instance)

    def obstacle(self, place: Place, decision: Decision, packet: Packet) -> tuple[str, str]:
        """Somebody's decision in words, and what opens it."""
        if place.own:
            found = self.engine.host_firewall.obstacle(place.ruleset or Ruleset(), decision, packet, self.networks)
            return found.what, found.command
        chain = f"{decision.chain.table} chain {decision.chain.name}"
        return f"a rule within {place.name} stops it ({chain})", f"look at `nft list ruleset` within {place.name}"


def _in(looked: Looked, number: int, containers: Sequence[Container]) -> tuple[Container, ...]:
    """The containers in one namespace, the one that it was made for first."""
    return tuple(
        sorted(
            (one for one in containers if looked.spaces.get(one.id) == number),
            key=lambda one: (network_kind(host_config_of(one).network_mode) == "container", one.created),
        )
    )
