"""Other people's firewalls beside ours, really running: what is said of them is what happens to packets."""

import contextlib
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from pierhead.driver.networkdriver.hostfirewall import HostFirewall
from pierhead.driver.networkdriver.obstacles import Obstacle
from pierhead.driver.networkdriver.packetpath import INPUT
from pierhead.linux import nftdump
from tests.harness.firewalls import Firewalls, firewalls, unpacked
from tests.harness.netns import World, world
from tests.kernel.test_network_bridge import INSTANCE, Lab, ask, silent, tcp

pytestmark = pytest.mark.skipif(not unpacked(), reason="ufw, firewalld and iptables are not unpacked (make setup)")


@pytest.fixture(scope="module")
def outside() -> Iterator[World]:
    with world("h4h") as made:
        yield made


@pytest.fixture(scope="module")
def theirs(outside: World) -> Iterator[Firewalls]:
    with firewalls(outside.host) as made:
        yield made


@pytest.fixture
def lab(outside: World, theirs: Firewalls) -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        made = Lab(outside, "h4h", stack)
        stack.callback(made.end)
        try:
            yield made
        finally:
            outside.host.run("nft", "flush", "ruleset").check()
            for program in ("iptables-legacy", "ip6tables-legacy"):
                for command in (("-F",), ("-X",), ("-P", "FORWARD", "ACCEPT"), ("-P", "INPUT", "ACCEPT")):
                    theirs.run(program, *command).check()


class Scene:
    """A web server in a container with a published port, and the question what stops it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.network = lab.network(0)
        self.web, _ = lab.container(self.network, 2, tcp(8081, 8080))
        lab.serve(self.web)
        lab.serve(lab.world.neighbour, 443)
        self.firewall = HostFirewall(INSTANCE)

    def reached(self) -> bool:
        """From outside, by the published port."""
        return ask(self.lab.world.neighbour, self.lab.world.host_address, 8081, patience=1).startswith(self.web.name)

    def reaches(self) -> bool:
        return ask(self.web, self.lab.world.neighbour_address, 443, patience=1) != ""

    def obstacles(self) -> dict[str, Obstacle]:
        def look() -> list[Obstacle]:
            self.firewall.stale()
            addresses = [pool.gateway + 1 for pool in self.network.pools if pool.gateway is not None]
            return self.firewall.forwarding("docker0", addresses, internal=False, filtered=False)

        return {found.direction: found for found in self.lab.host.call(look)}

    def entering(self, port: int, proto: str = "tcp") -> Obstacle | None:
        def look() -> Obstacle | None:
            self.firewall.stale()
            return self.firewall.entering(proto, port)

        return self.lab.host.call(look)

    def open(self, theirs: Firewalls) -> None:
        """Do what is advised, as the host's owner would."""
        for found in self.obstacles().values():
            theirs.run("sh", "-c", found.command).check()

    def agrees(self) -> dict[str, Obstacle]:
        """What is said is what packets meet; returns what is said."""
        said = self.obstacles()
        assert self.reaches() == ("from" not in said), said
        assert self.reached() == ("to" not in said), said
        return said

    def close(self) -> None:
        self.firewall.close()


@pytest.fixture
def scene(lab: Lab) -> Iterator[Scene]:
    made = Scene(lab)
    yield made
    made.close()


def test_a_host_without_a_firewall_stops_nothing(scene: Scene) -> None:
    assert scene.agrees() == {}
    assert scene.entering(8081) is None


def test_ufw_is_named_with_the_route_command_that_opens_it(scene: Scene, theirs: Firewalls) -> None:
    theirs.run("ufw", "--force", "enable").check()
    try:
        said = scene.agrees()
        assert said["from"].owner == "ufw" and said["from"].command == "ufw route allow in on docker0"
        assert said["to"].command == "ufw route allow out on docker0"
        assert "policy of iptables chain FORWARD" in str(said["from"])
        scene.open(theirs)
        assert scene.agrees() == {}
        # The input policy: what a published port goes round.
        found = scene.entering(8081)
        assert found is not None and found.owner == "ufw" and found.command == "ufw allow 8081/tcp"
        theirs.run("ufw", "allow", "8081/tcp").check()
        assert scene.entering(8081) is None
        assert scene.entering(8081, "udp") is not None
    finally:
        theirs.run("ufw", "--force", "reset").check()
        theirs.run("ufw", "--force", "disable").check()


def test_firewalld_is_named_with_the_zone_command_that_opens_it(scene: Scene, theirs: Firewalls) -> None:
    with theirs.firewalld():
        said = scene.agrees()
        assert said["from"].owner == "firewalld" and "reject with icmpx" in said["from"].rule
        scene.open(theirs)
        assert scene.agrees() == {}
        found = scene.entering(8081)
        assert found is not None and found.owner == "firewalld"
        assert "firewall-cmd --permanent --add-port=8081/tcp" in found.command
        theirs.run("firewall-cmd", "--add-port=8081/tcp").check()
        assert scene.entering(8081) is None


@pytest.mark.parametrize("program", ["iptables", "iptables-legacy"])
def test_iptables_rules_and_policies_are_named_by_their_text(scene: Scene, theirs: Firewalls, program: str) -> None:
    theirs.run(program, "-A", "FORWARD", "-i", "docker0", "-p", "tcp", "--dport", "443", "-j", "REJECT").check()
    said = scene.agrees()
    assert list(said) == ["from"]
    assert said["from"].rule == "-A FORWARD -i docker0 -p tcp -m tcp --dport 443 -j REJECT" or (
        said["from"].rule == "-A FORWARD -i docker0 -p tcp --dport 443 -j REJECT"
    )
    assert said["from"].verdict == "reject"
    assert said["from"].command == f"{program} -I FORWARD -i docker0 -j ACCEPT"
    theirs.run(program, "-P", "FORWARD", "DROP").check()
    assert set(scene.agrees()) == {"from", "to"}
    scene.open(theirs)
    assert scene.agrees() == {}
    theirs.run(program, "-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT").check()
    theirs.run(program, "-A", "INPUT", "-p", "tcp", "-m", "multiport", "--dports", "22,80:90", "-j", "ACCEPT").check()
    theirs.run(program, "-P", "INPUT", "DROP").check()
    assert scene.entering(85) is None and scene.entering(22) is None
    found = scene.entering(91)
    assert found is not None and f"policy of {program} chain INPUT" in str(found)


FOREIGN = """
table inet filter {
  set ours { type ifname; elements = { "ens33", "virbr0" } }
  set blocked { type ipv4_addr; flags interval; elements = { 192.0.2.16/29, 198.51.100.0/24 } }
  map ways { type ifname : verdict; elements = { "docker0" : jump fromdocker } }
  chain fromdocker { ip daddr @blocked drop; tcp dport { 443, 8000-8100 } accept; }
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state vmap { established : accept, related : accept, invalid : drop }
    iifname vmap @ways
    iifname @ours ct status dnat limit rate 100/second accept
  }
  chain input {
    type filter hook input priority filter; policy accept;
    tcp dport != { 22, 443 } fib daddr type local reject
  }
}
"""


def test_sets_maps_and_jumps_of_plain_nftables_are_followed(scene: Scene) -> None:
    host = scene.lab.host
    host.run("nft", "-f", "-", stdin=FOREIGN.encode()).check()
    said = scene.obstacles()
    assert said == {}, "9.9.9.9:443 is allowed"
    assert not scene.reaches(), "but not the neighbour, who is in a set"
    host.run("nft", 'delete element inet filter ways { "docker0" }').check()
    said = scene.agrees()
    assert list(said) == ["from"]
    assert said["from"].where == "nft table inet filter chain forward" and not said["from"].rule
    assert said["from"].command == 'nft insert rule inet filter forward iifname "docker0" accept'
    host.run("sh", "-c", said["from"].command).check()
    assert scene.agrees() == {}
    assert scene.entering(22) is None
    found = scene.entering(8081)
    assert found is not None and found.rule.startswith("tcp dport != { 22, 443 }") and found.verdict == "reject"


def test_a_chain_of_another_table_and_a_sleeping_table_are_seen_as_they_are(scene: Scene) -> None:
    host = scene.lab.host
    host.run("nft", "add table ip late { flags dormant; }").check()
    host.run("nft", "add chain ip late f { type filter hook forward priority 200; policy drop; }").check()
    assert scene.agrees() == {}
    host.run("nft", "add table ip late").check()
    assert set(scene.agrees()) == {"from", "to"}


def test_an_ip6tables_policy_stops_ipv6_alone(lab: Lab, theirs: Firewalls) -> None:
    lab.network(1, ipv6=True)
    theirs.run("ip6tables", "-P", "FORWARD", "DROP").check()
    firewall = HostFirewall(INSTANCE)
    try:
        found = lab.host.call(
            lambda: firewall.forwarding(
                "br-1", [ip_address("172.31.0.2"), ip_address("fd00:1::2")], internal=False, filtered=False
            )
        )
        assert {one.version for one in found} == {6}
        assert found[0].command == "ip6tables -I FORWARD -i br-1 -j ACCEPT"
        assert silent(lab.host, "192.0.2.77", 1) and "IPv6 forwarding" in str(found[0])
    finally:
        firewall.close()


def test_that_nobody_filters_is_not_held_for_known_in_the_middle_of_a_look(
    outside: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = outside.neighbour
    firewall = HostFirewall(INSTANCE)
    firewall.watched = True
    read = nftdump.read
    meanwhile: list[bool] = []

    def look(*known: Any) -> nftdump.Ruleset:
        meanwhile.append(firewall.quiet(INPUT))
        return read(*known)

    monkeypatch.setattr(nftdump, "read", look)
    try:
        there.call(firewall.ruleset)
        assert there.call(lambda: firewall.quiet(INPUT))
        there.run("nft", "add table ip late; add chain ip late i { type filter hook input priority 0; }").check()
        firewall.stale()
        there.call(firewall.ruleset)
        assert not there.call(lambda: firewall.quiet(INPUT))
    finally:
        firewall.close()
        there.run("nft", "delete", "table", "ip", "late")
    assert meanwhile == [False, False]
