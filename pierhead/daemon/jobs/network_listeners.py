"""Whether something in a namespace takes what comes to an address and port of it, and what it is."""

from collections.abc import Sequence

from pierhead.daemon.engine.engine import blocking
from pierhead.daemon.jobs.network_places import Address, Place, Places
from pierhead.daemon.jobs.network_sight import PROTOCOLS, owners
from pierhead.daemon.jobs.network_stops import Facts, Stop
from pierhead.driver.networkdriver.packetpath import Packet
from pierhead.graph.state import State
from pierhead.linux.netstate import Device
from pierhead.linux.sockdiag import Bound


def takes(one: Bound, address: Address, device: Device | None) -> bool:
    """Whether a socket gets what comes to an address by a device."""
    if one.device and device is not None and one.device != device.index:
        return False
    bound = one.address
    if bound.version == 6 and bound.ipv4_mapped is not None:
        bound = bound.ipv4_mapped
    if bound.is_unspecified:
        return bound.version == address.version or (bound.version == 6 and not one.only)
    return bound == address


async def listen(places: Places, place: Place, packet: Packet, device: Device | None, facts: Facts) -> None:
    """Find who takes a packet that has been delivered. Raises Stop if nobody does."""
    if packet.proto not in PROTOCOLS:
        facts.doubt("listener", f"who takes {packet.proto} cannot be told")
        return
    view = await places.view(place)
    sockets = [one for one in view.bound(PROTOCOLS[packet.proto]) if one.port == packet.dport and one.serves]
    whose = {}
    for container in place.containers:
        for inode, process in (await blocking(owners, places.engine, container.id)).items():
            whose[inode] = (container, process)
    found = [one for one in sockets if takes(one, packet.target, device)]
    port = f"{packet.dport}/{packet.proto}"
    if not found:
        raise await _nobody(places, place, packet, sockets)
    holders = [whose[one.inode] for one in found if one.inode in whose]
    if holders:
        container, process = holders[0]
        if container.state is State.PAUSED:
            text = f"{process} listens on {port}, but {container.name} is paused: connections wait, nobody answers"
            raise Stop("listener", text, f"pier unpause {container.name}")
        facts.add("listener", f"{process} of {container.name} listens on {port}")
    else:
        facts.add("listener", f"something of {place.name} listens on {port}")


async def _nobody(places: Places, place: Place, packet: Packet, sockets: Sequence[Bound]) -> Stop:
    """Why nobody takes it: what listens instead."""
    port = f"{packet.dport}/{packet.proto}"
    paused = next((one for one in place.containers if one.state is State.PAUSED), None)
    if paused is not None:
        text = f"nothing listens on {port} in {place.name}, and {paused.name} is paused"
        return Stop("listener", text, f"pier unpause {paused.name}")
    if sockets:
        where = ", ".join(dict.fromkeys(str(one.address) for one in sockets))
        inside = all(one.address.is_loopback for one in sockets)
        text = f"{port} of {place.name} is listened on at {where} only, not at {packet.target}"
        if inside:
            text = f"{port} of {place.name} is listened on at {where} only: nobody but {place.name} itself gets there"
        return Stop("listener", text, "have the program listen on 0.0.0.0 (or ::)")
    view = await places.view(place)
    other = "udp" if packet.proto == "tcp" else "tcp"
    if any(one.port == packet.dport and one.serves for one in view.bound(PROTOCOLS[other])):
        text = f"nothing listens on {port} in {place.name}, but something does on {packet.dport}/{other}"
        return Stop("listener", text, f"pier network check … :{packet.dport}/{other}")
    ports = sorted(
        {
            f"{one.port}/{name}"
            for name, sockets in place.sight.sockets.items()
            for one in sockets
            if one.serves and (name == "tcp" or one.port < 32768)
        }
    )
    instead = f"; it listens on {', '.join(ports[:6])}" if ports and not place.own else ""
    remedy = "start the server, or look at its log"
    return Stop("listener", f"nothing listens on {port} in {place.name}{instead}", remedy)
