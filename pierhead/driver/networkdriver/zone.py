"""What the embedded name server knows: names and addresses of networks, and what one container sees of them.

Answers are looked up by the bytes of the question: a name that is known costs one look into a dictionary.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from pierhead.driver.networkdriver import dns
from pierhead.driver.networkdriver.dns import AAAA, ANY, IN, NOERROR, NXDOMAIN, PTR, SRV, A, Address

_IN_A = A.to_bytes(2) + IN.to_bytes(2)
_IN_AAAA = AAAA.to_bytes(2) + IN.to_bytes(2)


@dataclass(frozen=True, slots=True)
class Member:
    """A container in a network. names: the first is what its addresses are called."""

    names: tuple[str, ...]
    addresses: tuple[Address, ...]


class _Records:
    """The addresses of one family that a name has: records of equal length, one behind the other."""

    __slots__ = ("count", "joined", "size")

    def __init__(self, kind: int, addresses: list[Address]) -> None:
        self.count = len(addresses)
        self.joined = b"".join([dns.record(kind, address.packed) for address in addresses])
        self.size = len(self.joined) // self.count if addresses else 0

    def rotated(self) -> bytes:
        """All of them, beginning with any: who takes the first spreads the load."""
        if self.count < 2:
            return self.joined
        at = int(random.random() * self.count) * self.size
        return self.joined[at:] + self.joined[:at]

    def each(self) -> list[bytes]:
        joined = self.rotated()
        return [joined[at : at + self.size] for at in range(0, len(joined), self.size or 1)]


class Zone:
    """The names in one network. subnets: those where nobody but us can know a name of an address."""

    __slots__ = ("_holders", "_members", "_pointers", "_table", "network", "subnets")

    def __init__(self, network: str, subnets: tuple[IPv4Network | IPv6Network, ...] = ()) -> None:
        self.network = network
        self.subnets = subnets
        self._members: dict[str, Member] = {}
        self._holders: dict[bytes, dict[str, Member]] = {}
        self._pointers: dict[Address, str] = {}
        self._table: dict[bytes, _Records] = {}
        """By question: name in lower case, type, class. A name that is known has both families, be they empty."""

    @property
    def members(self) -> Mapping[str, Member]:
        """Who is known."""
        return self._members

    def update(self, members: Mapping[str, Member]) -> None:
        """Know exactly these members, each under a key of the caller's; what has not changed costs nothing."""
        changed: set[bytes] = set()
        for key, member in [(key, old) for key, old in self._members.items() if members.get(key) != old]:
            del self._members[key]
            for name in self._forms(member):
                del self._holders[name][key]
                changed.add(name)
            for address in member.addresses:
                if self._pointers.get(address) == member.names[0]:
                    del self._pointers[address]
        for key, member in members.items():
            if key in self._members:
                continue
            self._members[key] = member
            for name in self._forms(member):
                self._holders.setdefault(name, {})[key] = member
                changed.add(name)
            self._pointers.update(dict.fromkeys(member.addresses, member.names[0]))
        for name in changed:
            self._compile(name)

    def _forms(self, member: Member) -> set[bytes]:
        """Wire forms, in lower case, of each name alone and with the network's name behind it."""
        forms = {dns.encoded(form) for name in member.names for form in (name, f"{name}.{self.network}")}
        return {form.lower() for form in forms if form is not None}

    def _compile(self, name: bytes) -> None:
        holders = self._holders[name]
        if not holders:
            del self._holders[name], self._table[name + _IN_A], self._table[name + _IN_AAAA]
            return
        addresses = list(dict.fromkeys(address for member in holders.values() for address in member.addresses))
        for kind, version, suffix in ((A, 4, _IN_A), (AAAA, 6, _IN_AAAA)):
            self._table[name + suffix] = _Records(kind, [one for one in addresses if one.version == version])

    def find(self, question: bytes) -> _Records | None:
        """By question in lower case, of type A or AAAA. None: no such name."""
        return self._table.get(question)

    def pointer(self, address: Address) -> bytes | None:
        """The name of an address, in wire form."""
        name = self._pointers.get(address)
        return None if name is None else dns.encoded(f"{name}.{self.network}")


@dataclass(frozen=True, slots=True)
class View:
    """What one container may know.

    zones: the first that has addresses of a name, in the family that is asked for, answers.  links: wire name, in lower
    case, to the zones that it is a link's in, each with the wire name that it stands for there: they are asked before
    the others, for which it is a name.  closed: there is nobody else to ask.  dotted: others are asked only for names
    with a dot in them.
    """

    zones: tuple[Zone, ...] = ()
    links: Mapping[bytes, Mapping[Zone, bytes]] = field(default_factory=dict)
    closed: bool = False
    dotted: bool = False

    def find(self, question: bytes) -> _Records | None:
        """As a zone's."""
        linked = self.links.get(question[:-4], {}) if self.links else {}
        empty = None
        for zone in (*linked, *self.zones) if linked else self.zones:
            records = zone.find(linked[zone] + question[-4:] if zone in linked else question)
            if records is not None:
                if records.count:
                    return records
                empty = empty or records
        return empty


# Answers -------------------------------------------------------------------------------------------------------------

_PLAIN_OPT = dns.opt(False)
_OPT_BY_FLAGS = {b"\0\0": _PLAIN_OPT, b"\x80\0": dns.opt(True)}
_NO_DATA = dns.NO_DATA


def _heads() -> dict[bytes, tuple[bytes, bool]]:
    """Bytes 2 to 12 of the queries that nearly everybody sends (flags, counts), to the same two bytes of the answer
    and whether one additional record follows."""
    heads = {}
    for desired in (0, dns.RD):
        for low in (0x00, 0x10, 0x20, 0x30):  # CD, AD
            flags = (dns.QR | dns.RA | desired | (low & dns.CD)).to_bytes(2)
            for additional in (0, 1):
                counts = b"\0\1\0\0\0\0" + additional.to_bytes(2)
                heads[(desired | low).to_bytes(2) + counts] = flags, bool(additional)
    return heads


_HEADS = _heads()


def answer(message: bytes, view: View, *, tcp: bool = False) -> bytes | None:
    """The answer from what is known, or None: somebody else must be asked. Raises Malformed.

    A known name exists for every type: an AAAA query for a container without IPv6 gets an empty answer, and nobody
    else is asked for it.
    """
    head = _HEADS.get(message[2:12])
    if head is not None:
        flags, edns = head
        room = dns.UDP_SIZE
        if not edns:
            question, tail, more = message[12:], b"", b"\0\0"
        elif message[-11:-8] == b"\0\0\x29" and message[-6:-4] == b"\0\0" == message[-2:]:
            # An OPT record of version 0 without options.
            question, tail, more = message[12:-11], _OPT_BY_FLAGS.get(message[-4:-2], _PLAIN_OPT), b"\0\1"
            room = max(room, message[-8] << 8 | message[-7])
        else:
            return _careful(message, view, tcp)
        records = view.find(question.lower())  # in type and class of A and AAAA there is nothing to lower
        if records is not None:
            count = records.count
            if count:
                found = b"".join(
                    (message[:2], flags, b"\0\1", count.to_bytes(2), b"\0\0", more, question, records.rotated(), tail)
                )
            else:
                found = b"".join((message[:2], flags, b"\0\1\0\0\0\1", more, question, _NO_DATA, tail))
            if tcp or len(found) <= room:
                return found
    return _careful(message, view, tcp)


def _careful(message: bytes, view: View, tcp: bool) -> bytes | None:
    query = dns.parse(message)
    if query.error:
        return dns.reply(query, query.error)
    if query.class_ not in (IN, ANY):
        return dns.reply(query, dns.REFUSED) if view.closed else None
    if query.kind == PTR:
        address = dns.reversed_address(query.name)
        if address is not None:
            return _pointer(query, address, view)
    found = [view.find(query.name + suffix) for suffix in (_IN_A, _IN_AAAA)]
    if found[0] is None or found[1] is None:
        if query.kind == SRV and _service_known(query.name, view):
            return dns.reply(query, NOERROR, authority=dns.NO_DATA)
        return _unknown(query, view)
    wanted = {A: found[:1], AAAA: found[1:], ANY: found}.get(query.kind, [])
    records = [one for records in wanted if records is not None for one in records.each()]
    return dns.reply(query, NOERROR, records, b"" if records else dns.NO_DATA, tcp=tcp)


def _pointer(query: dns.Query, address: Address, view: View) -> bytes | None:
    for zone in view.zones:
        name = zone.pointer(address)
        if name is not None:
            return dns.reply(query, NOERROR, [dns.record(PTR, name)])
    if any(address in subnet for zone in view.zones for subnet in zone.subnets):
        return dns.reply(query, NXDOMAIN, authority=dns.NO_NAME)
    return _unknown(query, view)


def _service_known(name: bytes, view: View) -> bool:
    """Whether _service._proto.name is of a name that is known: it offers no service that we could know of."""
    if name[1:2] != b"_" or dns.parent(name)[1:2] != b"_":
        return False
    return view.find(dns.parent(dns.parent(name)) + _IN_A) is not None


def _unknown(query: dns.Query, view: View) -> bytes | None:
    single = query.name != b"\0" and dns.parent(query.name) == b"\0"
    if view.closed or (view.dotted and single and query.kind in (A, AAAA)):
        return dns.reply(query, NXDOMAIN, authority=dns.NO_NAME)
    return None
