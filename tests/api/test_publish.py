"""Published ports over the API: every form of asking, what is shown, and what a refusal says."""

import re
import socket
from typing import Any

import pytest

from tests.harness.api import Api
from tests.harness.echo import ask, server
from tests.harness.engines import Engine
from tests.harness.processes import wait_until


@pytest.fixture
def api(engine: Engine) -> Api:
    return engine.api


def bound(**bindings: list[tuple[str, str]]) -> dict[str, Any]:
    """Of "tcp80": [(host ip, host port)]: the parts of a create request that publish."""
    keys = {re.sub(r"([a-z]+)(.*)", r"\2/\1", name): pairs for name, pairs in bindings.items()}
    return {
        "ExposedPorts": {key: {} for key in keys},
        "HostConfig": {
            "PortBindings": {
                key: [{"HostIp": ip, "HostPort": port} for ip, port in pairs] for key, pairs in keys.items()
            }
        },
    }


def shown(api: Api, id: str) -> dict[str, set[tuple[str, str]] | None]:
    """NetworkSettings.Ports."""
    found = api.inspect(id)["NetworkSettings"]["Ports"]
    return {
        key: None if pairs is None else {(pair["HostIp"], pair["HostPort"]) for pair in pairs}
        for key, pairs in found.items()
    }


EVERYWHERE = ("0.0.0.0", "::")


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        (("", "8080"), {(ip, "8080") for ip in EVERYWHERE}),
        (("0.0.0.0", "8080"), {("0.0.0.0", "8080")}),
        (("::", "8080"), {("::", "8080")}),
        (("127.0.0.1", "8080"), {("127.0.0.1", "8080")}),
        (("::1", "8080"), {("::1", "8080")}),
        (("0:0:0::1", "8080"), {("::1", "8080")}),
        (("::ffff:127.0.0.1", "8080"), {("127.0.0.1", "8080")}),
        (("192.0.2.10", "8080"), {("192.0.2.10", "8080")}),
        (("", "8080/tcp"), {(ip, "8080") for ip in EVERYWHERE}),
        (("", "8080-8090"), {(ip, "8080") for ip in EVERYWHERE}),
    ],
)
def test_a_port_is_published_where_it_was_asked_for(
    api: Api, asked: tuple[str, str], wanted: set[tuple[str, str]]
) -> None:
    id = api.run("sleep", "1000", **bound(tcp80=[asked]))
    assert shown(api, id) == {"80/tcp": wanted}
    [listed] = api.get("/containers/json")
    assert {(port["IP"], str(port["PublicPort"])) for port in listed["Ports"]} == wanted
    assert api.inspect(id)["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": asked[0], "HostPort": asked[1]}]}


@pytest.mark.parametrize("asked", ["", "0"])
def test_a_port_of_the_engines_choice_is_the_same_on_every_address(api: Api, asked: str) -> None:
    id = api.run("sleep", "1000", **bound(tcp80=[("127.0.0.1", asked), ("192.0.2.10", asked)]))
    found = shown(api, id)["80/tcp"]
    assert found is not None and {ip for ip, _ in found} == {"127.0.0.1", "192.0.2.10"}
    assert len({port for _, port in found}) == 1 and int(found.pop()[1]) >= 32768


def test_one_port_of_a_range_goes_to_each_container_until_none_is_left(api: Api) -> None:
    asked = bound(tcp80=[("", "8500-8501")])
    found = [shown(api, api.run("sleep", "1000", **asked))["80/tcp"] for _ in range(2)]
    assert found == [{(ip, port) for ip in EVERYWHERE} for port in ("8500", "8501")]
    refused = api.send("POST", f"/containers/{api.create('sleep', '1000', **asked)}/start")
    assert refused.status == 500 and "all ports are allocated" in refused.message


@pytest.mark.needs_docker28("a port that a process has of a range is passed over")
def test_a_taken_port_of_a_range_is_passed_over(api: Api, engine: Engine) -> None:
    with engine.host.call(lambda: socket.create_server(("0.0.0.0", 8500))):
        id = api.run("sleep", "1000", **bound(tcp80=[("", "8500-8501")]))
        assert shown(api, id) == {"80/tcp": {(ip, "8501") for ip in EVERYWHERE}}


def test_publish_all_takes_what_is_exposed_and_has_no_port_yet(api: Api) -> None:
    asked = bound(tcp80=[("127.0.0.1", "8080")])
    asked["ExposedPorts"] |= {"81/tcp": {}, "53/UDP": {}}
    asked["HostConfig"]["PublishAllPorts"] = True
    found = shown(api, api.run("sleep", "1000", **asked))
    assert found["80/tcp"] == {("127.0.0.1", "8080")}
    assert {len(found[key] or ()) for key in ("81/tcp", "53/udp")} == {2}


@pytest.mark.only_pierhead("Docker takes a range for port 0")
def test_publish_all_takes_every_port_of_an_exposed_range(api: Api) -> None:
    id = api.run("sleep", "1000", ExposedPorts={"8000-8002/tcp": {}}, HostConfig={"PublishAllPorts": True})
    assert {key: len(found or ()) for key, found in shown(api, id).items()} == {
        f"{port}/tcp": 2 for port in (8000, 8001, 8002)
    }


def test_what_is_only_exposed_is_shown_as_such(api: Api) -> None:
    id = api.run("sleep", "1000", ExposedPorts={"80/tcp": {}}, HostConfig={"PortBindings": {"80/tcp": []}})
    assert shown(api, id) == {"80/tcp": None}
    assert api.get("/containers/json")[0]["Ports"] == [{"PrivatePort": 80, "Type": "tcp"}]


def test_an_internal_network_publishes_nothing_and_shows_no_port(api: Api) -> None:
    api.ok("POST", "/networks/create", {"Name": "inner", "Internal": True})
    asked = bound(tcp80=[("", "8080")])
    asked["HostConfig"]["NetworkMode"] = "inner"
    assert shown(api, api.run("sleep", "1000", **asked)) == {}
    assert api.get("/containers/json")[0]["Ports"] == []


@pytest.mark.parametrize(
    ("key", "port", "named"),
    [
        ("x/tcp", "80", "x"),
        ("65536/tcp", "80", "65536"),
        ("80/tcp", "x", "x"),
        ("80/tcp", "70000", "70000"),
        ("80/tcp", "9-8", "9-8"),
    ],
)
def test_a_port_that_is_none_is_refused(api: Api, key: str, port: str, named: str) -> None:
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"PortBindings": {key: [{"HostPort": port}]}}}
    refused = api.send("POST", "/containers/create", body)
    assert (refused.status, refused.message) == (400, f'invalid port specification: "{named}"')


def clash(api: Api, **asked: Any) -> str:
    """What a start says that must fail; nothing of it is left."""
    id = api.create("sleep", "1000", name="second", **asked)
    refused = api.send("POST", f"/containers/{id}/start")
    assert refused.status == 500, refused.body
    assert api.inspect(id)["State"]["Status"] == "created"
    assert "driver failed programming external connectivity on endpoint second (" in refused.message
    return refused.message


@pytest.mark.parametrize(
    ("first", "second"),
    [("", ""), ("127.0.0.1", ""), ("", "192.0.2.10"), ("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("", "::1")],
)
def test_a_port_is_taken_on_every_address_that_includes_it(api: Api, first: str, second: str) -> None:
    api.run("sleep", "1000", name="holder", **bound(tcp80=[(first, "8080")]))
    said = clash(api, **bound(tcp81=[(second, "8080")]))
    assert ":8080" in said and ("port is already allocated" in said or "address already in use" in said)


@pytest.mark.parametrize(
    ("first", "second"), [("127.0.0.1", "192.0.2.10"), ("0.0.0.0", "::"), ("::1", "127.0.0.1"), ("::1", "2001:db8::10")]
)
def test_different_addresses_have_ports_of_their_own(api: Api, first: str, second: str) -> None:
    for ip in (first, second):
        api.run("sleep", "1000", **bound(tcp80=[(ip, "8080")]))


def test_tcp_and_udp_are_different_ports(api: Api) -> None:
    id = api.run("sleep", "1000", **bound(tcp80=[("", "8080")], udp80=[("", "8080")]))
    assert shown(api, id).keys() == {"80/tcp", "80/udp"}


@pytest.mark.only_pierhead("Docker does not say who")
def test_a_clash_names_the_container_that_has_the_port(api: Api) -> None:
    api.run("sleep", "1000", name="holder", **bound(tcp80=[("192.0.2.10", "8080")]))
    api.run("sleep", "1000", name="bystander", **bound(tcp80=[("127.0.0.1", "8080")]))
    said = clash(api, **bound(tcp81=[("192.0.2.10", "8080")]))
    assert said.endswith("Bind for 192.0.2.10:8080 failed: port is already allocated (by container holder)")


@pytest.mark.only_pierhead("Docker does not say who")
def test_a_clash_with_itself_is_said_to_be_one(api: Api) -> None:
    said = clash(api, **bound(tcp80=[("", "8080")], tcp81=[("127.0.0.1", "8080")]))
    assert said.endswith("failed: port is already allocated (by the same container)")


@pytest.mark.only_pierhead("Docker does not say who")
@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_a_clash_names_the_process_that_has_the_port(api: Api, engine: Engine, proto: str) -> None:
    kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[proto]

    def taken() -> socket.socket:
        made = socket.socket(socket.AF_INET, kind)
        made.bind(("0.0.0.0", 8080))
        if proto == "tcp":
            made.listen()
        return made

    with engine.host.call(taken):
        said = clash(api, **bound(**{f"{proto}80": [("", "8080")]}))
    found = re.search(
        rf"failed to bind host port for 0\.0\.0\.0:8080:172\.17\.0\.\d+:80/{proto}: address already in use "
        r"\(held by .+ \(process \d+\)\)$",
        said,
    )
    assert found, said


@pytest.mark.only_pierhead("Docker does not say who")
def test_a_clash_names_the_host_mode_container_whose_process_has_the_port(api: Api, engine: Engine) -> None:
    api.run(image="web", name="listener", HostConfig={"NetworkMode": "host"})
    wait_until(lambda: ":1F90 " in engine.host.run("cat", "/proc/net/tcp", "/proc/net/tcp6").stdout, "the listener")
    said = clash(api, **bound(tcp80=[("", "8080")]))
    assert re.search(r"address already in use \(held by httpd \(process \d+\) of container listener\)$", said), said


def test_an_address_that_is_not_the_hosts_is_refused(api: Api) -> None:
    assert "cannot assign requested address" in clash(api, **bound(tcp80=[("192.0.2.77", "8080")]))


def test_published_ports_of_a_host_mode_container_are_discarded_with_a_warning(api: Api) -> None:
    asked = bound(tcp80=[("", "8080")])
    asked["HostConfig"]["NetworkMode"] = "host"
    made = api.ok("POST", "/containers/create", {"Image": "busybox", "Cmd": ["sleep", "1000"], **asked}).json
    assert made["Warnings"] == ["Published ports are discarded when using host network mode"]
    api.ok("POST", f"/containers/{made['Id']}/start")
    assert shown(api, made["Id"]) == {}
    assert api.get("/containers/json")[0]["Ports"] == []
    assert api.inspect(made["Id"])["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}


def same(first: int, count: int, shift: int = 0, proto: str = "tcp") -> dict[str, Any]:
    """What the docker client sends for a range."""
    return {f"{proto}{port + shift}": [("", str(port))] for port in range(first, first + count)}


def elements(engine: Engine) -> dict[str, int]:
    """How many elements each map of ours has."""
    said = engine.host.run("nft", "-n", "list", "ruleset").check().stdout
    found = {}
    for name, body in re.findall(r"map (\w+) \{(.*?)\n\t\}", said, re.S):
        inside = re.search(r"elements = \{(.*?)\}", body, re.S)
        found[name] = len(inside.group(1).split(",")) if inside else 0
    return found


@pytest.mark.only_pierhead("Docker has a rule and a process a port")
def test_ten_thousand_ports_are_one_element_and_a_shifted_range_one_each(api: Api, engine: Engine) -> None:
    made = api.ok(
        "POST", "/containers/create", {"Image": "busybox", "Cmd": ["sleep", "1000"], **bound(**same(20000, 10000))}
    ).json
    assert len(made["Warnings"]) == 1 and "20000-29999/tcp cannot be kept from other programs" in made["Warnings"][0]
    api.ok("POST", f"/containers/{made['Id']}/start")
    assert elements(engine)["ranges4"] == 1 and elements(engine)["any4"] == 0
    netns = f"/proc/{api.inspect(made['Id'])['State']['Pid']}/ns/net"
    for port in (20000, 24567, 29999):
        with server(netns, port, name="web"):
            assert ask(engine.world.neighbour.path, engine.world.host_address, port) == "web 192.0.2.20"
            assert ask(engine.host.path, "127.0.0.1", port) == "web 172.17.0.1"
    assert len(shown(api, made["Id"])) == 10000
    shifted = api.run("sleep", "1000", **bound(**same(18082, 3, -10000)))
    assert elements(engine)["any4"] == 3
    netns = f"/proc/{api.inspect(shifted)['State']['Pid']}/ns/net"
    with server(netns, 8083, name="web"), server(netns, 8084, name="next"):
        assert ask(engine.world.neighbour.path, engine.world.host_address, 18083).startswith("web")
        assert ask(engine.world.neighbour.path, engine.world.host_address, 18084).startswith("next")
    said = clash(api, **bound(tcp80=[("", "24567")]))
    assert "Bind for 0.0.0.0:24567 failed: port is already allocated" in said
    for id in (made["Id"], shifted):
        api.ok("DELETE", f"/containers/{id}", force=1)
    assert elements(engine)["ranges4"] == elements(engine)["any4"] == 0


@pytest.mark.only_pierhead("Docker looks when it starts its proxies")
def test_a_large_range_that_a_process_has_a_port_of_is_refused(api: Api, engine: Engine) -> None:
    with engine.host.call(lambda: socket.create_server(("0.0.0.0", 24567))):
        said = clash(api, **bound(**same(20000, 10000)))
    assert "0.0.0.0:24567:" in said and "address already in use (held by " in said
