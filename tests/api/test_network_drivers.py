"""Macvlan and ipvlan through the raw API: the fields, and Docker's refusals."""

from typing import Any

import pytest

from tests.harness.api import Answer, Api
from tests.harness.engines import Engine


@pytest.fixture
def api(engine: Engine) -> Api:
    return engine.api


def create(api: Api, driver: str, **options: str) -> Answer:
    return api.send("POST", "/networks/create", {"Name": "n", "Driver": driver, "Options": options})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"parent": "ens33", "macvlan_mode": "l2"},
            "requested macvlan mode 'l2' is not valid, 'bridge' mode is the macvlan driver default",
        ),
        ({"parent": "lo"}, "loopback interface is not a valid macvlan parent link"),
        ({"parent": "eth99"}, "invalid subinterface vlan name eth99, example formatting is eth0.10"),
        (
            {"parent": "ens33.7.8"},
            "required interface name format is: name.vlan_id, ex. eth0.10 for vlan 10, instead received ens33.7.8",
        ),
        ({"parent": "ens33.x"}, "unable to parse a valid vlan id from: x (ex. eth0.10 for vlan 10)"),
        ({"parent": "ens33.4095"}, "vlan id must be between 1-4094, received: 4095"),
    ],
)
def test_a_macvlan_option_that_makes_no_sense_is_refused_in_dockers_words(
    api: Api, options: dict[str, str], said: str
) -> None:
    refused = create(api, "macvlan", **options)
    assert (refused.status, refused.message) == (500, said)
    assert [one["Name"] for one in api.get("/networks", filters={"name": ["^n$"]})] == []


@pytest.mark.needs_docker28("the text has a word too many")
def test_a_vlan_on_an_interface_that_is_not_there_is_refused(api: Api) -> None:
    refused = create(api, "macvlan", parent="eth99.7")
    assert (refused.status, refused.message) == (500, "-o parent interface was not found on the host: eth99")


@pytest.mark.needs_docker28("one network for each parent")
def test_macvlan_networks_may_share_a_parent_but_not_with_passthru(api: Api) -> None:
    first = api.ok("POST", "/networks/create", {"Name": "a", "Driver": "macvlan", "Options": {"parent": "ens33"}})
    api.ok("POST", "/networks/create", {"Name": "b", "Driver": "macvlan", "Options": {"parent": "ens33"}})
    api.ok("DELETE", "/networks/b")
    refused = create(api, "macvlan", parent="ens33", macvlan_mode="passthru")
    assert (refused.status, refused.message) == (
        500,
        f"cannot use mode passthru, macvlan network {first.json['Id']} is already using parent interface ens33",
    )


@pytest.mark.needs_docker28("no l3s, no flags")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ipvlan_mode": "l4"}, "requested ipvlan mode 'l4' is not valid, 'l2' mode is the ipvlan driver default"),
        ({"ipvlan_flag": "open"}, "requested ipvlan flag 'open' is not valid, 'bridge' is the ipvlan driver default"),
        ({"parent": "lo"}, "loopback interface is not a valid ipvlan parent link"),
    ],
)
def test_an_ipvlan_option_that_makes_no_sense_is_refused_in_dockers_words(
    api: Api, options: dict[str, str], said: str
) -> None:
    refused = create(api, "ipvlan", **options)
    assert (refused.status, refused.message) == (500, said)


def member(api: Api, **config: Any) -> dict[str, Any]:
    id = api.run("sleep", "1000", ExposedPorts={"80/tcp": {}}, HostConfig={"NetworkMode": "n"}, **config)
    return dict(api.inspect(id)["NetworkSettings"])


def test_a_macvlan_container_shows_what_it_has(api: Api) -> None:
    # The subnet of the host's own interface: that is what macvlan is for, and Docker takes it.
    pool = {"Subnet": "192.0.2.0/24", "Gateway": "192.0.2.1", "IPRange": "192.0.2.128/28"}
    request = {"Name": "n", "Driver": "macvlan", "Options": {"parent": "ens33"}, "IPAM": {"Config": [pool]}}
    id = api.ok("POST", "/networks/create", request).json["Id"]
    seen = api.get(f"/networks/{id}")
    assert (seen["Driver"], seen["Options"], seen["Internal"]) == ("macvlan", {"parent": "ens33"}, False)
    assert seen["IPAM"]["Config"] == [{"Subnet": "192.0.2.0/24", "IPRange": "192.0.2.128/28", "Gateway": "192.0.2.1"}]
    settings = member(api)
    shown = settings["Networks"]["n"]
    assert (shown["IPAddress"], shown["IPPrefixLen"], shown["Gateway"]) == ("192.0.2.128", 24, "192.0.2.1")
    assert shown["MacAddress"].count(":") == 5
    assert settings["Ports"] == {}, "macvlan shows no ports, exposed or published"
    assert api.get("/networks/n")["Containers"]


def test_a_mac_address_may_be_asked_for_on_macvlan(api: Api) -> None:
    api.ok("POST", "/networks/create", {"Name": "n", "Driver": "macvlan", "Options": {"parent": "ens33"}})
    assert member(api, MacAddress="02:11:22:33:44:55")["Networks"]["n"]["MacAddress"] == "02:11:22:33:44:55"
