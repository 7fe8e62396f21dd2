"""``pier network check`` is right: in set-ups that are broken on purpose, one thing each, and where nothing is broken.

Every verdict is held against what really happens: the same connection is tried from the same place.
"""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.harness.engines import Engine, Pierd
from tests.harness.engines import engine as started_engine
from tests.harness.kernel import need
from tests.harness.netns import Namespace, call_in
from tests.harness.processes import Output, run, wait_until

pytestmark = pytest.mark.only_pierhead("Docker does not say where it ends")

PATIENCE = 3.0
"""Seconds after which an attempt is taken to have failed."""
BRIEFLY = 1.0
"""The same where the same attempt has been seen to succeed, or is said to fail."""


@dataclass
class Scene:
    """An engine, and what a case does in it."""

    engine: Engine
    servers: list[socket.socket] = field(default_factory=list)
    datagrams: list[socket.socket] = field(default_factory=list)
    patience: float = PATIENCE

    def network(self, name: str, subnet: str = "", **config: object) -> None:
        ipam = {"IPAM": {"Driver": "default", "Config": [{"Subnet": subnet}]}} if subnet else {}
        self.engine.api.ok("POST", "/networks/create", {"Name": name, **ipam, **config})

    def dual(self, name: str) -> None:
        """A network of both families."""
        subnets = [{"Subnet": "10.215.0.0/24"}, {"Subnet": "fd00:215::/64"}]
        ipam = {"Driver": "default", "Config": subnets}
        self.engine.api.ok("POST", "/networks/create", {"Name": name, "EnableIPv6": True, "IPAM": ipam})

    def run(self, name: str, network: str = "bridge", *command: str, image: str = "web", **config: Any) -> str:
        """A container; of the image "web" it has a server on 8080, which is waited for."""
        host = {"NetworkMode": network, **config.pop("HostConfig", {})}
        id = self.engine.api.run(*command, image=image, name=name, HostConfig=host, **config)
        if image == "web" and not command:
            wait_until(lambda: self.listens(name), f"the server of {name}")
        return id

    def listens(self, name: str) -> bool:
        [found] = [one for one in self.map["containers"] if one["name"] == name]
        return bool(found["listeners"])

    @property
    def map(self) -> Any:
        return self.engine.api.get("/pierhead/network/map")

    def space(self, name: str) -> str:
        """The path of a container's network namespace."""
        return f"/proc/{self.engine.api.inspect(name)['State']['Pid']}/ns/net"

    def inside(self, name: str, *command: str) -> Output:
        """A command of the host's, within a container's network namespace."""
        return run(["nsenter", f"--net={self.space(name)}", "--", *command]).check()

    def address(self, name: str, network: str = "bridge") -> str:
        return str(self.engine.api.inspect(name)["NetworkSettings"]["Networks"][network]["IPAddress"])

    def bridge(self, network: str) -> str:
        [found] = [one["interface"] for one in self.map["networks"] if one["name"] == network]
        return str(found)

    def cable(self, name: str) -> str:
        """The host's end of a container's cable."""
        [id] = [one["id"] for one in self.map["containers"] if one["name"] == name]
        ends = [one for each in self.map["networks"] for one in each["attachments"] if one["container"] == id]
        return str(ends[0]["outside"])

    @property
    def table(self) -> str:
        """The engine's own nft table."""
        assert isinstance(self.engine, Pierd)
        return f"inet pierhead-{self.engine.instance}"

    def nft(self, rules: str) -> None:
        self.engine.host.run("nft", "-f", "-", stdin=rules.encode()).check()

    def sysctl(self, key: str, value: str) -> None:
        self.engine.host.run("sh", "-c", f"echo {value} > /proc/sys/net/{key}").check()

    def serve(self, at: Namespace, port: int) -> None:
        """A server on a machine (not in a container) until the case ends."""
        server = at.call(lambda: socket.create_server(("0.0.0.0", port)))
        self.servers.append(server)

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()

    # What really happens

    def get(self, space: str, address: str, port: int, path: str = "/") -> bool:
        """Whether a web page comes whole, asked for from a network namespace."""

        def inside() -> bool:
            try:
                with socket.create_connection((address, port), self.patience) as connection:
                    connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                    answer = b""
                    while chunk := connection.recv(65536):
                        answer += chunk
            except OSError:
                return False
            length = [line for line in answer.split(b"\r\n") if line.lower().startswith(b"content-length:")]
            body = answer.partition(b"\r\n\r\n")[2]
            return b"200 OK" in answer and (not length or len(body) == int(length[0].split(b":")[1]))

        return call_in(space, inside)

    def from_container(self, name: str, address: str, port: int, path: str = "/") -> bool:
        return self.get(self.space(name), address, port, path)

    def from_host(self, address: str, port: int) -> bool:
        return self.get(self.engine.host.path, address, port)

    def from_outside(self, port: int, address: str = "") -> bool:
        return self.get(self.engine.world.neighbour.path, address or self.engine.world.host_address, port)

    def by_name(self, name: str, target: str, port: int) -> bool:
        """As a program in the container does it."""
        command = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w {self.patience:.0f} {target} {port}"
        return "200 OK" in self.engine.pier("exec", name, "sh", "-c", command).stdout

    def datagram(self, name: str, address: str, port: int) -> bool:
        """Whether something answers a datagram, or at least nobody refuses it."""

        def inside() -> bool:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(self.patience)
                client.connect((address, port))
                try:
                    client.send(b"?")
                    return bool(client.recv(10))
                except OSError:
                    return False

        return call_in(self.space(name), inside)

    def answer_datagrams(self, name: str, port: int) -> None:
        """A server for datagrams in a container's namespace, until the case ends."""
        server = call_in(self.space(name), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        server.bind(("0.0.0.0", port))
        self.datagrams.append(server)

        def answer() -> None:
            try:
                while True:
                    data, client = server.recvfrom(100)
                    if client is None:
                        return  # shut down
                    server.sendto(data, client)
            except OSError:
                return

        threading.Thread(target=answer, daemon=True).start()

    def ping(self, name: str, address: str) -> bool:
        return self.engine.pier("exec", name, "ping", "-c", "1", "-W", f"{self.patience:.0f}", address).status == 0

    def check(self, source: str, destination: str) -> Any:
        """What the command says, whose exit status must be its verdict."""
        said = self.engine.pier("network", "check", "--format", "json", source, destination)
        assert said.stdout, said.stderr
        found = json.loads(said.stdout)
        assert said.status == (0 if found["reachable"] else 1)
        return found


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[Engine]:
    """A daemon that leaves what these tests break as it is."""
    with started_engine("pierd", ("--mend-networks=false",)) as made:
        yield made


@pytest.fixture
def scene(engine: Engine) -> Iterator[Scene]:
    made = Scene(engine)
    try:
        yield made
    finally:
        for server in made.servers:
            server.shutdown(socket.SHUT_RDWR)  # whoever waits in accept keeps it open otherwise
            server.close()
        for server in made.datagrams:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()


Do = Callable[[Scene], object]
Try = Callable[[Scene], bool]


@dataclass(frozen=True, slots=True)
class Case:
    """given: the set-up.  broken: what is broken in it (nothing: it never worked), healed: what a test has to undo on
    the host.  ends: the step at which it ends; says: words of the reason, and of the remedy.  real: the attempt."""

    given: Do
    source: str
    destination: str | Callable[[Scene], str]
    ends: str
    says: tuple[str, ...]
    real: Try
    broken: Do | None = None
    healed: Do | None = None

    def aim(self, scene: Scene) -> str:
        return self.destination if isinstance(self.destination, str) else self.destination(scene)


def two(scene: Scene) -> None:
    """one and two, with servers, in network n1."""
    scene.network("n1", "10.213.0.0/24")
    scene.run("one", "n1")
    scene.run("two", "n1")


def both(first: Do, *others: Do) -> Do:
    return lambda scene: [do(scene) for do in (first, *others)]


def published(**binding: str) -> dict[str, object]:
    return {"HostConfig": {"PortBindings": {"8080/tcp": [binding]}}}


def web(scene: Scene) -> None:
    """A server on the default bridge, published on 8120."""
    scene.run("shop", **published(HostPort="8120"))


def world_server(scene: Scene) -> None:
    """A server on another machine, on port 8130."""
    scene.serve(scene.engine.world.neighbour, 8130)


def one_to_two(scene: Scene) -> bool:
    return scene.from_container("one", "10.213.0.3", 8080)


def one_to_world(scene: Scene) -> bool:
    return scene.from_container("one", "192.0.2.20", 8130)


def web_from_outside(scene: Scene) -> bool:
    return scene.from_outside(8120)


BRIDGE = "com.docker.network.bridge."
DROP = "table inet guard {{\n chain {hook} {{\n type filter hook {hook} priority 0; {rule};\n }}\n}}"
GUARD_GONE = "delete table inet guard"

BROKEN: dict[str, Case] = {
    # The listener
    "nothing listens": Case(
        two,
        "one",
        "two:81",
        "listener",
        ("nothing listens on 81/tcp in two", "listens on 8080/tcp"),
        lambda s: s.from_container("one", "10.213.0.3", 81),
    ),
    "it listens on loopback only": Case(
        both(
            two,
            lambda s: s.engine.pier("exec", "-d", "two", "httpd", "-f", "-p", "127.0.0.1:82", "-h", "/www").check(),
            lambda s: wait_until(lambda: s.from_container("two", "127.0.0.1", 82), "the second server"),
        ),
        "one",
        "two:82",
        "listener",
        ("at 127.0.0.1 only", "0.0.0.0"),
        lambda s: s.from_container("one", "10.213.0.3", 82),
    ),
    "the other protocol": Case(
        two,
        "one",
        "two:8080/udp",
        "listener",
        ("nothing listens on 8080/udp", "something does on 8080/tcp"),
        lambda s: s.datagram("one", "10.213.0.3", 8080),
    ),
    "published, and it listens on loopback only": Case(
        lambda s: s.run("shop", "bridge", "httpd", "-f", "-p", "127.0.0.1:8080", **published(HostPort="8120")),
        "outside",
        "shop:8080",
        "listener",
        ("at 127.0.0.1 only",),
        web_from_outside,
    ),
    "the other side is paused": Case(
        two,
        "one",
        "two:8080",
        "listener",
        ("two is paused", "pier unpause two"),
        one_to_two,
        lambda s: s.engine.api.ok("POST", "/containers/two/pause"),
        lambda s: s.engine.api.ok("POST", "/containers/two/unpause"),
    ),
    # The name
    "nobody is called so": Case(
        lambda s: s.run("one", "inner", "sleep", "1000") if s.network("inner", Internal=True) is None else None,
        "one",
        "nobody:8080",
        "name",
        ("no container in its networks is called nobody",),
        lambda s: s.by_name("one", "nobody", 8080),
    ),
    "names on the default bridge": Case(
        both(web, lambda s: s.run("one", "bridge", "sleep", "1000")),
        "one",
        "shop:8080",
        "name",
        ("containers have no names", "pier network create"),
        lambda s: s.by_name("one", "shop", 8080),
    ),
    "another network, by name": Case(
        both(two, lambda s: s.network("n2"), lambda s: s.run("three", "n2")),
        "one",
        "three:8080",
        "name",
        ("no network in common", "pier network connect n2 one"),
        lambda s: s.by_name("one", "three", 8080),
    ),
    "the other side is stopped": Case(
        two,
        "one",
        "two:8080",
        "name",
        ("two is not running", "pier start two"),
        lambda s: s.by_name("one", "two", 8080),
        lambda s: s.engine.api.ok("POST", "/containers/two/stop", t=0),
    ),
    "no name server answers": Case(
        lambda s: s.run("one", "n1", HostConfig={"Dns": ["192.0.2.20"]}) if s.network("n1") is None else None,
        "one",
        "www.example.test:80",
        "name",
        ("nobody tells one what www.example.test is",),
        lambda s: s.by_name("one", "www.example.test", 80),
    ),
    "the way to the name server is flushed": Case(
        two,
        "one",
        "two:8080",
        "name",
        ("127.0.0.11:53", "missing", "pier network reload"),
        lambda s: s.by_name("one", "two", 8080),
        lambda s: s.inside("one", "nft", "flush", "ruleset"),
    ),
    # The source
    "the source is stopped": Case(
        two,
        "one",
        "two:8080",
        "source",
        ("one is not running", "pier start one"),
        lambda s: s.engine.pier("exec", "one", "true").status == 0,
        lambda s: s.engine.api.ok("POST", "/containers/one/stop", t=0),
    ),
    "the source is paused": Case(
        two,
        "one",
        "two:8080",
        "source",
        ("one is paused", "pier unpause one"),
        lambda s: s.engine.pier("exec", "one", "true").status == 0,
        lambda s: s.engine.api.ok("POST", "/containers/one/pause"),
        lambda s: s.engine.api.ok("POST", "/containers/one/unpause"),
    ),
    # The route
    "the source has no default route": Case(
        both(two, world_server),
        "one",
        "192.0.2.20:8130",
        "route",
        ("its default route is missing", "pier restart one"),
        one_to_world,
        lambda s: s.inside("one", "ip", "route", "delete", "default"),
    ),
    "the other side has no way back": Case(
        web,
        "outside",
        "shop:8080",
        "route",
        ("no answer comes back", "its default route is missing"),
        web_from_outside,
        lambda s: s.inside("shop", "ip", "route", "delete", "default"),
    ),
    "an internal network, to the outside": Case(
        both(lambda s: s.network("inner", Internal=True), lambda s: s.run("one", "inner"), world_server),
        "one",
        "192.0.2.20:8130",
        "route",
        ("only in internal networks (inner)",),
        one_to_world,
    ),
    "no network at all": Case(
        both(web, lambda s: s.run("one", "none")),
        "one",
        lambda s: f"{s.address('shop')}:8080",
        "route",
        ("it has only lo", "pier network disconnect none one; pier network connect"),
        lambda s: s.from_container("one", s.address("shop"), 8080),
    ),
    "no network of that IP version": Case(
        two,
        "one",
        "[2001:db8::20]:8130",
        "route",
        ("one has no IPv6", "(n1)", "pier network connect"),
        lambda s: s.from_container("one", "2001:db8::20", 8130),
    ),
    "the name of a container that shares another's network": Case(
        both(two, lambda s: s.run("guest", "container:two", "sleep", "1000")),
        "one",
        "guest:8080",
        "name",
        ("it shares that of two", "ask for two"),
        lambda s: s.by_name("one", "guest", 8080),
    ),
    "a container whose network has started anew without it": Case(
        both(
            two,
            lambda s: s.run("guest", "container:two", "sleep", "1000"),
            lambda s: s.engine.api.ok("POST", "/containers/two/restart", t=0),
        ),
        "guest",
        "one:8080",
        "name",
        ("pier restart guest",),
        lambda s: s.by_name("guest", "one", 8080),
    ),
    "the name of a container whose network has started anew without it": Case(
        both(
            two,
            lambda s: s.run("guest", "container:two", "sleep", "1000"),
            lambda s: s.engine.api.ok("POST", "/containers/two/restart", t=0),
        ),
        "one",
        "guest:8080",
        "name",
        ("the network that two had before", "pier restart guest"),
        lambda s: s.by_name("one", "guest", 8080),
    ),
    "the name of a container in the host's network": Case(
        both(two, lambda s: s.run("guest", "host", "sleep", "1000")),
        "one",
        "guest:8080",
        "name",
        ("in the host's network", "ask for host"),
        lambda s: s.by_name("one", "guest", 8080),
    ),
    "the host does not forward": Case(
        web,
        "outside",
        "shop:8080",
        "route",
        ("does not forward", "net.ipv4.ip_forward=1"),
        web_from_outside,
        lambda s: s.sysctl("ipv4/ip_forward", "0"),
        lambda s: s.sysctl("ipv4/ip_forward", "1"),
    ),
    "the host does not forward IPv6": Case(
        lambda s: [
            s.dual("six"),
            s.run(
                "shop",
                "six",
                HostConfig={"PortBindings": {"8080/tcp": [{"HostIp": "2001:db8::10", "HostPort": "8120"}]}},
            ),
        ],
        "outside",
        "shop:8080",
        "route",
        ("does not forward IPv6", "net.ipv6.conf.all.forwarding=1"),
        lambda s: s.from_outside(8120, "2001:db8::10"),
        lambda s: s.sysctl("ipv6/conf/all/forwarding", "0"),
        lambda s: s.sysctl("ipv6/conf/all/forwarding", "1"),
    ),
    "the host sees a container's packets as forged": Case(
        both(two, world_server),
        "one",
        "192.0.2.20:8130",
        "route",
        ("refuses packets from 10.213.0.2", "rp_filter"),
        one_to_world,
        lambda s: (
            s.sysctl(f"ipv4/conf/{s.bridge('n1')}/rp_filter", "1"),
            s.engine.host.ip("route", "add", "10.213.0.2/32", "dev", "virbr0"),
        ),
        lambda s: s.engine.host.ip("route", "delete", "10.213.0.2/32"),
    ),
    # The link
    "the bridge is down": Case(
        two,
        "one",
        "10.213.0.3:8080",
        "link",
        ("bridge br-", "is down", "ip link set br-"),
        one_to_two,
        lambda s: s.engine.host.ip("link", "set", s.bridge("n1"), "down"),
    ),
    "the bridge is down, from the host": Case(
        two,
        "host",
        "two:8080",
        "link",
        ("is down", "ip link set br-"),
        lambda s: s.from_host("10.213.0.3", 8080),
        lambda s: s.engine.host.ip("link", "set", s.bridge("n1"), "down"),
    ),
    "the cable's end on the host is down": Case(
        two,
        "one",
        "10.213.0.3:8080",
        "link",
        ("the host's end of two's eth0, is down", "ip link set veth"),
        one_to_two,
        lambda s: s.engine.host.ip("link", "set", s.cable("two"), "down"),
    ),
    "the cable's end in the container is down": Case(
        two,
        "one",
        "10.213.0.3:8080",
        "link",
        ("eth0 is down in one", "pier restart one"),
        one_to_two,
        lambda s: s.inside("one", "ip", "link", "set", "eth0", "down"),
    ),
    "the cable is off the bridge": Case(
        two,
        "one",
        "10.213.0.3:8080",
        "link",
        ("is not a port of bridge br-", "master br-"),
        one_to_two,
        lambda s: s.engine.host.ip("link", "set", s.cable("two"), "nomaster"),
    ),
    "the cable is on another bridge": Case(
        two,
        "one",
        "10.213.0.3:8080",
        "link",
        ("is not a port of bridge br-", "but of virbr0"),
        one_to_two,
        lambda s: s.engine.host.ip("link", "set", s.cable("one"), "master", "virbr0"),
    ),
    "the address is gone": Case(
        two,
        "one",
        "10.213.0.3:8080",
        "link",
        ("two has lost that address", "pier restart two"),
        one_to_two,
        lambda s: s.inside("two", "ip", "address", "delete", "10.213.0.3/24", "dev", "eth0"),
    ),
    "nobody has the address": Case(
        two,
        "one",
        "10.213.0.99:8080",
        "link",
        ("nobody on br-", "has the address 10.213.0.99"),
        lambda s: s.from_container("one", "10.213.0.99", 8080),
    ),
    "the bridge has lost the gateway's address": Case(
        both(two, world_server),
        "one",
        "192.0.2.20:8130",
        "link",
        ("has lost the address 10.213.0.1",),
        one_to_world,
        lambda s: s.engine.host.ip("address", "delete", "10.213.0.1/24", "dev", s.bridge("n1")),
    ),
    "full frames do not fit": Case(
        both(two, lambda s: s.engine.pier("exec", "two", "sh", "-c", "head -c 1300 /dev/zero > /www/full").check()),
        "one",
        "two:8080",
        "link",
        ("more than 1000 bytes are lost", "mtu 1500"),
        lambda s: s.from_container("one", "10.213.0.3", 8080, "/full"),
        lambda s: s.engine.host.ip("link", "set", s.cable("two"), "mtu", "1000"),
    ),
    "the host's own cable is out": Case(
        both(two, world_server),
        "one",
        "192.0.2.20:8130",
        "link",
        ("ens33",),
        one_to_world,
        lambda s: s.engine.world.neighbour.ip("link", "set", "ens33", "down"),
        lambda s: [
            s.engine.world.neighbour.ip("link", "set", "ens33", "up"),
            s.engine.world.neighbour.ip("address", "replace", "2001:db8::20/64", "dev", "ens33", "nodad"),
        ],
    ),
    # The rules
    "containers that are kept from each other": Case(
        both(
            lambda s: s.network("n1", "10.213.0.0/24", Options={"com.docker.network.bridge.enable_icc": "false"}),
            lambda s: s.run("one", "n1"),
            lambda s: s.run("two", "n1"),
        ),
        "one",
        "two:8080",
        "rule",
        ("do not reach each other", "enable_icc=false"),
        one_to_two,
    ),
    "a port that no socket serves, of one who is kept from it, where bridged frames are filtered": Case(
        lambda s: [
            need("br_netfilter"),
            s.sysctl("bridge/bridge-nf-call-iptables", "0"),
            s.network("n1", "10.213.0.0/24", Options={f"{BRIDGE}enable_icc": "false"}),
            s.run("one", "n1"),
            s.run("two", "n1", HostConfig={"PortBindings": {"8080-8150/tcp": [{"HostPort": "8120-8190"}]}}),
        ],
        "one",
        "192.0.2.10:8120",
        "rule",
        ("do not reach each other's published ports", "beyond the first 64", "bridge-nf-call-iptables=0"),
        lambda s: s.from_container("one", "192.0.2.10", 8120),
        lambda s: s.sysctl("bridge/bridge-nf-call-iptables", "1"),
        lambda s: s.sysctl("bridge/bridge-nf-call-iptables", "0"),
    ),
    "another network, by address": Case(
        both(two, lambda s: s.network("n2", "10.214.0.0/24"), lambda s: s.run("three", "n2")),
        "one",
        "10.214.0.2:8080",
        "rule",
        ("networks n1 and n2 are kept apart", "pier network connect n2 one"),
        lambda s: s.from_container("one", "10.214.0.2", 8080),
    ),
    "an internal network, from another": Case(
        both(two, lambda s: s.network("inner", "10.214.0.0/24", Internal=True), lambda s: s.run("three", "inner")),
        "one",
        "10.214.0.2:8080",
        "rule",
        ("network inner is internal",),
        lambda s: s.from_container("one", "10.214.0.2", 8080),
    ),
    "the host, which is not on an isolated network": Case(
        lambda s: [
            s.network("apart", "10.214.0.0/24", Internal=True, Options={f"{BRIDGE}gateway_mode_ipv4": "isolated"}),
            s.run("three", "apart"),
        ],
        "host",
        "three:8080",
        "route",
        ("network apart is isolated",),
        lambda s: s.from_host("10.214.0.2", 8080),
    ),
    "the host, whose bridge is to have no address": Case(
        lambda s: [
            s.network("mute", "10.214.0.0/24", Options={f"{BRIDGE}inhibit_ipv4": "true"}),
            s.run("three", "mute"),
        ],
        "host",
        "three:8080",
        "route",
        ("is to have no IPv4 address", "inhibit_ipv4"),
        lambda s: s.from_host("10.214.0.2", 8080),
    ),
    "published on loopback only": Case(
        lambda s: s.run("shop", **published(HostIp="127.0.0.1", HostPort="8120")),
        "outside",
        "192.0.2.10:8120",
        "rule",
        ("published at 127.0.0.1:8120 only",),
        web_from_outside,
    ),
    "not published": Case(
        lambda s: s.run("shop"),
        "outside",
        "shop:8080",
        "rule",
        ("is not published", "pier update --publish-add 8080:8080 shop"),
        lambda s: s.from_outside(8080),
    ),
    "a container's own address, from outside": Case(
        both(web, lambda s: s.engine.world.neighbour.ip("route", "add", s.address("shop"), "via", "192.0.2.10")),
        "outside",
        lambda s: f"{s.address('shop')}:8080",
        "rule",
        ("a container's own address",),
        lambda s: s.from_outside(8080, s.address("shop")),
        healed=lambda s: s.engine.world.neighbour.ip("route", "delete", s.address("shop")),
    ),
    "somebody's rule drops what is forwarded": Case(
        web,
        "outside",
        "shop:8080",
        "rule",
        ("tcp dport 8080 drop", "inet guard", "nft insert rule"),
        web_from_outside,
        lambda s: s.nft(DROP.format(hook="forward", rule="tcp dport 8080 drop")),
        lambda s: s.nft(GUARD_GONE),
    ),
    "somebody's rule drops the answers": Case(
        both(two, world_server),
        "one",
        "192.0.2.20:8130",
        "rule",
        ("inet guard", "sport 8130"),
        one_to_world,
        lambda s: s.nft(DROP.format(hook="forward", rule="tcp sport 8130 drop")),
        lambda s: s.nft(GUARD_GONE),
    ),
    "somebody's rule keeps containers from the host": Case(
        both(two, lambda s: s.serve(s.engine.host, 8131)),
        "one",
        "host:8131",
        "rule",
        ("8131/tcp", "inet guard"),
        lambda s: s.from_container("one", "10.213.0.1", 8131),
        lambda s: s.nft(DROP.format(hook="input", rule="tcp dport 8131 reject")),
        lambda s: s.nft(GUARD_GONE),
    ),
    "a published port's element is deleted": Case(
        lambda s: s.run("shop", **published(HostIp="192.0.2.10", HostPort="8120")),
        "outside",
        "shop:8080",
        "rule",
        ("published by shop, but the rule that translates it is missing",),
        web_from_outside,
        lambda s: s.nft(f"delete element {s.table} exact4 {{ 192.0.2.10 . tcp . 8120 }}"),
    ),
    "masquerading is deleted": Case(
        both(two, world_server),
        "one",
        "192.0.2.20:8130",
        "rule",
        ("10.213.0.2 leaves the host as it is", "missing"),
        one_to_world,
        lambda s: s.nft(f"delete element {s.table} masqueraded4 {{ 10.213.0.0/24 }}"),
    ),
    "a macvlan container and its own host": Case(
        lambda s: [
            s.network("lan", "192.0.2.0/24", Driver="macvlan", Options={"parent": "ens33"}),
            s.run("one", "lan", HostConfig={"NetworkMode": "lan"}),
            s.serve(s.engine.host, 8131),
        ],
        "one",
        "192.0.2.10:8131",
        "link",
        ("its own host do not reach each other",),
        lambda s: s.from_container("one", "192.0.2.10", 8131),
    ),
    "a rule within the container": Case(
        two,
        "one",
        "two:8080",
        "rule",
        ("a rule within two stops it",),
        one_to_two,
        lambda s: s.inside("two", "nft", DROP.format(hook="input", rule="tcp dport 8080 drop")),
    ),
}


@contextmanager
def broken(scene: Scene, case: Case) -> Iterator[None]:
    try:
        if case.broken is not None:
            case.broken(scene)
        yield
    finally:
        if case.healed is not None:
            case.healed(scene)


@pytest.mark.parametrize("what", BROKEN)
def test_it_says_where_the_way_ends_and_what_to_do(what: str, scene: Scene) -> None:
    case = BROKEN[what]
    case.given(scene)
    aim = case.aim(scene)
    if case.broken is not None:
        before = scene.check(case.source, aim)
        assert before["reachable"], before["steps"]
        assert what.startswith("the source") or case.real(scene), "it works before it is broken"
    with broken(scene, case):
        found = scene.check(case.source, aim)
        scene.patience = BRIEFLY
        assert not case.real(scene), "it is really broken"
    last = found["steps"][-1]
    assert not found["reachable"] and (last["name"], last["status"]) == (case.ends, "failed"), found["steps"]
    said = f"{last['text']} → {last.get('remedy', '')}"
    for words in case.says:
        assert words in said
    assert all(step["status"] != "failed" for step in found["steps"][:-1])


@dataclass(frozen=True, slots=True)
class Sound:
    """Nothing is broken: it is reachable, and says how."""

    given: Do
    source: str
    destination: str | Callable[[Scene], str]
    real: Try
    says: tuple[str, ...] = ()


SOUND: dict[str, Sound] = {
    "by name": Sound(
        two, "one", "two:8080", lambda s: s.by_name("one", "two", 8080), ("two is 10.213.0.3, says 127.0.0.11",)
    ),
    "by name and network": Sound(two, "one", "two.n1:8080", lambda s: s.by_name("one", "two.n1", 8080)),
    "by alias": Sound(
        lambda s: [
            two(s),
            s.run("three", "n1", NetworkingConfig={"EndpointsConfig": {"n1": {"Aliases": ["db"]}}}),
        ],
        "one",
        "db:8080",
        lambda s: s.by_name("one", "db", 8080),
        ("httpd of three listens on 8080/tcp",),
    ),
    "by address": Sound(
        two, "one", "10.213.0.3:8080", one_to_two, ("eth0 ─ veth", "a connection to 10.213.0.3:8080 was made")
    ),
    "without a port": Sound(two, "one", "two", lambda s: s.ping("one", "two")),
    "itself": Sound(two, "one", "one:8080", lambda s: s.by_name("one", "one", 8080), ("an address of one itself",)),
    "its own loopback": Sound(two, "one", "localhost:8080", lambda s: s.from_container("one", "127.0.0.1", 8080)),
    "the default bridge, by address": Sound(
        both(web, lambda s: s.run("one")),
        "one",
        lambda s: f"{s.address('shop')}:8080",
        lambda s: s.from_container("one", s.address("shop"), 8080),
    ),
    "a published port of one that is kept apart": Sound(
        lambda s: [
            s.network("n1", "10.213.0.0/24", Options={f"{BRIDGE}enable_icc": "false"}),
            s.run("one", "n1"),
            s.run(
                "two", "n1", HostConfig={"PortBindings": {"8080/tcp": [{"HostIp": "192.0.2.10", "HostPort": "8120"}]}}
            ),
            s.engine.pier("network", "reload").check(),  # nothing is mended by itself here
        ],
        "one",
        "192.0.2.10:8120",
        lambda s: s.from_container("one", "192.0.2.10", 8120),
        ("10.213.0.3:8080",),
    ),
    "a datagram": Sound(
        both(two, lambda s: s.answer_datagrams("two", 8121)),
        "one",
        "two:8121/udp",
        lambda s: s.datagram("one", "10.213.0.3", 8121),
    ),
    "the host to a container": Sound(two, "host", "two:8080", lambda s: s.from_host("10.213.0.3", 8080)),
    "the host to a published port": Sound(
        web, "host", "127.0.0.1:8120", lambda s: s.from_host("127.0.0.1", 8120), ("127.0.0.1:8120 is translated to",)
    ),
    "the host to a published port on ::1": Sound(
        web, "host", "[::1]:8120", lambda s: s.from_host("::1", 8120), ("served by the engine, which passes it on",)
    ),
    "the outside to a published port": Sound(
        web, "outside", "shop:8080", web_from_outside, ("192.0.2.10:8120 is translated",)
    ),
    "a published port without the rule that translates it": Sound(
        both(web, lambda s: s.nft(f"delete element {s.table} any4 {{ tcp . 8120 }}")),
        "outside",
        "shop:8080",
        web_from_outside,
        ("192.0.2.10:8120 is served by the engine",),
    ),
    "the outside to a published port by IPv6": Sound(
        web, "outside", "[2001:db8::10]:8120", lambda s: s.from_outside(8120, "2001:db8::10"), ("passes it on",)
    ),
    "a container to another network's published port": Sound(
        both(two, web), "one", "192.0.2.10:8120", lambda s: s.from_container("one", "192.0.2.10", 8120)
    ),
    "a container to its own published port": Sound(
        web, "shop", "192.0.2.10:8120", lambda s: s.from_container("shop", "192.0.2.10", 8120), ("is seen as",)
    ),
    "a container to the outside": Sound(
        both(two, world_server), "one", "192.0.2.20:8130", one_to_world, ("10.213.0.2 is seen as 192.0.2.10",)
    ),
    "a container to the host": Sound(
        both(two, lambda s: s.serve(s.engine.host, 8131)),
        "one",
        "host:8131",
        lambda s: s.from_container("one", "10.213.0.1", 8131),
        ("the host is 10.213.0.1",),
    ),
    "a container of the host's network": Sound(
        lambda s: [
            s.run("open", "host", "sh", "-c", "echo open > /www/index.html; exec httpd -f -p 8132 -h /www"),
            wait_until(lambda: s.listens("open"), "the server of open"),
        ],
        "outside",
        "open:8132",
        lambda s: s.from_outside(8132),
        ("httpd of open listens",),
    ),
    "a network whose every port is open, from outside": Sound(
        lambda s: [
            s.network("open", "10.216.0.0/24", Options={f"{BRIDGE}gateway_mode_ipv4": "nat-unprotected"}),
            s.run("three", "open"),
            s.engine.world.neighbour.ip("route", "replace", "10.216.0.0/24", "via", "192.0.2.10"),
        ],
        "outside",
        "three:8080",
        lambda s: s.from_outside(8080, "10.216.0.2"),
        ("three is reached at its own address",),
    ),
    "from a shared namespace": Sound(
        both(two, lambda s: s.run("guest", "container:one", "sleep", "1000")),
        "guest",
        "two:8080",
        lambda s: s.by_name("guest", "two", 8080),
        ("guest sends it from 10.213.0.2",),
    ),
    "an internal network, within": Sound(
        both(
            lambda s: s.network("inner", "10.214.0.0/24", Internal=True),
            lambda s: s.run("one", "inner"),
            lambda s: s.run("two", "inner"),
        ),
        "one",
        "two:8080",
        lambda s: s.from_container("one", "10.214.0.3", 8080),
    ),
    "IPv6 within a network": Sound(
        lambda s: [
            s.dual("six"),
            s.run("one", "six"),
            s.run("two", "six"),
        ],
        "one",
        "[fd00:215::3]:8080",
        lambda s: s.from_container("one", "fd00:215::3", 8080),
    ),
    "two on a parent's wire": Sound(
        lambda s: [
            s.network("lan", "192.0.2.0/24", Driver="macvlan", Options={"parent": "ens33"}),
            s.run("one", "lan"),
            s.run("two", "lan"),
        ],
        "one",
        "two:8080",
        lambda s: s.by_name("one", "two", 8080),
        ("eth0 ─ ens33 ─ eth0",),
    ),
}


@pytest.mark.parametrize("bridged", ["0", "1"])
@pytest.mark.parametrize("what", SOUND)
def test_what_works_is_said_to_be_reachable(what: str, bridged: str, scene: Scene) -> None:
    case = SOUND[what]
    filtered = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if bridged == "1":
        need("br_netfilter")
    if filtered.exists():
        scene.sysctl("bridge/bridge-nf-call-iptables", bridged)
    try:
        case.given(scene)
        assert case.real(scene)
        aim = case.destination if isinstance(case.destination, str) else case.destination(scene)
        found = scene.check(case.source, aim)
        assert found["reachable"], found["steps"]
        said = "; ".join(step["text"] for step in found["steps"])
        for words in case.says:
            assert words in said
    finally:
        if filtered.exists():
            scene.sysctl("bridge/bridge-nf-call-iptables", "0")


def test_a_person_is_told_step_by_step(scene: Scene) -> None:
    two(scene)
    said = scene.engine.pier("network", "check", "one", "two:81")
    assert said.status == 1 and said.lines[0] == "one → two:81"
    assert [line[:10] for line in said.lines[1:6]] == [
        "✓ name    ",
        "✓ route   ",
        "✓ link    ",
        "✓ rule    ",
        "✗ listener",
    ]
    assert said.lines[-1] == "not reachable: it ends at the listener" and max(map(len, said.lines)) <= 100
    assert scene.engine.pier("network", "check", "one", "two:8080").lines[-1] == "reachable"


@pytest.mark.parametrize(
    ("source", "destination", "says"),
    [
        ("nosuch", "host:80", "No such container: nosuch"),
        ("host", "host:99999", "invalid destination"),
        ("host", ":80", "invalid destination"),
        ("host", "host:80/icmp", "invalid destination"),
    ],
)
def test_a_wrong_question_is_refused(source: str, destination: str, says: str, scene: Scene) -> None:
    said = scene.engine.pier("network", "check", source, destination)
    assert said.status == 1 and says in said.stderr and not said.stdout


def test_checking_leaves_nothing_behind(scene: Scene) -> None:
    two(scene)
    folder = Path(f"/proc/{scene.engine.pid}/fd")
    scene.check("one", "two:8080")
    before = len(list(folder.iterdir()))
    for _ in range(4):
        scene.check("one", "two:8080")
        scene.check("outside", "two:8080")
    wait_until(lambda: len(list(folder.iterdir())) <= before, "the end of the last connection")


@pytest.mark.parametrize("policy", ["firewall", "local"])
def test_a_publish_policy_is_known_with_what_it_means_outside(policy: str) -> None:
    with started_engine("pierd", ("--publish-policy", policy)) as engine:
        scene = Scene(engine)
        web(scene)
        scene.run("narrow", **published(HostIp="192.0.2.10", HostPort="8122"))
        for aim, port in (("shop:8080", 8120), ("narrow:8080", 8122)):
            found = scene.check("outside", aim)
            assert found["reachable"] == scene.from_outside(port) == (policy == "firewall"), found["steps"]
            if policy == "local":
                assert "published for this host and its containers alone" in found["steps"][-1]["text"]
            assert scene.check("host", f"192.0.2.10:{port}")["reachable"] and scene.from_host("192.0.2.10", port)
        scene.nft(DROP.format(hook="input", rule="tcp dport 8120 drop"))
        try:
            assert not scene.from_outside(8120) and not scene.check("outside", "shop:8080")["reachable"]
        finally:
            scene.nft(GUARD_GONE)
