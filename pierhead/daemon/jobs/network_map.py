"""The map of all networks: what the kernel has, joined with what GraphDB knows of it (``pier network map``)."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pierhead.daemon.engine.engine import Engine, blocking, phase
from pierhead.daemon.jobs import endpoints, host_changes
from pierhead.daemon.jobs.describe import dns_names, host_config_of
from pierhead.daemon.jobs.listening import listeners
from pierhead.daemon.jobs.network_rows import network_of
from pierhead.daemon.jobs.network_sight import Looked, Sight, look, owners
from pierhead.driver.networkdriver import bridgeoptions, marks
from pierhead.driver.networkdriver.api import Endpoint, Network
from pierhead.graph.containers import Container
from pierhead.linux.netstate import Device
from pierhead.wire import network_map as wire


@dataclass(frozen=True, slots=True)
class Joined:
    """One active endpoint with what it is called."""

    network: Network
    endpoint: Endpoint
    names: tuple[str, ...]


async def show(engine: Engine) -> wire.NetworkMap:
    """Look at everything and put it together. Raises OSError if the host's own state cannot be read."""
    containers = sorted((one for one in engine.containers.all() if one.live), key=lambda one: one.name)
    joined = {container.id: _joined(engine, container) for container in containers}
    networks = [
        network_of(engine, row)
        for row in engine.db.all("SELECT * FROM network WHERE state = 'ready' AND config_only = 0")
    ]
    drivers = engine.networks
    devices = {network.id: drivers[network.driver].device(network) for network in networks}
    closed = frozenset(
        network.id for network in networks if devices[network.id] and not drivers[network.driver].outward(network)
    )
    with phase("look into every namespace"):
        looked = await look(engine, containers)
        processes = await blocking(lambda: {one.id: owners(engine, one.id) for one in containers})
    group = marks.group(engine.db.instance)
    map = _Drawing(looked, containers, joined, networks, devices, closed, processes, group).whole()
    with phase("compare the rules"):
        map.problems += await host_changes.damaged_rules(engine)
    return map


def _joined(engine: Engine, container: Container) -> list[Joined]:
    rows = {row["id"]: row for row in endpoints.endpoint_rows(engine, container.id)}
    found = []
    for network, endpoint in endpoints.active(engine, container.id):
        names: tuple[str, ...] = ()
        if endpoints.named(engine, network.driver, network.name):
            names = tuple(dns_names(container, endpoints.asked(rows[endpoint.id])))
        found.append(Joined(network, endpoint, names))
    return found


def interface(device: Device, parent: str = "", network: str = "", gateways: Sequence[str] = ()) -> wire.Interface:
    """A device as the map has it."""
    return wire.Interface(
        name=device.name,
        kind=device.kind,
        up=device.up,
        carrier=device.carrier,
        mtu=device.mtu,
        mac=device.mac,
        addresses=[str(address) for address in device.addresses if not address.ip.is_link_local],
        parent=parent,
        network=network,
        gateways=list(gateways),
    )


class _Drawing:
    """One map in the making. Pure: everything has been read."""

    def __init__(
        self,
        looked: Looked,
        containers: Sequence[Container],
        joined: Mapping[str, Sequence[Joined]],
        networks: Sequence[Network],
        devices: Mapping[str, str],
        closed: frozenset[str],
        processes: Mapping[str, Mapping[int, str]],
        group: int,
    ) -> None:
        """closed: networks that lead nowhere outside.  group: our mark."""
        self.looked = looked
        self.host = looked.sights[looked.own]
        self.containers = containers
        self.joined = joined
        self.networks = networks
        self.devices = devices
        self.closed = closed
        self.processes = processes
        self.group = group
        self.accounted: set[int] = set()
        """Host's devices that are drawn as the end of an attachment."""

    def whole(self) -> wire.NetworkMap:
        networks = [self._network(network) for network in sorted(self.networks, key=_order)]
        carried = {self.devices[network.id]: network.name for network in self.networks}
        interfaces = [
            interface(
                device,
                self._parent(device),
                carried.get(device.name, "") if device.group == self.group else "",
                self._gateways(device),
            )
            for device in self.host.devices
            if device.index not in self.accounted
        ]
        return wire.NetworkMap(
            host=os.uname().nodename,
            forwards=self.host.forwards,
            interfaces=interfaces,
            networks=networks,
            containers=[self._container(container) for container in self.containers],
            problems=self._strangers(carried),
        )

    def _parent(self, device: Device) -> str:
        above = self.host.at(device.master) or (None if device.elsewhere else self.host.at(device.peer))
        return "" if above is None or above is device else above.name

    def _gateways(self, device: Device) -> list[str]:
        return [str(route.gateway or "link") for route in self.host.defaults if route.interface == device.index]

    def _strangers(self, carried: Mapping[str, str]) -> list[str]:
        """What carries our mark in the kernel and is nowhere in GraphDB."""
        return [
            f"{device.name} carries this engine's mark, but no network or container accounts for it"
            for device in self.host.devices
            if device.group == self.group and device.index not in self.accounted and device.name not in carried
        ]

    # Networks --------------------------------------------------------------------------------------------------------

    def _network(self, network: Network) -> wire.Network:
        name = self.devices[network.id]
        gateways = [str(pool.gateway) for pool in network.pools if pool.gateway is not None]
        return wire.Network(
            name=network.name,
            id=network.id,
            driver=network.driver,
            internal=network.id in self.closed,
            interface=name,
            subnets=[str(pool.subnet) for pool in network.pools],
            gateways=gateways,
            attachments=[
                self._attachment(container, one)
                for container in self.containers
                for one in self.joined[container.id]
                if one.network.id == network.id
            ],
            problems=list(self._troubles(network, name)),
        )

    def _troubles(self, network: Network, name: str) -> Iterable[str]:
        if not name:
            return
        device = self.host.device(name)
        if device is None:
            yield f"{name} is missing"
            return
        if not device.up:
            yield f"{name} is down"
        if network.driver != "bridge":
            return
        options = bridgeoptions.parse(network)
        for pool in network.pools:
            if pool.gateway is not None and options.gated(pool.subnet.version) and not device.has(pool.gateway):
                yield f"{name} has lost its address {pool.gateway}/{pool.subnet.prefixlen}"

    # Attachments -----------------------------------------------------------------------------------------------------

    def _attachment(self, container: Container, one: Joined) -> wire.Attachment:
        sight = self.looked.of(container.id)
        inside = sight.device(one.endpoint.interface) if sight is not None else None
        outside = self.host.other_end(inside) if inside is not None else None
        if outside is not None:
            self.accounted.add(outside.index)
        drawn = inside is not None and self.looked.spaces[container.id] != self.looked.own
        return wire.Attachment(
            container=container.id,
            names=list(one.names),
            interface=inside.name if inside is not None and drawn else "",
            outside=outside.name if outside is not None else "",
            up=drawn and inside is not None and inside.up and inside.carrier,
            mac=inside.mac if inside is not None and drawn else "",
            mtu=inside.mtu if inside is not None and drawn else 0,
            addresses=interface(inside).addresses if inside is not None and drawn else [],
            way_out=one.endpoint.gateway,
            problems=list(self._mismatches(one, sight, inside, outside)),
        )

    def _mismatches(
        self, one: Joined, sight: Sight | None, inside: Device | None, outside: Device | None
    ) -> Iterable[str]:
        endpoint = one.endpoint
        wanted = [address for address in (endpoint.ipv4, endpoint.ipv6) if address is not None]
        if not wanted or sight is None:
            return
        if inside is None:
            yield f"{endpoint.interface} is missing in the container ({', '.join(map(str, wanted))} in the database)"
            return
        if not inside.up:
            yield f"{inside.name} is down in the container"
        yield from (f"{inside.name} has lost its address {address}" for address in wanted if not inside.has(address.ip))
        for address in inside.addresses:
            if address not in wanted and not address.ip.is_link_local:
                yield f"{inside.name} has {address}, which the database does not know"
        if endpoint.gateway and not any(route.interface == inside.index for route in sight.defaults):
            yield "its default route is missing in the container"
        if inside.kind == "veth":
            yield from self._host_end(one, outside)

    def _host_end(self, one: Joined, outside: Device | None) -> Iterable[str]:
        bridge = self.host.device(self.devices[one.network.id])
        if outside is None:
            yield "the host's end of its cable is missing"
        elif bridge is not None and outside.master != bridge.index:
            there = self.host.at(outside.master)
            yield f"{outside.name} is not a port of {bridge.name}" + (f" but of {there.name}" if there else "")
        elif not outside.up:
            yield f"{outside.name}, the host's end of its cable, is down"
        elif outside.blocked and outside.carrier and bridge is not None and bridge.up:
            yield f"{outside.name} is blocked by the bridge"

    # Containers ------------------------------------------------------------------------------------------------------

    def _container(self, container: Container) -> wire.Container:
        mode = host_config_of(container).network_mode or "bridge"
        sight = self.looked.of(container.id)
        problem = self.looked.problems.get(container.id)
        ports = [binding for one in self.joined[container.id] for binding in one.endpoint.ports]
        return wire.Container(
            id=container.id,
            name=container.name,
            image=container.image_name,
            state=str(container.state),
            mode=mode,
            shares=self._shares(container, mode),
            ports=[
                wire.Port(
                    protocol=binding.proto,
                    ip=binding.host_ip,
                    port=binding.host_low,
                    last=binding.host_high,
                    container_port=binding.container_low,
                )
                for binding in ports
            ],
            listeners=listeners(self.processes[container.id], sight.sockets) if sight is not None else [],
            others=self._others(container, sight) if sight is not None else [],
            problems=[problem] if problem else [],
        )

    def _shares(self, container: Container, mode: str) -> str:
        """The container whose network namespace it really is in: after the owner's restart that is another one."""
        kind, _, name = mode.partition(":")
        if kind != "container":
            return ""
        space = self.looked.spaces.get(container.id)
        for other in self.containers:
            if name in (other.id, other.name) or other.id.startswith(name):
                return other.id if self.looked.spaces.get(other.id) == space else ""
        return ""

    def _others(self, container: Container, sight: Sight) -> list[wire.Interface]:
        """Interfaces in its own namespace that are nobody's of the engine."""
        if self.looked.spaces[container.id] == self.looked.own or self._shares(
            container, host_config_of(container).network_mode
        ):
            return []
        known = {one.endpoint.interface for one in self.joined[container.id]}
        return [
            interface(device)
            for device in sight.devices
            if not device.loopback and device.name not in known and (device.up or device.addresses)
        ]


def _order(network: Network) -> tuple[int, str]:
    """The default bridge first, those that stand on no interface last."""
    return {"bridge": 0, "host": 2, "none": 3}.get(network.name, 1), network.name
