"""The network jobs, and the daemon's own networks from its start to its end.

What the other jobs need of networks (``prepare``, ``release``, ``settings``, …) is offered here too.
"""

import json
import logging
import re
import secrets
from dataclasses import replace
from ipaddress import ip_network

from pierhead.daemon.engine.engine import Engine, blocking, phase
from pierhead.daemon.jobs import endpoints, netfiles, port_allocation, rewiring
from pierhead.daemon.jobs.describe import host_config_of, network_kind
from pierhead.daemon.jobs.endpoints import (
    assign,
    endpoint_settings,
    is_member,
    matches_ports,
    ports,
    settings,
)
from pierhead.daemon.jobs.host_networks import default_networks, heal, reconcile, shutdown
from pierhead.daemon.jobs.netfiles import files
from pierhead.daemon.jobs.network_rows import PREDEFINED, find_row, insert, members, network_of, others, pools_of
from pierhead.daemon.jobs.sandboxes import Joined, joined, prepare, reattach, release
from pierhead.driver.networkdriver import ipam, marks
from pierhead.driver.networkdriver.api import Network, NetworkDriver, Pool
from pierhead.errors import Conflict, Forbidden, InvalidParameter, NotFound, PierheadError
from pierhead.graph.containers import Container
from pierhead.graph.graphdb import IntegrityError, Row
from pierhead.wire import codec
from pierhead.wire.containers import ContainerConfig, HostConfig
from pierhead.wire.filters import Filters
from pierhead.wire.networks import (
    IPAM,
    EndpointSettings,
    IPAMConfig,
    NetworkConnectRequest,
    NetworkContainer,
    NetworkCreateRequest,
    NetworkCreateResponse,
    NetworkDisconnectRequest,
    NetworkInspect,
    NetworkPruneResponse,
)
from pierhead.wire.time import parse_moment, rfc3339

__all__ = [
    "Joined",
    "assign",
    "default_networks",
    "endpoint_settings",
    "files",
    "find_row",
    "heal",
    "is_member",
    "joined",
    "matches_ports",
    "ports",
    "prepare",
    "reattach",
    "reconcile",
    "release",
    "settings",
    "shutdown",
]

log = logging.getLogger("pierd")

_FILTERS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})
_PRUNE_FILTERS = frozenset({"until", "label", "label!"})
_BAD_NAME = re.compile(r"[\x00-\x20\x7f/]")
List = list
"""The type, in a module whose job has that name."""


def check(config: ContainerConfig, host: HostConfig) -> None:
    """Raise InvalidParameter for a container's ports, extra hosts and name servers that make no sense. Pure."""
    port_allocation.requests(config, host)
    netfiles.check(host)


# List, inspect -------------------------------------------------------------------------------------------------------


def _shown(engine: Engine, row: Row, *, detailed: bool) -> NetworkInspect:
    answer = NetworkInspect(
        name=row["name"],
        id=row["id"],
        created=rfc3339(row["created"]),
        driver=row["driver"],
        enable_ipv4=bool(row["ipv4"]),
        enable_ipv6=bool(row["ipv6"]),
        ipam=_shown_ipam(engine, row),
        internal=bool(row["internal"]),
        attachable=bool(row["attachable"]),
        options=json.loads(row["options"]),
        labels=json.loads(row["labels"]),
    )
    if detailed:
        answer.containers = {
            found["container_id"]: NetworkContainer(
                name=found["name"],
                endpoint_id=found["id"],
                mac_address=found["mac"],
                ipv4_address=found["ipv4"] or "",
                ipv6_address=found["ipv6"] or "",
            )
            for found in members(engine, row["id"])
        }
    return answer


def _shown_ipam(engine: Engine, row: Row) -> IPAM:
    """As asked for; subnets that were chosen here with their gateways."""
    given = codec.decode(row["ipam"], IPAM)
    if given.config:
        versions = {ip_network(config.subnet).version for config in given.config}
        shown = List(given.config)
    else:
        versions, shown = set(), List[IPAMConfig]()
    for pool in pools_of(engine, row["id"]):
        if pool.subnet.version not in versions:
            shown.append(IPAMConfig(subnet=str(pool.subnet), gateway=str(pool.gateway) if pool.gateway else ""))
    return IPAM(driver=given.driver or "default", options=given.options, config=shown)


async def list(engine: Engine, filters: Filters) -> List[NetworkInspect]:
    """Every network that the filters let through."""
    filters.validate(_FILTERS)
    for kind in filters.values_of("type"):
        if kind not in ("custom", "builtin"):
            raise InvalidParameter(f"invalid filter: 'type'='{kind}'")
    rows = engine.db.all("SELECT * FROM network WHERE state = 'ready' ORDER BY created DESC, name")
    return [_shown(engine, row, detailed=False) for row in rows if _passes(engine, row, filters)]


def _passes(engine: Engine, row: Row, filters: Filters) -> bool:
    builtin = row["name"] in PREDEFINED
    if filters.values_of("type") and ("builtin" if builtin else "custom") not in filters.values_of("type"):
        return False
    if filters.values_of("dangling"):
        dangling = not builtin and not members(engine, row["id"])
        if dangling != filters.flag("dangling"):
            return False
    return (
        filters.matches_exact("driver", row["driver"])
        and filters.matches("id", row["id"])
        and filters.matches_labels("label", json.loads(row["labels"]))
        and filters.matches("name", row["name"])
        and filters.matches_exact("scope", "local")
    )


async def inspect(engine: Engine, name: str, verbose: bool = False, scope: str = "") -> NetworkInspect:
    """One network with what is joined to it."""
    if scope not in ("", "local"):
        raise NotFound(f"network {name} not found")
    return _shown(engine, find_row(engine, name), detailed=True)


# Create, remove ------------------------------------------------------------------------------------------------------


def _check_request(request: NetworkCreateRequest) -> None:
    name = request.name
    if name in PREDEFINED or name == "default":
        raise Forbidden(f"operation is not permitted on predefined {name} network ")
    if not name.strip():
        raise InvalidParameter("invalid name: name is empty")
    if _BAD_NAME.search(name) or len(name) > 255 or name.startswith("container:"):
        raise InvalidParameter(f"invalid name: {name!r}: no spaces, no control characters, no slashes")
    if request.config_only or (request.config_from and request.config_from.network):
        raise InvalidParameter("configuration-only networks are not supported by this engine")
    if request.ingress or request.scope not in ("", "local"):
        raise InvalidParameter("swarm-scoped networks are not supported by this engine")
    if request.ipam and request.ipam.driver not in ("", "default"):
        raise InvalidParameter(f'could not find ipam driver "{request.ipam.driver}"')


def _driver(engine: Engine, name: str) -> NetworkDriver:
    if name == "overlay":
        raise Forbidden("This node is not a swarm manager. There is no swarm in this engine: use a bridge network.")
    driver = engine.networks.get(name)
    if driver is None:
        raise NotFound(f'could not find plugin {name} in v1 plugin registry: plugin "{name}" not found')
    return driver


def _pools(engine: Engine, request: NetworkCreateRequest, *, ipv4: bool, ipv6: bool) -> "tuple[Pool, ...]":
    """The network's subnets: as asked for, else free ones. Raises InvalidParameter, Forbidden."""
    config = (request.ipam.config if request.ipam else None) or []
    asked = ipam.parse(
        [
            ipam.SubnetRequest(one.subnet, one.ip_range, one.gateway, one.auxiliary_addresses)
            for one in config
            if one.subnet
        ],
        ipv6=ipv6,
    )
    known = {
        row["subnet"]: row["name"]
        for row in engine.db.all("SELECT p.subnet, n.name FROM pool p JOIN network n ON n.id = p.network_id")
    }
    host = ipam.occupied(marks.group(engine.db.instance))
    for pool in asked:
        ipam.refuse_overlap(pool, known, host)
    taken = [*map(ip_network, known), *(one.prefix for one in host), *(pool.subnet for pool in asked)]
    versions = {pool.subnet.version for pool in asked}
    pools = [pool for pool in asked if ipv4 or pool.subnet.version == 6]
    if ipv4 and 4 not in versions:
        pools.insert(0, Pool(ipam.choose(taken)))
    if ipv6 and 6 not in versions:
        pools.append(Pool(ipam.choose_ipv6(taken, engine.db.instance)))
    if not pools:
        raise InvalidParameter("IPv4 or IPv6 must be enabled")
    return tuple(ipam.complete(pool) for pool in pools)


async def create(engine: Engine, request: NetworkCreateRequest) -> NetworkCreateResponse:
    """Make a network. Raises Conflict, Forbidden, InvalidParameter, NotFound; then nothing of it is left."""
    return await engine.finish(_create(engine, request))


async def _create(engine: Engine, request: NetworkCreateRequest) -> NetworkCreateResponse:
    _check_request(request)
    driver = _driver(engine, request.driver or "bridge")
    if engine.db.first("SELECT 1 FROM network WHERE name = ?", (request.name,)):
        raise Conflict(f"network with name {request.name} already exists")
    ipv4 = request.enable_ipv4 is not False
    ipv6 = bool(request.enable_ipv6)
    id = secrets.token_hex(32)
    draft = Network(
        id=id,
        name=request.name,
        driver=driver.name,
        internal=request.internal,
        ipv6=ipv6,
        options=dict(request.options or {}),
    )
    driver.validate(draft, others(engine, id))
    with phase("networkdriver: addresses"):
        network = replace(draft, pools=_pools(engine, request, ipv4=ipv4, ipv6=ipv6))
    try:
        with engine.db.transaction(durable=True):
            insert(engine, network, request, ipv4=ipv4, state="making")
    except IntegrityError as error:
        raise Conflict(f"network with name {request.name} already exists") from error
    try:
        with phase("networkdriver: create"):
            await blocking(driver.create, network)
    except BaseException as error:
        await blocking(driver.delete, network, [*others(engine, id)])
        engine.db.execute("DELETE FROM network WHERE id = ?", (id,))
        if isinstance(error, OSError):
            raise PierheadError(f"failed to create network {request.name}: {error}") from error
        raise
    with engine.db.transaction(durable=True):
        engine.db.execute("UPDATE network SET state = 'ready' WHERE id = ?", (id,))
    _announce(engine, "create", network)
    return NetworkCreateResponse(id=id)


def _announce(engine: Engine, action: str, network: Network) -> None:
    engine.events.publish("network", action, network.id, {"name": network.name, "type": network.driver})


async def remove(engine: Engine, name: str) -> None:
    """Remove a network that nothing is joined to; stopped containers forget it. Raises Forbidden, NoSuchNetwork."""
    await engine.finish(_remove(engine, name))


async def _remove(engine: Engine, name: str) -> None:
    row = find_row(engine, name)
    if row["name"] in PREDEFINED:
        raise Forbidden(f"{row['name']} is a pre-defined network and cannot be removed")
    network = network_of(engine, row)
    with engine.db.transaction(durable=True):
        joined_now = members(engine, row["id"])
        if joined_now:
            named = ", ".join(f'name:"{one["name"]}" id:"{one["id"][:12]}"' for one in joined_now)
            raise Forbidden(f"error while removing network: network {row['name']} has active endpoints ({named})")
        engine.db.execute("UPDATE network SET state = 'removing' WHERE id = ?", (row["id"],))
    with phase("networkdriver: delete"):
        await blocking(engine.networks[network.driver].delete, network, [*others(engine, row["id"])])
    with engine.db.transaction(durable=True):
        engine.db.execute("DELETE FROM endpoint WHERE network_id = ?", (row["id"],))
        engine.db.execute("DELETE FROM network WHERE id = ?", (row["id"],))
    engine.resolvers.changed(row["id"])
    _announce(engine, "destroy", network)


async def prune(engine: Engine, filters: Filters) -> NetworkPruneResponse:
    """Remove every network of the user's that nothing is joined to."""
    filters.validate(_PRUNE_FILTERS)
    until = [parse_moment(text, "until") for text in filters.values_of("until")]
    if len(until) > 1:
        raise InvalidParameter("more than one until filter specified")
    removed: List[str] = []
    for row in engine.db.all("SELECT * FROM network WHERE state = 'ready' ORDER BY name"):
        labels = json.loads(row["labels"])
        unwanted = filters.values_of("label!")
        if (
            row["name"] in PREDEFINED
            or members(engine, row["id"])
            or (until and row["created"] >= until[0])
            or not filters.matches_labels("label", labels)
            or any(Filters({"label": (value,)}).matches_labels("label", labels) for value in unwanted)
        ):
            continue
        try:
            await remove(engine, row["id"])
        except PierheadError as error:
            log.warning("network %s is not pruned: %s", row["name"], error)
            continue
        removed.append(row["name"])
    engine.events.publish("network", "prune", "", {"reclaimed": "0"})
    return NetworkPruneResponse(networks_deleted=removed or None)


# Connect, disconnect -------------------------------------------------------------------------------------------------


def _check_connect(engine: Engine, container: Container, row: Row) -> None:
    kind = network_kind(host_config_of(container).network_mode)
    if kind == "container":
        raise InvalidParameter(
            "container sharing network namespace with another container or host cannot be connected to any other "
            "network"
        )
    if row["driver"] == "host" and kind != "host":
        raise InvalidParameter(
            "cannot connect container to host network - container must be created in host network mode"
        )
    for other in endpoints.endpoint_rows(engine, container.id):
        if other["network_id"] == row["id"]:
            raise Forbidden(f"endpoint with name {container.name} already exists in network {row['name']}")
        if other["driver"] == "host" or row["driver"] == "host":
            raise InvalidParameter(
                "container sharing network namespace with another container or host cannot be connected to any other "
                "network"
            )
        if other["driver"] == "null" or row["driver"] == "null":
            raise InvalidParameter(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode"
            )


async def connect(engine: Engine, name: str, request: NetworkConnectRequest) -> None:
    """Make a container a member of a network; a running one joins at once."""
    row = find_row(engine, name)
    container = engine.containers.find(request.container)
    await engine.finish(_connect(engine, row, container.id, request.endpoint_config))


async def _connect(engine: Engine, row: Row, container_id: str, wanted: EndpointSettings | None) -> None:
    async with engine.locks.hold(container_id):
        container = engine.containers.get(container_id)
        _check_connect(engine, container, row)
        before = netfiles.own_lines(engine, container)
        with engine.db.transaction(durable=True):
            assign(engine, container_id, row["id"], wanted)
        if not container.live or container_id not in engine.running:
            return
        try:
            with phase("networkdriver: connect"):
                await rewiring.connect(engine, container, _endpoint(engine, container_id, row["id"]))
        except BaseException:
            engine.db.execute(
                "DELETE FROM endpoint WHERE network_id = ? AND container_id = ?", (row["id"], container_id)
            )
            raise
        netfiles.rewrite(engine, container, before)


def _endpoint(engine: Engine, container_id: str, network_id: str) -> Row:
    return next(row for row in endpoints.endpoint_rows(engine, container_id) if row["network_id"] == network_id)


async def disconnect(engine: Engine, name: str, request: NetworkDisconnectRequest) -> None:
    """End a container's membership; a running one loses the interface at once."""
    row = find_row(engine, name)
    container = engine.containers.find(request.container)
    await engine.finish(_disconnect(engine, row, container.id))


async def _disconnect(engine: Engine, row: Row, container_id: str) -> None:
    async with engine.locks.hold(container_id):
        container = engine.containers.get(container_id)
        if row["driver"] == "host" and network_kind(host_config_of(container).network_mode) == "host":
            raise Conflict("cannot disconnect container from host network - container was created in host network mode")
        if not any(one["network_id"] == row["id"] for one in endpoints.endpoint_rows(engine, container_id)):
            the = "" if container.live else "the "
            raise PierheadError(f"container {container_id} is not connected to {the}network {row['name']}")
        before = netfiles.own_lines(engine, container)
        if container.live:
            with phase("networkdriver: disconnect"):
                await rewiring.leave(engine, container, row["id"])
        with engine.db.transaction(durable=True):
            engine.db.execute(
                "DELETE FROM endpoint WHERE network_id = ? AND container_id = ?", (row["id"], container_id)
            )
        if container.live:
            netfiles.rewrite(engine, container, before)


def renamed(engine: Engine, container_id: str) -> None:
    """A container has another name now: so it has on its networks."""
    for network, _ in endpoints.active(engine, container_id):
        engine.resolvers.changed(network.id)
