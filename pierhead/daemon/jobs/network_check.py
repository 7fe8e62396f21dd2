"""Does A reach B, and if not, where does it end (``pier network check``)? Name, route, link, rule, listener.

All is read from the kernel at this moment.  Where nothing stands in the way of a TCP connection it is made, and closed
at once: what cannot be seen from here (another machine, a program that does not accept) is told by that.
"""

import asyncio
import os
import socket
from dataclasses import dataclass
from ipaddress import ip_address

from pierhead.daemon.engine.engine import Engine, phase
from pierhead.daemon.jobs import endpoints, network_names, port_allocation
from pierhead.daemon.jobs.network_listeners import listen, takes
from pierhead.daemon.jobs.network_places import Address, Place, Places
from pierhead.daemon.jobs.network_sight import PROTOCOLS
from pierhead.daemon.jobs.network_stops import RELOAD, STEPS, Facts, Stop, local_only
from pierhead.daemon.jobs.network_walk import Arrival, Walk, shown
from pierhead.driver.networkdriver import bridgeoptions, reservations
from pierhead.driver.networkdriver.api import PortBinding, PublishPolicy
from pierhead.driver.networkdriver.bridgeoptions import GatewayMode
from pierhead.driver.networkdriver.packetpath import Packet
from pierhead.errors import InvalidParameter
from pierhead.graph.containers import Container
from pierhead.graph.state import State
from pierhead.linux.netstate import Device
from pierhead.wire.network_check import CheckStep, NetworkCheck

EVERYWHERE = "publish it at every address: -p PORT:PORT"
PATIENCE = 3.0
"""Seconds that a connection may take."""


@dataclass(frozen=True, slots=True)
class Destination:
    """What the user wants to reach. port None: the address alone, by ICMP."""

    name: str
    port: int | None
    proto: str


def parse(text: str) -> Destination:
    """``name``, ``name:80``, ``10.0.0.2:53/udp``, ``[::1]:80``, ``::1``. Raises InvalidParameter."""
    body, _, proto = text.removeprefix("/").partition("/")
    proto = proto.lower() or "tcp"
    if body.startswith("["):
        name, _, number = body[1:].partition("]")
        number = number.removeprefix(":")
    elif body.count(":") > 1:
        name, number = body, ""
    else:
        name, _, number = body.partition(":")
    port = int(number) if number.isascii() and number.isdecimal() else 0 if number else None
    if not name or proto not in ("tcp", "udp", "sctp") or (port is not None and not 0 < port < 65536):
        raise InvalidParameter(f'invalid destination "{text}": it must be NAME|ADDRESS[:PORT][/udp]')
    return Destination(name, port, proto)


async def check(engine: Engine, source: str, destination: str) -> NetworkCheck:
    """Follow the way from a container, "host" or "outside". Raises InvalidParameter, NoSuchContainer, OSError."""
    wanted = parse(destination)
    sender = engine.containers.find(source) if source not in ("host", "outside") else None
    with phase("look into every namespace"):
        places = await Places.look(engine)
    try:
        one = _Check(places, wanted)
        stop = await one.follow(source, sender)
    finally:
        places.close()
    return NetworkCheck(
        source=source,
        destination=destination,
        protocol=wanted.proto if wanted.port is not None else "icmp",
        port=wanted.port,
        reachable=stop is None,
        steps=_steps(one.facts, stop),
    )


def _steps(facts: Facts, stop: Stop | None) -> list[CheckStep]:
    steps = [
        CheckStep(name=name, status="unknown" if name in facts.doubts else "ok", text="; ".join(facts.by_step[name]))
        for name in STEPS
        if name in facts.by_step
    ]
    if stop is not None:
        steps.append(CheckStep(name=stop.step, status="failed", text=stop.text, remedy=stop.remedy))
    return steps


class _Check:
    """One question, while it is answered."""

    def __init__(self, places: Places, wanted: Destination) -> None:
        self.places = places
        self.engine = places.engine
        self.wanted = wanted
        self.facts = Facts()
        self.walk = Walk(places, self.facts)
        self.outside = False

    async def follow(self, source: str, sender: Container | None) -> Stop | None:
        """The whole way; why it ends, or None."""
        try:
            if source == "outside":
                self.outside = True
                await self._from_outside()
            else:
                place = self.places.host if sender is None else self._place(sender)
                await self._from(place)
        except Stop as stop:
            return stop
        return None

    def _place(self, sender: Container) -> Place:
        """Where a container is. Raises Stop."""
        if not sender.live:
            raise Stop("source", f"{sender.name} is not running ({sender.state})", f"pier start {sender.name}")
        if sender.state is State.PAUSED:
            raise Stop("source", f"{sender.name} is paused: it sends nothing", f"pier unpause {sender.name}")
        place = self.places.of(sender.id)
        if place is None:
            raise Stop("source", f"{sender.name}: {self.places.problems.get(sender.id, 'it has just ended')}")
        if not place.own:
            place.name = sender.name
        return place

    def _packet(self, target: Address, port: int | None) -> Packet:
        unknown = ip_address("0.0.0.0" if target.version == 4 else "::")
        if port is None:
            return Packet(unknown, target, "icmp" if target.version == 4 else "icmpv6", 0, 0)
        return Packet(unknown, target, self.wanted.proto, dport=port)

    # From here -------------------------------------------------------------------------------------------------------

    async def _from(self, place: Place) -> None:
        target = await self._target(place)
        packet = self._packet(target, self.wanted.port)
        arrival = await self.walk.send(place, packet)
        await self._finish(arrival)
        if self.wanted.port is not None and self.wanted.proto == "tcp":
            await self._connect(place, target, self.wanted.port, arrival.place is not None)

    async def _target(self, place: Place) -> Address:
        """The address that is meant, as a place understands it. Raises Stop."""
        name = self.wanted.name
        try:
            return ip_address(name)
        except ValueError:
            pass
        if name == "host":
            return self._host_of(place)
        if place.own and (container := network_names.called(self.places, name)) is not None:
            return self._address_of(container)
        return await network_names.resolve(self.places, place, name, self.facts)

    def _host_of(self, place: Place) -> Address:
        """The host's address, as a place reaches it."""
        if place.own:
            return ip_address("127.0.0.1")
        for route in place.sight.defaults:
            if route.gateway is not None and any(one.has(route.gateway) for one in self.places.host.sight.devices):
                self.facts.add("name", f"the host is {route.gateway}")
                return route.gateway
        address = self._egress(4)[1]
        self.facts.add("name", f"the host is {address}")
        return address

    def _address_of(self, container: Container) -> Address:
        """A container's own address. Raises Stop."""
        if not container.live:
            raise Stop("name", f"{container.name} is not running ({container.state})", f"pier start {container.name}")
        place = self.places.of(container.id)
        if place is not None and place.own:
            self.facts.add("name", f"{container.name} is in the host's network")
            return ip_address("127.0.0.1")
        owner = place.containers[0] if place is not None else container
        rows = [row for row in endpoints.endpoint_rows(self.engine, owner.id) if row["ipv4"] or row["ipv6"]]
        if not rows:
            remedy = f"pier network connect NETWORK {container.name}"
            raise Stop("name", f"{container.name} has no address: it is in no network", remedy)
        row = next((row for row in rows if row["gateway"]), rows[0])
        address = ip_address((row["ipv4"] or row["ipv6"]).partition("/")[0])
        self.facts.add("name", f"{container.name} is {address} in {row['network_name']}")
        return address

    def _egress(self, version: int) -> tuple[Device, Address]:
        """The host's device that leads outside, and its address there. Raises Stop."""
        sight = self.places.host.sight
        ways = [sight.at(route.interface) for route in sight.defaults]
        real = [one for one in sight.devices if not one.loopback and one.kind != "bridge" and not one.master]
        for device in (*ways, *real):
            if device is None or device.name in self.places.networks:
                continue
            for interface in device.addresses:
                if interface.version == version and not interface.ip.is_link_local:
                    return device, interface.ip
        raise Stop("route", f"the host has no IPv{version} address that others could reach", "look at `ip address`")

    # From another machine --------------------------------------------------------------------------------------------

    async def _from_outside(self) -> None:
        target, port = await self._outer_target()
        for found in self.places.having(target):
            if found.device.kind in ("macvlan", "ipvlan"):
                self.facts.add("route", f"{target} is on the wire of the host's own network")
                packet = self._arriving(found.device, target, port)
                await self._finish(await self.walk.arrive(found.place, packet, found.device))
                return
        device, _ = self._egress(target.version)
        if not device.up or not device.carrier:
            raise Stop("link", f"{device.name}, the host's way outside, is down", f"ip link set {device.name} up")
        if target.is_loopback:
            raise Stop("route", f"{target} is another machine's own: from outside nobody reaches the host by it")
        known = any(one.has(target) for one in self.places.host.sight.devices)
        if not known and self.places.network_with(target) is None:
            raise Stop("route", f"{target} is no address of this host", "pier network map shows which there are")
        self.facts.add("link", device.name)
        await self._finish(await self.walk.arrive(self.places.host, self._arriving(device, target, port), device))

    def _arriving(self, device: Device, target: Address, port: int | None) -> Packet:
        """What somebody on a device's wire sends: its router, or a neighbour."""
        packet = self._packet(target, port)
        for route in self.places.host.sight.defaults:
            gateway = route.gateway
            if route.interface == device.index and gateway is not None and gateway.version == target.version:
                return Packet(gateway, target, packet.proto, packet.sport, packet.dport)
        for interface in device.addresses:
            if interface.version == target.version and interface.network.num_addresses > 2:
                first = interface.network.network_address + 1
                source = first if first != interface.ip else first + 1
                return Packet(source, target, packet.proto, packet.sport, packet.dport)
        return packet

    async def _outer_target(self) -> tuple[Address, int | None]:
        """The address and port that another machine has to use. Raises Stop."""
        name, port = self.wanted.name, self.wanted.port
        try:
            return ip_address(name), port
        except ValueError:
            pass
        if name == "host":
            return self._egress(4)[1], port
        container = network_names.called(self.places, name)
        if container is not None:
            return self._published(container)
        return await network_names.resolve(self.places, self.places.host, name, self.facts), port

    def _published(self, container: Container) -> tuple[Address, int | None]:
        """Where others reach a port of a container: at a port of the host. Raises Stop."""
        port, proto = self.wanted.port, self.wanted.proto
        address = self._address_of(container)
        if address.is_loopback:
            return self._egress(4)[1], port
        if any(found.device.kind in ("macvlan", "ipvlan") for found in self.places.having(address)):
            return address, port
        if port is None:
            raise InvalidParameter(f"say which port of {container.name}: {container.name}:PORT")
        place = self.places.of(container.id)
        owner = place.containers[0] if place is not None else container
        bindings = [one for one in endpoints.bindings_of(self.engine, owner.id) if one.proto == proto]
        inside = [one for one in bindings if one.container_low <= port <= one.container_high]
        if any(one.direct and one.host_ip == str(address) for one in inside) or (not inside and self._open(address)):
            self.facts.add("name", f"{container.name} is reached at its own address, {address}")
            return address, port
        inside = [one for one in inside if not one.direct]
        for one in sorted(inside, key=lambda one: one.host_ip not in ("", "0.0.0.0", "::")):
            at = one.host_low + port - one.container_low
            egress = self._egress(6 if ":" in one.host_ip else 4)[1]
            if one.host_ip in ("", "0.0.0.0", "::", str(egress)):
                self.facts.add("name", f"{port}/{proto} of {container.name} is published at {shown(egress, at)}")
                return egress, at
            if not ip_address(one.host_ip).is_loopback:
                return ip_address(one.host_ip), at
        if inside:
            where = ", ".join(shown(ip_address(one.host_ip), one.host_low) for one in inside)
            raise Stop("rule", f"{port}/{proto} of {container.name} is published at {where} only", EVERYWHERE)
        if any(not one.direct and one.host_low <= port <= one.host_high for one in bindings):
            return self._egress(4)[1], port
        remedy = f"pier update --publish-add {port}:{port}{'' if proto == 'tcp' else f'/{proto}'} {container.name}"
        raise Stop("rule", f"{port}/{proto} of {container.name} is not published", remedy)

    def _open(self, address: Address) -> bool:
        """Whether a bridge network lets others to every port of its containers' own addresses."""
        found = self.places.network_with(address)
        if found is None or found[1].driver != "bridge":
            return False
        return bridgeoptions.parse(found[1]).mode(address.version) is GatewayMode.UNPROTECTED

    # The end ---------------------------------------------------------------------------------------------------------

    async def _finish(self, arrival: Arrival) -> None:
        """What has arrived: whether anybody takes it, and whether answers come back. Raises Stop."""
        if arrival.place is not None and arrival.place.own and self.wanted.port is not None:
            arrival = await self._passed_on(arrival)
        await self.walk.back(arrival)
        if "link" in self.facts.by_step and "rule" not in self.facts.by_step:
            self.facts.add("rule", "no rule stops it")
        if arrival.place is not None and self.wanted.port is not None:
            await listen(self.places, arrival.place, arrival.packet, arrival.device, self.facts)

    async def _passed_on(self, arrival: Arrival) -> Arrival:
        """A published port that no rule translates is served by a socket of the engine's, or not at all."""
        packet = arrival.packet
        rows = self.engine.db.all(
            "SELECT container_id FROM port WHERE direct = 0 AND proto = ? AND low <= ? AND high >= ?",
            (packet.proto, packet.dport, packet.dport),
        )
        if not rows or packet.proto not in PROTOCOLS:
            return arrival
        container = self.engine.containers.get(rows[0]["container_id"])
        bindings = [
            one
            for one in endpoints.bindings_of(self.engine, container.id)
            if not one.direct and one.proto == packet.proto and one.host_low <= packet.dport <= one.host_high
        ]
        view = await self.places.view(self.places.host)
        sockets = [one for one in view.bound(PROTOCOLS[packet.proto]) if one.port == packet.dport]
        serving = any(one.serves and takes(one, packet.target, arrival.device) for one in sockets)
        at = shown(packet.target, packet.dport)
        for binding in bindings:
            if _fits(binding.host_ip, packet.target):
                inside = self._inside(container, binding, packet) if serving else None
                if inside is None and self.outside and self.engine.config.publish_policy is PublishPolicy.LOCAL:
                    raise local_only(packet)
                if inside is None:
                    text = f"{at} is published by {container.name}, but the rule that translates it is missing"
                    raise Stop("rule", text, RELOAD)
                to = shown(inside.target, inside.dport)
                self.facts.add("rule", f"{at} is served by the engine, which passes it on to {to}")
                return await self.walk.send(self.places.host, inside)
        if serving:
            return arrival
        where = ", ".join(shown(ip_address(one.host_ip), one.host_low) for one in bindings)
        text = f"{packet.dport}/{packet.proto} of {container.name} is published at {where} only"
        raise Stop("rule", f"{text}, not at {packet.target}", EVERYWHERE)

    def _inside(self, container: Container, binding: PortBinding, packet: Packet) -> Packet | None:
        """What the engine's socket passes on to the container; None if it is there to keep the port only."""
        carrier = next((one for one in endpoints.active(self.engine, container.id) if one[1].gateway), None)
        if carrier is None:
            return None
        addresses = port_allocation.addresses(self.engine, *carrier)
        if not reservations.serves(binding, addresses, self.engine.config.publish_policy):
            return None
        found = [one for one in (addresses.ipv4, addresses.ipv6) if one is not None]
        target = min(found, key=lambda one: one.version != packet.version)
        return self._packet(target, binding.container_low + packet.dport - binding.host_low)

    async def _connect(self, place: Place, target: Address, port: int, seen: bool) -> None:
        """Make a connection, for what cannot be seen. Raises Stop if none comes about."""
        family = socket.AF_INET if target.version == 4 else socket.AF_INET6
        kind = int(family), int(socket.SOCK_STREAM), 0
        if place.own:
            connection = socket.socket(*kind)
        else:
            [connection] = await self.places.sockets(place, [kind])
        with connection:
            connection.setblocking(False)
            try:
                async with asyncio.timeout(PATIENCE):
                    await asyncio.get_running_loop().sock_connect(connection, (str(target), port))
            except TimeoutError:
                why = "nobody answers"
            except OSError as error:
                why = os.strerror(error.errno) if error.errno else str(error)
            else:
                self.facts.add("connect", f"a connection to {shown(target, port)} was made")
                return
        where = "all that can be seen is in order" if seen else "what is beyond the host cannot be seen from here"
        raise Stop("connect", f"no connection to {shown(target, port)}: {why.lower()}; {where}")


def _fits(ip: str, address: Address) -> bool:
    """Whether a port that is published at ``ip`` ("" = everywhere) is published at an address."""
    if ip in ("", "0.0.0.0", "::"):
        return not ip or (":" in ip) == (address.version == 6)
    return ip_address(ip) == address
