"""Where networks get their subnets from, and how the daemon's settings shape the default bridge."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_network

import pytest

from tests.harness.api import Api
from tests.harness.engines import Engine, Pierd, engine
from tests.harness.processes import wait_until

Starter = Callable[..., Engine]


@pytest.fixture
def started(request: pytest.FixtureRequest) -> Iterator[Starter]:
    """Starts a daemon with flags, on a machine of its own."""
    with ExitStack() as stack:
        yield lambda *flags, images=True: stack.enter_context(
            engine(request.config.getoption("--engine"), flags, images=images)
        )


def create(api: Api, name: str, **config: object) -> str:
    """A network; returns its first subnet."""
    api.ok("POST", "/networks/create", {"Name": name, **config})
    return str(api.get(f"/networks/{name}")["IPAM"]["Config"][0]["Subnet"])


def bridge(api: Api) -> dict[str, dict[str, str]]:
    return {config["Subnet"]: config for config in api.get("/networks/bridge")["IPAM"]["Config"]}


def test_the_pools_that_were_given_are_used_up_in_their_order(started: Starter) -> None:
    machine = started(
        *("--default-address-pool", "base=10.200.0.0/23,size=24"),
        *("--default-address-pool", "base=10.210.0.0/24,size=24"),
        images=False,
    )
    api = machine.api
    assert [*bridge(api)] == ["10.200.0.0/24"]
    assert [create(api, "n1"), create(api, "n2")] == ["10.200.1.0/24", "10.210.0.0/24"]
    refused = api.send("POST", "/networks/create", {"Name": "n3"})
    assert refused.status >= 400
    assert "fully subnetted" in refused.message or "non-overlapping" in refused.message
    api.ok("DELETE", "/networks/n1")
    assert create(api, "n3") == "10.200.1.0/24"


@pytest.mark.only_pierhead("Docker does not say whose they are")
def test_used_up_pools_name_their_holders_and_what_helps(started: Starter) -> None:
    machine = started("--default-address-pool", "base=10.200.0.0/22,size=24", images=False)
    machine.host.ip("route", "add", "10.200.2.0/23", "via", machine.world.neighbour_address)
    create(machine.api, "n1")
    refused = machine.api.send("POST", "/networks/create", {"Name": "n2"})
    assert refused.status == 400 and "2 networks, 10.200.2.0/23 of a route through ens33" in refused.message
    assert "--subnet" in refused.message and "--default-address-pool" in refused.message


@pytest.mark.only_pierhead("Docker minds the host's own subnets alone")
def test_a_pool_that_a_route_of_the_host_leads_to_is_left_alone(started: Starter) -> None:
    machine = started(images=False)
    first = create(machine.api, "n1")
    assert first == "172.18.0.0/16"
    machine.host.ip("route", "add", "172.19.0.0/16", "via", machine.world.neighbour_address)
    machine.host.ip("route", "add", "172.20.128.0/24", "via", machine.world.neighbour_address)
    assert create(machine.api, "n2") == "172.21.0.0/16"


@pytest.mark.timeout(600)
@pytest.mark.only_pierhead("Docker has 31 networks and no more")
def test_three_hundred_networks_are_made_and_are_apart(started: Starter) -> None:
    machine = started(images=False)
    subnets = [ip_network(create(machine.api, f"n{number}")) for number in range(300)]
    assert all(not a.overlaps(b) for at, a in enumerate(subnets) for b in subnets[:at])
    assert isinstance(machine, Pierd) and len(machine.host.interfaces()) > 300
    # With the daemon they all go, in a tenth of the time that as many removals take.
    assert machine.stop() == 0
    assert machine.leftovers() == []


@pytest.mark.only_pierhead("20.10 has no IPv6 pools of its own")
def test_ipv6_subnets_come_from_the_pools_too(started: Starter) -> None:
    api = started("--default-address-pool", "base=fd00:77::/56,size=64", images=False).api
    api.ok("POST", "/networks/create", {"Name": "n1", "EnableIPv6": True})
    shown = [config["Subnet"] for config in api.get("/networks/n1")["IPAM"]["Config"]]
    assert shown == ["172.18.0.0/16", "fd00:77::/64"], "IPv4 pools that were not given are Docker's"
    api.ok("POST", "/networks/create", {"Name": "n2", "EnableIPv6": True, "EnableIPv4": False})
    assert [config["Subnet"] for config in api.get("/networks/n2")["IPAM"]["Config"]] == ["fd00:77:0:1::/64"]


def test_the_default_bridge_is_as_the_settings_want_it(started: Starter) -> None:
    machine = started(
        *("--bip", "10.99.0.1/16", "--fixed-cidr", "10.99.7.0/24", "--default-gateway", "10.99.0.254"),
        *("--mtu", "1400", "--icc=false", "--ip", "127.0.0.1"),
    )
    api = machine.api
    shown = bridge(api)["10.99.0.0/16"]
    assert (shown["Gateway"], shown["IPRange"]) == ("10.99.0.1", "10.99.7.0/24")
    assert shown["AuxiliaryAddresses"] == {"DefaultGatewayIPv4": "10.99.0.254"}
    options = api.get("/networks/bridge")["Options"]
    assert options["com.docker.network.driver.mtu"] == "1400"
    assert options["com.docker.network.bridge.enable_icc"] == "false"
    assert options["com.docker.network.bridge.host_binding_ipv4"] == "127.0.0.1"
    assert "inet 10.99.0.1/16" in machine.host.addresses()
    published = {"PortBindings": {"80/tcp": [{"HostPort": "8095"}]}}
    id = api.run("sleep", "1000", ExposedPorts={"80/tcp": {}}, HostConfig=published)
    seen = api.inspect(id)["NetworkSettings"]
    assert seen["IPAddress"].startswith("10.99.7.") and seen["Gateway"] == "10.99.0.254"
    assert seen["Ports"]["80/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": "8095"}]
    said = api.output("sh", "-c", "ip route; cat /sys/class/net/eth0/mtu")
    assert "default via 10.99.0.254" in said and said.split()[-1] == "1400"


def test_the_default_bridge_has_ipv6_where_it_is_wanted(started: Starter) -> None:
    api = started("--ipv6", "--fixed-cidr-v6", "2001:db8:77::/64").api
    assert "2001:db8:77::/64" in bridge(api) and api.get("/networks/bridge")["EnableIPv6"]
    id = api.run("sleep", "1000")
    seen = api.inspect(id)["NetworkSettings"]
    assert seen["GlobalIPv6Address"].startswith("2001:db8:77:") and seen["IPv6Gateway"] == "2001:db8:77::1"


@pytest.mark.only_pierhead("20.10 wants --fixed-cidr-v6")
def test_ipv6_on_the_default_bridge_needs_no_subnet(started: Starter) -> None:
    api = started("--ipv6").api
    id = api.run("sleep", "1000")
    assert api.inspect(id)["NetworkSettings"]["GlobalIPv6Address"].startswith("fd")
    said = api.output("cat", "/etc/hosts", HostConfig={"ExtraHosts": ["host:host-gateway"]})
    lines = [line.split("\t")[0] for line in said.splitlines() if line.endswith("\thost")]
    assert lines == ["172.17.0.1", api.inspect(id)["NetworkSettings"]["IPv6Gateway"]]


@pytest.mark.only_pierhead("it is about our file")
def test_the_settings_come_from_a_file_as_well(started: Starter) -> None:
    machine = started(images=False)
    machine.stop()
    settings = {"bip": "10.98.0.1/24", "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1390"}}}
    (machine.root / "daemon.json").write_text(json.dumps(settings))
    machine.start()
    assert [*bridge(machine.api)] == ["10.98.0.0/24"], "an unused default bridge follows its settings"
    create(machine.api, "n1")
    assert machine.api.get("/networks/n1")["Options"] == {"com.docker.network.driver.mtu": "1390"}


@pytest.mark.only_pierhead("it is about our file")
def test_a_running_daemon_reads_its_file_again(started: Starter) -> None:
    machine = started(images=False)
    settings = machine.root / "daemon.json"

    def reloaded(content: str, sign: str) -> None:
        settings.write_text(content)
        os.kill(machine.pid, signal.SIGHUP)
        assert machine.daemon is not None
        daemon = machine.daemon
        wait_until(lambda: sign in daemon.said(), f"{sign!r} in the log")

    reloaded(
        '{"default-address-pools": [{"base": "10.220.0.0/16", "size": 24}], "bip": "10.1.0.1/24"}', "reloaded: bip"
    )
    assert create(machine.api, "n1") == "10.220.0.0/24", "new networks follow at once"
    assert [*bridge(machine.api)] == ["172.17.0.0/16"], "the default bridge at the next start"
    assert machine.daemon is not None and "taken up at the next start: bip" in machine.daemon.said()
    assert machine.api.get("/info")["DefaultAddressPools"] == [{"Base": "10.220.0.0/16", "Size": 24}]
    reloaded('{"nonsense": 1}', "the settings stay as they are")
    assert create(machine.api, "n2") == "10.220.1.0/24"


@pytest.mark.only_pierhead("20.10 has no such setting for several")
def test_dns_settings_and_host_gateway_of_the_daemon_are_containers_defaults(started: Starter) -> None:
    machine = started(
        *("--dns", "192.0.2.53", "--dns-opt", "timeout:7", "--dns-search", "example.org"),
        *("--host-gateway-ip", "192.0.2.10", "--host-gateway-ip", "2001:db8::10"),
    )
    said = machine.api.output("cat", "/etc/resolv.conf")
    assert "nameserver 192.0.2.53" in said and "timeout:7" in said and "search example.org" in said
    own = {"Dns": ["192.0.2.54"], "DnsOptions": ["timeout:8"], "DnsSearch": ["example.net"]}
    said = machine.api.output("cat", "/etc/resolv.conf", HostConfig=own)
    assert "192.0.2.54" in said and "timeout:8" in said and "search example.net" in said and "example.org" not in said
    said = machine.api.output("cat", "/etc/hosts", HostConfig={"ExtraHosts": ["host:host-gateway"]})
    assert "192.0.2.10\thost" in said and "2001:db8::10\thost" in said
