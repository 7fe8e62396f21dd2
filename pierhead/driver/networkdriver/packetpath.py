"""What the host's rules do to a packet: nftables' expressions executed on one that is only thought of.

Answers come from the rules as the kernel holds them (``linux.nftdump``, ``linux.xtables``), whoever made them.  What
cannot be known beforehand (a rate, a set of ipset, the socket) is taken to let the packet pass, and the answer says
that it is not certain.  Sources: nft(8), linux/netfilter/nf_tables.h, net/netfilter/nft_*.c.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from struct import pack, unpack

from pierhead.driver.networkdriver import xtmatches
from pierhead.driver.networkdriver.xtmatches import PROTOCOLS, Packet
from pierhead.linux.netlink import attributes
from pierhead.linux.nft import NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6
from pierhead.linux.nftdump import NF_ACCEPT, NF_DROP, Chain, Rule, Ruleset, Set

__all__ = [
    "FORWARD",
    "INPUT",
    "OUTPUT",
    "POSTROUTING",
    "PREROUTING",
    "Decision",
    "Packet",
    "Translation",
    "decisions",
    "translation",
    "walk",
]

PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = range(5)
JUMP, GOTO, RETURN, CONTINUE = -3, -4, -5, -1
DEPTH = 16
"""Of jumps, as in the kernel."""

_WORD, _SIZE = 4, 80
_INTERVAL, _INTERVAL_END, _CATCHALL = 0x4, 0x1, 0x2

ACCEPT, DROP, REJECT = "accept", "drop", "reject"

_XT_NAT = {"DNAT": "dnat", "REDIRECT": "redirect", "SNAT": "snat", "MASQUERADE": "masquerade"}
"""Targets of iptables; what they translate into is not read."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What one hooked chain does with a packet.

    verdict: "accept", "drop" or "reject".  chain, rule: who decided; rule None is the policy of ``base``.
    certain: False where something on the way could not be known.
    """

    verdict: str
    base: Chain
    chain: Chain
    rule: Rule | None = None
    certain: bool = True

    @property
    def stops(self) -> bool:
        """Whether the packet goes no further."""
        return self.verdict != ACCEPT


@dataclass(frozen=True, slots=True)
class Host:
    """What rules ask of the host. links: index, group and kind by name; addresses: its own."""

    links: Mapping[str, tuple[int, int, str]] = field(default_factory=dict)
    addresses: frozenset[IPv4Address | IPv6Address] = frozenset()


def walk(ruleset: Ruleset, packet: Packet, hook: int, host: Host | None = None) -> Decision | None:
    """Who stops a packet at a hook, or None. Pure."""
    return next((found for found in decisions(ruleset, packet, hook, host) if found.stops), None)


def decisions(ruleset: Ruleset, packet: Packet, hook: int, host: Host | None = None) -> list[Decision]:
    """What every chain of a hook does with a packet, in their order, up to the one that stops it. Pure.

    Chains that translate addresses are left out: they do not filter.
    """
    families = (NFPROTO_INET, NFPROTO_IPV4 if packet.version == 4 else NFPROTO_IPV6)
    hooked = [
        chain for chain in ruleset.chains if chain.hook == hook and chain.family in families and chain.kind != "nat"
    ]
    found: list[Decision] = []
    for base in sorted(hooked, key=lambda chain: chain.priority):
        found.append(_Machine(ruleset, base, packet, host or Host()).run())
        if found[-1].stops:
            break
    return found


@dataclass(frozen=True, slots=True)
class Translation:
    """What a chain that translates addresses makes of a connection.

    kind: "dnat", "snat", "masquerade" (the source becomes the way out's own address), "redirect" (the target becomes
    the host's own).  address, port: the new ones; None and 0 where they stay, or are not known.
    """

    kind: str
    address: IPv4Address | IPv6Address | None = None
    port: int = 0


def translation(ruleset: Ruleset, packet: Packet, hook: int, host: Host | None = None) -> Translation | None:
    """What the first packet of a connection is translated into at a hook, or None. Pure."""
    families = (NFPROTO_INET, NFPROTO_IPV4 if packet.version == 4 else NFPROTO_IPV6)
    hooked = [
        chain for chain in ruleset.chains if chain.hook == hook and chain.family in families and chain.kind == "nat"
    ]
    for base in sorted(hooked, key=lambda chain: chain.priority):
        machine = _Machine(ruleset, base, packet, host or Host())
        machine.run()
        if machine.translation is not None:
            return machine.translation
    return None


class _Unknown(Exception):
    """A register holds what cannot be known."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    code: int
    chain: str = ""
    reject: bool = False


_MAYBE = "maybe"
_Result = bool | str | _Verdict


class _Machine:
    """nftables' registers, and the expressions that work on them, for one hooked chain."""

    def __init__(self, ruleset: Ruleset, base: Chain, packet: Packet, host: Host) -> None:
        self._ruleset = ruleset
        self._base = base
        self._packet = packet
        self._host = host
        self._memory: list[int | None] = [0] * _SIZE
        self._mark = 0
        self._certain = True
        self.translation: Translation | None = None
        self._chains = {
            chain.name: chain
            for chain in ruleset.chains
            if (chain.family, chain.table, chain.legacy) == (base.family, base.table, base.legacy)
        }
        self._network, self._transport = _headers(packet)

    def run(self) -> Decision:
        """The chain's decision: a rule's, or the policy."""
        found = self._chain(self._base, 0)
        if found is not None:
            return found
        verdict = ACCEPT if self._base.policy == NF_ACCEPT else DROP
        return Decision(verdict, self._base, self._base, None, self._certain)

    def _chain(self, chain: Chain, depth: int) -> Decision | None:
        """The final decision, or None where the packet leaves the chain at its end."""
        for rule in chain.rules:
            result, certain = self._rule(rule)
            if not isinstance(result, _Verdict) or result.code == CONTINUE:
                continue
            if result.code == RETURN:
                if certain:
                    return None
                self._certain = False
                continue
            if result.code in (JUMP, GOTO):
                target = self._chains.get(result.chain)
                if target is None or depth >= DEPTH:
                    continue
                found = self._chain(target, depth + 1)
                self._certain = self._certain and certain
                if found is not None and not (found.stops and not certain):
                    return found
                if result.code == GOTO and certain:
                    return None
                continue
            stops = result.code == NF_DROP
            if not certain:
                self._certain = False
                if stops:  # it may, it may not: the benefit of the doubt
                    continue
            verdict = REJECT if result.reject else DROP if stops else ACCEPT
            return Decision(verdict, self._base, chain, rule, self._certain)
        return None

    def _rule(self, rule: Rule) -> tuple[_Result, bool]:
        certain = True
        for expression in rule.expressions:
            handler = _HANDLERS.get(expression.name)
            try:
                result: _Result = _MAYBE if handler is None else handler(self, expression.attributes)
            except _Unknown:
                result = _MAYBE
            if result is False:
                return False, certain
            if result == _MAYBE:
                certain = False
                if handler is None:
                    self._memory = [None] * _SIZE
            elif isinstance(result, _Verdict):
                return result, certain
        return True, certain

    # Registers

    def _load(self, register: int, length: int) -> bytes:
        at = _place(register)
        values = self._memory[at : at + length]
        if any(value is None for value in values):
            raise _Unknown
        return bytes(value for value in values if value is not None)

    def _store(self, register: int, data: bytes) -> bool:
        at = _place(register)
        padded = data + bytes(-len(data) % _WORD)
        self._memory[at : at + len(padded)] = padded
        return True

    def _forget(self, register: int, length: int = 16) -> bool:
        at = _place(register)
        self._memory[at : at + length] = [None] * length
        return True

    # Expressions

    def immediate(self, values: Mapping[int, bytes]) -> _Result:
        data = dict(attributes(values.get(2, b"")))
        if 2 in data:
            return _verdict(data[2])
        return self._store(_int(values[1]), data.get(1, b""))

    def compare(self, values: Mapping[int, bytes]) -> _Result:
        wanted = _data(values[3])
        have = self._load(_int(values[1]), len(wanted))
        return _compare(_int(values[2]), have, wanted)

    def range(self, values: Mapping[int, bytes]) -> _Result:
        low, high = _data(values[3]), _data(values[4])
        inside = low <= self._load(_int(values[1]), len(low)) <= high
        return inside == (_int(values[2]) == 0)

    def payload(self, values: Mapping[int, bytes]) -> _Result:
        if 1 not in values:
            return True  # it writes into the packet
        base, offset, length = _int(values[2]), _int(values[3]), _int(values[4])
        header = {1: self._network, 2: self._transport}.get(base)
        if header is None or offset + length > len(header):
            return self._forget(_int(values[1]), length + -length % _WORD)
        return self._store(_int(values[1]), header[offset : offset + length])

    def meta(self, values: Mapping[int, bytes]) -> _Result:
        key = _int(values[2])
        if 1 not in values:
            if key == 3:
                (self._mark,) = unpack("=I", self._load(_int(values[3]), 4))
            return True
        found = self._meta(key)
        return self._forget(_int(values[1])) if found is None else self._store(_int(values[1]), found)

    def _meta(self, key: int) -> bytes | None:
        packet = self._packet
        into, out = (self._host.links.get(name, (0, 0, "")) for name in (packet.iif, packet.oif))
        match key:
            case 1:
                return pack(">H", 0x0800 if packet.version == 4 else 0x86DD)
            case 3:
                return pack("=I", self._mark)
            case 4:
                return pack("=I", into[0]) if into[0] or not packet.iif else None
            case 5:
                return pack("=I", out[0]) if out[0] or not packet.oif else None
            case 6:
                return packet.iif.encode().ljust(16, b"\0")
            case 7:
                return packet.oif.encode().ljust(16, b"\0")
            case 15:
                return bytes([NFPROTO_IPV4 if packet.version == 4 else NFPROTO_IPV6])
            case 16:
                return bytes([PROTOCOLS[packet.proto]])
            case 19:
                return bytes(1)
            case 21:
                return pack("=I", into[1])
            case 22:
                return pack("=I", out[1])
            case 26:
                return into[2].encode().ljust(16, b"\0")
            case 27:
                return out[2].encode().ljust(16, b"\0")
        return None

    def tracking(self, values: Mapping[int, bytes]) -> _Result:
        if 1 not in values:
            return True
        packet = self._packet
        key, register = _int(values[2]), _int(values[1])
        known = {
            0: pack("=I", 2 if packet.established else 8),
            1: bytes([packet.reply]),
            2: pack("=I", (0x20 if packet.dnat else 0) | (0x0E if packet.established else 0)),
            3: bytes(4),
            6: bytes(16),
            7: bytes([NFPROTO_IPV4 if packet.version == 4 else NFPROTO_IPV6]),
            10: bytes([PROTOCOLS[packet.proto]]),
            17: bytes(2),
        }.get(key)
        return self._forget(register) if known is None else self._store(register, known)

    def bitwise(self, values: Mapping[int, bytes]) -> _Result:
        length = _int(values[3])
        have = int.from_bytes(self._load(_int(values[1]), length), "big")
        if _int(values.get(6, b"\0")) != 0:  # shifts, and newer forms with two registers
            return self._forget(_int(values[2]), length)
        mask, flip = (int.from_bytes(_data(values[kind]), "big") for kind in (4, 5))
        return self._store(_int(values[2]), (have & mask ^ flip).to_bytes(length, "big"))

    def byteorder(self, values: Mapping[int, bytes]) -> _Result:
        length, size = _int(values[4]), _int(values[5])
        have = self._load(_int(values[1]), length)
        swapped = b"".join(have[at : at + size][::-1] for at in range(0, length, size))
        return self._store(_int(values[2]), swapped)

    def lookup(self, values: Mapping[int, bytes]) -> _Result:
        name = values[1].rstrip(b"\0").decode()
        wanted = self._ruleset.sets.get((self._base.family, self._base.table, name))
        if wanted is None:
            return _MAYBE
        found = _member(wanted, lambda length: self._load(_int(values[2]), length))
        inverted = bool(_int(values.get(5, b"\0")) & 1)
        if (found is None) != inverted:
            return False
        if found is None or 3 not in values:
            return True
        data = dict(attributes(found))
        return _verdict(data[2]) if 2 in data else self._store(_int(values[3]), data.get(1, b""))

    def fib(self, values: Mapping[int, bytes]) -> _Result:
        result, flags, register = _int(values[2]), _int(values[3]), _int(values[1])
        if flags & 0x20:  # only whether there is a route: taken to be so
            return self._store(register, b"\1")
        if result == 3:
            address = self._packet.target if flags & 2 else self._packet.source
            return self._store(register, pack("=I", self.kind_of(address)))
        if result == 1 and flags & 1:
            index = self._host.links.get(self._packet.iif, (0, 0, ""))[0]
            return self._store(register, pack("=I", index)) if index else self._forget(register)
        return self._forget(register)

    def kind_of(self, address: IPv4Address | IPv6Address) -> int:
        """RTN_LOCAL, RTN_BROADCAST, RTN_MULTICAST or RTN_UNICAST."""
        if address.is_loopback or address in self._host.addresses:
            return 2
        if address.is_multicast:
            return 5
        return 3 if address == IPv4Address("255.255.255.255") else 1

    def limit(self, values: Mapping[int, bytes]) -> _Result:
        return not _int(values.get(5, b"\0")) & 1  # below its limit, as the packets of a single client are

    def over(self, values: Mapping[int, bytes]) -> _Result:
        return not _int(values.get(2, b"\0")) & 1

    def header(self, values: Mapping[int, bytes]) -> _Result:
        if _int(values.get(5, b"\0")) & 1 and 1 in values:
            return self._store(_int(values[1]), b"\0")
        return False  # it has no such header or option

    def passes(self, values: Mapping[int, bytes]) -> _Result:
        return True

    def ends(self, values: Mapping[int, bytes]) -> _Result:
        return _Verdict(NF_ACCEPT)

    def nat(self, values: Mapping[int, bytes]) -> _Result:
        if _int(values.get(2, b"")) not in (0, NFPROTO_IPV4 if self._packet.version == 4 else NFPROTO_IPV6):
            return True  # of a table of both families: the other one's
        kind = "dnat" if _int(values[1]) else "snat"
        size = 4 if self._packet.version == 4 else 16
        address = ip_address(self._load(_int(values[3]), size)) if 3 in values else None
        port = _int(self._load(_int(values[5]), 2)) if 5 in values else 0
        return self._translated(Translation(kind, address, port))

    def masquerade(self, values: Mapping[int, bytes]) -> _Result:
        return self._translated(Translation("masquerade"))

    def redirect(self, values: Mapping[int, bytes]) -> _Result:
        port = _int(self._load(_int(values[1]), 2)) if 1 in values else 0
        return self._translated(Translation("redirect", None, port))

    def _translated(self, translation: Translation) -> _Result:
        self.translation = translation
        return _Verdict(NF_ACCEPT)

    def reject(self, values: Mapping[int, bytes]) -> _Result:
        return _Verdict(NF_DROP, reject=True)

    def xtables_header(self, values: Mapping[int, bytes]) -> _Result:
        return xtmatches.header(values[1], self._packet)

    def xtables_match(self, values: Mapping[int, bytes]) -> _Result:
        found = xtmatches.matches(_text(values[1]), _int(values.get(2, b"\0")), values[3], self._packet, self.kind_of)
        return _MAYBE if found is None else found

    def xtables_target(self, values: Mapping[int, bytes]) -> _Result:
        name = _text(values[1])
        if name == "REJECT":
            return _Verdict(NF_DROP, reject=True)
        if name == "DROP":
            return _Verdict(NF_DROP)
        if name in _XT_NAT:
            return self._translated(Translation(_XT_NAT[name]))
        return _Verdict(NF_ACCEPT) if name in ("ACCEPT", "NFQUEUE") else True


_HANDLERS: Mapping[str, Callable[[_Machine, Mapping[int, bytes]], _Result]] = {
    "immediate": _Machine.immediate,
    "cmp": _Machine.compare,
    "range": _Machine.range,
    "payload": _Machine.payload,
    "meta": _Machine.meta,
    "ct": _Machine.tracking,
    "bitwise": _Machine.bitwise,
    "byteorder": _Machine.byteorder,
    "lookup": _Machine.lookup,
    "fib": _Machine.fib,
    "limit": _Machine.limit,
    "quota": _Machine.over,
    "connlimit": _Machine.over,
    "exthdr": _Machine.header,
    "reject": _Machine.reject,
    "queue": _Machine.ends,
    "nat": _Machine.nat,
    "masq": _Machine.masquerade,
    "redir": _Machine.redirect,
    "xt4": _Machine.xtables_header,
    "xt6": _Machine.xtables_header,
    "match": _Machine.xtables_match,
    "target": _Machine.xtables_target,
    **dict.fromkeys(
        ("counter", "log", "notrack", "dup", "last", "flow_offload", "secmark", "objref", "dynset"), _Machine.passes
    ),
    **dict.fromkeys(("tproxy", "synproxy"), _Machine.ends),
}


def _int(value: bytes) -> int:
    return int.from_bytes(value, "big")


def _text(value: bytes) -> str:
    return value.split(b"\0")[0].decode(errors="replace")


def _data(nested: bytes) -> bytes:
    return dict(attributes(nested)).get(1, b"")


def _verdict(nested: bytes) -> _Verdict:
    values = dict(attributes(nested))
    (code,) = unpack(">i", values[1])
    if code >= 0:
        code &= 0xFF  # above it a queue's number
        code = NF_DROP if code == NF_DROP else NF_ACCEPT
    return _Verdict(code, _text(values.get(2, b"")))


def _place(register: int) -> int:
    """Where a register is: NFT_REG_1 to 4 have 16 bytes, NFT_REG32_00 and so on four of the same."""
    return register * 16 if register < 8 else (register - 4) * _WORD


def _compare(operator: int, have: bytes, wanted: bytes) -> bool:
    return (have == wanted, have != wanted, have < wanted, have <= wanted, have > wanted, have >= wanted)[operator]


def _member(wanted: Set, load: Callable[[int], bytes]) -> bytes | None:
    """The value of the element that a key hits (empty in a set that is no map), or None."""
    members = [member for member in wanted.members if not member.flags & _CATCHALL]
    everything = next((member.value for member in wanted.members if member.flags & _CATCHALL), None)
    if not members:
        return everything
    key = load(len(members[0].key))
    if wanted.flags & _INTERVAL and not any(member.last for member in members):
        # A tree of starts and ends (the end not within); at one key an end comes before the next start.
        edges = sorted(members, key=lambda member: (member.key, not member.flags & _INTERVAL_END))
        below = [member for member in edges if member.key <= key]
        if below and not below[-1].flags & _INTERVAL_END:
            return below[-1].value
        return everything
    for member in members:
        if member.last:
            if _within(key, member.key, member.last, wanted.fields):
                return member.value
        elif member.key == key:
            return member.value
    return everything


def _within(key: bytes, low: bytes, high: bytes, fields: Iterable[int]) -> bool:
    at = 0
    for length in fields or (len(key),):
        if not low[at : at + length] <= key[at : at + length] <= high[at : at + length]:
            return False
        at += length + -length % _WORD
    return True


def _headers(packet: Packet) -> tuple[bytes, bytes]:
    """Network and transport header, as far as rules look at them."""
    number = PROTOCOLS[packet.proto]
    if packet.version == 4:
        network = pack(">BBHHHBBH", 0x45, 0, 60, 1, 0x4000, 63, number, 0)
    else:
        network = pack(">IHBB", 0x60000000, 40, number, 63)
    network += packet.source.packed + packet.target.packed
    if packet.proto in ("icmp", "icmpv6"):
        return network, bytes((8 if packet.proto == "icmp" else 128, 0)) + bytes(6)
    transport = pack(">HH", packet.sport, packet.dport)
    if packet.proto == "tcp":
        transport += pack(">IIBBHHH", 1, 0, 0x50, 0x10 if packet.established else 0x02, 64240, 0, 0)
    else:
        transport += bytes(8)
    return network, transport


def answer_to(packet: Packet) -> Packet:
    """What the other side sends back on the same connection."""
    return replace(
        packet,
        source=packet.target,
        target=packet.source,
        sport=packet.dport,
        dport=packet.sport,
        iif=packet.oif,
        oif=packet.iif,
        established=True,
        reply=True,
    )
