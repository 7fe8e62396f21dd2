"""Bridge networks: a Linux bridge per network, a veth pair per endpoint, address translation to the outside."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_interface
from typing import Protocol

from pierhead.driver.networkdriver import inside, marks
from pierhead.driver.networkdriver.api import Endpoint, Network, PublishPolicy, gateways
from pierhead.driver.networkdriver.bridgeoptions import NAME, BridgeOptions, GatewayMode, bridge_name, parse
from pierhead.driver.networkdriver.firewall import Firewall
from pierhead.driver.networkdriver.outside import device, egress_mtu
from pierhead.driver.networkdriver.rules import Segment
from pierhead.errors import Forbidden, PierheadError
from pierhead.libcontainer.spec import NETNS_FD, NetworkSetup
from pierhead.linux import netlink
from pierhead.linux.netlink import Netlink

KINDS = ("bridge", "veth")
"""Links with the instance's mark that are this driver's; others (VLANs, dummies) are other drivers'."""

PORTS = 1023
"""A Linux bridge's: BR_MAX_PORTS less the first, which is reserved (net/bridge/br_private.h, br_if.c)."""

FORWARDING = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
"""What lets a host forward, by IP version; below /proc/sys/net."""


class Memory(Protocol):
    """Where the driver remembers what it changed on the host beyond its own objects (GraphDB's meta table)."""

    def meta(self, key: str) -> str | None:
        """A remembered value."""

    def set_meta(self, key: str, value: str) -> None:
        """Remember a value; committed before this returns."""


def _segment(network: Network) -> Segment:
    return Segment(network, parse(network))


def _sysctl(path: str, value: str) -> None:
    """Write below /proc/sys/net of the present namespace, only if it differs. Raises OSError."""
    with open(f"/proc/sys/net/{path}", "r+") as file:
        if file.read().strip() != value:
            file.seek(0)
            file.write(value)


def _read(path: str) -> str:
    with open(f"/proc/sys/net/{path}") as file:
        return file.read().strip()


def _addresses(network: Network, options: BridgeOptions) -> list[IPv4Interface | IPv6Interface]:
    """What the bridge itself has: the gateways' addresses, unless it is to be no gateway."""
    return [
        ip_interface(f"{pool.gateway}/{pool.subnet.prefixlen}")
        for pool in network.pools
        if pool.gateway is not None
        and options.mode(pool.subnet.version) is not GatewayMode.ISOLATED
        and not (options.inhibit_ipv4 and pool.subnet.version == 4)
    ]


def _bridged_frames_are_filtered() -> bool:
    """Whether br_netfilter gives bridged frames to the IP hooks in the present namespace."""
    try:
        with open("/proc/sys/net/bridge/bridge-nf-call-iptables") as file:
            return file.read().strip() == "1"
    except FileNotFoundError:
        return False


class BridgeDriver:
    """Networks of driver "bridge". Every link carries the instance's group, every rule is in its table."""

    name = "bridge"
    addressed = own_mac = publishes = named = True
    wired = False

    def __init__(self, instance: str, memory: Memory, policy: PublishPolicy = PublishPolicy.ANY) -> None:
        """instance: 8 hex digits."""
        self._group = marks.group(instance)
        self._firewall = Firewall(instance, policy)
        self._memory = memory

    def outward(self, network: Network) -> bool:
        """Every bridge leads outside but an internal one."""
        return not network.internal

    def next_hops(self, network: Network, endpoint: Endpoint) -> tuple[IPv4Address | IPv6Address, ...]:
        """The bridge's own addresses."""
        return () if network.internal else gateways(network, endpoint)

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
        self._forward([network])
        if self._firewall.exists():
            self._firewall.add(_segment(network))
        else:
            self._firewall.load([_segment(network)], (), self._strangers())
        self._make_bridge(network)

    def delete(self, network: Network, others: Iterable[Network]) -> None:
        """Remove the bridge and its rules. Idempotent."""
        with Netlink() as link:
            self._delete_link(link, bridge_name(network))
        if self._firewall.exists():
            self._firewall.remove(_segment(network))

    def _delete_link(self, link: Netlink, name: str) -> None:
        found = link.link(name)
        if found is not None and found.group == self._group:
            link.send(netlink.link_delete(name), ignore=(errno.ENODEV,))

    def _make_bridge(self, network: Network) -> None:
        options = parse(network)
        name = options.name
        mac = "02:42:" + hashlib.sha256(network.id.encode()).digest()[:4].hex(":")
        with Netlink() as link:
            found = link.link(name)
            if found is not None and found.group != self._group:
                raise Forbidden(
                    f"cannot create network {network.id} ({name}): an interface of that name exists and is not "
                    f"this engine's; choose another with -o {NAME}=…"
                )
            mtu = options.mtu or egress_mtu(link)
            if found is None:
                # An address of its own: else the bridge takes the lowest of its ports' and changes it with them.
                link.send(netlink.bridge_add(name, group=self._group, mac=mac, mtu=mtu))
                found = link.link(name)
                if found is None:
                    raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name)
            self._bridge_sysctls(network, name)
            wanted = _addresses(network, options)
            messages = [netlink.address_add(found.index, interface) for interface in wanted]
            messages += [
                netlink.address_delete(index, interface)  # of a default bridge that has moved out of the way
                for index, interface in link.addresses()
                if index == found.index
                and not interface.ip.is_link_local
                and interface not in wanted
                and not (options.inhibit_ipv4 and interface.version == 4)
            ]
            link.send(*messages, netlink.link_set(index=found.index, up=True, mtu=mtu if found.mtu != mtu else 0))

    def _bridge_sysctls(self, network: Network, name: str) -> None:
        """route_localnet only after the table's raw chain drops 127.0.0.0/8 (``create`` loads it first)."""
        if inside.ipv6():
            _sysctl(f"ipv6/conf/{name}/accept_ra", "0")
            # While its own link-local address is tentative (a second from the first port on), the kernel asks for no
            # neighbour on behalf of others: nobody outside would reach a container meanwhile.
            _sysctl(f"ipv6/conf/{name}/accept_dad", "0")
            _sysctl(f"ipv6/conf/{name}/disable_ipv6", "0" if network.ipv6 else "1")
        _sysctl(f"ipv4/conf/{name}/route_localnet", "0" if network.internal else "1")

    # Forwarding ------------------------------------------------------------------------------------------------------

    def _forward(self, networks: Iterable[Network]) -> None:
        """Let the host forward what these networks need. What was not on before is remembered first: our table then
        drops strangers' packets, and ``clear`` turns it off again. So is what another instance has turned on."""
        versions = {4} | {pool.subnet.version for network in networks for pool in network.pools}
        if not inside.ipv6():
            versions.discard(6)
        off = {version for version in versions if _read(FORWARDING[version]) == "0"}
        if off != versions:
            _, turned_on = self._firewall.others()
        else:
            turned_on = frozenset()
        for version in sorted(versions):
            if version in off or version in turned_on:
                self._memory.set_meta(f"forwarding {FORWARDING[version]}", _boot())
            if version in off:
                _sysctl(FORWARDING[version], "1")

    def _strangers(self) -> tuple[int, ...]:
        """The IP versions that an engine turned on, not the host's owner."""
        boot = _boot()
        return tuple(version for version, key in FORWARDING.items() if self._memory.meta(f"forwarding {key}") == boot)

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
        icc = options.icc
        if not icc or _bridged_frames_are_filtered():
            # With br_netfilter on, a translated packet to its own bridge is bridged, not routed: a container then
            # reaches its own published port only if the port sends frames back where they came from.
            host.append(netlink.port_set(outside, isolated=not icc, hairpin=_bridged_frames_are_filtered()))
        host.append(netlink.link_set(outside, up=True))

        routes = self._routes(network, endpoint) if endpoint.gateway else []
        return NetworkSetup(
            tuple(host), inside.messages(endpoint, *routes), sysctls=inside.sysctls(endpoint, advertised=False)
        )

    def _routes(self, network: Network, endpoint: Endpoint) -> list[bytes]:
        return inside.routes(endpoint, self.next_hops(network, endpoint))

    def gateway(self, network: Network, endpoint: Endpoint) -> NetworkSetup:
        """The default route through this endpoint's network."""
        return NetworkSetup(inside=tuple(self._routes(network, endpoint)))

    def publish(self, network: Network, endpoint: Endpoint, before: Endpoint | None = None) -> None:
        """Add the endpoint's ports to the maps, and take those of ``before`` off them. Idempotent."""
        self._firewall.publish(_segment(network), endpoint, before)

    def leave(self, network: Network, endpoint: Endpoint) -> None:
        """Take the host's side away: ports, host link off the bridge, connections. Idempotent.

        The link is not deleted (that waits for RCU, up to 52 ms): it goes with the container's namespace.
        """
        outside = marks.host_link(endpoint.id)

        def unplug() -> None:
            with Netlink() as link:
                link.send(netlink.link_set(outside, up=False, master=0), ignore=(errno.ENODEV,))

        steps: list[Callable[[], None]] = [
            lambda: self._firewall.withdraw(_segment(network), endpoint),
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

    def reconcile(self, networks: Sequence[tuple[Network, Sequence[Endpoint]]], others: Iterable[Network] = ()) -> None:
        """Make exactly these exist: what carries our mark and is not among them goes, what is missing comes back."""
        segments = [(_segment(network), joined) for network, joined in networks]
        wanted = {segment.options.name for segment, _ in segments}
        wanted |= {marks.host_link(endpoint.id) for _, joined in networks for endpoint in joined}
        if networks:
            self._forward(network for network, _ in networks)
            self._firewall.load(
                [segment for segment, _ in segments],
                [(segment, endpoint) for segment, joined in segments for endpoint in joined],
                self._strangers(),
            )
        with Netlink() as link:
            for found in link.links():
                if found.group == self._group and found.kind in KINDS and found.name not in wanted:
                    link.send(netlink.link_delete(found.name), ignore=(errno.ENODEV,))
        for network, joined in networks:
            self._make_bridge(network)
            self._replug(network, joined)

    def _replug(self, network: Network, endpoints: Sequence[Endpoint]) -> None:
        """Ports of a bridge that was made anew, or that somebody took off it."""
        with Netlink() as link:
            links = {found.name: found for found in link.links()}
            bridge = links[bridge_name(network)]
            for endpoint in endpoints:
                port = links.get(marks.host_link(endpoint.id))
                if port is not None and (port.master != bridge.index or not port.up):
                    link.send(netlink.link_set(index=port.index, master=bridge.index, up=True))

    def intact(self) -> bool:
        """Whether the table is there."""
        return self._firewall.exists()

    def clear(self) -> None:
        """Leave nothing behind: links, table, forwarding. For a daemon that ends with no container running."""

        def links() -> None:
            with Netlink() as link:
                for found in link.links():
                    if found.group == self._group and found.kind in KINDS:
                        link.send(netlink.link_delete(found.name), ignore=(errno.ENODEV,))

        def forwarding() -> None:
            others, _ = self._firewall.others()
            for version in self._strangers():
                if not others:  # else the last of them turns it off
                    _sysctl(FORWARDING[version], "0")
                self._memory.set_meta(f"forwarding {FORWARDING[version]}", "")

        # The table goes last: while the host forwards, its rules hold.
        _all("clear", [links, forwarding, self._firewall.clear])

    def close(self) -> None:
        """Let go of the socket; networks stay."""
        self._firewall.close()


def _boot() -> str:
    """The boot's id: what was turned on in another boot is off now."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


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
