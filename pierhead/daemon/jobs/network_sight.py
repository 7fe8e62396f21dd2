"""Network namespaces looked into: the host's, and running containers' through sockets that their shims open there."""

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.driver.networkdriver import dns
from pierhead.graph.containers import Container
from pierhead.linux import sockdiag
from pierhead.linux.netlink import Route
from pierhead.linux.netstate import KINDS, Device, View
from pierhead.linux.sockdiag import Bound

AT_A_TIME = 16
"""Namespaces that are looked into together; each takes two descriptors."""

PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}


@dataclass(frozen=True, slots=True)
class Sight:
    """What one namespace was at one moment. defaults: its default routes.  rp_filter: of all its devices at least."""

    devices: tuple[Device, ...] = ()
    defaults: tuple[Route, ...] = ()
    forwards: bool = False
    forwards6: bool = False
    rp_filter: int = 0
    sockets: Mapping[str, Sequence[Bound]] = field(default_factory=dict)

    def device(self, name: str) -> Device | None:
        """By name."""
        return next((device for device in self.devices if device.name == name), None)

    def at(self, index: int) -> Device | None:
        """By ifindex."""
        return next((device for device in self.devices if device.index == index), None)

    def other_end(self, inside: Device) -> Device | None:
        """This namespace's end of a veth whose other one is ``inside`` another namespace."""
        found = self.at(inside.peer)
        if inside.kind != "veth" or found is None or found.kind != "veth" or found.peer != inside.index:
            return None
        return found


@dataclass(frozen=True, slots=True)
class Looked:
    """Containers that run, by the namespaces that they are in.

    spaces: for each container the number of its namespace; sights: what was seen in each.  own: the host's.
    problems: why a container's could not be looked into.
    """

    own: int
    spaces: Mapping[str, int]
    sights: Mapping[int, Sight]
    problems: Mapping[str, str]

    def of(self, container_id: str) -> Sight | None:
        """What was seen where a container is."""
        return self.sights.get(self.spaces.get(container_id, 0))


def see(view: View) -> Sight:
    """Read everything through a View, and close it. Raises OSError."""
    with view:
        forwards, rp_filter = view.everywhere(4)
        return Sight(
            devices=tuple(view.devices()),
            defaults=tuple(route for route in view.routes() if route.prefix is None),
            forwards=forwards,
            forwards6=view.everywhere(6)[0],
            rp_filter=rp_filter,
            sockets={
                name: [one for one in view.bound(number) if one.serves and one.address != dns.ADDRESS]
                for name, number in PROTOCOLS.items()
            },
        )


def namespace_of(pid: int | str) -> int:
    """The number of a process's network namespace. Raises OSError."""
    return os.stat(f"/proc/{pid}/ns/net").st_ino


async def view_of(engine: Engine, container_id: str) -> View:
    """A running container's namespace, to be asked. Raises OSError where it cannot be."""
    running = engine.running.get(container_id)
    if running is None:
        raise ProcessLookupError(f"container {container_id} is not running")
    return View(await running.open_sockets(KINDS))


async def look(engine: Engine, containers: Sequence[Container]) -> Looked:
    """See the host's namespace and those of these containers, each once, all at the same time."""
    own = namespace_of("self")
    spaces: dict[str, int] = {}
    problems: dict[str, str] = {}
    for container in containers:
        try:
            spaces[container.id] = namespace_of(container.pid)
        except OSError:
            problems[container.id] = "it has just ended"
    first = {number: id for id, number in reversed(spaces.items()) if number != own}
    sights = {own: await blocking(lambda: see(View()))}

    turn = asyncio.Semaphore(AT_A_TIME)

    async def enter(number: int, id: str) -> None:
        try:
            async with turn:
                sights[number] = await blocking(see, await view_of(engine, id))
        except (OSError, TimeoutError) as error:
            for other, space in spaces.items():
                if space == number:
                    problems[other] = f"its network namespace could not be looked into: {error or 'no answer'}"

    await asyncio.gather(*(enter(number, id) for number, id in first.items()))
    return Looked(own, spaces, sights, problems)


def owners(engine: Engine, container_id: str) -> dict[int, str]:
    """The sockets of a container's processes: by inode, the process's name. May wait."""
    try:
        pids = engine.exec.processes(container_id)
    except OSError:
        return {}
    return sockdiag.owners(pids)
