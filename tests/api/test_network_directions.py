"""Every network mode against every direction, with real connections: in, out, by name, to itself, to other networks.

One container serves a page on port 8080, published on 8081 where the mode publishes; beside it are a peer on the same
network, one on another network, and another host.  A direction is tried for real and must be as the table says.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.harness.api import Api
from tests.harness.engines import Engine
from tests.harness.kernel import need
from tests.harness.processes import SLOWER, wait_until

pytestmark = pytest.mark.only_pierhead("modes that Debian's dockerd has not, and a table of our own answers")

INNER, PUBLISHED, OUTSIDE = 8080, 8081, 7000
PATIENCE = 2 * SLOWER
"""Seconds for an answer, which many do not get."""
PAGE = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w {PATIENCE} {{}} {{}} | tail -n 1"
HELLO = f"echo hello | nc -w {PATIENCE} {{}} {{}}"


@dataclass(frozen=True)
class Mode:
    """What a mode lets through. network: how it is made (None: it is there); at: how the container is started."""

    name: str
    network: dict[str, Any] | None = None
    inbound: bool = True
    """Another host reaches the container at the host's address (host mode: at the server's own port)."""
    wire: bool = False
    """Another host reaches the container's own address: it is on the wire."""
    outbound: bool = True
    named: bool = True
    """The peer finds it by its name."""
    peers: bool = True
    """The peer reaches it at its address."""
    hairpin: bool = True
    """It reaches itself at the host's address."""
    apart: bool = True
    """It does not reach a container of another network at its address."""


def _bridge(**more: Any) -> dict[str, Any]:
    return {"Driver": "bridge", **more}


def _parented(driver: str, mode: str) -> dict[str, Any]:
    # The addresses of the wire itself, from a part of it that nobody else has.
    config = {"Subnet": "192.0.2.0/24", "IPRange": "192.0.2.128/28", "AuxiliaryAddresses": {"host": "192.0.2.10"}}
    return {
        "Driver": driver,
        "Options": {"parent": "ens33", f"{driver}_mode": mode},
        "IPAM": {"Config": [{**config, "Gateway": "192.0.2.20"}]},
    }


ON_THE_WIRE = {"inbound": False, "wire": True, "hairpin": False}
MODES = (
    Mode("bridge", named=False),
    Mode("user", _bridge()),
    Mode("internal", _bridge(Internal=True), inbound=False, outbound=False, hairpin=False),
    Mode("icc-off", _bridge(Options={"com.docker.network.bridge.enable_icc": "false"}), peers=False),
    Mode("host", named=False, apart=False),
    Mode("none", inbound=False, outbound=False, named=False, peers=False, hairpin=False),
    Mode("container"),
    Mode("macvlan-bridge", _parented("macvlan", "bridge"), **ON_THE_WIRE),  # type: ignore[arg-type]
    Mode("macvlan-private", _parented("macvlan", "private"), peers=False, **ON_THE_WIRE),  # type: ignore[arg-type]
    Mode("ipvlan-l2", _parented("ipvlan", "l2"), **ON_THE_WIRE),  # type: ignore[arg-type]
)


@dataclass
class Scene:
    """A mode with everybody in place."""

    mode: Mode
    engine: Engine
    server: str
    peer: str
    other: str

    def inside(self, name: str, script: str) -> str:
        """What a command in a container says; its failure is an empty answer."""
        return self.engine.docker("exec", name, "sh", "-c", script, timeout=30 * SLOWER).stdout

    def address(self, name: str) -> str:
        """A container's own address: of the owner's, where it is in another's namespace."""
        networks = self.engine.api.inspect(name)["NetworkSettings"]["Networks"]
        return next((one["IPAddress"] for one in networks.values() if one["IPAddress"]), "")


def _run(api: Api, name: str, mode: str, *command: str, ports: bool = False, image: str = "web") -> str:
    bindings = {f"{INNER}/tcp": [{"HostPort": str(PUBLISHED)}]} if ports else {}
    host = {"NetworkMode": mode, "PortBindings": bindings}
    hostname = {} if mode.startswith("container:") or mode == "host" else {"Hostname": name}
    api.run(*command, image=image, name=name, ExposedPorts={key: {} for key in bindings}, HostConfig=host, **hostname)
    return name


@contextmanager
def _echo(engine: Engine) -> Iterator[None]:
    """Another host that says who it is to whoever connects."""
    listener = engine.world.neighbour.call(lambda: socket.create_server(("0.0.0.0", OUTSIDE)))

    def serve() -> None:
        while True:
            try:
                connection, (address, _) = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(f"outside saw {address}\n".encode())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


@pytest.fixture(params=MODES, ids=lambda mode: mode.name)
def scene(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Scene]:
    mode: Mode = request.param
    api = engine.api
    with ExitStack() as stack:
        stack.enter_context(_echo(engine))
        joined = mode.name
        if mode.network is not None:
            if mode.network["Driver"] != "bridge":
                need(mode.network["Driver"])
            api.ok("POST", "/networks/create", {"Name": mode.name, **mode.network})
        api.ok("POST", "/networks/create", {"Name": "elsewhere"})
        other = _run(api, "other", "elsewhere")
        if mode.name == "container":
            api.ok("POST", "/networks/create", {"Name": "owners"})
            _run(api, "owner", "owners", "sleep", "1000", ports=True, image="busybox")
            server, joined = _run(api, "server", "container:owner"), "owners"
        else:
            server = _run(api, "server", joined, ports=joined not in ("host", "none"))
        peer = _run(api, "peer", joined, "sleep", "1000", image="busybox")
        made = Scene(mode, engine, server, peer, other)
        answers = PAGE.format("127.0.0.1", INNER)
        wait_until(lambda: "this is" in made.inside(server, answers), "the server's page inside")
        yield made


def _outside(engine: Engine, address: str, port: int) -> bool:
    try:
        return "this is" in engine.world.neighbour.http_get(address, port, timeout=PATIENCE)
    except OSError:
        return False


def test_every_direction_is_as_its_mode_says(scene: Scene) -> None:
    mode, engine = scene.mode, scene.engine
    address = scene.address("owner" if mode.name == "container" else scene.server)
    host = engine.world.host_address
    name = "owner" if mode.name == "container" else scene.server
    port = INNER if mode.name == "host" else PUBLISHED
    tried: dict[str, Callable[[], bool]] = {
        "inbound": lambda: _outside(engine, host, port),
        "wire": lambda: bool(address) and _outside(engine, address, INNER),
        "outbound": lambda: (
            "outside saw" in scene.inside(scene.server, HELLO.format(engine.world.neighbour_address, OUTSIDE))
        ),
        "named": lambda: bool(scene.inside(scene.peer, f"nslookup {name} 127.0.0.11 2>/dev/null | grep -A1 '^Name'")),
        "peers": lambda: (
            mode.name != "none" and "this is" in scene.inside(scene.peer, PAGE.format(address or "127.0.0.1", INNER))
        ),
        "hairpin": lambda: "this is" in scene.inside(scene.server, PAGE.format(host, port)),
        "apart": lambda: "this is" not in scene.inside(scene.server, PAGE.format(scene.address(scene.other), INNER)),
    }
    with ThreadPoolExecutor(len(tried)) as pool:  # each way that is shut is waited for, and all of them at once
        found = dict(zip(tried, pool.map(lambda attempt: attempt(), tried.values()), strict=True))
    assert found == {key: getattr(mode, key) for key in found}


def test_whoever_may_reach_the_outside_is_seen_as_its_mode_says(scene: Scene) -> None:
    """A bridge's containers are seen as the host; those on the wire and the host's own as themselves."""
    if not scene.mode.outbound:
        assert "outside" not in scene.inside(scene.server, HELLO.format(scene.engine.world.neighbour_address, OUTSIDE))
        return
    said = scene.inside(scene.server, HELLO.format(scene.engine.world.neighbour_address, OUTSIDE))
    expected = scene.address(scene.server) if scene.mode.wire else scene.engine.world.host_address
    assert said == f"outside saw {expected}\n"
