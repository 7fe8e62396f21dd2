"""Whatever others do to the rules, bridges and settings of a running engine comes back, and is said."""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from pierhead.daemon.config import Config
from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.jobs import host_networks
from pierhead.driver.networkdriver.api import Network
from pierhead.driver.networkdriver.bridgeoptions import bridge_name, parse
from pierhead.driver.networkdriver.hostbridge import HostBridge
from pierhead.graph.graphdb import GraphDB
from pierhead.linux.netlink import Netlink
from tests.harness.engines import Pierd, engine
from tests.harness.netns import namespace
from tests.harness.processes import run, wait_until

ECHO = "nc -ll -p 8080 -e cat"


@dataclass
class Scene:
    """A daemon with a container that echoes, its port published, and everything of it on the host."""

    daemon: Pierd
    table: str

    def sh(self, text: str) -> str:
        """A command on the engine's machine."""
        return self.daemon.host.run("sh", "-c", text).check().stdout

    def rules(self) -> str:
        """With the elements of sets in one order: the kernel lists some as they were added."""
        return re.sub(r"elements = \{(.*?)\}", _sorted, self.sh("nft -s list ruleset"), flags=re.S)

    def state(self) -> str:
        """All that others could take: rules, addresses, ports of bridges, settings."""
        links = "\n".join(
            sorted(self.sh("ip -o link show type veth; ip -br addr; ip -br link show type bridge").splitlines())
        )
        settings = self.sh(
            "cd /proc/sys/net; cat ipv4/ip_forward; for name in docker0 br-two; do "
            "cat ipv4/conf/$name/route_localnet ipv4/conf/$name/forwarding ipv6/conf/$name/disable_ipv6; done"
        )
        return self.rules() + re.sub(r"^\d+: |ens33@.*$", "", links, flags=re.M) + settings

    def connect(self) -> socket.socket:
        return self.daemon.world.neighbour.connect(self.daemon.world.host_address, 8081)

    def echoes(self, connection: socket.socket) -> bool:
        connection.settimeout(10)
        connection.sendall(b"hello")
        return connection.recv(100) == b"hello"

    def answers(self) -> bool:
        try:
            with self.connect() as connection:
                return self.echoes(connection)
        except OSError:
            return False

    def said(self) -> str:
        assert self.daemon.daemon is not None
        return self.daemon.daemon.said()

    def port(self) -> str:
        return re.findall(r"(veth\w+)@", self.sh("ip -o link show master docker0"))[0]


def _sorted(match: re.Match[str]) -> str:
    return "elements = " + ", ".join(sorted(part.strip() for part in match[1].split(",")))


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with engine("pierd") as made:
        assert isinstance(made, Pierd)
        options = {"com.docker.network.bridge.name": "br-two"}
        made.api.ok("POST", "/networks/create", {"Name": "two", "EnableIPv6": True, "Options": options})
        found = Scene(made, f"inet pierhead-{made.instance}")
        bindings = {"8080/tcp": [{"HostPort": "8081"}], "9000/tcp": [{"HostPort": "9000"}]}
        ranges = {f"{port}/udp": [{"HostPort": str(port)}] for port in range(7000, 7010)}
        made.api.run("sh", "-c", ECHO, name="echo", HostConfig={"PortBindings": bindings | ranges})
        wait_until(found.answers, "the first answer")
        yield found


def handle(scene: Scene, chain: str, text: str) -> str:
    """A rule's handle."""
    listed = scene.sh(f"nft -a list chain {scene.table} {chain}")
    return re.findall(re.escape(text) + r".*# handle (\d+)", listed)[0]


HARM = {
    "everything is flushed": ("nft flush ruleset", "was removed"),
    "our table is deleted": ("nft delete table {table}", "was removed"),
    "a chain is emptied": ("nft flush chain {table} raw", "rules of the nft table"),
    "one rule is deleted": ("nft delete rule {table} forward handle {handle}", "rules of the nft table"),
    "a rule is added": ("nft insert rule {table} forward drop", "rules of the nft table"),
    "a published port is deleted": ("nft delete element {table} any4 {{ tcp . 8081 }}", "of any4 were removed"),
    "a range of ports is deleted": ("nft flush map {table} ranges4", "of ranges4 were removed"),
    "a port is led elsewhere": (
        "nft delete element {table} any4 {{ tcp . 8081 }}; "
        "nft add element {table} any4 {{ tcp . 8081 : 192.0.2.1 . 80 }}",
        "any4 has 1 elements that are not ours",
    ),
    "a bridge is forgotten by the rules": (
        "nft delete element {table} bridges {{ docker0 }}",
        "of bridges were removed",
    ),
    "no subnet is masqueraded any more": ("nft flush set {table} masqueraded4", "of masqueraded4 were removed"),
    "a bridge is deleted": ("ip link delete docker0", "bridge docker0 was deleted"),
    "a bridge loses its address": ("ip addr flush dev docker0", "of bridge docker0 was removed"),
    "an IPv6 bridge loses its address": ("ip -6 addr flush dev br-two scope global", "of bridge br-two was removed"),
    "a bridge is set down": ("ip link set docker0 down", "bridge docker0 was set down"),
    "a container's port is taken off": ("ip link set {port} nomaster", "was taken off bridge docker0"),
    "a container's port is set down": ("ip link set {port} down", "of bridge docker0 was set down"),
    "forwarding is switched off": ("sysctl -qw net.ipv4.ip_forward=0", "net/ipv4/ip_forward was changed to 0"),
    "forwarding is switched off on a bridge": (
        "sysctl -qw net.ipv4.conf.docker0.forwarding=0",
        "net/ipv4/conf/docker0/forwarding was changed to 0",
    ),
    "loopback routing is switched off": (
        "sysctl -qw net.ipv4.conf.docker0.route_localnet=0",
        "net/ipv4/conf/docker0/route_localnet was changed to 0",
    ),
}


@pytest.mark.parametrize("harm", list(HARM))
def test_it_comes_back_and_established_connections_go_on(scene: Scene, harm: str) -> None:
    """CVE-2025-54388, CVE-2025-54410, CVE-2026-115538: after a firewall's reload ports stood open."""
    command, words = HARM[harm]
    before = scene.state()
    with scene.connect() as connection:
        assert scene.echoes(connection)
        length = len(scene.said())
        number = handle(scene, "forward", "iifname @bridges accept") if "{handle}" in command else ""
        scene.sh(command.format(table=scene.table, handle=number, port=scene.port()))
        wait_until(lambda: words in scene.said()[length:], f"a word about it; said: {scene.said()[length:]}")
        wait_until(lambda: scene.state() == before, "what was there")
        assert scene.echoes(connection)
    assert scene.answers()


def test_the_log_names_the_program_that_did_it(scene: Scene) -> None:
    length = len(scene.said())
    before = scene.state()
    scene.sh("nft flush ruleset")
    wait_until(lambda: "changed by nft" in scene.said()[length:], "the program's name")
    wait_until(lambda: scene.state() == before, "what was there")


def test_what_the_engine_does_itself_is_nobodys_harm(scene: Scene) -> None:
    length = len(scene.said())
    api = scene.daemon.api
    for number in range(4):
        bindings = {"PortBindings": {"80/tcp": [{"HostPort": str(8090 + number)}]}}
        network = f"own{number}"
        api.ok("POST", "/networks/create", {"Name": network})
        made = api.run("sleep", "1000", HostConfig={"NetworkMode": network, **bindings})
        api.ok("POST", "/networks/two/connect", {"Container": made})
        api.ok("POST", "/networks/two/disconnect", {"Container": made})
        api.ok("DELETE", f"/containers/{made}", force=1)
        api.ok("DELETE", f"/networks/{network}")
    api.ok("POST", "/pierhead/networks/reload")
    assert "restoring" not in scene.said()[length:]


def test_reload_applies_everything_and_says_what_was_missing(scene: Scene) -> None:
    before = scene.state()
    assert scene.daemon.pier("network", "reload").check().stdout == ""
    assert scene.state() == before
    answer = scene.daemon.api.ok("POST", "/pierhead/networks/reload").json
    assert answer == {"Restored": []}


def test_reload_brings_names_back_to_a_container_that_has_flushed_its_own_rules(scene: Scene) -> None:
    def names(container: str) -> str:
        return scene.daemon.docker("exec", container, "nslookup", "-type=a", "second").stdout

    state = scene.state()
    options = ("run", "-d", "--network", "two", "--cap-add", "NET_ADMIN")
    for name in ("first", "second"):
        scene.daemon.docker(*options, "--name", name, "busybox", "sleep", "1000").check()
    before = names("first")
    assert "Address: 172." in before
    pid = scene.daemon.api.inspect("first")["State"]["Pid"]
    for harm in ("flush ruleset", "flush chain ip pierhead output"):
        run(["nsenter", f"--net=/proc/{pid}/ns/net", "nft", harm]).check()
        said = scene.daemon.pier("network", "reload").check().stdout
        assert said == "the rule within first that leads 127.0.0.11:53 to the engine was removed\n"
        assert names("first") == before
    scene.daemon.docker("rm", "-f", "first", "second").check()
    wait_until(lambda: scene.state() == state, "the end of their links")


def test_containers_come_and_go_while_somebody_flushes(scene: Scene) -> None:
    """What leaves while the rules are made again must not come back with them."""
    before = scene.state()
    api = scene.daemon.api
    for number in range(6):
        made = api.run("sleep", "1000", HostConfig={"PortBindings": {"80/tcp": [{"HostPort": str(8100 + number)}]}})
        scene.sh("nft flush ruleset")
        api.ok("DELETE", f"/containers/{made}", force=1)
    wait_until(lambda: scene.state() == before, "what was there, and nothing else")


def test_a_bridge_follows_the_way_outs_mtu(scene: Scene) -> None:
    scene.sh("ip link set ens33 mtu 1400")
    try:
        wait_until(lambda: "mtu 1400" in scene.sh("ip link show docker0"), "the new MTU")
        made = scene.daemon.api.run("sleep", "1000")
        shown = scene.daemon.api.ok("GET", "/networks/bridge").json["Options"]
        assert shown["com.docker.network.driver.mtu"] == "1400"
        scene.daemon.api.ok("DELETE", f"/containers/{made}", force=1)
    finally:
        scene.sh("ip link set ens33 mtu 1500")
    wait_until(lambda: "mtu 1500" in scene.sh("ip link show docker0"), "the old MTU")


def test_a_port_without_icc_is_isolated_again_after_its_bridge_was_deleted(scene: Scene) -> None:
    options = {"com.docker.network.bridge.name": "br-quiet", "com.docker.network.bridge.enable_icc": "false"}
    api = scene.daemon.api
    api.ok("POST", "/networks/create", {"Name": "quiet", "Options": options})
    made = api.run("sleep", "1000", HostConfig={"NetworkMode": "quiet"})

    def flags() -> str:
        with contextlib.suppress(AssertionError):
            return scene.sh("bridge -d link show | grep -A3 'master br-quiet'")
        return ""

    assert "isolated on" in flags()
    scene.sh("ip link delete br-quiet")
    wait_until(lambda: "isolated on" in flags(), "an isolated port")
    api.ok("DELETE", f"/containers/{made}", force=1)
    api.ok("DELETE", "/networks/quiet")


def starting(folder: Path, driver: object, firewall: SimpleNamespace) -> Engine:
    """An engine that is about to meet its networks, whose driver is a fake."""
    known = {name for name, field in Engine.__dataclass_fields__.items() if field.default is field.default_factory}
    given: dict[str, object] = {"db": GraphDB(str(folder / "db")), "config": Config(), "host_firewall": firewall}
    given["networks"] = dict.fromkeys(("bridge", "host", "null"), driver)
    firewall.legacy_changed, firewall.neighbours, firewall.quiet = lambda: False, lambda: None, lambda: True
    return Engine(**{name: given.get(name) for name in known})  # type: ignore[arg-type]


async def stopped(made: Engine) -> None:
    assert made.host_watch is not None
    made.host_watch.close()
    await asyncio.gather(*made.chores)
    made.db.close()


def test_rules_that_others_change_while_a_daemon_restores_its_own_are_looked_at(tmp_path: Path) -> None:
    """A firewall that starts at the same time, as at boot."""
    stale: list[str] = []

    class Driver:
        """Restores nothing; somebody else changes the rules while it does."""

        def reconcile(self, networks: object, others: object, *, sweep: bool) -> None:
            run(["nft", "add", "table", "ip", "strangers"]).check()

        def __getattr__(self, name: str) -> Callable[..., object]:
            return lambda *given, **more: ()

    async def start() -> None:
        made = starting(tmp_path, Driver(), SimpleNamespace(stale=lambda: stale.append("told")))
        await host_networks.reconcile(made)
        deadline = asyncio.get_running_loop().time() + 10
        while not stale and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        await stopped(made)

    with namespace(f"heal-{os.getpid()}") as place:
        place.call(lambda: asyncio.run(start()))
    assert stale


def test_a_bridge_whose_name_another_engine_takes_at_the_same_start_gets_another_name(tmp_path: Path) -> None:
    """Two engines at boot: each has seen that there is no docker0."""
    asked: list[str] = []

    class Driver:
        """Finds that somebody was faster."""

        def reconcile(self, networks: list[tuple[Network, object]], others: object, *, sweep: bool) -> None:
            for network, _ in networks:
                if network.name == "bridge":
                    asked.append(bridge_name(network))
                    if len(asked) == 1:
                        run(["ip", "link", "add", "docker0", "type", "bridge"]).check()
                    with Netlink() as link:
                        HostBridge(network, parse(network), 0x50000001).make(link)

        def __getattr__(self, name: str) -> Callable[..., object]:
            return lambda *given, **more: ()

    async def start() -> None:
        made = starting(tmp_path, Driver(), SimpleNamespace(stale=lambda: None))
        await host_networks.reconcile(made)
        await stopped(made)

    with namespace(f"heal-{os.getpid()}") as place:
        place.call(lambda: asyncio.run(start()))
    assert asked == ["docker0", "pier0"]
