"""The connect and disconnect jobs: a container becomes a member of a network, or is none any longer."""

from pierhead.daemon.engine.engine import Engine, phase
from pierhead.daemon.jobs import endpoints, memberships, netfiles, rewiring, sandboxes
from pierhead.daemon.jobs.describe import host_config_of, network_kind
from pierhead.daemon.jobs.memberships import CONFIG_ONLY
from pierhead.daemon.jobs.network_rows import find_row, still
from pierhead.errors import Forbidden, InvalidParameter, NoSuchNetwork, NotFound, PierheadError
from pierhead.graph.containers import Container
from pierhead.graph.graphdb import Row
from pierhead.graph.state import State
from pierhead.wire.networks import EndpointSettings, NetworkConnectRequest, NetworkDisconnectRequest

SHARED = "container sharing network namespace with another container or host cannot be connected to any other network"


async def connect(engine: Engine, name: str, request: NetworkConnectRequest) -> None:
    """Make a container a member of a network; a running one joins at once.

    Raises NoSuchContainer, NoSuchNetwork, Forbidden, InvalidParameter, PierheadError.
    """
    container = engine.containers.find(request.container)
    row = find_row(engine, name)
    await engine.finish(_connect(engine, row, container.id, request.endpoint_config))


async def _connect(engine: Engine, row: Row, container_id: str, wanted: EndpointSettings | None) -> None:
    async with engine.locks.hold(container_id):
        container = engine.containers.get(container_id)
        _refuse_removed(container)
        row = still(engine, row)
        if not _connectable(engine, container, row):
            return
        before = netfiles.own_lines(engine, container)
        with engine.db.transaction(durable=True):
            memberships.assign(engine, container_id, row["id"], wanted)
        if not container.live or container_id not in engine.running:
            return
        running = engine.running[container_id]
        try:
            with phase("networkdriver: connect"):
                await rewiring.connect(engine, container, _endpoint(engine, container_id, row["id"]))
        except BaseException as error:
            if isinstance(error, PierheadError) and await rewiring.gone(running, error):
                return  # it has ended meanwhile, and is in the network when it starts again
            _forget(engine, container_id, row["id"])
            raise
        netfiles.rewrite(engine, container, before)
        sandboxes.followed(engine, container_id)


def _refuse_removed(container: Container) -> None:
    if container.state in (State.REMOVING, State.DEAD):
        raise PierheadError(
            f"Container {container.id} is marked for removal and cannot be connected or disconnected to the network"
        )


def _connectable(engine: Engine, container: Container, row: Row) -> bool:
    """Whether there is something to do. Raises InvalidParameter, Forbidden for what cannot be."""
    kind = network_kind(host_config_of(container).network_mode)
    if kind == "container" or (kind == "host" and row["driver"] != "host"):
        raise InvalidParameter(SHARED)
    if row["config_only"]:
        raise Forbidden(CONFIG_ONLY)
    if row["driver"] == "host" and kind != "host":
        raise InvalidParameter(
            "cannot connect container to host network - container must be created in host network mode"
        )
    for other in endpoints.endpoint_rows(engine, container.id):
        if other["network_id"] == row["id"]:
            if not container.live:
                return False  # as in Docker what is so already is an error only for one that runs
            raise Forbidden(f"endpoint with name {container.name} already exists in network {row['name']}")
        if other["driver"] == "host" or row["driver"] == "host":
            raise InvalidParameter(SHARED)
        if other["driver"] == "null" or row["driver"] == "null":
            raise InvalidParameter(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode"
            )
    return True


def _endpoint(engine: Engine, container_id: str, network_id: str) -> Row:
    return next(row for row in endpoints.endpoint_rows(engine, container_id) if row["network_id"] == network_id)


def _forget(engine: Engine, container_id: str, network_id: str) -> None:
    with engine.db.transaction(durable=True):
        memberships.forget(engine, container_id, network_id)


async def disconnect(engine: Engine, name: str, request: NetworkDisconnectRequest) -> None:
    """End a container's membership; a running one loses the interface at once. A network that a container waits for
    need not be there.

    force: of a container that is gone the endpoint is not found. Raises NoSuchContainer, NoSuchNetwork,
    InvalidParameter, PierheadError.
    """
    try:
        container = engine.containers.find(request.container)
    except NotFound:
        if request.force:
            find_row(engine, name)
            raise NotFound(f"endpoint {request.container} not found") from None
        raise
    try:
        row = find_row(engine, name)
    except NoSuchNetwork:
        if container.live and not request.force:
            raise
        await engine.finish(_stop_waiting(engine, container.id, name))
        return
    await engine.finish(_disconnect(engine, row, container.id))


async def _stop_waiting(engine: Engine, container_id: str, network: str) -> None:
    async with engine.locks.hold(container_id):
        with engine.db.transaction(durable=True):
            found = memberships.forget_awaited(engine, container_id, network)
    if not found:
        raise PierheadError(f"container {container_id} is not connected to the network {network}")


async def _disconnect(engine: Engine, row: Row, container_id: str) -> None:
    async with engine.locks.hold(container_id):
        container = engine.containers.get(container_id)
        _refuse_removed(container)
        row = still(engine, row)
        if container.live and row["driver"] == "host" and host_config_of(container).network_mode == "host":
            raise InvalidParameter(
                "cannot disconnect container from host network - container was created in host network mode"
            )
        if not any(one["network_id"] == row["id"] for one in endpoints.endpoint_rows(engine, container_id)):
            the = "" if container.live else "the "
            raise PierheadError(f"container {container_id} is not connected to {the}network {row['name']}")
        before = netfiles.own_lines(engine, container)
        if container.live:
            with phase("networkdriver: disconnect"):
                await rewiring.leave(engine, container, row["id"])
        _forget(engine, container_id, row["id"])
        if container.live:
            netfiles.rewrite(engine, container, before)


def renamed(engine: Engine, container_id: str) -> None:
    """A container has another name now: so it has on its networks."""
    for network, _ in endpoints.active(engine, container_id):
        engine.resolvers.changed(network.id)
