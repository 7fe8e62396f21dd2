"""Networks as a whole: a real engine, its containers' own view of them, and the packets."""

import pytest

from tests.harness.api import frames
from tests.harness.engines import Engine
from tests.harness.images import WEB
from tests.harness.processes import wait_until


def inside(engine: Engine, container: str, *command: str) -> str:
    """What a command says in a running container (stdout and stderr)."""
    made = engine.api.ok(
        "POST", f"/containers/{container}/exec", {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True}
    ).json["Id"]
    answer = engine.api.ok("POST", f"/exec/{made}/start", {"Detach": False, "Tty": False})
    return b"".join(payload for _, payload in frames(answer.body)).decode(errors="replace")


def fetch(engine: Engine, address: str, port: int) -> str:
    try:
        return engine.world.neighbour.http_get(address, port)
    except OSError:
        return ""


def network(engine: Engine, name: str, **config: object) -> str:
    return str(engine.api.ok("POST", "/networks/create", {"Name": name, **config}).json["Id"])


def address(engine: Engine, container: str, name: str) -> str:
    return str(engine.api.inspect(container)["NetworkSettings"]["Networks"][name]["IPAddress"])


def published(port: int) -> dict[str, object]:
    return {"PortBindings": {"8080/tcp": [{"HostPort": str(port)}]}}


def test_an_ipv6_network_has_both_families_inside_and_outside(engine: Engine) -> None:
    network(engine, "six", EnableIPv6=True, IPAM={"Config": [{"Subnet": "fd66::/64"}]})
    web = engine.api.run(
        "sh", "-c", WEB.replace("-p 8080", "-p [::]:8080"), HostConfig={"NetworkMode": "six", **published(8081)}
    )
    shown = engine.api.inspect(web)["NetworkSettings"]["Networks"]["six"]
    assert shown["GlobalIPv6Address"] == "fd66::2" and shown["IPv6Gateway"] == "fd66::1" and shown["IPAddress"]
    wait_until(lambda: "this is" in fetch(engine, "2001:db8::10", 8081), "an answer by IPv6")
    assert "this is" in fetch(engine, engine.world.host_address, 8081)
    other = engine.api.run("sleep", "1000", name="other", HostConfig={"NetworkMode": "six"})
    assert "fd66::3" in inside(engine, other, "ip", "-6", "addr", "show", "eth0")
    assert "default via fd66::1" in inside(engine, other, "ip", "-6", "route")


def test_an_ipv4_container_is_reached_by_ipv6_and_on_both_loopbacks(engine: Engine) -> None:
    engine.api.run("sh", "-c", WEB, HostConfig=published(8081))
    wait_until(lambda: "this is" in fetch(engine, engine.world.host_address, 8081), "an answer")
    assert "this is" in fetch(engine, "2001:db8::10", 8081)
    assert "this is" in engine.host.http_get("127.0.0.1", 8081)
    assert "this is" in engine.host.http_get("::1", 8081)


def test_a_running_container_moves_between_networks_with_its_port(engine: Engine) -> None:
    network(engine, "one")
    network(engine, "two")
    web = engine.api.run("sh", "-c", WEB, name="mover", HostConfig={"NetworkMode": "one", **published(8081)})
    peer = engine.api.run("sleep", "1000", name="peer", HostConfig={"NetworkMode": "two"})
    wait_until(lambda: "this is" in fetch(engine, engine.world.host_address, 8081), "an answer")
    assert "bad address" in inside(engine, peer, "ping", "-c", "1", "-W", "2", "mover")
    engine.api.ok("POST", "/networks/two/connect", {"Container": web, "EndpointConfig": {"Aliases": ["other-name"]}})
    assert "0% packet loss" in inside(engine, peer, "ping", "-c", "1", "-W", "5", "mover")
    assert "0% packet loss" in inside(engine, peer, "ping", "-c", "1", "-W", "5", "other-name.two")
    assert "this is" in fetch(engine, engine.world.host_address, 8081)
    engine.api.ok("POST", "/networks/one/disconnect", {"Container": web})
    assert "eth0" not in inside(engine, web, "ip", "addr")
    wait_until(
        lambda: "this is" in fetch(engine, engine.world.host_address, 8081), "an answer through the other network"
    )
    assert "this is" in fetch(engine, "2001:db8::10", 8081)
    assert "default via" in inside(engine, web, "ip", "route")
    engine.api.ok("POST", "/networks/two/disconnect", {"Container": web})
    assert fetch(engine, engine.world.host_address, 8081) == ""
    assert [line.split(": ")[1] for line in inside(engine, web, "ip", "-o", "link").splitlines()] == ["lo"]
    engine.api.ok("POST", "/networks/one/connect", {"Container": web})
    wait_until(lambda: "this is" in fetch(engine, engine.world.host_address, 8081), "an answer again")


def test_connecting_the_first_network_with_names_brings_the_resolver(engine: Engine) -> None:
    network(engine, "named")
    engine.api.run("sleep", "1000", name="target", HostConfig={"NetworkMode": "named"})
    plain = engine.api.run("sleep", "1000", name="plain")
    assert "127.0.0.11" not in inside(engine, plain, "cat", "/etc/resolv.conf")
    inside(engine, plain, "sh", "-c", "echo 192.0.2.99 kept >> /etc/hosts")
    engine.api.ok("POST", "/networks/named/connect", {"Container": plain})
    assert "nameserver 127.0.0.11" in inside(engine, plain, "cat", "/etc/resolv.conf")
    assert "0% packet loss" in inside(engine, plain, "ping", "-c", "1", "-W", "5", "target")
    hosts = inside(engine, plain, "cat", "/etc/hosts")
    assert address(engine, plain, "named") in hosts and "192.0.2.99 kept" in hosts
    engine.api.ok("POST", "/networks/named/disconnect", {"Container": plain})
    assert "127.0.0.11" not in inside(engine, plain, "cat", "/etc/resolv.conf")
    assert "172.18." not in inside(engine, plain, "cat", "/etc/hosts")


def test_a_name_keeps_its_address_and_nobody_gets_a_stopped_ones_at_once(engine: Engine) -> None:
    network(engine, "kept")
    config = {"HostConfig": {"NetworkMode": "kept"}}
    first = engine.api.run("sleep", "1000", name="first", **config)
    was = address(engine, first, "kept")
    engine.api.ok("DELETE", f"/containers/{first}", force=1)
    other = engine.api.run("sleep", "1000", name="second", **config)
    assert address(engine, other, "kept") != was
    again = engine.api.run("sleep", "1000", name="first", **config)
    assert address(engine, again, "kept") == was


def test_a_renamed_container_answers_to_its_new_name_only(engine: Engine) -> None:
    network(engine, "names")
    config = {"HostConfig": {"NetworkMode": "names"}}
    target = engine.api.run("sleep", "1000", name="before", **config)
    peer = engine.api.run("sleep", "1000", name="asker", **config)
    assert "0% packet loss" in inside(engine, peer, "ping", "-c", "1", "-W", "5", "before")
    engine.api.ok("POST", f"/containers/{target}/rename", name="after")
    assert "0% packet loss" in inside(engine, peer, "ping", "-c", "1", "-W", "5", "after")
    assert "bad address" in inside(engine, peer, "ping", "-c", "1", "-W", "2", "before")


@pytest.mark.parametrize("way", ["stop", "remove"])
def test_a_port_can_be_taken_again_as_soon_as_it_is_given_back(engine: Engine, way: str) -> None:
    for _ in range(5):
        web = engine.api.run("sleep", "1000", HostConfig=published(8081))
        if way == "stop":
            engine.api.ok("POST", f"/containers/{web}/stop", t=0)
        else:
            engine.api.ok("DELETE", f"/containers/{web}", force=1)


def test_a_container_in_anothers_network_is_left_with_lo(engine: Engine) -> None:
    engine.api.run("sleep", "1000", name="owner")
    guest = engine.api.run("sleep", "1000", name="guest", HostConfig={"NetworkMode": "container:owner"})
    assert "eth0" in inside(engine, guest, "ip", "-o", "link")
    engine.api.ok("POST", "/containers/owner/stop", t=0)
    wait_until(lambda: "eth0" not in inside(engine, guest, "ip", "-o", "link"), "the end of eth0")
    assert "lo" in inside(engine, guest, "ip", "-o", "link")


def test_a_thousand_ports_are_one_range_and_answer(engine: Engine) -> None:
    bindings = {f"{port}/tcp": [{"HostPort": str(port)}] for port in range(20000, 21000)}
    web = engine.api.run("sh", "-c", WEB.replace("-p 8080", "-p 20777"), HostConfig={"PortBindings": bindings})
    wait_until(lambda: "this is" in fetch(engine, engine.world.host_address, 20777), "an answer")
    assert len(engine.api.inspect(web)["NetworkSettings"]["Ports"]) == 1000
    clash = engine.api.create("true", HostConfig={"PortBindings": {"80/tcp": [{"HostPort": "20500"}]}})
    refused = engine.api.send("POST", f"/containers/{clash}/start")
    assert refused.status == 500 and "Bind for 0.0.0.0:20500 failed: port is already allocated" in refused.message
