"""What ``-p`` means, and who holds a port."""

import os
import socket
from ipaddress import IPv4Address

import pytest

from pierhead.driver.networkdriver import ports
from pierhead.driver.networkdriver.api import PortBinding
from pierhead.driver.networkdriver.ports import PortRequest
from pierhead.errors import InvalidParameter


def binding(host: int, container: int, count: int = 1, ip: str = "127.0.0.1", proto: str = "tcp") -> PortBinding:
    return PortBinding(proto, container, container + count - 1, ip, host, host + count - 1)


def test_fixed_ports_come_before_dynamic_ones() -> None:
    found = ports.requests({"80/tcp": [("", "")], "81/tcp": [("", "8081")], "82": [("", "9000-9010")]})
    assert found == [
        PortRequest("tcp", 81, "", 8081, 8081),
        PortRequest("tcp", 82, "", 9000, 9010),
        PortRequest("tcp", 80, "", 0, 0),
    ]


def test_publish_all_takes_exposed_ports_that_have_no_binding() -> None:
    found = ports.requests({"80/tcp": [("", "8080")]}, ["80/tcp", "53/udp", "90-91/tcp"], True)
    assert [(one.proto, one.port, one.low) for one in found] == [
        ("tcp", 80, 8080),
        ("tcp", 90, 0),
        ("tcp", 91, 0),
        ("udp", 53, 0),
    ]


@pytest.mark.parametrize("key", ["x", "0/tcp", "65536", "80/icmp", "90-80", "-1", "８０"])
def test_a_container_port_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid port specification"):
        ports.requests({key: [("", "80")]})


@pytest.mark.parametrize("pair", [("", "x"), ("", "70000"), ("", "2-1"), ("nowhere", "80"), ("1.2.3", "80")])
def test_a_host_port_or_address_that_is_none_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(InvalidParameter):
        ports.requests({"80": [pair]})


def test_ten_thousand_ports_are_one_row_and_a_shifted_range_is_one_too() -> None:
    same = [binding(port, port) for port in range(10000, 20000)]
    assert ports.coalesce(same) == [binding(10000, 10000, 10000)]
    shifted = [binding(18082 + at, 8082 + at) for at in range(3)]
    assert ports.coalesce(reversed(shifted)) == [binding(18082, 8082, 3)]
    apart = [binding(80, 80), binding(81, 90), binding(82, 91, ip="127.0.0.2")]
    assert ports.coalesce(apart) == apart


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_reserved_port_cannot_be_taken_by_another_program() -> None:
    port = free_port()
    reservation = ports.reserve([binding(port, 80)], None, None)
    try:
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
        assert not ports.is_free(binding(port, 80))
    finally:
        reservation.close()
    assert ports.is_free(binding(port, 80))


def test_a_served_port_is_free_again_at_once(needs_ipv6: None) -> None:
    """Connections that were accepted leave TIME_WAIT behind: it must not keep the next container from the port."""
    port = free_port()
    wanted = [binding(port, 80, ip="")]
    reservation = ports.reserve(wanted, IPv4Address("172.17.0.2"), None)
    [(listener, _)] = reservation.listeners
    with socket.create_connection(("::1", port), 10) as client:
        accepted, _ = listener.accept()
        accepted.close()  # the server closes first, as most do: TIME_WAIT is on its side
        assert client.recv(1) == b""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("0.0.0.0", port))
    reservation.close()
    ports.reserve(wanted, IPv4Address("172.17.0.2"), None).close()


@pytest.fixture
def needs_ipv6() -> None:
    if not ports.dual_stack():
        pytest.skip("no IPv6 here")


@pytest.mark.parametrize(("proto", "kind"), [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)])
def test_a_taken_port_names_the_process_that_holds_it(proto: str, kind: int) -> None:
    with socket.socket(socket.AF_INET, kind) as held:
        held.bind(("127.0.0.1", 0))
        if proto == "tcp":
            held.listen()
        port = held.getsockname()[1]
        with pytest.raises(ports.PortRefused) as caught:
            ports.reserve([binding(port, 80, proto=proto)], None, None)
        message = str(ports.refused(caught.value, None))
    assert f"failed to bind host port for 127.0.0.1:{port}:None:80/{proto}: address already in use" in message
    assert f"(process {os.getpid()})" in message


def test_one_taken_port_of_many_frees_all_the_others() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        first = free_port()
        with pytest.raises(ports.PortRefused):
            ports.reserve([binding(first, 80), binding(port, 81)], None, None)
    assert ports.is_free(binding(first, 80))


def test_large_ranges_are_looked_up_and_not_bound() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        low = max(1024, min(port - 50, 65535 - 200))
        with pytest.raises(ports.PortRefused) as caught:
            ports.reserve([binding(low, low, 200, ip="")], None, None)
        assert caught.value.errno == 98


def test_an_address_that_is_not_the_hosts_is_refused() -> None:
    with pytest.raises(ports.PortRefused) as caught:
        ports.reserve([binding(8080, 80, ip="192.0.2.77")], None, None)
    assert "cannot assign requested address" in str(ports.refused(caught.value, None))


def test_a_port_of_both_families_is_one_socket_that_also_serves_ipv6(needs_ipv6: None) -> None:
    port = free_port()
    reservation = ports.reserve([binding(port, 80, ip="")], IPv4Address("172.17.0.2"), None)
    try:
        assert not reservation.ports
        [(listener, target)] = reservation.listeners
        assert listener.family == socket.AF_INET6
        assert target == ("172.17.0.2", 80)
        assert not ports.is_free(binding(port, 80))
    finally:
        reservation.close()
