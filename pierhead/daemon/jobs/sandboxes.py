"""A container's network sandbox: what is prepared before a start, served while it runs, and taken away after its end.

Rows first, then effects: an address and a port are in GraphDB before a message or a socket uses them, so that after a
crash the daemon knows whose they were.
"""

import errno
import itertools
import json
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from pierhead.daemon.engine.engine import Engine, blocking, phase
from pierhead.daemon.engine.running import Running
from pierhead.daemon.jobs import address_allocation, endpoints, links, memberships, netfiles
from pierhead.daemon.jobs.describe import host_config_of, network_kind
from pierhead.daemon.jobs.port_allocation import allocate_ports, kept, reserve
from pierhead.daemon.jobs.zones import resolver_setup, serve
from pierhead.driver.execdriver.api import HeldPort, Started
from pierhead.driver.networkdriver import endpointoptions, ipam, reservations
from pierhead.driver.networkdriver.api import Endpoint, Network
from pierhead.errors import Conflict, Forbidden, InvalidParameter, NoSuchNetwork, NotFound, PierheadError, plain
from pierhead.graph.containers import Container
from pierhead.graph.graphdb import Row
from pierhead.libcontainer.spec import NetworkSetup
from pierhead.linux import netlink

log = logging.getLogger("pierd")


@dataclass(frozen=True, slots=True)
class Joined:
    """What the exec driver needs for a start; the sockets become the StartRequest's."""

    setup: NetworkSetup = field(default_factory=NetworkSetup)
    ports: tuple[HeldPort, ...] = ()


async def prepare(engine: Engine, container_id: str) -> Joined:
    """Give a container its addresses and ports, make them reachable, and plan its joining.

    The caller holds its lock.  Raises PierheadError with Docker's words; then nothing is left.
    """
    container = engine.containers.get(container_id)
    kind = network_kind(host_config_of(container).network_mode)
    if kind == "container":
        return Joined()
    links.resolve(engine, container)
    await release(engine, container_id)
    try:
        async with engine.network_gate.shared():
            with phase("networkdriver: addresses and ports"), engine.db.transaction():
                _allocate(engine, container)
            held = await reserve(engine, container)
            try:
                with phase("networkdriver: plan"):
                    return await _plan(engine, container, held)
            except BaseException:
                reservations.release(held)
                raise
    except PierheadError as error:
        await release(engine, container_id)
        raise wrapped(error) from error
    except OSError as error:
        await release(engine, container_id)
        raise PierheadError(f"failed to set up container networking: {plain(error)}") from error


def wrapped(error: PierheadError) -> PierheadError:
    """The same error in the sentence that Docker begins with."""
    classes = {one.status: one for one in (InvalidParameter, Forbidden, NotFound, Conflict)}
    return classes.get(error.status, PierheadError)(f"failed to set up container networking: {error}")


# Addresses -----------------------------------------------------------------------------------------------------------


def _allocate(engine: Engine, container: Container) -> None:
    """Write addresses and ports of every endpoint. Within a transaction."""
    memberships.resolve(engine, container.id)
    rows = endpoints.endpoint_rows(engine, container.id)
    gateway = endpoints.gateway_of(engine, rows)
    for row, place in zip(rows, places(rows), strict=True):
        allocate_endpoint(engine, container, row, place, gateway=row["id"] == gateway)
    if gateway is not None:
        allocate_ports(engine, container, host_config_of(container))


@dataclass(frozen=True, slots=True)
class Place:
    """An endpoint's link among those of its container: a number and a name inside that no other has."""

    number: int
    interface: str


def places(rows: Sequence[Row], taken: Sequence[Place] = ()) -> list[Place]:
    """A place for each of these endpoints; taken: those of the container's others. Names that the user has chosen come
    first. Raises Conflict where one is not to be had."""
    names = [place.interface for place in taken]
    chosen = [endpointoptions.chosen_name(endpoints.asked(row).driver_opts or {}) for row in rows]
    for row, name in zip(rows, chosen, strict=True):
        if name in names:
            raise Conflict(f"network {row['network_name']}: another interface of the container is named {name}")
        names += filter(None, [name])
    numbers = [place.number for place in taken]
    found = []
    for row, name in zip(rows, chosen, strict=True):
        place = Place(
            next(number for number in itertools.count() if number not in numbers),
            name or endpointoptions.free_name(json.loads(row["options"]), names),
        )
        numbers.append(place.number)
        names.append(place.interface)
        found.append(place)
    return found


def allocate_endpoint(engine: Engine, container: Container, row: Row, place: Place, *, gateway: bool) -> str:
    """Write an endpoint as active, under a new id; returns that. Within a transaction. Raises PierheadError."""
    # Asked anew: who waited for the gate has its row from before.
    ready = "SELECT 1 FROM endpoint e JOIN network n ON n.id = e.network_id WHERE e.id = ? AND n.state = 'ready'"
    if engine.db.first(ready, (row["id"],)) is None:
        raise NoSuchNetwork(row["network_name"])  # it is just being removed
    id = secrets.token_hex(32)
    mac, ipv4, ipv6 = "", None, None
    driver = engine.networks[row["driver"]]
    if driver.addressed:
        driver.room(endpoints.network_at(engine, row), _count(engine, row["network_id"]))
        settings = endpoints.asked(row)
        config = settings.ipam_config
        ipv4 = address_allocation.choose(engine, container, row, 4, config.ipv4_address if config else "")
        ipv6 = address_allocation.choose(engine, container, row, 6, config.ipv6_address if config else "")
        mac = settings.mac_address
        if mac and not driver.own_mac:
            raise PierheadError(f"{driver.name} interfaces do not support custom mac address assignment")
        if not mac and driver.own_mac:
            mac = ipam.mac(IPv4Address(ipv4.partition("/")[0])) if ipv4 else f"02:42:{secrets.token_bytes(4).hex(':')}"
    engine.db.execute(
        "UPDATE endpoint SET id = ?, active = 1, interface = ?, number = ?, mac = ?, ipv4 = ?, ipv6 = ?, gateway = ? "
        "WHERE id = ?",
        (id, place.interface, place.number, mac, ipv4, ipv6, int(gateway), row["id"]),
    )
    return id


def _count(engine: Engine, network_id: str) -> int:
    found = engine.db.one("SELECT count(*) AS n FROM endpoint WHERE network_id = ? AND active = 1", (network_id,))
    return int(found["n"])


# Joining -------------------------------------------------------------------------------------------------------------


async def _plan(engine: Engine, container: Container, held: list[HeldPort]) -> Joined:
    joined = endpoints.active(engine, container.id)
    setups = [await plan_endpoint(engine, network, endpoint) for network, endpoint in joined]
    if not joined and host_config_of(container).network_mode != "host":
        setups.append(NetworkSetup(inside=(netlink.link_set(index=netlink.LOOPBACK_INDEX, up=True),)))
    if any(endpoints.named(engine, network.driver, network.name) for network, _ in joined):
        setups.append(resolver_setup(container.id))
    for network, endpoint in joined:
        if endpoint.ports:
            with phase("networkdriver: publish"):
                engine.networks[network.driver].publish(network, endpoint)
    links.open_ports(engine)
    return Joined(merge(setups), tuple(held))


async def plan_endpoint(engine: Engine, network: Network, endpoint: Endpoint) -> NetworkSetup:
    """The driver's plan; a network whose bridge somebody has removed is made again first."""
    driver = engine.networks[network.driver]
    try:
        return driver.plan(network, endpoint)
    except OSError as error:
        log.warning("network %s is gone (%s): making it again", network.name, error)
        await blocking(driver.create, network)
        return driver.plan(network, endpoint)


def merge(setups: list[NetworkSetup]) -> NetworkSetup:
    """Several endpoints' setups as one; what they have in common (lo) once."""
    return NetworkSetup(
        host=tuple(message for setup in setups for message in setup.host),
        inside=tuple(dict.fromkeys(message for setup in setups for message in setup.inside)),
        nft=next((setup.nft for setup in setups if setup.nft), b""),
        sysctls=tuple(dict.fromkeys(value for setup in setups for value in setup.sysctls)),
        resolver=next((setup.resolver for setup in setups if setup.resolver), 0),
        busy=tuple(dict.fromkeys(number for setup in setups for number in setup.busy)),
    )


async def joined(engine: Engine, container_id: str, started: Started) -> None:
    """It runs: serve its names, and say that it is connected."""
    for network, _ in endpoints.active(engine, container_id):
        engine.resolvers.changed(network.id)
        announce(engine, "connect", network, container_id)
    if started.resolver is not None:
        serve(engine, container_id, started.resolver)
    followed(engine, container_id)


def followed(engine: Engine, container_id: str) -> None:
    """A container has other addresses now: those that have a link to it learn of it."""
    for other in links.linked_by(engine, container_id):
        if other in engine.running:
            netfiles.relink(engine, other)


async def reattach(engine: Engine, container_id: str, started: Started) -> None:
    """After a restart of the daemon: serve its names again, and its ports as they are to be served now."""
    carrier = next((one for one in endpoints.active(engine, container_id) if one[1].gateway), None)
    if carrier is not None and carrier[1].ports:
        engine.running[container_id].monitor.keep_ports(kept(engine, *carrier))
    if started.resolver is not None:
        serve(engine, container_id, started.resolver)


def announce(engine: Engine, action: str, network: Network, container_id: str) -> None:
    """A network event, as Docker's."""
    engine.events.publish(
        "network", action, network.id, {"container": container_id, "name": network.name, "type": network.driver}
    )


# Leaving -------------------------------------------------------------------------------------------------------------


async def release(engine: Engine, container_id: str) -> None:
    """Take a container out of its networks and give its addresses and ports back. Idempotent.

    What the drivers could not undo is logged; reconciliation at the next start finds it.
    """
    engine.resolvers.stop(container_id)
    left = endpoints.active(engine, container_id)
    if not left:
        return
    async with engine.network_gate.shared():
        await _leave(engine, container_id, left)
    for network, _ in left:
        engine.resolvers.changed(network.id)
        announce(engine, "disconnect", network, container_id)


async def _leave(engine: Engine, container_id: str, left: list[tuple[Network, Endpoint]]) -> None:
    guest = _guest(engine, container_id)
    for network, endpoint in left:
        driver = engine.networks[network.driver]
        if not driver.addressed:
            continue  # nothing was made
        try:
            if guest is not None:
                await unplug(engine, guest, network, endpoint)
            else:
                await blocking(driver.leave, network, endpoint)
        except (OSError, ExceptionGroup) as error:
            log.error("container %s could not leave %s: %s", container_id[:12], network.name, error, exc_info=error)
    name = engine.containers.get(container_id).name
    with engine.db.transaction():
        engine.db.execute("DELETE FROM port WHERE container_id = ?", (container_id,))
        for network, endpoint in left:
            address_allocation.release(engine, network, endpoint, name)
    links.open_ports(engine)


def _guest(engine: Engine, container_id: str) -> Running | None:
    """A running container that has joined this one's network namespace, which therefore goes on."""
    found = (running for running in engine.running.values() if running.owner == container_id != running.id)
    return next(found, None)


async def unplug(engine: Engine, running: Running, network: Network, endpoint: Endpoint) -> None:
    """Take an endpoint out of a network namespace that goes on; running: a container that is in it. Raises OSError,
    ExceptionGroup."""
    driver = engine.networks[network.driver]
    messages = driver.withdraw(network, endpoint)
    if messages:
        serial, answer = running.expect()
        running.monitor.leave_network(messages, serial)
        try:
            await answer
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
    await blocking(driver.unplug, network, endpoint)
