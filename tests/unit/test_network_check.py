"""What one may write as a destination, who takes what comes to an address, and how the way is told."""

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from pierhead.client.network_check import WIDTH, lines
from pierhead.daemon.jobs.network_check import Destination, parse
from pierhead.daemon.jobs.network_listeners import takes
from pierhead.errors import InvalidParameter
from pierhead.linux.netstate import Device
from pierhead.linux.sockdiag import Bound


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("web", Destination("web", None, "tcp")),
        ("/web:80", Destination("web", 80, "tcp")),
        ("web.tomcats:8080", Destination("web.tomcats", 8080, "tcp")),
        ("10.0.0.2:53/UDP", Destination("10.0.0.2", 53, "udp")),
        ("[fd00::2]:80", Destination("fd00::2", 80, "tcp")),
        ("[fd00::2]", Destination("fd00::2", None, "tcp")),
        ("fd00::2", Destination("fd00::2", None, "tcp")),
        ("::1/udp", Destination("::1", None, "udp")),
        ("host:9/sctp", Destination("host", 9, "sctp")),
    ],
)
def test_a_destination_is_understood(text: str, wanted: Destination) -> None:
    assert parse(text) == wanted


@pytest.mark.parametrize("text", ["", ":80", "web:0", "web:65536", "web:http", "web:80/icmp", "web:²"])
def test_a_destination_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid destination"):
        parse(text)


def device(index: int) -> Device:
    return Device(index, "eth0", "veth", True, True, False, 1500, "", 0, 0, 0, True)


FOUR, SIX = IPv4Address("10.0.0.2"), IPv6Address("fd00::2")


@pytest.mark.parametrize(
    ("bound", "address", "wanted"),
    [
        (Bound(FOUR, 80, 1), FOUR, True),
        (Bound(IPv4Address("127.0.0.1"), 80, 1), FOUR, False),
        (Bound(IPv4Address("0.0.0.0"), 80, 1), FOUR, True),
        (Bound(IPv4Address("0.0.0.0"), 80, 1), SIX, False),
        (Bound(IPv6Address("::"), 80, 1), SIX, True),
        (Bound(IPv6Address("::"), 80, 1), FOUR, True),
        (Bound(IPv6Address("::"), 80, 1, only=True), FOUR, False),
        (Bound(IPv6Address("::ffff:10.0.0.2"), 80, 1), FOUR, True),
        (Bound(IPv4Address("0.0.0.0"), 80, 1, device=16), FOUR, True),
        (Bound(IPv4Address("0.0.0.0"), 80, 1, device=17), FOUR, False),
    ],
)
def test_a_socket_takes_what_the_kernel_would_give_it(bound: Bound, address: Any, wanted: bool) -> None:
    assert takes(bound, address, device(16)) is wanted


def report(status: str, **more: Any) -> dict[str, Any]:
    steps = [{"name": "name", "status": "ok", "text": "b is 10.0.0.2, says 127.0.0.11"}]
    steps.append({"name": "rule", "status": status, "text": "one fact; another fact " + "that is long " * 20, **more})
    return {"source": "a", "destination": "b:80", "reachable": status != "failed", "steps": steps}


def test_each_fact_has_lines_of_its_own_and_none_is_too_long() -> None:
    told = list(lines(report("failed", remedy="do this")))
    assert told[:3] == ["a → b:80", "✓ name      b is 10.0.0.2, says 127.0.0.11", "✗ rule      one fact"]
    assert told[-2:] == ["            → do this", "not reachable: it ends at the rule"]
    assert max(map(len, told)) <= WIDTH


def test_what_cannot_be_told_is_said_to_be_open() -> None:
    assert list(lines(report("unknown")))[-1] == "reachable, as far as it can be told"
    assert list(lines(report("ok")))[-1] == "reachable"
    assert any("\x1b[32m" in line for line in lines(report("ok"), colours=True))
