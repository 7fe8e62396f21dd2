"""A running container's networks: joined to one more, taken out of one, its way out moved to another."""

import asyncio
import errno
import logging
from collections.abc import Sequence
from dataclasses import replace

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.engine.running import Running
from pierhead.daemon.jobs import address_allocation, endpoints, links
from pierhead.daemon.jobs.describe import host_config_of
from pierhead.daemon.jobs.port_allocation import allocate_ports, kept, reserve
from pierhead.daemon.jobs.sandboxes import (
    Place,
    allocate_endpoint,
    announce,
    merge,
    places,
    plan_endpoint,
    unplug,
    wrapped,
)
from pierhead.daemon.jobs.zones import resolver_setup, serve
from pierhead.driver.networkdriver import reservations
from pierhead.driver.networkdriver.api import Endpoint, Network, PortBinding
from pierhead.errors import PierheadError, plain
from pierhead.graph.containers import Container
from pierhead.graph.graphdb import Row
from pierhead.linux import netlink

log = logging.getLogger("pierd")

GONE = (errno.ESRCH, errno.EPIPE, errno.ECONNRESET)
"""What is said of a shim whose container has just ended; its namespace is not found then."""

PATIENCE = 10.0
"""Seconds in which the end of a container is told that such an error was the first to tell."""


async def gone(running: Running | None, error: BaseException, saying: Sequence[int] = GONE) -> bool:
    """Whether what failed in a container's namespace failed because the container has ended: it is told of soon.

    saying: the errors by which that can be known before.
    """
    if running is None:
        return True
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError) and (cause.errno in saying or str(cause.filename).endswith("/ns/net")):
        await asyncio.wait({running.exited}, timeout=PATIENCE)
    return running.exited.done()


async def connect(engine: Engine, container: Container, row: Row) -> None:
    """Join a running container to one more network (its endpoint's row is there). The caller holds its lock."""
    running = engine.running[container.id]
    before = endpoints.active(engine, container.id)
    second = _second(before)
    [place] = places([row], [Place(endpoint.number, endpoint.interface) for _, endpoint in before])
    gateway = endpoints.outward(engine, row) and not any(endpoint.gateway for _, endpoint in before)
    try:
        async with engine.network_gate.shared():
            if running.exited.done():  # while this waited: what it takes from now on its end does not give back
                raise ProcessLookupError(errno.ESRCH, f"container {container.id} is not running")
            with engine.db.transaction():
                id = allocate_endpoint(engine, container, row, place, gateway=gateway)
                if gateway:
                    allocate_ports(engine, container, host_config_of(container))
            if gateway:
                running.monitor.hold_ports(await reserve(engine, container))
            joined = [one for one in endpoints.active(engine, container.id) if one[1].id == id]
            if not joined:  # its end has given it back
                raise ProcessLookupError(errno.ESRCH, f"container {container.id} is not running")
            [(network, endpoint)] = joined
            setup = await plan_endpoint(engine, network, endpoint)
            if endpoints.named(engine, network.driver, network.name) and not engine.resolvers.serves(container.id):
                setup = merge([setup, resolver_setup(container.id)])
            serial, answer = running.expect()
            running.monitor.join_network(setup, serial)
            sockets = await answer
            if endpoint.ports:
                engine.networks[network.driver].publish(network, endpoint)
            links.open_ports(engine)
    except PierheadError as error:
        await leave(engine, container, row["network_id"])
        raise wrapped(error) from error
    except OSError as error:
        await leave(engine, container, row["network_id"])
        raise PierheadError(f"failed to set up container networking: {plain(error)}") from error
    engine.resolvers.changed(network.id)
    if sockets is not None:
        serve(engine, container.id, sockets)
    announce(engine, "connect", network, container.id)
    if any(endpoint.gateway for _, endpoint in before):
        try:
            async with engine.network_gate.shared():
                await _follow_priority(engine, container)
                await _move_second(engine, container, second, joined=id)
        except OSError as error:
            log.error("container %s keeps its way out: %s", container.id[:12], error)


async def leave(engine: Engine, container: Container, network_id: str) -> None:
    """Take a running container out of one network; another one becomes its way out. The caller holds its lock."""
    before = endpoints.active(engine, container.id)
    for network, endpoint in (one for one in before if one[0].id == network_id):
        async with engine.network_gate.shared():
            running = engine.running.get(container.id)
            try:
                if running is not None:
                    await unplug(engine, running, network, endpoint)
                else:
                    await blocking(engine.networks[network.driver].unplug, network, endpoint)
            except (OSError, ExceptionGroup) as error:
                log.error("container %s could not leave %s: %s", container.id[:12], network.name, error, exc_info=error)
            with engine.db.transaction():
                address_allocation.release(engine, network, endpoint, container.name)
            links.open_ports(engine)
        engine.resolvers.changed(network.id)
        announce(engine, "disconnect", network, container.id)
        try:
            if endpoint.gateway:
                async with engine.network_gate.shared():
                    await _move_gateway(engine, container, network)
            async with engine.network_gate.shared():
                await _move_second(engine, container, _second(before))
        except OSError as error:
            if not await gone(running, error):
                raise


async def _follow_priority(engine: Engine, container: Container) -> None:
    """Another network than the present way out may come first now (--gw-priority)."""
    rows = [row for row in endpoints.endpoint_rows(engine, container.id) if row["active"]]
    chosen = endpoints.gateway_of(engine, rows)
    for network, endpoint in endpoints.active(engine, container.id):
        if not endpoint.gateway or endpoint.id == chosen:
            continue
        driver = engine.networks[network.driver]
        if endpoint.ports:
            driver.publish(network, replace(endpoint, ports=()), endpoint)
        await _take_routes(engine, engine.running[container.id], network, endpoint)
        engine.db.execute("UPDATE endpoint SET gateway = 0 WHERE id = ?", (endpoint.id,))
        await _move_gateway(engine, container, network)


async def _take_routes(engine: Engine, running: Running, network: Network, endpoint: Endpoint) -> None:
    """An endpoint gives its default routes no longer."""
    for message in engine.networks[network.driver].gateway(network, endpoint).inside:
        serial, answer = running.expect()
        running.monitor.leave_network((netlink.route_delete(message),), serial)
        try:
            await answer
        except OSError as error:
            if error.errno != errno.ESRCH:
                raise


def _second(joined: Sequence[tuple[Network, Endpoint]]) -> tuple[Network, Endpoint] | None:
    """The endpoint that gives the default route of the IP version that the gateway has none of."""
    return next((one for one in joined if one[1].second), None)


async def _move_second(
    engine: Engine, container: Container, before: tuple[Network, Endpoint] | None, joined: str = ""
) -> None:
    """Another endpoint than before may be the second way out now. joined: one that got its routes when it joined."""
    running = engine.running.get(container.id)
    present = endpoints.active(engine, container.id)
    after = _second(present)
    if running is None or (before and after and (before[1].id, before[1].second) == (after[1].id, after[1].second)):
        return
    if before is not None and any(one.id == before[1].id and not one.gateway for _, one in present):
        await _take_routes(engine, running, *before)
    if after is not None and after[1].id != joined:
        serial, answer = running.expect()
        running.monitor.join_network(engine.networks[after[0].driver].gateway(*after), serial)
        await answer


async def _move_gateway(engine: Engine, container: Container, old: Network) -> None:
    """The default route and the published ports go from one to another of the container's networks, if there is one."""
    rows = [row for row in endpoints.endpoint_rows(engine, container.id) if row["active"]]
    chosen = endpoints.gateway_of(engine, rows)
    running = engine.running.get(container.id)
    if running is None:
        engine.db.execute("DELETE FROM port WHERE container_id = ?", (container.id,))
        return
    driver = next((engine.networks[row["driver"]] for row in rows if row["id"] == chosen), None)
    if driver is None or not driver.publishes:
        engine.db.execute("DELETE FROM port WHERE container_id = ?", (container.id,))
        running.monitor.keep_ports(())
    if driver is None:
        return
    engine.db.execute("UPDATE endpoint SET gateway = 1 WHERE id = ?", (chosen,))
    before = endpoints.bindings_of(engine, container.id)
    new = next(row for row in rows if row["id"] == chosen)
    if before and _published_otherwise(engine, before, old, new):
        running.monitor.keep_ports(())
        before = ()
    if not before:
        try:
            with engine.db.transaction():
                engine.db.execute("DELETE FROM port WHERE container_id = ?", (container.id,))
                allocate_ports(engine, container, host_config_of(container))
        except PierheadError as error:
            log.error("container %s: its ports are not published: %s", container.id[:12], error)
            engine.db.execute("DELETE FROM port WHERE container_id = ?", (container.id,))
    network, endpoint = next(one for one in endpoints.active(engine, container.id) if one[1].id == chosen)
    serial, answer = running.expect()
    running.monitor.join_network(driver.gateway(network, endpoint), serial)
    await answer
    if not endpoint.ports:
        return
    running.monitor.keep_ports(kept(engine, network, endpoint))
    try:
        running.monitor.hold_ports(await reserve(engine, container, reservations.held(before)))
    except PierheadError as error:
        log.error("container %s: its ports are not published: %s", container.id[:12], error)
        engine.db.execute("DELETE FROM port WHERE container_id = ?", (container.id,))
        return
    driver.publish(network, endpoint)


def _published_otherwise(engine: Engine, present: Sequence[PortBinding], old: Network, row: Row) -> bool:
    """Whether the network of an endpoint (one of ``endpoint_rows``) has ports at other addresses than these are at."""
    driver, new = engine.networks[row["driver"]], endpoints.network_at(engine, row)
    if driver.binding(new) != engine.networks[old.driver].binding(old):
        return True
    return len(driver.hosts(new)) < 2 or any(one.direct for one in present)
