"""The one nft table of an instance: address translation, isolation, published ports.

The rules never change; networks and ports are elements of its sets and maps.  A packet to a published port finds its
target by one hash lookup, however many ports there are.  Chains, in the order of a packet's way:

- ``raw``: nobody but the host itself reaches 127.0.0.0/8 (``route_localnet`` is set on our bridges, and without this
  rule a container would reach every service on the host's loopback); nobody reaches a container's address past its
  bridge; containers of internal networks reach nothing else.
- ``prerouting``, ``output``: published ports.  An address of the host, a port in a map → the container.
- ``forward``: between bridges only what was published; nothing into or out of internal networks.
- ``postrouting``: masquerade what leaves, what comes back to its own bridge (hairpin), and the host's own clients.

It is an ``inet`` table: one set of rules for both families.  Nothing depends on br_netfilter; where bridged frames
pass these chains too, a pair of equal bridges in ``same`` lets them through.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from pierhead.driver.networkdriver.api import Endpoint, Network, PortBinding
from pierhead.driver.networkdriver.marks import table as table_of
from pierhead.linux import conntrack, nft
from pierhead.linux.conntrack import Conntrack
from pierhead.linux.libnftables import Rulesets
from pierhead.linux.nft import NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6, Element, Netfilter, field, proto

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}

_RULES = """
  map exact4 {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; {exact4} }}
  map any4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; {any4} }}
  map ranges4 {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr; flags interval; {ranges4} }}
  map exact6 {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; {exact6} }}
  map any6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; {any6} }}
  map ranges6 {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr; flags interval; {ranges6} }}
  set bridges {{ type ifname; {bridges} }}
  set internal {{ type ifname; {internal} }}
  set same {{ type ifname . ifname; {same} }}
  set quiet {{ type ifname . ifname; {quiet} }}
  set gateways4 {{ type ipv4_addr; {gateways4} }}
  set gateways6 {{ type ipv6_addr; {gateways6} }}
  set subnets4 {{ type ipv4_addr; flags interval; {subnets4} }}
  set subnets6 {{ type ipv6_addr; flags interval; {subnets6} }}
  set own4 {{ type ipv4_addr . ifname; flags interval; {own4} }}
  set own6 {{ type ipv6_addr . ifname; flags interval; {own6} }}
  set masqueraded4 {{ type ipv4_addr; flags interval; {masqueraded4} }}
  set masqueraded6 {{ type ipv6_addr; flags interval; {masqueraded6} }}
  chain raw {{
    type filter hook prerouting priority raw; policy accept;
    iifname != "lo" ip daddr 127.0.0.0/8 drop
    iifname != "lo" ip6 daddr ::1 drop
    iifname @internal ip daddr != {{ 255.255.255.255, 224.0.0.0/4 }} ip daddr . iifname != @own4 drop
    iifname @internal ip6 daddr != {{ ff00::/8, fe80::/10 }} ip6 daddr . iifname != @own6 drop
    ip daddr @gateways4 accept
    ip6 daddr @gateways6 accept
    iifname != "lo" ip daddr @subnets4 ip daddr . iifname != @own4 drop
    iifname != "lo" ip6 daddr @subnets6 ip6 daddr . iifname != @own6 drop
  }}
  chain publish {{
    dnat ip to ip daddr . meta l4proto . th dport map @exact4
    dnat ip to meta l4proto . th dport map @any4
    dnat ip to ip daddr . meta l4proto . th dport map @ranges4
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @exact6
    dnat ip6 to meta l4proto . th dport map @any6
    dnat ip6 to ip6 daddr . meta l4proto . th dport map @ranges6
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local jump publish
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    ip6 daddr ::1 return
    fib daddr type local jump publish
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname @bridges ct status dnat fib saddr type local masquerade
    oifname @bridges ct status dnat ip saddr . oifname @own4 masquerade
    oifname @bridges ct status dnat ip6 saddr . oifname @own6 masquerade
    oifname != "lo" ip saddr @masqueraded4 ip saddr . oifname != @own4 masquerade
    oifname != "lo" ip6 saddr @masqueraded6 ip6 saddr . oifname != @own6 masquerade
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname . oifname @same accept
    iifname . oifname @quiet drop
    iifname @internal drop
    oifname @internal drop
    ct state established,related accept
    oifname @bridges ct status dnat accept
    oifname @bridges drop
    iifname @bridges accept
    {strangers}
  }}
"""
_CONTAINERS = (
    "exact4 any4 ranges4 exact6 any6 ranges6 bridges internal same quiet gateways4 gateways6 subnets4 subnets6 "
    "own4 own6 masqueraded4 masqueraded6"
).split()


@dataclass(frozen=True, slots=True)
class Segment:
    """What the rules must know of one network: its bridge and how it is to be isolated."""

    bridge: str
    network: Network
    icc: bool = True
    masquerade: bool = True

    def elements(self) -> list[tuple[str, str]]:
        """(set, element in nft's language) for all that belongs to it."""
        name = f'"{self.bridge}"'
        found = [("bridges", name), ("same" if self.icc else "quiet", f"{name} . {name}")]
        if self.network.internal:
            found.append(("internal", name))
        for pool in self.network.pools:
            version = pool.subnet.version
            found.append((f"subnets{version}", str(pool.subnet)))
            found.append((f"own{version}", f"{pool.subnet} . {name}"))
            if pool.gateway is not None:
                found.append((f"gateways{version}", str(pool.gateway)))
            if self.masquerade and not self.network.internal:
                found.append((f"masqueraded{version}", str(pool.subnet)))
        return found


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


def targets(endpoint: Endpoint) -> list[Target]:
    """The map elements that publish an endpoint's ports. Pure.

    Only equal families: the kernel translates neither IPv6 to IPv4 nor ::1.
    """
    found: list[Target] = []
    for binding in endpoint.ports:
        for interface in (endpoint.ipv4, endpoint.ipv6):
            if interface is not None:
                found += _targets(binding, interface.ip)
    return found


def ruleset(instance: str, segments: Iterable[Segment], endpoints: Iterable[Endpoint], *, strangers: bool) -> str:
    """The whole table in nft's language, replacing what is there in one transaction. Pure.

    strangers: drop what is forwarded and neither enters nor leaves a bridge of ours (because the host did not forward
    before the engine turned it on).
    """
    contents: dict[str, list[str]] = {name: [] for name in _CONTAINERS}
    for segment in segments:
        for container, element in segment.elements():
            contents[container].append(element)
    for endpoint in endpoints:
        for target in targets(endpoint):
            contents[target.container].append(target.text())
    filled = {
        name: f"elements = {{ {', '.join(dict.fromkeys(elements))} }};" if elements else ""
        for name, elements in contents.items()
    }
    name = f"inet {table_of(instance)}"
    rules = _RULES.format(**filled, strangers="drop" if strangers else "")
    return f"add table {name}\ndelete table {name}\ntable {name} {{{rules}}}\n"


class Firewall:
    """The table of one instance in the present network namespace."""

    def __init__(self, instance: str) -> None:
        """Nothing is touched before the first call."""
        self._instance = instance
        self.table = table_of(instance)
        self._rulesets = Rulesets()
        self._netfilter = Netfilter()
        self._conntrack = Conntrack(self._netfilter)

    def exists(self) -> bool:
        """Whether the table is there."""
        return self._netfilter.has_table(NFPROTO_INET, self.table)

    def load(self, segments: Sequence[Segment], endpoints: Sequence[Endpoint], *, strangers: bool) -> None:
        """Make the table exactly this, in one transaction: there is no moment without rules."""
        self._rulesets.run(ruleset(self._instance, segments, endpoints, strangers=strangers))

    def add(self, segment: Segment) -> None:
        """Add a network's elements. Idempotent."""
        lines = [f"add element inet {self.table} {name} {{ {element} }}" for name, element in segment.elements()]
        self._rulesets.run("\n".join(lines))

    def remove(self, segment: Segment) -> None:
        """Take a network's elements away. Idempotent."""
        lines = [f"delete element inet {self.table} {name} {{ {element} }}" for name, element in segment.elements()]
        try:
            self._rulesets.run("\n".join(lines))
        except OSError:
            # One that is missing aborts the transaction: take the others one by one, a missing one is what is wanted.
            for line in lines:
                try:
                    self._rulesets.run(line)
                except OSError:
                    continue

    def publish(self, endpoint: Endpoint) -> None:
        """Add the elements of an endpoint's ports. Idempotent; replaces a stale element of the same port."""
        elements = [target.element() for target in targets(endpoint)]
        if not elements:
            return
        try:
            self._netfilter.commit(nft.add_elements(NFPROTO_INET, self.table, elements))
        except FileExistsError:
            self._withdraw(elements)
            self._netfilter.commit(nft.add_elements(NFPROTO_INET, self.table, elements))
        # A client's UDP flow that went on meanwhile is tracked as untranslated and would pass the new element by.
        self._conntrack.forget(
            [
                conntrack.flows_to_port(family, PROTOCOLS["udp"], port)
                for binding in endpoint.ports
                if binding.proto == "udp" and binding.host_high - binding.host_low < 64
                for port in range(binding.host_low, binding.host_high + 1)
                for family in (NFPROTO_IPV4, NFPROTO_IPV6)
            ]
        )

    def withdraw(self, endpoint: Endpoint) -> None:
        """Remove the elements of an endpoint's ports. Idempotent."""
        elements = [target.element() for target in targets(endpoint)]
        if elements:
            self._withdraw(elements)

    def _withdraw(self, elements: Sequence[Element]) -> None:
        try:
            self._netfilter.commit(nft.delete_elements(NFPROTO_INET, self.table, elements))
        except FileNotFoundError:
            for element in elements:
                try:
                    self._netfilter.commit(nft.delete_elements(NFPROTO_INET, self.table, [element]))
                except FileNotFoundError:
                    continue

    def forget(self, endpoint: Endpoint) -> None:
        """Delete every tracked connection of an endpoint's addresses, so that the next owner inherits none."""
        for interface in (endpoint.ipv4, endpoint.ipv6):
            if interface is not None:
                self._conntrack.forget(conntrack.connections_of(interface.ip))

    def clear(self) -> None:
        """Remove the table. Idempotent."""
        if self.exists():
            self._rulesets.run(f"delete table inet {self.table}")

    def close(self) -> None:
        """Let go of the socket."""
        self._netfilter.close()
