"""A published port from everywhere: who may reach it does, and the container sees whom it should."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.echo import ask, server, silent
from tests.harness.engines import Engine, Pierd
from tests.harness.engines import engine as started_engine
from tests.harness.kernel import need
from tests.harness.netns import World
from tests.harness.processes import wait_until

NETWORKS = {
    # name: (subnets, the gateways that a container sees clients of the host as)
    "four": (["10.91.0.0/24"], ["10.91.0.1"]),
    "both": (["10.92.0.0/24", "fd92::/64"], ["10.92.0.1", "fd92::1"]),
    "six": (["fd93::/64"], ["fd93::1"]),
    "apart": (["10.94.0.0/24", "fd94::/64"], ["10.94.0.1", "fd94::1"]),
}
OPTIONS = {"apart": {"com.docker.network.bridge.enable_icc": "false"}}
PORTS = {"four": 8081, "both": 8082, "six": 8083, "apart": 8084}
HOST4, HOST6 = "192.0.2.10", "2001:db8::10"
NEXT4, NEXT6 = "192.0.2.20", "2001:db8::20"
GATEWAY = "the network's gateway"
NOBODY = "nobody: it is not served"


@dataclass(frozen=True, slots=True)
class Place:
    """A container as a test needs it."""

    name: str
    netns: str


@dataclass(frozen=True, slots=True)
class Street:
    """An engine with a server and a neighbour of it on each network."""

    engine: Engine
    servers: dict[str, Place]
    others: dict[str, Place]

    @property
    def world(self) -> World:
        return self.engine.world

    def client(self, who: str, network: str) -> str:
        """The network namespace of a client of a network's server."""
        places = {
            "host": self.world.host.path,
            "another host": self.world.neighbour.path,
            "itself": self.servers[network].netns,
            "the same network": self.others[network].netns,
            "another network": self.others["four" if network == "both" else "both"].netns,
        }
        return places[who]


def place(engine: Engine, name: str, network: str, **host: object) -> Place:
    id = engine.api.run("sleep", "1000", name=name, HostConfig={"NetworkMode": network, **host})
    return Place(name, f"/proc/{engine.api.inspect(id)['State']['Pid']}/ns/net")


def made(engine: Engine, subnets: list[str], name: str) -> None:
    config = [{"Subnet": subnet} for subnet in subnets]
    body = {"Name": name, "EnableIPv6": any(":" in one for one in subnets), "IPAM": {"Config": config}}
    body["Options"] = OPTIONS.get(name, {})
    body["EnableIPv4"] = any(":" not in one for one in subnets)
    engine.api.ok("POST", "/networks/create", body)


def published(port: int) -> dict[str, object]:
    return {"PortBindings": {f"{port}/{proto}": [{"HostPort": str(port)}] for proto in ("tcp", "udp", "sctp")}}


@contextmanager
def living(*flags: str) -> Iterator[Street]:
    with started_engine("pierd", flags) as engine:
        servers, others = {}, {}
        for name, (subnets, _) in NETWORKS.items():
            made(engine, subnets, name)
            servers[name] = place(engine, f"web-{name}", name, **published(PORTS[name]))
            others[name] = place(engine, f"other-{name}", name)
        yield Street(engine, servers, others)


@pytest.fixture(scope="module")
def street() -> Iterator[Street]:
    with living() as made:
        yield made


@pytest.fixture(params=[0, 1], ids=["br_netfilter off", "br_netfilter on"])
def bridge_nf(request: pytest.FixtureRequest, street: Street) -> Iterator[int]:
    """Bridged frames pass the IP hooks, or do not; nothing may depend on it."""
    files = [Path(f"/proc/sys/net/bridge/bridge-nf-call-{name}") for name in ("iptables", "ip6tables")]

    def write(value: int) -> Callable[[], None]:
        def work() -> None:
            for file in files:
                file.write_text(str(value))

        return work

    host = street.world.host
    if not host.call(files[0].exists):
        if request.param:
            need("br_netfilter")
        yield 0
        return
    host.call(write(request.param))
    wait_until(lambda: ("@apart" in host.run("nft", "list", "ruleset").stdout) == bool(request.param), "fitting rules")
    yield request.param
    host.call(write(0))


WAYS = [
    # (network of the server, client, address it asks, whom the server sees)
    ("four", "host", "127.0.0.1", GATEWAY),
    ("four", "host", "::1", GATEWAY),
    ("four", "host", HOST4, GATEWAY),
    ("four", "host", HOST6, GATEWAY),
    ("four", "host", "10.91.0.1", GATEWAY),
    ("four", "host", "192.168.122.1", GATEWAY),
    ("four", "another host", HOST4, NEXT4),
    ("four", "another host", HOST6, GATEWAY),
    ("four", "the same network", HOST4, GATEWAY),
    ("four", "another network", HOST4, "10.91.0.1"),
    ("four", "another network", HOST6, GATEWAY),
    ("four", "itself", HOST4, GATEWAY),
    ("four", "itself", "10.91.0.1", GATEWAY),
    ("both", "host", "127.0.0.1", GATEWAY),
    ("both", "host", "::1", GATEWAY),
    ("both", "host", HOST4, GATEWAY),
    ("both", "host", HOST6, GATEWAY),
    ("both", "host", "fd92::1", GATEWAY),
    ("both", "another host", HOST4, NEXT4),
    ("both", "another host", HOST6, NEXT6),
    ("both", "the same network", HOST4, GATEWAY),
    ("both", "the same network", HOST6, GATEWAY),
    ("both", "another network", HOST4, GATEWAY),
    ("both", "itself", HOST4, GATEWAY),
    ("both", "itself", HOST6, GATEWAY),
    ("six", "host", "127.0.0.1", GATEWAY),
    ("six", "host", "::1", GATEWAY),
    ("six", "host", HOST4, GATEWAY),
    ("six", "host", HOST6, GATEWAY),
    ("six", "another host", HOST4, GATEWAY),
    ("six", "another host", HOST6, NEXT6),
    ("six", "the same network", HOST6, GATEWAY),
    ("six", "another network", HOST6, GATEWAY),
    ("six", "another network", HOST4, GATEWAY),
    ("six", "itself", HOST6, GATEWAY),
    ("apart", "host", "127.0.0.1", GATEWAY),
    ("apart", "another host", HOST4, NEXT4),
    ("apart", "another host", HOST6, NEXT6),
    ("apart", "the same network", HOST4, GATEWAY),
    ("apart", "the same network", HOST6, GATEWAY),
    ("apart", "the same network", "10.94.0.1", GATEWAY),
    ("apart", "another network", HOST4, GATEWAY),
    ("apart", "itself", HOST4, GATEWAY),
    ("apart", "itself", HOST6, GATEWAY),
]
FROM_THE_BRIDGE = {("six", "another network", HOST4)} | {
    ("apart", who, address) for who in ("the same network", "itself") for address in (HOST4, HOST6)
}
"""An SCTP listener of the engine's answers from the bridge's address: a container's association knows none such."""


def wrong_answers(street: Street, proto: str, outside: str = "") -> list[str]:
    """What is not as WAYS says. outside: what a client from outside is seen as instead, or that it is not served."""
    wrong = []
    with ExitStack() as stack:
        for name, port in PORTS.items():
            stack.enter_context(server(street.servers[name].netns, port, proto, street.servers[name].name))
        for network, who, address, usual in WAYS:
            if proto == "sctp" and (network, who, address) in FROM_THE_BRIDGE:
                continue
            seen = outside or usual if who == "another host" else usual
            patience = 0.5 if seen == NOBODY else 10
            answer = ask(street.client(who, network), address, PORTS[network], proto, patience)
            wanted = NETWORKS[network][1] if seen == GATEWAY else [seen]
            possible = [""] if seen == NOBODY else [f"{street.servers[network].name} {one}" for one in wanted]
            if answer not in possible:
                wrong.append(f"{network}: {who} asks {address}: {answer or 'nothing'}, not {' or '.join(wanted)}")
    return wrong


@pytest.mark.parametrize("proto", ["tcp", "udp", "sctp"])
def test_a_published_port_answers_everyone_and_sees_whom_it_should(street: Street, bridge_nf: int, proto: str) -> None:
    """CVE-2021-20199: to the container, who came from outside seemed to be 127.0.0.1."""
    if proto == "sctp":
        need("sctp")
    assert not wrong_answers(street, proto)


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_what_is_not_published_answers_nobody_outside_its_network(street: Street, bridge_nf: int, proto: str) -> None:
    web = street.servers["both"]
    with server(web.netns, 8090, proto, web.name):
        for address in (HOST4, HOST6):
            assert silent(street.world.neighbour.path, address, 8090, proto)
        for address in ("10.92.0.2", "fd92::2"):
            assert ask(street.others["both"].netns, address, 8090, proto).startswith(web.name)
            assert silent(street.others["four"].netns, address, 8090, proto)


# Publish policies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "outside"), [("firewall", GATEWAY), ("local", NOBODY)])
def test_a_policy_serves_the_outside_otherwise_and_everybody_else_as_ever(policy: str, outside: str) -> None:
    with living("--publish-policy", policy) as street:
        for proto in ("tcp", "udp"):
            assert not wrong_answers(street, proto, outside)


def test_the_hosts_input_rules_decide_under_the_policy_firewall() -> None:
    rules = """
    table inet filter {
    chain input {
        type filter hook input priority 0; policy drop;
        iifname != "ens33" accept
        meta l4proto ipv6-icmp accept
        ct state established,related accept
        tcp dport 8082 accept
    }
    }
    """
    with living("--publish-policy", "firewall") as street, ExitStack() as stack:
        for name, port in PORTS.items():
            stack.enter_context(server(street.servers[name].netns, port, name=name))
        street.world.host.run("nft", "-f", "-", stdin=rules.encode()).check()
        try:
            outside, host = street.world.neighbour.path, street.world.host.path
            for address in (HOST4, HOST6):
                assert silent(outside, address, 8081) and silent(outside, address, 8083)
                assert ask(outside, address, 8082).startswith("both")
                assert ask(host, address, 8081).startswith("four"), "the host itself"
            assert ask(street.others["four"].netns, HOST4, 8081).startswith("four"), "a container"
        finally:
            street.world.host.run("nft", "delete", "table", "inet", "filter").check()
        assert ask(street.world.neighbour.path, HOST4, 8081).startswith("four")


def test_the_policy_local_closes_no_port_of_the_hosts_own() -> None:
    with started_engine("pierd", ("--publish-policy", "local")) as engine:
        binding = {"8080/tcp": [{"HostIp": "::1", "HostPort": "8080"}]}
        web = place(engine, "web", "bridge", PortBindings=binding)
        outside, host = engine.world.neighbour.path, engine.host.path

        def own() -> socket.socket:
            listener = socket.socket(socket.AF_INET6)
            listener.bind((HOST6, 8080))
            listener.listen()
            return listener

        with server(web.netns, 8080, name="web"), engine.host.call(own) as listener:
            assert ask(host, "::1", 8080).startswith("web")
            with engine.world.neighbour.connect(HOST6, 8080):
                listener.accept()[0].close()
        assert silent(outside, HOST4, 8080)


def test_a_policy_that_changes_holds_for_running_containers_too(pierd: Pierd) -> None:
    web = place(pierd, "web", "bridge", **published(8081))
    outside, host = pierd.world.neighbour.path, pierd.host.path
    with server(web.netns, 8081, name="tcp"), server(web.netns, 8081, "udp", name="udp"):
        for policy, seen in [("any", NEXT4), ("firewall", "172.17.0.1"), ("local", ""), ("any", NEXT4)]:
            pierd.stop()
            pierd.start("--publish-policy", policy)
            for proto in ("tcp", "udp"):
                patience = 10 if seen else 0.5
                assert ask(outside, HOST4, 8081, proto, patience) == (f"{proto} {seen}" if seen else ""), policy
                assert ask(outside, HOST6, 8081, proto, patience).startswith(proto if seen else ""), policy
                assert bool(ask(outside, HOST6, 8081, proto, patience)) is bool(seen), policy
                assert ask(host, "::1", 8081, proto) == f"{proto} 172.17.0.1", policy


def test_an_unknown_policy_is_refused(pierd: Pierd) -> None:
    said = pierd.host.run(*pierd.argv(), "--publish-policy", "none")
    assert said.status == 1 and 'invalid publish policy: "none" (any, firewall or local)' in said.stderr
