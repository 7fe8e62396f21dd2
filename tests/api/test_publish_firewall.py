"""Published ports that go round the host's own firewall: run, ps, update and doctor say so, where it is so."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.echo import ask, server, silent
from tests.harness.engines import Engine, Pierd
from tests.harness.engines import engine as started_engine

pytestmark = pytest.mark.only_pierhead("Docker does not say it")

RULES = """
table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        iifname "lo" accept
        ct state established,related accept
        meta l4proto ipv6-icmp accept
        tcp dport { 22, 8081 } accept
    }
}
"""


def guard(engine: Engine) -> None:
    engine.host.run("nft", "-f", "-", stdin=RULES.encode()).check()


def unguard(engine: Engine) -> None:
    engine.host.run("nft", "delete", "table", "inet", "filter")


@pytest.fixture
def guarded(engine: Engine) -> Iterator[Engine]:
    """An engine on a host that lets in nobody but for ports 22 and 8081."""
    guard(engine)
    yield engine
    unguard(engine)


def warned(engine: Engine, *ports: tuple[str, str, str], **host: Any) -> list[str]:
    """What a container's creation says about ("80/tcp", host ip, host port), …"""
    bindings: dict[str, list[dict[str, str]]] = {}
    for key, ip, port in ports:
        bindings.setdefault(key, []).append({"HostIp": ip, "HostPort": port})
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"PortBindings": bindings, **host}}
    return list(engine.api.ok("POST", "/containers/create", body).json["Warnings"])


def test_a_port_that_the_host_lets_nobody_to_is_told_with_the_rule(guarded: Engine) -> None:
    [said] = warned(guarded, ("80/tcp", "", "8080"))
    assert said.startswith("8080/tcp is published past the host's firewall: everybody outside gets there, though ")
    assert "the policy of nft table inet filter chain input would drop it" in said
    assert "--publish-policy firewall" in said
    id = guarded.api.run("sleep", "1000", HostConfig={"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}})
    with server(f"/proc/{guarded.api.inspect(id)['State']['Pid']}/ns/net", 80, name="web"):
        assert ask(guarded.world.neighbour.path, guarded.world.host_address, 8080).startswith("web"), "and it is true"


@pytest.mark.parametrize(
    ("port", "said"),
    [
        (("80/tcp", "", "8081"), False),  # the host lets it in
        (("80/udp", "", "8081"), True),
        (("80/tcp", "127.0.0.1", "8080"), False),
        (("80/tcp", "::1", "8080"), False),
        (("80/tcp", "192.0.2.10", "8080"), True),
        (("80/tcp", "2001:db8::10", "8080"), False),  # to a container without IPv6: a socket, which the rules protect
        (("80/tcp", "", ""), True),
    ],
)
def test_only_what_goes_round_the_rules_is_told(guarded: Engine, port: tuple[str, str, str], said: bool) -> None:
    assert bool(warned(guarded, port)) is said


def test_nothing_is_told_without_rules_or_without_ports_of_its_own(engine: Engine) -> None:
    assert warned(engine, ("80/tcp", "", "8080")) == []
    guard(engine)
    try:
        assert warned(engine, ("80/tcp", "", "8080"), NetworkMode="none") == []
        assert warned(engine) == []
    finally:
        unguard(engine)
    assert warned(engine, ("80/tcp", "", "8080")) == [], "the rules are gone, and so is what was known of them"


def test_pier_says_it_in_run_update_ps_and_doctor(guarded: Engine) -> None:
    flags = ("--name", "web", "-p", "8080:80", "-p", "9000-9002:80-82")
    ran = guarded.pier("run", "-d", *flags, "busybox", "sleep", "1000")
    assert "WARNING: 8080/tcp, 9000-9002/tcp is published past the host's firewall" in ran.check().stderr
    assert "WARNING" not in guarded.pier("run", "-d", "-p", "8081:80", "busybox", "sleep", "1000").check().stderr
    added = guarded.pier("update", "--publish-add", "8082:82/udp", "web").check()
    assert "8082/udp" in added.stderr and "published past the host's firewall" in added.stderr
    listed = guarded.pier("ps").check()
    wanted = "WARNING: published past the host's firewall: 8080/tcp of web, 9000-9002/tcp of web, 8082/udp of web"
    assert wanted in listed.stderr and "8081" not in listed.stderr
    for quiet in (["ps", "-q"], ["ps", "--format", "{{.Ports}}"], ["ps", "--filter", "name=nobody"]):
        assert guarded.pier(*quiet).check().stderr == ""
    told = guarded.pier("doctor").stdout
    assert "8080/tcp of web is reached from outside past the policy of nft table inet filter chain input" in told


def test_under_another_policy_there_is_nothing_to_tell() -> None:
    with started_engine("pierd", ("--publish-policy", "firewall")) as engine:
        assert isinstance(engine, Pierd)
        guard(engine)
        try:
            assert warned(engine, ("80/tcp", "", "8080")) == []
            id = engine.api.run("sleep", "1000", HostConfig={"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}})
            with server(f"/proc/{engine.api.inspect(id)['State']['Pid']}/ns/net", 80, name="web"):
                assert silent(engine.world.neighbour.path, engine.world.host_address, 8080)
            assert engine.pier("ps").check().stderr == ""
            many = {f"{port}/tcp": [{"HostPort": str(port)}] for port in range(20000, 20100)}
            [said] = warned(engine, *((key, "", pairs[0]["HostPort"]) for key, pairs in many.items()))
            assert "not served to clients from outside" in said
        finally:
            unguard(engine)
