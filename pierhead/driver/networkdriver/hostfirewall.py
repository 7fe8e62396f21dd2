"""The rules of everybody else on the host, read from the kernel; nothing of theirs is changed."""

import threading
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from pierhead.driver.networkdriver import marks, obstacles, ruletext
from pierhead.driver.networkdriver.api import Neighbours
from pierhead.driver.networkdriver.obstacles import FAMILIES, Bridge, Obstacle, is_iptables
from pierhead.driver.networkdriver.outside import SOMEBODY, egress
from pierhead.driver.networkdriver.packetpath import FORWARD, INPUT, PREROUTING, Decision, Host, Packet
from pierhead.linux import nftdump, xtables
from pierhead.linux.libnftables import Rulesets
from pierhead.linux.netlink import Link, Netlink
from pierhead.linux.nft import Netfilter
from pierhead.linux.nftdump import Chain, Ruleset

LIFETIME = 10.0
"""Seconds that an answer is given again while the rules stay as they are: interfaces and routes change without them."""

Answers = dict[object, tuple[float, list[Obstacle]]]
"""By question: until when the answer holds, and the answer."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The host as the questions need it, by IP version: what leads outside, and its own address there."""

    host: Host
    egress: Mapping[int, str]
    addresses: Mapping[int, IPv4Address | IPv6Address]

    @classmethod
    def read(cls) -> "Surroundings":
        """Of the present network namespace. Raises OSError."""
        with Netlink() as link:
            links = {found.index: found for found in link.links()}
            addresses = link.addresses()
            ways = egress(link)
        names = {version: way.link.name for version, way in ways.items()}
        own = {version: way.address for version, way in ways.items() if way.address is not None}
        for index, interface in addresses:  # a host without a default route: what it has of real interfaces
            found = links.get(index)
            if found is not None and _real(found) and not interface.ip.is_loopback:
                names.setdefault(interface.version, found.name)
                if found.name == names[interface.version] and not interface.ip.is_link_local:
                    own.setdefault(interface.version, interface.ip)
        host = Host(
            {found.name: (found.index, found.group, found.kind) for found in links.values()},
            frozenset(interface.ip for _, interface in addresses),
        )
        return cls(host, names, own)


def _real(link: Link) -> bool:
    """Not a bridge, not a port of one, not an engine's."""
    return link.up and link.kind != "bridge" and not link.master and not link.group


def _foreign(link: Link) -> bool:
    """A bridge of somebody who is no Pierhead."""
    return link.kind == "bridge" and not marks.ours(link)


class HostFirewall:
    """The rules of everybody but this instance in the network namespace, read again when they have changed."""

    def __init__(self, instance: str) -> None:
        """Nothing is read before the first question. instance: whose table is left out; "" for all."""
        self.watched = False  # whether somebody calls stale() in time; else nothing is remembered
        self._own = marks.table(instance)
        self._netfilter = Netfilter()
        self._rulesets = Rulesets()
        self._lock = threading.Lock()
        self._native = Ruleset()
        self._changes = 0
        self._looked = -1  # how many changes there had been before the look that the ruleset is of; -1: none
        self._legacy: dict[tuple[int, str], bytes] = {}
        self._chains: tuple[Chain, ...] = ()
        self._ruleset = Ruleset()
        self._answers: Answers = {}

    def stale(self) -> None:
        """Somebody has changed nftables' rules (old iptables' are compared at every question)."""
        self._changes += 1

    @property
    def _fresh(self) -> bool:
        """Whether ``_ruleset`` has nftables' rules as they are."""
        return self._looked == self._changes

    def quiet(self, *hooks: int) -> bool:
        """Whether it is known without a long look that nobody else filters at these hooks (what is forwarded, where
        none is named)."""
        return self._fresh and not xtables.tables() and not self._hooked(self._ruleset, *(hooks or (FORWARD,)))

    def legacy_changed(self) -> bool:
        """Whether old iptables' rules, whose changes nobody announces, are others than at the last look. Microseconds
        where there are none."""
        found = {key: xtables.without_counters(key[0], xtables.read(*key)) for key in xtables.tables()}
        return found != self._legacy

    def close(self) -> None:
        """Let go of the socket."""
        self._netfilter.close()

    def ruleset(self) -> Ruleset:
        """The rules of others, of nftables and of old iptables. Raises OSError."""
        return self._look()[0]

    def _look(self) -> tuple[Ruleset, Answers]:
        """The rules, and what was answered by them before."""
        with self._lock:
            looked = self._looked
            legacy = {}
            for family, table in xtables.tables():
                legacy[family, table] = xtables.without_counters(family, xtables.read(family, table))
            changed = legacy != self._legacy
            if changed:
                self._legacy = legacy
                self._chains = tuple(
                    chain for key, block in legacy.items() for chain in xtables.parse(key[0], key[1], block)
                )
            if not self._fresh:
                # From before the look: what is changed meanwhile makes it stale again.
                looked = self._changes if self.watched else -1
                self._native = nftdump.read(self._netfilter, lambda table: table.startswith(self._own))
                changed = True
            if changed:
                self._ruleset = Ruleset((*self._native.chains, *self._chains), self._native.sets)
                self._answers = {}
            self._looked = looked  # after it: ``quiet`` waits for no look
            return self._ruleset, self._answers

    def everything(self) -> Ruleset:
        """The rules of everybody, this instance's own included, as they are now. Raises OSError."""
        native = nftdump.read(self._netfilter)
        legacy = [
            chain
            for family, table in xtables.tables()
            for chain in xtables.parse(family, table, xtables.read(family, table))
        ]
        return Ruleset((*native.chains, *legacy), native.sets)

    def obstacle(self, ruleset: Ruleset, found: Decision, packet: Packet, bridges: Container[str]) -> Obstacle:
        """A decision of somebody's rule about a packet, in words. bridges: the names of ours."""
        if not packet.oif:
            direction, subject = "input", f"{packet.dport}/{packet.proto}"
        elif packet.iif == packet.oif:
            direction, subject = "within", packet.iif
        elif packet.iif in bridges:
            direction, subject = "from", packet.iif
        else:
            direction, subject = "to", packet.oif
        return obstacles.obstacle(ruleset, found, direction, subject, packet.version, self._words)

    def _words(self, found: Decision) -> str:
        """A rule's text: iptables' from what was read, nftables' as nft itself writes it."""
        if found.rule is None:
            return ""
        if is_iptables(found.base):
            return ruletext.text(found.chain, found.rule)
        chain = found.chain
        try:
            listed = self._rulesets.run(f"list chain {FAMILIES[chain.family]} {chain.table} {chain.name}", handles=True)
        except OSError:
            listed = ""
        ending = f" # handle {found.rule.handle}"
        text = next((line for line in listed.splitlines() if line.endswith(ending)), "")
        return text.removesuffix(ending).strip() or f"handle {found.rule.handle}"

    def _hooked(self, ruleset: Ruleset, *hooks: int) -> bool:
        return any(chain.hook in hooks and chain.kind != "nat" for chain in ruleset.chains)

    def forwarding(
        self, bridge: str, addresses: Sequence[IPv4Address | IPv6Address], *, internal: bool, filtered: bool
    ) -> list[Obstacle]:
        """Who stops what a bridge of ours forwards; addresses: one that a container could have, of each version.

        Raises OSError.
        """
        ruleset, answers = self._look()
        if not self._hooked(ruleset, FORWARD):
            return []
        key = (bridge, *addresses, internal, filtered)
        until, found = answers.get(key, (0.0, []))
        if until < time.monotonic():
            around, found = Surroundings.read(), []
            for address in addresses:
                asked = Bridge(bridge, address, around.egress.get(address.version, ""), internal, filtered)
                found += obstacles.forwarding(ruleset, asked, around.host, self._words)
            answers[key] = time.monotonic() + LIFETIME, found
        return found

    def neighbours(self) -> Neighbours:
        """Bridges of others, and for which of them somebody's rules let the host forward.

        Raises OSError.
        """
        ruleset = self.ruleset()
        with Netlink() as link:
            bridges = {found.index: found.name for found in link.links() if _foreign(found)}
            addresses = link.addresses() if bridges else []
        guests: dict[str, None] = {}
        around = Surroundings.read() if bridges and self._hooked(ruleset, FORWARD) else None
        for index, interface in addresses:
            out = around.egress.get(interface.version, "") if around is not None else ""
            if index in bridges and out and around is not None and not interface.ip.is_link_local:
                packet = Packet(interface.ip + 1, SOMEBODY[interface.version], iif=bridges[index], oif=out)
                if obstacles.accepts(ruleset, packet, around.host):
                    guests[bridges[index]] = None
        return Neighbours(tuple(guests), tuple(sorted(bridges.values())))

    def entering(
        self,
        proto: str,
        port: int,
        address: IPv4Address | IPv6Address | None = None,
        versions: Container[int] = (4, 6),
    ) -> Obstacle | None:
        """Which input rule keeps outsiders from a port of the host, or None. address: one of the host's own, None for
        those of these versions that outsiders see. Raises OSError."""
        ruleset = self.ruleset()
        if not self._hooked(ruleset, PREROUTING, INPUT):
            return None
        around = Surroundings.read()
        seen = [own for version, own in around.addresses.items() if version in versions]
        targets = [address] if address is not None else seen
        for target in targets:
            interface = around.egress.get(target.version, "")
            found = obstacles.entering(ruleset, target, proto, port, interface, around.host, self._words)
            if found is not None:
                return found
        return None
