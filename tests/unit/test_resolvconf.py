"""resolv.conf: a container's file says what Docker's would, and never a name server that it cannot reach."""

from pierhead.driver.networkdriver.resolvconf import Overrides, ResolvConf, embedded, hosts, legacy, ndots, parse

HOST = parse("# x\nnameserver 127.0.0.53\nnameserver 192.0.2.53\nsearch lan\noptions edns0 trust-ad\n")
NOTHING = Overrides()


def test_a_user_networks_file_points_at_the_embedded_server_and_keeps_the_hosts_search_and_options() -> None:
    text = embedded(HOST, NOTHING)
    assert "\nnameserver 127.0.0.11\nsearch lan\noptions edns0 trust-ad ndots:0\n" in text
    assert "# Based on host file: '/etc/resolv.conf' (internal resolver)\n" in text
    assert "# ExtServers: [host(127.0.0.53) host(192.0.2.53)]\n# Overrides: []\n# Option ndots from: internal\n" in text


def test_without_any_name_server_nobody_is_made_up() -> None:
    assert "# NO EXTERNAL NAMESERVERS DEFINED\n" in embedded(ResolvConf(), NOTHING)


def test_the_default_bridges_file_leaves_out_what_cannot_be_reached() -> None:
    host = parse("nameserver 127.0.0.53\nnameserver ::1\nnameserver 2001:db8::53\nnameserver 192.0.2.53\nsearch lan\n")
    assert "nameserver 192.0.2.53\nsearch lan\n" in legacy(host, NOTHING, ipv6=False)
    assert "2001:db8" not in legacy(host, NOTHING, ipv6=False)
    text = legacy(host, NOTHING, ipv6=True)
    assert "nameserver 2001:db8::53\nnameserver 192.0.2.53\n" in text and "127.0.0.53" not in text
    alone = legacy(ResolvConf(("127.0.0.53",)), NOTHING, ipv6=False)
    assert "nameserver 8.8.8.8\nnameserver 8.8.4.4\n\n" in alone and "(legacy)\n# Used default nameservers.\n" in alone


def test_in_the_hosts_network_the_hosts_loopback_can_be_asked() -> None:
    text = hosts(HOST, NOTHING)
    assert "\nnameserver 127.0.0.53\nnameserver 192.0.2.53\nsearch lan\noptions edns0 trust-ad\n" in text
    assert "'/etc/resolv.conf'\n# Overrides: []\n" in text


def test_what_the_user_gives_wins() -> None:
    text = embedded(HOST, Overrides(("1.1.1.1",), ("a", "b"), ("ndots:2",)))
    assert "nameserver 127.0.0.11\nsearch a b\noptions ndots:2\n" in text
    assert "# ExtServers: [1.1.1.1]\n# Overrides: [nameservers search options]\n# Option ndots from: override" in text
    assert "\nsearch" not in embedded(HOST, Overrides(search=(".",)))
    assert "nameserver 127.0.0.5\n" in legacy(HOST, Overrides(("127.0.0.5",)), ipv6=False), "as said, and as Docker"


def test_an_ndots_that_is_no_number_is_replaced() -> None:
    text = embedded(HOST, Overrides(options=("ndots:x", "rotate")))
    assert "options rotate ndots:0\n" in text and "ndots from: internal" in text


def test_the_hosts_ndots_is_kept_and_said() -> None:
    host = parse("nameserver 192.0.2.1\noptions ndots:3\noptions timeout:1\n")
    assert "options ndots:3 timeout:1\n" in embedded(host, NOTHING)
    assert "# Option ndots from: host\n" in embedded(host, NOTHING)
    assert ndots(host.options) == 3 and ndots(("edns0",)) is None and ndots(("ndots:-1",)) is None


def test_other_lines_are_passed_on_and_wrong_ones_are_said() -> None:
    host = parse(
        "nameserver nonsense\nnameserver 192.0.2.1\nsortlist 10.0.0.0/8\ndomain one\nsearch two three\nsearch\n"
    )
    assert host.nameservers == ("192.0.2.1",) and host.search == ("two", "three")
    text = embedded(host, NOTHING)
    assert "ndots:0\nsortlist 10.0.0.0/8\n\n" in text and "# Invalid nameservers: [nonsense]\n" in text
