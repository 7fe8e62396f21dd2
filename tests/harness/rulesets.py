"""Rulesets of real firewalls as files: what the kernel holds, without counters, equal expressions written once.

``python -m tests.harness.rulesets NAME`` captures the ruleset of the network namespace NAME (``ip netns``) to stdout.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pierhead.linux import nftdump, xtables
from pierhead.linux.nft import Netfilter
from pierhead.linux.nftdump import Chain, Expression, Member, Rule, Ruleset, Set
from tests.harness.netns import call_in


def write(ruleset: Ruleset) -> str:
    """As JSON, a line for each chain, set and expression."""
    known: dict[str, int] = {}

    def expression(one: Expression) -> int:
        values = {str(kind): value.hex() for kind, value in one.attributes.items()}
        return known.setdefault(json.dumps([one.name, values]), len(known))

    chains = [
        json.dumps(
            [
                *(chain.family, chain.table, chain.name, chain.hook, chain.kind, chain.priority, chain.policy),
                chain.legacy,
                [
                    [rule.handle, [expression(one) for one in rule.expressions if one.name != "counter"]]
                    for rule in chain.rules
                ],
            ]
        )
        for chain in ruleset.chains
    ]
    sets = [
        json.dumps(
            [
                *key,
                found.flags,
                found.fields,
                [[one.key.hex(), one.last.hex(), one.value.hex(), one.flags] for one in found.members],
            ]
        )
        for key, found in ruleset.sets.items()
    ]
    parts = (("chains", chains), ("sets", sets), ("expressions", list(known)))
    return "{\n" + ",\n".join(f'"{name}": [\n' + ",\n".join(lines) + "\n]" for name, lines in parts) + "\n}\n"


def read(path: Path) -> Ruleset:
    """What ``write`` has written."""
    data: dict[str, Any] = json.loads(path.read_text())
    expressions = [
        Expression(name, {int(kind): bytes.fromhex(value) for kind, value in values.items()})
        for name, values in data["expressions"]
    ]
    chains = tuple(
        Chain(
            family,
            table,
            name,
            tuple(Rule(handle, tuple(expressions[number] for number in numbers)) for handle, numbers in rules),
            hook,
            kind,
            priority,
            policy,
            legacy,
        )
        for family, table, name, hook, kind, priority, policy, legacy, rules in data["chains"]
    )
    sets = {
        (family, table, name): Set(
            flags,
            tuple(fields),
            tuple(
                Member(bytes.fromhex(key), bytes.fromhex(last), bytes.fromhex(value), marks)
                for key, last, value, marks in members
            ),
        )
        for family, table, name, flags, fields, members in data["sets"]
    }
    return Ruleset(chains, sets)


def capture() -> Ruleset:
    """Of the present network namespace, our own tables left out."""
    netfilter = Netfilter()
    try:
        native = nftdump.read(netfilter, lambda table: table.startswith("pierhead-"))
    finally:
        netfilter.close()
    legacy = [
        chain
        for family, table in xtables.tables()
        for chain in xtables.parse(family, table, xtables.read(family, table))
    ]
    return Ruleset((*native.chains, *legacy), native.sets)


if __name__ == "__main__":
    sys.stdout.write(write(call_in(f"/run/netns/{sys.argv[1]}", capture)))
