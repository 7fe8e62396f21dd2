"""Which networks a container is in: what was asked for and nothing else, whether the networks are there or not."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness.api import Api
from tests.harness.engines import Engine
from tests.harness.processes import wait_until


@pytest.fixture
def api(engine: Engine) -> Api:
    return engine.api


def network(api: Api, name: str, **config: object) -> str:
    return str(api.ok("POST", "/networks/create", {"Name": name, **config}).json["Id"])


def networks(api: Api, container: str) -> dict[str, str]:
    """Name and IPv4 address of a container's networks."""
    found = api.inspect(container)["NetworkSettings"]["Networks"]
    return {name: settings["IPAddress"] for name, settings in found.items()}


def joined(api: Api, name: str) -> bool:
    """Whether a container is in the network."""
    return bool(api.get(f"/networks/{name}")["Containers"])


def endpoints(*names: str) -> dict[str, object]:
    return {"EndpointsConfig": {name: {} for name in names}}


def test_networks_that_are_asked_for_replace_the_default_one(api: Api) -> None:
    network(api, "n1")
    id = api.run("sleep", "1000", NetworkingConfig=endpoints("n1"))
    assert list(networks(api, id)) == ["n1"], "a container in a private network must not be on the default bridge too"


def test_a_network_given_up_does_not_come_back_with_a_restart(api: Api) -> None:
    id = api.run("sleep", "1000")
    api.ok("POST", "/networks/bridge/disconnect", {"Container": id})
    api.ok("POST", f"/containers/{id}/restart", t=0)
    assert networks(api, id) == {}
    said = api.ok("POST", f"/containers/{id}/exec", {"Cmd": ["ip", "-o", "link"], "AttachStdout": True}).json["Id"]
    stream = api.hijack(f"/exec/{said}/start", {"Detach": False, "Tty": False})
    with stream.socket:
        links = stream.read_all().decode(errors="replace")
    assert "lo:" in links and "LOOPBACK,UP" in links and "eth0" not in links


def test_a_stopped_container_leaves_a_network_and_joins_another(api: Api) -> None:
    network(api, "n1")
    network(api, "n2")
    id = api.create("sleep", "1000", HostConfig={"NetworkMode": "n1"})
    api.ok("POST", "/networks/n1/disconnect", {"Container": id})
    api.ok("POST", "/networks/n2/connect", {"Container": id})
    api.ok("POST", "/networks/n2/connect", {"Container": id})  # what is so already is no error
    api.ok("POST", f"/containers/{id}/start")
    assert list(networks(api, id)) == ["n2"]


def test_a_network_may_be_made_after_its_container(api: Api) -> None:
    id = api.create("sleep", "1000", HostConfig={"NetworkMode": "late"})
    assert networks(api, id) == {"late": ""}
    refused = api.send("POST", f"/containers/{id}/start")
    assert refused.status == 404 and "network late not found" in refused.message
    network(api, "late")
    api.ok("POST", f"/containers/{id}/start")
    assert networks(api, id)["late"]


def test_a_container_whose_network_is_gone_does_not_start_without_it(api: Api) -> None:
    network(api, "n1")
    id = api.create("sleep", "1000")
    api.ok("POST", "/networks/n1/connect", {"Container": id})
    api.ok("DELETE", "/networks/n1")
    assert set(networks(api, id)) == {"bridge", "n1"}
    assert api.send("POST", f"/containers/{id}/start").status == 404
    api.ok("POST", "/networks/n1/disconnect", {"Container": id, "Force": True})
    api.ok("POST", f"/containers/{id}/start")
    assert list(networks(api, id)) == ["bridge"]


@pytest.mark.only_pierhead("Docker wants the very network, by its id")
def test_a_network_made_again_takes_its_containers_back(api: Api) -> None:
    network(api, "n1")
    config = {"EndpointsConfig": {"n1": {"Aliases": ["db"]}}}
    id = api.create("sleep", "1000", HostConfig={"NetworkMode": "n1"}, NetworkingConfig=config)
    api.ok("DELETE", "/networks/n1")
    network(api, "n1")
    api.ok("POST", f"/containers/{id}/start")
    seen = api.inspect(id)["NetworkSettings"]["Networks"]["n1"]
    assert seen["IPAddress"] and "db" in seen["Aliases"]


def test_what_is_not_connected_cannot_be_disconnected(api: Api) -> None:
    network(api, "n1")
    id = api.create("sleep", "1000", name="alone")
    refused = api.send("POST", "/networks/n1/disconnect", {"Container": "alone"})
    assert (refused.status, refused.message) == (500, f"container {id} is not connected to the network n1")
    api.ok("POST", f"/containers/{id}/start")
    refused = api.send("POST", "/networks/n1/disconnect", {"Container": "alone"})
    assert (refused.status, refused.message) == (500, f"container {id} is not connected to network n1")
    gone = api.send("POST", "/networks/n1/disconnect", {"Container": "nobody", "Force": True})
    assert (gone.status, gone.message) == (404, "endpoint nobody not found")
    gone = api.send("POST", "/networks/n1/disconnect", {"Container": "nobody"})
    assert (gone.status, gone.message) == (404, "No such container: nobody")


MODES = [
    ("bridge", "host", "host network"),
    ("bridge", "none", "container cannot be connected to multiple networks with one of the networks in private (none)"),
    ("none", "n1", "container cannot be connected to multiple networks with one of the networks in private (none)"),
    ("host", "n1", "container sharing network namespace with another container or host cannot be connected"),
    ("container:first", "n1", "container sharing network namespace with another container or host cannot be"),
]


@pytest.mark.parametrize(("mode", "wanted", "message"), MODES)
def test_networks_that_exclude_each_other_are_refused(api: Api, mode: str, wanted: str, message: str) -> None:
    network(api, "n1")
    api.run("sleep", "1000", name="first")
    id = api.run("sleep", "1000", HostConfig={"NetworkMode": mode})
    refused = api.send("POST", f"/networks/{wanted}/connect", {"Container": id})
    if mode == "host" and refused.status == 500:
        pytest.skip("20.10 tries it")
    assert refused.status == 400 and message in refused.message


def test_a_host_container_stays_in_the_hosts_network(api: Api) -> None:
    id = api.run("sleep", "1000", HostConfig={"NetworkMode": "host"})
    refused = api.send("POST", "/networks/host/disconnect", {"Container": id})
    assert refused.status == 400 and "host network" in refused.message


@pytest.mark.needs_docker28("several networks at creation")
def test_a_container_may_be_made_in_several_networks(api: Api) -> None:
    network(api, "n1")
    network(api, "n2")
    modern = Api(api.path, "v1.44")
    id = modern.run("sleep", "1000", HostConfig={"NetworkMode": "n2"}, NetworkingConfig=endpoints("n1", "n2"))
    assert all(networks(api, id)[name] for name in ("n1", "n2"))
    refused = api.send(
        "POST",
        "/containers/create",
        {"Image": "busybox", "HostConfig": {"NetworkMode": "n1"}, "NetworkingConfig": endpoints("n1", "n2")},
    )
    assert refused.status == 400 and "Container cannot be created with multiple network endpoints" in refused.message


@pytest.mark.needs_docker28("several networks at creation")
def test_one_network_twice_is_refused(api: Api) -> None:
    id = network(api, "n1")
    body = {"Image": "busybox", "HostConfig": {"NetworkMode": "n1"}, "NetworkingConfig": endpoints("n1", id)}
    refused = Api(api.path, "v1.44").send("POST", "/containers/create", body)
    assert (refused.status, refused.message) == (400, 'network "n1" is specified multiple times')
    assert api.get("/containers/json", all=1) == []


# MAC addresses -------------------------------------------------------------------------------------------------------

MAC = "02:aa:bb:cc:dd:ee"


def mac_of(api: Api, container: str, name: str = "bridge") -> str:
    return str(api.inspect(container)["NetworkSettings"]["Networks"][name]["MacAddress"])


def test_an_old_client_gives_a_mac_address_to_the_container(api: Api) -> None:
    id = api.run("sleep", "1000", MacAddress=MAC)
    assert mac_of(api, id) == MAC and api.inspect(id)["Config"]["MacAddress"] == MAC
    refused = api.send(
        "POST", "/containers/create", {"Image": "busybox", "MacAddress": MAC, "HostConfig": {"NetworkMode": "host"}}
    )
    assert (refused.status, refused.message) == (400, "conflicting options: mac-address and the network mode")


@pytest.mark.needs_docker28("a MAC address for each endpoint")
def test_a_new_client_gives_a_mac_address_to_an_endpoint(api: Api) -> None:
    network(api, "n1")
    modern = Api(api.path, "v1.44")
    config = {"EndpointsConfig": {"n1": {"MacAddress": "02-AA-BB-CC-DD-01"}, "bridge": {}}}
    id = modern.run("sleep", "1000", NetworkingConfig=config)
    assert mac_of(api, id, "n1") == "02:aa:bb:cc:dd:01" != mac_of(api, id)
    old = api.run("sleep", "1000", HostConfig={"NetworkMode": "n1"}, NetworkingConfig={"EndpointsConfig": {"n1": {}}})
    assert mac_of(api, old, "n1") != "02:aa:bb:cc:dd:01"


@pytest.mark.needs_docker28("a MAC address for each endpoint")
def test_a_mac_address_of_the_whole_container_is_moved_and_warned_about(api: Api) -> None:
    network(api, "n1")
    modern = Api(api.path, "v1.44")
    body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "MacAddress": MAC, "HostConfig": {"NetworkMode": "n1"}}
    made = modern.ok("POST", "/containers/create", body).json
    assert made["Warnings"] == [
        "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead."
    ]
    modern.ok("POST", f"/containers/{made['Id']}/start")
    assert mac_of(api, made["Id"], "n1") == MAC
    other = {"EndpointsConfig": {"n1": {"MacAddress": "02:00:00:00:00:01"}}}
    refused = modern.send("POST", "/containers/create", {**body, "NetworkingConfig": other})
    assert refused.status == 400 and "must match the endpoint-specific MAC address" in refused.message
    refused = modern.send("POST", "/containers/create", {**body, "NetworkingConfig": endpoints("bridge")})
    assert refused.status == 400 and "HostConfig.NetworkMode must match the identity of a network" in refused.message


def test_an_ipv6_address_is_accepted_where_the_network_has_the_subnet_and_ipv6_is_off(api: Api) -> None:
    network(api, "six", IPAM={"Config": [{"Subnet": "2001:389::/64"}]})
    wanted = {"IPAMConfig": {"IPv6Address": "2001:389::f00d"}}
    made = api.create(
        "sleep", "1000", HostConfig={"NetworkMode": "six"}, NetworkingConfig={"EndpointsConfig": {"six": wanted}}
    )
    connected = api.run("sleep", "1000")
    api.ok("POST", "/networks/six/connect", {"Container": connected, "EndpointConfig": wanted})
    api.ok("POST", f"/containers/{made}/start")
    for id in (made, connected):
        seen = api.inspect(id)["NetworkSettings"]["Networks"]["six"]
        assert seen["IPAMConfig"]["IPv6Address"] == "2001:389::f00d"
        assert seen["IPAddress"] and not seen["GlobalIPv6Address"]


@pytest.mark.needs_docker28("what is asked of an endpoint is checked at creation")
@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("bridge", {"IPAMConfig": {"IPv4Address": "172.17.0.9"}}, "supported on user defined networks only"),
        (
            "bridge",
            {"Aliases": ["x"]},
            "network-scoped alias is supported only for containers in user defined networks",
        ),
        ("auto", {"IPAMConfig": {"IPv4Address": "10.1.1.1"}}, "only when connecting to networks with user configured"),
        ("own", {"IPAMConfig": {"IPv4Address": "10.9.9.9"}}, "no configured subnet or ip-range contain the IP address"),
        ("own", {"IPAMConfig": {"IPv6Address": "fd00::9"}}, "only when connecting to networks with user configured"),
        ("own", {"IPAMConfig": {"IPv4Address": "nonsense"}}, "invalid IPv4 address: nonsense"),
        ("own", {"IPAMConfig": {"IPv4Address": "::1"}}, "invalid IPv4 address: ::1"),
        ("own", {"IPAMConfig": {"IPv6Address": "fe80::1%eth0"}}, "invalid IPv6 address: fe80::1%eth0"),
        ("own", {"IPAMConfig": {"LinkLocalIPs": ["x"]}}, "invalid link-local IP address: x"),
        ("own", {"MacAddress": "nonsense"}, "invalid MAC address nonsense"),
    ],
)
def test_what_a_network_cannot_give_is_refused_at_creation(
    api: Api, name: str, settings: dict[str, object], message: str
) -> None:
    network(api, "auto")
    network(api, "own", IPAM={"Config": [{"Subnet": "10.206.0.0/24"}]})
    body = {
        "Image": "busybox",
        "HostConfig": {"NetworkMode": name},
        "NetworkingConfig": {"EndpointsConfig": {name: settings}},
    }
    refused = Api(api.path, "v1.44").send("POST", "/containers/create", body)
    assert refused.status == 400 and f"invalid config for network {name}: " in refused.message
    assert message in refused.message and api.get("/containers/json", all=1) == []


@pytest.mark.only_pierhead("Docker says so when the container starts")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"Aliases": ["a b"]}, "invalid network alias: 'a b'"),
        ({"MacAddress": "01:00:5e:00:00:01"}, "it is a group's"),
        ({"IPAMConfig": {"LinkLocalIPs": ["10.1.1.1"]}}, "invalid link local IP address: 10.1.1.1"),
        ({"Links": ["a:b:c"]}, "bad format for links: a:b:c"),
        ({"Links": [""]}, "empty string specified for links"),
    ],
)
def test_what_could_never_start_is_refused_at_creation(api: Api, settings: dict[str, object], message: str) -> None:
    network(api, "n1")
    body = {
        "Image": "busybox",
        "HostConfig": {"NetworkMode": "n1"},
        "NetworkingConfig": {"EndpointsConfig": {"n1": settings}},
    }
    refused = Api(api.path, "v1.44").send("POST", "/containers/create", body)
    assert refused.status == 400 and message in refused.message


@pytest.mark.needs_docker28("20.10 shows the short id at every version")
def test_old_clients_see_the_short_id_among_the_aliases(api: Api) -> None:
    network(api, "n1")
    id = api.run("sleep", "1000", Hostname="me", HostConfig={"NetworkMode": "n1"})
    seen = {
        version: Api(api.path, version).inspect(id)["NetworkSettings"]["Networks"]["n1"]
        for version in ("v1.44", "v1.45")
    }
    assert seen["v1.44"]["Aliases"] == [id[:12], "me"] and seen["v1.45"]["Aliases"] is None
    assert id[:12] in seen["v1.45"]["DNSNames"]


def test_what_an_image_exposes_does_not_keep_its_container_out_of_anothers_network(api: Api) -> None:
    api.run("sleep", "1000", name="owner")
    config = {"Image": "web", "HostConfig": {"NetworkMode": "container:owner"}}
    assert api.send("POST", "/containers/create", {**config, "ExposedPorts": {"80/tcp": {}}}).message == (
        "conflicting options: port exposing and the container type network mode"
    )
    api.ok("POST", "/containers/create", config, name="guest")
    api.ok("POST", "/containers/guest/start")


@pytest.mark.only_pierhead("it is Pierhead's shim that is made slow")
def test_a_container_that_ends_at_that_moment_still_joins_and_leaves_networks(api: Api) -> None:
    """As one that is started again and again does it sooner or later."""
    network(api, "n1")
    network(api, "n2")
    for verb, left in (("connect", ["n1", "n2"]), ("disconnect", ["n2"])):
        id = api.run("sleep", "1000", name="loop", HostConfig={"NetworkMode": "n1"})
        if verb == "disconnect":
            api.ok("POST", "/networks/n2/connect", {"Container": id})
        changed = "n2" if verb == "connect" else "n1"
        pid = api.inspect(id)["State"]["Pid"]
        shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(shim, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            try:
                os.kill(pid, signal.SIGKILL)
                asked = pool.submit(api.send, "POST", f"/networks/{changed}/{verb}", {"Container": id})
                wait_until(lambda there=verb == "connect", of=changed: joined(api, of) is there, "the shim to be asked")
            finally:
                os.kill(shim, signal.SIGCONT)
            assert asked.result().status == 200, asked.result().message
        api.wait(id)
        api.ok("POST", f"/containers/{id}/start")
        assert list(networks(api, id)) == left and all(networks(api, id).values())
        api.ok("DELETE", f"/containers/{id}", force=1)
