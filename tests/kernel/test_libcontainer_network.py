"""A container's network, joined by messages: at its start, and while it runs.

The "host" of these tests is a network namespace of their own.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from pierhead.libcontainer import container, network
from pierhead.libcontainer.init import SetupError
from pierhead.libcontainer.plan import sysctl_path
from pierhead.libcontainer.spec import NETNS_FD, Mount, NamespaceKind, NamespaceMode, NetworkSetup
from pierhead.linux import calls, const, netlink, nftrules
from tests.kernel.box import MOUNTS, Box, run, running, script

MAC = "02:42:0a:00:00:02"


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


@pytest.fixture
def host() -> Iterator[None]:
    """A network namespace that plays the host, with lo up."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    calls.unshare(const.CLONE_NEWNET)
    try:
        _send(netlink.link_set(index=netlink.LOOPBACK_INDEX, up=True))
        yield
    finally:
        calls.setns(own, const.CLONE_NEWNET)
        os.close(own)


def _send(*messages: bytes) -> None:
    made = network.route_socket()
    network.send_route(made, messages)
    made.close()


def veth(number: int = 2, outside: str = "") -> NetworkSetup:
    """eth<n> at 10.0.<n>.2/24, the host's end (h1v<n>) up."""
    outside = outside or f"h1v{number}"
    return NetworkSetup(
        host=(
            netlink.veth_into(
                NETNS_FD, inside=f"eth{number}", index=number, mac=MAC, mtu=1500, outside=outside, group=0
            ),
            netlink.link_set(outside, up=True),
        ),
        inside=(
            netlink.link_set(index=netlink.LOOPBACK_INDEX, up=True),
            netlink.link_set(index=number, up=True),
            netlink.address_add(number, IPv4Interface(f"10.0.{number}.2/24")),
            netlink.route_add(number, IPv4Address(f"10.0.{number}.1")),
        ),
        nft=b"",
        sysctls=((f"net.ipv4.conf.eth{number}.rp_filter", "2"),),
    )


def test_the_network_is_there_before_the_command_runs(box: Box, host: None) -> None:
    text = "ip addr show eth2; ip route; cat /proc/sys/net/ipv4/conf/eth2/rp_filter"
    out = script(box, text, network=veth()).out
    assert "inet 10.0.2.2/24" in out
    assert MAC in out
    assert "default via 10.0.2.1 dev eth2" in out
    assert out.endswith("2\n")


def test_the_resolver_sockets_are_the_containers_and_port_53_leads_to_them(box: Box, host: None) -> None:
    setup = NetworkSetup(
        inside=(netlink.link_set(index=netlink.LOOPBACK_INDEX, up=True),),
        nft=nftrules.local_redirect("h1", IPv4Address("127.0.0.11"), 53, 5353),
        resolver=5353,
    )
    with running(box.spec("nc", "-l", "-p", "9", network=setup)) as child:
        assert child.resolver is not None
        udp, tcp = (socket.socket(fileno=number) for number in child.resolver)
        assert udp.getsockname() == tcp.getsockname() == ("127.0.0.11", 5353)
        own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        calls.setns(child.pidfd, const.CLONE_NEWNET)
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(b"question", ("127.0.0.11", 53))
                udp.settimeout(5)
                question, sender = udp.recvfrom(100)
                udp.sendto(b"answer", sender)
                client.settimeout(5)
                answer, responder = client.recvfrom(100)
        finally:
            calls.setns(own, const.CLONE_NEWNET)
            os.close(own)
        assert (question, answer, responder) == (b"question", b"answer", ("127.0.0.11", 53))
        udp.close()
        tcp.close()


def test_a_link_of_the_hosts_may_have_the_number_that_a_container_wants(box: Box, host: None) -> None:
    """Before Linux 6.15 the kernel refuses such a number at first."""
    host_links = (netlink.bridge_add(f"h1b{number}", group=0) for number in range(2, 6))
    _send(*host_links)
    assert socket.if_nametoindex("h1b3") == 3
    assert "inet 10.0.3.2/24" in script(box, "ip addr show eth3", network=veth(3)).out


def test_a_link_can_be_made_here_and_moved(box: Box, host: None) -> None:
    """What is done where the number is refused."""
    setup = veth(3)
    with running(box.spec("sleep", "100")) as child, closing(network.route_socket()) as netlink_socket:
        descriptor = os.open(f"/proc/{child.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        calls.duplicate_to(descriptor, NETNS_FD)
        network.make_and_move(netlink_socket, setup.host[0])
        _send(*setup.host[1:])
        with pytest.raises(OSError, match="eth3"):  # the number is taken there, too
            network.make_and_move(netlink_socket, veth(3, outside="h1other").host[0])
        os.close(NETNS_FD)
        assert [name for _, name in socket.if_nameindex()] == ["lo", "h1v3"]
        container.net_inside(descriptor, setup.inside)
        out = Path(f"/proc/{child.pid}/net/fib_trie").read_text()
        os.close(descriptor)
    assert "10.0.3.2" in out


def test_what_the_kernel_refuses_is_told_with_its_name_and_nothing_is_left(box: Box, host: None) -> None:
    _send(netlink.bridge_add("h1v2", group=0))
    with pytest.raises(SetupError) as caught:
        script(box, "true", network=veth())
    assert (caught.value.stage, caught.value.call, caught.value.errno) == ("network", "RTM_NEWLINK veth", 17)
    assert [name for _, name in socket.if_nameindex() if name.startswith("h1")] == ["h1v2"]
    inside = NetworkSetup(inside=(netlink.address_add(77, IPv4Interface("10.0.0.1/24")),))
    with pytest.raises(SetupError) as caught:
        script(box, "true", network=inside)
    assert (caught.value.stage, caught.value.call, caught.value.errno) == ("network", "RTM_NEWADDR", 19)


def test_what_a_child_has_to_say_is_heard_though_its_network_was_not_ready_when_it_ended(box: Box, host: None) -> None:
    """Mounts are made while the shim is still at work on the host's side."""
    setup = veth()
    slow = replace(setup, host=(*setup.host, *[netlink.link_set(index=netlink.LOOPBACK_INDEX, up=True)] * 2000))
    for network_setup in (setup, slow):
        with pytest.raises(SetupError) as caught:
            script(box, "true", network=network_setup, mounts=(*MOUNTS, Mount("/m", "bind", "/no/such/source")))
        assert (caught.value.stage, caught.value.errno, caught.value.filename) == ("mount", 2, "/no/such/source")


def test_an_unknown_sysctl_is_an_error_that_names_it(box: Box, host: None) -> None:
    with pytest.raises(SetupError, match="/proc/sys/net/ipv4/no_such") as caught:
        script(box, "true", sysctls=(("net.ipv4.no_such", "1"),))
    assert caught.value.call == "open"


def test_a_running_container_gets_another_network_and_loses_it(box: Box, host: None) -> None:
    with running(box.spec("sleep", "100", network=veth(2))) as child:
        namespace = os.open(f"/proc/{child.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        setup = veth(3)
        sysctls = tuple((sysctl_path(name), value) for name, value in setup.sysctls)
        sockets = container.net_inside(namespace, setup.inside[1:3], b"", sysctls, 5354, setup.host)
        links = Path(f"/proc/{child.pid}/net/dev").read_text()
        assert "eth2" in links
        assert "eth3" in links
        assert sockets is not None
        for descriptor in sockets:
            os.close(descriptor)
        container.net_inside(namespace, (netlink.link_delete("eth3"),))
        assert "eth3" not in Path(f"/proc/{child.pid}/net/dev").read_text()
        with pytest.raises(SetupError, match="eth3"):
            container.net_inside(namespace, (netlink.link_delete("eth3"),))
        os.close(namespace)
    assert os.readlink("/proc/self/ns/net") == os.readlink("/proc/thread-self/ns/net")


def test_a_joined_network_can_be_extended(box: Box, host: None, tmp_path: Path) -> None:
    other = Box(tmp_path / "other")
    with running(box.spec("sleep", "100")) as child:
        descriptor = os.open(f"/proc/{child.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        modes = {NamespaceKind.NETWORK: NamespaceMode.JOIN, NamespaceKind.CGROUP: NamespaceMode.HOST}
        spec = other.spec("ip", "addr", namespaces=modes, network=veth(4))
        out = run(spec, fds={"ns:net": descriptor}).out
        os.close(descriptor)
        assert "10.0.4.2/24" in out
        assert "eth4" in Path(f"/proc/{child.pid}/net/dev").read_text()
