"""What ``-p`` means."""

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


def test_an_empty_binding_is_none_and_publish_all_publishes_the_port() -> None:
    assert ports.requests({"80/tcp": [], "81/tcp": None}) == []
    assert ports.requests({"80/tcp": []}, ["80/tcp"], True) == [PortRequest("tcp", 80, "", 0, 0)]


def test_addresses_have_one_form() -> None:
    found = ports.requests({"80": [("0:0::1", "1"), ("::ffff:127.0.0.1", "2"), ("127.0.0.1", "3")]})
    assert [one.ip for one in found] == ["127.0.0.1", "127.0.0.1", "::1"]
    with pytest.raises(InvalidParameter, match="invalid IP address: fe80::1%eth0"):
        ports.requests({"80": [("fe80::1%eth0", "1")]})


def test_a_container_port_gets_the_same_dynamic_port_on_all_its_addresses() -> None:
    found = ports.requests({"80": [("127.0.0.1", ""), ("::1", "0")], "81": [("", "")], "82": [("", "9000-9001")]})
    assert [[one.ip for one in group] for group in ports.groups(found)] == [[""], [""], ["127.0.0.1", "::1"]]
    found = ports.requests({"80": [("127.0.0.1", ""), ("", ""), ("::1", ""), ("127.0.0.2", "")]})
    assert [[one.ip for one in group] for group in ports.groups(found)] == [[""], ["127.0.0.1", "127.0.0.2", "::1"]]


def test_ranges_that_differ_in_length_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="invalid ranges specified for container and host ports"):
        ports.requests({"80-82": [("", "8080-8081")]})


def test_a_refused_specification_is_named_as_docker_names_it() -> None:
    with pytest.raises(InvalidParameter, match=r'invalid port specification: "x"$'):
        ports.requests({"x/tcp": [("", "80")]})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("8080", {"tcp 127.0.0.1:8080->80", "tcp :8080->80"}),
        ("8080/udp", {"udp :8080->80"}),
        ("127.0.0.1:8080", {"tcp 127.0.0.1:8080->80"}),
        ("8080:80", {"tcp 127.0.0.1:8080->80", "tcp :8080->80"}),
        ("8080:81", set()),
        (":90", {"tcp :0->90", "tcp [::1]:9000->90"}),
        ("[::1]:9000", {"tcp [::1]:9000->90"}),
        ("[0::1]:9000:90/TCP", {"tcp [::1]:9000->90"}),
        ("32768", {"tcp :0->90"}),
        ("9000-9010", {"tcp [::1]:9000->90", "tcp :9000-9010->91"}),
    ],
)
def test_what_is_to_be_published_no_longer_is_found(text: str, named: set[str]) -> None:
    asked = {
        "tcp 127.0.0.1:8080->80": PortRequest("tcp", 80, "127.0.0.1", 8080, 8080),
        "tcp :8080->80": PortRequest("tcp", 80, "", 8080, 8080),
        "udp :8080->80": PortRequest("udp", 80, "", 8080, 8080),
        "tcp :0->90": PortRequest("tcp", 90, "", 0, 0),
        "tcp [::1]:9000->90": PortRequest("tcp", 90, "::1", 9000, 9000),
        "tcp :9000-9010->91": PortRequest("tcp", 91, "", 9000, 9010),
    }
    chosen = {asked["tcp :0->90"]: 32768, asked["tcp :9000-9010->91"]: 9005}
    withdrawal = ports.withdrawal(text)
    assert {name for name, one in asked.items() if withdrawal.names(one, chosen.get(one, 0))} == named


@pytest.mark.parametrize("text", ["", "x", ":", "0", "8080/icmp", "9-8", "1.2.3:80", "1:2:3:4", "70000", "[::1]"])
def test_what_names_no_port_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter):
        ports.withdrawal(text)


def test_a_binding_without_some_ports_is_few_pieces() -> None:
    whole = binding(8000, 9000, 100)
    assert ports.without(whole, lambda port: 8050 <= port < 8060) == [binding(8000, 9000, 50), binding(8060, 9060, 40)]
    assert ports.without(whole, lambda port: False) == [whole]
    assert ports.without(whole, lambda port: True) == []
