"""Reads nftables' rules as the kernel holds them: tables, chains, rules with their expressions, sets.

Nothing is interpreted here; ``driver.networkdriver.packetpath`` does.  Rules of the iptables-nft programs are rules
like others, whose expressions "match" and "target" hold the structures of xtables.  Sources:
linux/netfilter/nf_tables.h, net/netfilter/nf_tables_api.c.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from pierhead.linux.netlink import NLM_F_DUMP, attributes, text
from pierhead.linux.nft import (
    NFNL_SUBSYS_NFTABLES,
    NFPROTO_UNSPEC,
    NFT_MSG_GETSETELEM,
    NFTA_SET_ELEM_DATA,
    NFTA_SET_ELEM_KEY,
    NFTA_SET_ELEM_KEY_END,
    NFTA_SET_ELEM_LIST_ELEMENTS,
    NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_LIST_TABLE,
    Netfilter,
    nfnetlink,
)

NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETSET = 1, 4, 7, 10
NFTA_TABLE_NAME, NFTA_TABLE_FLAGS, NFT_TABLE_F_DORMANT = 1, 2, 1
NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY, NFTA_CHAIN_TYPE = 1, 3, 4, 5, 7
NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY = 1, 2
NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_HANDLE, NFTA_RULE_EXPRESSIONS = 1, 2, 3, 4
NFTA_EXPR_NAME, NFTA_EXPR_DATA = 1, 2
NFTA_SET_TABLE, NFTA_SET_NAME, NFTA_SET_FLAGS, NFTA_SET_DESC = 1, 2, 3, 9
NFTA_SET_DESC_CONCAT, NFTA_SET_FIELD_LEN = 2, 1
NFTA_SET_ELEM_FLAGS = 3
NF_DROP, NF_ACCEPT = 0, 1

LOOK_AGAIN = 5
"""Looks at a ruleset that somebody changes meanwhile, before the last one is taken as it is."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Expression:
    """One step of a rule; attributes are those of the kernel's NFTA_<NAME>_*, by number."""

    name: str
    attributes: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Rule:
    """handle: the number by which the owner of the table deletes it (of iptables-legacy: its place in the chain)."""

    handle: int
    expressions: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """family: NFPROTO_*.  hook: NF_INET_*, or -1 for a chain that is only jumped to; kind, priority and policy
    (NF_ACCEPT or NF_DROP) are a hooked one's.  legacy: it is the old iptables', not nftables'."""

    family: int
    table: str
    name: str
    rules: tuple[Rule, ...] = ()
    hook: int = -1
    kind: str = ""
    priority: int = 0
    policy: int = NF_ACCEPT
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """An element of a set: key, the last key of an interval where it is a concatenation's, a map's value."""

    key: bytes
    last: bytes = b""
    value: bytes = b""
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Set:
    """flags: NFT_SET_*.  fields: the lengths of a concatenation's parts."""

    flags: int
    fields: tuple[int, ...] = ()
    members: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All chains, in the order of the kernel; sets by (family, table, name)."""

    chains: tuple[Chain, ...] = ()
    sets: Mapping[tuple[int, str, str], Set] = field(default_factory=dict)


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _number(value: bytes) -> int:
    return int.from_bytes(value, "big")


def _dump(netfilter: Netfilter, kind: int, body: bytes = b"", family: int = NFPROTO_UNSPEC) -> list[tuple[int, bytes]]:
    request = nfnetlink(NFNL_SUBSYS_NFTABLES << 8 | kind, NLM_F_DUMP, family, 0, body)
    return netfilter.records(request, "nf_tables dump")


def _expressions(data: bytes) -> tuple[Expression, ...]:
    found = []
    for _, element in attributes(data):
        parts = dict(attributes(element))
        body = dict(attributes(parts.get(NFTA_EXPR_DATA, b"")))
        found.append(Expression(_text(parts.get(NFTA_EXPR_NAME, b"")), body))
    return tuple(found)


def read_rules(netfilter: Netfilter, table: str = "") -> list[tuple[int, str, str, Rule]]:
    """(family, table, chain, rule) of every rule, or of the tables of one name. Raises OSError."""
    found = []
    body = text(NFTA_RULE_TABLE, table) if table else b""
    for family, record in _dump(netfilter, NFT_MSG_GETRULE, body):
        values = dict(attributes(record))
        rule = Rule(_number(values[NFTA_RULE_HANDLE]), _expressions(values.get(NFTA_RULE_EXPRESSIONS, b"")))
        found.append((family, _text(values[NFTA_RULE_TABLE]), _text(values[NFTA_RULE_CHAIN]), rule))
    return found


def read_chains(netfilter: Netfilter) -> list[Chain]:
    """Every chain, without its rules. Raises OSError."""
    found = []
    for family, record in _dump(netfilter, NFT_MSG_GETCHAIN):
        values = dict(attributes(record))
        hook = dict(attributes(values.get(NFTA_CHAIN_HOOK, b"")))
        found.append(
            Chain(
                family,
                _text(values[NFTA_CHAIN_TABLE]),
                _text(values[NFTA_CHAIN_NAME]),
                hook=_number(hook[NFTA_HOOK_HOOKNUM]) if hook else -1,
                kind=_text(values.get(NFTA_CHAIN_TYPE, b"")),
                priority=struct.unpack(">i", hook[NFTA_HOOK_PRIORITY])[0] if hook else 0,
                policy=_number(values[NFTA_CHAIN_POLICY]) if NFTA_CHAIN_POLICY in values else NF_ACCEPT,
            )
        )
    return found


def read_members(netfilter: Netfilter, family: int, table: str, name: str) -> tuple[Member, ...]:
    """The elements of one set or map. Raises OSError."""
    body = text(NFTA_SET_ELEM_LIST_TABLE, table)
    body += text(NFTA_SET_ELEM_LIST_SET, name)
    found = []
    for _, record in _dump(netfilter, NFT_MSG_GETSETELEM, body, family):
        for kind, elements in attributes(record):
            if kind != NFTA_SET_ELEM_LIST_ELEMENTS:
                continue
            for _, element in attributes(elements):
                values = dict(attributes(element))
                found.append(
                    Member(
                        _value(values.get(NFTA_SET_ELEM_KEY, b"")),
                        _value(values.get(NFTA_SET_ELEM_KEY_END, b"")),
                        values.get(NFTA_SET_ELEM_DATA, b""),
                        _number(values.get(NFTA_SET_ELEM_FLAGS, b"")),
                    )
                )
    return tuple(found)


def data_of(member: Member) -> bytes:
    """A map's value as bytes; empty in a set, and for a verdict."""
    return _value(member.value)


def _value(nested: bytes) -> bytes:
    """The bytes in an NFTA_DATA_VALUE."""
    return dict(attributes(nested)).get(1, b"")


def read_sets(netfilter: Netfilter, family: int, table: str) -> dict[str, Set]:
    """A table's sets and maps by name, without their members; none if there is no such table. Raises OSError."""
    body = text(NFTA_SET_TABLE, table)
    try:
        records = _dump(netfilter, NFT_MSG_GETSET, body, family)
    except FileNotFoundError:
        return {}
    described = dict(map(_described, records))
    return {name: found for (_, owner, name), found in described.items() if owner == table}


def _described(record: tuple[int, bytes]) -> "tuple[tuple[int, str, str], Set]":
    """A set's family, table and name, and what it is."""
    family, body = record
    values = dict(attributes(body))
    details = dict(attributes(values.get(NFTA_SET_DESC, b"")))
    fields = tuple(
        _number(dict(attributes(part))[NFTA_SET_FIELD_LEN])
        for _, part in attributes(details.get(NFTA_SET_DESC_CONCAT, b""))
    )
    place = (family, _text(values[NFTA_SET_TABLE]), _text(values[NFTA_SET_NAME]))
    return place, Set(_number(values.get(NFTA_SET_FLAGS, b"")), fields)


def _read_sets(netfilter: Netfilter, wanted: "set[tuple[int, str, str]]") -> dict[tuple[int, str, str], Set]:
    described = dict(map(_described, _dump(netfilter, NFT_MSG_GETSET)))
    return {
        place: replace(found, members=read_members(netfilter, *place))
        for place, found in described.items()
        if place in wanted
    }


def _dormant(netfilter: Netfilter) -> "set[tuple[int, str]]":
    found = set()
    for family, record in _dump(netfilter, NFT_MSG_GETTABLE):
        values = dict(attributes(record))
        if _number(values.get(NFTA_TABLE_FLAGS, b"")) & NFT_TABLE_F_DORMANT:
            found.add((family, _text(values[NFTA_TABLE_NAME])))
    return found


def steady(netfilter: Netfilter, look: Callable[[], T]) -> T:
    """What ``look`` finds by several dumps: it is called again if somebody has changed the ruleset between them.

    Raises OSError.
    """
    for _ in range(LOOK_AGAIN - 1):
        generation = netfilter.generation()
        try:
            found = look()
        except FileNotFoundError:
            continue  # a table that one dump has named went before the next
        if netfilter.generation() == generation:
            return found
    return look()


def read(netfilter: Netfilter, skip: Callable[[str], bool] = lambda table: False) -> Ruleset:
    """The whole ruleset of the namespace, but for tables that are asleep and those whose name is to be skipped.

    Raises OSError.
    """
    return steady(netfilter, lambda: _read(netfilter, skip))


def _read(netfilter: Netfilter, skip: Callable[[str], bool]) -> Ruleset:
    dormant = _dormant(netfilter)
    rules: dict[tuple[int, str, str], list[Rule]] = {}
    looked_up: set[tuple[int, str, str]] = set()
    for family, table, name, rule in read_rules(netfilter):
        if skip(table):
            continue
        rules.setdefault((family, table, name), []).append(rule)
        looked_up |= {
            (family, table, _text(expression.attributes.get(1, b"")))
            for expression in rule.expressions
            if expression.name == "lookup"
        }
    chains = tuple(
        Chain(
            chain.family,
            chain.table,
            chain.name,
            tuple(rules.get((chain.family, chain.table, chain.name), ())),
            chain.hook,
            chain.kind,
            chain.priority,
            chain.policy,
        )
        for chain in read_chains(netfilter)
        if not skip(chain.table) and (chain.family, chain.table) not in dormant
    )
    return Ruleset(chains, _read_sets(netfilter, looked_up) if looked_up else {})
