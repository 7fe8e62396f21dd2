"""Three hands that do the same: the docker command line, `pier`, and docker-py.

The walkthrough is written once in these words; each hand says them in its own way and reads the answers its own way.
"""

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import docker
from docker.errors import APIError

from tests.harness.engines import Engine
from tests.harness.processes import DEADLINE, Output


class Refused(Exception):
    """The engine said no; the text is what the user reads."""


class Hand(Protocol):
    """What the walkthrough needs of a client."""

    name: str

    def run(
        self,
        image: str,
        *command: str,
        name: str = "",
        ports: Mapping[int, int] | None = None,
        network: str = "",
        ip: str = "",
    ) -> str:
        """Start a container in the background; returns the warnings. Raises Refused."""

    def output(self, image: str, *command: str, network: str = "") -> str:
        """Run a command in the foreground, remove its container, return what it printed."""

    def execute(self, container: str, *command: str) -> str:
        """What a command prints inside a running container, stdout and stderr."""

    def ports(self) -> dict[str, str]:
        """The running containers and the text of their PORTS column."""

    def names(self) -> set[str]:
        """All containers."""

    def logs(self, container: str) -> str: ...

    def inspect(self, container: str) -> Any: ...

    def stop(self, container: str) -> None: ...

    def start(self, container: str) -> None: ...

    def remove(self, container: str) -> None:
        """With force."""

    def networks(self) -> dict[str, str]:
        """Name and driver."""

    def inspect_network(self, network: str) -> Any: ...

    def create_network(self, network: str, subnet: str = "") -> None: ...

    def remove_network(self, network: str) -> None:
        """Raises Refused."""

    def connect(self, network: str, container: str, ip: str = "") -> None: ...

    def disconnect(self, network: str, container: str) -> None: ...

    def prune_networks(self) -> list[str]:
        """The names of the networks removed."""


class CommandLine:
    """docker, or pier: the same grammar."""

    def __init__(self, name: str, program: Callable[..., Output]) -> None:
        self.name = name
        self.program = program

    def _say(self, *words: str) -> Output:
        said = self.program(*words)
        if said.status != 0:
            raise Refused(said.stderr)
        return said

    def run(
        self,
        image: str,
        *command: str,
        name: str = "",
        ports: Mapping[int, int] | None = None,
        network: str = "",
        ip: str = "",
    ) -> str:
        words = ["run", "-d"]
        for outside, inside in (ports or {}).items():
            words += ["-p", f"{outside}:{inside}"]
        for flag, value in (("--name", name), ("--network", network), ("--ip", ip)):
            words += [flag, value] if value else []
        return self._say(*words, image, *command).stderr

    def output(self, image: str, *command: str, network: str = "") -> str:
        return self._say("run", "--rm", *(["--network", network] if network else []), image, *command).stdout

    def execute(self, container: str, *command: str) -> str:
        said = self.program("exec", container, *command)
        return said.stdout + said.stderr

    def ports(self) -> dict[str, str]:
        lines = self._say("ps", "--format", "{{.Names}}\t{{.Ports}}").lines
        return {name: ports for name, _, ports in (line.partition("\t") for line in lines)}

    def names(self) -> set[str]:
        return set(self._say("ps", "-a", "--format", "{{.Names}}").lines)

    def logs(self, container: str) -> str:
        said = self._say("logs", container)
        return said.stdout + said.stderr

    def inspect(self, container: str) -> Any:
        return json.loads(self._say("inspect", container).stdout)[0]

    def stop(self, container: str) -> None:
        self._say("stop", "-t", "1", container)

    def start(self, container: str) -> None:
        self._say("start", container)

    def remove(self, container: str) -> None:
        self._say("rm", "-f", container)

    def networks(self) -> dict[str, str]:
        lines = self._say("network", "ls", "--format", "{{.Name}} {{.Driver}}").lines
        return dict(line.split() for line in lines)

    def inspect_network(self, network: str) -> Any:
        return json.loads(self._say("network", "inspect", network).stdout)[0]

    def create_network(self, network: str, subnet: str = "") -> None:
        self._say("network", "create", *(["--subnet", subnet] if subnet else []), network)

    def remove_network(self, network: str) -> None:
        self._say("network", "rm", network)

    def connect(self, network: str, container: str, ip: str = "") -> None:
        self._say("network", "connect", *(["--ip", ip] if ip else []), network, container)

    def disconnect(self, network: str, container: str) -> None:
        self._say("network", "disconnect", network, container)

    def prune_networks(self) -> list[str]:
        lines = self._say("network", "prune", "-f").lines
        return [line for line in lines if line and not line.startswith("Deleted")]


class DockerPy:
    """The docker package for Python."""

    name = "docker-py"

    def __init__(self, path: str) -> None:
        self.client = docker.DockerClient(f"unix://{path}", version="auto", timeout=DEADLINE)

    def close(self) -> None:
        self.client.close()

    def run(
        self,
        image: str,
        *command: str,
        name: str = "",
        ports: Mapping[int, int] | None = None,
        network: str = "",
        ip: str = "",
    ) -> str:
        api = self.client.api
        published = {inside: outside for outside, inside in (ports or {}).items()}
        networking = None
        if ip:
            networking = api.create_networking_config({network: api.create_endpoint_config(ipv4_address=ip)})
        host = api.create_host_config(port_bindings=published or None)
        # Set by hand: docker-py itself refuses ports on the host network, the engine is what is asked here.
        host["NetworkMode"] = network or "default"
        try:
            made = api.create_container(
                image,
                list(command) or None,
                name=name or None,
                ports=list(published) or None,
                host_config=host,
                networking_config=networking,
            )
            api.start(made["Id"])
        except APIError as error:
            raise Refused(str(error.explanation)) from error
        return "\n".join(made["Warnings"] or [])

    def output(self, image: str, *command: str, network: str = "") -> str:
        said = self.client.containers.run(image, list(command), remove=True, network=network or None)
        return bytes(said).decode()

    def execute(self, container: str, *command: str) -> str:
        return bytes(self.client.containers.get(container).exec_run(list(command)).output).decode()

    def ports(self) -> dict[str, str]:
        def text(port: Mapping[str, Any]) -> str:
            inside = f"{port['PrivatePort']}/{port['Type']}"
            return f"{port['IP']}:{port['PublicPort']}->{inside}" if "PublicPort" in port else inside

        return {
            entry["Names"][0].removeprefix("/"): ", ".join(text(port) for port in entry["Ports"])
            for entry in self.client.api.containers()
        }

    def names(self) -> set[str]:
        return {container.name for container in self.client.containers.list(all=True)}

    def logs(self, container: str) -> str:
        return bytes(self.client.containers.get(container).logs()).decode()

    def inspect(self, container: str) -> Any:
        return self.client.api.inspect_container(container)

    def stop(self, container: str) -> None:
        self.client.api.stop(container, timeout=1)

    def start(self, container: str) -> None:
        self.client.api.start(container)

    def remove(self, container: str) -> None:
        self.client.api.remove_container(container, force=True)

    def networks(self) -> dict[str, str]:
        return {network["Name"]: network["Driver"] for network in self.client.api.networks()}

    def inspect_network(self, network: str) -> Any:
        return self.client.api.inspect_network(network)

    def create_network(self, network: str, subnet: str = "") -> None:
        ipam = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=subnet)]) if subnet else None
        self.client.networks.create(network, driver="bridge", ipam=ipam)

    def remove_network(self, network: str) -> None:
        try:
            self.client.api.remove_network(network)
        except APIError as error:
            raise Refused(str(error.explanation)) from error

    def connect(self, network: str, container: str, ip: str = "") -> None:
        self.client.networks.get(network).connect(container, ipv4_address=ip or None)

    def disconnect(self, network: str, container: str) -> None:
        self.client.networks.get(network).disconnect(container)

    def prune_networks(self) -> list[str]:
        return list(self.client.networks.prune()["NetworksDeleted"] or [])


HANDS = ("docker", "pier", "docker-py")


def hand(name: str, engine: Engine) -> Hand:
    """The hand of that name, aimed at the engine."""
    if name == "docker-py":
        return DockerPy(engine.socket)
    return CommandLine(name, engine.docker if name == "docker" else engine.pier)


class Background:
    """Something done beside the test, whose error is the test's."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None

        def body() -> None:
            try:
                self.result = work()
            except BaseException as error:
                self.error = error

        self.thread = threading.Thread(target=body, daemon=True)
        self.thread.start()

    def finish(self, timeout: float = DEADLINE) -> Any:
        self.thread.join(timeout)
        assert not self.thread.is_alive(), "it did not end"
        if self.error is not None:
            raise self.error
        return self.result
