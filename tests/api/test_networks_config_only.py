"""Configuration-only networks: nothing but a configuration that other networks are made from."""

import pytest

from tests.harness.api import Api
from tests.harness.engines import Engine

MTU = "com.docker.network.driver.mtu"


@pytest.fixture
def api(engine: Engine) -> Api:
    """With the configuration "conf"."""
    api = engine.api
    create(api, "conf", ConfigOnly=True, Labels={"a": "b"}, Options={MTU: "1400"}, IPAM=ipam("10.211.0.0/24"))
    return api


def create(api: Api, name: str, **config: object) -> str:
    return str(api.ok("POST", "/networks/create", {"Name": name, **config}).json["Id"])


def ipam(subnet: str) -> dict[str, object]:
    return {"Driver": "default", "Config": [{"Subnet": subnet}]}


def made_from(api: Api, name: str, configuration: str = "conf", **config: object) -> str:
    return create(api, name, ConfigFrom={"Network": configuration}, **config)


def test_a_configuration_is_shown_and_nothing_is_made_for_it(api: Api, engine: Engine) -> None:
    before = engine.host.interfaces()
    id = create(api, "more", ConfigOnly=True, Driver="macvlan")
    seen = api.get("/networks/conf")
    assert seen["ConfigOnly"] and (seen["Driver"], seen["Scope"]) == ("null", "local")
    assert seen["IPAM"]["Config"] == [{"Subnet": "10.211.0.0/24"}] and seen["Options"] == {MTU: "1400"}
    assert seen["Labels"] == {"a": "b"} and engine.host.interfaces() == before
    assert {entry["Name"] for entry in api.get("/networks", filters={"driver": ["null"]})} == {"conf", "more", "none"}
    api.ok("DELETE", f"/networks/{id}")


def test_a_network_inherits_what_its_configuration_says(api: Api) -> None:
    made_from(api, "n1", Internal=True, Attachable=True)
    seen = api.get("/networks/n1")
    assert seen["ConfigFrom"] == {"Network": "conf"} and not seen["ConfigOnly"] and seen["Driver"] == "bridge"
    assert seen["IPAM"]["Config"][0]["Subnet"] == "10.211.0.0/24" and seen["Options"] == {MTU: "1400"}
    assert seen["Labels"] == {"a": "b"} and seen["Internal"] and seen["Attachable"]
    id = api.run("sleep", "1000", HostConfig={"NetworkMode": "n1"})
    assert api.inspect(id)["NetworkSettings"]["Networks"]["n1"]["IPAddress"] == "10.211.0.2"
    said = api.output("cat", "/sys/class/net/eth0/mtu", HostConfig={"NetworkMode": "n1"})
    assert said.strip() == "1400"


def test_a_configuration_in_use_cannot_be_removed(api: Api) -> None:
    made_from(api, "n1")
    refused = api.send("DELETE", "/networks/conf")
    assert refused.status == 403
    assert refused.message == 'error while removing network: configuration network "conf" is in use'
    assert api.ok("POST", "/networks/prune").json["NetworksDeleted"] == ["n1"]
    api.ok("DELETE", "/networks/conf")


def test_a_configuration_is_not_pruned(api: Api) -> None:
    assert api.ok("POST", "/networks/prune").json["NetworksDeleted"] in (None, [])
    assert api.get("/networks/conf")["Name"] == "conf"


def test_a_configuration_cannot_be_joined(api: Api) -> None:
    message = "cannot create endpoint on configuration-only network"
    running = api.run("sleep", "1000")
    refused = api.send("POST", "/networks/conf/connect", {"Container": running})
    assert (refused.status, refused.message) == (403, message)
    made = api.send("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"NetworkMode": "conf"}})
    if made.status == 201:  # 20.10 says so when it starts
        made = api.send("POST", f"/containers/{made.json['Id']}/start")
    assert (made.status, made.message) == (403, message)


NETWORK_SPECIFIC = (
    "configuration network can only contain network specific fields. Network operator fields like "
    "[ ingress | internal | attachable | scope ] are not supported."
)
DEPENDS = "user specified configurations are not supported if the network depends on a configuration network"


@pytest.mark.parametrize(
    ("config", "status", "message"),
    [
        ({"ConfigOnly": True, "Internal": True}, 403, NETWORK_SPECIFIC),
        ({"ConfigOnly": True, "Attachable": True}, 403, NETWORK_SPECIFIC),
        ({"ConfigOnly": True, "Scope": "local"}, 403, NETWORK_SPECIFIC),
        (
            {"ConfigOnly": True, "ConfigFrom": {"Network": "conf"}},
            403,
            "a configuration network cannot depend on another configuration network",
        ),
        ({"ConfigFrom": {"Network": "nothing"}}, 404, 'configuration network "nothing" does not exist'),
        ({"ConfigFrom": {"Network": "bridge"}}, 404, 'configuration network "bridge" does not exist'),
        ({"ConfigFrom": {"Network": "conf"}, "IPAM": ipam("10.212.0.0/24")}, 403, DEPENDS),
        ({"ConfigFrom": {"Network": "conf"}, "Labels": {"c": "d"}}, 403, DEPENDS),
        ({"ConfigFrom": {"Network": "conf"}, "EnableIPv6": True}, 403, DEPENDS),
        (
            {"ConfigFrom": {"Network": "conf"}, "Options": {MTU: "1300"}},
            403,
            "network driver options are not supported if the network depends on a configuration network",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(api: Api, config: dict[str, object], status: int, message: str) -> None:
    refused = api.send("POST", "/networks/create", {"Name": "n1", **config})
    assert (refused.status, refused.message) == (status, message)


def test_two_networks_of_one_configuration_do_not_share_its_subnet(api: Api) -> None:
    made_from(api, "n1")
    refused = api.send("POST", "/networks/create", {"Name": "n2", "ConfigFrom": {"Network": "conf"}})
    assert refused.status == 403 and "Pool overlaps with other one on this address space" in refused.message
