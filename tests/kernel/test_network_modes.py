"""A bridge network's options against real packets: from outside, from another network, from the host, in both families.

br_netfilter on and off: nothing may depend on it.
"""

import contextlib
import os
import socket
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import replace

import pytest

from pierhead.driver.networkdriver.api import Network, PortBinding
from pierhead.driver.networkdriver.bridge import BridgeDriver
from pierhead.driver.networkdriver.bridgeoptions import (
    GATEWAY_MODE,
    ICC,
    INHIBIT_IPV4,
    MASQUERADE,
    MTU,
    NAME,
    TRUSTED,
)
from pierhead.errors import PierheadError
from tests.harness.netns import Namespace, World, namespace, world
from tests.kernel.test_network_bridge import INSTANCE, Lab, Notes, ask, silent, tcp
from tests.kernel.test_network_bridge import bridge_nf as bridge_nf

HOST = {4: "192.0.2.10", 6: "2001:db8::10"}
NEIGHBOUR = {4: "192.0.2.20", 6: "2001:db8::20"}
WEB = {4: "172.31.0.2", 6: "fd00:1::2"}


@pytest.fixture(scope="module")
def outside() -> Iterator[World]:
    with world("h4m") as made:
        made.neighbour.ip("route", "add", "172.31.0.0/16", "via", HOST[4])
        made.neighbour.ip("route", "add", "fd00:1::/64", "via", HOST[6])
        yield made


@pytest.fixture
def lab(outside: World) -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        made = Lab(outside, "h4m", stack)
        stack.callback(made.end)
        yield made


def pings(client: Namespace, address: str) -> bool:
    done = subprocess.run(
        client.argv("busybox", "ping", "-c", "1", "-W", "1", address), capture_output=True, check=False
    )
    return done.returncode == 0


class Scene:
    """A container with one published and one unpublished port in a network of a mode, and everybody who may ask."""

    def __init__(self, lab: Lab, version: int, **options: str) -> None:
        self.lab, self.version = lab, version
        self.network = lab.network(1, ipv6=True, options=options)
        self.web, _ = lab.container(self.network, 2, tcp(8081, 8080))
        self.peer, _ = lab.container(self.network, 3)
        self.stranger, _ = lab.container(lab.network(2, ipv6=True), 2)
        family = {4: 2, 6: 10}[version]
        lab.serve(self.web, 8080, family=family)  # published
        lab.serve(self.web, 8090, family=family)  # not published
        lab.serve(lab.world.neighbour, 7000, family=family)

    def seen(self, expected: Collection[str]) -> set[str]:
        """Who reaches what; a short wait is enough for what is not to come."""
        asked = {
            "outside, host port": (self.lab.world.neighbour, HOST[self.version], 8081),
            "outside, container's published": (self.lab.world.neighbour, WEB[self.version], 8080),
            "outside, container's other": (self.lab.world.neighbour, WEB[self.version], 8090),
            "other network, host port": (self.stranger, HOST[self.version], 8081),
            "other network, container's published": (self.stranger, WEB[self.version], 8080),
            "other network, container's other": (self.stranger, WEB[self.version], 8090),
            "host, host port": (self.lab.host, HOST[self.version], 8081),
            "host, container's other": (self.lab.host, WEB[self.version], 8090),
            "same network, container's other": (self.peer, WEB[self.version], 8090),
        }
        return {
            what
            for what, (client, address, port) in asked.items()
            if ask(client, address, port, patience=10 if what in expected else 0.5).startswith(self.web.name)
        }

    def source(self) -> str:
        """What the neighbour sees a container as."""
        return ask(self.web, NEIGHBOUR[self.version], 7000).rpartition(" ")[2]


ALWAYS = {"host, container's other", "same network, container's other"}
REACHED = {
    "nat": ALWAYS | {"outside, host port", "other network, host port", "host, host port"},
    "nat-unprotected": ALWAYS
    | {"outside, host port", "other network, host port", "host, host port"}
    | {"outside, container's published", "outside, container's other"},
    "routed": ALWAYS | {"outside, container's published", "other network, container's published"},
}


@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("mode", list(REACHED))
def test_each_gateway_mode_lets_in_whom_docker_lets_in(lab: Lab, bridge_nf: int, mode: str, version: int) -> None:
    scene = Scene(lab, version, **{GATEWAY_MODE[version]: mode})
    assert scene.seen(REACHED[mode]) == REACHED[mode]
    assert scene.source() == (WEB[version] if mode == "routed" else HOST[version])
    assert pings(lab.world.neighbour, WEB[version]) == (mode != "nat")
    # The other family of the same network keeps its own mode.
    lab.serve(scene.web, 8082, family={4: 2, 6: 10}[10 - version])
    assert silent(lab.world.neighbour, WEB[10 - version], 8082)


def test_a_routed_networks_ports_are_opened_for_the_family_that_was_asked_for(lab: Lab) -> None:
    network = lab.network(1, ipv6=True, options={GATEWAY_MODE[4]: "routed", GATEWAY_MODE[6]: "routed"})
    web, endpoint = lab.container(network, 2, tcp(8080, 8080, "::"), tcp(8090, 8090, count=5), tcp(8092, 8092, count=9))
    for port in (8080, 8090, 8100):
        lab.serve(web, port, family=10)
    assert silent(lab.world.neighbour, WEB[4], 8080)
    assert ask(lab.world.neighbour, WEB[6], 8080).startswith(web.name)
    for version in (4, 6):
        assert ask(lab.world.neighbour, WEB[version], 8090).startswith(web.name)
        assert ask(lab.world.neighbour, WEB[version], 8100).startswith(web.name)
    lab.host.call(lambda: lab.driver.leave(network, endpoint))
    assert "172.31.0.2" not in lab.host.run("nft", "list", "ruleset").stdout


def _direct(port: int, proto: str = "tcp") -> PortBinding:
    return PortBinding(proto, port, port, WEB[6], port, port, direct=True)


def test_a_withdrawn_port_of_the_hosts_ends_connections_though_the_containers_own_stays_open(lab: Lab) -> None:
    network = lab.network(1, ipv6=True, options={GATEWAY_MODE[6]: "routed"})
    gone, kept = tcp(8080, 8080, "0.0.0.0"), tcp(8081, 8080, "0.0.0.0")
    web, endpoint = lab.container(network, 2, gone, kept, _direct(8080))
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(
            web.call(lambda: socket.create_server(("::", 8080), family=socket.AF_INET6, dualstack_ipv6=True))
        )
        ends = []
        for address, port in ((HOST[4], 8080), (HOST[4], 8081), (WEB[6], 8080)):
            client = stack.enter_context(lab.world.neighbour.connect(address, port))
            ends.append((client, stack.enter_context(listener.accept()[0])))
        without = replace(endpoint, ports=(kept, _direct(8080)))
        lab.host.call(lambda: lab.driver.publish(network, without, endpoint))
        for client, served in ends[1:]:
            client.sendall(b"?")
            served.settimeout(20)
            assert served.recv(1) == b"?"
        lost = ends[0][0]
        lost.settimeout(20)
        lost.sendall(b"?")
        with pytest.raises(ConnectionResetError):
            lost.recv(1)


def test_a_port_that_is_open_at_the_containers_own_address_breaks_nobodys_flows_to_that_number(lab: Lab) -> None:
    asking, _ = lab.container(lab.network(2, ipv6=True), 2)

    def bound(address: str) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(20)
        made.bind((address, 5353 if address else 0))
        return made

    with lab.world.neighbour.call(lambda: bound(NEIGHBOUR[4])) as resolver, asking.call(lambda: bound("")) as client:
        client.sendto(b"?", (NEIGHBOUR[4], 5353))
        _, asker = resolver.recvfrom(1)
        routed = lab.network(1, ipv6=True, options={GATEWAY_MODE[4]: "routed", GATEWAY_MODE[6]: "routed"})
        lab.container(routed, 2, _direct(5353, "udp"))
        resolver.sendto(b"!", asker)
        assert client.recv(1) == b"!"


def test_the_host_itself_is_not_on_an_isolated_network(lab: Lab, bridge_nf: int) -> None:
    options = {GATEWAY_MODE[4]: "isolated", GATEWAY_MODE[6]: "isolated"}
    network = lab.network(1, ipv6=True, internal=True, options=options)
    a, _ = lab.container(network, 2)
    b, _ = lab.container(network, 3)
    lab.serve(b)
    lab.serve(lab.host, 6000)
    assert ask(a, "172.31.0.3", 8080).startswith(b.name)
    assert "172.31." not in lab.host.addresses() and "fd00:1:" not in lab.host.addresses()
    assert silent(a, "172.31.0.1", 6000)
    a.ip("route", "add", "default", "via", "172.31.0.3")
    assert silent(a, HOST[4], 6000)


def test_an_internal_networks_containers_reach_the_host_at_the_bridge_alone(lab: Lab, bridge_nf: int) -> None:
    a, _ = lab.container(lab.network(1, internal=True), 2)
    lab.serve(lab.host, 6000)
    assert ask(a, "172.31.0.1", 6000).startswith(lab.host.name)
    a.ip("route", "add", "default", "via", "172.31.0.1")
    assert silent(a, HOST[4], 6000)


def test_with_inhibit_ipv4_the_bridge_has_no_ipv4_address_and_keeps_what_its_owner_gave_it(lab: Lab) -> None:
    network = lab.network(1, ipv6=True, options={INHIBIT_IPV4: "true"})
    bridge = f"br-{network.id[:12]}"
    a, _ = lab.container(network, 2)
    router, _ = lab.container(network, 9)
    shown = lab.host.ip("addr", "show", bridge).stdout
    assert "172.31." not in shown and "fd00:1::1" in shown
    assert "default via 172.31.0.1" in a.ip("route").stdout, "the gateway is somebody else on the bridge"
    lab.host.ip("addr", "add", "172.31.9.9/16", "dev", bridge)
    lab.host.call(lambda: lab.driver.create(network))
    assert "172.31.9.9/16" in lab.host.ip("addr", "show", bridge).stdout
    router.ip("addr", "add", "172.31.0.1/16", "dev", "eth0")
    lab.serve(router)
    assert ask(a, "172.31.0.1", 8080).startswith(router.name)


def test_trusted_interfaces_reach_published_ports_at_the_containers_own_address(lab: Lab, bridge_nf: int) -> None:
    scene = Scene(lab, 4, **{TRUSTED: "lan7:ens33"})
    wanted = REACHED["nat"] | {"outside, container's published"}
    assert scene.seen(wanted) == wanted
    assert scene.source() == HOST[4], "trust is not a route: what leaves is still masqueraded"


def test_without_masquerading_containers_are_seen_by_their_own_address(lab: Lab, bridge_nf: int) -> None:
    scene = Scene(lab, 4, **{MASQUERADE: "false"})
    assert scene.source() == WEB[4]
    assert scene.seen(REACHED["nat"]) == REACHED["nat"]


def test_without_icc_only_published_ports_of_other_networks_are_reached(lab: Lab, bridge_nf: int) -> None:
    scene = Scene(lab, 4, **{ICC: "false"})
    wanted = REACHED["nat"] - {"same network, container's other"}
    assert scene.seen(wanted) == wanted and scene.source() == HOST[4]


def test_a_networks_mtu_is_the_way_outs_unless_it_is_given(lab: Lab) -> None:
    given = lab.network(1, options={MTU: "1280"})
    a, _ = lab.container(given, 2)
    assert "mtu 1280" in a.ip("link", "show", "eth0").stdout
    lab.host.ip("link", "set", "ens33", "mtu", "1420")
    try:
        follows = lab.network(2)
        b, _ = lab.container(follows, 2)
        assert "mtu 1420" in b.ip("link", "show", "eth0").stdout
        assert "mtu 1420" in lab.host.ip("link", "show", f"br-{follows.id[:12]}").stdout
        lab.host.ip("link", "set", "ens33", "mtu", "1400")
        lab.host.call(lambda: lab.driver.create(follows))
        c, _ = lab.container(follows, 3)
        assert "mtu 1400" in c.ip("link", "show", "eth0").stdout
    finally:
        lab.host.ip("link", "set", "ens33", "mtu", "1500")


def test_a_bridge_name_belongs_to_one_network(lab: Lab) -> None:
    first = lab.network(1, options={NAME: "shared0"})
    second = Network("b" * 64, "second", "bridge", options={NAME: "shared0"})
    with pytest.raises(PierheadError, match="networks have same bridge name") as refused:
        lab.driver.validate(second, [first])
    assert refused.value.status == 403


# Two engines in one network namespace ---------------------------------------------------------------------------------


@pytest.fixture
def quiet_host(outside: World) -> Iterator[World]:
    """A host that did not forward before."""
    outside.host.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward").check()
    yield outside
    outside.host.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward").check()


def forwards(world: World) -> bool:
    return world.host.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout.strip() == "1"


@pytest.mark.parametrize("first_ends", ["the first", "the second"])
def test_two_engines_forward_for_both_and_the_last_one_turns_it_off(quiet_host: World, first_ends: str) -> None:
    with contextlib.ExitStack() as stack:
        labs = [
            Lab(quiet_host, "h4n", stack, instance=INSTANCE),
            Lab(quiet_host, "h4o", stack, instance="4a110c02", count=100),
        ]
        for lab in labs:
            stack.callback(lab.end)
        for number, lab in enumerate(labs):
            lab.serve(quiet_host.neighbour, 7000 + number)
        webs = []
        for number, lab in enumerate(labs):
            web, _ = lab.container(lab.network(3 + number), 2, tcp(8081 + number, 8080))
            lab.serve(web)
            webs.append(web)

        def works(number: int) -> bool:
            address = quiet_host.host_address
            return (
                ask(webs[number], quiet_host.neighbour_address, 7000) != ""
                and ask(quiet_host.neighbour, address, 8081 + number).startswith(webs[number].name)
                and ask(webs[1 - number], address, 8081 + number).startswith(webs[number].name)
            )

        assert works(0) and works(1)
        assert silent(webs[0], "172.34.0.2", 8080), "an engine's networks are apart from another's"
        going, staying = (0, 1) if first_ends == "the first" else (1, 0)
        quiet_host.host.call(labs[going].driver.clear)
        assert forwards(quiet_host)
        address = quiet_host.host_address
        assert ask(webs[staying], quiet_host.neighbour_address, 7000) != ""
        assert ask(quiet_host.neighbour, address, 8081 + staying).startswith(webs[staying].name)
        quiet_host.host.call(labs[staying].driver.clear)
        assert not forwards(quiet_host), "as it was before the first"


def test_forwarding_that_the_host_wanted_for_one_family_is_not_dropped_for_the_other(quiet_host: World) -> None:
    quiet_host.host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward").check()
    driver = BridgeDriver(INSTANCE, Notes())
    with contextlib.ExitStack() as stack:
        lab = Lab(quiet_host, "h4p", stack)
        lab.driver.close()
        lab.driver = driver
        stack.callback(lab.end)
        lab.network(1, ipv6=True)
        guest = stack.enter_context(namespace(f"h4p-guest-{os.getpid()}"))
        quiet_host.host.ip("link", "add", "vguest", "type", "veth", "peer", "name", "eth0", "netns", guest.name)
        quiet_host.host.ip("link", "set", "vguest", "master", "virbr0", "up")
        guest.ip("addr", "add", "192.168.122.5/24", "dev", "eth0")
        guest.ip("link", "set", "eth0", "up")
        guest.ip("route", "add", "default", "via", "192.168.122.1")
        quiet_host.neighbour.ip("route", "add", "192.168.122.0/24", "via", quiet_host.host_address)
        try:
            lab.serve(guest, 5000)
            assert "strangers6" in quiet_host.host.run("nft", "list", "ruleset").stdout
            assert ask(quiet_host.neighbour, "192.168.122.5", 5000).startswith(guest.name)
        finally:
            quiet_host.neighbour.ip("route", "del", "192.168.122.0/24")
