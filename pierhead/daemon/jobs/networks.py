"""The network jobs, and the daemon's own networks from its start to its end.

What the other jobs need of networks (``prepare``, ``release``, ``settings``, …) is offered here too.
"""

import json
import logging
from ipaddress import ip_network

from pierhead.daemon.engine.engine import Engine, blocking, phase
from pierhead.daemon.jobs import attachments, links, memberships, netfiles, network_creation, port_allocation
from pierhead.daemon.jobs.attachments import renamed
from pierhead.daemon.jobs.endpoints import (
    endpoint_settings,
    is_member,
    matches_ports,
    ports,
    settings,
)
from pierhead.daemon.jobs.host_changes import reload
from pierhead.daemon.jobs.host_networks import default_networks, reconcile, shutdown
from pierhead.daemon.jobs.memberships import assign, requested
from pierhead.daemon.jobs.netfiles import files
from pierhead.daemon.jobs.network_rows import PREDEFINED, find_row, members, network_of, others, pools_of, still
from pierhead.daemon.jobs.sandboxes import Joined, joined, prepare, reattach, release
from pierhead.driver.networkdriver import bridgeoptions
from pierhead.driver.networkdriver.api import Network
from pierhead.driver.networkdriver.outside import device
from pierhead.errors import Forbidden, InvalidParameter, NotFound, PierheadError
from pierhead.graph.graphdb import Row
from pierhead.wire import codec
from pierhead.wire.containers import ContainerConfig, HostConfig
from pierhead.wire.filters import Filters
from pierhead.wire.networks import (
    IPAM,
    ConfigReference,
    IPAMConfig,
    NetworkConnectRequest,
    NetworkContainer,
    NetworkCreateRequest,
    NetworkCreateResponse,
    NetworkDisconnectRequest,
    NetworkInspect,
    NetworkPruneResponse,
)
from pierhead.wire.time import rfc3339

__all__ = [
    "Joined",
    "assign",
    "default_networks",
    "endpoint_settings",
    "files",
    "find_row",
    "is_member",
    "joined",
    "matches_ports",
    "ports",
    "prepare",
    "reattach",
    "reconcile",
    "release",
    "reload",
    "renamed",
    "requested",
    "settings",
    "shutdown",
]

log = logging.getLogger("pierd")

_FILTERS = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})
_PRUNE_FILTERS = frozenset({"until", "label", "label!"})
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
        config_from=ConfigReference(network=row["config_from"]),
        config_only=bool(row["config_only"]),
        options=_shown_options(row),
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


def _shown_options(row: Row) -> dict[str, str]:
    """As given. The default bridge's MTU, which Docker shows too, is what it follows at the moment."""
    options: dict[str, str] = json.loads(row["options"])
    if bridgeoptions.DEFAULT in options and bridgeoptions.MTU not in options:
        try:
            options[bridgeoptions.MTU] = str(device(options[bridgeoptions.NAME]).mtu)
        except OSError:
            log.debug("the default bridge is not there")
    return options


def _shown_ipam(engine: Engine, row: Row) -> IPAM:
    """As asked for, IPv4 before IPv6; subnets that were chosen here with their gateways."""
    given = codec.decode(row["ipam"], IPAM)
    shown: dict[int, List[IPAMConfig]] = {4: [], 6: []}
    for config in given.config or ():
        shown[ip_network(config.subnet).version].append(config)
    chosen = {version for version in shown if not shown[version]}
    for pool in pools_of(engine, row["id"]):
        if pool.subnet.version in chosen:
            shown[pool.subnet.version].append(
                IPAMConfig(
                    subnet=str(pool.subnet),
                    ip_range=str(pool.ip_range or ""),
                    gateway=str(pool.gateway or ""),
                    auxiliary_addresses={name: str(address) for name, address in pool.aux.items()} or None,
                )
            )
    return IPAM(driver=given.driver or "default", options=given.options, config=[*shown[4], *shown[6]])


async def list(engine: Engine, filters: Filters) -> List[NetworkInspect]:
    """Every network that the filters let through. Raises InvalidParameter for a filter that is none."""
    filters.validate(_FILTERS)
    if len(filters.values_of("dangling")) > 1:
        raise InvalidParameter('got more than one value for filter key "dangling"')
    if not {"0", "1", "false", "true"}.issuperset(filters.values_of("dangling")):
        raise InvalidParameter('invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")')
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


async def create(engine: Engine, request: NetworkCreateRequest) -> NetworkCreateResponse:
    """See ``network_creation.create``."""
    return await network_creation.create(engine, request)


async def remove(engine: Engine, name: str) -> None:
    """Remove a network that nothing is joined to and nothing is made from; stopped containers wait for the next.

    Raises Forbidden, NoSuchNetwork.
    """
    await engine.finish(_remove(engine, name))


async def _remove(engine: Engine, name: str) -> None:
    row = find_row(engine, name)
    if row["name"] in PREDEFINED:
        raise Forbidden(f"{row['name']} is a pre-defined network and cannot be removed")
    network = network_of(engine, row)
    async with engine.locks.hold(f"network {row['id']}"), engine.network_gate.shared():
        await _take_away(engine, still(engine, row), network)
    engine.resolvers.gone(row["id"])
    engine.events.publish("network", "destroy", network.id, {"name": network.name, "type": network.driver})


async def _take_away(engine: Engine, row: Row, network: Network) -> None:
    with engine.db.transaction(durable=True):
        joined_now = members(engine, row["id"])
        if joined_now:
            named = ", ".join(f'name:"{one["name"]}" id:"{one["id"][:12]}"' for one in joined_now)
            raise Forbidden(f"error while removing network: network {row['name']} has active endpoints ({named})")
        if engine.db.first("SELECT 1 FROM network WHERE config_from = ? LIMIT 1", (row["name"],)):
            raise Forbidden(f'error while removing network: configuration network "{row["name"]}" is in use')
        engine.db.execute("UPDATE network SET state = 'removing' WHERE id = ?", (row["id"],))
    if not row["config_only"]:
        with phase("networkdriver: delete"):
            await blocking(engine.networks[network.driver].delete, network, [*others(engine, row["id"])])
    with engine.db.transaction(durable=True):
        memberships.outlive(engine, row)
        engine.db.execute("DELETE FROM network WHERE id = ?", (row["id"],))


def prunable(engine: Engine, filters: Filters) -> List[Row]:
    """The user's networks that nothing is joined to. Raises InvalidParameter."""
    filters.validate(_PRUNE_FILTERS)
    until = filters.until()
    found = []
    for row in engine.db.all("SELECT * FROM network WHERE state = 'ready' ORDER BY name"):
        labels = json.loads(row["labels"])
        unwanted = filters.values_of("label!")
        if (
            row["name"] in PREDEFINED
            or row["config_only"]
            or members(engine, row["id"])
            or (until is not None and row["created"] >= until)
            or not filters.matches_labels("label", labels)
            or any(Filters({"label": (value,)}).matches_labels("label", labels) for value in unwanted)
        ):
            continue
        found.append(row)
    return found


async def prune(engine: Engine, filters: Filters) -> NetworkPruneResponse:
    """Remove every network of the user's that nothing is joined to."""
    removed: List[str] = []
    for row in prunable(engine, filters):
        try:
            await remove(engine, row["id"])
        except PierheadError as error:
            log.warning("network %s is not pruned: %s", row["name"], error)
            continue
        removed.append(row["name"])
    engine.events.publish("network", "prune", "", {"reclaimed": "0"})
    return NetworkPruneResponse(networks_deleted=removed or None)


async def connect(engine: Engine, name: str, request: NetworkConnectRequest) -> None:
    """See ``attachments.connect``."""
    await attachments.connect(engine, name, request)


async def unlink(engine: Engine, path: str) -> None:
    """End the legacy link "container/alias". Raises NoSuchContainer, Conflict."""
    container = links.remove(engine, path)
    async with engine.network_gate.shared():
        links.open_ports(engine)
    if container.id in engine.running:
        netfiles.relink(engine, container.id, gone=path.rpartition("/")[2])


async def disconnect(engine: Engine, name: str, request: NetworkDisconnectRequest) -> None:
    """See ``attachments.disconnect``."""
    await attachments.disconnect(engine, name, request)
