"""Macvlan and ipvlan networks as a whole: a real engine, and packets on a wire that its host and a neighbour share."""

import re
from typing import Any

import pytest

from pierhead.linux import sublinks
from tests.harness.api import frames
from tests.harness.engines import TOP, Engine, Pierd
from tests.harness.images import WEB
from tests.harness.kernel import lacking, need
from tests.harness.processes import wait_until

SUBNET = {"IPAM": {"Config": [{"Subnet": "192.0.2.0/24", "Gateway": "192.0.2.20", "IPRange": "192.0.2.128/25"}]}}
DUAL = {
    "EnableIPv6": True,
    "IPAM": {
        "Config": [
            {"Subnet": "192.0.2.0/24", "Gateway": "192.0.2.20", "IPRange": "192.0.2.128/25"},
            {"Subnet": "2001:db8::/64", "Gateway": "2001:db8::20", "IPRange": "2001:db8::8000/113"},
        ]
    },
}
ROUTED = {"IPAM": {"Config": [{"Subnet": "10.77.0.0/24"}, {"Subnet": "fd77::/64"}]}, "EnableIPv6": True}


def inside(engine: Engine, container: str, *command: str) -> str:
    """What a command says in a running container (stdout and stderr)."""
    made = engine.api.ok(
        "POST", f"/containers/{container}/exec", {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True}
    ).json["Id"]
    answer = engine.api.ok("POST", f"/exec/{made}/start", {"Detach": False, "Tty": False})
    return b"".join(payload for _, payload in frames(answer.body)).decode(errors="replace")


def network(
    engine: Engine, name: str, driver: str, *, parent: str = "ens33", config: Any = SUBNET, **options: str
) -> str:
    given = {**options, **({"parent": parent} if parent else {})}
    request = {"Name": name, "Driver": driver, "Options": given, **config}
    return str(engine.api.ok("POST", "/networks/create", request).json["Id"])


def run(engine: Engine, name: str, net: str, *command: str, **host: object) -> str:
    return engine.api.run(*(command or ("sh", "-c", WEB)), name=name, HostConfig={"NetworkMode": net, **host})


def endpoint(engine: Engine, container: str, net: str) -> Any:
    return engine.api.inspect(container)["NetworkSettings"]["Networks"][net]


def reaches(engine: Engine, container: str, target: str) -> bool:
    """Whether one of three packets comes back: the first may be lost while an address is looked for or proved."""
    said = inside(engine, container, "ping", "-c", "3", "-i", "0.2", "-W", "3", target)
    return re.search(r", [1-3] packets received", said) is not None


def neighbour_reaches(engine: Engine, address: str, port: int = 8080) -> bool:
    try:
        return "this is" in engine.world.neighbour.http_get(address, port, timeout=3)
    except OSError:
        return False


# What both drivers do -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["macvlan", "ipvlan"])
def test_a_neighbour_on_the_parents_wire_reaches_the_container_and_is_reached(engine: Engine, driver: str) -> None:
    need(driver)
    network(engine, "wire", driver, config=DUAL)
    web = run(engine, "web", "wire", "sh", "-c", WEB.replace("-p 8080", "-p [::]:8080"))
    shown = endpoint(engine, web, "wire")
    assert (shown["IPAddress"], shown["Gateway"]) == ("192.0.2.128", "192.0.2.20")
    assert (shown["GlobalIPv6Address"], shown["IPv6Gateway"]) == ("2001:db8::8000", "2001:db8::20")
    assert bool(shown["MacAddress"]) == (driver == "macvlan")
    wait_until(lambda: neighbour_reaches(engine, "192.0.2.128"), "an answer")
    wait_until(lambda: neighbour_reaches(engine, "2001:db8::8000"), "an answer by IPv6")
    assert reaches(engine, web, "192.0.2.20") and reaches(engine, web, "2001:db8::20")
    routes = inside(engine, web, "ip", "route") + inside(engine, web, "ip", "-6", "route")
    assert "default via 192.0.2.20 dev eth0" in routes and "default via 2001:db8::20 dev eth0" in routes


@pytest.mark.parametrize("driver", ["macvlan", "ipvlan"])
def test_containers_find_each_other_by_name_and_address(engine: Engine, driver: str) -> None:
    need(driver)
    network(engine, "wire", driver, config=DUAL)
    run(engine, "one", "wire", "sleep", "1000")
    two = run(engine, "two", "wire", "sleep", "1000")
    assert "nameserver 127.0.0.11" in inside(engine, two, "cat", "/etc/resolv.conf")
    assert reaches(engine, two, "one") and reaches(engine, two, "192.0.2.128")
    assert reaches(engine, two, "2001:db8::8000")


@pytest.mark.parametrize("driver", ["macvlan", "ipvlan"])
def test_a_running_container_is_connected_and_disconnected(engine: Engine, driver: str) -> None:
    need(driver)
    network(engine, "wire", driver)
    plain = engine.api.run("sh", "-c", WEB, name="plain")
    engine.api.ok("POST", "/networks/wire/connect", {"Container": plain})
    assert "192.0.2.128" in inside(engine, plain, "ip", "addr", "show", "eth1")
    wait_until(lambda: neighbour_reaches(engine, "192.0.2.128"), "an answer")
    engine.api.ok("POST", "/networks/wire/disconnect", {"Container": plain})
    assert "eth1" not in inside(engine, plain, "ip", "addr")
    assert not neighbour_reaches(engine, "192.0.2.128")
    engine.api.ok("POST", "/networks/wire/connect", {"Container": plain})
    assert "192.0.2.128" in inside(engine, plain, "ip", "addr", "show", "eth1")
    engine.api.ok("POST", "/networks/bridge/disconnect", {"Container": plain})
    assert "default via 192.0.2.20 dev eth1" in inside(engine, plain, "ip", "route")


@pytest.mark.parametrize("driver", ["macvlan", "ipvlan"])
def test_a_container_starts_again_with_its_address_as_soon_as_it_has_ended(engine: Engine, driver: str) -> None:
    need(driver)
    network(engine, "wire", driver)
    web = run(engine, "again", "wire", "sleep", "1000")
    for _ in range(3):
        engine.api.ok("POST", f"/containers/{web}/restart", t=0)
        assert endpoint(engine, web, "wire")["IPAddress"] == "192.0.2.128"
        assert reaches(engine, web, "192.0.2.20")


@pytest.mark.parametrize("driver", ["macvlan", "ipvlan"])
def test_published_ports_are_neither_programmed_nor_shown(engine: Engine, driver: str) -> None:
    need(driver)
    network(engine, "wire", driver)
    web = run(engine, "web", "wire", PortBindings={"8080/tcp": [{"HostPort": "8081"}]})
    wait_until(lambda: neighbour_reaches(engine, "192.0.2.128"), "an answer")
    assert not neighbour_reaches(engine, engine.world.host_address, 8081)
    assert engine.api.inspect(web)["NetworkSettings"]["Ports"] == {}
    assert engine.api.get("/containers/json")[0]["Ports"] == []
    assert f"{driver} driver does not support port mappings" in engine.log.read_text()
    other = engine.api.run(
        "sh", "-c", WEB, name="other", HostConfig={"PortBindings": {"8080/tcp": [{"HostPort": "8081"}]}}
    )
    wait_until(lambda: neighbour_reaches(engine, engine.world.host_address, 8081), "the other's answer")
    assert engine.api.inspect(other)["NetworkSettings"]["Ports"]["8080/tcp"]


@pytest.mark.parametrize("driver", ["macvlan", "ipvlan"])
def test_an_internal_network_has_no_way_out_and_asks_nobody(engine: Engine, driver: str) -> None:
    need(driver)
    network(engine, "closed", driver, config={**SUBNET, "Internal": True})
    one = run(engine, "one", "closed", "sleep", "1000")
    run(engine, "two", "closed", "sleep", "1000")
    assert "default" not in inside(engine, one, "ip", "route")
    assert endpoint(engine, one, "closed")["Gateway"] == ""
    assert reaches(engine, one, "two")


@pytest.mark.parametrize("driver", ["macvlan", "ipvlan"])
def test_without_a_parent_containers_reach_each_other_only(engine: Engine, driver: str) -> None:
    need(driver, "dummy")
    id = network(engine, "alone", driver, parent="", config={})
    made = {"macvlan": "dm-", "ipvlan": "di-"}[driver] + id[:12]
    assert made in engine.host.interfaces()
    one = run(engine, "one", "alone", "sleep", "1000")
    run(engine, "two", "alone", "sleep", "1000")
    assert reaches(engine, one, "two")
    assert "default" not in inside(engine, one, "ip", "route")
    engine.host.ip("link", "delete", made)  # somebody takes it away: the next start makes it again
    engine.api.ok("POST", f"/containers/{one}/restart", t=0)
    assert made in engine.host.interfaces()
    engine.forget()
    assert made not in engine.host.interfaces()


@pytest.mark.parametrize("driver", ["macvlan", "ipvlan"])
def test_a_vlan_is_made_and_goes_with_the_last_network_on_it(engine: Engine, driver: str) -> None:
    need(driver, "vlan")
    neighbour = engine.world.neighbour
    neighbour.ip("link", "add", "link", "ens33", "name", "ens33.7", "type", "vlan", "id", "7")
    neighbour.ip("addr", "add", "10.7.0.1/24", "dev", "ens33.7")
    neighbour.ip("link", "set", "ens33.7", "up")
    try:
        config = {"IPAM": {"Config": [{"Subnet": "10.7.0.0/24"}]}}
        network(engine, "seven", driver, parent="ens33.7", config=config)
        assert "vlan protocol 802.1Q id 7" in engine.host.ip("-d", "link", "show", "ens33.7").stdout
        run(engine, "web", "seven")
        wait_until(lambda: neighbour_reaches(engine, "10.7.0.2"), "an answer through the VLAN")
        if driver == "macvlan":
            network(engine, "also", driver, parent="ens33.7", config={"IPAM": {"Config": [{"Subnet": "10.8.0.0/24"}]}})
            engine.api.ok("DELETE", "/networks/also")
            assert "ens33.7" in engine.host.interfaces()
        engine.forget()
        assert "ens33.7" not in engine.host.interfaces()
    finally:
        neighbour.ip("link", "delete", "ens33.7")


def test_a_users_own_vlan_stays(engine: Engine) -> None:
    need("macvlan", "vlan")
    engine.host.ip("link", "add", "link", "ens33", "name", "ens33.9", "type", "vlan", "id", "9")
    network(engine, "nine", "macvlan", parent="ens33.9", config={})
    engine.api.ok("DELETE", "/networks/nine")
    assert "ens33.9" in engine.host.interfaces()
    engine.host.ip("link", "delete", "ens33.9")


@pytest.mark.parametrize("driver", ["macvlan", "ipvlan"])
def test_a_parent_that_vanishes_is_told_at_the_next_start(engine: Engine, driver: str) -> None:
    need(driver)
    engine.host.ip("link", "add", "usb0", "type", "veth", "peer", "name", "usb1")
    network(engine, "usb", driver, parent="usb0", config={})
    there = run(engine, "there", "usb", "sleep", "1000")
    engine.host.ip("link", "delete", "usb0")
    assert "eth0" not in inside(engine, there, "ip", "link")  # the kernel takes it away with its parent
    engine.api.ok("POST", f"/containers/{there}/stop", t=0)
    refused = engine.api.send("POST", f"/containers/{there}/start")
    assert refused.status == 500
    assert "the requested parent interface usb0 was not found on the Docker host" in refused.message
    engine.host.ip("link", "add", "usb0", "type", "veth", "peer", "name", "usb1")
    engine.api.ok("POST", f"/containers/{there}/start")
    engine.host.ip("link", "delete", "usb0")
    engine.api.ok("POST", "/networks/usb/disconnect", {"Container": there})
    engine.api.ok("DELETE", f"/containers/{there}", force=1)
    engine.api.ok("DELETE", "/networks/usb")


def test_a_joined_container_is_left_with_lo_when_the_owner_of_a_macvlan_ends(engine: Engine) -> None:
    need("macvlan")
    network(engine, "wire", "macvlan")
    run(engine, "owner", "wire", "sleep", "1000")
    guest = run(engine, "guest", "container:owner", "sleep", "1000")
    assert "192.0.2.128" in inside(engine, guest, "ip", "addr")
    engine.api.ok("POST", "/containers/owner/stop", t=0)
    wait_until(lambda: "eth0" not in inside(engine, guest, "ip", "-o", "link"), "the end of eth0")
    engine.api.ok("POST", "/containers/owner/start")
    assert endpoint(engine, "owner", "wire")["IPAddress"] == "192.0.2.128"


# Modes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "together"), [("bridge", True), ("private", False), ("vepa", False)])
def test_macvlan_modes_decide_whether_containers_reach_each_other(engine: Engine, mode: str, together: bool) -> None:
    """The neighbour's end of the cable sends no frame back, so vepa parts containers as private does."""
    need("macvlan")
    network(engine, "wire", "macvlan", macvlan_mode=mode)
    one = run(engine, "one", "wire", "sleep", "1000")
    two = run(engine, "two", "wire", "sleep", "1000")
    assert reaches(engine, one, "192.0.2.20") and reaches(engine, two, "192.0.2.20")
    assert reaches(engine, one, "two") is together


@pytest.mark.parametrize(("flag", "together"), [("bridge", True), ("private", False), ("vepa", False)])
def test_ipvlan_flags_decide_whether_containers_reach_each_other(engine: Engine, flag: str, together: bool) -> None:
    need("ipvlan")
    network(engine, "wire", "ipvlan", ipvlan_flag=flag)
    one = run(engine, "one", "wire", "sleep", "1000")
    run(engine, "two", "wire", "sleep", "1000")
    assert reaches(engine, one, "192.0.2.20")
    assert reaches(engine, one, "two") is together


def test_a_macvlan_container_is_not_the_hosts_neighbour(engine: Engine) -> None:
    """The kernel's doing, and the first surprise of everybody: docs/network-macvlan.md says what to do."""
    need("macvlan")
    network(engine, "wire", "macvlan")
    web = run(engine, "web", "wire")
    wait_until(lambda: neighbour_reaches(engine, "192.0.2.128"), "an answer")
    assert not reaches(engine, web, engine.world.host_address)
    own = "ip link add lan0 link ens33 type macvlan mode bridge; ip link set lan0 up; ip route add 192.0.2.128 dev lan0"
    assert engine.host.run("sh", "-c", own).status == 0
    assert "this is" in engine.host.http_get("192.0.2.128", 8080)
    engine.host.ip("link", "delete", "lan0")


def test_passthru_gives_the_parent_to_one_container(engine: Engine) -> None:
    need("macvlan")
    engine.host.ip("link", "add", "p0", "type", "veth", "peer", "name", "p0", "netns", engine.world.neighbour.name)
    engine.host.ip("link", "set", "p0", "up")
    engine.world.neighbour.ip("link", "set", "p0", "up")
    engine.world.neighbour.ip("addr", "add", "10.9.0.1/24", "dev", "p0")
    try:
        id = network(
            engine,
            "pass",
            "macvlan",
            parent="p0",
            config={"IPAM": {"Config": [{"Subnet": "10.9.0.0/24", "Gateway": "10.9.0.1"}]}},
            macvlan_mode="passthru",
        )
        first = run(engine, "first", "pass")
        wait_until(lambda: neighbour_reaches(engine, "10.9.0.2"), "an answer")
        second = engine.api.create("sleep", "1000", name="second", HostConfig={"NetworkMode": "pass"})
        refused = engine.api.send("POST", f"/containers/{second}/start")
        assert refused.status == 500 and "gives the parent interface p0 to one container" in refused.message
        refused = engine.api.send(
            "POST", "/networks/create", {"Name": "more", "Driver": "macvlan", "Options": {"parent": "p0"}}
        )
        assert refused.status == 500
        assert refused.message == f"macvlan network {id} is already using parent interface p0 in mode passthru"
        for _ in range(3):
            engine.api.ok("POST", f"/containers/{first}/restart", t=0)
        engine.api.ok("POST", f"/containers/{first}/stop", t=0)
        engine.api.ok("POST", f"/containers/{second}/start")
        assert reaches(engine, second, "10.9.0.1")
    finally:
        engine.forget()
        engine.host.ip("link", "delete", "p0")


@pytest.mark.parametrize("mode", ["l3", "l3s"])
def test_ipvlan_l3_routes_without_a_next_hop(engine: Engine, mode: str) -> None:
    need("ipvlan")
    neighbour = engine.world.neighbour
    network(engine, "routed", "ipvlan", config=ROUTED, ipvlan_mode=mode)
    one = run(engine, "one", "routed", "sh", "-c", WEB.replace("-p 8080", "-p [::]:8080"))
    two = run(engine, "two", "routed", "sleep", "1000")
    shown = endpoint(engine, one, "routed")
    assert (shown["IPAddress"], shown["Gateway"], shown["IPv6Gateway"]) == ("10.77.0.1", "", "")
    assert re.search(r"^default dev eth0", inside(engine, one, "ip", "route"), re.MULTILINE)
    assert re.search(r"^default dev eth0", inside(engine, one, "ip", "-6", "route"), re.MULTILINE)
    assert reaches(engine, two, "one") and reaches(engine, two, "fd77::1")
    neighbour.ip("route", "add", "10.77.0.0/24", "dev", "ens33", "via", engine.world.host_address)
    try:
        wait_until(lambda: neighbour_reaches(engine, "10.77.0.1"), "an answer by the route through the host")
        assert reaches(engine, two, "192.0.2.20")
    finally:
        neighbour.ip("route", "delete", "10.77.0.0/24")


# Restarts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["macvlan", "ipvlan"])
def test_a_killed_daemon_finds_containers_and_parents_again(pierd: Pierd, driver: str) -> None:
    need(driver)
    vlan = pierd.host.call(lambda: sublinks.supported("vlan"))
    network(pierd, "wire", driver)
    web = run(pierd, "web", "wire")
    if vlan:
        network(pierd, "seven", driver, parent="ens33.7", config={})
    wait_until(lambda: neighbour_reaches(pierd, "192.0.2.128"), "an answer")
    pierd.kill()
    assert neighbour_reaches(pierd, "192.0.2.128")
    if vlan:
        pierd.host.ip("link", "delete", "ens33.7")
    pierd.start()
    assert neighbour_reaches(pierd, "192.0.2.128")
    assert ("ens33.7" in pierd.host.interfaces()) is vlan
    other = run(pierd, "other", "wire", "sleep", "1000")
    assert endpoint(pierd, other, "wire")["IPAddress"] == "192.0.2.129"
    assert reaches(pierd, other, "web")
    pierd.api.ok("DELETE", f"/containers/{web}", force=1)
    assert not neighbour_reaches(pierd, "192.0.2.128")


def test_a_daemon_starts_where_a_parent_has_gone(pierd: Pierd) -> None:
    need("macvlan")
    pierd.host.ip("link", "add", "usb0", "type", "veth", "peer", "name", "usb1")
    network(pierd, "usb", "macvlan", parent="usb0", config={})
    pierd.stop()
    pierd.host.ip("link", "delete", "usb0")
    pierd.start()
    assert "network usb has no parent" in pierd.log.read_text()
    pierd.api.ok("DELETE", "/networks/usb")


# Errors ---------------------------------------------------------------------------------------------------------------


def test_a_kernel_without_ipvlan_says_so_when_the_network_is_made(engine: Engine) -> None:
    if not lacking("ipvlan"):
        pytest.skip("this kernel has ipvlan")
    refused = engine.api.send("POST", "/networks/create", {"Name": "no", "Driver": "ipvlan", **SUBNET})
    assert refused.status == 500 and "this kernel has no ipvlan (modprobe ipvlan)" in refused.message
    assert {one["Name"] for one in engine.api.get("/networks")} == {"bridge", "host", "none"}


def test_the_doctor_names_what_networks_need_and_the_kernel_lacks(engine: Engine) -> None:
    said = engine.host.run(str(TOP / ".venv/bin/pierd"), "--doctor").stdout
    [line] = [line for line in said.splitlines() if line.split()[1] == "links"]
    for kind in ("macvlan", "ipvlan", "vlan"):
        there = engine.host.call(lambda kind=kind: sublinks.supported(kind))  # type: ignore[misc]
        assert there is not (f" {kind}," in line or f" {kind} (" in line), line


def test_info_names_the_drivers(engine: Engine) -> None:
    assert engine.api.get("/info")["Plugins"]["Network"] == ["bridge", "host", "ipvlan", "macvlan", "null"]
