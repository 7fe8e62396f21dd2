"""Reads the rules of the old iptables (ip_tables, ip6_tables), which nftables does not show.

They are in the kernel as one block a table, read by getsockopt(2).  What is read here looks like nftables' own: a
rule's addresses and interfaces are an expression "xt4" or "xt6", its matches and target are "match" and "target" as in
rules of iptables-nft.  Sources: linux/netfilter/x_tables.h, linux/netfilter_ipv4/ip_tables.h,
linux/netfilter_ipv6/ip6_tables.h.
"""

import ctypes
import socket
import struct
from dataclasses import dataclass

from pierhead.linux.calls import failure, libc
from pierhead.linux.netlink import attribute, nested
from pierhead.linux.nft import NFPROTO_IPV4, NFPROTO_IPV6
from pierhead.linux.nftdump import NF_ACCEPT, NF_DROP, Chain, Expression, Rule

GET_INFO, GET_ENTRIES = 64, 65
_INFO = struct.Struct("=32sI5I5III")
_ENTRIES_OFFSET = 40
HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
PRIORITIES = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}
NFT_JUMP, NFT_GOTO, NFT_RETURN = -3, -4, -5
IPT_F_GOTO = 0x02


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things are in an entry of a family. header: the size of what is matched; sizes in bytes."""

    family: int
    level: int
    names: str
    header: int
    flags: int
    offsets: int
    entry: int


_LAYOUTS = (
    _Layout(NFPROTO_IPV4, socket.IPPROTO_IP, "ip_tables_names", 84, 82, 88, 112),
    _Layout(NFPROTO_IPV6, 41, "ip6_tables_names", 136, 131, 140, 168),
)


def tables() -> "tuple[tuple[int, str], ...]":
    """(family, name) of the tables that exist in this network namespace; asking for another one would make it.

    Needs root, else there are none.
    """
    found = []
    for layout in _LAYOUTS:
        try:
            with open(f"/proc/thread-self/net/{layout.names}") as file:
                found += [(layout.family, line.strip()) for line in file if line.strip()]
        except OSError:
            continue
    return tuple(sorted(found))


def read(family: int, table: str) -> bytes:
    """One table as the kernel gives it: its description, then its entries. Raises OSError."""
    layout = next(one for one in _LAYOUTS if one.family == family)
    with socket.socket(socket.AF_INET if family == NFPROTO_IPV4 else socket.AF_INET6, socket.SOCK_RAW, 255) as opened:
        info = _ask(opened, layout, GET_INFO, table.encode().ljust(32, b"\0"), _INFO.size)
        size = _INFO.unpack(info)[-1]
        request = struct.pack("=32sI4x", table.encode(), size)
        entries = _ask(opened, layout, GET_ENTRIES, request, _ENTRIES_OFFSET + size)
    return info + entries[_ENTRIES_OFFSET:]


def _ask(opened: socket.socket, layout: _Layout, option: int, request: bytes, size: int) -> bytes:
    buffer = ctypes.create_string_buffer(request, size)
    length = ctypes.c_uint32(size)
    if libc.getsockopt(opened.fileno(), layout.level, option, buffer, ctypes.byref(length)):
        raise failure("getsockopt", layout.names)
    return buffer.raw


def without_counters(family: int, block: bytes) -> bytes:
    """A table without what packets change in it, to be compared."""
    layout = next(one for one in _LAYOUTS if one.family == family)
    still = bytearray(block)
    for at, next_at in _entries(layout, block):
        still[at + layout.entry - 16 : at + layout.entry] = bytes(16)
        assert next_at > at
    return bytes(still)


def _entries(layout: _Layout, block: bytes) -> "list[tuple[int, int]]":
    """Where each entry begins and ends in a block."""
    found = []
    at = _INFO.size
    while at + layout.entry <= len(block):
        length = struct.unpack_from("=H", block, at + layout.offsets + 2)[0]
        if length < layout.entry or at + length > len(block):
            break
        found.append((at, at + length))
        at += length
    return found


def parse(family: int, table: str, block: bytes) -> list[Chain]:
    """The chains of a table that ``read`` gave. Pure."""
    layout = next(one for one in _LAYOUTS if one.family == family)
    _, valid, *rest = _INFO.unpack_from(block)
    hooks = {rest[hook]: hook for hook in range(5) if valid >> hook & 1}
    entries = _entries(layout, block)
    heads: dict[int, str] = {}  # of chains that are jumped to: where their first rule is
    for at, end in entries:
        name, data = _target(layout, block, at, end)
        if name == "ERROR":
            heads[end - _INFO.size] = data[:30].split(b"\0")[0].decode(errors="replace")
    chains: list[tuple[int, str, list[Rule]]] = []
    for at, end in entries:
        place = at - _INFO.size
        if place in hooks:
            chains.append((hooks[place], HOOKS[hooks[place]], []))
        elif place in heads:
            chains.append((-1, heads[place], []))
        if _target(layout, block, at, end)[0] != "ERROR" and chains:
            rules = chains[-1][2]
            rules.append(Rule(len(rules) + 1, _rule(layout, block, at, end, heads)))
    return [_chain(layout.family, table, *chain) for chain in chains]


def _chain(family: int, table: str, hook: int, name: str, rules: list[Rule]) -> Chain:
    """The last rule is the policy of a hooked chain, and a return in the others."""
    last = rules.pop()
    policy = NF_ACCEPT
    if hook >= 0 and last.expressions[-1].attributes.get(2) == _verdict(NF_DROP):
        policy = NF_DROP
    kind = "nat" if table == "nat" else "filter"
    return Chain(family, table, name, tuple(rules), hook, kind, PRIORITIES.get(table, 0), policy, legacy=True)


def _target(layout: _Layout, block: bytes, at: int, end: int) -> tuple[str, bytes]:
    """Name and data of an entry's target."""
    place = at + struct.unpack_from("=H", block, at + layout.offsets)[0]
    _, name, _ = struct.unpack_from("=H29sB", block, place)
    return name.split(b"\0")[0].decode(errors="replace"), block[place + 32 : end]


def _verdict(code: int, chain: str = "") -> bytes:
    """As nftables' immediate expression holds it (NFTA_DATA_VERDICT)."""
    parts = [attribute(1, struct.pack(">i", code))]
    if chain:
        parts.append(attribute(2, chain.encode() + b"\0"))
    return nested(2, *parts)


def _rule(layout: _Layout, block: bytes, at: int, end: int, heads: dict[int, str]) -> tuple[Expression, ...]:
    header = block[at : at + layout.header]
    found = [Expression("xt4" if layout.family == NFPROTO_IPV4 else "xt6", {1: header})]
    place, last = at + layout.entry, at + struct.unpack_from("=H", block, at + layout.offsets)[0]
    while place + 32 <= last:
        size, name, revision = struct.unpack_from("=H29sB", block, place)
        if size < 32:
            break
        found.append(
            Expression("match", {1: name, 2: struct.pack(">I", revision), 3: block[place + 32 : place + size]})
        )
        place += size
    name_of, data = _target(layout, block, at, end)
    if name_of:
        revision = block[last + 31]
        found.append(Expression("target", {1: name_of.encode(), 2: struct.pack(">I", revision), 3: data}))
    else:
        found.append(Expression("immediate", {1: bytes(4), 2: _standard(data, header[layout.flags], heads)}))
    return tuple(found)


def _standard(data: bytes, flags: int, heads: dict[int, str]) -> bytes:
    """A verdict of the old iptables as nftables says it: a jump to a place becomes a jump to that chain."""
    (code,) = struct.unpack_from("=i", data)
    if code >= 0:
        return _verdict(NFT_GOTO if flags & IPT_F_GOTO else NFT_JUMP, heads.get(code, "?"))
    if code == -5:  # -NF_REPEAT - 1
        return _verdict(NFT_RETURN)
    return _verdict(-code - 1)
