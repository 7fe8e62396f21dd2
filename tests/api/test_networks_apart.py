"""A network that keeps its containers apart (icc off): of each other they reach what is published, and nothing else.

Bridged frames pass the host's rules in these tests, as in a fresh network namespace: Docker needs that to keep them
apart, and Pierhead has to serve published ports in spite of it (tests/kernel/test_publishing.py has both states).
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.harness.echo import ask, server, silent
from tests.harness.engines import Engine
from tests.harness.kernel import need
from tests.harness.processes import run, wait_until

HOST, OTHER_HOST, GATEWAY, WEB = "192.0.2.10", "192.168.122.1", "10.94.0.1", "10.94.0.2"
"""Two addresses of the host's, the network's gateway, its first container."""
BINDINGS = {
    "80/tcp": [{"HostPort": "8080"}],
    "81/tcp": [{"HostIp": HOST, "HostPort": "8081"}],
    "82/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8082"}],
    "80/udp": [{"HostPort": "8080"}],
    "81/udp": [{"HostIp": HOST, "HostPort": "8081"}],
    "82/udp": [{"HostIp": "127.0.0.1", "HostPort": "8082"}],
}


@dataclass(frozen=True, slots=True)
class House:
    """An engine with a server and a peer on the network, and a server on one like it. Each a network namespace."""

    engine: Engine
    web: str
    peer: str
    other: str


def place(engine: Engine, name: str, network: str, **bindings: Any) -> str:
    ports = {"ExposedPorts": {key: {} for key in bindings}, "HostConfig": {"PortBindings": bindings}}
    ports["HostConfig"]["NetworkMode"] = network
    id = engine.api.run("sleep", "1000", name=name, **ports)
    return f"/proc/{engine.api.inspect(id)['State']['Pid']}/ns/net"


@pytest.fixture
def house(engine: Engine) -> Iterator[House]:
    need("br_netfilter")
    for name, subnet in {"quiet": "10.94.0.0/24", "other": "10.95.0.0/24"}.items():
        options = {
            f"com.docker.network.bridge.{key}": value for key, value in (("enable_icc", "false"), ("name", name))
        }
        config = {"Name": name, "Options": options, "IPAM": {"Config": [{"Subnet": subnet}]}}
        engine.api.ok("POST", "/networks/create", config)
    assert engine.host.run("sysctl", "-n", "net.bridge.bridge-nf-call-iptables").stdout == "1\n"
    web = place(engine, "web", "quiet", **BINDINGS)
    peer = place(engine, "peer", "quiet")
    other = place(engine, "other", "other", **{"81/tcp": [{"HostIp": OTHER_HOST, "HostPort": "8081"}]})
    with ExitStack() as stack:
        for proto in ("tcp", "udp"):
            for port in (80, 81, 82, 83):
                stack.enter_context(server(web, port, proto, "web"))
        stack.enter_context(server(other, 81, name="other"))
        yield House(engine, web, peer, other)


REACHED = [
    # (address, port, protocol, what answers whom)
    (HOST, 8080, "tcp", f"web {GATEWAY}"),
    (GATEWAY, 8080, "tcp", f"web {GATEWAY}"),
    (GATEWAY, 8080, "udp", f"web {GATEWAY}"),  # at another address the answer of Docker's proxy comes from this one
    (HOST, 8081, "tcp", f"web {GATEWAY}"),
    (HOST, 8081, "udp", f"web {GATEWAY}"),
]
UNREACHED = [
    (address, port, proto)
    for proto in ("tcp", "udp")
    for address, port in [
        (HOST, 8082),  # published at 127.0.0.1
        (GATEWAY, 8082),
        (GATEWAY, 8081),  # published at another address
        (HOST, 8083),  # not published
    ]
]
DIRECTLY = [(WEB, port, proto) for proto in ("tcp", "udp") for port in (80, 82, 83)]
"""At the container's own address: published or not, a peer does not get there."""


def heard(*asked: tuple[str, str, int, str]) -> list[tuple[str, str, int, str]]:
    """Who of these clients (of an address, a port, a protocol) got an answer. All at once: silence is waited for."""
    with ThreadPoolExecutor(len(asked)) as pool:
        return [one for one, quiet in zip(asked, pool.map(lambda one: silent(*one), asked), strict=True) if not quiet]


def test_peers_reach_what_is_published_and_nothing_else(house: House) -> None:
    for client in (house.peer, house.web):
        for address, port, proto, answer in REACHED:
            assert ask(client, address, port, proto) == answer, (client, address, port, proto)
    shut = [(client, *one) for client in (house.peer, house.web) for one in UNREACHED]
    assert not heard(*shut, *((house.peer, *one) for one in DIRECTLY))
    # The same number at another address of the host's is another container's, on another network.
    assert ask(house.peer, OTHER_HOST, 8081).startswith("other")
    assert ask(house.other, HOST, 8081).startswith("web")
    assert ask(house.other, OTHER_HOST, 8081).startswith("other")
    # Nor the host's loopback: with NET_RAW a peer sends there, and the sockets that serve it are bound there, too.
    send_to_loopback(house)
    assert not heard(*((house.peer, "127.0.0.1", port, proto) for port in (8080, 8082) for proto in ("tcp", "udp")))


def send_to_loopback(house: House) -> None:
    """Let the peer's packets for 127.0.0.1 go out to its bridge's MAC address."""
    mac = house.engine.host.ip("-o", "link", "show", "quiet").stdout.split("link/ether ")[1][:17]
    for command in (
        "sysctl -q -w net.ipv4.conf.all.route_localnet=1",
        "ip address delete 127.0.0.1/8 dev lo",
        f"ip neigh replace 10.94.0.99 lladdr {mac} dev eth0",
        "ip route add 127.0.0.1/32 via 10.94.0.99 dev eth0 onlink",
    ):
        run(["nsenter", f"--net={house.peer}", "--", *command.split()]).check()


@pytest.mark.only_pierhead("Docker's containers end with its daemon, and it publishes nothing later")
def test_they_go_on_to_whatever_becomes_of_daemon_rules_ports_and_networks(house: House) -> None:
    engine, api = house.engine, house.engine.api

    def rules() -> str:
        return engine.host.run("nft", "list", "ruleset").check().stdout

    def works(answer: str = f"web {GATEWAY}") -> bool:
        found = [ask(house.peer, HOST, port, proto) for port in (8080, 8081) for proto in ("tcp", "udp")]
        return found == [answer] * 4 and not heard((house.peer, HOST, 8082, "tcp"), (house.peer, WEB, 80, "tcp"))

    before = rules()
    for end in (engine.stop, engine.kill):
        end()
        assert works(), "no daemon"
        engine.start()
        assert works() and rules() == before
    engine.host.run("nft", "flush", "ruleset").check()
    wait_until(lambda: rules() == before, "the rules")
    assert works()
    engine.pier("network", "reload").check()
    assert works() and rules() == before

    engine.pier("update", "--publish-add", f"{HOST}:8084:83", "web").check()
    assert ask(house.peer, HOST, 8084) == ask(house.web, HOST, 8084) == f"web {GATEWAY}"
    engine.pier("update", "--publish-rm", "8084", "web").check()
    assert silent(house.peer, HOST, 8084) and works() and rules() == before

    # Its ports go to a network without that option, and are of another network for the peer.
    api.ok("POST", "/networks/create", {"Name": "loud", "IPAM": {"Config": [{"Subnet": "10.96.0.0/24"}]}})
    api.ok("POST", "/networks/loud/connect", {"Container": "web"})
    api.ok("POST", "/networks/quiet/disconnect", {"Container": "web"})
    assert works("web 10.96.0.1") and WEB not in rules()
    api.ok("POST", "/networks/quiet/connect", {"Container": "web", "EndpointConfig": {"IPAMConfig": {}}})
    api.ok("POST", "/networks/loud/disconnect", {"Container": "web"})
    assert works()
    api.ok("DELETE", "/containers/web", force=1)
    assert silent(house.peer, HOST, 8080) and ". 8080-8080" not in rules()
