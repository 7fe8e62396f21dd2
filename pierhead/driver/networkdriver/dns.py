"""DNS messages as far as the embedded name server reads and writes them (RFC 1035, 2308, 3225, 6891).

Only the question and EDNS are ever parsed, by bytes; everything else of a message is passed on unread.  A question
holds no compression pointer (it could point to nothing but the header), so there is none to follow.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

Address = IPv4Address | IPv6Address

ADDRESS = IPv4Address("127.0.0.11")
"""Where containers find the name server, as in Docker."""

TTL = 5
"""Seconds. Docker's 600 make clients keep the address of a container that is long gone."""

ABSENT = 1
"""Seconds that a client may remember that there is no such name (RFC 2308): it may be there the next moment."""

A, SOA, PTR, AAAA, SRV, OPT, ANY = 1, 6, 12, 28, 33, 41, 255
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
HEADER = struct.Struct(">HHHHHH")
QR, OPCODE, TC, RD, RA, CD = 0x8000, 0x7800, 0x0200, 0x0100, 0x0080, 0x0010
UDP_SIZE = 512
TCP_SIZE = 65535
OWN_SIZE = 1232
"""What we say that we can take over UDP; what comes is from the loopback, and may be larger."""


class Malformed(ValueError):
    """Not a DNS query, or one that tries to confuse: to be dropped without an answer."""


@dataclass(frozen=True, slots=True)
class Edns:
    """What an OPT record says. size: bytes of a datagram that its sender takes."""

    size: int
    version: int
    dnssec_ok: bool


@dataclass(frozen=True, slots=True)
class Query:
    """number: its id.  name: wire form in lower case.  question: the section's bytes as sent, or b"" with an ``error``
    (a response code) that is all there is to say.  edns: None: an older client."""

    number: int
    flags: int
    name: bytes
    kind: int
    class_: int
    question: bytes
    edns: Edns | None = None
    error: int = NOERROR

    def room(self, tcp: bool) -> int:
        """Bytes that the answer may have."""
        if tcp:
            return TCP_SIZE
        return UDP_SIZE if self.edns is None else max(UDP_SIZE, self.edns.size)


# Names ---------------------------------------------------------------------------------------------------------------


def encoded(name: str) -> bytes | None:
    """A name in wire form, its case kept. None for one that no question can ask for (an empty or too long label)."""
    labels = name.encode().split(b".")
    if not all(0 < len(label) < 64 for label in labels):
        return None
    wire = b"".join([bytes((len(label),)) + label for label in labels]) + b"\0"
    return wire if len(wire) <= 255 else None


def reversed_address(name: bytes) -> Address | None:
    """The address that a name below in-addr.arpa or ip6.arpa (wire form, lower case) stands for; None: none."""
    labels = _labels(name)
    try:
        if labels[4:] == [b"in-addr", b"arpa"]:
            return ip_address(b".".join(labels[3::-1]).decode())
        if labels[32:] == [b"ip6", b"arpa"] and all(len(label) == 1 for label in labels[:32]):
            return IPv6Address(bytes.fromhex(b"".join(labels[31::-1]).decode()))
    except ValueError:
        pass
    return None


def _labels(name: bytes) -> list[bytes]:
    found = []
    at = 0
    while name[at]:
        found.append(name[at + 1 : at + 1 + name[at]])
        at += 1 + name[at]
    return found


def parent(name: bytes) -> bytes:
    """The name without its first label; the root's is the root."""
    return name[1 + name[0] :] or name


# Queries -------------------------------------------------------------------------------------------------------------


def parse(message: bytes) -> Query:
    """Read a query. Raises Malformed."""
    if not 12 <= len(message) <= TCP_SIZE:
        raise Malformed("too short or too long")
    number, flags, questions, answers, authorities, additional = HEADER.unpack_from(message)
    if flags & QR:
        raise Malformed("a response")
    if questions > 2:
        raise Malformed("more questions than anybody asks")
    ends = [12]
    for _ in range(questions):
        ends.append(_question_end(message, ends[-1]))
    if questions != 1:
        # RFC 9619: such a query has no answer.
        return Query(number, flags, b"", 0, 0, b"", error=FORMERR)
    end = ends[1]
    kind, class_ = struct.unpack_from(">HH", message, end - 4)
    query = Query(number, flags, message[12 : end - 4].lower(), kind, class_, message[12:end])
    if flags & OPCODE:
        return _with(query, None, NOTIMP)
    if answers or authorities or additional > 2:
        raise Malformed("records in a query")
    return _additional(message, end, additional, query)


def _with(query: Query, edns: Edns | None, error: int) -> Query:
    return Query(query.number, query.flags, query.name, query.kind, query.class_, query.question, edns, error)


def _question_end(message: bytes, start: int) -> int:
    at = start
    while True:
        if at >= len(message):
            raise Malformed("the name does not end")
        length = message[at]
        if length > 63:
            raise Malformed("a pointer or an unknown label type in a question")
        at += 1 + length
        if length == 0:
            break
    if at - start > 255:
        raise Malformed("a name of more than 255 bytes")
    if at + 4 > len(message):
        raise Malformed("no type and class")
    return at + 4


def _additional(message: bytes, at: int, count: int, query: Query) -> Query:
    edns: Edns | None = None
    error = NOERROR
    for _ in range(count):
        name = message[at : at + 1]
        while at < len(message) and 0 < message[at] < 64:
            at += 1 + message[at]
        # A root label, or a pointer (two bytes), ends a record's name.
        at += 2 if at < len(message) and message[at] >= 0xC0 else 1
        if at + 10 > len(message):
            raise Malformed("a record beyond the end")
        kind, class_, extended, length = struct.unpack_from(">HHIH", message, at)
        at += 10 + length
        if kind != OPT:
            continue
        if edns is not None or name != b"\0":
            error = FORMERR
        edns = Edns(class_, extended >> 16 & 0xFF, bool(extended & 0x8000))
    if at != len(message):
        raise Malformed("bytes behind the last record")
    if edns is not None and edns.version and not error:
        error = BADVERS
    return _with(query, edns, error)


# Answers -------------------------------------------------------------------------------------------------------------


def record(kind: int, data: bytes, ttl: int = TTL) -> bytes:
    """A record of the name that was asked for (0xC00C: the one at offset 12)."""
    return struct.pack(">HHHIH", 0xC00C, kind, IN, ttl, len(data)) + data


def _soa(ttl: int) -> bytes:
    # Of the root: the names here belong to no zone, and an SOA's owner has to be above what it speaks for.
    return b"\0" + struct.pack(">HHIH", SOA, IN, ttl, 22) + b"\0\0" + struct.pack(">IIIII", 1, 3600, 600, 86400, ttl)


NO_DATA, NO_NAME = _soa(TTL), _soa(ABSENT)
"""Authority records that say how long "nothing of this type" and "no such name" may be remembered."""


def opt(dnssec_ok: bool, extended: int = 0) -> bytes:
    """Our OPT record. extended: the upper bits of the response code."""
    return struct.pack(">BHHBBHH", 0, OPT, OWN_SIZE, extended, 0, 0x8000 if dnssec_ok else 0, 0)


def reply(
    query: Query, code: int, answers: Sequence[bytes] = (), authority: bytes = b"", *, tcp: bool = False
) -> bytes:
    """A response; where not all answers fit, as many as do and the mark of truncation."""
    tail = b"" if query.edns is None else opt(query.edns.dnssec_ok, code >> 4)
    room = query.room(tcp) - 12 - len(query.question) - len(authority) - len(tail)
    flags = QR | RA | (query.flags & (RD | OPCODE | CD)) | (code & 0xF)
    kept = list(answers)
    if sum(map(len, kept)) > room:
        flags |= TC
        while kept and sum(map(len, kept)) > room:
            kept.pop()
    counts = (1 if query.question else 0, len(kept), 1 if authority else 0, 1 if tail else 0)
    return HEADER.pack(query.number, flags, *counts) + query.question + b"".join(kept) + authority + tail


def refusal(message: bytes, code: int = SERVFAIL) -> bytes:
    """An answer without content to a query. Raises Malformed."""
    return reply(parse(message), code)


def is_reply(message: bytes, query: bytes) -> bool:
    """Whether a message is a response to a query that ``parse`` has read: same id, same question (names without
    regard to case)."""
    if len(message) < 12 or message[:2] != query[:2] or not message[2] & 0x80 or message[4:6] != b"\0\1":
        return False
    try:
        end = _question_end(query, 12)
    except Malformed:
        return False
    return (
        message[12 : end - 4].lower() == query[12 : end - 4].lower() and message[end - 4 : end] == query[end - 4 : end]
    )


def code(message: bytes) -> int:
    """The response code of a message of at least 12 bytes, without the bits that EDNS adds."""
    return message[3] & 0x0F
