"""Addresses on users' networks: a name keeps its own, so that who has remembered it is not led astray."""

import pytest

from tests.harness.api import Api
from tests.harness.engines import Engine
from tests.harness.naming import asker

pytestmark = pytest.mark.only_pierhead("Docker gives a free address to the next that comes")

SUBNET = "10.219.0.0/24"


@pytest.fixture
def api(engine: Engine) -> Api:
    made = engine.api
    network(made, SUBNET)
    return made


def network(api: Api, *subnets: str, **config: object) -> None:
    ipam = {"Driver": "default", "Config": [{"Subnet": subnet} for subnet in subnets]}
    api.ok("POST", "/networks/create", {"Name": "n1", "IPAM": ipam, **config})


def start(api: Api, name: str, given: str = "", **config: object) -> str:
    settings = {"IPAMConfig": {"IPv4Address": given}} if given else {}
    host = {"NetworkMode": "n1", "Dns": ["192.0.2.20"]}
    networking = {"EndpointsConfig": {"n1": settings}}
    return api.run("sleep", "1000", name=name, HostConfig=host, NetworkingConfig=networking, **config)


def ip(api: Api, container: str, key: str = "IPAddress") -> str:
    return str(api.inspect(container)["NetworkSettings"]["Networks"]["n1"][key])


def stop(api: Api, id: str) -> None:
    api.ok("POST", f"/containers/{id}/stop", t=0)


def remove(api: Api, id: str) -> None:
    api.ok("DELETE", f"/containers/{id}", force=1)


def test_a_restart_keeps_the_address_whoever_starts_meanwhile(api: Api) -> None:
    id = start(api, "web")
    address = ip(api, id)
    stop(api, id)
    others = [start(api, f"other{number}") for number in range(3)]
    assert address not in [ip(api, other) for other in others]
    api.ok("POST", f"/containers/{id}/start")
    assert ip(api, id) == address
    api.ok("POST", f"/containers/{id}/restart", t=0)
    assert ip(api, id) == address


def test_who_is_removed_and_made_again_under_its_name_has_its_address_again(api: Api) -> None:
    address = ip(api, id := start(api, "web"))
    remove(api, id)
    start(api, "other")
    assert ip(api, start(api, "web")) == address


def test_a_recreation_as_compose_does_it_keeps_the_address(api: Api) -> None:
    """The new one is made under another name, the old one removed, the new one renamed and started."""
    old = start(api, "app-web-1")
    address = ip(api, old)
    new = api.create("sleep", "1000", name="abc_app-web-1", HostConfig={"NetworkMode": "n1"})
    stop(api, old)
    start(api, "app-db-1")
    remove(api, old)
    api.ok("POST", f"/containers/{new}/rename", name="app-web-1")
    api.ok("POST", f"/containers/{new}/start")
    assert ip(api, new) == address


def test_a_disconnected_container_has_its_address_again_when_it_is_connected(api: Api) -> None:
    id = start(api, "web")
    address = ip(api, id)
    api.ok("POST", "/networks/n1/disconnect", {"Container": id})
    start(api, "other")
    api.ok("POST", "/networks/n1/connect", {"Container": id})
    assert ip(api, id) == address


def test_both_families_are_kept(engine: Engine) -> None:
    api = engine.api
    network(api, "10.218.0.0/24", "fd00:218::/64", EnableIPv6=True)
    id = start(api, "web")
    before = ip(api, id), ip(api, id, "GlobalIPv6Address")
    assert all(before)
    remove(api, id)
    start(api, "other")
    id = start(api, "web")
    assert (ip(api, id), ip(api, id, "GlobalIPv6Address")) == before


def test_the_last_free_address_is_given_away_and_the_name_follows(engine: Engine) -> None:
    api = engine.api
    network(api, "10.217.0.0/29")  # .2 to .6 for containers
    here = asker(api, start(api, "asker"))
    first, second = start(api, "first"), start(api, "second")
    kept, longest = ip(api, second), ip(api, first)
    stop(api, first)
    stop(api, second)
    start(api, "third")
    start(api, "fourth")
    fifth = start(api, "fifth")
    assert ip(api, fifth) == longest, "of those that rest, the one that has rested longest"
    api.ok("POST", f"/containers/{second}/start")
    assert ip(api, second) == kept and here.addresses("second") == [kept]
    refused = api.send("POST", f"/containers/{first}/start")
    assert refused.status >= 400 and "no available IPv4 addresses" in refused.message
    remove(api, fifth)
    api.ok("POST", f"/containers/{first}/start")
    assert here.addresses("first") == [longest]


def test_who_asks_for_a_resting_address_gets_it_and_the_name_moves_on(api: Api) -> None:
    here = asker(api, start(api, "asker"))
    id = start(api, "web")
    address = ip(api, id)
    stop(api, id)
    taker = start(api, "taker", given=address)
    assert ip(api, taker) == address and here.addresses("taker") == [address]
    api.ok("POST", f"/containers/{id}/start")
    assert ip(api, id) != address and here.addresses("web") == [ip(api, id)]


def test_an_address_that_a_stopped_container_was_given_is_not_handed_to_others(api: Api) -> None:
    """It could not start at all without it."""
    id = start(api, "fixed", given="10.219.0.3")
    remove(api, id)
    settings = {"EndpointsConfig": {"n1": {"IPAMConfig": {"IPv4Address": "10.219.0.2"}}}}
    waiting = api.create("sleep", "1000", HostConfig={"NetworkMode": "n1"}, NetworkingConfig=settings)
    assert {ip(api, start(api, f"other{number}")) for number in range(3)}.isdisjoint({"10.219.0.2", "10.219.0.3"})
    api.ok("POST", f"/containers/{waiting}/start")
    assert ip(api, waiting) == "10.219.0.2"


def test_addresses_are_kept_over_a_restart_of_the_daemon(own_engine: Engine) -> None:
    api = own_engine.api
    network(api, SUBNET)
    id = start(api, "web")
    address = ip(api, id)
    remove(api, id)
    own_engine.kill()
    own_engine.start()
    start(api, "other")
    assert ip(api, start(api, "web")) == address
