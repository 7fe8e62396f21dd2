"""Ports that a container publishes or withdraws after its creation: an extension of Docker's update."""

import socket
from typing import Any

import pytest

from tests.harness.api import Answer, Api
from tests.harness.echo import ask, server, silent
from tests.harness.engines import Engine, Pierd
from tests.harness.netns import call_in

pytestmark = pytest.mark.only_pierhead("an extension of ours")
HOST4, HOST6 = "192.0.2.10", "2001:db8::10"


@pytest.fixture
def api(engine: Engine) -> Api:
    return engine.api


def bindings(*asked: tuple[str, str, str]) -> dict[str, list[dict[str, str]]]:
    """("80/tcp", host ip, host port), … as a PortMap."""
    found: dict[str, list[dict[str, str]]] = {}
    for key, ip, port in asked:
        found.setdefault(key, []).append({"HostIp": ip, "HostPort": port})
    return found


def running(api: Api, *asked: tuple[str, str, str], **host: Any) -> str:
    return api.run("sleep", "1000", name="web", HostConfig={"PortBindings": bindings(*asked), **host})


def update(api: Api, id: str, *add: tuple[str, str, str], remove: tuple[str, ...] = ()) -> Answer:
    return api.send("POST", f"/containers/{id}/update", {"PublishAdd": bindings(*add), "PublishRemove": list(remove)})


def published(api: Api, id: str) -> set[tuple[str, str, str]]:
    """What inspect shows as published now, without the second family."""
    found = api.inspect(id)["NetworkSettings"]["Ports"]
    return {
        (key, pair["HostIp"], pair["HostPort"])
        for key, pairs in found.items()
        for pair in pairs or ()
        if pair["HostIp"] != "::"
    }


def asked_for(api: Api, id: str) -> dict[str, list[str]]:
    """HostConfig.PortBindings, the host ports alone."""
    found = api.inspect(id)["HostConfig"]["PortBindings"]
    return {key: [pair["HostPort"] for pair in pairs] for key, pairs in found.items()}


def netns(api: Api, id: str) -> str:
    return f"/proc/{api.inspect(id)['State']['Pid']}/ns/net"


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_a_running_container_gets_and_loses_ports(api: Api, engine: Engine, proto: str) -> None:
    id = running(api, (f"80/{proto}", "", "8080"))
    outside = engine.world.neighbour.path
    with server(netns(api, id), 80, proto, "web"), server(netns(api, id), 81, proto, "other"):
        added = update(api, id, (f"81/{proto}", "", "8081"))
        assert (added.status, added.json) == (200, {"Warnings": None})
        assert ask(outside, HOST4, 8081, proto) == "other 192.0.2.20"
        for address in ("127.0.0.1", "::1", HOST6):
            assert ask(engine.host.path, address, 8081, proto).startswith("other"), address
        assert ask(outside, HOST4, 8080, proto).startswith("web"), "the first one is left alone"
        assert update(api, id, remove=(f"8080/{proto}",)).status == 200
        for address in (HOST4, HOST6):
            assert silent(outside, address, 8080, proto)
        for address in ("127.0.0.1", "::1", HOST4):
            assert silent(engine.host.path, address, 8080, proto), address
        assert ask(outside, HOST4, 8081, proto).startswith("other")
    assert published(api, id) == {(f"81/{proto}", "0.0.0.0", "8081")}
    assert asked_for(api, id) == {f"81/{proto}": ["8081"]}
    [listed] = api.get("/containers/json")
    assert {port.get("PublicPort") for port in listed["Ports"]} == {8081}


def test_a_port_that_was_withdrawn_is_free_for_others(api: Api) -> None:
    id = running(api, ("80/tcp", "", "8080"))
    update(api, id, remove=("8080",))
    api.run("sleep", "1000", HostConfig={"PortBindings": bindings(("80/tcp", "", "8080"))})
    refused = update(api, id, ("80/tcp", "127.0.0.1", "8080"))
    assert refused.status == 500 and "Bind for 127.0.0.1:8080 failed: port is already allocated" in refused.message
    assert published(api, id) == set() and asked_for(api, id) == {}


def test_a_change_survives_restarts_of_container_and_daemon(pierd: Pierd) -> None:
    api = pierd.api
    id = running(api, ("80/tcp", "", "8080"))
    update(api, id, ("81/tcp", "", "8081"), remove=("8080",))
    pierd.kill()
    pierd.start()
    with server(netns(api, id), 81, name="web"):
        assert ask(pierd.world.neighbour.path, HOST4, 8081) == "web 192.0.2.20"
    assert update(api, id, ("82/tcp", "", "8082"), remove=("8081",)).status == 200
    api.ok("POST", f"/containers/{id}/restart", t=0)
    assert published(api, id) == {("82/tcp", "0.0.0.0", "8082")}
    with server(netns(api, id), 82, name="web"):
        assert ask(pierd.world.neighbour.path, HOST4, 8082) == "web 192.0.2.20"
        assert ask(pierd.host.path, "::1", 8082).startswith("web")


def test_a_stopped_container_publishes_otherwise_at_its_next_start(api: Api) -> None:
    id = api.create("sleep", "1000", HostConfig={"PortBindings": bindings(("80/tcp", "", "8080"), ("81/tcp", "", ""))})
    assert update(api, id, ("82/udp", "127.0.0.1", "8082"), remove=("8080", ":81")).status == 200
    assert asked_for(api, id) == {"82/udp": ["8082"]}
    api.ok("POST", f"/containers/{id}/start")
    assert published(api, id) == {("82/udp", "127.0.0.1", "8082")}


def test_a_port_moves_to_another_port_of_the_container_without_being_free_between(api: Api, engine: Engine) -> None:
    id = running(api, ("80/tcp", "", "8080"))
    assert update(api, id, ("81/tcp", "", "8080"), remove=("8080",)).status == 200
    with server(netns(api, id), 81, name="web"):
        assert ask(engine.world.neighbour.path, HOST4, 8080).startswith("web")
        assert ask(engine.host.path, "::1", 8080).startswith("web")


def test_a_part_of_a_range_is_withdrawn(api: Api, engine: Engine) -> None:
    id = running(api, *((f"{port}/tcp", "", str(port)) for port in range(8000, 8100)))
    assert update(api, id, remove=("8050-8059",)).status == 200
    left = {int(port) for _, _, port in published(api, id)}
    assert left == {*range(8000, 8050), *range(8060, 8100)}
    outside = engine.world.neighbour.path
    for port in (8000, 8049, 8060, 8099):
        with server(netns(api, id), port, name="web"):
            assert ask(outside, HOST4, port).startswith("web"), port
    with server(netns(api, id), 8055, name="web"):
        assert silent(outside, HOST4, 8055)
    assert update(api, id, *((f"{port}/tcp", "", str(port)) for port in range(8050, 8060))).status == 200
    with server(netns(api, id), 8055, name="web"):
        assert ask(outside, HOST4, 8055).startswith("web")


def test_a_range_in_one_key_keeps_what_is_left_of_it(api: Api) -> None:
    id = running(api, ("80-82/tcp", "", "8080-8082"))
    assert update(api, id, remove=("8081",)).status == 200
    assert asked_for(api, id) == {"80/tcp": ["8080"], "82/tcp": ["8082"]}
    assert {port for _, _, port in published(api, id)} == {"8080", "8082"}


def test_a_port_of_the_engines_choice_is_withdrawn_by_its_number(api: Api) -> None:
    id = running(api, ("80/tcp", "", ""), ("81/tcp", "", "9000-9010"))
    [(_, _, chosen)] = [one for one in published(api, id) if one[0] == "80/tcp"]
    assert update(api, id, remove=(chosen, "9000")).status == 200
    assert asked_for(api, id) == {} and published(api, id) == set()


def ended(client: socket.socket) -> bool:
    """Whether a connection is over, closed or reset, when it is used again."""
    client.settimeout(20)
    try:
        client.sendall(b"?")
        return client.recv(1) == b""
    except ConnectionError:
        return True


def test_connections_through_a_withdrawn_port_end(api: Api, engine: Engine) -> None:
    id = running(api, ("80/tcp", "", "8080"))
    with call_in(netns(api, id), lambda: socket.create_server(("0.0.0.0", 80))) as listener:
        clients = [engine.world.neighbour.connect(HOST4, 8080), engine.host.connect("::1", 8080)]
        served = [listener.accept()[0] for _ in clients]
        update(api, id, remove=("8080",))
        assert [ended(client) for client in clients] == [True, True]
        for one in (*clients, *served):
            one.close()


@pytest.mark.parametrize("mode", ["host", "none", "container:other"])
def test_a_container_without_ports_of_its_own_gets_none(api: Api, mode: str) -> None:
    api.run("sleep", "1000", name="other")
    id = api.run("sleep", "1000", HostConfig={"NetworkMode": mode})
    refused = update(api, id, ("80/tcp", "", "8080"))
    assert refused.status == 409 and "conflicting options: port publishing and the" in refused.message


@pytest.mark.parametrize(
    ("add", "remove", "said"),
    [
        ([], ("8081",), "container web does not publish 8081"),
        ([], ("8080/udp",), "container web does not publish 8080/udp"),
        ([], ("127.0.0.1:8080",), "container web does not publish 127.0.0.1:8080"),
        ([], ("8080:81",), "container web does not publish 8080:81"),
        ([], ("x",), 'invalid port specification: "x"'),
        ([], ("",), 'invalid port specification: ""'),
        ([], ("8080/icmp",), 'invalid port specification: "8080/icmp"'),
        ([("80/tcp", "", "x")], (), 'invalid port specification: "x"'),
        ([("80/tcp", "nowhere", "80")], (), "invalid IP address: nowhere"),
    ],
)
def test_what_cannot_be_changed_is_refused_and_nothing_is(
    api: Api, add: list[tuple[str, str, str]], remove: tuple[str, ...], said: str
) -> None:
    id = running(api, ("80/tcp", "", "8080"))
    refused = update(api, id, *add, remove=remove)
    assert (refused.status, refused.message) == (400, said)
    assert asked_for(api, id) == {"80/tcp": ["8080"]} and published(api, id) == {("80/tcp", "0.0.0.0", "8080")}


def test_what_publish_all_publishes_stays(api: Api) -> None:
    id = api.run("sleep", "1000", name="web", ExposedPorts={"80/tcp": {}}, HostConfig={"PublishAllPorts": True})
    [(_, _, port)] = published(api, id)
    refused = update(api, id, remove=(port,))
    assert refused.status == 400 and "publishes all its exposed ports (-P), among them 80/tcp" in refused.message


def test_a_port_that_a_process_has_changes_nothing(api: Api, engine: Engine) -> None:
    id = running(api, ("80/tcp", "", "8080"))
    with engine.host.call(lambda: socket.create_server(("0.0.0.0", 8081))):
        refused = update(api, id, ("81/tcp", "", "8081"), remove=("8080",))
        assert refused.status == 500 and "address already in use (held by " in refused.message
    assert asked_for(api, id) == {"80/tcp": ["8080"]} and published(api, id) == {("80/tcp", "0.0.0.0", "8080")}
    with server(netns(api, id), 80, name="web"):
        assert ask(engine.world.neighbour.path, HOST4, 8080).startswith("web")
        assert ask(engine.host.path, "::1", 8080).startswith("web")


def test_pier_changes_published_ports(engine: Engine) -> None:
    engine.pier("run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sleep", "1000").check()
    engine.pier("update", "--publish-add", "127.0.0.1:8081:81", "--publish-add", "90-91:90-91/udp", "web").check()
    engine.pier("update", "--publish-rm", "8080", "web").check()
    shown = engine.pier("ps", "--format", "{{.Ports}}").check().stdout.strip()
    assert shown == "80/tcp, 0.0.0.0:90-91->90-91/udp, [::]:90-91->90-91/udp, 127.0.0.1:8081->81/tcp"
    assert engine.pier("port", "web", "81").check().stdout.strip() == "127.0.0.1:8081"
    refused = engine.pier("update", "--publish-rm", "8080", "web")
    assert refused.status == 1 and "container web does not publish 8080" in refused.stderr


ROUTED = {f"com.docker.network.bridge.gateway_mode_ipv{version}": "routed" for version in (4, 6)}


def _dual(api: Api, name: str, number: int, **options: str) -> None:
    config = [{"Subnet": f"10.{number}.0.0/24"}, {"Subnet": f"fd00:{number}::/64"}]
    body = {"Name": name, "EnableIPv6": True, "IPAM": {"Config": config}, "Options": options}
    api.ok("POST", "/networks/create", body)


def test_a_routed_network_takes_no_port_of_the_host_whatever_changes(api: Api, engine: Engine) -> None:
    """As with Docker 28 published ports are open at the containers' own addresses, and the host's have none of them."""
    _dual(api, "routed", 231, **ROUTED)
    _dual(api, "mixed", 232, **{key: value for key, value in ROUTED.items() if key.endswith("6")})
    _dual(api, "plain", 233)
    outside = engine.world.neighbour
    for number in (231, 232):
        outside.ip("route", "replace", f"10.{number}.0.0/24", "via", HOST4)
        outside.ip("route", "replace", f"fd00:{number}::/64", "via", HOST6)
    for name in ("web", "twin"):  # the same port of the host's, which neither takes
        asked = {"NetworkMode": "routed", "PortBindings": bindings(("80/tcp", "", "8080"))}
        api.run("sleep", "1000", name=name, HostConfig=asked)
    pairs = [{"HostIp": "0.0.0.0", "HostPort": ""}, {"HostIp": "::", "HostPort": ""}]
    assert api.inspect("web")["NetworkSettings"]["Ports"] == {"80/tcp": pairs}
    assert engine.docker("ps", "--filter", "name=web", "--format", "{{.Ports}}").lines == ["80/tcp"]

    def served(port: int, host: int, *wanted: str) -> None:
        """Where the neighbour is served: these, and nowhere else."""
        places = {"host4": (HOST4, host), "host6": (HOST6, host)}
        for kind, number in (("routed", 231), ("mixed", 232)):
            places |= {f"{kind}4": (f"10.{number}.0.2", port), f"{kind}6": (f"fd00:{number}::2", port)}
        for place, (address, at) in places.items():
            answer = ask(outside.path, address, at, patience=10 if place in wanted else 0.5)
            assert answer.startswith("web") == (place in wanted), f"{place}: {answer}"

    inside = f"/proc/{api.inspect('web')['State']['Pid']}/ns/net"
    with server(inside, 80, name="web"), server(inside, 81, name="web"):
        served(80, 8080, "routed4", "routed6")
        assert engine.pier("network", "check", "outside", "web:80").check().status == 0
        assert update(api, "web", ("81/tcp", "", "8081"), remove=("8080",)).status == 200
        served(81, 8081, "routed4", "routed6")
        served(80, 8080)
        # The way out moves to networks of other kinds and back, and the ports with it.
        for network, priority, where in (
            ("mixed", 1, ("host4", "mixed6")),
            ("plain", 2, ("host4", "host6")),
        ):
            more = {"Container": "web", "EndpointConfig": {"GwPriority": priority}}
            api.ok("POST", f"/networks/{network}/connect", more)
            served(81, 8081, *where)
        for network in ("plain", "mixed"):
            api.ok("POST", f"/networks/{network}/disconnect", {"Container": "web"})
        served(81, 8081, "routed4", "routed6")
