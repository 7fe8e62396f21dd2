"""The course's networking chapter from end to end, with real containers and packets: by docker, by pier, by docker-py.

The engine's machine has ens33, lo and libvirt's virbr0 before the daemon starts; a neighbour stands for "another host".
`web` (busybox's httpd on port 8080, telling its own host name) stands for Tomcat.
"""

import ipaddress
import json
from collections.abc import Iterator

import pytest

from tests.harness.engines import Engine, Pierd
from tests.harness.hands import HANDS, DockerPy, Hand, Refused
from tests.harness.hands import hand as hand_named
from tests.harness.processes import wait_until

SERVER = ("sh", "-c", "echo from-inside > /www/index.html; exec httpd -f -p 8083 -h /www")


@pytest.fixture(params=HANDS)
def hand(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Hand]:
    if request.param == "pier" and engine.kind != "pierd":
        pytest.skip("pier is tested with pierd")
    made = hand_named(request.param, engine)
    yield made
    if isinstance(made, DockerPy):
        made.close()


def answers(engine: Engine, port: int, address: str = "127.0.0.1") -> str:
    """What the server behind a port of the engine's machine says to that machine itself."""
    said: list[str] = []

    def asked() -> bool:
        try:
            said.append(engine.host.http_get(address, port))
        except OSError:
            return False
        return "200 OK" in said[-1]

    wait_until(asked, f"an answer on {address}:{port}", timeout=30)
    return said[-1]


def address(hand: Hand, container: str, network: str = "bridge") -> str:
    return str(hand.inspect(container)["NetworkSettings"]["Networks"][network]["IPAddress"])


def addresses_inside(hand: Hand, container: str) -> set[str]:
    """The IPv4 addresses that a container sees on its own interfaces."""
    return {
        word.split("/")[0]
        for line in hand.execute(container, "ip", "-o", "-4", "addr").splitlines()
        for before, word in zip(line.split(), line.split()[1:], strict=False)
        if before == "inet"
    }


def test_0_before_and_after_start_the_host_keeps_its_own_interfaces_and_subnets(hand: Hand, engine: Engine) -> None:
    assert {"lo", "ens33", "virbr0"} <= engine.host.interfaces()
    assert len(engine.host.interfaces() - {"lo", "ens33", "virbr0"}) == 1, "starting adds one bridge"
    bridge = hand.inspect_network("bridge")
    pool = ipaddress.ip_network(bridge["IPAM"]["Config"][0]["Subnet"])
    assert not pool.overlaps(ipaddress.ip_network("192.168.122.0/24"))
    assert not pool.overlaps(ipaddress.ip_network("192.0.2.0/24"))
    assert answers_ping(engine, "192.168.122.1")


def answers_ping(engine: Engine, target: str) -> bool:
    return engine.host.run("busybox", "ping", "-c", "1", "-W", "5", target).status == 0


def test_1_there_are_three_networks_and_more_can_be_made(hand: Hand, engine: Engine) -> None:
    assert hand.networks() == {"bridge": "bridge", "host": "host", "none": "null"}
    bridge = hand.inspect_network("bridge")
    assert bridge["Name"] == "bridge" and bridge["Scope"] == "local"
    assert bridge["Options"]["com.docker.network.bridge.name"] in engine.host.interfaces()

    hand.create_network("own", subnet="10.123.0.0/24")
    assert hand.networks()["own"] == "bridge"
    assert hand.inspect_network("own")["IPAM"]["Config"][0]["Subnet"] == "10.123.0.0/24"
    hand.run("busybox", "sleep", "1000", name="c1")
    hand.connect("own", "c1", ip="10.123.0.77")
    assert "10.123.0.77" in addresses_inside(hand, "c1")
    assert "c1" in [member["Name"] for member in hand.inspect_network("own")["Containers"].values()]
    with pytest.raises(Refused, match="has active endpoints"):
        hand.remove_network("own")
    hand.disconnect("own", "c1")
    assert "10.123.0.77" not in addresses_inside(hand, "c1")
    hand.remove_network("own")
    with pytest.raises(Refused, match=r"not found|No such network"):
        hand.remove_network("own")
    hand.create_network("unused")
    assert hand.prune_networks() == ["unused"]
    for builtin in ("bridge", "host", "none"):
        with pytest.raises(Refused, match=f"{builtin} is a pre-defined network and cannot be removed"):
            hand.remove_network(builtin)


def test_2_bridge_each_container_has_its_own_address_and_answers_on_the_hosts_port(hand: Hand, engine: Engine) -> None:
    before = engine.host.interfaces()
    hand.run("web", name="tomcat81", ports={8081: 8080})
    hand.run("web", name="tomcat82", ports={8082: 8080})
    assert answers(engine, 8081) != answers(engine, 8082)

    first, second = address(hand, "tomcat81"), address(hand, "tomcat82")
    assert first != second
    pool = ipaddress.ip_network(hand.inspect_network("bridge")["IPAM"]["Config"][0]["Subnet"])
    assert ipaddress.ip_address(first) in pool and ipaddress.ip_address(second) in pool
    assert first in addresses_inside(hand, "tomcat81")

    new = engine.host.interfaces() - before
    assert len(new) == 2, f"a veth pair for each container, one end on the host: {new}"
    bridge = hand.inspect_network("bridge")["Options"]["com.docker.network.bridge.name"]
    for name in new:
        assert f"master {bridge}" in engine.host.ip("link", "show", name).stdout
        assert "veth" in engine.host.ip("-details", "link", "show", name).stdout

    # The host by its own address, another host, one container another by address, a container itself.
    own = engine.world.host_address
    assert "200 OK" in answers(engine, 8081, own)
    assert "200 OK" in engine.world.neighbour.http_get(own, 8082)
    assert "200 OK" in engine.host.http_get(first, 8080)
    request = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc {} {}"
    assert "200 OK" in hand.execute("tomcat82", "sh", "-c", request.format(first, 8080))
    assert "200 OK" in hand.execute("tomcat82", "sh", "-c", request.format(own, 8081))
    assert "200 OK" in hand.execute("tomcat81", "sh", "-c", request.format(own, 8081)), "its own published port"
    assert "0.0.0.0:8081->8080/tcp" in hand.ports()["tomcat81"]
    assert hand.inspect("tomcat81")["NetworkSettings"]["Ports"]["8080/tcp"][0]["HostPort"] == "8081"


def test_2_bridge_containers_reach_the_outside_and_are_seen_as_the_host(hand: Hand, engine: Engine) -> None:
    hand.run("busybox", "sleep", "1000", name="inside")
    assert "0% packet loss" in hand.execute("inside", "ping", "-c", "1", "-W", "5", engine.world.neighbour_address)


def test_2_a_port_is_free_again_when_its_container_is_gone(hand: Hand, engine: Engine) -> None:
    hand.run("web", name="one", ports={8081: 8080})
    with pytest.raises(Refused, match="port is already allocated"):
        hand.run("web", name="two", ports={8081: 8080})
    hand.remove("one")
    hand.start("two")
    assert "200 OK" in answers(engine, 8081)


def test_3_host_shares_the_hosts_interfaces_and_discards_published_ports(hand: Hand, engine: Engine) -> None:
    warnings = hand.run("web", *SERVER, name="tomcat83", ports={8083: 8080}, network="host")
    assert "Published ports are discarded when using host network mode" in warnings
    assert "from-inside" in answers(engine, 8083), "its server is on the host's own port"
    assert "from-inside" in engine.world.neighbour.http_get(engine.world.host_address, 8083)
    assert {"192.168.122.1", engine.world.host_address} <= addresses_inside(hand, "tomcat83")
    # pier also shows where its server really listens.
    assert hand.ports()["tomcat83"] == ("[::]:8083/tcp" if hand.name == "pier" else "")
    hand.remove("tomcat83")

    assert hand.run("web", *SERVER, name="tomcat83", network="host").strip().count("\n") <= 0
    assert "from-inside" in answers(engine, 8083)


def test_3_host_without_ports_there_is_no_warning(hand: Hand, engine: Engine) -> None:
    assert "WARNING" not in hand.run("busybox", "sleep", "1000", name="quiet", network="host")


def test_4_none_has_only_lo_and_takes_a_port_without_a_word(hand: Hand, engine: Engine) -> None:
    warnings = hand.run("web", name="tomcat84", ports={8084: 8080}, network="none")
    assert "WARNING" not in warnings and "discarded" not in warnings
    links = hand.execute("tomcat84", "ip", "-o", "link").splitlines()
    assert [line.split(":")[1].strip() for line in links] == ["lo"]
    assert addresses_inside(hand, "tomcat84") == {"127.0.0.1"}
    seen = hand.inspect("tomcat84")
    assert seen["NetworkSettings"]["Ports"] == {}
    assert seen["HostConfig"]["PortBindings"]["8080/tcp"][0]["HostPort"] == "8084"
    with pytest.raises(OSError):
        engine.host.connect("127.0.0.1", 8084)


@pytest.mark.needs_docker28("20.10 shows the exposed port of a container without a network")
def test_4_none_shows_no_ports_in_ps(hand: Hand, engine: Engine) -> None:
    hand.run("web", name="tomcat84", ports={8084: 8080}, network="none")
    assert hand.ports()["tomcat84"] == ""


def test_5_container_shares_anothers_interfaces_and_address(hand: Hand, engine: Engine) -> None:
    hand.run("busybox", "sleep", "1000", name="alpine1")
    hand.run("busybox", "sleep", "1000", name="alpine2", network="container:alpine1")
    assert hand.execute("alpine1", "ip", "addr") == hand.execute("alpine2", "ip", "addr")
    assert address(hand, "alpine1") in addresses_inside(hand, "alpine2")
    assert hand.execute("alpine1", "hostname") == hand.execute("alpine2", "hostname")

    with pytest.raises(Refused, match="conflicting options: port publishing and the container type network mode"):
        hand.run("busybox", "sleep", "1000", name="alpine3", ports={8085: 80}, network="container:alpine1")
    assert "alpine3" not in hand.names()

    hand.stop("alpine1")
    wait_until(lambda: addresses_inside(hand, "alpine2") == {"127.0.0.1"}, "alpine2 is left with lo")
    hand.start("alpine1")
    hand.stop("alpine2")
    hand.start("alpine2")
    assert address(hand, "alpine1") in addresses_inside(hand, "alpine2")
    assert hand.execute("alpine1", "ip", "addr") == hand.execute("alpine2", "ip", "addr")


def pings(hand: Hand, container: str, target: str) -> str:
    return hand.execute(container, "ping", "-c", "1", "-W", "5", target)


def test_6_custom_network_containers_find_each_other_by_name(hand: Hand, engine: Engine) -> None:
    hand.create_network("tomcats")
    hand.run("web", name="tomcat81", network="tomcats")
    hand.run("web", name="tomcat82", network="tomcats")
    for one, other in (("tomcat81", "tomcat82"), ("tomcat82", "tomcat81")):
        said = pings(hand, one, other)
        assert "0% packet loss" in said and address(hand, other, "tomcats") in said
    assert "127.0.0.11" in hand.execute("tomcat81", "cat", "/etc/resolv.conf")


def test_6_custom_network_a_name_follows_its_container_to_another_address(hand: Hand, engine: Engine) -> None:
    hand.create_network("tomcats", subnet="10.124.0.0/24")
    hand.run("web", name="asker", network="tomcats")
    hand.run("web", name="moved", network="tomcats", ip="10.124.0.50")
    assert "10.124.0.50" in pings(hand, "asker", "moved")
    hand.remove("moved")
    hand.run("web", name="moved", network="tomcats", ip="10.124.0.60")
    said = pings(hand, "asker", "moved")
    assert "10.124.0.60" in said and "0% packet loss" in said


def test_6_default_bridge_names_do_not_resolve(hand: Hand, engine: Engine) -> None:
    hand.run("busybox", "sleep", "1000", name="one")
    hand.run("busybox", "sleep", "1000", name="two")
    assert "0% packet loss" in pings(hand, "one", address(hand, "two"))
    assert "bad address" in pings(hand, "one", "two")


def test_6_default_bridge_reuses_the_lowest_free_address(hand: Hand, engine: Engine) -> None:
    hand.run("busybox", "sleep", "1000", name="one")
    hand.run("busybox", "sleep", "1000", name="two")
    lowest, second = address(hand, "one"), address(hand, "two")
    assert ipaddress.ip_address(lowest) < ipaddress.ip_address(second)
    hand.remove("one")
    hand.run("busybox", "sleep", "1000", name="three")
    assert address(hand, "three") == lowest


@pytest.mark.only_pierhead("the seven steps are seen in pier's trace")
def test_7_the_seven_steps_are_visible_as_they_happen(engine: Engine) -> None:
    said = engine.pier("run", "--rm", "--trace", "busybox", "true").check()
    trace = (said.stdout + said.stderr).lower()
    for step in ("client", "server", "job", "graph", "network", "exec", "libcontainer"):
        assert step in trace, f"{step} is not in the trace:\n{trace}"
    jobs = engine.pier("jobs", "--all").check().stdout
    assert "containers.create" in jobs or "create" in jobs


@pytest.mark.only_pierhead("accounts are compared with the disk")
def test_8_removed_containers_give_their_space_back(pierd: Pierd) -> None:
    def used() -> int:
        return int(pierd.host.run("du", "-s", "--block-size=1", str(pierd.data_root)).check().stdout.split()[0])

    before = used()
    pierd.docker("run", "--name", "big", "busybox", "dd", "if=/dev/zero", "of=/file", "bs=1M", "count=32").check()
    assert used() >= before + 32 * 1024 * 1024
    sizes = json.loads(pierd.docker("system", "df", "--format", "{{json .}}").check().lines[1])
    assert sizes["Type"] == "Containers" and sizes["Size"].startswith("33.5")
    pierd.docker("rm", "big").check()
    # The database file may have grown by some pages; the container's bytes are gone.
    assert used() < before + 4 * 1024 * 1024
