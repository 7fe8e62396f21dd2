"""The map of the networks: what it says is what the machine has, and what is broken is marked."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pierhead.driver.networkdriver import marks
from pierhead.linux.netlink import Netlink, bridge_add
from tests.harness.api import Api
from tests.harness.engines import Engine, Pierd
from tests.harness.engines import engine as started_engine
from tests.harness.netns import call_in
from tests.harness.processes import run, wait_until

pytestmark = pytest.mark.only_pierhead("Docker draws no map")


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[Engine]:
    """A daemon that leaves what these tests break as it is."""
    with started_engine("pierd", ("--mend-networks=false",)) as made:
        yield made


@pytest.fixture
def api(engine: Engine) -> Api:
    return engine.api


def network(api: Api, name: str, **config: object) -> str:
    return str(api.ok("POST", "/networks/create", {"Name": name, **config}).json["Id"])


def seen(api: Api) -> Any:
    return api.get("/pierhead/network/map")


def place(map: Any, name: str, container: str) -> Any:
    """A container's place in a network."""
    [found] = [each for each in map["networks"] if each["name"] == name]
    [id] = [each["id"] for each in map["containers"] if each["name"] == container]
    [there] = [each for each in found["attachments"] if each["container"] == id]
    return there


def described(map: Any, name: str) -> Any:
    [found] = [each for each in map["containers"] if each["name"] == name]
    return found


def links(engine: Engine) -> dict[str, Any]:
    return {link["ifname"]: link for link in json.loads(engine.host.ip("-j", "-d", "address").stdout)}


def serving(api: Api, name: str) -> None:
    """Wait until the container's server listens."""
    wait_until(lambda: bool(described(seen(api), name)["listeners"]), f"{name} listens")


def test_interfaces_bridges_and_cables_are_those_of_the_machine(api: Api, engine: Engine) -> None:
    network(api, "n1", IPAM={"Driver": "default", "Config": [{"Subnet": "10.211.0.0/24"}]})
    id = api.run("sleep", "1000", name="one", HostConfig={"NetworkMode": "n1"})
    map, real = seen(api), links(engine)
    assert {each["name"] for each in map["interfaces"]} >= {"lo", "ens33", "virbr0", "docker0"}
    for each in map["interfaces"]:
        addresses = [
            f"{one['local']}/{one['prefixlen']}" for one in real[each["name"]]["addr_info"] if one["scope"] != "link"
        ]
        assert each["addresses"] == addresses and each["mac"] == real[each["name"]]["address"]
        assert each["kind"] == real[each["name"]].get("linkinfo", {}).get("info_kind", "")
    [egress] = [each for each in map["interfaces"] if each["gateways"]]
    assert (egress["name"], egress["gateways"]) == ("ens33", [engine.world.neighbour_address])
    there = place(map, "n1", "one")
    [bridge] = [each["interface"] for each in map["networks"] if each["name"] == "n1"]
    assert real[there["outside"]]["master"] == bridge and there["interface"] == "eth0" and there["up"]
    inside = json.loads(
        run(["nsenter", "-t", str(api.inspect(id)["State"]["Pid"]), "-n", "ip", "-j", "address"]).stdout
    )
    [eth0] = [link for link in inside if link["ifname"] == "eth0"]
    assert eth0["link_index"] == real[there["outside"]]["ifindex"]
    assert (there["mac"], there["addresses"]) == (eth0["address"], ["10.211.0.2/24"])
    problems = [*map["problems"], *there["problems"], *(word for each in map["networks"] for word in each["problems"])]
    assert not problems and there["outside"] not in {each["name"] for each in map["interfaces"]}


def test_names_ports_and_listeners_stand_at_their_container(api: Api) -> None:
    network(api, "n1")
    config = {"EndpointsConfig": {"n1": {"Aliases": ["db", "database"]}}}
    published = {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8101"}], "9/udp": [{"HostPort": "8102"}]}
    host = {"NetworkMode": "n1", "PortBindings": published}
    api.run(image="web", name="one", HostConfig=host, NetworkingConfig=config)
    serving(api, "one")
    map = seen(api)
    assert {"one", "db", "database"} <= set(place(map, "n1", "one")["names"])
    one = described(map, "one")
    assert {(each["protocol"], each["ip"], each["port"], each["container_port"]) for each in one["ports"]} == {
        ("tcp", "127.0.0.1", 8101, 8080),
        ("udp", "", 8102, 9),
    }
    assert {(each["protocol"], each["port"], each["process"]) for each in one["listeners"]} == {("tcp", 8080, "httpd")}


def test_host_mode_shows_the_ports_that_really_listen(api: Api, engine: Engine) -> None:
    command = ("sh", "-c", "exec httpd -f -p 127.0.0.1:8103")
    api.run(*command, name="open", HostConfig={"NetworkMode": "host"})
    serving(api, "open")
    map = seen(api)
    assert place(map, "host", "open")["interface"] == ""
    listeners = described(map, "open")["listeners"]
    assert [(each["address"], each["port"]) for each in listeners] == [("127.0.0.1", 8103)]
    assert "listens 127.0.0.1:8103/tcp httpd" in engine.pier("network", "map").check().stdout


def test_a_shared_namespace_is_seen_and_its_processes_are_told_apart(api: Api, engine: Engine) -> None:
    owner = api.run("sleep", "1000", name="owner")
    api.run("httpd", "-f", "-p", "8080", name="guest", HostConfig={"NetworkMode": f"container:{owner}"})
    serving(api, "guest")
    map = seen(api)
    assert described(map, "guest")["shares"] == owner and not described(map, "owner")["listeners"]
    assert "shared by guest" in engine.pier("network", "map").check().stdout
    api.ok("POST", f"/containers/{owner}/restart", t=0)
    map = seen(api)
    assert described(map, "guest")["shares"] == "", "the owner is in a new namespace now"
    assert "no network" in engine.pier("network", "map").check().stdout


def test_a_container_without_a_network_and_one_with_a_stranger_in_it(api: Api) -> None:
    id = api.run("sleep", "1000", name="alone", HostConfig={"NetworkMode": "none"})
    assert place(seen(api), "none", "alone")["interface"] == "" and not described(seen(api), "alone")["others"]
    pid = str(api.inspect(id)["State"]["Pid"])
    run(["nsenter", "-t", pid, "-n", "ip", "link", "add", "wg9", "type", "bridge"]).check()
    run(["nsenter", "-t", pid, "-n", "ip", "address", "add", "10.9.9.9/32", "dev", "wg9"]).check()
    [other] = described(seen(api), "alone")["others"]
    assert (other["name"], other["addresses"]) == ("wg9", ["10.9.9.9/32"])


def test_a_paused_container_is_looked_into_and_a_stopped_one_is_not_there(api: Api) -> None:
    id = api.run("sleep", "1000", name="one")
    api.ok("POST", f"/containers/{id}/pause")
    try:
        assert described(seen(api), "one")["state"] == "paused" and place(seen(api), "bridge", "one")["addresses"]
    finally:
        api.ok("POST", f"/containers/{id}/unpause")
    api.ok("POST", f"/containers/{id}/stop", t=0)
    assert seen(api)["containers"] == []


Break = Callable[[Engine, str, str, str], None]
"""engine, the container's process, the host's end of its cable, the bridge."""


def inside(*command: str) -> Break:
    return lambda engine, pid, outside, bridge: run(["nsenter", "-t", pid, "-n", "ip", *command]).check() and None


def on_the_host(*command: str) -> Break:
    def change(engine: Engine, pid: str, outside: str, bridge: str) -> None:
        engine.host.ip(*({"OUTSIDE": outside, "BRIDGE": bridge}.get(word, word) for word in command))

    return change


BROKEN: dict[str, tuple[Break, str]] = {
    "cable off the bridge": (on_the_host("link", "set", "OUTSIDE", "nomaster"), r"veth\w+ is not a port of br-\w+$"),
    "cable on another bridge": (
        on_the_host("link", "set", "OUTSIDE", "master", "virbr0"),
        r"veth\w+ is not a port of br-\w+ but of virbr0",
    ),
    "host's end down": (
        on_the_host("link", "set", "OUTSIDE", "down"),
        r"veth\w+, the host's end of its cable, is down",
    ),
    "container's end down": (inside("link", "set", "eth0", "down"), "eth0 is down in the container"),
    "cable cut": (on_the_host("link", "delete", "OUTSIDE"), r"eth0 is missing in the container \(10.212.0.2/24"),
    "address gone": (
        inside("address", "delete", "10.212.0.2/24", "dev", "eth0"),
        "eth0 has lost its address 10.212.0.2/24",
    ),
    "strange address": (
        inside("address", "add", "10.212.0.77/24", "dev", "eth0"),
        "eth0 has 10.212.0.77/24, which the database does not know",
    ),
    "no default route": (inside("route", "delete", "default"), "its default route is missing in the container"),
    "bridge down": (on_the_host("link", "set", "BRIDGE", "down"), r"br-\w+ is down"),
    "bridge without its address": (
        on_the_host("address", "delete", "10.212.0.1/24", "dev", "BRIDGE"),
        r"br-\w+ has lost its address 10.212.0.1/24",
    ),
    "bridge gone": (on_the_host("link", "delete", "BRIDGE"), r"br-\w+ is missing"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_the_kernel_and_the_database_disagree_about_is_marked(what: str, api: Api, engine: Engine) -> None:
    change, expected = BROKEN[what]
    network(api, "n1", IPAM={"Driver": "default", "Config": [{"Subnet": "10.212.0.0/24"}]})
    id = api.run("sleep", "1000", name="one", HostConfig={"NetworkMode": "n1"})
    map = seen(api)
    [made] = [each for each in map["networks"] if each["name"] == "n1"]
    assert not made["problems"] and not place(map, "n1", "one")["problems"]
    change(engine, str(api.inspect(id)["State"]["Pid"]), place(map, "n1", "one")["outside"], made["interface"])
    map = seen(api)
    [made] = [each for each in map["networks"] if each["name"] == "n1"]
    problems = [*made["problems"], *place(map, "n1", "one")["problems"]]
    assert any(re.search(expected, problem) for problem in problems), problems
    assert "✗" in engine.pier("network", "map").check().stdout


def test_what_a_bridge_is_to_lack_is_not_missed(api: Api) -> None:
    option = "com.docker.network.bridge."
    network(api, "n1", Options={f"{option}inhibit_ipv4": "true"})
    network(api, "n2", Internal=True, Options={f"{option}gateway_mode_ipv4": "isolated"})
    assert [each["problems"] for each in seen(api)["networks"] if each["name"] in ("n1", "n2")] == [[], []]


def test_rules_that_are_not_as_they_should_be_are_told(api: Api, engine: Engine) -> None:
    assert isinstance(engine, Pierd)
    api.run(image="web", HostConfig={"PortBindings": {"8080/tcp": [{"HostPort": "8105"}]}})
    assert seen(api)["problems"] == []
    table = f"inet pierhead-{engine.instance}"
    engine.host.run("nft", f"delete element {table} any4 {{ tcp . 8105 }}").check()
    engine.host.run("nft", f"add element {table} any4 {{ tcp . 9 : 10.0.0.1 . 9 }}").check()
    problems = " ".join(seen(api)["problems"])
    assert "1 of 1 elements of any4 were removed" in problems and "any4 has 1 elements that are not ours" in problems
    assert "✗ 1 of 1 elements of any4 were removed" in engine.pier("network", "map").check().stdout
    engine.pier("network", "reload").check()
    assert seen(api)["problems"] == []


def test_what_carries_our_mark_and_is_nobodys_is_named(pierd: Pierd) -> None:
    group = marks.group(pierd.instance)

    def make() -> None:
        with Netlink() as link:
            link.send(bridge_add("vethlost0000", group=group))

    pierd.host.call(make)
    assert any("vethlost0000" in problem for problem in seen(pierd.api)["problems"])
    pierd.host.ip("link", "delete", "vethlost0000")


def test_a_restarted_daemon_sees_the_same(pierd: Pierd) -> None:
    pierd.provide_images()
    pierd.api.run(image="web", name="one", HostConfig={"PortBindings": {"8080/tcp": [{"HostPort": "8104"}]}})
    serving(pierd.api, "one")
    before = seen(pierd.api)
    pierd.kill()
    pierd.start()
    assert seen(pierd.api) == before


def test_the_picture_is_written_to_a_file(api: Api, engine: Engine, tmp_path: Path) -> None:
    api.run("sleep", "1000", name="one")
    for arguments in (("--output", str(tmp_path / "map.svg")), ("--format", "svg", "-o", str(tmp_path / "map.xml"))):
        assert engine.pier("network", "map", *arguments).check().stdout == ""
    first, second = (ElementTree.parse(tmp_path / name).getroot() for name in ("map.svg", "map.xml"))
    assert "one" in {element.text for element in first.iter()} == {element.text for element in second.iter()}
    assert json.loads(engine.pier("network", "map", "--format", "json").check().stdout) == seen(api)
    refused = engine.pier("network", "map", "--output", "/nowhere/map.svg")
    assert refused.status == 1 and "/nowhere/map.svg: No such file or directory" in refused.stderr
    assert 'unknown format "x"' in engine.pier("network", "map", "--format", "x").stderr


def test_looking_leaves_no_socket_behind(api: Api, engine: Engine) -> None:
    pid = api.inspect(api.run("sleep", "1000"))["State"]["Pid"]
    seen(api)

    def sockets() -> tuple[int, int]:
        """The daemon's descriptors, and the container's netlink sockets."""
        inside = call_in(f"/proc/{pid}/ns/net", lambda: Path("/proc/thread-self/net/netlink").read_text())
        return len(list(Path(f"/proc/{engine.pid}/fd").iterdir())), inside.count("\n")

    before = sockets()
    for _ in range(5):
        seen(api)
    wait_until(lambda: sockets() <= before, "as many sockets as before")  # the last request's own is just being closed
