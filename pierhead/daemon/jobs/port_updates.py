"""Ports published and withdrawn after a container's creation, also while it runs: an extension of Docker's update."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pierhead.daemon.engine.engine import Engine, phase
from pierhead.daemon.engine.running import Running
from pierhead.daemon.jobs import endpoints, port_allocation, port_warnings, rewiring
from pierhead.daemon.jobs.describe import config_of, host_config_of, network_kind
from pierhead.driver.networkdriver import ports, reservations
from pierhead.driver.networkdriver.api import Endpoint, Network, PortBinding
from pierhead.driver.networkdriver.ports import PortRequest, Withdrawal
from pierhead.errors import Conflict, InvalidParameter, PierheadError, plain
from pierhead.graph.containers import Container
from pierhead.wire import codec
from pierhead.wire.containers import ContainerUpdateRequest, HostConfig, PortMap
from pierhead.wire.containers import PortBinding as WireBinding

log = logging.getLogger("pierd")

_REFUSED = {
    "host": "conflicting options: port publishing and the host type network mode",
    "container": "conflicting options: port publishing and the container type network mode",
    "none": "conflicting options: port publishing and the network mode none",
}


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a container's ports. gone: those published now that are taken away, as (proto, ip, host port)."""

    host: HostConfig
    added: tuple[PortRequest, ...]
    gone: frozenset[tuple[str, str, int]]


async def update(engine: Engine, container: Container, request: ContainerUpdateRequest) -> list[str]:
    """Change what a container publishes, now and at its later starts; returns warnings. The caller holds its lock.

    Raises InvalidParameter, Conflict, and for a running container what a start would raise; then nothing has changed.
    """
    running = engine.running.get(container.id)
    joined = endpoints.active(engine, container.id) if running is not None and not running.exited.done() else []
    carrier = next((one for one in joined if one[1].gateway and engine.networks[one[0].driver].publishes), None)
    address = engine.networks[carrier[0].driver].binding(carrier[0]) if carrier is not None else ""
    change = _plan(container, endpoints.bindings_of(engine, container.id), request, address)
    done = False
    if carrier is not None and running is not None:
        with phase("networkdriver: publish"):
            async with engine.network_gate.shared():
                if not running.exited.done():  # it may have ended while this waited
                    done = await _apply(engine, running, container, change, *carrier)
    if not done:
        with engine.db.transaction(durable=True):
            engine.containers.update(container.id, host_config=codec.encode(change.host))
    networks = [row["network_name"] for row in endpoints.endpoint_rows(engine, container.id)]
    return await port_warnings.of_request(engine, config_of(container), change.host, networks)


# What is to become of it ---------------------------------------------------------------------------------------------


def _plan(
    container: Container, present: Sequence[PortBinding], request: ContainerUpdateRequest, address: str
) -> Change:
    """Pure. Raises InvalidParameter, Conflict. address: where what names none is published."""
    host = codec.copy(host_config_of(container))
    kind = network_kind(host.network_mode)
    if kind in _REFUSED:
        raise Conflict(_REFUSED[kind])
    config = config_of(container)
    before = port_allocation.requests(config, host)
    withdrawals = [ports.withdrawal(text) for text in request.publish_remove or ()]
    chosen = _chosen(before, present, address)
    for one in withdrawals:
        if not any(one.names(asked, chosen.get(asked, 0)) for asked in before):
            raise InvalidParameter(f"container {container.name} does not publish {one.text}")
    host.port_bindings, taken = _without(host.port_bindings or {}, withdrawals, chosen)
    unlisted = [
        asked
        for asked in before
        if asked not in taken and any(one.names(asked, chosen.get(asked, 0)) for one in withdrawals)
    ]
    if unlisted:
        named = ", ".join(f"{one.port}/{one.proto}" for one in unlisted)
        raise InvalidParameter(f"container {container.name} publishes all its exposed ports (-P), among them {named}")
    for key, pairs in (request.publish_add or {}).items():
        known = host.port_bindings.get(key) or []
        host.port_bindings[key] = [*known, *(pair for pair in pairs or () if pair not in known)]
    after = port_allocation.requests(config, host)
    gone = {
        (one.proto, one.ip or address, one.low if one.fixed else chosen.get(one, 0)) for one in taken.difference(after)
    }
    return Change(host, tuple(one for one in after if one not in before), frozenset(gone))


def _chosen(asked: Sequence[PortRequest], present: Sequence[PortBinding], address: str) -> dict[PortRequest, int]:
    """The host ports that requests without a fixed one have now."""
    fixed = {(one.proto, one.ip or address, one.port, one.low) for one in asked if one.fixed}
    free = {(one.proto, one.ip or address, one.port): one for one in asked if not one.fixed}
    found: dict[PortRequest, int] = {}
    for binding in present:
        for offset in range(reservations.size(binding)):
            inner, port = binding.container_low + offset, binding.host_low + offset
            one = free.get((binding.proto, binding.host_ip, inner))
            if one is not None and (binding.proto, binding.host_ip, inner, port) not in fixed:
                found[one] = port
    return found


def _without(
    bindings: PortMap, withdrawals: Sequence[Withdrawal], chosen: dict[PortRequest, int]
) -> tuple[PortMap, set[PortRequest]]:
    """PortBindings without what is withdrawn, and that."""
    left: PortMap = {}
    taken: set[PortRequest] = set()
    for key, pairs in bindings.items():
        if not pairs:
            left[key] = pairs
        for pair in pairs or ():
            each = ports.requests({key: [(pair.host_ip, pair.host_port)]})
            gone = {asked for asked in each if any(one.names(asked, chosen.get(asked, 0)) for one in withdrawals)}
            taken |= gone
            if not gone:
                left[key] = [*(left.get(key) or ()), pair]
                continue
            for asked in each:
                if asked not in gone:  # of a range in one key: what remains is spelt out
                    single = f"{asked.port}/{asked.proto}"
                    port = str(asked.low) if asked.fixed else pair.host_port
                    left[single] = [*(left.get(single) or ()), WireBinding(host_ip=pair.host_ip, host_port=port)]
    return left, taken


# Its effects ---------------------------------------------------------------------------------------------------------


async def _apply(
    engine: Engine, running: Running, container: Container, change: Change, network: Network, before: Endpoint
) -> bool:
    """Make a running container's ports so: rows, sockets, rules. Raises PierheadError; then all is as before, as it is
    where it returns False: the container has ended meanwhile.
    """
    id = container.id

    def left(binding: PortBinding) -> list[PortBinding]:
        return ports.without(binding, lambda port: (binding.proto, binding.host_ip, port) in change.gone)

    kept = [piece for binding in before.ports if not binding.direct for piece in left(binding)]
    with engine.db.transaction(durable=True):
        _rewrite(engine, container, kept)
        port_allocation.write(engine, container, change.added, network)
        wanted = port_allocation.requests(config_of(container), change.host)
        port_allocation.write_direct(engine, container, wanted, network)
        engine.containers.update(id, host_config=codec.encode(change.host))
    after = replace(before, ports=endpoints.bindings_of(engine, id))
    try:
        held = await port_allocation.reserve(engine, container, reservations.held(before.ports))
        try:
            engine.networks[network.driver].publish(network, after, before)
            running.monitor.keep_ports(port_allocation.kept(engine, network, after))
            running.monitor.hold_ports(held)
        except BaseException:
            reservations.release(held)
            raise
        return True
    except BaseException as error:
        # Its end may have given them back already.
        joined = any(one.id == before.id for _, one in endpoints.active(engine, id))
        present = before if joined else replace(before, ports=())
        with engine.db.transaction(durable=True):
            _rewrite(engine, container, present.ports)
            engine.containers.update(id, host_config=container.host_config)
        if isinstance(error, OSError):
            engine.networks[network.driver].publish(network, present, after)
            if await rewiring.gone(running, error):
                return False
            raise PierheadError(f"failed to change the published ports of {container.name}: {plain(error)}") from error
        raise


def _rewrite(engine: Engine, container: Container, bindings: Sequence[PortBinding]) -> None:
    """Make these the rows of a container's ports. Within a transaction."""
    engine.db.execute("DELETE FROM port WHERE container_id = ?", (container.id,))
    for binding in bindings:
        port_allocation.insert(engine, container, binding)
