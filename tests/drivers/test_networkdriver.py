"""What every network driver promises: pure plans, idempotent effects, nothing left behind."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from pierhead.driver.networkdriver.api import Endpoint, Network, NetworkDriver, Pool, PortBinding
from pierhead.driver.networkdriver.bridge import NAME, BridgeDriver
from pierhead.driver.networkdriver.host import HostDriver
from pierhead.driver.networkdriver.none import NoneDriver
from pierhead.errors import PierheadError
from pierhead.linux.netlink import Netlink, link_delete, veth_into
from tests.harness.netns import Namespace, namespace

INSTANCE = "4d000001"


class Notes:
    """GraphDB's meta table, as a driver sees it."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def meta(self, key: str) -> str | None:
        return self.values.get(key)

    def set_meta(self, key: str, value: str) -> None:
        self.values[key] = value


@dataclass(frozen=True, slots=True)
class Case:
    driver: NetworkDriver
    network: Network
    endpoint: Endpoint
    host: Namespace

    def do(self, *works: Callable[[], object]) -> None:
        for work in works:
            self.host.call(work)

    def seen(self) -> tuple[str, ...]:
        """All that a driver could leave on the host."""
        return (
            self.host.ip("-br", "addr").stdout,
            self.host.run("nft", "-s", "list", "ruleset").stdout,
            self.host.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout,
            " ".join(sorted(self.host.interfaces())),
        )


def _network(driver: str) -> Network:
    if driver == "bridge":
        pool = Pool(IPv4Network("172.30.0.0/16"), IPv4Address("172.30.0.1"))
        return Network("ab" * 32, "bridge", "bridge", (pool,), options={NAME: "docker0"})
    return Network("cd" * 32, {"host": "host", "null": "none"}[driver], driver)


@pytest.fixture(params=["bridge", "host", "null"])
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    drivers: dict[str, Callable[[], NetworkDriver]] = {
        "bridge": lambda: BridgeDriver(INSTANCE, Notes()),
        "host": HostDriver,
        "null": NoneDriver,
    }
    driver = drivers[request.param]()
    bridged = request.param == "bridge"
    endpoint = Endpoint(
        "12" * 32,
        _network(request.param).id,
        "34" * 32,
        "eth0",
        "02:42:ac:1e:00:02" if bridged else "",
        IPv4Interface("172.30.0.2/16") if bridged else None,
        ports=(PortBinding("tcp", 80, 80, "", 8080, 8080), PortBinding("udp", 90, 99, "", 90, 99)) if bridged else (),
    )
    with namespace("h4d-host") as host:
        try:
            yield Case(driver, _network(request.param), endpoint, host)
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


def test_what_leads_outside_says_where_and_an_internal_network_leads_nowhere(case: Case) -> None:
    driver, network, endpoint = case.driver, case.network, case.endpoint
    gateways = tuple(pool.gateway for pool in network.pools)
    assert driver.outward(network) == driver.addressed
    assert driver.next_hops(network, endpoint) == gateways
    inside = replace(network, internal=True)
    assert not driver.outward(inside)
    assert driver.next_hops(inside, endpoint) == ()


def test_reconciling_with_nothing_leaves_no_network(case: Case) -> None:
    before = case.host.interfaces()
    case.do(lambda: case.driver.create(case.network), lambda: case.driver.publish(case.network, case.endpoint))
    case.do(lambda: case.driver.reconcile([]))
    assert case.host.interfaces() == before


def test_reconciling_makes_what_is_known_again(case: Case) -> None:
    known = [(case.network, [case.endpoint])]
    case.do(lambda: case.driver.create(case.network), lambda: case.driver.publish(case.network, case.endpoint))
    made = case.seen()
    case.do(case.driver.clear)
    case.do(lambda: case.driver.reconcile(known))
    assert case.seen() == made
    case.do(lambda: case.driver.reconcile(known))
    assert case.seen() == made


def test_a_second_network_of_a_predefined_kind_is_refused(case: Case) -> None:
    case.driver.validate(case.network, ())
    other = Network("ef" * 32, "mine", case.driver.name)
    if case.driver.name == "bridge":
        case.driver.validate(other, ())  # of bridges there may be many
        return
    with pytest.raises(PierheadError, match="only one instance of"):
        case.driver.validate(other, ())


@pytest.mark.parametrize(
    "options",
    [
        {NAME: "a-name-that-is-too-long"},
        {NAME: "a b"},
        {"com.docker.network.driver.mtu": "many"},
        {"com.docker.network.bridge.enable_icc": "perhaps"},
        {"com.docker.network.bridge.gateway_mode_ipv4": "routed"},
    ],
)
def test_a_bridge_option_that_cannot_be_served_is_refused(options: dict[str, str]) -> None:
    driver = BridgeDriver(INSTANCE, Notes())
    with pytest.raises(PierheadError):
        driver.validate(Network("ab" * 32, "x", "bridge", options=options), ())


def test_a_full_bridge_is_said_before_the_kernel_refuses_its_next_port() -> None:
    driver, network = BridgeDriver(INSTANCE, Notes()), _network("bridge")
    driver.room(network, 1022)
    with pytest.raises(PierheadError, match="1023 ports"):
        driver.room(network, 1023)


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
    assert {"theirs", "also"} <= case.host.interfaces()

    def end() -> None:
        with Netlink() as netlink:
            netlink.send(link_delete("theirs"))

    case.do(end)
