"""What the kernel tells of a network namespace, read from another one through sockets that were opened in it."""

import errno
import os
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

import pytest

from pierhead.linux.netstate import KINDS, RTN_LOCAL, Device, View
from tests.harness.netns import Namespace, namespace
from tests.harness.processes import wait_until


class Machines(NamedTuple):
    """A host with a bridge br0 (10.7.0.1/24), and a guest (10.7.0.2) on it whose way out is the bridge."""

    host: Namespace
    guest: Namespace


@pytest.fixture
def machines() -> Iterator[Machines]:
    name = f"n5s-{os.getpid()}"
    with namespace(f"{name}-host") as host, namespace(f"{name}-guest") as guest:
        host.ip("link", "add", "br0", "type", "bridge")
        host.ip("address", "add", "10.7.0.1/24", "dev", "br0")
        host.ip("link", "set", "br0", "up")
        host.ip("link", "add", "v0", "type", "veth", "peer", "name", "eth0", "netns", guest.name)
        host.ip("link", "set", "v0", "master", "br0", "up")
        guest.ip("address", "add", "10.7.0.2/24", "dev", "eth0")
        guest.ip("link", "set", "eth0", "up")
        guest.ip("route", "add", "default", "via", "10.7.0.1")
        yield Machines(host, guest)


def view(at: Namespace) -> View:
    return View(at.call(lambda: tuple(socket.socket(*kind) for kind in KINDS)))


def devices(at: Namespace) -> dict[str, Device]:
    with view(at) as seen:
        return {device.name: device for device in seen.devices()}


def test_both_ends_of_a_cable_are_found_by_each_other(machines: Machines) -> None:
    outside, inside = devices(machines.host)["v0"], devices(machines.guest)["eth0"]
    assert (outside.peer, inside.peer) == (inside.index, outside.index)
    assert outside.elsewhere and inside.elsewhere and outside.kind == inside.kind == "veth"
    assert outside.master == devices(machines.host)["br0"].index
    assert inside.has(ip_address("10.7.0.2")) and not inside.has(ip_address("10.7.0.3"))


def test_what_is_down_or_pulled_is_told_apart(machines: Machines) -> None:
    machines.guest.ip("link", "set", "eth0", "down")
    wait_until(lambda: devices(machines.host)["v0"].blocked, "the bridge to hear of it, in up to a second")
    outside = devices(machines.host)["v0"]
    assert outside.up and not outside.carrier
    machines.host.ip("link", "set", "v0", "nomaster")
    machines.host.ip("link", "set", "v0", "down")
    outside = devices(machines.host)["v0"]
    assert not outside.up and outside.master == 0


def test_a_bridge_ports_flags_and_a_devices_settings_are_read(machines: Machines) -> None:
    machines.host.run("bridge", "link", "set", "dev", "v0", "isolated", "on", "hairpin", "on").check()
    for name, value in {"br0/rp_filter": "1", "br0/forwarding": "1", "br0/route_localnet": "1"}.items():
        machines.host.run("sh", "-c", f"echo {value} > /proc/sys/net/ipv4/conf/{name}").check()
    machines.host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/br0/disable_ipv6").check()
    wait_until(lambda: not devices(machines.host)["v0"].blocked, "the bridge to hear of the cable")
    found = devices(machines.host)
    port, bridge = found["v0"], found["br0"]
    assert port.isolated and port.hairpin
    assert (bridge.rp_filter, bridge.forwarding, bridge.route_localnet, bridge.ipv6) == (1, True, True, False)
    assert found["lo"].ipv6 and found["lo"].loopback and not found["lo"].forwarding
    with view(machines.host) as seen:
        assert (seen.everywhere(4), seen.everywhere(6)) == ((False, 0), (False, 0))
        machines.host.run("sh", "-c", "echo 2 > /proc/sys/net/ipv4/conf/all/rp_filter").check()
        machines.host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward").check()
        assert (seen.everywhere(4), seen.everywhere(6)) == ((True, 2), (False, 0))
        machines.host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding").check()
        assert seen.everywhere(6)[0]


def test_the_kernels_own_decision_is_asked_for(machines: Machines) -> None:
    with view(machines.guest) as guest, view(machines.host) as host:
        out = guest.decide(IPv4Address("192.0.2.1"))
        assert (out.gateway, out.source) == (IPv4Address("10.7.0.1"), IPv4Address("10.7.0.2"))
        assert guest.decide(IPv4Address("10.7.0.2")).kind == RTN_LOCAL
        machines.guest.ip("route", "delete", "default")
        with pytest.raises(OSError) as caught:
            guest.decide(IPv4Address("192.0.2.1"))
        assert caught.value.errno == errno.ENETUNREACH
        bridge = devices(machines.host)["br0"].index
        assert host.decide(IPv4Address("10.7.0.1"), IPv4Address("10.7.0.2"), came_in=bridge).kind == RTN_LOCAL
        machines.host.ip("route", "add", "198.51.100.0/24", "dev", "br0")
        with pytest.raises(OSError) as caught:  # it does not forward
            host.decide(IPv4Address("198.51.100.1"), IPv4Address("10.7.0.2"), came_in=bridge)
        assert caught.value.errno == errno.EHOSTUNREACH
        machines.host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward").check()
        assert host.decide(IPv4Address("198.51.100.1"), IPv4Address("10.7.0.2"), came_in=bridge).interface == bridge
        machines.host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/br0/rp_filter").check()
        with pytest.raises(OSError) as caught:  # that address does not live there
            host.decide(IPv4Address("198.51.100.1"), IPv4Address("203.0.113.9"), came_in=bridge)
        assert caught.value.errno in (errno.EXDEV, errno.EINVAL)
        machines.host.ip("route", "add", "unreachable", "203.0.113.0/24")
        with pytest.raises(OSError):
            host.decide(IPv4Address("203.0.113.9"))


def test_a_neighbour_that_does_not_answer_is_known_as_such(machines: Machines) -> None:
    machines.guest.run("busybox", "ping", "-c", "1", "-W", "5", "10.7.0.1").check()
    machines.guest.run("busybox", "ping", "-c", "1", "-W", "4", "10.7.0.99")
    with view(machines.guest) as guest:
        known = {one.address: one for one in guest.neighbours()}
    assert known[IPv4Address("10.7.0.1")].mac and not known[IPv4Address("10.7.0.1")].failed
    assert known[IPv4Address("10.7.0.99")].failed


def test_listeners_are_told_from_sockets_that_only_keep_a_port(machines: Machines) -> None:
    def make() -> list[socket.socket]:
        listening = socket.create_server(("127.0.0.1", 80))
        dual = socket.create_server(("::", 81), family=socket.AF_INET6, dualstack_ipv6=True)
        only = socket.create_server(("::", 82), family=socket.AF_INET6)
        kept = socket.socket()
        kept.bind(("0.0.0.0", 83))
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("10.7.0.2", 84))
        return [listening, dual, only, kept, datagrams]

    made = machines.guest.call(make)
    with view(machines.guest) as guest:
        tcp = {one.port: one for one in guest.bound(socket.IPPROTO_TCP)}
        udp = {one.port: one for one in guest.bound(socket.IPPROTO_UDP)}
    for one in made:
        one.close()
    assert tcp[80].address == IPv4Address("127.0.0.1") and tcp[80].serves
    assert tcp[81].address == IPv6Address("::") and not tcp[81].only and tcp[82].only
    assert 83 not in tcp or not tcp[83].serves
    assert udp[84].address == IPv4Address("10.7.0.2") and udp[84].serves and 84 not in tcp
