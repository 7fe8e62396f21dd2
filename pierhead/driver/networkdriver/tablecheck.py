"""Whether an instance's nft table holds what it should: its rules by a fingerprint, its sets element by element."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from pierhead.driver.networkdriver import rules
from pierhead.driver.networkdriver.api import PublishPolicy
from pierhead.driver.networkdriver.rules import Part
from pierhead.linux import nftdump
from pierhead.linux.nft import NFPROTO_INET, Netfilter, field
from pierhead.linux.nftdump import Member

NFT_SET_ANONYMOUS, NFT_SET_INTERVAL = 0x1, 0x4
NFT_SET_ELEM_INTERVAL_END = 0x1

Contents = frozenset[tuple[bytes, bytes, bytes]]
"""Of a set or map: (first key, last key, value); neighbouring intervals of a plain set are one."""


@dataclass(frozen=True, slots=True)
class Present:
    """What is in the kernel. rules: a fingerprint of chains and rules; sets: by name."""

    rules: str
    sets: Mapping[str, Contents]


def fingerprint(netfilter: Netfilter, table: str) -> str:
    """Of a table's chains and rules, whatever their handles. Empty if there are none. Raises OSError."""
    chains = [
        (chain.name, chain.hook, chain.kind, chain.priority, chain.policy)
        for chain in nftdump.read_chains(netfilter)
        if (chain.family, chain.table) == (NFPROTO_INET, table)
    ]
    rules = [
        (chain, [(one.name, sorted(one.attributes.items())) for one in rule.expressions])
        for family, name, chain, rule in nftdump.read_rules(netfilter, table)
        if (family, name) == (NFPROTO_INET, table)
    ]
    return hashlib.sha256(repr((chains, rules)).encode()).hexdigest() if chains else ""


def present(netfilter: Netfilter, table: str) -> Present:
    """The table as it is. Raises OSError."""
    return nftdump.steady(netfilter, lambda: _present(netfilter, table))


def _present(netfilter: Netfilter, table: str) -> Present:
    sets = {}
    for name, found in nftdump.read_sets(netfilter, NFPROTO_INET, table).items():
        if not found.flags & NFT_SET_ANONYMOUS:
            members = nftdump.read_members(netfilter, NFPROTO_INET, table, name)
            tree = found.flags & NFT_SET_INTERVAL and not found.fields
            sets[name] = _intervals(members) if tree else _plain(members)
    return Present(fingerprint(netfilter, table), sets)


def _plain(members: Iterable[Member]) -> Contents:
    return frozenset((member.key, member.last or member.key, nftdump.data_of(member)) for member in members)


def _intervals(members: Iterable[Member]) -> Contents:
    """Of a tree: a start, and an end that is not within; at one key an end comes before the next start."""
    found: list[tuple[bytes, bytes]] = []
    start = b""
    for member in sorted(members, key=lambda member: (member.key, not member.flags & NFT_SET_ELEM_INTERVAL_END)):
        if not member.flags & NFT_SET_ELEM_INTERVAL_END:
            start = start or member.key
        elif start:
            found.append((start, _before(member.key)))
            start = b""
    if start:
        found.append((start, b"\xff" * len(start)))
    return _merged(found)


def _before(key: bytes) -> bytes:
    return (int.from_bytes(key, "big") - 1).to_bytes(len(key), "big")


def _merged(found: Iterable[tuple[bytes, bytes]]) -> Contents:
    merged: list[tuple[bytes, bytes]] = []
    for first, last in sorted(found):
        if merged and int.from_bytes(first, "big") == int.from_bytes(merged[-1][1], "big") + 1:
            merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return frozenset((first, last, b"") for first, last in merged)


def _ends(part: Part) -> tuple[bytes, bytes]:
    """The first and the last key of a part of an element."""
    if isinstance(part, str):
        return field(part), field(part)
    if isinstance(part, IPv4Network | IPv6Network):
        return part.network_address.packed, part.broadcast_address.packed
    return part.packed, part.packed


def expected(everything: rules.Contents, policy: PublishPolicy) -> dict[str, Contents]:
    """The sets as they should be; those that should be empty are left out. Pure."""
    found: dict[str, set[tuple[bytes, bytes, bytes]]] = {}
    for name, parts in everything.words():
        ends = [_ends(part) for part in parts]
        key = b"".join(first for first, _ in ends), b"".join(last for _, last in ends), b""
        found.setdefault(name, set()).add(key)
    for one in everything.ports(policy):
        element = one.element()
        key = element.key, element.key_end or element.key, element.data
        found.setdefault(element.container, set()).add(key)
    return {
        name: _merged((first, last) for first, last, _ in contents)
        if name.startswith(("subnets", "masqueraded"))
        else frozenset(contents)
        for name, contents in found.items()
    }


def differences(table: str, loaded: str, found: Present, wanted: Mapping[str, Contents]) -> list[str]:
    """What is not as it should be, in words. loaded: the fingerprint that the rules had, "" if unknown. Pure."""
    if not found.sets:  # at most what ``Firewall.guard`` has put back
        return [f"the nft table {table} was removed"]
    said = []
    if loaded and found.rules != loaded:
        said.append(f"rules of the nft table {table} were changed")
    for name in sorted(found.sets.keys() | wanted.keys()):
        there, due = found.sets.get(name, frozenset()), wanted.get(name, frozenset())
        if missing := len(due - there):
            said.append(f"{missing} of {len(due)} elements of {name} were removed")
        if strange := len(there - due):
            said.append(f"{name} has {strange} elements that are not ours")
    return said
