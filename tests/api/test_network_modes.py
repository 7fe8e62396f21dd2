"""The modes container, host and none through the raw API: what each refuses, and what becomes of an owner."""

import socket
from typing import Any

import pytest

from tests.harness.api import Api, frames
from tests.harness.engines import Engine
from tests.harness.processes import wait_until

JOINED = {"NetworkMode": "container:owner"}


@pytest.fixture
def api(engine: Engine) -> Api:
    return engine.api


@pytest.fixture
def owner(api: Api) -> str:
    return api.run("sleep", "1000", name="owner")


def inside(api: Api, container: str, *command: str) -> str:
    made = api.ok("POST", f"/containers/{container}/exec", {"Cmd": list(command), "AttachStdout": True}).json["Id"]
    answer = api.ok("POST", f"/exec/{made}/start", {"Detach": False, "Tty": False})
    return b"".join(payload for _, payload in frames(answer.body)).decode(errors="replace")


def links(api: Api, container: str) -> set[str]:
    return {line.split(": ")[1].partition("@")[0] for line in inside(api, container, "ip", "-o", "link").splitlines()}


# container:NAME -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "host", "said"),
    [
        ({"Hostname": "h"}, {}, "conflicting options: hostname and the network mode"),
        (
            {},
            {"Links": ["owner:o"]},
            "conflicting options: container type network can't be used with links. "
            "This would result in undefined behavior",
        ),
        ({}, {"Dns": ["192.0.2.1"]}, "conflicting options: dns and the network mode"),
        ({}, {"ExtraHosts": ["a:192.0.2.1"]}, "conflicting options: custom host-to-IP mapping and the network mode"),
        ({"MacAddress": "02:11:22:33:44:55"}, {}, "conflicting options: mac-address and the network mode"),
        (
            {},
            {"PortBindings": {"80/tcp": [{"HostPort": "80"}]}},
            "conflicting options: port publishing and the container type network mode",
        ),
        ({}, {"PublishAllPorts": True}, "conflicting options: port publishing and the container type network mode"),
        (
            {"ExposedPorts": {"80/tcp": {}}},
            {},
            "conflicting options: port exposing and the container type network mode",
        ),
        ({"Hostname": "h"}, {"PublishAllPorts": True}, "conflicting options: hostname and the network mode"),
        ({}, {"NetworkMode": "container:"}, "Invalid network mode: invalid container format container:<name|id>"),
        ({}, {"NetworkMode": "container"}, "Invalid network mode: invalid container format container:<name|id>"),
    ],
)
def test_what_belongs_to_the_owner_is_refused_for_who_joins(
    api: Api, config: dict[str, Any], host: dict[str, Any], said: str
) -> None:
    request = {"Image": "busybox", "Cmd": ["true"], **config, "HostConfig": {**JOINED, **host}}
    refused = api.send("POST", "/containers/create", request)
    assert (refused.status, refused.message) == (400, said)


def test_what_an_image_exposes_is_no_conflict(api: Api, owner: str) -> None:
    assert api.run(image="web", HostConfig=JOINED)


def test_who_joins_has_the_owners_names_and_nothing_of_its_own(api: Api, owner: str) -> None:
    guest = api.run("sleep", "1000", name="guest", HostConfig=JOINED)
    seen = api.inspect(guest)
    assert seen["HostConfig"]["NetworkMode"] == f"container:{owner}"
    assert seen["Config"]["Hostname"] == owner[:12] == inside(api, guest, "hostname").strip()
    assert seen["NetworkSettings"]["Networks"] == {} and seen["NetworkSettings"]["Ports"] == {}
    address = api.inspect(owner)["NetworkSettings"]["IPAddress"]
    assert address in inside(api, guest, "ip", "addr")
    assert address in inside(api, guest, "cat", "/etc/hosts")


def test_an_owner_may_be_renamed(api: Api, owner: str) -> None:
    guest = api.run("sleep", "1000", name="guest", HostConfig=JOINED)
    api.ok("POST", f"/containers/{owner}/rename", name="other")
    api.ok("POST", f"/containers/{guest}/restart", t=0)
    assert "eth0" in links(api, guest)


def test_who_has_joined_can_neither_connect_nor_disconnect(api: Api, owner: str) -> None:
    guest = api.run("sleep", "1000", name="guest", HostConfig=JOINED)
    api.ok("POST", "/networks/create", {"Name": "n1"})
    refused = api.send("POST", "/networks/n1/connect", {"Container": guest})
    assert refused.status == 400
    assert refused.message == (
        "container sharing network namespace with another container or host cannot be connected to any other network"
    )
    refused = api.send("POST", "/networks/bridge/disconnect", {"Container": guest})
    assert "is not connected to network bridge" in refused.message


def test_an_owner_that_stops_leaves_lo_and_is_joined_again_by_a_restart(api: Api, owner: str) -> None:
    guest = api.run("sleep", "1000", name="guest", HostConfig=JOINED)
    api.ok("POST", f"/containers/{owner}/stop", t=0)
    wait_until(lambda: links(api, guest) == {"lo"}, "the end of eth0")
    api.ok("POST", f"/containers/{owner}/start")
    assert links(api, guest) == {"lo"}, "the owner has a new namespace, the guest the old one"
    api.ok("POST", f"/containers/{guest}/restart", t=0)
    assert links(api, guest) == {"lo", "eth0"}


@pytest.mark.needs_docker28("other words")
def test_who_would_join_a_container_that_does_not_run_is_told_so(api: Api, owner: str) -> None:
    guest = api.run("sleep", "1000", name="guest", HostConfig=JOINED)
    api.ok("POST", f"/containers/{owner}/stop", t=0)
    late = api.create("true", name="late", HostConfig=JOINED)
    refused = api.send("POST", f"/containers/{late}/start")
    said = "cannot join network namespace of a non running container: container owner is exited"
    assert (refused.status, refused.message) == (409, said)
    refused = api.send("POST", f"/containers/{guest}/restart?t=0")
    assert (refused.status, refused.message) == (409, f"Cannot restart container {guest}: {said}")
    assert api.inspect(guest)["State"]["ExitCode"] == 137, "that of its last run, as Docker keeps it"
    api.ok("DELETE", f"/containers/{owner}", force=1)
    refused = api.send("POST", f"/containers/{guest}/start")
    gone = f"joining network namespace of container: No such container: {owner}"
    assert (refused.status, refused.message) == (404, gone)
    own = api.create("true", name="own", HostConfig={"NetworkMode": "container:own"})
    refused = api.send("POST", f"/containers/{own}/start")
    assert (refused.status, refused.message) == (500, "cannot join own network namespace")


def test_an_owner_that_is_removed_leaves_its_guest_running(api: Api, owner: str) -> None:
    guest = api.run("sleep", "1000", name="guest", HostConfig=JOINED)
    api.ok("DELETE", f"/containers/{owner}", force=1)
    wait_until(lambda: links(api, guest) == {"lo"}, "the end of eth0")
    assert api.inspect(guest)["State"]["Running"]
    api.ok("DELETE", f"/containers/{guest}", force=1)


# host -----------------------------------------------------------------------------------------------------------------


def test_ports_published_in_the_hosts_network_are_discarded_with_a_warning(engine: Engine) -> None:
    api = engine.api
    bindings = {"8080/tcp": [{"HostIp": "", "HostPort": "8081"}]}
    request = {"Image": "web", "HostConfig": {"NetworkMode": "host", "PortBindings": bindings}}
    made = api.ok("POST", "/containers/create", request).json
    assert made["Warnings"] == ["Published ports are discarded when using host network mode"]
    api.ok("POST", f"/containers/{made['Id']}/start")
    wait_until(lambda: "this is" in _get(engine, 8080), "an answer on the port that it listens on")
    with pytest.raises(OSError):
        engine.host.http_get("127.0.0.1", 8081)
    seen = api.inspect(made["Id"])
    assert seen["NetworkSettings"]["Ports"] == {} and seen["HostConfig"]["PortBindings"] == bindings
    assert set(seen["NetworkSettings"]["Networks"]) == {"host"}
    assert seen["NetworkSettings"]["Networks"]["host"]["IPAddress"] == ""
    assert api.get("/containers/json")[0]["Ports"] == []


def _get(engine: Engine, port: int) -> str:
    try:
        return engine.host.http_get("127.0.0.1", port)
    except OSError:
        return ""


def test_the_hosts_network_is_the_hosts_in_every_respect(engine: Engine) -> None:
    api = engine.api
    id = api.run("sleep", "1000", HostConfig={"NetworkMode": "host", "ExtraHosts": ["added:192.0.2.77"]})
    assert {"ens33", "virbr0", "lo"} <= links(api, id)
    assert "192.0.2.77" in inside(api, id, "cat", "/etc/hosts")
    assert inside(api, id, "hostname").strip() == socket.gethostname()


def test_links_are_refused_in_the_hosts_network(api: Api, owner: str) -> None:
    request = {"Image": "busybox", "HostConfig": {"NetworkMode": "host", "Links": ["owner"]}}
    refused = api.send("POST", "/containers/create", request)
    assert (refused.status, refused.message) == (
        400,
        "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
    )


# none -----------------------------------------------------------------------------------------------------------------


def test_without_a_network_there_is_lo_and_nothing_else(api: Api) -> None:
    bindings = {"8080/tcp": [{"HostPort": "8081"}]}
    id = api.run("sleep", "1000", HostConfig={"NetworkMode": "none", "PortBindings": bindings})
    assert links(api, id) == {"lo"}
    assert "127.0.0.1/8" in inside(api, id, "ip", "addr"), "and it is up"
    seen = api.inspect(id)["NetworkSettings"]
    assert seen["Ports"] == {} and set(seen["Networks"]) == {"none"}
    assert (seen["Networks"]["none"]["IPAddress"], seen["Networks"]["none"]["MacAddress"]) == ("", "")
    api.ok("POST", "/networks/create", {"Name": "n1"})
    refused = api.send("POST", "/networks/n1/connect", {"Container": id})
    assert refused.message == (
        "container cannot be connected to multiple networks with one of the networks in private (none) mode"
    )
    api.ok("POST", "/networks/none/disconnect", {"Container": id})
    api.ok("POST", "/networks/n1/connect", {"Container": id})
    assert "eth0" in links(api, id)
