"""Addresses: nobody's subnet is touched, names keep theirs, and what is wrong is said in Docker's words."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pierhead.driver.networkdriver import ipam
from pierhead.driver.networkdriver.api import Pool
from pierhead.driver.networkdriver.ipam import AddressPool, Occupied, SubnetRequest
from pierhead.errors import Forbidden, InvalidParameter, PierheadError

POOLS = [*ipam.DOCKER_POOLS, *ipam.SMALL_POOLS]
POOL = Pool(IPv4Network("172.17.0.0/16"), IPv4Address("172.17.0.1"))


def chosen(taken: Iterable[IPv4Network | IPv6Network]) -> IPv4Network:
    found = ipam.choose(taken, POOLS)
    assert isinstance(found, IPv4Network)
    return found


def test_a_fresh_machine_gets_dockers_subnets_in_dockers_order() -> None:
    taken: list[IPv4Network] = []
    for _ in range(31):
        taken.append(chosen(taken))
    assert [str(one) for one in taken[:2]] == ["172.17.0.0/16", "172.18.0.0/16"]
    assert [str(one) for one in taken[14:17]] == ["172.31.0.0/16", "192.168.0.0/20", "192.168.16.0/20"]


def test_networks_do_not_run_out_at_docker_s_thirty_one() -> None:
    taken: list[IPv4Network] = []
    for _ in range(400):
        taken.append(chosen(taken))
    assert all(not a.overlaps(b) for at, a in enumerate(taken) for b in taken[:at])


def test_libvirts_bridge_and_a_vpn_are_left_alone() -> None:
    taken = [ip_network("192.168.122.0/24"), ip_network("172.16.0.0/12")]
    for _ in range(20):
        found = chosen(taken)
        assert not any(found.overlaps(prefix) for prefix in taken)  # type: ignore[arg-type]
        taken.append(found)
    assert ip_network("192.168.112.0/20") not in taken


def test_used_up_pools_are_an_error_that_says_whose_they_are_and_what_to_do() -> None:
    host = [Occupied(ip_network("172.16.0.0/12"), "a route through tun0", False)]
    pools = [AddressPool(ip_network("172.20.0.0/16"), 24), AddressPool(ip_network("10.9.0.0/23"), 24)]
    networks = [ip_network("10.9.0.0/24"), ip_network("10.9.1.0/24"), ip_network("10.80.0.0/16")]
    assert ipam.choose([*networks, *(one.prefix for one in host)], pools) is None
    with pytest.raises(
        InvalidParameter,
        match=r"all predefined address pools have been fully subnetted: 172\.20\.0\.0/16, 10\.9\.0\.0/23 held by "
        r"2 networks, 172\.16\.0\.0/12 of a route through tun0; .*--subnet.*--default-address-pool",
    ):
        raise ipam.exhausted(pools, networks, host)


def test_ipv6_subnets_are_the_instances_own() -> None:
    own = [ipam.unique_local_pool("0a1b2c3d")]
    first = ipam.choose([], own)
    assert first == IPv6Network("fd0a:1b2c:3d00::/64")
    assert ipam.choose([first], own) == IPv6Network("fd0a:1b2c:3d00:1::/64")
    assert ipam.choose([], [ipam.unique_local_pool("ffffffff")]) != first


@given(
    st.lists(st.tuples(st.integers(0, 1023), st.integers(22, 32)), max_size=30),
    st.integers(24, 28),
)
def test_what_is_chosen_is_the_first_that_is_free(held: list[tuple[int, int]], size: int) -> None:
    base = IPv4Network("10.0.0.0/22")
    taken = [ip_network((int(base.network_address) + at, length), strict=False) for at, length in held]
    free = [net for net in base.subnets(new_prefix=size) if not any(net.overlaps(one) for one in taken)]
    assert ipam.choose(taken, [AddressPool(base, size)]) == (free[0] if free else None)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (SubnetRequest("10.0.0.0"), "invalid subnet 10.0.0.0: invalid CIDR block notation"),
        (SubnetRequest("nonsense/24"), "invalid subnet nonsense/24: invalid CIDR block notation"),
        (SubnetRequest("127.0.9.0/24"), "invalid subnet 127.0.9.0/24: its addresses are no container's"),
        (SubnetRequest("224.0.0.0/24"), "invalid subnet 224.0.0.0/24: its addresses are no container's"),
        (SubnetRequest("0.0.0.0/0"), "invalid subnet 0.0.0.0/0: its addresses are no container's"),
        (SubnetRequest("10.0.0.5/24"), "invalid subnet 10.0.0.5/24: it should be 10.0.0.0/24"),
        (
            SubnetRequest("10.0.0.0/24", gateway="10.0.1.1"),
            "invalid gateway 10.0.1.1: parent subnet 10.0.0.0/24 doesn't",
        ),
        (SubnetRequest("10.0.0.0/24", gateway="x"), "invalid gateway x: invalid address"),
        (SubnetRequest("10.0.0.0/24", gateway="fd00::1"), "invalid gateway fd00::1: parent subnet is an IPv4 block"),
        (SubnetRequest("10.0.0.0/24", "10.0.0.0/16"), "CIDR block is bigger than its parent subnet 10.0.0.0/24"),
        (SubnetRequest("10.0.0.0/24", "10.0.1.0/25"), "parent subnet 10.0.0.0/24 doesn't contain ip-range"),
        (SubnetRequest("10.0.0.0/24", "10.0.0.9/25"), "invalid ip-range 10.0.0.9/25: it should be 10.0.0.0/25"),
        (SubnetRequest("10.0.0.0/24", aux={"r": "10.1.0.1"}), "invalid auxiliary address r: parent subnet"),
    ],
)
def test_a_wrong_subnet_is_refused_and_says_why(request_: SubnetRequest, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        ipam.parse([request_], ipv6=False)
    assert message in str(caught.value)


def test_an_ipv6_subnet_counts_only_with_ipv6() -> None:
    asked = [SubnetRequest("10.0.0.0/24"), SubnetRequest("fd00::/64")]
    assert [str(pool.subnet) for pool in ipam.parse(asked, ipv6=False)] == ["10.0.0.0/24"]
    assert [str(pool.subnet) for pool in ipam.parse(asked, ipv6=True)] == ["10.0.0.0/24", "fd00::/64"]


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidParameter) as caught:
        ipam.parse([SubnetRequest("a/1"), SubnetRequest("10.0.0.1/24")], ipv6=False)
    assert str(caught.value).count("\n") == 2


def test_an_overlap_names_whose_subnet_it_is() -> None:
    pool = Pool(IPv4Network("10.1.0.0/16"))
    with pytest.raises(
        Forbidden, match=r"Pool overlaps with other one on this address space.*10\.1\.2\.0/24 of network web"
    ):
        ipam.refuse_overlap(pool, {"10.1.2.0/24": "web"}, [])
    with pytest.raises(Forbidden, match="interface virbr0"):
        ipam.refuse_overlap(pool, {}, [Occupied(ip_network("10.1.0.0/24"), "interface virbr0", True)])
    # A route of a VPN is wider than what the user asks for and goes on for the rest.
    ipam.refuse_overlap(pool, {}, [Occupied(ip_network("10.0.0.0/8"), "a route through tun0", False)])


def test_the_gateway_is_the_first_address_that_is_free() -> None:
    assert ipam.complete(Pool(IPv4Network("10.0.0.0/24"))).gateway == IPv4Address("10.0.0.1")
    assert ipam.complete(Pool(IPv4Network("10.0.0.0/24"), aux={"r": IPv4Address("10.0.0.1")})).gateway == IPv4Address(
        "10.0.0.2"
    )
    kept = Pool(IPv4Network("10.0.0.0/24"), IPv4Address("10.0.0.254"))
    assert ipam.complete(kept) == kept
    assert ipam.complete(Pool(IPv4Network("10.0.0.0/31"))).gateway == IPv4Address("10.0.0.0")


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (Pool(IPv4Network("10.0.0.0/24"), IPv4Address("10.0.0.0")), "gateway (10.0.0.0): Address already in use"),
        (Pool(IPv4Network("10.0.0.0/24"), IPv4Address("10.0.0.255")), "gateway (10.0.0.255): Address already in use"),
        (
            Pool(IPv4Network("10.0.0.0/24"), IPv4Address("10.0.0.9"), aux={"r": IPv4Address("10.0.0.9")}),
            "secondary ip address (r:10.0.0.9): Address already in use",
        ),
        (
            Pool(IPv4Network("10.0.0.0/24"), aux={"r": IPv4Address("10.0.0.9"), "s": IPv4Address("10.0.0.9")}),
            "secondary ip address (s:10.0.0.9): Address already in use",
        ),
        (
            Pool(IPv4Network("10.0.0.0/30"), aux={"r": IPv4Address("10.0.0.1"), "s": IPv4Address("10.0.0.2")}),
            "gateway (): no available addresses on this pool",
        ),
    ],
)
def test_a_gateway_or_auxiliary_address_that_cannot_be_had_is_refused(pool: Pool, message: str) -> None:
    with pytest.raises(PierheadError) as caught:
        ipam.complete(pool)
    assert message in str(caught.value)


def test_the_lowest_free_address_is_given_first() -> None:
    address, _ = ipam.allocate([POOL], ["172.17.0.2", "172.17.0.4"]) or (None, None)
    assert str(address) == "172.17.0.3"


def test_a_restarted_name_gets_its_own_address_again() -> None:
    found = ipam.allocate([POOL], ["172.17.0.2"], own=["172.17.0.9"], resting={"172.17.0.9": 1})
    assert found is not None and str(found[0]) == "172.17.0.9"
    taken = ipam.allocate([POOL], ["172.17.0.9"], own=["172.17.0.9"], resting={"172.17.0.9": 1})
    assert taken is not None and str(taken[0]) == "172.17.0.2"


def test_a_stopped_names_address_is_the_last_to_be_handed_out() -> None:
    small = Pool(IPv4Network("10.0.0.0/29"), IPv4Address("10.0.0.1"))  # .2 to .6
    resting = {"10.0.0.2": 20, "10.0.0.3": 10}
    used: list[str] = []
    order = []
    while (found := ipam.allocate([small], used, resting=resting)) is not None:
        order.append(str(found[0]))
        used.append(order[-1])
    assert order == ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.3", "10.0.0.2"]


def test_a_range_limits_what_is_handed_out_but_not_what_may_be_asked_for() -> None:
    pool = Pool(IPv4Network("10.0.0.0/24"), IPv4Address("10.0.0.1"), IPv4Network("10.0.0.128/31"))
    assert [str(one[0]) for used in ([], ["10.0.0.128"]) if (one := ipam.allocate([pool], used))] == [
        "10.0.0.128",
        "10.0.0.129",
    ]
    assert ipam.allocate([pool], ["10.0.0.128", "10.0.0.129"]) is None
    assert ipam.claim([pool], [], ip_address("10.0.0.7")) == pool


@pytest.mark.parametrize("address", ["172.17.0.1", "172.17.0.0", "172.17.255.255", "172.17.0.9"])
def test_an_explicit_address_that_is_taken_is_refused(address: str) -> None:
    with pytest.raises(Forbidden, match=r"^Address already in use$"):
        ipam.claim([POOL], ["172.17.0.9"], ip_address(address))


def test_an_explicit_address_outside_is_refused() -> None:
    with pytest.raises(InvalidParameter, match=r"no configured subnet or ip-range contain the IP address 10\.0\.0\.1"):
        ipam.claim([POOL], [], ip_address("10.0.0.1"))


@given(st.sets(st.integers(1, 14)), st.dictionaries(st.integers(1, 14), st.integers(0, 99)))
def test_no_address_is_ever_given_twice(used: set[int], resting: dict[int, int]) -> None:
    pool = Pool(IPv4Network("10.0.0.0/28"), IPv4Address("10.0.0.1"))
    taken = {f"10.0.0.{number}" for number in used}
    found = ipam.allocate([pool], taken, resting={f"10.0.0.{number}": at for number, at in resting.items()})
    free = {f"10.0.0.{number}" for number in range(2, 15)} - taken
    if not free:
        assert found is None
    else:
        assert found is not None and str(found[0]) in free


def test_the_mac_follows_the_address() -> None:
    assert ipam.mac(IPv4Address("172.17.0.2")) == "02:42:ac:11:00:02"
