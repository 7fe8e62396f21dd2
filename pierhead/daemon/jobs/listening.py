"""The ports on which containers of the host's network really listen: nothing is published there, so nothing else says.

Asked for by ``pier ps`` alone, and cheap: one look at the host's sockets, and at the descriptors of these containers.
"""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.jobs.network_sight import PROTOCOLS, namespace_of, owners
from pierhead.graph.containers import Container
from pierhead.linux import sockdiag
from pierhead.linux.sockdiag import Bound
from pierhead.wire.network_map import Listener, ListenersOfContainer

CLIENTS = range(32768, 61000)
"""Ports that the kernel gives to clients: a datagram socket there is one that asks, not one that serves."""


async def show(engine: Engine) -> list[ListenersOfContainer]:
    """Those of every container in the host's network namespace, whatever it calls its mode. Raises OSError."""
    own = namespace_of("self")
    there = [container for container in engine.containers.all() if container.live and _is_in(container, own)]
    return await blocking(_look, engine, there) if there else []


def _is_in(container: Container, namespace: int) -> bool:
    try:
        return namespace_of(container.pid) == namespace
    except OSError:
        return False  # it has just ended


def _look(engine: Engine, containers: Iterable[Container]) -> list[ListenersOfContainer]:
    sockets = {name: [one for one in sockdiag.bound(number) if one.serves] for name, number in PROTOCOLS.items()}
    return [
        ListenersOfContainer(id=container.id, listeners=listeners(owners(engine, container.id), sockets))
        for container in containers
    ]


def listeners(held: Mapping[int, str], sockets: Mapping[str, Iterable[Bound]]) -> list[Listener]:
    """What the processes that hold these sockets (inode, name) listen on, in the order of ports. Pure."""
    found = {
        (protocol, one.port, str(one.address)): held[one.inode]
        for protocol, bound in sockets.items()
        for one in bound
        if one.inode in held and not (protocol == "udp" and one.port in CLIENTS)
    }
    return [
        Listener(protocol=protocol, address=address, port=port, process=process)
        for (protocol, port, address), process in sorted(found.items(), key=lambda entry: _order(*entry[0]))
    ]


def _order(protocol: str, port: int, address: str) -> tuple[str, int, int, int]:
    parsed = ip_address(address)
    return protocol, port, parsed.version, int(parsed)
