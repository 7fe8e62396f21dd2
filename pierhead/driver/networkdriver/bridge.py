"""Bridge networks: a Linux bridge per network, a veth pair per endpoint, address translation to the outside."""

import errno
import logging
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address

from pierhead.driver.networkdriver import inside, marks, sysctls
from pierhead.driver.networkdriver.api import (
    Census,
    Endpoint,
    Known,
    Neighbours,
    Network,
    Passage,
    PublishPolicy,
    gateways,
)
from pierhead.driver.networkdriver.bridgeoptions import NAME, GatewayMode, bridge_name, parse
from pierhead.driver.networkdriver.firewall import Firewall
from pierhead.driver.networkdriver.forwarding import SETTINGS, Forwarding, Memory
from pierhead.driver.networkdriver.hostbridge import FILTERED, HostBridge, Links, filtered
from pierhead.driver.networkdriver.outside import device
from pierhead.driver.networkdriver.rules import Segment
from pierhead.errors import Forbidden, PierheadError
from pierhead.libcontainer.spec import NETNS_FD, NetworkSetup
from pierhead.linux import netlink
from pierhead.linux.netlink import Netlink

log = logging.getLogger("pierd")

KINDS = ("bridge", "veth")
"""Links with the instance's mark that are this driver's; others (VLANs, dummies) are other drivers'."""

PORTS = 1023
"""A Linux bridge's: BR_MAX_PORTS less the first, which is reserved (net/bridge/br_private.h, br_if.c)."""


class BridgeDriver:
    """Networks of driver "bridge". Every link carries the instance's group, every rule is in its table."""

    name = "bridge"
    addressed = own_mac = publishes = named = True
    wired = False

    def __init__(self, instance: str, memory: Memory, policy: PublishPolicy = PublishPolicy.ANY) -> None:
        """instance: 8 hex digits."""
        self._group = marks.group(instance)
        self._firewall = Firewall(instance, policy)
        self._forwarding = Forwarding(memory)
        self._unannounced: dict[str, tuple[str, str]] = {}
        """By network id: the setting of the host's that is looked at again and again (``drifted``)."""
        self._apart: set[str] = set()
        """Ids of the networks that keep their containers apart: only for them the next is looked at."""
        self._named: dict[str, HostBridge] = {}
        """By network id: bridges whose names were chosen, and may be their users' own."""
        self._filtered: tuple[int, ...] = ()
        """The IP versions whose bridged frames passed the IP hooks when the rules were loaded."""

    def outward(self, network: Network) -> bool:
        """Every bridge leads outside but an internal one."""
        return not network.internal

    def next_hops(self, network: Network, endpoint: Endpoint) -> tuple[IPv4Address | IPv6Address, ...]:
        """The bridge's own addresses."""
        return () if network.internal else gateways(network, endpoint)

    def binding(self, network: Network) -> str:
        """As the network's option says."""
        return str(parse(network).binding or "")

    def hosts(self, network: Network) -> tuple[int, ...]:
        """Those that are not routed. A version that the network has no addresses of is led to the other one."""
        options = parse(network)
        own = {pool.subnet.version for pool in network.pools}
        return tuple(
            version
            for version, other in ((4, 6), (6, 4))
            if options.mode(version if version in own else other) is not GatewayMode.ROUTED
        )

    def apart(self, network: Network) -> bool:
        """As the network's option says: a translated packet that is bridged would not get there."""
        return not parse(network).icc

    def gated(self, network: Network) -> bool:
        """The bridge itself has the gateway's address."""
        return True

    def device(self, network: Network) -> str:
        """The bridge."""
        return bridge_name(network)

    # Networks --------------------------------------------------------------------------------------------------------

    def validate(self, network: Network, others: Iterable[Network]) -> None:
        """Raise a PierheadError for options or pools that cannot be served, and a bridge that another network has.
        Pure."""
        name = parse(network).name
        for other in others:
            if other.driver == self.name and bridge_name(other) == name:
                raise Forbidden(
                    f"cannot create network {network.id} ({name}): conflicts with network {other.id} ({name}): "
                    "networks have same bridge name"
                )

    def create(self, network: Network) -> None:
        """Make the bridge, its address and its rules. Idempotent: also heals."""
        versions = _versions([network])
        new = self._remember(versions)
        segment = Segment(network, parse(network))
        if self._firewall.whole():
            self._firewall.add(segment, new)
        else:
            self._load([segment], ())
        self._forwarding.turn_on(versions)
        bridge = self._bridge(network)
        with Netlink() as link:
            bridge.make(link)
        self._note(bridge)

    def _load(self, segments: Sequence[Segment], published: Sequence[tuple[Segment, Endpoint]]) -> None:
        present = filtered()
        self._firewall.load(segments, published, self._forwarding.turned_on(), present)
        self._filtered = present

    def _note(self, bridge: HostBridge) -> None:
        """What of a network is looked at again and again."""
        self._unannounced[bridge.network.id] = bridge.unannounced()
        if not bridge.options.icc:
            self._apart.add(bridge.network.id)
        if NAME in bridge.network.options:
            self._named[bridge.network.id] = bridge

    def _bridge(self, network: Network) -> HostBridge:
        return HostBridge(network, parse(network), self._group)

    def _remember(self, versions: Iterable[int]) -> tuple[int, ...]:
        on = [version for version in versions if sysctls.read(SETTINGS[version]) != "0"]
        return self._forwarding.remember(set(versions), self._firewall.others()[1] if on else ())

    def delete(self, network: Network, others: Iterable[Network]) -> None:
        """Remove the bridge and its rules. Idempotent."""
        self._unannounced.pop(network.id, None)
        self._apart.discard(network.id)
        self._named.pop(network.id, None)
        with Netlink() as link:
            self._bridge(network).give_back(link)
            self._delete_link(link, bridge_name(network))
        if self._firewall.whole():
            self._firewall.remove(Segment(network, parse(network)))
            needed = _versions(other for other in others if other.driver == self.name)
            done = [version for version in self._forwarding.turned_on() if version not in needed]
            self._forwarding.end(done, others=self._firewall.others()[0])
            self._firewall.admit_strangers(done)

    def _delete_link(self, link: Netlink, name: str) -> None:
        found = link.link(name)
        if found is not None and found.group == self._group:
            link.send(netlink.link_delete(name), ignore=(errno.ENODEV,))

    # Endpoints -------------------------------------------------------------------------------------------------------

    def room(self, network: Network, joined: int) -> None:
        """The kernel numbers a bridge's ports with ten bits, and 0 is nobody's."""
        if joined >= PORTS:
            raise PierheadError(
                f"network {network.name} is full: a Linux bridge has {PORTS} ports, and as many containers are on this "
                "one; put the next ones on another network"
            )

    def plan(self, network: Network, endpoint: Endpoint) -> NetworkSetup:
        """Compute the messages that join a container. Touches nothing; reads the bridge's index.

        Raises OSError if the bridge is not there.
        """
        options = parse(network)
        bridge = device(options.name)
        outside = marks.host_link(endpoint.id)
        host = [
            netlink.veth_into(
                NETNS_FD,
                inside=endpoint.interface,
                index=inside.index(endpoint),
                mac=endpoint.mac,
                mtu=options.mtu or bridge.mtu,
                outside=outside,
                group=self._group,
            ),
            netlink.link_set(outside, master=bridge.index),
        ]
        if inside.ipv6():
            host.insert(1, netlink.link_no_autoconf(outside))
        host += self._bridge(network).port(outside)
        host.append(netlink.link_set(outside, up=True))

        routes = self._routes(network, endpoint)
        return NetworkSetup(
            tuple(host), inside.messages(endpoint, *routes), sysctls=inside.sysctls(endpoint, advertised=False)
        )

    def _routes(self, network: Network, endpoint: Endpoint) -> list[bytes]:
        return inside.routes(endpoint, self.next_hops(network, endpoint))

    def gateway(self, network: Network, endpoint: Endpoint) -> NetworkSetup:
        """The default routes that the endpoint gives."""
        return NetworkSetup(inside=tuple(self._routes(network, endpoint)))

    def publish(self, network: Network, endpoint: Endpoint, before: Endpoint | None = None) -> None:
        """Add the endpoint's ports to the maps, and take those of ``before`` off them. Idempotent."""
        try:
            self._firewall.publish(Segment(network, parse(network)), endpoint, before)
        except FileNotFoundError:
            if self._firewall.whole():
                raise
            log.warning("the firewall rules are gone: the ports of %s come with them", endpoint.container_id[:12])

    def leave(self, network: Network, endpoint: Endpoint) -> None:
        """Take the host's side away: ports, host link off the bridge, connections. Idempotent.

        The link is not deleted (that waits for RCU, up to 52 ms): it goes with the container's namespace.
        """
        outside = marks.host_link(endpoint.id)

        def unplug() -> None:
            with Netlink() as link:
                link.send(netlink.link_set(outside, up=False, master=0), ignore=(errno.ENODEV,))

        steps: list[Callable[[], None]] = [
            lambda: self._firewall.withdraw(Segment(network, parse(network)), endpoint),
            unplug,
            lambda: self._firewall.forget(endpoint),
        ]
        _all("leave", steps)

    def withdraw(self, network: Network, endpoint: Endpoint) -> tuple[bytes, ...]:
        """The end inside goes with the host's."""
        return ()

    def unplug(self, network: Network, endpoint: Endpoint) -> None:
        """``leave``, and delete the link too, for a namespace that goes on (disconnect). Idempotent; may wait 52 ms."""

        def delete() -> None:
            with Netlink() as link:
                self._delete_link(link, marks.host_link(endpoint.id))

        _all("unplug", [lambda: self.leave(network, endpoint), delete])

    # The whole -------------------------------------------------------------------------------------------------------

    def reconcile(self, networks: Known, others: Iterable[Network] = (), *, sweep: bool = True) -> None:
        """Make exactly these exist: what carries our mark and is not among them goes, what is missing comes back."""
        segments, published = _segments(networks)
        if networks:
            versions = _versions(network for network, _ in networks)
            self._remember(versions)
            self._load(segments, published)
            self._forwarding.turn_on(versions)
        self._unannounced, self._apart, self._named = {}, set(), {}
        with Netlink() as link:
            for name in self.census(networks).strays if sweep else ():
                link.send(netlink.link_delete(name), ignore=(errno.ENODEV,))
            for network, _ in networks:
                bridge = self._bridge(network)
                bridge.make(link)
                self._note(bridge)
            links = Links.read(link)
            for network, joined in networks:
                self._bridge(network).replug(link, links, joined)

    def damage(self, networks: Known, *, rules: bool) -> tuple[str, ...]:
        """Look at forwarding, the table, bridges with their addresses, settings and ports."""
        if not networks:
            return ()
        said = [
            f"setting net/{SETTINGS[version]} was changed to 0"
            for version in _versions(network for network, _ in networks)
            if sysctls.read(SETTINGS[version]) == "0"
        ]
        if self._apart:
            present = filtered()
            said += [
                f"setting net/{FILTERED[version]} is {int(version in present)} now, and the rules are older"
                for version in sorted(set(present) ^ set(self._filtered))
            ]
        if rules:
            said += self._firewall.damage(*_segments(networks))
        with Netlink() as link:
            links = Links.read(link)
        for network, joined in networks:
            said += self._bridge(network).damage(links, joined)
        return tuple(said)

    def census(self, networks: Known, others: Iterable[Network] = ()) -> Census:
        """Bridges, and the ends of containers' links that are on the host."""
        with Netlink() as link:
            there = {found.name: found for found in link.links()}
        ends = {marks.host_link(endpoint.id): endpoint for _, joined in networks for endpoint in joined}
        wanted = {*ends, *(bridge_name(network) for network, _ in networks)}
        strays = [
            found
            for found in there.values()
            if found.group == self._group and found.kind in KINDS and found.name not in wanted
        ]
        return Census(
            tuple(found.name for found in strays),
            tuple(found.name for found in strays if found.kind == "veth" and not found.up and not found.master),
            tuple(endpoint for name, endpoint in ends.items() if name not in there),
        )

    def guard(self) -> None:
        """Keep strangers from the host's loopback until the rules are back, and known connections alive."""
        self._firewall.guard()

    def admit(self, neighbours: Neighbours) -> None:
        """Elements of two sets."""
        self._firewall.admit(neighbours)

    def link(self, passages: Sequence[Passage]) -> None:
        """Elements of a set; the default bridge answers for its containers' addresses (``HostBridge.settings``)."""
        self._firewall.link(tuple(passages))

    def drifted(self) -> bool:
        """A file read for each network, and two where one keeps its containers apart."""
        if any(sysctls.read(path) != value for path, value in list(self._unannounced.values())):
            return True
        return bool(self._apart) and filtered() != self._filtered

    def clear(self) -> None:
        """Leave nothing behind: links, table, forwarding. For a daemon that ends with no container running."""

        named = list(self._named.values())

        def links() -> None:
            with Netlink() as link:
                for bridge in named:
                    bridge.give_back(link)
                marked = [found for found in link.links() if found.group == self._group]
                # Hundreds at once, as long as one; on its own each waits for RCU. The kernel refuses them all for one
                # that cannot be removed, which somebody may have just put into the group.
                if all(found.kind in KINDS for found in marked):
                    [refused] = link.results([netlink.group_delete(self._group)])
                    if refused in (0, errno.ENODEV):
                        return
                for found in marked:
                    if found.kind in KINDS:
                        link.send(netlink.link_delete(found.name), ignore=(errno.ENODEV,))

        def forwarding() -> None:
            self._forwarding.end(self._forwarding.turned_on(), others=self._firewall.others()[0])

        self._unannounced, self._apart, self._named = {}, set(), {}
        # The table goes last: while the host forwards, its rules hold.
        _all("clear", [links, forwarding, self._firewall.clear])

    def close(self) -> None:
        """Let go of the socket; networks stay."""
        self._firewall.close()


def _versions(networks: Iterable[Network]) -> tuple[int, ...]:
    """The IP versions that the host must forward for them."""
    found = {4} | {pool.subnet.version for network in networks for pool in network.pools}
    return tuple(sorted(found)) if inside.ipv6() else (4,)


def _segments(
    networks: Known,
) -> tuple[list[Segment], list[tuple[Segment, Endpoint]]]:
    """What the rules must know of them, and of what is joined to them."""
    segments = [Segment(network, parse(network)) for network, _ in networks]
    joined = [
        (segment, endpoint)
        for segment, (_, endpoints) in zip(segments, networks, strict=True)
        for endpoint in endpoints
    ]
    return segments, joined


def _all(what: str, steps: Sequence[Callable[[], None]]) -> None:
    """Do every step, past failures; raise them together."""
    errors: list[Exception] = []
    for step in steps:
        try:
            step()
        except Exception as error:
            errors.append(error)
    if errors:
        raise ExceptionGroup(what, errors)
