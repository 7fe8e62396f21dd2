"""Published ports of a container: from what its configuration asks for to rows and sockets.

The rows come first: what must not happen twice (a port of an address) is a constraint of GraphDB, and after a crash
they say whose a port was.  Then sockets keep other programs away (``driver.networkdriver.ports``).
"""

import asyncio
import errno
import logging

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.jobs import endpoints
from pierhead.daemon.jobs.describe import config_of
from pierhead.driver.networkdriver import ports
from pierhead.driver.networkdriver.api import PortBinding
from pierhead.errors import PierheadError
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
    if not wanted or not _publishes(engine, container):
        return
    fixed = [
        PortBinding(one.proto, one.port, one.port, one.ip, one.low, one.low)
        for one in wanted
        if one.low and one.low == one.high
    ]
    for binding in ports.coalesce(fixed):
        _write_port(engine, container, binding)
    for one in wanted:
        if not one.low or one.low != one.high:
            _write_dynamic(engine, container, one)


def _publishes(engine: Engine, container: Container) -> bool:
    gateway = engine.db.first(
        "SELECT n.driver FROM endpoint e JOIN network n ON n.id = e.network_id "
        "WHERE e.container_id = ? AND e.gateway = 1",
        (container.id,),
    )
    if gateway is None:
        return False
    driver = engine.networks[gateway["driver"]]
    if not driver.publishes:
        log.warning("container %s: %s driver does not support port mappings", container.name, driver.name)
    return driver.publishes


def _write_port(engine: Engine, container: Container, binding: PortBinding) -> None:
    try:
        _insert_port(engine, container, binding)
    except IntegrityError as error:
        raise _external(engine, container, _taken(engine, binding)) from error


def _insert_port(engine: Engine, container: Container, binding: PortBinding) -> None:
    engine.db.execute(
        "INSERT INTO port (container_id, proto, ip, low, high, container_low) VALUES (?, ?, ?, ?, ?, ?)",
        (
            container.id,
            binding.proto,
            binding.host_ip,
            binding.host_low,
            binding.host_high,
            binding.container_low,
        ),
    )


def _write_dynamic(engine: Engine, container: Container, one: ports.PortRequest) -> None:
    low, high = (one.low, one.high) if one.low else ports.dynamic_range()
    last = engine.db.first(
        "SELECT high FROM port WHERE proto = ? AND ip = ? AND low BETWEEN ? AND ? ORDER BY low DESC LIMIT 1",
        (one.proto, one.ip, low, high),
    )
    first = low if last is None or last["high"] >= high else last["high"] + 1
    for port in (*range(first, high + 1), *range(low, first)):
        binding = PortBinding(one.proto, one.port, one.port, one.ip, port, port)
        try:
            if ports.is_free(binding):
                _insert_port(engine, container, binding)
                return
        except IntegrityError:
            continue
        except ports.PortRefused as error:
            raise _external(engine, container, ports.refused(error, None)) from error
    raise _external(engine, container, PierheadError(f"Bind for {one.ip or '0.0.0.0'} failed: all ports are allocated"))


def _taken(engine: Engine, binding: PortBinding) -> PierheadError:
    row = engine.db.first(
        "SELECT p.low, c.name FROM port p JOIN container c ON c.id = p.container_id "
        "WHERE p.proto = ? AND p.low <= ? AND p.high >= ? ORDER BY p.low LIMIT 1",
        (binding.proto, binding.host_high, binding.host_low),
    )
    port = binding.host_low if row is None else max(binding.host_low, row["low"])
    return ports.allocated(binding.host_ip, port, "" if row is None else row["name"])


def _external(engine: Engine, container: Container, error: PierheadError) -> PierheadError:
    row = engine.db.first("SELECT id FROM endpoint WHERE container_id = ? AND gateway = 1", (container.id,))
    return PierheadError(
        "driver failed programming external connectivity on endpoint "
        f"{container.name} ({'' if row is None else row['id']}): {error}"
    )


async def reserve(engine: Engine, container: Container) -> ports.Reservation:
    """Bind what the rows say. Raises PierheadError that names who holds a port.

    A port that the rows say is free may be held for some more ms by the process of a container that has just ended.
    """
    target = next((endpoint for _, endpoint in endpoints.active(engine, container.id) if endpoint.gateway), None)
    if target is None or not target.ports:
        return ports.Reservation((), ())
    count = sum(binding.host_high - binding.host_low + 1 for binding in target.ports)
    if count > ports.SOCKETS:
        log.warning(
            "container %s publishes %d ports: above %d none is reserved against other programs, nor served on ::1 and "
            "from IPv6 to IPv4",
            container.name,
            count,
            ports.SOCKETS,
        )
    ipv4 = target.ipv4.ip if target.ipv4 is not None else None
    ipv6 = target.ipv6.ip if target.ipv6 is not None else None
    for attempt in range(RESERVE_ATTEMPTS):
        try:
            return ports.reserve(target.ports, ipv4, ipv6)
        except ports.PortRefused as error:
            if error.errno != errno.EADDRINUSE or attempt + 1 == RESERVE_ATTEMPTS:
                refusal = await blocking(ports.refused, error, ipv4 or ipv6)
                raise _external(engine, container, refusal) from error
        await asyncio.sleep(RESERVE_PAUSE)
    raise AssertionError("not reached")
