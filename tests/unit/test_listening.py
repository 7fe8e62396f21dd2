"""What is said of sockets that a container's processes have open in the host's network."""

from ipaddress import IPv4Address, IPv6Address

from pierhead.daemon.jobs.listening import listeners
from pierhead.linux.sockdiag import Bound

ANY4, ANY6 = IPv4Address("0.0.0.0"), IPv6Address("::")


def test_servers_are_told_and_clients_and_other_peoples_sockets_are_not() -> None:
    sockets = {
        "tcp": [Bound(ANY6, 8080, 1), Bound(IPv4Address("127.0.0.1"), 443, 2), Bound(ANY4, 443, 3), Bound(ANY4, 22, 9)],
        "udp": [Bound(ANY4, 53, 4), Bound(ANY4, 40000, 5)],
    }
    held = {1: "httpd", 2: "nginx", 3: "nginx", 4: "named", 5: "dig", 6: "dig"}
    found = listeners(held, sockets)
    assert [(one.protocol, one.port, one.address, one.process) for one in found] == [
        ("tcp", 443, "0.0.0.0", "nginx"),
        ("tcp", 443, "127.0.0.1", "nginx"),
        ("tcp", 8080, "::", "httpd"),
        ("udp", 53, "0.0.0.0", "named"),
    ]
