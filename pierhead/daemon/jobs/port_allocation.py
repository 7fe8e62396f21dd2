"""Published ports of a container: from what its configuration asks for to rows and sockets.

The rows come first: what must not happen twice (a port of an address) is a constraint of GraphDB, and after a crash
they say whose a port was.  Then sockets keep other programs away (``driver.networkdriver.reservations``).
"""

import asyncio
import errno
import logging
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.jobs import endpoints
from pierhead.daemon.jobs.describe import config_of
from pierhead.driver.execdriver.api import HeldPort, KeptPort
from pierhead.driver.networkdriver import ports, reservations
from pierhead.driver.networkdriver.api import Endpoint, Network, PortBinding
from pierhead.errors import NoSuchContainer, PierheadError
from pierhead.graph.containers import Container
from pierhead.graph.graphdb import IntegrityError
from pierhead.wire.containers import ContainerConfig, HostConfig

log = logging.getLogger("pierd")

RESERVE_ATTEMPTS, RESERVE_PAUSE = 20, 0.02


def requests(config: ContainerConfig, host: HostConfig) -> list[ports.PortRequest]:
    """The ports that a container's configuration publishes. Raises InvalidParameter."""
    bindings = {
        key: [(binding.host_ip, binding.host_port) for binding in found or ()]
        for key, found in (host.port_bindings or {}).items()
    }
    return ports.requests(bindings, config.exposed_ports or {}, host.publish_all_ports)


def allocate_ports(engine: Engine, container: Container, host: HostConfig) -> None:
    """Write the ports that the configuration publishes, if the container's way out is a network that publishes any.
    Within a transaction, after the gateway's endpoint is written. Raises PierheadError."""
    wanted = requests(config_of(container), host)
    carrier = _carrier(engine, container) if wanted else None
    if carrier is not None:
        write(engine, container, wanted, carrier)
        write_direct(engine, container, wanted, carrier)


def write(engine: Engine, container: Container, wanted: Iterable[ports.PortRequest], carrier: Network) -> None:
    """Write rows for ports, choosing those that are not fixed. Within a transaction. Raises PierheadError.

    carrier: the network that the container's ports are published through.
    """
    hosts = engine.networks[carrier.driver].hosts(carrier)
    wanted = _at_hosts(_addressed(engine, wanted, carrier), hosts)
    fixed = [PortBinding(one.proto, one.port, one.port, one.ip, one.low, one.low) for one in wanted if one.fixed]
    for binding in ports.coalesce(fixed):
        _write_port(engine, container, binding)
    for group in ports.groups(wanted):
        _write_dynamic(engine, container, group)


def write_direct(engine: Engine, container: Container, wanted: Iterable[ports.PortRequest], carrier: Network) -> None:
    """Write rows for all ports of a container that are open at its own address. Within a transaction."""
    hosts = engine.networks[carrier.driver].hosts(carrier)
    versions = [version for version in (4, 6) if version not in hosts]
    if not versions:
        return
    asked = _addressed(engine, wanted, carrier)
    row = engine.db.one("SELECT * FROM endpoint WHERE container_id = ? AND gateway = 1", (container.id,))
    for version in versions:
        own = (row[f"ipv{version}"] or "").partition("/")[0]
        numbers = {(one.proto, one.port) for one in asked if not one.ip or ip_address(one.ip).version == version}
        for proto, low, high in ports.runs(numbers) if own else ():
            insert(engine, container, PortBinding(proto, low, high, own, low, high, direct=True))


def _addressed(engine: Engine, wanted: Iterable[ports.PortRequest], carrier: Network) -> list[ports.PortRequest]:
    """With the address at which the network publishes what names none, if it says so."""
    address = engine.networks[carrier.driver].binding(carrier)
    return [one if one.ip else replace(one, ip=address) for one in wanted]


def _at_hosts(wanted: Iterable[ports.PortRequest], hosts: tuple[int, ...]) -> list[ports.PortRequest]:
    """Those that take a port of the host's, at its addresses of these IP versions only."""
    if len(hosts) == 2:
        return list(wanted)
    every = "0.0.0.0" if 4 in hosts else "::"
    found = (one if one.ip else replace(one, ip=every) for one in wanted)
    return list(dict.fromkeys(one for one in found if one.ip and ip_address(one.ip).version in hosts))


def _carrier(engine: Engine, container: Container) -> Network | None:
    """The network that is the container's way out, if it publishes ports."""
    row = next((row for row in endpoints.endpoint_rows(engine, container.id) if row["gateway"]), None)
    if row is None:
        return None
    driver = engine.networks[row["driver"]]
    if not driver.publishes:
        log.warning("container %s: %s driver does not support port mappings", container.name, driver.name)
        return None
    return endpoints.network_at(engine, row)


def _write_port(engine: Engine, container: Container, binding: PortBinding) -> None:
    try:
        insert(engine, container, binding)
    except IntegrityError as error:
        raise _external(engine, container, _taken(engine, container, binding)) from error


def insert(engine: Engine, container: Container, binding: PortBinding) -> None:
    """Write a binding. Raises IntegrityError where a container has one of its ports."""
    engine.db.execute(
        "INSERT INTO port (container_id, proto, ip, low, high, container_low, direct) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            container.id,
            binding.proto,
            binding.host_ip,
            binding.host_low,
            binding.host_high,
            binding.container_low,
            binding.direct,
        ),
    )


def _write_dynamic(engine: Engine, container: Container, group: list[ports.PortRequest]) -> None:
    """Choose one port for all of a group's addresses. Raises PierheadError."""
    first = group[0]
    low, high = (first.low, first.high) if first.low else ports.dynamic_range()
    last = engine.db.first(
        "SELECT high FROM port WHERE proto = ? AND ip = ? AND low BETWEEN ? AND ? ORDER BY low DESC LIMIT 1",
        (first.proto, first.ip, low, high),
    )
    begin = low if last is None or last["high"] >= high else last["high"] + 1
    for port in (*range(begin, high + 1), *range(low, begin)):
        bindings = [PortBinding(one.proto, one.port, one.port, one.ip, port, port) for one in group]
        try:
            if all(reservations.is_free(binding) for binding in bindings) and _insert_all(engine, container, bindings):
                return
        except reservations.PortRefused as error:
            raise _external(engine, container, reservations.refused(error, reservations.Addresses())) from error
    where = reservations.bracketed(first.ip or "0.0.0.0")
    raise _external(engine, container, PierheadError(f"Bind for {where} failed: all ports are allocated"))


def _insert_all(engine: Engine, container: Container, bindings: list[PortBinding]) -> bool:
    """Write all of them or, where a container has one of the ports, none."""
    for number, binding in enumerate(bindings):
        try:
            insert(engine, container, binding)
        except IntegrityError:
            for written in bindings[:number]:
                engine.db.execute(
                    "DELETE FROM port WHERE proto = ? AND ip = ? AND low = ?",
                    (written.proto, written.host_ip, written.host_low),
                )
            return False
    return True


def _taken(engine: Engine, container: Container, binding: PortBinding) -> PierheadError:
    """The error for a binding that a row is in the way of."""
    rows = engine.db.all(
        "SELECT p.ip, p.low, c.id, c.name FROM port p JOIN container c ON c.id = p.container_id "
        "WHERE p.direct = 0 AND p.proto = ? AND p.low <= ? AND p.high >= ? ORDER BY p.low",
        (binding.proto, binding.host_high, binding.host_low),
    )
    row = next((row for row in rows if ports.overlap(row["ip"], binding.host_ip)), None)
    port = binding.host_low if row is None else max(binding.host_low, row["low"])
    who = ""
    if row is not None:
        who = "the same container" if row["id"] == container.id else f"container {row['name']}"
    return reservations.allocated(binding.host_ip, port, who)


def _external(engine: Engine, container: Container, error: PierheadError) -> PierheadError:
    row = engine.db.first("SELECT id FROM endpoint WHERE container_id = ? AND gateway = 1", (container.id,))
    return PierheadError(
        "driver failed programming external connectivity on endpoint "
        f"{container.name} ({'' if row is None else row['id']}): {error}"
    )


def addresses(engine: Engine, network: Network, endpoint: Endpoint) -> reservations.Addresses:
    """A container's own addresses on the network that carries its ports."""
    return reservations.addresses_of(endpoint, apart=engine.networks[network.driver].apart(network))


def kept(engine: Engine, network: Network, endpoint: Endpoint) -> list[KeptPort]:
    """What of a container's reservation sockets is to stay, and how it is served now."""
    return reservations.kept(endpoint.ports, addresses(engine, network, endpoint), engine.config.publish_policy)


async def reserve(engine: Engine, container: Container, kept: Collection[tuple[str, str, int]] = ()) -> list[HeldPort]:
    """Bind what the rows say, but for what the container holds already (``reservations.held``).

    Raises PierheadError that names who holds a port.

    A port that the rows say is free may be held for some more ms by the process of a container that has just ended.
    """
    carrier = next((one for one in endpoints.active(engine, container.id) if one[1].gateway), None)
    if carrier is None or not carrier[1].ports:
        return []
    ports, inside = carrier[1].ports, addresses(engine, *carrier)
    for attempt in range(RESERVE_ATTEMPTS):
        try:
            return reservations.reserve(ports, inside, kept, engine.config.publish_policy)
        except reservations.PortRefused as error:
            if error.errno != errno.EADDRINUSE or attempt + 1 == RESERVE_ATTEMPTS:
                who = await blocking(_holder, engine, error)
                refusal = reservations.refused(error, inside, who)
                raise _external(engine, container, refusal) from error
        await asyncio.sleep(RESERVE_PAUSE)
    raise AssertionError("not reached")


def _holder(engine: Engine, error: reservations.PortRefused) -> str:
    """Who holds a port: "held by nginx (process 123)", "held by nginx (process 123) of container web", or ""."""
    found = reservations.holder(error)
    if found is None:
        return ""
    pid, name = found
    container = engine.exec.owner(pid)
    if container is None:
        return f"held by {name} (process {pid})"
    with suppress(NoSuchContainer):
        return f"held by {name} (process {pid}) of container {engine.containers.get(container).name}"
    return f"held by {name} (process {pid})"
