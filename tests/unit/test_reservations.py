"""Published ports as sockets: what keeps other programs away, what is served, and who holds a port."""

import os
import socket
from ipaddress import IPv4Address, IPv6Address

import pytest

from pierhead.driver.networkdriver import reservations
from pierhead.driver.networkdriver.api import PortBinding
from pierhead.driver.networkdriver.reservations import (
    Addresses,
    PortRefused,
    dual_stack,
    is_free,
    refused,
    release,
    reserve,
)

V4 = Addresses(IPv4Address("172.17.0.2"))
V6 = Addresses(None, IPv6Address("fd00::2"))
BOTH = Addresses(V4.ipv4, V6.ipv6)
APART = Addresses(V4.ipv4, V6.ipv6, apart=True)


def binding(host: int, container: int, count: int = 1, ip: str = "127.0.0.1", proto: str = "tcp") -> PortBinding:
    return PortBinding(proto, container, container + count - 1, ip, host, host + count - 1)


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def needs_ipv6() -> None:
    if not dual_stack():
        pytest.skip("no IPv6 here")


def test_a_reserved_port_cannot_be_taken_by_another_program() -> None:
    port = free_port()
    held = reserve([binding(port, 80)], V4)
    try:
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
        assert not is_free(binding(port, 80))
    finally:
        release(held)
    assert is_free(binding(port, 80))


def test_a_served_port_is_free_again_at_once(needs_ipv6: None) -> None:
    """Connections that were accepted leave TIME_WAIT behind: it must not keep the next container from the port."""
    port = free_port()
    wanted = [binding(port, 80, ip="")]
    held = reserve(wanted, V4)
    [(listener, _)] = held
    with socket.create_connection(("::1", port), 10) as client:
        accepted, _ = listener.accept()
        accepted.close()  # the server closes first, as most do: TIME_WAIT is on its side
        assert client.recv(1) == b""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("0.0.0.0", port))
    release(held)
    release(reserve(wanted, V4))


@pytest.mark.parametrize(("proto", "kind"), [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)])
def test_a_taken_port_names_the_process_that_holds_it(proto: str, kind: int) -> None:
    with socket.socket(socket.AF_INET, kind) as held:
        held.bind(("127.0.0.1", 0))
        if proto == "tcp":
            held.listen()
        port = held.getsockname()[1]
        with pytest.raises(PortRefused) as caught:
            reserve([binding(port, 80, proto=proto)], V4)
        found = reservations.holder(caught.value)
    assert found is not None and found[0] == os.getpid()
    said = f"failed to bind host port for 127.0.0.1:{port}:172.17.0.2:80/{proto}: address already in use (held by me)"
    assert str(refused(caught.value, V4, "held by me")) == said


def test_one_taken_port_of_many_frees_all_the_others() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        first = free_port()
        with pytest.raises(PortRefused):
            reserve([binding(first, 80), binding(port, 81)], V4)
    assert is_free(binding(first, 80))


def test_large_ranges_are_looked_up_and_small_ones_beside_them_reserved() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        low = max(1024, min(port - 50, 65535 - 200))
        with pytest.raises(PortRefused) as caught:
            reserve([binding(low, low, 200, ip="")], V4)
        assert caught.value.errno == 98 and caught.value.port == port
    single = free_port()
    held = reserve([binding(20000, 20000, 200, ip="127.0.0.9"), binding(single, 80)], V4)
    try:
        assert [one.getsockname()[1] for one, _ in held] == [single]
    finally:
        release(held)


def test_what_is_held_already_is_not_bound_again() -> None:
    first, second = binding(free_port(), 80), binding(free_port(), 81)
    before = reserve([first], V4)
    try:
        release(reserve([first, second], V4, reservations.held([first])))
    finally:
        release(before)


def test_an_ipv6_only_listener_does_not_keep_ipv4_from_a_range(needs_ipv6: None) -> None:
    with socket.socket(socket.AF_INET6) as taken:
        taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        taken.bind(("::", 0))
        taken.listen()
        port = taken.getsockname()[1]
        low = max(1024, min(port - 50, 65535 - 200))
        reserve([binding(low, low, 200, ip="0.0.0.0")], V4)
        with pytest.raises(PortRefused):
            reserve([binding(low, low, 200, ip="")], V4)


def test_an_address_that_is_not_the_hosts_is_refused() -> None:
    with pytest.raises(PortRefused) as caught:
        reserve([binding(8080, 80, ip="192.0.2.77")], V4)
    assert "cannot assign requested address" in str(refused(caught.value, V4))


def test_ipv6_addresses_stand_in_brackets(needs_ipv6: None) -> None:
    with pytest.raises(PortRefused) as caught:
        reserve([binding(8080, 80, ip="2001:db8::77")], BOTH)
    assert "failed to bind host port for [2001:db8::77]:8080:[fd00::2]:80/tcp: " in str(refused(caught.value, BOTH))
    assert str(reservations.allocated("::1", 80, "")) == "Bind for [::1]:80 failed: port is already allocated"


def test_a_port_of_both_families_is_one_socket_that_also_serves_ipv6(needs_ipv6: None) -> None:
    port = free_port()
    held = reserve([binding(port, 80, ip="")], V4)
    try:
        [(listener, target)] = held
        assert listener.family == socket.AF_INET6
        assert target == ("172.17.0.2", "", 80)
        assert not is_free(binding(port, 80))
    finally:
        release(held)


@pytest.mark.parametrize(
    ("ip", "container", "serves"),
    [
        ("", V4, True),
        ("", BOTH, True),  # ::1
        ("127.0.0.1", V4, False),
        ("0.0.0.0", BOTH, False),
        ("127.0.0.1", V6, True),
        ("::1", BOTH, True),
        ("2001:db8::10", BOTH, False),
        ("2001:db8::10", V4, True),
        ("::", BOTH, True),
        ("", Addresses(), False),
        ("0.0.0.0", APART, True),  # to its own bridge, where bridged frames are filtered
        ("192.0.2.10", APART, True),
        ("2001:db8::10", APART, True),
        ("127.0.0.1", APART, False),
        ("127.0.0.1", Addresses(V4.ipv4, apart=True), False),
    ],
)
def test_only_what_the_kernel_cannot_translate_is_served(ip: str, container: Addresses, serves: bool) -> None:
    assert reservations.serves(binding(80, 80, ip=ip), container) is serves
