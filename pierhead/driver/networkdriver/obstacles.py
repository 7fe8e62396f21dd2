"""What stops packets of ours in somebody else's rules: whose it is, in words, and which command opens it. Pure.

An accept of ours never outvotes another's drop.  ufw, firewalld, Docker, plain nftables and both iptables are all rules
in the kernel, and are asked about by sending imagined packets through them (``packetpath``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from pierhead.driver.networkdriver.outside import SOMEBODY
from pierhead.driver.networkdriver.packetpath import (
    FORWARD,
    INPUT,
    PREROUTING,
    Decision,
    Host,
    Packet,
    answer_to,
    decisions,
    walk,
)
from pierhead.linux.nft import NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6
from pierhead.linux.nftdump import Chain, Ruleset

FAMILIES = {NFPROTO_INET: "inet", NFPROTO_IPV4: "ip", NFPROTO_IPV6: "ip6"}
"""As nft calls them."""

_XTABLES = ("filter", "mangle", "raw", "security", "nat")
_SENSE = {
    "from": "forwarding from {0}",
    "to": "forwarding to {0}",
    "within": "traffic between containers on {0}",
    "input": "{0} from outside",
}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Somebody's rule that stops what we let through.

    direction: "from", "to" or "within" a bridge; "input" of a port.  subject: the bridge, or the port ("8080/tcp").
    owner: "ufw", "firewalld", "docker", or "" for rules of the host's own.  where: the chain.  rule: its text, "" for
    the chain's policy.  command: what opens it, to be run by the host's owner.  certain: False where the rules ask
    for something that cannot be known beforehand.
    """

    direction: str
    subject: str
    verdict: str
    owner: str
    where: str
    rule: str
    command: str
    version: int = 4
    certain: bool = True

    @property
    def what(self) -> str:
        """What is stopped, and by whom."""
        sense = _SENSE[self.direction].format(self.subject)
        what = f"the rule `{self.rule}` in {self.where}" if self.rule else f"the policy of {self.where}"
        whose = f" ({self.owner})" if self.owner else ""
        family = "IPv6 " if self.version == 6 else ""
        ends = "rejected" if self.verdict == "reject" else "dropped"
        return f"{family}{sense} is {ends} by {what}{whose}"

    def __str__(self) -> str:
        """One sentence for a user: what, by whom, and the remedy."""
        return f"{self.what}; to open it: {self.command}"


# Whose it is, and what opens it --------------------------------------------------------------------------------------


def is_iptables(chain: Chain) -> bool:
    """Made by an iptables program: such tables and chains have names that are fixed."""
    return chain.legacy or (chain.family != NFPROTO_INET and chain.table in _XTABLES and chain.name.isupper())


def owner_of(ruleset: Ruleset, base: Chain) -> str:
    """Which program keeps the rules that a hooked chain leads to, known by the names that it gives its chains."""
    if base.table == "firewalld":
        return "firewalld"
    names = [
        chain.name
        for chain in ruleset.chains
        if (chain.family, chain.table, chain.legacy) == (base.family, base.table, base.legacy)
    ]
    if any(name.startswith(("ufw-", "ufw6-")) for name in names):
        return "ufw"
    if any(name in ("FORWARD_direct", "FWDI_public", "IN_public") for name in names):
        return "firewalld"
    if base.hook == FORWARD and any(name.startswith("DOCKER") for name in names):
        return "docker"
    return ""


def _iptables(base: Chain) -> str:
    program = "iptables" if base.family == NFPROTO_IPV4 else "ip6tables"
    return f"{program}-legacy" if base.legacy else program


def opening(ruleset: Ruleset, base: Chain, owner: str, direction: str, subject: str) -> str:
    """The command that lets it through. subject: as in ``Obstacle``."""
    if direction == "input":
        return _opening_port(base, owner, subject)
    into, out = direction in ("from", "within"), direction in ("to", "within")
    if owner == "ufw":
        return "ufw route allow" + f" in on {subject}" * into + f" out on {subject}" * out
    if owner == "firewalld":
        return f"firewall-cmd --permanent --zone=trusted --add-interface={subject} && firewall-cmd --reload"
    if is_iptables(base):
        docker = any(chain.name == "DOCKER-USER" and _same(chain, base) for chain in ruleset.chains)
        chain = "DOCKER-USER" if docker and base.hook == FORWARD and base.table == "filter" else base.name
        table = "" if base.table == "filter" else f" -t {base.table}"
        return f"{_iptables(base)}{table} -I {chain}" + f" -i {subject}" * into + f" -o {subject}" * out + " -j ACCEPT"
    family = FAMILIES[base.family]
    match = f' iifname "{subject}"' * into + f' oifname "{subject}"' * out
    return f"nft insert rule {family} {base.table} {base.name}{match} accept"


def _opening_port(base: Chain, owner: str, subject: str) -> str:
    port, _, proto = subject.partition("/")
    if owner == "ufw":
        return f"ufw allow {subject}"
    if owner == "firewalld":
        return f"firewall-cmd --permanent --add-port={subject} && firewall-cmd --reload"
    if is_iptables(base):
        return f"{_iptables(base)} -I {base.name} -p {proto} --dport {port} -j ACCEPT"
    return f"nft insert rule {FAMILIES[base.family]} {base.table} {base.name} {proto} dport {port} accept"


def _same(chain: Chain, base: Chain) -> bool:
    return (chain.family, chain.table, chain.legacy) == (base.family, base.table, base.legacy)


def _where(base: Chain, chain: Chain) -> str:
    kind = _iptables(base) if is_iptables(base) else f"nft table {FAMILIES[base.family]}"
    if is_iptables(base):
        return f"{kind} chain {chain.name}" + ("" if base.table == "filter" else f" of table {base.table}")
    return f"{kind} {base.table} chain {chain.name}"


Words = Callable[[Decision], str]
"""A rule's text."""


def obstacle(ruleset: Ruleset, found: Decision, direction: str, subject: str, version: int, words: Words) -> Obstacle:
    owner = owner_of(ruleset, found.base)
    return Obstacle(
        direction,
        subject,
        found.verdict,
        owner,
        _where(found.base, found.chain),
        words(found) if found.rule is not None else "",
        opening(ruleset, found.base, owner, direction, subject),
        version,
        found.certain,
    )


# The questions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge of ours: its name, an address of a container on it, what leads outside, whether it may go there.

    filtered: bridged frames pass the rules too (br_netfilter).
    """

    name: str
    address: IPv4Address | IPv6Address
    egress: str
    internal: bool = False
    filtered: bool = False


def forwarding(ruleset: Ruleset, bridge: Bridge, host: Host, words: Words) -> list[Obstacle]:
    """Who stops what containers on a bridge send, and what is sent to them. Pure but for ``words``.

    Asked are: a connection to the outside and its answers, one from outside to a published port and its answers, and
    where bridged frames are filtered one between two containers.
    """
    outside = SOMEBODY[bridge.address.version]
    asked: list[tuple[str, Packet]] = []
    if not bridge.internal and bridge.egress:
        out = Packet(bridge.address, outside, dport=443, iif=bridge.name, oif=bridge.egress)
        into = Packet(outside, bridge.address, dport=80, iif=bridge.egress, oif=bridge.name, dnat=True)
        asked += [("from", out), ("to", answer_to(out)), ("to", into), ("from", answer_to(into))]
    if bridge.filtered:
        peer = bridge.address + 1
        asked.append(("within", Packet(bridge.address, peer, iif=bridge.name, oif=bridge.name)))
    found: dict[str, Obstacle] = {}
    for direction, packet in asked:
        stopped = walk(ruleset, packet, FORWARD, host)
        if stopped is not None and direction not in found:
            version = bridge.address.version
            found[direction] = obstacle(ruleset, stopped, direction, bridge.name, version, words)
    return list(found.values())


def entering(
    ruleset: Ruleset,
    target: IPv4Address | IPv6Address,
    proto: str,
    port: int,
    interface: str,
    host: Host,
    words: Words,
) -> Obstacle | None:
    """Who keeps outsiders from a port of the host's own: what a published port goes round. Pure but for ``words``."""
    packet = Packet(SOMEBODY[target.version], target, proto, dport=port, iif=interface)
    for hook in (PREROUTING, INPUT):
        stopped = walk(ruleset, packet, hook, host)
        if stopped is not None:
            return obstacle(ruleset, stopped, "input", f"{port}/{proto}", target.version, words)
    return None


def accepts(ruleset: Ruleset, packet: Packet, host: Host) -> bool:
    """Whether a rule of somebody's, and not only a policy, lets a forwarded packet through, and nobody stops it."""
    found = decisions(ruleset, packet, FORWARD, host)
    return any(one.rule is not None for one in found) and not any(one.stops for one in found)
