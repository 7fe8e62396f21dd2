"""What every network driver promises: pure plans, idempotent effects, nothing left behind.

Every test runs for every driver, and for those with modes and with parents of several kinds, for each of them.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

import pytest

from pierhead.driver.networkdriver import inside as inside_of_a_container
from pierhead.driver.networkdriver.api import Census, Endpoint, Network, NetworkDriver, Pool, PortBinding
from pierhead.driver.networkdriver.bridge import BridgeDriver
from pierhead.driver.networkdriver.bridgeoptions import NAME
from pierhead.driver.networkdriver.host import HostDriver
from pierhead.driver.networkdriver.ipvlan import IpvlanDriver
from pierhead.driver.networkdriver.macvlan import MacvlanDriver
from pierhead.driver.networkdriver.none import NoneDriver
from pierhead.errors import PierheadError
from pierhead.linux.netlink import Netlink, link_delete, veth_into
from tests.harness.joining import join, leave
from tests.harness.kernel import need
from tests.harness.netns import Namespace, namespace

INSTANCE = "4d000001"
PREFIX = f"h4d{os.getpid()}"
V4 = Pool(IPv4Network("172.30.0.0/16"), IPv4Address("172.30.0.1"))
V6 = Pool(IPv6Network("fd30::/64"), IPv6Address("fd30::1"))


class Notes:
    """GraphDB's meta table, as a driver sees it."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def meta(self, key: str) -> str | None:
        return self.values.get(key)

    def set_meta(self, key: str, value: str) -> None:
        self.values[key] = value


DRIVERS: Mapping[str, Callable[[], NetworkDriver]] = {
    "bridge": lambda: BridgeDriver(INSTANCE, Notes()),
    "host": HostDriver,
    "ipvlan": lambda: IpvlanDriver(INSTANCE),
    "macvlan": lambda: MacvlanDriver(INSTANCE),
    "null": NoneDriver,
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A driver in one of its modes. needs: the kinds of link that the kernel must have."""

    driver: str
    name: str = "net"
    options: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


def _parented(driver: str, parent: str, *more: str, **options: str) -> Kind:
    given = {"parent": parent} if parent else {}
    return Kind(driver, "wire", {**given, **options}, (driver, *more))


KINDS = {
    "bridge": Kind("bridge", "bridge", {NAME: "docker0"}),
    "host": Kind("host", "host"),
    "null": Kind("null", "none"),
    "macvlan": _parented("macvlan", "wire"),
    "macvlan-private": _parented("macvlan", "wire", macvlan_mode="private"),
    "macvlan-vepa": _parented("macvlan", "wire", macvlan_mode="vepa"),
    "macvlan-passthru": _parented("macvlan", "wire", macvlan_mode="passthru"),
    "macvlan-vlan": _parented("macvlan", "wire.7", "vlan"),
    "macvlan-dummy": _parented("macvlan", "", "dummy"),
    "ipvlan": _parented("ipvlan", "wire"),
    "ipvlan-l3": _parented("ipvlan", "wire", ipvlan_mode="l3"),
    "ipvlan-l3s": _parented("ipvlan", "wire", ipvlan_mode="l3s", ipvlan_flag="private"),
    "ipvlan-vlan": _parented("ipvlan", "wire.7", "vlan"),
    "ipvlan-dummy": _parented("ipvlan", "", "dummy"),
}


def held(namespace: Namespace) -> dict[str, list[str]]:
    """The addresses of every link, without those of the kernel's own making."""
    return {
        link["ifname"]: sorted(
            f"{address['local']}/{address['prefixlen']}"
            for address in link["addr_info"]
            if address["scope"] == "global"
        )
        for link in json.loads(namespace.ip("-j", "addr").stdout)
    }


@dataclass(frozen=True, slots=True)
class Case:
    kind: Kind
    driver: NetworkDriver
    network: Network
    endpoint: Endpoint
    host: Namespace
    container: Namespace

    def do(self, *works: Callable[[], object]) -> None:
        for work in works:
            self.host.call(work)

    def seen(self) -> tuple[str, ...]:
        """All that a driver could leave on the host."""
        return (
            str(held(self.host)),
            self.host.run("nft", "-s", "list", "ruleset").stdout,
            self.host.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout,
            " ".join(sorted(self.host.interfaces())),
        )

    def join(self, endpoint: Endpoint | None = None) -> None:
        chosen = endpoint or self.endpoint
        setup = self.host.call(lambda: self.driver.plan(self.network, chosen))
        join(self.host, self.container, setup)

    def leave(self) -> None:
        leave(self.container, self.driver.withdraw(self.network, self.endpoint))
        self.do(lambda: self.driver.unplug(self.network, self.endpoint))

    def defaults(self) -> list[str | None]:
        """The container's default routes, IPv4's first: the next hop, or None for one without."""
        found = []
        for family in ("-4", "-6"):
            routes = json.loads(self.container.ip("-j", family, "route", "show", "default").stdout or "[]")
            found += [route.get("gateway") for route in routes if route.get("dev") == "eth0"]
        return found


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    kind = KINDS[request.param]
    need(*kind.needs)
    driver = DRIVERS[kind.driver]()
    pools = (V4, V6) if driver.addressed else ()
    network = Network("ab" * 32, kind.name, kind.driver, pools, ipv6=bool(pools), options=kind.options)
    endpoint = Endpoint(
        id="12" * 32,
        network_id=network.id,
        container_id="34" * 32,
        interface="eth0",
        mac="02:42:ac:1e:00:02" if driver.own_mac else "",
        ipv4=IPv4Interface("172.30.0.2/16") if pools else None,
        ipv6=IPv6Interface("fd30::2/64") if pools else None,
        ports=(PortBinding("tcp", 80, 80, "", 8080, 8080), PortBinding("udp", 90, 99, "", 90, 99))
        if driver.publishes
        else (),
    )
    with ExitStack() as stack:
        host = stack.enter_context(namespace(f"{PREFIX}-host"))
        container = stack.enter_context(namespace(f"{PREFIX}-inner"))
        container.ip("link", "set", "lo", "down")
        beyond = stack.enter_context(namespace(f"{PREFIX}-next"))
        host.ip("link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", beyond.name)
        host.ip("link", "set", "wire", "up")
        beyond.ip("link", "set", "wire", "up")
        try:
            yield Case(kind, driver, network, endpoint, host, container)
        finally:
            host.call(driver.clear)
            driver.close()


def test_every_call_may_be_repeated(case: Case) -> None:
    driver, network, endpoint = case.driver, case.network, case.endpoint
    before = case.seen()
    case.do(lambda: driver.create(network))
    made = case.seen()
    case.do(lambda: driver.create(network))
    assert case.seen() == made
    case.do(lambda: driver.publish(network, endpoint), lambda: driver.publish(network, endpoint))
    case.do(lambda: driver.leave(network, endpoint), lambda: driver.leave(network, endpoint))
    case.do(lambda: driver.unplug(network, endpoint), lambda: driver.unplug(network, endpoint))
    assert case.seen() == made
    case.do(lambda: driver.delete(network, ()), lambda: driver.delete(network, ()))
    case.do(driver.clear, driver.clear)
    assert case.seen() == before


def test_a_plan_touches_nothing(case: Case) -> None:
    case.do(lambda: case.driver.create(case.network))
    before = case.seen()
    plans: list[object] = []
    for _ in range(2):
        case.do(lambda: plans.append(case.driver.plan(case.network, case.endpoint)))
    assert plans[0] == plans[1]
    assert case.seen() == before


def test_a_container_has_what_was_promised_and_loses_it_again(case: Case) -> None:
    driver, network, endpoint = case.driver, case.network, case.endpoint
    case.do(lambda: driver.create(network))
    made = case.host.interfaces()
    case.join()
    links = {link["ifname"]: link for link in json.loads(case.container.ip("-j", "link").stdout)}
    if driver.name != "host":
        assert "UP" in links["lo"]["flags"]
    assert ("eth0" in links) == driver.addressed
    if driver.addressed:
        assert held(case.container)["eth0"] == sorted([str(endpoint.ipv4), str(endpoint.ipv6)])
        assert "UP" in links["eth0"]["flags"]
    if driver.own_mac:
        assert links["eth0"]["address"] == endpoint.mac
    hops: list[str | None] = [str(hop) for hop in driver.next_hops(network, endpoint)]
    assert case.defaults() == ((hops or [None, None]) if driver.outward(network) else [])
    for _ in range(2):
        case.leave()
        assert case.container.interfaces() == {"lo"}
        assert case.host.interfaces() == made


def test_the_hosts_links_may_have_any_number(case: Case) -> None:
    """Before Linux 6.15 the kernel refuses a container's link a number that a link of the host has."""
    if not case.driver.addressed:
        return
    case.do(lambda: case.driver.create(case.network))
    number = inside_of_a_container.index(case.endpoint)
    case.host.ip("link", "add", "taken", "index", str(number), "type", "bridge")
    case.join()
    links = {link["ifname"]: link for link in json.loads(case.container.ip("-j", "link").stdout)}
    assert set(links) == {"lo", "eth0"} and links["eth0"]["ifindex"] == number
    if case.driver.own_mac:
        assert links["eth0"]["address"] == case.endpoint.mac
    assert "taken" in case.host.interfaces()
    case.leave()
    assert case.container.interfaces() == {"lo"}


def test_what_ends_may_begin_again_at_once(case: Case) -> None:
    """The same address, MAC and parent for the next container, while the kernel still takes the last one apart."""
    if not case.driver.addressed:
        return
    case.do(lambda: case.driver.create(case.network))
    for number in range(3):
        endpoint = replace(case.endpoint, id=f"{number}" * 64)
        with namespace(f"{PREFIX}-end{number}") as ended:
            join(case.host, ended, case.host.call(lambda: case.driver.plan(case.network, endpoint)))  # noqa: B023
            case.do(lambda: case.driver.leave(case.network, endpoint))  # noqa: B023


def test_what_leads_outside_says_where_and_an_internal_network_leads_nowhere(case: Case) -> None:
    driver, network, endpoint = case.driver, case.network, case.endpoint
    assert driver.outward(network) == (driver.name == "bridge" or "parent" in network.options)
    hops = driver.next_hops(network, endpoint)
    assert hops in ((), (V4.gateway, V6.gateway))
    assert driver.outward(network) or not hops
    inside = replace(network, internal=True)
    assert not driver.outward(inside)
    assert driver.next_hops(inside, endpoint) == ()
    case.do(lambda: driver.create(inside))
    join(case.host, case.container, case.host.call(lambda: driver.plan(inside, endpoint)))
    assert case.defaults() == []


def test_the_way_out_can_move_to_an_endpoint_that_is_joined(case: Case) -> None:
    driver, network = case.driver, case.network
    endpoint = replace(case.endpoint, gateway=False)
    case.do(lambda: driver.create(network))
    case.join(endpoint)
    assert case.defaults() == []
    setup = case.host.call(lambda: driver.gateway(network, replace(endpoint, second=6)))
    join(case.host, case.container, setup)
    hops = [str(hop) for hop in driver.next_hops(network, endpoint)]
    assert case.defaults() == ((hops[1:] or [None]) if driver.outward(network) else []), "IPv6's alone"
    setup = case.host.call(lambda: driver.gateway(network, case.endpoint))
    join(case.host, case.container, setup)
    assert case.defaults() == ((hops or [None, None]) if driver.outward(network) else [])


def test_reconciling_with_nothing_leaves_no_network(case: Case) -> None:
    before = case.host.interfaces()
    case.do(lambda: case.driver.create(case.network), lambda: case.driver.publish(case.network, case.endpoint))
    made = case.host.interfaces() - before
    assert set(case.host.call(lambda: case.driver.census([])).strays) == made, "what reconciling would remove"
    case.do(lambda: case.driver.reconcile([]))
    assert case.host.interfaces() == before
    census = case.host.call(lambda: case.driver.census([(case.network, [])]))
    assert census.strays == () and bool(census.missing) == (case.kind.driver in ("macvlan", "ipvlan") and bool(made))


def test_reconciling_takes_away_a_containers_link_that_was_moved_to_the_host(case: Case) -> None:
    """It is born in the container's namespace, and has the instance's mark wherever it goes."""
    if case.kind.driver not in ("macvlan", "ipvlan"):
        return
    case.do(lambda: case.driver.create(case.network))
    made = case.host.interfaces()
    setup = case.host.call(lambda: case.driver.plan(case.network, case.endpoint))
    join(case.host, case.host, replace(setup, inside=(), sysctls=()))
    assert "eth0" in case.host.interfaces()
    assert case.host.call(lambda: case.driver.census([(case.network, [])])) == Census(("eth0",), ("eth0",))
    case.do(lambda: case.driver.reconcile([(case.network, [])]))
    assert case.host.interfaces() == made


def test_reconciling_makes_what_is_known_again(case: Case) -> None:
    known = [(case.network, [case.endpoint])]
    case.do(lambda: case.driver.create(case.network), lambda: case.driver.publish(case.network, case.endpoint))
    made = case.seen()
    case.do(case.driver.clear)
    case.do(lambda: case.driver.reconcile(known))
    assert case.seen() == made
    case.do(lambda: case.driver.reconcile(known))
    assert case.seen() == made


def test_a_container_that_runs_is_not_disturbed_by_reconciling(case: Case) -> None:
    case.do(lambda: case.driver.create(case.network))
    case.join()
    before = held(case.container)
    assert case.host.call(lambda: case.driver.census([(case.network, [case.endpoint])])) == Census()
    case.do(lambda: case.driver.reconcile([(case.network, [case.endpoint])]))
    assert held(case.container) == before


def test_what_was_just_made_is_not_damaged(case: Case) -> None:
    driver, known = case.driver, [(case.network, [case.endpoint])]
    case.do(lambda: driver.create(case.network), lambda: driver.publish(case.network, case.endpoint))
    made = case.seen()
    assert case.host.call(lambda: driver.damage(known, rules=True)) == ()
    assert not case.host.call(driver.drifted)
    case.do(lambda: driver.reconcile(known, sweep=False))
    assert case.host.call(lambda: driver.damage(known, rules=True)) == ()
    assert case.seen() == made


def test_a_second_network_of_a_predefined_kind_is_refused(case: Case) -> None:
    case.driver.validate(case.network, ())
    other = Network("ef" * 32, "mine", case.driver.name)
    if case.driver.addressed:
        case.driver.validate(other, ())  # of these there may be many
        return
    with pytest.raises(PierheadError, match="only one instance of"):
        case.driver.validate(other, ())


def test_what_is_not_ours_stays(case: Case) -> None:
    def foreign() -> None:
        with Netlink() as netlink, open("/proc/thread-self/ns/net") as here:
            netlink.send(
                veth_into(
                    here.fileno(),
                    inside="theirs",
                    index=900,
                    mac="02:00:00:00:00:01",
                    mtu=1500,
                    outside="also",
                    group=7,
                )
            )

    case.do(foreign, lambda: case.driver.create(case.network))
    case.do(lambda: case.driver.reconcile([]), case.driver.clear)
    assert {"theirs", "also", "wire"} <= case.host.interfaces()

    def end() -> None:
        with Netlink() as netlink:
            netlink.send(link_delete("theirs"))

    case.do(end)


def test_a_link_that_another_driver_made_stays(case: Case) -> None:
    """All links of an instance carry one mark; each driver takes its own for its own."""
    others: list[NetworkDriver] = [make() for name, make in DRIVERS.items() if name != case.kind.driver]
    case.do(lambda: case.driver.create(case.network))
    made = case.host.interfaces()
    for other in others:
        case.do(lambda other=other: other.reconcile([], [case.network]))  # type: ignore[misc]
        assert case.host.interfaces() == made
        other.close()


@pytest.mark.parametrize(
    ("driver", "options", "said"),
    [
        ("bridge", {NAME: "a-name-that-is-too-long"}, "bridge.name"),
        ("bridge", {NAME: "a b"}, "bridge.name"),
        ("bridge", {"com.docker.network.driver.mtu": "many"}, "mtu"),
        ("bridge", {"com.docker.network.bridge.enable_icc": "perhaps"}, "enable_icc"),
        ("bridge", {"com.docker.network.bridge.gateway_mode_ipv4": "perhaps"}, "unknown gateway mode perhaps"),
        ("bridge", {"com.docker.network.bridge.gateway_mode_ipv4": "isolated"}, "internal network"),
        ("macvlan", {"macvlan_mode": "bridged"}, "requested macvlan mode 'bridged' is not valid, 'bridge' mode is the"),
        ("macvlan", {"parent": "lo"}, "loopback interface is not a valid macvlan parent link"),
        ("ipvlan", {"ipvlan_mode": "l4"}, "requested ipvlan mode 'l4' is not valid, 'l2' mode is the ipvlan driver"),
        ("ipvlan", {"ipvlan_flag": "open"}, "requested ipvlan flag 'open' is not valid, 'bridge' is the ipvlan"),
        ("ipvlan", {"parent": "lo"}, "loopback interface is not a valid ipvlan parent link"),
    ],
)
def test_an_option_that_cannot_be_served_is_refused(driver: str, options: dict[str, str], said: str) -> None:
    with pytest.raises(PierheadError, match=said):
        DRIVERS[driver]().validate(Network("ab" * 32, "x", driver, options=options), ())


def test_a_full_bridge_is_said_before_the_kernel_refuses_its_next_port() -> None:
    driver, network = DRIVERS["bridge"](), Network("ab" * 32, "x", "bridge")
    driver.room(network, 1022)
    with pytest.raises(PierheadError, match="1023 ports"):
        driver.room(network, 1023)
