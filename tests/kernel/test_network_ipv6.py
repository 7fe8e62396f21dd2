"""IPv6 on bridge networks, from `network create --ipv6` to the packets: alone, and beside IPv4."""

from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest

from tests.harness.api import frames
from tests.harness.engines import Engine
from tests.harness.images import WEB
from tests.harness.processes import wait_until

SERVER = ("sh", "-c", WEB.replace("-p 8080", "-p [::]:8080"))


def inside(engine: Engine, container: str, *command: str) -> str:
    made = engine.api.ok(
        "POST", f"/containers/{container}/exec", {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True}
    ).json["Id"]
    answer = engine.api.ok("POST", f"/exec/{made}/start", {"Detach": False, "Tty": False})
    return b"".join(payload for _, payload in frames(answer.body)).decode(errors="replace")


def reaches(engine: Engine, container: str, target: str) -> bool:
    return " 0% packet loss" in inside(engine, container, "ping", "-6", "-c", "1", "-W", "3", target)


def fetch(engine: Engine, address: str, port: int) -> str:
    try:
        return engine.world.neighbour.http_get(address, port)
    except OSError:
        return ""


def endpoint(engine: Engine, container: str) -> Any:
    return engine.api.inspect(container)["NetworkSettings"]["Networks"]["six"]


@pytest.mark.parametrize("ipv4", [True, False], ids=["dual", "alone"])
def test_a_network_with_ipv6_works_end_to_end(engine: Engine, ipv4: bool) -> None:
    engine.docker("network", "create", "--ipv6", *([] if ipv4 else ["--ipv4=false"]), "six").check()
    pools = [pool["Subnet"] for pool in engine.api.get("/networks/six")["IPAM"]["Config"]]
    [ula] = [IPv6Network(pool) for pool in pools if ":" in pool]
    assert ula.prefixlen == 64 and ula.subnet_of(IPv6Network("fd00::/8")), "a unique local prefix, without being asked"
    assert (len(pools) == 2) is ipv4
    config = {"NetworkMode": "six", "PortBindings": {"8080/tcp": [{"HostPort": "8081"}]}}
    web = engine.api.run(*SERVER, name="web", HostConfig=config)
    other = engine.api.run("sleep", "1000", name="other", HostConfig={"NetworkMode": "six"})
    shown = endpoint(engine, other)
    assert IPv6Address(shown["GlobalIPv6Address"]) in ula and bool(shown["IPAddress"]) is ipv4
    assert f"default via {shown['IPv6Gateway']} dev eth0" in inside(engine, other, "ip", "-6", "route")
    assert ("default" in inside(engine, other, "ip", "-4", "route")) is ipv4
    assert reaches(engine, other, endpoint(engine, web)["GlobalIPv6Address"])
    assert reaches(engine, other, "web"), "its name has an AAAA record"
    assert reaches(engine, other, shown["IPv6Gateway"])
    assert reaches(engine, other, "2001:db8::20"), "a neighbour of the host, which knows no way back: translated"
    wait_until(lambda: "this is" in fetch(engine, "2001:db8::10", 8081), "an answer on the host's IPv6 address")
    if ipv4:
        assert "this is" in fetch(engine, engine.world.host_address, 8081)


def test_two_networks_of_an_instance_share_its_global_id(engine: Engine) -> None:
    found = []
    for name in ("six", "seven"):
        engine.api.ok("POST", "/networks/create", {"Name": name, "EnableIPv6": True})
        pools = engine.api.get(f"/networks/{name}")["IPAM"]["Config"]
        found += [IPv6Network(pool["Subnet"]) for pool in pools if ":" in pool["Subnet"]]
    assert found[0] != found[1] and found[0].supernet(new_prefix=48) == found[1].supernet(new_prefix=48)


def test_a_running_container_gets_ipv6_with_a_network_and_loses_it(engine: Engine) -> None:
    engine.api.ok("POST", "/networks/create", {"Name": "six", "EnableIPv6": True})
    plain = engine.api.run("sleep", "1000", name="plain")
    engine.api.run("sleep", "1000", name="other", HostConfig={"NetworkMode": "six"})
    assert "inet6" not in inside(engine, plain, "ip", "-6", "addr", "show", "eth0")
    engine.api.ok("POST", "/networks/six/connect", {"Container": plain})
    assert reaches(engine, plain, "other")
    engine.api.ok("POST", "/networks/bridge/disconnect", {"Container": plain})
    assert "default via" in inside(engine, plain, "ip", "-6", "route")
    assert reaches(engine, plain, "2001:db8::20")
    engine.api.ok("POST", "/networks/six/disconnect", {"Container": plain})
    assert "eth1" not in inside(engine, plain, "ip", "addr")


def test_an_internal_network_keeps_ipv6_inside(engine: Engine) -> None:
    engine.api.ok("POST", "/networks/create", {"Name": "six", "EnableIPv6": True, "Internal": True})
    config = {"NetworkMode": "six", "CapAdd": ["NET_ADMIN"]}
    one = engine.api.run("sleep", "1000", name="one", HostConfig=config)
    engine.api.run("sleep", "1000", name="two", HostConfig={"NetworkMode": "six"})
    assert reaches(engine, one, "two")
    assert "default" not in inside(engine, one, "ip", "-6", "route")
    gateways = [pool["Gateway"] for pool in engine.api.get("/networks/six")["IPAM"]["Config"] if ":" in pool["Subnet"]]
    inside(engine, one, "ip", "-6", "route", "add", "default", "via", gateways[0])
    assert "default" in inside(engine, one, "ip", "-6", "route"), "whoever may add routes inside still stays inside"
    assert not reaches(engine, one, "2001:db8::20")


def test_each_family_has_a_way_out_where_no_network_has_both(engine: Engine) -> None:
    """As Docker since 28: IPv4's default route through one network, IPv6's through another."""
    engine.api.ok("POST", "/networks/create", {"Name": "six", "EnableIPv6": True, "EnableIPv4": False})
    engine.api.ok("POST", "/networks/create", {"Name": "both", "EnableIPv6": True})
    four = engine.api.run("sleep", "1000", name="four")
    start = engine.api.create("sleep", "1000", name="start")
    for container in (four, start):
        engine.api.ok("POST", "/networks/six/connect", {"Container": container})
    engine.api.ok("POST", f"/containers/{start}/start")

    def ways(container: str, family: str) -> str:
        lines = inside(engine, container, "ip", family, "route", "show", "default").splitlines()
        return " ".join(line.split("dev ")[1].split()[0] for line in lines)

    for container in (four, start):
        assert (ways(container, "-4"), ways(container, "-6")) == ("eth0", "eth1")
        assert reaches(engine, container, "2001:db8::20")
    engine.api.ok("POST", "/networks/six/disconnect", {"Container": four})
    assert (ways(four, "-4"), ways(four, "-6")) == ("eth0", "")
    # A network with both takes over from both, if it comes first.
    engine.api.ok("POST", "/networks/both/connect", {"Container": start, "EndpointConfig": {"GwPriority": 1}})
    assert (ways(start, "-4"), ways(start, "-6")) == ("eth2", "eth2")
    assert reaches(engine, start, "2001:db8::20")
    engine.api.ok("POST", "/networks/both/disconnect", {"Container": start})
    assert (ways(start, "-4"), ways(start, "-6")) == ("eth0", "eth1")
