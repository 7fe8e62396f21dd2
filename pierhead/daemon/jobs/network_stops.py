"""Why a packet's way ends, in words, and what to do about it."""

import errno
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from pierhead.daemon.jobs import endpoints
from pierhead.daemon.jobs.describe import host_config_of, network_kind
from pierhead.daemon.jobs.network_places import Place, Places
from pierhead.driver.networkdriver import bridgeoptions
from pierhead.driver.networkdriver.api import Network
from pierhead.driver.networkdriver.bridgeoptions import GatewayMode
from pierhead.driver.networkdriver.hostbridge import FILTERED
from pierhead.driver.networkdriver.packetpath import Packet
from pierhead.driver.networkdriver.reservations import SOCKETS
from pierhead.linux.netstate import Device

Address = IPv4Address | IPv6Address

RELOAD = "pier network reload"
NOT_INTERNAL = "with a network that is not internal"
STEPS = ("source", "name", "route", "link", "rule", "listener", "connect")

_ICC = "com.docker.network.bridge.enable_icc"
_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
_GATEWAY_MODE = "com.docker.network.bridge.gateway_mode_ipv"


class Stop(Exception):
    """The way ends here. step: one of STEPS; text: why; remedy: what to do."""

    def __init__(self, step: str, text: str, remedy: str = "") -> None:
        super().__init__(text)
        self.step = step
        self.text = text
        self.remedy = remedy


@dataclass(slots=True)
class Facts:
    """What has been seen on the way, by step. doubts: the steps of which something cannot be known."""

    by_step: dict[str, list[str]] = field(default_factory=dict)
    doubts: set[str] = field(default_factory=set)

    def add(self, step: str, text: str) -> None:
        """One more fact."""
        facts = self.by_step.setdefault(step, [])
        if text not in facts:
            facts.append(text)

    def doubt(self, step: str, text: str) -> None:
        """A fact that leaves the outcome open."""
        self.add(step, text)
        self.doubts.add(step)


# Routes --------------------------------------------------------------------------------------------------------------


def no_route(places: Places, place: Place, packet: Packet, came_in: Device | None, error: OSError) -> Stop:
    """The kernel of a place has said why it would not send or take a packet."""
    if came_in is not None and error.errno == errno.EHOSTUNREACH and not came_in.forwarding and packet.version == 4:
        key = f"conf.{came_in.name}.forwarding" if place.sight.forwards else "ip_forward"
        text = f"{place.name} does not forward packets (net.ipv4.{key} is 0)"
        return Stop("route", text, f"sysctl -w net.ipv4.{key}=1")
    if came_in is not None and error.errno in (errno.EXDEV, errno.EINVAL):
        text = f"{place.name} refuses packets from {packet.source} that come in by {came_in.name}"
        if max(came_in.rp_filter, place.sight.rp_filter) == 1:
            remedy = f"sysctl -w net.ipv4.conf.{came_in.name}.rp_filter=2"
            return Stop("route", f"{text}: rp_filter is 1 there, and answers would go another way", remedy)
        return Stop("route", f"{text}: that address cannot be there", "look at `ip route` and `ip address`")
    if place.own:
        text = f"the host has no route to {packet.target}"
        return lost(places, packet.target) or Stop("route", text, "look at `ip route`")
    return no_way_out(places, place, packet.target)


def joining(places: Places, place: Place, network: str = "NETWORK") -> str:
    """What puts a container (whose network a place is) into a network."""
    owner = place.containers[0]
    if network_kind(host_config_of(owner).network_mode) == "container":
        return f"pier restart {owner.name}"  # whose network it shared has started anew, without it
    alone = any(row["driver"] == "null" for row in endpoints.endpoint_rows(places.engine, owner.id))
    first = f"pier network disconnect none {owner.name}; " if alone else ""
    return f"{first}pier network connect {network} {owner.name}"


def no_way_out(places: Places, place: Place, target: Address) -> Stop:
    """A container has no route to an address."""
    name = place.containers[0].name
    connect = joining(places, place)
    links = [device for device in place.sight.devices if not device.loopback]
    found = [places.network_with(interface.ip) for device in links for interface in device.addresses]
    networks = [one[1] for one in found if one is not None]
    down = next((device for device in links if not device.up), None)
    if down is not None:
        return Stop("link", f"{down.name} is down in {place.name}", f"pier restart {name}")
    if not networks:
        row = places.engine.db.first(
            "SELECT ipv4, ipv6, interface FROM endpoint WHERE container_id = ? AND active = 1 AND mac <> ''",
            (place.containers[0].id,),
        )
        if row is not None:
            text = f"{place.name} has lost its address {row['ipv4'] or row['ipv6']} on {row['interface']}"
            return Stop("route", text, f"pier restart {name}")
        return Stop("route", f"{place.name} is in no network: it has only lo", connect)
    if all(network.internal for network in networks):
        names = ", ".join(network.name for network in networks)
        text = f"{place.name} is only in internal networks ({names}), which lead nowhere outside"
        return Stop("route", text, f"{connect}, {NOT_INTERNAL}")
    if not any(pool.subnet.version == target.version for network in networks for pool in network.pools):
        names = ", ".join(network.name for network in networks)
        text = f"{place.name} has no IPv{target.version}: none of its networks ({names}) has it"
        return Stop("route", text, f"{connect}, with a network that has")
    what = "it has no such route" if place.sight.defaults else "its default route is missing"
    return Stop("route", f"{place.name} has no route to {target}: {what}", f"pier restart {name}")


def astray(places: Places, target: Address, out: Device) -> Stop | None:
    """The host would send a container's packet through ``out``: why that is wrong, if it is."""
    wanted = places.network_with(target)
    if wanted is None or out.name == wanted[0]:
        return None
    bridge = places.host.sight.device(wanted[0])
    if bridge is not None and bridge.kind != "bridge":
        return None
    text = f"the host sends {target} through {out.name} and not to network {wanted[1].name}"
    return lost(places, target) or Stop("route", text, "look at `ip route`")


def lost(places: Places, target: Address) -> Stop | None:
    """Why the host has no route to one of the engine's networks, if the target is in one."""
    found = places.network_with(target)
    if found is None:
        return None
    name, network = found
    bridge = places.host.sight.device(name)
    if bridge is None:
        return Stop("link", f"{name}, the bridge of network {network.name}, is missing", RELOAD)
    if not bridge.up:
        return Stop("link", f"{name}, the bridge of network {network.name}, is down", f"ip link set {name} up")
    gateways = [pool.gateway for pool in network.pools if target in pool.subnet and pool.gateway is not None]
    if gateways and not bridge.has(gateways[0]):
        if why := ungated(network, gateways[0]):
            return Stop("route", why)
        return Stop("route", f"{name} has lost its address {gateways[0]}, and the host its route to {target}", RELOAD)
    return None


def ungated(network: Network, gateway: Address) -> str:
    """Why a network's bridge does not have the gateway's address, if it is made so."""
    if network.driver != "bridge" or (options := bridgeoptions.parse(network)).gated(gateway.version):
        return ""
    if options.mode(gateway.version) is GatewayMode.ISOLATED:
        return f"network {network.name} is isolated: its containers reach each other, and the host is not on it"
    return f"the bridge of network {network.name} is to have no IPv4 address ({bridgeoptions.INHIBIT_IPV4})"


# Rules ---------------------------------------------------------------------------------------------------------------


def our_own(places: Places, packet: Packet) -> Stop:
    """Why the engine's own rules stop a packet."""
    source, found = places.networks.get(packet.iif), places.network_with(packet.target)
    target = found[1] if found is not None else None
    elsewhere = source is None or target is None or source.id != target.id
    sender = name_of(places, packet.source)
    if source is not None and source.internal and elsewhere:
        text = f"network {source.name} is internal: its containers reach nothing else"
        return Stop("rule", text, f"pier network connect NETWORK {sender}, {NOT_INTERNAL}")
    if target is not None and target.internal and elsewhere:
        return Stop("rule", f"network {target.name} is internal: nothing from outside reaches it")
    if source is not None and not elsewhere:
        return quiet(source)
    if source is not None and target is not None:
        remedy = f"pier network connect {target.name} {sender}, or publish the port"
        return Stop("rule", f"networks {source.name} and {target.name} are kept apart", remedy)
    if target is not None:
        text = f"{packet.target} is a container's own address: from other machines only published ports are reached"
        port = packet.dport
        return Stop("rule", text, f"pier update --publish-add {port}:{port} {name_of(places, packet.target)}")
    if any(device.has(packet.target) for device in places.host.sight.devices):
        return local_only(packet)
    return Stop("rule", f"the engine's rules keep {packet.target} from what comes in by {packet.iif}")


def local_only(packet: Packet) -> Stop:
    """A published port is asked for from outside, and the policy is against it."""
    text = f"{packet.dport}/{packet.proto} is published for this host and its containers alone"
    return Stop("rule", f"{text} (pierd --publish-policy local)", "start pierd with --publish-policy firewall or any")


def quiet(network: Network) -> Stop:
    """Containers of a network are kept from each other."""
    text = f"containers of network {network.name} do not reach each other ({_ICC}=false)"
    return Stop("rule", text, "put both into a network without that option")


def bridged_apart(network: Network, version: int) -> Stop:
    """Containers that are kept from each other, and a port that one of them publishes and no socket serves."""
    key = FILTERED[version].replace("/", ".")
    text = (
        f"containers of network {network.name} ({_ICC}=false) do not reach each other's published ports in the kernel "
        f"while bridged frames pass the host's IP hooks (net.{key} is 1), and no socket of the engine serves this one: "
        f"it is beyond the first {SOCKETS} of its container, or the rules are older than that setting"
    )
    return Stop("rule", text, f"{RELOAD}, or sysctl -w net.{key}=0")


def name_of(places: Places, address: Address) -> str:
    """The container that has an address."""
    found = places.having(address)
    return found[0].place.containers[0].name if found else "CONTAINER"


def unmasked(network: Network, packet: Packet) -> tuple[str, Stop | None]:
    """A container's own address leaves the host, where nobody knows the way back to it: whether that is wanted."""
    text = f"{packet.source} leaves the host as it is: others must know the way back to it"
    wanted = network.options.get(_MASQUERADE, "true").lower() in ("true", "1", "t")
    mode = network.options.get(f"{_GATEWAY_MODE}{packet.version}", "nat")
    if wanted and mode in ("", "nat", "nat-unprotected"):
        return text, Stop("rule", f"{text}; the rule that masquerades it is missing", RELOAD)
    return text, None
