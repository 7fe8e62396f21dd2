"""The rules of the one nft table of an instance: address translation, isolation, published ports.

They never change; networks and ports are elements of the table's sets and maps.  A packet to a published port finds
its target by one hash lookup, however many ports there are.  Chains, in the order of a packet's way:

- ``raw``: nobody but the host itself reaches 127.0.0.0/8 (``route_localnet`` is set on our bridges, and without this
  rule a container would reach every service on the host's loopback); nobody reaches a container's address past its
  bridge unless its network is routed or unprotected, or trusts the interface, or is not masqueraded (then answers come
  to it, and ``forward`` keeps the rest away); containers of internal networks reach nothing else.
- ``prerouting``, ``output``: published ports.  An address of the host, a port in a map → the container.  Under the
  policies ``firewall`` and ``local`` only for the host and containers: what comes from outside meets the host's own
  input rules, and then a socket that the container's shim holds.
- ``input``, under ``local``: what those sockets serve is not for clients from outside.
- ``forward``: between bridges only what was published; nothing into or out of internal networks.
- ``strangers4``, ``strangers6``: what neither enters nor leaves a bridge of a Pierhead is not forwarded; only where
  the host did not forward before an engine turned that on.
- ``postrouting``: masquerade what leaves, what comes back to its own bridge (hairpin), and the host's own clients.

It is an ``inet`` table: one set of rules for both families.  Nothing depends on br_netfilter; where bridged frames
pass these chains too, a pair of equal bridges in ``same`` lets them through.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from pierhead.driver.networkdriver import marks
from pierhead.driver.networkdriver.api import Endpoint, Network, PortBinding, PublishPolicy
from pierhead.driver.networkdriver.bridgeoptions import BridgeOptions, GatewayMode
from pierhead.driver.networkdriver.reservations import Addresses, serves, split
from pierhead.linux.nft import Element, field, proto

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}

_SETS = """
  map exact4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
  map any4 { type inet_proto . inet_service : ipv4_addr . inet_service; }
  map ranges4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr; flags interval; }
  map exact6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }
  map any6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
  map ranges6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr; flags interval; }
  set bridges { type ifname; }
  set internal { type ifname; }
  set same { type ifname . ifname; }
  set quiet { type ifname . ifname; }
  set gateways4 { type ipv4_addr; }
  set gateways6 { type ipv6_addr; }
  set subnets4 { type ipv4_addr; flags interval; }
  set subnets6 { type ipv6_addr; flags interval; }
  set own4 { type ipv4_addr . ifname; flags interval; }
  set own6 { type ipv6_addr . ifname; flags interval; }
  set trusted4 { type ipv4_addr . ifname; flags interval; }
  set trusted6 { type ipv6_addr . ifname; flags interval; }
  set masqueraded4 { type ipv4_addr; flags interval; }
  set masqueraded6 { type ipv6_addr; flags interval; }
  set closed4 { type ipv4_addr . inet_proto . inet_service; flags interval; }
  set closed6 { type ipv6_addr . inet_proto . inet_service; flags interval; }
  set opened4 { type ipv4_addr . inet_proto . inet_service; flags interval; }
  set opened6 { type ipv6_addr . inet_proto . inet_service; flags interval; }
  set routed4 { type ifname; }
  set routed6 { type ifname; }
  set unprotected4 { type ifname; }
  set unprotected6 { type ifname; }
"""
_CHAINS = """
  chain raw {
    type filter hook prerouting priority raw; policy accept;
    iifname != "lo" ip daddr 127.0.0.0/8 drop
    iifname != "lo" ip6 daddr ::1 drop
    iifname @internal ip daddr != { 255.255.255.255, 224.0.0.0/4 } ip daddr . iifname != @own4 drop
    iifname @internal ip6 daddr != { ff00::/8, fe80::/10 } ip6 daddr . iifname != @own6 drop
    ip daddr @gateways4 accept
    ip6 daddr @gateways6 accept
    ip daddr . iifname @trusted4 accept
    ip6 daddr . iifname @trusted6 accept
    iifname != "lo" ip daddr @subnets4 ip daddr . iifname != @own4 drop
    iifname != "lo" ip6 daddr @subnets6 ip6 daddr . iifname != @own6 drop
  }
  chain publish {
    dnat ip to ip daddr . meta l4proto . th dport map @exact4
    dnat ip to meta l4proto . th dport map @any4
    dnat ip to ip daddr . meta l4proto . th dport map @ranges4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @exact6
    dnat ip6 to meta l4proto . th dport map @any6
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @ranges6
  }
  chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    %(translated)s fib daddr type local jump publish
  }
  chain output {
    type nat hook output priority -100; policy accept;
    ip6 daddr ::1 return
    fib daddr type local jump publish
  }
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname @bridges ct status dnat fib saddr type local masquerade
    oifname @bridges ct status dnat ip saddr . oifname @own4 masquerade
    oifname @bridges ct status dnat ip6 saddr . oifname @own6 masquerade
    oifname != "lo" ip saddr @masqueraded4 ip saddr . oifname != @own4 masquerade
    oifname != "lo" ip6 saddr @masqueraded6 ip6 saddr . oifname != @own6 masquerade
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    iifname . oifname @same accept
    iifname . oifname @quiet ct status dnat accept
    iifname . oifname @quiet drop
    iifname @internal drop
    oifname @internal drop
    ct state established,related accept
    oifname @bridges ct status dnat accept
    %(reached)s oifname @bridges ip daddr . meta l4proto . th dport @opened4 accept
    %(reached)s oifname @bridges ip6 daddr . meta l4proto . th dport @opened6 accept
    oifname @routed4 meta l4proto icmp accept
    oifname @routed6 meta l4proto ipv6-icmp accept
    iifname @bridges oifname @bridges drop
    %(reached)s oifname @unprotected4 meta nfproto ipv4 accept
    %(reached)s oifname @unprotected6 meta nfproto ipv6 accept
    oifname @bridges drop
    iifname @bridges accept
  }
"""
_LOCAL = """
  chain input {
    type filter hook input priority filter; policy accept;
    iifname "lo" accept
    %(ours)s accept
    meta l4proto tcp ip daddr . meta l4proto . th dport @closed4 reject with tcp reset
    meta l4proto tcp ip6 daddr . meta l4proto . th dport @closed6 reject with tcp reset
    ip daddr . meta l4proto . th dport @closed4 drop
    ip6 daddr . meta l4proto . th dport @closed6 drop
  }
"""
_OURS = f"iifgroup & {marks.GROUP_MASK:#x} == {marks.GROUP_MARK:#x}"
"""What comes from a container, of whichever Pierhead on this host."""
_STRANGERS = """
  chain {chain} {{
    type filter hook forward priority 1; policy accept;
    meta nfproto != {protocol} accept
    iifgroup & {mask:#x} == {mark:#x} accept
    oifgroup & {mask:#x} == {mark:#x} accept
    drop
  }}
"""
STRANGERS = {4: "strangers4", 6: "strangers6"}
"""The chains that say that an engine turned forwarding on: other instances look for them."""


Part = str | IPv4Address | IPv6Address | IPv4Network | IPv6Network
"""Of an element of a set: an interface's name, an address, a subnet."""


def words(parts: Iterable[Part]) -> str:
    """An element in nft's language."""
    return " . ".join(f'"{part}"' if isinstance(part, str) else str(part) for part in parts)


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
class Closing:
    """One element of the sets of closed ports: served by a socket of the host's, and not for clients from outside.

    host: None for every address of the version.
    """

    proto: str
    version: int
    host: IPv4Address | IPv6Address | None
    low: int
    high: int

    @property
    def container(self) -> str:
        """The set it belongs to."""
        return f"closed{self.version}"

    def text(self) -> str:
        """In nft's language."""
        every = "0.0.0.0/0" if self.version == 4 else "::/0"
        return f"{self.host or every} . {self.proto} . {self.low}-{self.high}"

    def element(self) -> Element:
        """As bytes."""
        size = 4 if self.version == 4 else 16
        first, last = (self.host.packed,) * 2 if self.host is not None else (bytes(size), b"\xff" * size)
        number = proto(PROTOCOLS[self.proto])
        return Element(self.container, first + number + field(self.low), b"", last + number + field(self.high))


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


def _closings(endpoint: Endpoint) -> list[Closing]:
    """What its sockets serve: nothing else of the host's is on these ports."""
    found: list[Closing] = []
    container = Addresses(
        endpoint.ipv4.ip if endpoint.ipv4 is not None else None, endpoint.ipv6.ip if endpoint.ipv6 is not None else None
    )
    for binding in split(endpoint.ports)[0]:
        if not serves(binding, container):
            continue
        host = ip_address(binding.host_ip) if binding.host_ip else None
        for version in (4, 6) if host is None else (host.version,):
            one = None if host is None or host.is_unspecified else host
            found.append(Closing(binding.proto, version, one, binding.host_low, binding.host_high))
    return found


def published(
    segment: Segment, endpoint: Endpoint, policy: PublishPolicy = PublishPolicy.ANY
) -> list[Target | Opening | Closing]:
    """The elements that publish an endpoint's ports. Pure.

    Only equal families: the kernel translates neither IPv6 to IPv4 nor ::1.
    """
    found: list[Target | Opening | Closing] = []
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
    if policy is PublishPolicy.LOCAL:
        found += _closings(endpoint)
    return found


def _strangers(version: int) -> str:
    mark, mask = marks.GROUP_MARK, marks.GROUP_MASK
    return _STRANGERS.format(chain=STRANGERS[version], protocol=f"ipv{version}", mask=mask, mark=mark)


def additions(instance: str, segment: Segment, strangers: Iterable[int]) -> str:
    """What one more network adds to a table that is there, in nft's language. Pure. strangers: as in ``ruleset``."""
    table = f"inet {marks.table(instance)}"
    lines = [f"table {table} {{ {_strangers(version)} }}" for version in strangers]
    lines += [f"add element {table} {name} {{ {words(parts)} }}" for name, parts in segment.elements()]
    return "\n".join(lines)


def ruleset(
    instance: str,
    segments: Iterable[Segment],
    endpoints: Iterable[tuple[Segment, Endpoint]],
    strangers: Iterable[int] = (),
    policy: PublishPolicy = PublishPolicy.ANY,
) -> str:
    """The whole table in nft's language, replacing what is there in one transaction. Pure.

    strangers: the IP versions of which nothing is forwarded that neither enters nor leaves a bridge of a Pierhead
    (because the host did not forward them before an engine turned it on).
    """
    contents: dict[str, list[str]] = {}
    for segment in segments:
        for container, element in segment.elements():
            contents.setdefault(container, []).append(words(element))
    for segment, endpoint in endpoints:
        for one in published(segment, endpoint, policy):
            contents.setdefault(one.container, []).append(one.text())
    lines = []
    for line in _SETS.strip().splitlines():
        elements = contents.get(line.split()[1])
        if elements:
            line = f"{line.rstrip().removesuffix('}')} elements = {{ {', '.join(dict.fromkeys(elements))} }}; }}"
        lines.append(line)
    chains = _CHAINS % {
        "translated": _OURS if policy is not PublishPolicy.ANY else "",
        "reached": _OURS if policy is PublishPolicy.LOCAL else "",
    }
    if policy is PublishPolicy.LOCAL:
        chains += _LOCAL % {"ours": _OURS}
    chains += "".join(map(_strangers, strangers))
    name = f"inet {marks.table(instance)}"
    return f"add table {name}\ndelete table {name}\ntable {name} {{\n" + "\n".join(lines) + chains + "}\n"
