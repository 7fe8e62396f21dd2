"""Messages made by hand against the kernel, with pyroute2 and nft as judges."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface
from typing import TypeVar

import pyroute2
import pytest

from pierhead.driver.networkdriver import ipam
from pierhead.linux import changes, netlink, nft, nftdump, nftrules, sockdiag
from pierhead.linux.libnftables import Rulesets
from pierhead.linux.netlink import Netlink
from pierhead.linux.nft import NFPROTO_INET, Element, Netfilter, field, proto
from tests.harness.netns import Namespace, namespace

T = TypeVar("T")
TABLE = "pierhead-4e000001"


@pytest.fixture
def host() -> Iterator[Namespace]:
    with namespace(f"h4m-host-{os.getpid()}") as made:
        yield made


@pytest.fixture
def inner() -> Iterator[Namespace]:
    with namespace(f"h4m-inner-{os.getpid()}") as made:
        yield made


def judged(at: Namespace, work: Callable[[pyroute2.IPRoute], T]) -> T:
    def inside() -> T:
        with pyroute2.IPRoute() as route:
            return work(route)

    return at.call(inside)


def test_a_veth_has_all_that_was_said_from_its_birth(host: Namespace, inner: Namespace) -> None:
    def make() -> None:
        with open(inner.path) as opened, Netlink() as link:
            link.send(
                netlink.veth_into(
                    opened.fileno(), inside="eth0", index=16, mac="02:42:0a:00:00:02", mtu=1400, outside="vx", group=77
                )
            )

    host.call(make)
    [outside] = judged(host, lambda route: route.get_links(ifname="vx"))
    assert (outside.get("group"), outside.get("mtu")) == (77, 1400)
    [inside] = judged(inner, lambda route: route.get_links(ifname="eth0"))
    assert (inside["index"], inside.get("address"), inside.get("mtu")) == (16, "02:42:0a:00:00:02", 1400)


def test_what_is_made_is_read_back(host: Namespace) -> None:
    def make() -> tuple[list[netlink.Link], list[tuple[int, netlink.Interface]], list[netlink.Route]]:
        with Netlink() as link:
            link.send(netlink.bridge_add("br0", group=5, mac="02:42:01:02:03:04", mtu=1300))
            found = link.link("br0")
            assert found is not None
            link.send(
                netlink.address_add(found.index, IPv4Interface("10.5.0.1/24")),
                netlink.address_add(found.index, IPv4Interface("10.5.0.1/24")),
                netlink.address_add(found.index, IPv6Interface("fd05::1/64")),
                netlink.link_set("br0", up=True),
            )
            link.send(
                netlink.route_add(found.index, IPv4Address("10.5.0.9")),
                netlink.route_add(found.index, IPv4Address("10.5.0.8"), IPv4Network("10.6.0.0/16")),
            )
            return link.links(), link.addresses(), link.routes()

    links, addresses, routes = host.call(make)
    [bridge] = [one for one in links if one.name == "br0"]
    assert bridge == netlink.Link(bridge.index, "br0", True, 1300, 0, 5, "bridge", "02:42:01:02:03:04")
    assert {(bridge.index, IPv4Interface("10.5.0.1/24")), (bridge.index, IPv6Interface("fd05::1/64"))} <= set(addresses)
    assert netlink.Route(None, IPv4Address("10.5.0.9"), bridge.index) in routes
    assert netlink.Route(IPv4Network("10.6.0.0/16"), IPv4Address("10.5.0.8"), bridge.index) in routes
    assert netlink.Route(IPv4Network("10.5.0.0/24"), None, bridge.index) in routes


def test_messages_after_one_that_fails_are_done_and_the_failure_is_told(host: Namespace) -> None:
    def work() -> list[int]:
        with Netlink() as link:
            results = link.results(
                [netlink.link_set("nothing", up=True), netlink.bridge_add("br1", group=1), netlink.link_delete("no")]
            )
            with pytest.raises(OSError, match="rtnetlink"):
                link.send(netlink.link_set("nothing", up=True))
            return results

    results = host.call(work)
    assert results[1] == 0 and results[0] != 0 and results[2] != 0
    assert "br1" in host.interfaces()


def test_what_the_host_uses_is_known(host: Namespace) -> None:
    host.ip("link", "add", "virbr0", "type", "bridge")
    host.ip("addr", "add", "192.168.122.1/24", "dev", "virbr0")
    host.ip("link", "set", "virbr0", "up")
    host.ip("route", "add", "10.8.0.0/16", "via", "192.168.122.9")
    host.ip("link", "add", "ours", "group", "99", "type", "bridge")
    host.ip("addr", "add", "172.17.0.1/16", "dev", "ours")
    found = host.call(lambda: ipam.occupied(ignore_group=99))
    assert {(str(one.prefix), one.owner, one.direct) for one in found if one.prefix.version == 4} == {
        ("192.168.122.0/24", "interface virbr0", True),
        ("192.168.122.0/24", "a route through virbr0", True),
        ("10.8.0.0/16", "a route through virbr0", False),
    }


RULES = f"""
table inet {TABLE} {{
  map any4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
  map ranges4 {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr; flags interval; }}
}}
"""


def element(port: int) -> Element:
    return Element("any4", proto(6) + field(port), IPv4Address("172.17.0.2").packed + field(8080))


def listed(host: Namespace) -> str:
    return host.run("nft", "list", "table", "inet", TABLE).stdout


@pytest.fixture
def netfilter(host: Namespace) -> Iterator[Netfilter]:
    made = Netfilter()
    try:
        host.call(lambda: Rulesets().run(RULES))
        host.call(made.generation)
        yield made
    finally:
        made.close()


def test_elements_are_what_nft_would_have_made(host: Namespace, netfilter: Netfilter) -> None:
    last = b"\xff\xff\xff\xff"
    interval = Element(
        "ranges4",
        bytes(4) + proto(17) + field(8000),
        IPv4Address("172.17.0.3").packed,
        last + proto(17) + field(8010),
    )
    netfilter.commit(nft.add_elements(NFPROTO_INET, TABLE, [element(8081), interval]))
    netfilter.commit(nft.add_elements(NFPROTO_INET, TABLE, [element(8081)]))
    shown = listed(host)
    assert "tcp . 8081 : 172.17.0.2 . 8080" in shown
    assert "0.0.0.0/0 . udp . 8000-8010 : 172.17.0.3" in shown
    other = Element("any4", element(8081).key, IPv4Address("172.17.0.9").packed + field(80))
    with pytest.raises(FileExistsError):
        netfilter.commit(nft.add_elements(NFPROTO_INET, TABLE, [other]))
    netfilter.commit(nft.delete_elements(NFPROTO_INET, TABLE, [element(8081), interval]))
    with pytest.raises(FileNotFoundError):
        netfilter.commit(nft.delete_elements(NFPROTO_INET, TABLE, [element(8081)]))
    assert "172.17.0" not in listed(host)


def test_ten_thousand_elements_go_in_and_out(host: Namespace, netfilter: Netfilter) -> None:
    elements = [element(port) for port in range(10000, 20000)]
    before = netfilter.generation()
    netfilter.commit(nft.add_elements(NFPROTO_INET, TABLE, elements))
    assert netfilter.generation() != before
    assert listed(host).count("172.17.0.2 . 8080") == 10000
    netfilter.commit(nft.delete_elements(NFPROTO_INET, TABLE, elements))
    assert "172.17.0.2" not in listed(host)


def test_a_batch_with_one_bad_element_changes_nothing(host: Namespace, netfilter: Netfilter) -> None:
    wrong = Element("nowhere", b"\0" * 8, b"\0" * 8)
    with pytest.raises(OSError):
        netfilter.commit(nft.add_elements(NFPROTO_INET, TABLE, [element(8081), wrong]))
    assert "8081" not in listed(host)
    assert netfilter.has_table(NFPROTO_INET, TABLE)
    assert not netfilter.has_table(NFPROTO_INET, "pierhead-00000000")


def test_a_changed_ruleset_wakes_who_watches(host: Namespace, netfilter: Netfilter) -> None:
    watched = host.call(changes.rules)
    with watched:
        with pytest.raises(BlockingIOError):
            watched.recv(100)
        host.run("nft", "flush", "ruleset").check()
        assert watched.recv(100)


def test_a_wrong_ruleset_is_refused_with_nfts_words(host: Namespace) -> None:
    with pytest.raises(OSError, match="nonsense"):
        host.call(lambda: Rulesets().run("add nonsense"))


def test_without_the_library_the_program_does_it(host: Namespace) -> None:
    rulesets = Rulesets()
    rulesets._absent = True
    host.call(lambda: rulesets.run(RULES))
    assert "any4" in listed(host)
    with pytest.raises(OSError, match="nonsense"):
        host.call(lambda: rulesets.run("add nonsense"))


def test_rules_that_change_while_they_are_read_are_read_again(inner: Namespace) -> None:
    def work() -> tuple[int, int]:
        rulesets, looks = Rulesets(), 0
        rules = "table inet t { set s { type ipv4_addr; elements = { 10.0.0.1 }; }; }"
        rulesets.run(rules)

        def look() -> int:
            nonlocal looks
            looks += 1
            if looks < 3:
                rulesets.run("delete table inet t" if looks == 1 else rules)
            return len(nftdump.read_members(netfilter, NFPROTO_INET, "t", "s"))

        with contextlib.closing(Netfilter()) as netfilter:
            return nftdump.steady(netfilter, look), looks

    assert inner.call(work) == (1, 3), "gone at the first look, new at the second"


def test_the_resolvers_rule_leads_53_to_its_port_and_nothing_else(inner: Namespace) -> None:
    def work() -> tuple[bytes, bytes]:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, nft.NETLINK_NETFILTER) as sock:
            sock.send(nftrules.local_redirect("pierhead", IPv4Address("127.0.0.11"), 53, 61053))
            assert int.from_bytes(sock.recv(4096)[16:20], "little", signed=True) == 0
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            server.bind(("127.0.0.11", 61053))
            own.bind(("0.0.0.0", 53))  # a container that serves DNS itself
            for one in (server, own, client):
                one.settimeout(5)
            client.sendto(b"to the engine", ("127.0.0.11", 53))
            first, peer = server.recvfrom(100)
            server.sendto(b"answer", peer)
            answer, source = client.recvfrom(100)
            assert (answer, source) == (b"answer", ("127.0.0.11", 53))
            client.sendto(b"to the container", ("127.0.0.1", 53))
            return first, own.recvfrom(100)[0]

    assert inner.call(work) == (b"to the engine", b"to the container")
    with_tcp = inner.run("nft", "list", "table", "ip", "pierhead").stdout
    assert "tcp dport 53" in with_tcp or "th dport 53" in with_tcp or "@th,16,16 53" in with_tcp


def test_who_holds_a_port_is_found(host: Namespace) -> None:
    def work() -> tuple[tuple[int, str] | None, tuple[int, str] | None]:
        with socket.socket(socket.AF_INET6) as held:
            held.bind(("::", 8088))
            held.listen()
            wide = sockdiag.holder(socket.IPPROTO_TCP, IPv4Address("192.0.2.1"), 8088)
            return wide, sockdiag.holder(socket.IPPROTO_TCP, None, 8089)

    found, nobody = host.call(work)
    assert found is not None and found[0] == os.getpid()
    assert nobody is None
