"""A published port from everywhere: who may reach it does, and the container sees whom it should."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.echo import ask, server, silent
from tests.harness.engines import Engine
from tests.harness.engines import engine as started_engine
from tests.harness.kernel import need
from tests.harness.netns import World

NETWORKS = {
    # name: (subnets, the gateways that a container sees clients of the host as)
    "four": (["10.91.0.0/24"], ["10.91.0.1"]),
    "both": (["10.92.0.0/24", "fd92::/64"], ["10.92.0.1", "fd92::1"]),
    "six": (["fd93::/64"], ["fd93::1"]),
}
PORTS = {"four": 8081, "both": 8082, "six": 8083}
HOST4, HOST6 = "192.0.2.10", "2001:db8::10"
NEXT4, NEXT6 = "192.0.2.20", "2001:db8::20"
GATEWAY = "the network's gateway"


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
    ports = {f"{PORTS.get(network, 0)}/{proto}": {} for proto in ("tcp", "udp", "sctp")}
    id = engine.api.run("sleep", "1000", name=name, ExposedPorts=ports, HostConfig={"NetworkMode": network, **host})
    return Place(name, f"/proc/{engine.api.inspect(id)['State']['Pid']}/ns/net")


def made(engine: Engine, subnets: list[str], name: str) -> None:
    config = [{"Subnet": subnet} for subnet in subnets]
    body = {"Name": name, "EnableIPv6": any(":" in one for one in subnets), "IPAM": {"Config": config}}
    body["EnableIPv4"] = any(":" not in one for one in subnets)
    engine.api.ok("POST", "/networks/create", body)


def published(port: int) -> dict[str, object]:
    return {"PortBindings": {f"{port}/{proto}": [{"HostPort": str(port)}] for proto in ("tcp", "udp", "sctp")}}


@pytest.fixture(scope="module")
def street() -> Iterator[Street]:
    with started_engine("pierd") as engine:
        servers, others = {}, {}
        for name, (subnets, _) in NETWORKS.items():
            made(engine, subnets, name)
            servers[name] = place(engine, f"web-{name}", name, **published(PORTS[name]))
            others[name] = place(engine, f"other-{name}", name)
        yield Street(engine, servers, others)


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
]


@pytest.mark.parametrize("proto", ["tcp", "udp", "sctp"])
def test_a_published_port_answers_everyone_and_sees_whom_it_should(street: Street, bridge_nf: int, proto: str) -> None:
    if proto == "sctp":
        need("sctp")
    wrong = []
    with ExitStack() as stack:
        for name, port in PORTS.items():
            stack.enter_context(server(street.servers[name].netns, port, proto, street.servers[name].name))
        for network, who, address, seen in WAYS:
            answer = ask(street.client(who, network), address, PORTS[network], proto)
            wanted = NETWORKS[network][1] if seen == GATEWAY else [seen]
            if answer not in [f"{street.servers[network].name} {one}" for one in wanted]:
                wrong.append(f"{network}: {who} asks {address}: {answer or 'nothing'}, not {' or '.join(wanted)}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_what_is_not_published_answers_nobody_outside_its_network(street: Street, bridge_nf: int, proto: str) -> None:
    web = street.servers["both"]
    with server(web.netns, 8090, proto, web.name):
        for address in (HOST4, HOST6):
            assert silent(street.world.neighbour.path, address, 8090, proto)
        for address in ("10.92.0.2", "fd92::2"):
            assert ask(street.others["both"].netns, address, 8090, proto).startswith(web.name)
            assert silent(street.others["four"].netns, address, 8090, proto)
