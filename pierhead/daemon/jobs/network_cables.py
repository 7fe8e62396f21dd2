"""From one namespace to the next: by a veth to its other end, by a port to its bridge, by a parent to its wire."""

from collections.abc import Sequence
from dataclasses import dataclass

from pierhead.daemon.jobs.network_places import Address, Found, Place, Places
from pierhead.daemon.jobs.network_stops import RELOAD, Facts, Stop, quiet, ungated
from pierhead.driver.networkdriver import sysctls
from pierhead.linux.netstate import Device

MACVLAN_PRIVATE, MACVLAN_VEPA = 1, 2
PORTS = "look at `bridge link`"


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where a packet comes to. found: the place and its device; None: out of sight.

    wire: the host's device by which it leaves the host, if it does.  bridge: it went from port to port of this one.
    """

    found: Found | None = None
    wire: Device | None = None
    bridge: Device | None = None


class Cables:
    """All of them, as they are plugged at one moment."""

    def __init__(self, places: Places, facts: Facts) -> None:
        self.places = places
        self.host = places.host
        self.facts = facts

    def cross(self, place: Place, device: Device, hop: Address) -> Crossing:
        """Where what leaves a place by a device for the next hop comes to. Raises Stop where it is lost."""
        self._carries(place, device)
        if place.own and device.kind == "bridge":
            return self._bridge(device, None, hop)
        if place.own:
            end = self.places.at_end(device)
            return Crossing(end) if end is not None else self._wire(device, hop)
        if device.kind == "veth":
            return self._veth(Found(place, device), hop)
        if device.kind in ("macvlan", "ipvlan"):
            return self._parent(Found(place, device), hop)
        self.facts.doubt("link", f"{device.name} of {place.name} is none of the engine's making: it is not followed")
        return Crossing()

    def _carries(self, place: Place, device: Device) -> None:
        """Raise Stop for a device that is down, or has nothing at its other end."""
        if not device.up:
            where = "" if place.own else f" in {place.name}"
            remedy = f"ip link set {device.name} up" if place.own else f"pier restart {place.containers[0].name}"
            raise Stop("link", f"{device.name} is down{where}", remedy)
        if not device.carrier and device.kind != "bridge":
            if not place.own and device.kind == "veth":
                self._port(Found(place, device))  # says which end it is
            raise Stop("link", f"{device.name} of {place.name} has no carrier: nothing is at its other end")

    # Veths and bridges -----------------------------------------------------------------------------------------------

    def _port(self, end: Found) -> Device:
        """The host's end of a container's cable. Raises Stop."""
        port = self.host.sight.other_end(end.device)
        whose = f"the host's end of {end.place.name}'s {end.device.name}"
        if port is None:
            raise Stop("link", f"{whose} is missing", f"pier restart {end.place.containers[0].name}")
        if not port.up:
            raise Stop("link", f"{port.name}, {whose}, is down", f"ip link set {port.name} up")
        return port

    def _unplugged(self, port: Device, bridge: str) -> Stop:
        there = self.host.sight.at(port.master)
        text = f"{port.name} is not a port of bridge {bridge}" + (f" but of {there.name}" if there is not None else "")
        return Stop("link", text, f"ip link set {port.name} master {bridge}")

    def _veth(self, sender: Found, hop: Address) -> Crossing:
        """From a container to the bridge that its cable ends at, or straight to the host."""
        port = self._port(sender)
        bridge = self.host.sight.at(port.master)
        wanted = next((self.places.network_with(one.ip) for one in sender.device.addresses), None)
        if wanted is not None and (bridge is None or bridge.name != wanted[0]):
            if self.host.sight.device(wanted[0]) is None:
                raise Stop("link", f"{wanted[0]}, the bridge of network {wanted[1].name}, is missing", RELOAD)
            raise self._unplugged(port, wanted[0])
        if bridge is None:
            return Crossing(Found(self.host, port))
        return self._bridge(bridge, sender, hop)

    def _bridge(self, bridge: Device, sender: Found | None, hop: Address) -> Crossing:
        """Over a bridge of the host. sender: the container's device that it came from; None: the host itself."""
        if not bridge.up:
            raise Stop("link", f"bridge {bridge.name} is down", f"ip link set {bridge.name} up")
        devices = [bridge]
        port = None
        if sender is not None:
            port = self._plugged(bridge, sender)
            devices = [sender.device, port]
        way = [device.name for device in devices]
        if sender is not None:
            way.append(bridge.name)
        if bridge.has(hop):
            self.facts.add("link", " ─ ".join(way))
            self._frames(devices)
            return Crossing(Found(self.host, bridge))
        receiver = self._behind(bridge, hop)
        if receiver is None:
            self.facts.add("link", " ─ ".join(way))
            self.facts.doubt("link", f"{hop} may be behind a port of {bridge.name} that is none of the engine's")
            return Crossing()
        out = self._plugged(bridge, receiver)
        self._carries(receiver.place, receiver.device)
        if port is not None and port.isolated and out.isolated and _answers_for_ports(bridge, hop):
            self.facts.add("link", " ─ ".join(way))
            self._frames(devices)
            return Crossing(Found(self.host, bridge))
        self.facts.add("link", " ─ ".join([*way, out.name, receiver.device.name]))
        if port is not None and port.isolated and out.isolated:
            network = self.places.networks.get(bridge.name)
            text = f"{port.name} and {out.name} are isolated ports of {bridge.name}"
            raise Stop("link", text, PORTS) if network is None else quiet(network)
        self._frames([*devices, out, receiver.device])
        return Crossing(receiver, bridge=bridge if port is not None else None)

    def _plugged(self, bridge: Device, end: Found) -> Device:
        """The port of a bridge at which a container's cable ends. Raises Stop."""
        port = self._port(end)
        if port.master != bridge.index:
            raise self._unplugged(port, bridge.name)
        if port.blocked and port.carrier:
            raise Stop("link", f"bridge {bridge.name} blocks its port {port.name}", PORTS)
        return port

    def _behind(self, bridge: Device, hop: Address) -> Found | None:
        """Who has an address on a bridge; None: perhaps somebody who is not ours. Raises Stop: nobody, for sure."""
        having = self.places.having(hop)
        if having:
            ports = [(found, self.host.sight.other_end(found.device)) for found in having]
            here = (found for found, port in ports if port is not None and port.master == bridge.index)
            return next(here, having[0])  # ``_plugged`` says what is wrong with one that is elsewhere
        others = [one for one in self.host.sight.devices if one.master == bridge.index]
        if any(self.places.at_end(one) is None for one in others):
            return None
        raise self._nobody(bridge, hop)

    def _nobody(self, bridge: Device, hop: Address) -> Stop:
        """Why no one answers for an address on a bridge."""
        network = self.places.networks.get(bridge.name)
        if network is not None and any(pool.gateway == hop for pool in network.pools):
            if why := ungated(network, hop):
                return Stop("link", f"nobody has {hop}, by which its containers leave: {why}")
            text = f"bridge {bridge.name} has lost the address {hop}, by which its containers leave"
            return Stop("link", text, RELOAD)
        row = self.places.engine.db.first(
            "SELECT c.name FROM endpoint e JOIN container c ON c.id = e.container_id "
            "WHERE e.active = 1 AND (e.ipv4 LIKE ? OR e.ipv6 LIKE ?)",
            (f"{hop}/%", f"{hop}/%"),
        )
        if row is not None:
            name = row["name"]
            text = f"nobody on {bridge.name} answers for {hop}: {name} has lost that address"
            return Stop("link", text, f"pier restart {name}")
        return Stop("link", f"nobody on {bridge.name} has the address {hop}", "pier network map shows who has which")

    def _frames(self, devices: Sequence[Device]) -> None:
        """Raise Stop where the sender's full frames do not fit through what follows: nobody is told of their loss."""
        sender, *others = devices
        narrow = min(others, key=lambda device: device.mtu, default=sender)
        if narrow.mtu < sender.mtu:
            text = (
                f"packets of more than {narrow.mtu} bytes are lost at {narrow.name}, and {sender.name} sends up to "
                f"{sender.mtu}: a connection is made, and hangs when there is much to send"
            )
            raise Stop("link", text, f"ip link set {narrow.name} mtu {sender.mtu}")

    # Wires -----------------------------------------------------------------------------------------------------------

    def _parent(self, sender: Found, hop: Address) -> Crossing:
        """By a macvlan or ipvlan: over the parent's wire, past the host's routes and rules."""
        device = sender.device
        parent = self.host.sight.at(device.peer)
        if parent is None:
            text = f"the parent of {sender.place.name}'s {device.name} is gone"
            raise Stop("link", text, f"pier restart {sender.place.containers[0].name}")
        self._carries(self.host, parent)
        for found in self.places.having(hop):
            if (found.device.kind, found.device.peer) == (device.kind, device.peer):
                if device.kind == "macvlan" and device.mode in (MACVLAN_PRIVATE, MACVLAN_VEPA):
                    mode = "private" if device.mode == MACVLAN_PRIVATE else "vepa"
                    raise Stop("link", f"containers on {parent.name} do not reach each other (macvlan mode {mode})")
                self.facts.add("link", f"{device.name} ─ {parent.name} ─ {found.device.name}")
                return Crossing(found)
        if any(one.has(hop) for one in self.host.sight.devices):
            raise self._own_host(device, parent)
        self.facts.add("link", f"{device.name} ─ {parent.name}")
        return Crossing()

    def _own_host(self, device: Device, parent: Device) -> Stop:
        text = f"a {device.kind} container on {parent.name} and its own host do not reach each other over {parent.name}"
        return Stop("link", text, "connect the container to a bridge network as well")

    def _wire(self, device: Device, hop: Address) -> Crossing:
        """Out of the host."""
        for found in self.places.having(hop):
            if found.device.kind in ("macvlan", "ipvlan") and found.device.peer == device.index:
                raise self._own_host(found.device, device)
        self.facts.add("link", device.name)
        return Crossing(wire=device)


def _answers_for_ports(bridge: Device, hop: Address) -> bool:
    """Whether a bridge itself takes what its isolated ports send to each other, and the host's rules decide (RFC 3069:
    a default bridge without icc, for links)."""
    return hop.version == 4 and sysctls.read(f"ipv4/conf/{bridge.name}/proxy_arp_pvlan") == "1"
