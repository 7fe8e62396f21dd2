"""The network driver's Protocol, and the values of it: Network, Endpoint, PortBinding.

``plan`` is pure and raises before anything is touched; what it returns is executed by the exec driver (it carries
prepared rtnetlink messages) and by ``join``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Protocol

from pierhead.libcontainer.spec import NetworkSetup


@dataclass(frozen=True, slots=True)
class Pool:
    """One subnet of a network."""

    subnet: IPv4Network | IPv6Network
    gateway: IPv4Address | IPv6Address | None = None
    ip_range: IPv4Network | IPv6Network | None = None
    aux: Mapping[str, IPv4Address | IPv6Address] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Network:
    """A network as the driver sees it. options: the API's driver options, as given."""

    id: str
    name: str
    driver: str
    pools: tuple[Pool, ...] = ()
    internal: bool = False
    ipv6: bool = False
    options: Mapping[str, str] = field(default_factory=dict)


class PublishPolicy(StrEnum):
    """Who reaches published ports.

    ANY: everybody, by address translation, past the host's own input rules (as Docker).
    FIREWALL: everybody whom the host's input rules let in: what comes from outside goes to a socket of the host's.
    LOCAL: the host and its containers.
    """

    ANY = "any"
    FIREWALL = "firewall"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class PortBinding:
    """A published port or range: host_low..host_high of host_ip ("" = all addresses, both families) onto
    container_low..; proto "tcp", "udp" or "sctp". The two ranges are of equal length.

    direct: it is open at the container's own address, which is host_ip then, and takes no port of the host's.
    """

    proto: str
    container_low: int
    container_high: int
    host_ip: str
    host_low: int
    host_high: int
    direct: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's place in a network.

    id: 64 hex digits.  interface: name inside ("eth0").  gateway: it is the container's way out, for default routes and
    published ports.  second: the IP version (4 or 6; 0: none) whose default route it gives although another endpoint
    is the gateway, which has no address of that version.  link_local: further addresses, of 169.254.0.0/16 and
    fe80::/10.  number: of its link inside; no other endpoint of the container has it.  sysctls: (name with dots,
    value) that its user asks for, of that link.
    """

    id: str
    network_id: str
    container_id: str
    interface: str
    mac: str
    ipv4: IPv4Interface | None = None
    ipv6: IPv6Interface | None = None
    gateway: bool = True
    ports: tuple[PortBinding, ...] = ()
    link_local: tuple[IPv4Interface | IPv6Interface, ...] = ()
    second: int = 0
    number: int = 0
    sysctls: tuple[tuple[str, str], ...] = ()

    @property
    def routed(self) -> tuple[int, ...]:
        """The IP versions whose default route it gives, if its network has one."""
        return (4, 6) if self.gateway else (self.second,) if self.second else ()


DEFAULT_GATEWAYS = {4: "DefaultGatewayIPv4", 6: "DefaultGatewayIPv6"}
"""Auxiliary addresses of these names are endpoints' way out, in place of the subnet's gateway (Docker's names)."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Other people's bridges on the host. guests: those for which their own rules let the host forward; bridges: all,
    by name."""

    guests: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Passage:
    """Ports ``low`` to ``high`` of one container that another, its ``source``, may reach (a link)."""

    source: IPv4Address
    target: IPv4Address
    proto: str
    low: int
    high: int


Known = Sequence[tuple[Network, Sequence[Endpoint]]]
"""Networks, each with the endpoints that live in it."""


@dataclass(frozen=True, slots=True)
class Census:
    """A driver's links on the host, compared with its networks. strays: under the instance's mark, and nothing needs
    them; leaving: of these, the ones that as a rule go in a moment (into a container, or with the namespace of one that
    has ended); lost: endpoints whose link is gone; missing: what ``reconcile`` makes again and ``damage`` does not see,
    in words."""

    strays: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    lost: tuple[Endpoint, ...] = ()
    missing: tuple[str, ...] = ()


def gateways(network: Network, endpoint: Endpoint) -> tuple[IPv4Address | IPv6Address, ...]:
    """The gateways of the subnets that an endpoint's addresses are in: IPv4's, IPv6's."""
    found: list[IPv4Address | IPv6Address] = []
    for interface in (endpoint.ipv4, endpoint.ipv6):
        if interface is not None:
            pool = next((pool for pool in network.pools if interface.ip in pool.subnet), None)
            if pool is not None and pool.gateway is not None:
                found.append(pool.aux.get(DEFAULT_GATEWAYS[interface.version], pool.gateway))
    return tuple(found)


class NetworkDriver(Protocol):
    """One kind of network. All effects carry the instance's mark, so that reconciliation finds them."""

    name: str

    addressed: bool
    """Endpoints have addresses of the network's pools and a link of their own in the container. Without it (host, null)
    nothing is made for an endpoint, so nothing has to leave."""

    own_mac: bool
    """Each endpoint has a MAC address of its own, and one may be asked for; else it has its parent's."""

    publishes: bool
    """Published ports are made reachable at the host's addresses; else they are ignored, with a warning in the log,
    and not shown."""

    named: bool
    """On a user's network of this kind containers find each other by name, at a resolver on 127.0.0.11."""

    wired: bool
    """Its networks are on a wire outside: the host's own interface may be in the same subnet."""

    def outward(self, network: Network) -> bool:
        """Whether an endpoint of this network can be its container's way out: give the default route, carry published
        ports, let names be asked for outside. Pure; called for every start and every name that is asked for outside."""

    def next_hops(self, network: Network, endpoint: Endpoint) -> tuple[IPv4Address | IPv6Address, ...]:
        """Where the endpoint's default routes lead to, at most one address of each family: what the API shows as
        Gateway. Pure. Empty where the network does not lead outside, or leads there without a next hop."""

    def binding(self, network: Network) -> str:
        """The host's address where a port that names none is published; empty: every one of both families. Pure."""

    def hosts(self, network: Network) -> tuple[int, ...]:
        """The IP versions in which the host's addresses have its containers' published ports. Pure. Where the network
        has addresses of another version, such ports are open at the container's own address."""

    def apart(self, network: Network) -> bool:
        """Whether its own containers may come to each other's published ports by the sockets that reserve them: these
        are served then, at addresses that the kernel could translate too. Pure."""

    def gated(self, network: Network) -> bool:
        """Whether a subnet has a gateway even if the user gave none: its first address, which is then kept. Pure."""

    def device(self, network: Network) -> str:
        """The host's interface that a network stands on: its bridge, its parent; empty where there is none. Pure."""

    def validate(self, network: Network, others: Iterable[Network]) -> None:
        """Raise a PierheadError with Docker's words for options or pools that this driver cannot serve. Pure.

        others: the other networks of every driver, for what two of them cannot share (an interface of the host).
        """

    def create(self, network: Network) -> None:
        """Make what the network needs on the host (a bridge, its rules). Idempotent: also heals."""

    def delete(self, network: Network, others: Iterable[Network]) -> None:
        """Remove it. Idempotent. What one of the ``others`` (as in ``validate``) needs as well stays."""

    def room(self, network: Network, joined: int) -> None:
        """Raise a PierheadError that says why if a network with ``joined`` endpoints has no room for one more, for
        another reason than its addresses. Pure."""

    def plan(self, network: Network, endpoint: Endpoint) -> NetworkSetup:
        """What joins a container's namespace to the network. Pure: computes bytes, touches nothing."""

    def publish(self, network: Network, endpoint: Endpoint, before: Endpoint | None = None) -> None:
        """Make the endpoint's ports reachable (elements of the nft maps). Idempotent.

        before: the endpoint with the ports that it had until now; those that it has no longer are taken away in the
        same transaction, and connections through them end.  Where somebody has just removed the rules, ``reconcile``
        brings the ports with them.
        """

    def leave(self, network: Network, endpoint: Endpoint) -> None:
        """Take the endpoint's host side away: ports, conntrack entries, host link off the bridge. Idempotent;
        goes on past failures and raises them as an ExceptionGroup."""

    def unplug(self, network: Network, endpoint: Endpoint) -> None:
        """``leave`` for a container whose namespace goes on (disconnect, container: mode): also removes the link from
        it, where it has an end on the host. Idempotent; may wait some ms."""

    def withdraw(self, network: Network, endpoint: Endpoint) -> tuple[bytes, ...]:
        """rtnetlink messages to be sent in a namespace that goes on, before ``unplug``: they remove a link that has no
        end on the host. That it is gone already (ENODEV) is no error. Pure."""

    def gateway(self, network: Network, endpoint: Endpoint) -> NetworkSetup:
        """What gives an endpoint that has been joined its default routes (after the one that had them left). Pure."""

    def reconcile(self, networks: Known, others: Iterable[Network] = (), *, sweep: bool = True) -> None:
        """Make exactly these networks of this driver, and these live endpoints, exist under the instance's mark:
        remove what else carries it, make again what is missing. Running traffic is not disturbed.

        others: the other drivers' networks; what they need stays.  sweep: remove what is not known; only where nothing
        is being made meanwhile.
        """

    def damage(self, networks: Known, *, rules: bool) -> tuple[str, ...]:
        """What others have done to these networks and live endpoints, in words; ``reconcile`` mends it. Only reads;
        may take some ms. rules: look at the firewall's rules too, which may take many. Raises OSError."""

    def census(self, networks: Known, others: Iterable[Network] = ()) -> Census:
        """Compare the links that are there with those that there should be. others: as in ``reconcile``. Only reads.
        Raises OSError."""

    def guard(self) -> None:
        """Somebody has just removed rules: do at once, in at most a ms, what cannot wait for ``reconcile``. Raises
        OSError."""

    def admit(self, neighbours: Neighbours) -> None:
        """Where we turned forwarding on, let the host forward for these too. Idempotent; another call replaces it.
        Raises OSError."""

    def link(self, passages: Sequence[Passage]) -> None:
        """Open exactly these also where a default bridge keeps its containers apart. Called on the event loop; what is
        open already costs nothing. Raises OSError."""

    def drifted(self) -> bool:
        """Whether somebody has changed a setting of the host's that the networks need, and that the kernel does not
        announce. Called on the event loop, twice a second."""

    def clear(self) -> None:
        """Remove everything under the instance's mark and undo what was changed on the host. Idempotent; goes on past
        failures and raises them as an ExceptionGroup."""

    def close(self) -> None:
        """Let go of sockets; networks stay (a daemon that stops)."""
