"""The embedded name server, without sockets: a query and what is known give an answer, or "ask somebody else".

Only the question is ever parsed, by bytes; everything else of a message is passed on unread.  A question holds no
compression pointer (RFC 1035 4.1.4 allows none that could point anywhere but forward here), so there is none to follow.
"""

import random
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

ADDRESS = IPv4Address("127.0.0.11")
"""Where containers find it, as in Docker."""

TTL = 5
"""Seconds. Docker's 600 make clients keep the address of a container that is long gone."""

A, PTR, AAAA, ANY = 1, 12, 28, 255
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
HEADER = struct.Struct(">HHHHHH")
QR, OPCODE, TC, RD, RA = 0x8000, 0x7800, 0x0200, 0x0100, 0x0080
UDP_SIZE = 512


class Malformed(ValueError):
    """Not a DNS query, or one that tries to confuse: to be dropped without an answer."""


@dataclass(frozen=True, slots=True)
class Question:
    """name: lower case, without the final dot. wire: the question section's bytes as sent."""

    name: str
    kind: int
    wire: bytes


@dataclass(frozen=True, slots=True)
class Zone:
    """What is known in one container's networks. names: lower case, without the final dot."""

    names: Mapping[str, tuple[Address, ...]] = field(default_factory=dict)
    pointers: Mapping[str, str] = field(default_factory=dict)


def union(zones: Sequence[Zone]) -> Zone:
    """What is known in any of them; a name in several has all the addresses."""
    if len(zones) == 1:
        return zones[0]
    names: dict[str, tuple[Address, ...]] = {}
    pointers: dict[str, str] = {}
    for zone in zones:
        for name, addresses in zone.names.items():
            names[name] = tuple(dict.fromkeys((*names.get(name, ()), *addresses)))
        pointers |= zone.pointers
    return Zone(names, pointers)


def pointer_name(address: Address) -> str:
    """The name that a PTR query for an address asks for."""
    return address.reverse_pointer


def question(message: bytes) -> Question:
    """The one question of a query. Raises Malformed."""
    if len(message) < 12 + 5 or len(message) > 65535:
        raise Malformed("too short or too long")
    _, flags, questions, answers, authorities, additional = HEADER.unpack_from(message)
    if flags & QR or questions != 1 or answers or authorities or additional > 2:
        raise Malformed("not a query with one question")
    return _question(message)


def _question(message: bytes) -> Question:
    at = 12
    labels: list[str] = []
    while True:
        if at >= len(message):
            raise Malformed("the name does not end")
        length = message[at]
        if length == 0:
            break
        if length > 63:
            raise Malformed("a pointer or an unknown label type in a question")
        label = message[at + 1 : at + 1 + length]
        if len(label) != length:
            raise Malformed("a label beyond the end")
        labels.append(label.decode("latin-1"))
        at += 1 + length
        if at - 12 > 254:
            raise Malformed("a name of more than 255 bytes")
    end = at + 5
    if end > len(message):
        raise Malformed("no type and class")
    kind, class_ = struct.unpack_from(">HH", message, at + 1)
    if class_ not in (IN, 255):
        raise Malformed("another class than IN")
    return Question(".".join(labels).lower(), kind, message[12:end])


def _reply(query: bytes, asked: Question, code: int, records: Iterable[bytes] = ()) -> bytes:
    number, flags = struct.unpack_from(">HH", query)
    answers = list(records)
    head = HEADER.pack(number, QR | RA | (flags & (RD | OPCODE)) | code, 1, len(answers), 0, 0)
    return head + asked.wire + b"".join(answers)


def _record(kind: int, data: bytes) -> bytes:
    # 0xC00C: the question's name, at offset 12.
    return struct.pack(">HHHIH", 0xC00C, kind, IN, TTL, len(data)) + data


def _encoded(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label for label in name.encode("latin-1").split(b".") if label) + b"\0"


def answer(query: bytes, zone: Zone, *, tcp: bool = False) -> bytes | None:
    """The answer from what is known, or None: somebody else must be asked. Raises Malformed.

    A known name exists for every type: an AAAA query for a container without IPv6 gets an empty answer, and no
    upstream is asked for it.
    """
    asked = question(query)
    if struct.unpack_from(">H", query, 2)[0] & OPCODE:
        return _reply(query, asked, NOTIMP)
    if asked.kind == PTR:
        name = zone.pointers.get(asked.name)
        return None if name is None else _reply(query, asked, NOERROR, [_record(PTR, _encoded(name))])
    addresses = zone.names.get(asked.name)
    if addresses is None:
        return None
    versions = {A: (4,), AAAA: (6,), ANY: (4, 6)}.get(asked.kind, ())
    found = [address for address in addresses if address.version in versions]
    random.shuffle(found)
    records = [_record(A if address.version == 4 else AAAA, address.packed) for address in found]
    if not tcp:
        # Fewer of many equal addresses serve as well as all of them, and spare the client a second question.
        room = UDP_SIZE - 12 - len(asked.wire)
        while records and sum(map(len, records)) > room:
            records.pop()
    return _reply(query, asked, NOERROR, records)


def refusal(query: bytes, code: int = SERVFAIL) -> bytes:
    """An answer without content. Raises Malformed."""
    return _reply(query, question(query), code)


def with_id(message: bytes, number: int) -> bytes:
    """The message under another id."""
    return struct.pack(">H", number) + message[2:]


def answers(reply: bytes, query: bytes) -> bool:
    """Whether ``reply`` is a response to ``query``: same id, same question (names without regard to case)."""
    if len(reply) < 12 or reply[:2] != query[:2] or not reply[2] & 0x80:
        return False
    if struct.unpack_from(">H", reply, 4)[0] != 1:
        return False
    try:
        got, sent = _question(reply), _question(query)
    except Malformed:
        return False
    return (got.name, got.kind) == (sent.name, sent.kind)


def code(reply: bytes) -> int:
    """The response code of a message of at least 12 bytes."""
    return reply[3] & 0x0F


# resolv.conf ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """What a resolv.conf(5) says."""

    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def parse_resolv_conf(text: str) -> ResolvConf:
    """The parts that matter; later ``search`` and ``options`` lines win, as in the C library."""
    nameservers: list[str] = []
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    for line in text.splitlines():
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        if words[0] == "nameserver" and len(words) > 1:
            nameservers.append(words[1])
        elif words[0] in ("search", "domain"):
            search = tuple(words[1:])
        elif words[0] == "options":
            options = tuple(words[1:])
    return ResolvConf(tuple(nameservers), search, options)


_HEAD = """\
# Generated by Docker Engine.
# This file can be edited; Docker Engine will not make further changes once it
# has been modified.

"""


def resolv_conf(
    host: ResolvConf,
    *,
    nameservers: tuple[str, ...] = (),
    search: tuple[str, ...] | None = None,
    options: tuple[str, ...] | None = None,
    embedded: bool = False,
) -> str:
    """A container's file in Docker's words. What is not given comes from the host's.

    embedded: the container's name server is the one at 127.0.0.11, and what is given or the host's are whom it asks.
    Otherwise name servers on the host's loopback are left out, for the container cannot reach them.
    """
    overrides = [
        name for name, given in (("nameservers", nameservers), ("search", search), ("options", options)) if given
    ]
    listed = host.search if search is None else tuple(domain for domain in search if domain != ".")
    chosen = list(host.options if options is None else options)
    comments = []
    if embedded:
        external = nameservers or host.nameservers
        shown = [server if nameservers else f"host({server})" for server in external]
        servers: list[str] = [str(ADDRESS)]
        comments.append("# Based on host file: '/etc/resolv.conf' (internal resolver)")
        if shown:
            comments.append(f"# ExtServers: [{' '.join(shown)}]")
        comments.append(f"# Overrides: [{' '.join(overrides)}]")
        if not any(option.startswith("ndots:") for option in chosen):
            chosen.append("ndots:0")
            comments.append("# Option ndots from: internal")
        else:
            comments.append(f"# Option ndots from: {'host' if options is None else 'override'}")
    else:
        servers = list(nameservers) or [one for one in host.nameservers if not _is_loopback(one)]
        comments.append("# Based on host file: '/etc/resolv.conf' (legacy)")
        if not servers:
            servers = ["8.8.8.8", "8.8.4.4"]
            comments.append("# Used default nameservers.")
        comments.append(f"# Overrides: [{' '.join(overrides)}]")
    lines = [f"nameserver {server}" for server in servers]
    if listed:
        lines.append(f"search {' '.join(listed)}")
    if chosen:
        lines.append(f"options {' '.join(chosen)}")
    return _HEAD + "\n".join([*lines, "", *comments]) + "\n"


def _is_loopback(server: str) -> bool:
    return server.startswith("127.") or server == "::1"
