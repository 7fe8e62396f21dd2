"""What is said of other people's rules, on rulesets captured from real firewalls (``tests/harness/rulesets.py``)."""

from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from pierhead.driver.networkdriver import obstacles as obstacles_of
from pierhead.driver.networkdriver import ruletext
from pierhead.driver.networkdriver.obstacles import Bridge, Obstacle
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
from pierhead.linux.nftdump import Ruleset
from tests.harness.rulesets import read

RULESETS = Path(__file__).parent / "rulesets"
HOST = Host({"ens33": (2, 0, "veth"), "docker0": (5, 9, "bridge")}, frozenset({ip_address("192.0.2.10")}))
OUTSIDE, INSIDE, OWN = ip_address("9.9.9.9"), ip_address("172.30.0.2"), ip_address("192.0.2.10")


def ruleset(name: str) -> Ruleset:
    return read(RULESETS / f"{name}.json")


def said(name: str, packet: Packet, hook: int) -> str:
    """ "verdict chain", with the rule's handle or "policy"; "passes" if nobody stops it."""
    found = walk(ruleset(name), packet, hook, HOST)
    if found is None:
        return "passes"
    by = "policy" if found.rule is None else "rule"
    return f"{found.verdict} {found.chain.name} {by}"


def out(bridge: str = "docker0", dport: int = 443, proto: str = "tcp", **more: object) -> Packet:
    return Packet(INSIDE, OUTSIDE, proto, 40000, dport, bridge, "ens33", **more)  # type: ignore[arg-type]


def into(bridge: str = "docker0", dport: int = 80, **more: object) -> Packet:
    return Packet(OUTSIDE, INSIDE, "tcp", 40000, dport, "ens33", bridge, **more)  # type: ignore[arg-type]


def own(dport: int, proto: str = "tcp") -> Packet:
    return Packet(OUTSIDE, OWN, proto, 40000, dport, "ens33")


@pytest.mark.parametrize(
    ("name", "packet", "hook", "wanted"),
    [
        ("ufw", out(), FORWARD, "drop FORWARD policy"),
        ("ufw", out("docker7"), FORWARD, "passes"),
        ("ufw", answer_to(out("docker7")), FORWARD, "passes"),
        ("ufw", into("docker7"), FORWARD, "drop FORWARD policy"),
        ("ufw", own(22), INPUT, "passes"),
        ("ufw", own(8081), INPUT, "drop INPUT policy"),
        ("ufw", own(137, "udp"), INPUT, "drop ufw-skip-to-policy-input rule"),
        ("ufw", own(2222), INPUT, "passes"),  # limited, not closed
        ("firewalld", out("docker7"), FORWARD, "passes"),
        ("firewalld", out("docker8"), FORWARD, "reject filter_FWD_internal rule"),
        ("firewalld", into("docker8", dnat=True), FORWARD, "passes"),
        ("firewalld", into("docker8"), FORWARD, "reject filter_FWD_public rule"),
        ("firewalld", own(8042), INPUT, "passes"),
        ("firewalld", own(8101), INPUT, "reject filter_IN_public rule"),
        ("firewalld", own(8042, "udp"), INPUT, "reject filter_IN_public rule"),
        ("firewalld", own(8042), PREROUTING, "passes"),
        ("iptables-legacy", out("docker7", 80), FORWARD, "passes"),
        ("iptables-legacy", out("docker7", 81), FORWARD, "drop FORWARD policy"),
        ("iptables-legacy", out("docker9"), FORWARD, "drop FORWARD rule"),
        ("iptables-legacy", answer_to(out("docker7")), FORWARD, "passes"),
        ("iptables-legacy", own(22), INPUT, "passes"),
        ("iptables-legacy", own(8081), INPUT, "reject INPUT rule"),
        ("iptables-legacy", own(8081, "udp"), INPUT, "passes"),
        ("docker", out("pier0"), FORWARD, "drop FORWARD policy"),
        ("docker", into("pier0", dnat=True), FORWARD, "drop FORWARD policy"),
        ("docker", out("docker0"), FORWARD, "passes"),
        ("nftables", out(dport=443), FORWARD, "passes"),
        ("nftables", out("docker1", 443), FORWARD, "drop forward policy"),  # goto does not come back
        ("nftables", out(dport=25), FORWARD, "reject bridges rule"),
        ("nftables", out(dport=4242, proto="udp"), FORWARD, "passes"),  # by a mark that is set on the way
        ("nftables", Packet(ip_address("192.0.2.17"), OUTSIDE, iif="docker0"), FORWARD, "drop bridges rule"),
        ("nftables", Packet(ip_address("198.51.100.7"), OUTSIDE, iif="docker0"), FORWARD, "drop bridges rule"),
        ("nftables", Packet(OUTSIDE, ip_address("10.1.2.3"), dport=8050, iif="wan"), FORWARD, "passes"),
        ("nftables", Packet(OUTSIDE, ip_address("10.1.2.3"), dport=8101, iif="wan"), FORWARD, "drop forward policy"),
        ("nftables", Packet(OUTSIDE, ip_address("11.1.2.3"), dport=8050, iif="wan"), FORWARD, "drop forward policy"),
        ("nftables", Packet(OUTSIDE, INSIDE, iif="wg7"), FORWARD, "passes"),
        ("nftables", Packet(OUTSIDE, INSIDE, dport=8443, iif="wan"), FORWARD, "passes"),
        (
            "nftables",
            Packet(ip_address("fd00::1"), ip_address("2001:db8::1"), iif="wan"),
            FORWARD,
            "passes",
        ),
        ("nftables", Packet(ip_address("fd00::1"), ip_address("2002::1"), iif="wan"), FORWARD, "drop forward policy"),
        ("nftables", own(22), INPUT, "passes"),
        ("nftables", own(8100), INPUT, "passes"),
        ("nftables", own(8101), INPUT, "drop input rule"),
        ("nftables", own(7000, "udp"), INPUT, "passes"),  # one in two: the benefit of the doubt
        ("nftables", own(7001, "udp"), INPUT, "drop input rule"),
    ],
)
def test_a_packet_meets_the_rule_that_a_real_host_would_apply(
    name: str, packet: Packet, hook: int, wanted: str
) -> None:
    assert said(name, packet, hook) == wanted


def test_what_cannot_be_known_is_said_to_be_uncertain() -> None:
    found = decisions(ruleset("nftables"), out(dport=777), FORWARD, HOST)
    assert [(one.verdict, one.certain) for one in found] == [("accept", False)]
    assert decisions(ruleset("nftables"), out(dport=443), FORWARD, HOST)[-1].verdict == "accept"


def _text(found: Decision) -> str:
    return "" if found.rule is None else ruletext.text(found.chain, found.rule)


def obstacles(name: str, bridge: str, **more: bool) -> dict[str, Obstacle]:
    asked = Bridge(bridge, INSIDE, "ens33", **more)
    return {one.direction: one for one in obstacles_of.forwarding(ruleset(name), asked, HOST, _text)}


@pytest.mark.parametrize(
    ("name", "bridge", "commands"),
    [
        ("ufw", "docker0", ["ufw route allow in on docker0", "ufw route allow out on docker0"]),
        ("ufw", "docker7", ["ufw route allow out on docker7"]),
        ("firewalld", "docker7", []),
        (
            "firewalld",
            "docker8",
            ["firewall-cmd --permanent --zone=trusted --add-interface=docker8 && firewall-cmd --reload"],
        ),
        (
            "docker",
            "pier0",
            ["iptables -I DOCKER-USER -i pier0 -j ACCEPT", "iptables -I DOCKER-USER -o pier0 -j ACCEPT"],
        ),
        (
            "iptables-legacy",
            "docker9",
            [
                "iptables-legacy -t mangle -I FORWARD -i docker9 -j ACCEPT",
                "iptables-legacy -I FORWARD -o docker9 -j ACCEPT",
            ],
        ),
        ("nftables", "docker0", ['nft insert rule inet filter forward oifname "docker0" accept']),
    ],
)
def test_the_command_that_opens_it_is_the_one_of_the_firewalls_own_tool(
    name: str, bridge: str, commands: list[str]
) -> None:
    assert [one.command for one in obstacles(name, bridge).values()] == commands


def test_bridged_frames_are_asked_about_only_where_they_are_filtered() -> None:
    assert "within" not in obstacles("ufw", "docker7")
    assert obstacles("ufw", "docker8", filtered=True)["within"].command == (
        "ufw route allow in on docker8 out on docker8"
    )
    assert list(obstacles("ufw", "docker8", filtered=True, internal=True)) == ["within"]


@pytest.mark.parametrize(
    ("name", "bridge", "sentence"),
    [
        (
            "ufw",
            "docker0",
            "forwarding from docker0 is dropped by the policy of iptables chain FORWARD (ufw); to open it: "
            "ufw route allow in on docker0",
        ),
        (
            "iptables-legacy",
            "docker9",
            "forwarding from docker9 is dropped by the rule `-A FORWARD -i docker9 -j DROP` in iptables-legacy chain "
            "FORWARD of table mangle; to open it: iptables-legacy -t mangle -I FORWARD -i docker9 -j ACCEPT",
        ),
    ],
)
def test_a_user_is_told_what_stops_him_and_what_to_do(name: str, bridge: str, sentence: str) -> None:
    assert str(obstacles(name, bridge)["from"]) == sentence


def _texts(name: str, accept: Callable[[str], bool]) -> list[str]:
    return [
        text for chain in ruleset(name).chains for rule in chain.rules if accept(text := ruletext.text(chain, rule))
    ]


def test_iptables_rules_read_as_iptables_save_writes_them() -> None:
    legacy = _texts("iptables-legacy", lambda text: True)
    for line in (
        "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A FORWARD -i docker7 -g MINE",
        '-A INPUT -p tcp -m tcp --dport 22 -m comment --comment "ssh" -j ACCEPT',
        "-A INPUT ! -i docker7 -p tcp -j REJECT",
        "-A FORWARD -s 192.168.122.0/24 -j ACCEPT",
    ):
        assert line in legacy, legacy
    ufw = _texts("ufw", lambda text: "ufw-before-forward" in text or "ufw-user" in text)
    for line in (
        "-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A ufw-before-forward -j ufw-user-forward",
        "-A ufw-user-forward -i docker7 -j ACCEPT",
        "-A ufw-user-input -p tcp --dport 22 -j ACCEPT",
    ):
        assert line in ufw, ufw
