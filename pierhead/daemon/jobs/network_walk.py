"""A packet's way from namespace to namespace, decided by what the kernels of this moment say: nothing is sent.

In each namespace its kernel is asked for the route (``View.decide``), and everybody's rules are executed on the
imagined packet (``packetpath``); from one to the next it follows the cables (``network_cables``).
"""

from dataclasses import dataclass, replace

from pierhead.daemon.jobs.network_cables import Cables
from pierhead.daemon.jobs.network_places import Address, Place, Places
from pierhead.daemon.jobs.network_stops import (
    Facts,
    Stop,
    astray,
    bridged_apart,
    no_route,
    our_own,
    unmasked,
)
from pierhead.driver.networkdriver import bridgeoptions, packetpath
from pierhead.driver.networkdriver.hostbridge import bridged_frames_are_filtered
from pierhead.driver.networkdriver.packetpath import (
    FORWARD,
    INPUT,
    OUTPUT,
    POSTROUTING,
    PREROUTING,
    Packet,
    answer_to,
    translation,
)
from pierhead.linux.netstate import RTN_LOCAL, Decision, Device
from pierhead.linux.nftdump import Ruleset

HOPS = 8
DSTNAT = -100
"""The priority at which a target is translated: chains before it see the packet as it was sent."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where a packet ends: in a place, or (None) out of sight. device: the one that it came in by."""

    place: Place | None
    packet: Packet
    device: Device | None = None


class Walk:
    """One packet's way. ``send`` and ``arrive`` raise Stop where it ends on the way; else they return an Arrival."""

    def __init__(self, places: Places, facts: Facts) -> None:
        self.places = places
        self.host = places.host
        self.facts = facts
        self.cables = Cables(places, facts)
        self.hops = 0
        self.forwarded: list[Packet] = []
        """The packet as the host's rules for forwarding saw it."""

    async def send(self, place: Place, packet: Packet) -> Arrival:
        """From a process in a place; the packet's source is the kernel's choice."""
        decision = await self.decide(place, packet)
        packet = replace(packet, source=decision.source or packet.source)
        rules = await self.places.rules(place)
        changed = translation(rules, packet, OUTPUT, place.surroundings)
        if changed is not None:
            packet = self._translate(place, packet, changed)
            decision = await self.decide(place, packet)
        device = self._device(place, decision)
        local = decision.kind == RTN_LOCAL
        packet = replace(packet, oif="lo" if local else device.name)
        self._ask(place, rules, packet, OUTPUT)
        if local:
            self.facts.add("route", f"{packet.target} is an address of {place.name} itself")
            return await self._deliver(place, replace(packet, iif="lo", oif=""), device)
        hop = f"by {decision.gateway}" if decision.gateway is not None else "directly"
        self.facts.add("route", f"{place.name} sends it from {packet.source} through {device.name}, {hop}")
        if packet.version == 4 and packet.source.is_loopback and not device.route_localnet:
            text = f"{device.name} takes no packets of loopback addresses (route_localnet is 0)"
            raise Stop("route", text, f"sysctl -w net.ipv4.conf.{device.name}.route_localnet=1")
        return await self._leave(place, packet, decision, device)

    async def arrive(self, place: Place, packet: Packet, device: Device) -> Arrival:
        """At a place, by one of its devices."""
        self.hops += 1
        if self.hops > HOPS:
            raise Stop("route", f"{packet.target} is sent in a circle", "look at the routes: `ip route`")
        packet = replace(packet, iif=device.name, oif="")
        rules = await self.places.rules(place)
        self._ask(place, _of(rules, translated=False), packet, PREROUTING)
        changed = translation(rules, packet, PREROUTING, place.surroundings)
        if changed is not None:
            packet = self._translate(place, packet, changed)
        self._ask(place, _of(rules, translated=True), packet, PREROUTING)
        decision = await self.decide(place, packet, device)
        if decision.kind == RTN_LOCAL:
            return await self._deliver(place, packet, device)
        if packet.version == 6 and not place.sight.forwards6:  # the kernel's decision does not say so
            key = "net.ipv6.conf.all.forwarding"
            raise Stop("route", f"{place.name} does not forward IPv6 packets ({key} is 0)", f"sysctl -w {key}=1")
        out = self._device(place, decision)
        packet = replace(packet, oif=out.name)
        self._ask(place, rules, packet, FORWARD)
        if place.own:
            self._bridged_back(packet, device, out)
            self.forwarded.append(packet)
        hop = f" by {decision.gateway}" if decision.gateway is not None else ""
        self.facts.add("route", f"{place.name} forwards it from {device.name} to {out.name}{hop}")
        return await self._leave(place, packet, decision, out)

    def _bridged_back(self, packet: Packet, device: Device, out: Device) -> None:
        """Raise Stop for a translated packet that goes back to its bridge, where the bridge passes it on by itself (it
        does if its frames pass the IP hooks) and keeps its ports apart."""
        network = self.places.networks.get(out.name)
        if network is None or network.driver != "bridge" or out.index != device.index or not packet.dnat:
            return
        if bridged_frames_are_filtered(packet.version) and not bridgeoptions.parse(network).icc:
            raise bridged_apart(network, packet.version)

    async def _deliver(self, place: Place, packet: Packet, device: Device) -> Arrival:
        self._ask(place, await self.places.rules(place), packet, INPUT)
        return Arrival(place, packet, device)

    async def decide(self, place: Place, packet: Packet, came_in: Device | None = None) -> Decision:
        """Where the kernel would send it. Raises Stop."""
        view = await self.places.view(place)
        try:
            if came_in is None:
                decision = view.decide(packet.target)
            else:
                decision = view.decide(packet.target, packet.source, came_in=came_in.index)
        except OSError as error:
            raise no_route(self.places, place, packet, came_in, error) from None
        if place.own and decision.kind != RTN_LOCAL:
            stop = astray(self.places, packet.target, self._device(place, decision))
            if stop is not None:
                raise stop
        return decision

    def _device(self, place: Place, decision: Decision) -> Device:
        device = place.sight.at(decision.interface)
        if device is None:
            raise Stop("route", f"{place.name} has just lost the interface that it would send through")
        return device

    # Rules -----------------------------------------------------------------------------------------------------------

    def _ask(self, place: Place, rules: Ruleset, packet: Packet, hook: int) -> None:
        """Raise Stop if a rule stops the packet."""
        found = packetpath.decisions(rules, packet, hook, place.surroundings)
        for one in found:
            if one.stops and place.own and self.places.is_ours(one):
                raise our_own(self.places, packet)
            if one.stops:
                raise Stop("rule", *self.places.obstacle(place, one, packet))
        if not all(one.certain for one in found):
            self.facts.doubt("rule", f"{place.name} has rules that ask for what cannot be known beforehand")

    def _translate(self, place: Place, packet: Packet, changed: packetpath.Translation) -> Packet:
        if changed.kind not in ("dnat", "redirect"):
            return packet
        target, port = changed.address, changed.port or packet.dport
        if changed.kind == "redirect":
            device = place.sight.device(packet.iif or "lo")
            own = [one.ip for one in device.addresses if one.version == packet.version] if device is not None else []
            target = own[0] if own else packet.target
        if target is None:
            text = f"somebody's rule on {place.name} sends {packet.target} elsewhere; where to cannot be told"
            raise Stop("rule", text, "look at `nft list ruleset`")
        self.facts.add("rule", f"{shown(packet.target, packet.dport)} is translated to {shown(target, port)}")
        return replace(packet, target=target, dport=port, dnat=True)

    async def _behind_routing(self, place: Place, packet: Packet) -> Packet:
        """The last chains: another source address, perhaps."""
        rules = await self.places.rules(place)
        self._ask(place, rules, packet, POSTROUTING)
        changed = translation(rules, packet, POSTROUTING, place.surroundings)
        if changed is None or changed.kind not in ("snat", "masquerade"):
            return packet
        source = changed.address or (await self.places.view(place)).decide(packet.target).source
        if source is None or source == packet.source:
            return packet
        self.facts.add("rule", f"{packet.source} is seen as {source}")
        return replace(packet, source=source)

    # On --------------------------------------------------------------------------------------------------------------

    async def _leave(self, place: Place, packet: Packet, decision: Decision, device: Device) -> Arrival:
        packet = await self._behind_routing(place, packet)
        hop = decision.gateway if decision.gateway is not None else packet.target
        crossing = self.cables.cross(place, device, hop)
        if crossing.bridge is not None and bridged_frames_are_filtered(packet.version):
            name = crossing.bridge.name
            self._ask(self.host, await self.places.rules(self.host), replace(packet, iif=name, oif=name), FORWARD)
        if crossing.found is not None:
            return await self.arrive(crossing.found.place, packet, crossing.found.device)
        if crossing.wire is not None:
            await self._outside(crossing.wire, hop, packet)
        return Arrival(None, packet)

    async def _outside(self, wire: Device, hop: Address, packet: Packet) -> None:
        """Raise Stop where it is plain that a packet on a wire of the host's gets no answer."""
        view = await self.places.view(self.host)
        for known in view.neighbours():
            if known.interface == wire.index and known.address == hop and known.failed:
                text = f"{hop}, the next hop, does not answer on {wire.name}"
                raise Stop("link", text, "look at `ip neigh` and at the cable")
        found = self.places.network_with(packet.source)
        if found is not None and found[1].driver == "bridge":
            text, stop = unmasked(found[1], packet)
            if stop is not None:
                raise stop
            self.facts.doubt("rule", text)

    async def back(self, arrival: Arrival) -> None:
        """Raise Stop if the answers do not come back."""
        place, packet = arrival.place, arrival.packet
        for forwarded in self.forwarded:
            self._ask(self.host, await self.places.rules(self.host), answer_to(forwarded), FORWARD)
        if place is None or place.own or packet.iif == "lo":
            return
        try:
            await self.decide(place, Packet(packet.target, packet.source, packet.proto, packet.dport, packet.sport))
        except Stop as stop:
            raise Stop(stop.step, f"it arrives, but no answer comes back: {stop.text}", stop.remedy) from None


def shown(address: Address, port: int) -> str:
    """``10.0.0.2:80``, ``[::1]:80``."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def _of(rules: Ruleset, *, translated: bool) -> Ruleset:
    """The chains behind the translation of targets, or those in front of it; such as are only jumped to stay."""
    chains = (chain for chain in rules.chains if chain.hook < 0 or (chain.priority > DSTNAT) == translated)
    return Ruleset(tuple(chains), rules.sets)
