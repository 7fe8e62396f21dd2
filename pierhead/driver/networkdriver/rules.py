"""What an instance's nft table holds: the elements of its networks and published ports, and the table as a whole.

The rules themselves never change; they are in ``chains``.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from pierhead.driver.networkdriver import chains, marks
from pierhead.driver.networkdriver.api import Endpoint, Neighbours, Network, Passage, PortBinding, PublishPolicy
from pierhead.driver.networkdriver.bridgeoptions import BridgeOptions, GatewayMode
from pierhead.driver.networkdriver.reservations import addresses_of, serves, split
from pierhead.linux.nft import Element, field, proto

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}

NOBODY = Neighbours()

LINKED = "linked4"
"""The set of what links open."""

Part = str | IPv4Address | IPv6Address | IPv4Network | IPv6Network
"""Of an element of a set: an interface's name, an address, a subnet."""


def words(parts: Iterable[Part]) -> str:
    """An element in nft's language."""
    return " . ".join(f'"{part}"' if isinstance(part, str) else str(part) for part in parts)


def neighbours(found: Neighbours) -> list[tuple[str, tuple[Part, ...]]]:
    """(set, element) for other people's bridges."""
    guests: list[tuple[str, tuple[Part, ...]]] = [("guests", (name,)) for name in found.guests]
    return guests + [("alike", (name, name)) for name in found.bridges]


@dataclass(frozen=True, slots=True)
class Segment:
    """What the rules must know of one network: its bridge and how it is to be isolated."""

    network: Network
    options: BridgeOptions

    def elements(self) -> list[tuple[str, tuple[Part, ...]]]:
        """(set, element) for all that belongs to it."""
        options = self.options
        name = options.name
        found: list[tuple[str, tuple[Part, ...]]] = [("bridges", (name,))]
        found.append(("same" if options.icc else "quiet", (name, name)))
        if self.network.internal:
            found.append(("internal", (name,)))
        for pool in self.network.pools:
            version = pool.subnet.version
            mode = options.mode(version)
            found.append((f"own{version}", (pool.subnet, name)))
            if pool.gateway is not None and not (version == 4 and options.inhibit_ipv4):
                found.append((f"gateways{version}", (pool.gateway,)))
            if mode is GatewayMode.ROUTED:
                found.append((f"routed{version}", (name,)))
            elif mode is GatewayMode.UNPROTECTED:
                found.append((f"unprotected{version}", (name,)))
            elif options.masquerade or self.network.internal:
                found.append((f"subnets{version}", (pool.subnet,)))
                found += [(f"trusted{version}", (pool.subnet, interface)) for interface in options.trusted]
            if options.masquerade and mode is not GatewayMode.ROUTED and not self.network.internal:
                found.append((f"masqueraded{version}", (pool.subnet,)))
        return found

    def opens(self, version: int) -> bool:
        """Whether published ports are reached at the container's own address too."""
        mode = self.options.mode(version)
        return mode is GatewayMode.ROUTED or (mode is GatewayMode.NAT and bool(self.options.trusted))

    def translates(self, version: int) -> bool:
        """Whether published ports are reached at the host's addresses."""
        return self.options.mode(version) is not GatewayMode.ROUTED


@dataclass(frozen=True, slots=True)
class Target:
    """One element of the port maps: ``low`` to ``high`` of ``host`` (None: any address) to ``address``.

    port: the container's port; 0 for a range, which keeps its numbers.
    """

    proto: str
    host: IPv4Address | IPv6Address | None
    low: int
    high: int
    address: IPv4Address | IPv6Address
    port: int

    @property
    def container(self) -> str:
        """The map it belongs to."""
        kind = "ranges" if not self.port else "any" if self.host is None else "exact"
        return f"{kind}{self.address.version}"

    def text(self) -> str:
        """In nft's language."""
        if self.port:
            host = "" if self.host is None else f"{self.host} . "
            return f"{host}{self.proto} . {self.low} : {self.address} . {self.port}"
        every = "0.0.0.0/0" if self.address.version == 4 else "::/0"
        return f"{self.host or every} . {self.proto} . {self.low}-{self.high} : {self.address}"

    def element(self) -> Element:
        """As bytes."""
        number = proto(PROTOCOLS[self.proto])
        if self.port:
            host = b"" if self.host is None else self.host.packed
            data = self.address.packed + field(self.port)
            return Element(self.container, host + number + field(self.low), data)
        size = 4 if self.address.version == 4 else 16
        first = self.host.packed if self.host is not None else bytes(size)
        last = self.host.packed if self.host is not None else b"\xff" * size
        return Element(
            self.container,
            first + number + field(self.low),
            self.address.packed,
            last + number + field(self.high),
        )


@dataclass(frozen=True, slots=True)
class Opening:
    """One element of the sets of opened ports: a container's own, reached at its own address."""

    proto: str
    address: IPv4Address | IPv6Address
    low: int
    high: int

    @property
    def container(self) -> str:
        """The set it belongs to."""
        return f"opened{self.address.version}"

    def text(self) -> str:
        """In nft's language."""
        ports = f"{self.low}-{self.high}" if self.high > self.low else f"{self.low}"
        return f"{self.address} . {self.proto} . {ports}"

    def element(self) -> Element:
        """As bytes."""
        start = self.address.packed + proto(PROTOCOLS[self.proto])
        return Element(self.container, start + field(self.low), b"", start + field(self.high))


@dataclass(frozen=True, slots=True)
class Served:
    """One element of the sets of ports that are served by a socket of the host's: ``closed``, not for clients from
    outside; with a bridge ``apart``, for what comes from there.

    host: None for every address of the version.
    """

    proto: str
    version: int
    host: IPv4Address | IPv6Address | None
    low: int
    high: int
    bridge: str = ""

    @property
    def container(self) -> str:
        """The set it belongs to."""
        return f"{'apart' if self.bridge else 'closed'}{self.version}"

    def text(self) -> str:
        """In nft's language."""
        every = "0.0.0.0/0" if self.version == 4 else "::/0"
        start = f'"{self.bridge}" . ' if self.bridge else ""
        return f"{start}{self.host or every} . {self.proto} . {self.low}-{self.high}"

    def element(self) -> Element:
        """As bytes."""
        size = 4 if self.version == 4 else 16
        first, last = (self.host.packed,) * 2 if self.host is not None else (bytes(size), b"\xff" * size)
        start = field(self.bridge) if self.bridge else b""
        number = proto(PROTOCOLS[self.proto])
        return Element(
            self.container, start + first + number + field(self.low), b"", start + last + number + field(self.high)
        )


@dataclass(frozen=True, slots=True)
class Linked:
    """One element of the set of linked ports."""

    passage: Passage

    @property
    def container(self) -> str:
        """The set it belongs to."""
        return LINKED

    def text(self) -> str:
        """In nft's language."""
        one = self.passage
        return f"{one.source} . {one.target} . {one.proto} . {one.low}-{one.high}"

    def element(self) -> Element:
        """As bytes."""
        one = self.passage
        start = one.source.packed + one.target.packed + proto(PROTOCOLS[one.proto])
        return Element(self.container, start + field(one.low), b"", start + field(one.high))


def _targets(binding: PortBinding, address: IPv4Address | IPv6Address) -> list[Target]:
    host = ip_address(binding.host_ip) if binding.host_ip else None
    if host is not None:
        if host.version != address.version:
            return []
        if host.is_unspecified:
            host = None
    if binding.host_high > binding.host_low and binding.host_low == binding.container_low:
        return [Target(binding.proto, host, binding.host_low, binding.host_high, address, 0)]
    shift = binding.container_low - binding.host_low
    return [
        Target(binding.proto, host, port, port, address, port + shift)
        for port in range(binding.host_low, binding.host_high + 1)
    ]


def _openings(bindings: Iterable[PortBinding], address: IPv4Address | IPv6Address) -> list[Opening]:
    """Runs of a container's published ports, neighbours and overlaps as one: intervals of a set may not overlap."""
    found: list[Opening] = []
    wanted = sorted(
        (binding.proto, binding.container_low, binding.container_high)
        for binding in bindings
        if not binding.host_ip or ip_address(binding.host_ip).version == address.version
    )
    for kind, low, high in wanted:
        last = found[-1] if found else None
        if last is not None and last.proto == kind and low <= last.high + 1:
            found[-1] = Opening(kind, address, last.low, max(last.high, high))
        else:
            found.append(Opening(kind, address, low, high))
    return found


def _served(segment: Segment, endpoint: Endpoint, policy: PublishPolicy) -> list[Served]:
    """What its sockets serve, as far as rules must know: nothing else of the host's is on these ports."""
    found: list[Served] = []
    container = addresses_of(endpoint, apart=not segment.options.icc)
    for binding in split(endpoint.ports)[0]:
        if not serves(binding, container, policy):
            continue
        host = ip_address(binding.host_ip) if binding.host_ip else None
        for version in (4, 6) if host is None else (host.version,):
            one = None if host is None or host.is_unspecified else host
            if policy is PublishPolicy.LOCAL:
                found.append(Served(binding.proto, version, one, binding.host_low, binding.host_high))
            translated = segment.translates(version) and (endpoint.ipv4 if version == 4 else endpoint.ipv6) is not None
            # No container reaches the host's loopback.
            if container.apart and translated and not (host is not None and host.is_loopback):
                bridge = segment.options.name
                found.append(Served(binding.proto, version, one, binding.host_low, binding.host_high, bridge))
    return found


def published(
    segment: Segment, endpoint: Endpoint, policy: PublishPolicy = PublishPolicy.ANY
) -> list[Target | Opening | Served]:
    """The elements that publish an endpoint's ports. Pure.

    Only equal families: the kernel translates neither IPv6 to IPv4 nor ::1.
    """
    found: list[Target | Opening | Served] = []
    if segment.network.internal:
        return found
    for interface in (endpoint.ipv4, endpoint.ipv6):
        if interface is None:
            continue
        if segment.translates(interface.version):
            for binding in endpoint.ports:
                found += _targets(binding, interface.ip)
        if segment.opens(interface.version):
            found += _openings(endpoint.ports, interface.ip)
    if policy is PublishPolicy.LOCAL or not segment.options.icc:
        found += _served(segment, endpoint, policy)
    return found


@dataclass(frozen=True, slots=True)
class Contents:
    """Whatever the table's sets are made of. endpoints: those that are joined."""

    segments: Sequence[Segment]
    endpoints: Sequence[tuple[Segment, Endpoint]] = ()
    neighbours: Neighbours = NOBODY
    passages: Sequence[Passage] = ()

    def words(self) -> list[tuple[str, tuple[Part, ...]]]:
        """(set, element) of what is interfaces and subnets."""
        own = [element for segment in self.segments for element in segment.elements()]
        return own + neighbours(self.neighbours)

    def ports(self, policy: PublishPolicy) -> Iterator[Target | Opening | Served | Linked]:
        """The elements of ports."""
        for segment, endpoint in self.endpoints:
            yield from published(segment, endpoint, policy)
        yield from map(Linked, self.passages)


def _strangers(version: int) -> str:
    chain, protocol = chains.STRANGERS_OF[version], f"ipv{version}"
    return chains.STRANGERS % {"chain": chain, "protocol": protocol, "group": chains.GROUP}


def additions(instance: str, segment: Segment, strangers: Iterable[int]) -> str:
    """What one more network adds to a table that is there, in nft's language. Pure. strangers: as in ``ruleset``."""
    table = f"inet {marks.table(instance)}"
    lines = [f"table {table} {{ {_strangers(version)} }}" for version in strangers]
    lines += [f"add element {table} {name} {{ {words(parts)} }}" for name, parts in segment.elements()]
    return "\n".join(lines)


def ruleset(
    instance: str,
    everything: Contents,
    strangers: Iterable[int] = (),
    policy: PublishPolicy = PublishPolicy.ANY,
    filtered: Iterable[int] = (),
) -> str:
    """The whole table in nft's language, replacing what is there in one transaction. Pure.

    strangers: the IP versions of which nothing is forwarded that neither enters nor leaves a bridge of a Pierhead
    (because the host did not forward them before an engine turned it on).  filtered: those whose bridged frames pass
    the IP hooks.
    """
    contents: dict[str, list[str]] = {}
    for container, element in everything.words():
        contents.setdefault(container, []).append(words(element))
    for one in everything.ports(policy):
        contents.setdefault(one.container, []).append(one.text())
    lines = []
    for line in chains.SETS.strip().splitlines():
        elements = contents.get(line.split()[1])
        if elements:
            line = f"{line.rstrip().removesuffix('}')} elements = {{ {', '.join(dict.fromkeys(elements))} }}; }}"
        lines.append(line)
    text = chains.CHAINS % {
        "apart": "\n    ".join(chains.APART[version] for version in filtered),
        "translated": chains.OURS if policy is not PublishPolicy.ANY else "",
        "reached": chains.OURS if policy is PublishPolicy.LOCAL else "",
    }
    if policy is PublishPolicy.LOCAL:
        text += chains.LOCAL % {"ours": chains.OURS}
    text += "".join(map(_strangers, strangers))
    name = f"inet {marks.table(instance)}"
    return f"add table {name}\ndelete table {name}\ntable {name} {{\n" + "\n".join(lines) + text + "}\n"
