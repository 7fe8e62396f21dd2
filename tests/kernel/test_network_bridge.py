"""The bridge driver against real packets: a host with a neighbour, containers as bare namespaces."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import Path

import pytest

from pierhead.driver.networkdriver import marks
from pierhead.driver.networkdriver.api import Endpoint, Network, Pool, PortBinding
from pierhead.driver.networkdriver.bridge import BridgeDriver
from pierhead.driver.networkdriver.bridgeoptions import ICC, NAME
from tests.harness.joining import join
from tests.harness.kernel import need
from tests.harness.netns import Namespace, World, namespace, world
from tests.harness.processes import DEADLINE

INSTANCE = "4a110c01"


class Notes:
    """GraphDB's meta table, as the driver sees it."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def meta(self, key: str) -> str | None:
        return self.values.get(key)

    def set_meta(self, key: str, value: str) -> None:
        self.values[key] = value


@dataclass
class Lab:
    """One engine's driver on the world's host."""

    world: World
    prefix: str
    stack: contextlib.ExitStack
    notes: Notes = field(default_factory=Notes)
    count: int = 0
    instance: str = INSTANCE

    def __post_init__(self) -> None:
        self.driver = BridgeDriver(self.instance, self.notes)
        self.host = self.world.host

    def end(self) -> None:
        self.host.call(self.driver.clear)
        self.driver.close()

    def network(self, number: int, **options: object) -> Network:
        """A network 172.(30 + number).0.0/16, made."""
        pools: tuple[Pool, ...] = (
            Pool(IPv4Network(f"172.{30 + number}.0.0/16"), IPv4Address(f"172.{30 + number}.0.1")),
        )
        if options.get("ipv6"):
            pools += (Pool(IPv6Network(f"fd00:{number}::/64"), IPv6Address(f"fd00:{number}::1")),)
        given = {"name": f"net{number}", "options": {}, **options}
        if number == 0:
            given["options"] = {NAME: "docker0", **given["options"]}  # type: ignore[dict-item]
        network = Network(f"{number:x}abc".ljust(64, "0"), driver="bridge", pools=pools, **given)  # type: ignore[arg-type]
        self.host.call(lambda: self.driver.create(network))
        return network

    def container(self, network: Network, last: int, *ports: PortBinding) -> tuple[Namespace, Endpoint]:
        """A namespace with an endpoint in the network, joined and published."""
        self.count += 1
        container = self.stack.enter_context(namespace(f"{self.prefix}-c{self.count}"))
        v4 = next(pool.subnet for pool in network.pools if pool.subnet.version == 4)
        v6 = [pool.subnet for pool in network.pools if pool.subnet.version == 6]
        endpoint = Endpoint(
            id=f"{self.count:08x}".ljust(64, "e"),
            network_id=network.id,
            container_id=f"{self.count:064x}",
            interface="eth0",
            mac=f"02:42:ac:1e:{self.count:02x}:{last:02x}",
            ipv4=IPv4Interface(f"{v4.network_address + last}/{v4.prefixlen}"),
            ipv6=IPv6Interface(f"{v6[0].network_address + last}/64") if v6 else None,
            ports=ports,
        )
        setup = self.host.call(lambda: self.driver.plan(network, endpoint))
        join(self.host, container, setup)
        self.host.call(lambda: self.driver.publish(network, endpoint))
        return container, endpoint

    def serve(self, container: Namespace, port: int = 8080, proto: str = "tcp", family: int = socket.AF_INET) -> None:
        """A server that answers "name peer-address" on every address of the container (or of the host)."""
        kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM

        def bound() -> socket.socket:
            server = socket.socket(family, kind)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
            return server

        server = container.call(bound)
        if proto == "tcp":
            server.listen(16)
        stop = threading.Event()
        server.settimeout(0.1)

        def run() -> None:
            while not stop.is_set():
                try:
                    if proto == "tcp":
                        connection, peer = server.accept()
                        with connection:
                            connection.sendall(f"{container.name} {peer[0]}".encode())
                    else:
                        _, peer = server.recvfrom(100)
                        server.sendto(f"{container.name} {peer[0]}".encode(), peer)
                except TimeoutError:
                    continue
                except OSError:
                    return

        thread = threading.Thread(target=run)
        thread.start()

        def end() -> None:
            stop.set()
            thread.join()
            server.close()

        self.stack.callback(end)


def ask(client: Namespace, address: str, port: int, proto: str = "tcp", patience: float = DEADLINE / 12) -> str:
    """The server's answer, or "" (refused, unreachable, or silence for ``patience`` seconds)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def work() -> str:
        kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
        with socket.socket(family, kind) as sock:
            sock.settimeout(patience)
            try:
                sock.connect((address, port))
                if proto == "udp":
                    sock.send(b"?")
                return sock.recv(200).decode()
            except OSError:
                return ""

    return client.call(work)


def silent(client: Namespace, address: str, port: int, proto: str = "tcp") -> bool:
    """Nothing answers: a short wait is enough, for what gets through does so in well under a millisecond."""
    return ask(client, address, port, proto, patience=0.5) == ""


def tcp(host: int, container: int, ip: str = "", count: int = 1, proto: str = "tcp") -> PortBinding:
    return PortBinding(proto, container, container + count - 1, ip, host, host + count - 1)


@pytest.fixture(scope="module")
def outside() -> Iterator[World]:
    with world("h4b") as made:
        yield made


@pytest.fixture
def lab(outside: World) -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        made = Lab(outside, "h4b", stack)
        stack.callback(made.end)
        yield made


@pytest.fixture(params=[0, 1], ids=["br_netfilter off", "br_netfilter on"])
def bridge_nf(request: pytest.FixtureRequest, outside: World) -> Iterator[int]:
    """Bridged frames pass the IP hooks, or do not; nothing may depend on it."""
    files = [Path(f"/proc/sys/net/bridge/bridge-nf-call-{name}") for name in ("iptables", "ip6tables")]

    def write(value: int) -> Callable[[], None]:
        def work() -> None:
            for file in files:
                file.write_text(str(value))

        return work

    if not outside.host.call(files[0].exists):
        if request.param:
            need("br_netfilter")
        yield 0
        return
    outside.host.call(write(request.param))
    yield request.param
    outside.host.call(write(0))


def test_a_published_port_answers_everyone_who_may_ask(lab: Lab, bridge_nf: int) -> None:
    network = lab.network(0)
    web, _ = lab.container(network, 2, tcp(8081, 8080), tcp(9053, 53, proto="udp"))
    other, _ = lab.container(network, 3, tcp(8082, 8080))
    lab.serve(web)
    lab.serve(web, 53, "udp")
    lab.serve(other)
    address = lab.world.host_address
    assert ask(lab.world.neighbour, address, 8081) == f"{web.name} {lab.world.neighbour_address}"
    assert ask(lab.world.neighbour, address, 8082).startswith(other.name)
    assert ask(lab.world.neighbour, address, 9053, "udp") == f"{web.name} {lab.world.neighbour_address}"
    assert ask(lab.host, "127.0.0.1", 8081) == f"{web.name} 172.30.0.1"
    assert ask(lab.host, "127.0.0.1", 9053, "udp").startswith(web.name)
    assert ask(lab.host, address, 8081).startswith(web.name)
    assert ask(lab.host, "172.30.0.1", 8081).startswith(web.name)
    assert ask(other, address, 8081) == f"{web.name} 172.30.0.1", "from the same bridge"
    assert ask(web, address, 8081) == f"{web.name} 172.30.0.1", "a container to itself (hairpin)"
    assert ask(other, "172.30.0.2", 8080) == f"{web.name} 172.30.0.3", "directly, on the bridge"
    assert ask(lab.host, "172.30.0.2", 8080).startswith(web.name), "the host, to the container's address"
    assert silent(lab.world.neighbour, address, 8083)


def test_containers_reach_the_outside_and_are_seen_as_the_host(lab: Lab, bridge_nf: int) -> None:
    client, _ = lab.container(lab.network(0), 2)
    lab.serve(lab.world.neighbour, 7000)
    lab.serve(lab.world.neighbour, 7001, "udp")
    assert ask(client, lab.world.neighbour_address, 7000) == f"{lab.world.neighbour.name} {lab.world.host_address}"
    assert ask(client, lab.world.neighbour_address, 7001, "udp").endswith(lab.world.host_address)


def test_networks_cannot_see_each_other_but_reach_what_is_published(lab: Lab, bridge_nf: int) -> None:
    a, _ = lab.container(lab.network(0), 2)
    second = lab.network(1)
    b, endpoint = lab.container(second, 2, tcp(8081, 8080))
    lab.serve(b)
    lab.serve(b, 8090)
    assert silent(a, "172.31.0.2", 8080)
    assert silent(a, "172.31.0.2", 8090)
    assert ask(a, lab.world.host_address, 8081).startswith(b.name)
    lab.host.call(lambda: lab.driver.leave(second, endpoint))
    assert silent(a, lab.world.host_address, 8081)
    assert silent(lab.world.neighbour, lab.world.host_address, 8081)


def test_an_internal_network_has_no_way_out_or_in(lab: Lab, bridge_nf: int) -> None:
    network = lab.network(1, internal=True)
    a, _ = lab.container(network, 2)
    b, _ = lab.container(network, 3, tcp(8081, 8080))
    lab.serve(b)
    lab.serve(lab.world.neighbour, 7000)
    assert ask(a, "172.31.0.3", 8080).startswith(b.name)
    a.ip("route", "add", "default", "via", "172.31.0.1")  # whoever may add routes inside still stays inside
    assert silent(a, lab.world.neighbour_address, 7000)
    assert silent(a, lab.world.host_address, 8081)
    assert silent(lab.world.neighbour, lab.world.host_address, 8081)


def test_without_icc_containers_of_one_bridge_are_apart(lab: Lab, bridge_nf: int) -> None:
    network = lab.network(1, options={ICC: "false"})
    a, _ = lab.container(network, 2)
    b, _ = lab.container(network, 3, tcp(8081, 8080))
    lab.serve(b)
    assert silent(a, "172.31.0.3", 8080)
    assert ask(lab.world.neighbour, lab.world.host_address, 8081).startswith(b.name)
    # Through the gateway instead of directly.
    a.ip("route", "add", "172.31.0.3", "via", "172.31.0.1")
    assert silent(a, "172.31.0.3", 8080)


def test_unpublished_and_loopback_ports_are_not_reachable_by_neighbours(lab: Lab) -> None:
    """CVE-2020-8558's class: on the same segment anybody may route to a container or to 127.0.0.1 through us."""
    web, _ = lab.container(lab.network(0), 2, tcp(8081, 8080, "127.0.0.1"), tcp(9081, 8080, "127.0.0.1", proto="udp"))
    lab.serve(web)
    lab.serve(web, 8080, "udp")
    lab.serve(lab.host, 6000)
    neighbour = lab.world.neighbour
    neighbour.ip("route", "add", "172.30.0.0/16", "via", lab.world.host_address)
    mac = (
        lab.host.run("cat", "/proc/net/arp")
        and lab.host.ip("-o", "link", "show", "ens33").stdout.split("link/ether ")[1][:17]
    )
    # A packet for 127.0.0.1 on the wire: the neighbour routes it to our MAC.
    neighbour.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet")
    neighbour.ip("neigh", "replace", "192.0.2.99", "lladdr", mac, "dev", "ens33")
    neighbour.ip("addr", "del", "127.0.0.1/8", "dev", "lo")
    neighbour.ip("route", "add", "127.0.0.1/32", "via", "192.0.2.99", "dev", "ens33", "src", "192.0.2.20", "onlink")
    try:
        for proto in ("tcp", "udp"):
            assert silent(neighbour, "172.30.0.2", 8080, proto)
            port = 8081 if proto == "tcp" else 9081
            assert silent(neighbour, "127.0.0.1", port, proto)
            assert silent(neighbour, lab.world.host_address, port, proto)
            assert ask(lab.host, "127.0.0.1", port, proto).startswith(web.name)
        assert silent(neighbour, "127.0.0.1", 6000)
    finally:
        neighbour.ip("route", "del", "127.0.0.1/32", "dev", "ens33")
        neighbour.ip("route", "del", "172.30.0.0/16")
        neighbour.ip("addr", "add", "127.0.0.1/8", "dev", "lo")


def send_to_loopback(lab: Lab, container: Namespace, bridge: str) -> None:
    """Let a container's packets for 127.0.0.1 go out to its bridge's MAC address, as NET_RAW can."""
    mac = lab.host.ip("-o", "link", "show", bridge).stdout.split("link/ether ")[1][:17]
    container.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet")
    container.ip("addr", "del", "127.0.0.1/8", "dev", "lo")
    container.ip("neigh", "replace", "172.30.9.9", "lladdr", mac, "dev", "eth0")
    route = ("127.0.0.1/32", "via", "172.30.9.9", "dev", "eth0", "src", "172.30.0.2", "onlink")
    container.ip("route", "add", *route)


def test_a_container_does_not_reach_the_hosts_loopback(lab: Lab) -> None:
    a, _ = lab.container(lab.network(0), 2)
    lab.serve(lab.host, 6000)
    send_to_loopback(lab, a, "docker0")
    assert silent(a, "127.0.0.1", 6000)
    assert ask(a, "172.30.0.1", 6000).startswith(lab.host.name)


def test_what_must_not_be_missing_for_a_moment_is_put_back_at_once(lab: Lab) -> None:
    """Between a foreign flush and the loading of all rules: loopback is closed, known connections are translated."""
    network = lab.network(0)
    a, _ = lab.container(network, 2)
    web, _ = lab.container(network, 3, tcp(8081, 8080))
    lab.serve(lab.host, 6000)
    listener = web.call(lambda: socket.create_server(("", 8080)))
    client = lab.world.neighbour.connect(lab.world.host_address, 8081)
    with listener, client, listener.accept()[0] as server:
        send_to_loopback(lab, a, "docker0")
        lab.host.run("nft", "flush", "ruleset").check()
        assert ask(a, "127.0.0.1", 6000) != "", "without any rule it is open: this test sees something"
        lab.host.call(lab.driver.guard)
        assert silent(a, "127.0.0.1", 6000)
        client.sendall(b"still there")
        server.settimeout(10)
        assert server.recv(100) == b"still there"
        server.sendall(b"yes")
        client.settimeout(10)
        assert client.recv(100) == b"yes"
    late, endpoint = lab.container(network, 4, tcp(8082, 8080))  # a start goes on: its port comes with the rules
    lab.serve(late)
    lab.host.call(lambda: lab.driver.reconcile([(network, [endpoint])]))
    assert ask(lab.world.neighbour, lab.world.host_address, 8082).startswith(late.name)
    lab.host.call(lambda: lab.driver.reconcile([(network, [])]))
    assert lab.host.call(lambda: lab.driver.damage([(network, [])], rules=True)) == ()


def test_ranges_keep_or_shift_their_numbers(lab: Lab) -> None:
    web, _ = lab.container(lab.network(0), 2, tcp(8100, 8100, count=50), tcp(18082, 8102, count=3))
    for port in (8100, 8102, 8103, 8104, 8149):
        lab.serve(web, port)
    neighbour, address = lab.world.neighbour, lab.world.host_address
    for port in (8100, 8149, 18082, 18083, 18084):
        assert ask(neighbour, address, port).startswith(web.name), port
    assert silent(neighbour, address, 8150)
    assert silent(neighbour, address, 18085)


def test_ipv6_networks_publish_on_ipv6(lab: Lab, bridge_nf: int) -> None:
    network = lab.network(1, ipv6=True)
    web, _ = lab.container(network, 2, tcp(8081, 8080), tcp(8083, 8083, count=3))
    other, _ = lab.container(network, 3)
    lab.serve(web, 8080, family=socket.AF_INET6)
    lab.serve(web, 8084, family=socket.AF_INET6)
    lab.serve(lab.world.neighbour, 7000, family=socket.AF_INET6)
    assert ask(lab.world.neighbour, "2001:db8::10", 8081).startswith(web.name)
    assert ask(lab.world.neighbour, "2001:db8::10", 8084).startswith(web.name)
    assert ask(lab.world.neighbour, lab.world.host_address, 8081).startswith(web.name)
    assert ask(other, "2001:db8::10", 8081).startswith(web.name)
    assert ask(web, "2001:db8::10", 8081).startswith(web.name)
    assert ask(other, "fd00:1::2", 8080) == f"{web.name} fd00:1::3"
    assert ask(other, "2001:db8::20", 7000) == f"{lab.world.neighbour.name} 2001:db8::10"


def test_an_ipv4_network_has_no_ipv6_at_all(lab: Lab) -> None:
    """CVE-2024-32473, CVE-2020-13401: a link-local address is a way past an IPv4-only policy; so is a router that a
    container advertises."""
    a, endpoint = lab.container(lab.network(0), 2)
    assert "inet6" not in a.ip("addr", "show", "eth0").stdout
    assert "inet6" not in lab.host.ip("addr", "show", "docker0").stdout
    assert "inet6" not in lab.host.ip("addr", "show", marks.host_link(endpoint.id)).stdout
    assert lab.host.run("cat", "/proc/sys/net/ipv6/conf/docker0/accept_ra").stdout.strip() == "0"


@pytest.mark.parametrize("by_filter", [True, False], ids=["by a filter", "one by one, as Linux 6.1 needs it"])
def test_a_next_owner_of_an_address_inherits_no_connection(
    lab: Lab, by_filter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not by_filter:
        monkeypatch.setattr(lab.driver._firewall._conntrack, "_by_filter", False)
    network = lab.network(0)
    old, endpoint = lab.container(network, 2, tcp(9053, 53, proto="udp"))
    web, _ = lab.container(network, 3)
    lab.serve(old, 53, "udp")
    lab.serve(web, 53, "udp")

    def flow() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(5)
        made.connect((lab.world.host_address, 9053))
        made.send(b"?")
        assert made.recv(100).decode().startswith(old.name)
        return made

    with lab.world.neighbour.call(flow) as running:
        lab.host.call(lambda: lab.driver.leave(network, endpoint))
        moved = Endpoint(
            "f" * 64,
            network.id,
            "f" * 64,
            "eth0",
            "02:42:ac:1e:00:03",
            IPv4Interface("172.30.0.3/16"),
            ports=(tcp(9053, 53, proto="udp"),),
        )
        lab.host.call(lambda: lab.driver.publish(network, moved))
        running.send(b"?")
        assert running.recv(100).decode().startswith(web.name)


def test_starting_and_ending_leaves_the_host_as_it_was(outside: World) -> None:
    before = (outside.host.interfaces(), outside.host.tables(), outside.host.addresses())
    with contextlib.ExitStack() as stack:
        lab = Lab(outside, "h4e", stack)
        stack.callback(lab.end)
        outside.host.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
        network = lab.network(0)
        assert outside.host.interfaces() - before[0] == {"docker0"}
        assert outside.host.tables() - before[1] == {f"inet pierhead-{INSTANCE}"}
        assert outside.host.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout.strip() == "1"
        lab.container(network, 2, tcp(8081, 8080))
        outside.host.call(lab.driver.clear)
        outside.host.call(lab.driver.clear)
    assert (outside.host.interfaces(), outside.host.tables(), outside.host.addresses()) == before
    assert outside.host.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout.strip() == "0"


def test_a_host_that_did_not_forward_forwards_for_nobody_else(outside: World) -> None:
    with contextlib.ExitStack() as stack:
        lab = Lab(outside, "h4f", stack)
        stack.callback(lab.end)
        outside.host.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
        lab.network(0)
        guest = stack.enter_context(namespace(f"h4f-guest-{os.getpid()}"))
        outside.host.ip("link", "add", "vguest", "type", "veth", "peer", "name", "eth0", "netns", guest.name)
        outside.host.ip("link", "set", "vguest", "master", "virbr0", "up")
        guest.ip("addr", "add", "192.168.122.5/24", "dev", "eth0")
        guest.ip("link", "set", "eth0", "up")
        guest.ip("route", "add", "default", "via", "192.168.122.1")
        outside.neighbour.ip("route", "add", "192.168.122.0/24", "via", outside.host_address)
        try:
            lab.serve(guest, 5000)
            assert silent(outside.neighbour, "192.168.122.5", 5000)
            outside.host.call(lab.driver.clear)
            outside.host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
            lab.network(0)
            assert ask(outside.neighbour, "192.168.122.5", 5000).startswith(guest.name), "the host's own choice"
        finally:
            outside.host.call(lab.driver.clear)
            outside.host.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
            outside.neighbour.ip("route", "del", "192.168.122.0/24")


def test_a_foreign_flush_or_crash_is_healed(lab: Lab) -> None:
    network = lab.network(0)
    web, endpoint = lab.container(network, 2, tcp(8081, 8080))
    lab.serve(web)
    before = lab.host.run("nft", "-s", "list", "ruleset").stdout
    lab.host.run("nft", "flush", "ruleset")
    lab.host.ip("link", "delete", "docker0")
    lab.host.ip("link", "add", "stray", "group", str(marks.group(INSTANCE)), "type", "bridge")
    lab.host.ip("link", "add", "foreign", "type", "bridge")
    try:
        lab.driver.close()
        lab.driver = BridgeDriver(INSTANCE, lab.notes)
        lab.host.call(lambda: lab.driver.reconcile([(network, [endpoint])]))
        assert lab.host.run("nft", "-s", "list", "ruleset").stdout == before
        assert ask(lab.world.neighbour, lab.world.host_address, 8081).startswith(web.name)
        assert "stray" not in lab.host.interfaces()
        assert "foreign" in lab.host.interfaces()
    finally:
        lab.host.ip("link", "delete", "foreign")


def test_a_foreign_docker0_is_left_alone(lab: Lab) -> None:
    lab.host.ip("link", "add", "docker0", "type", "bridge")
    try:
        assert lab.host.call(lambda: marks.default_bridge(INSTANCE)) == "pier0"
        with pytest.raises(Exception, match="docker0"):
            lab.network(0)
        lab.host.call(lab.driver.clear)
        assert "docker0" in lab.host.interfaces()
    finally:
        lab.host.ip("link", "delete", "docker0")


def test_a_removed_network_leaves_nothing(lab: Lab) -> None:
    lab.network(0)
    before = lab.host.run("nft", "-s", "list", "ruleset").stdout
    network = lab.network(1, ipv6=True)
    lab.host.call(lambda: lab.driver.delete(network, ()))
    lab.host.call(lambda: lab.driver.delete(network, ()))
    assert lab.host.run("nft", "-s", "list", "ruleset").stdout == before
    assert lab.host.interfaces() & {f"br-{network.id[:12]}"} == set()
