"""The create job of networks: a request is checked, completed from a configuration, given its subnets, and made."""

import json
import re
import secrets
from dataclasses import replace
from ipaddress import ip_network

from pierhead.daemon.engine.engine import Engine, blocking, phase
from pierhead.daemon.jobs import foreign_rules
from pierhead.daemon.jobs.network_rows import PREDEFINED, free_subnet, insert, others
from pierhead.driver.networkdriver import ipam, marks
from pierhead.driver.networkdriver.api import Network, NetworkDriver, Pool
from pierhead.errors import Conflict, Forbidden, InvalidParameter, NotFound, PierheadError, plain
from pierhead.graph.graphdb import IntegrityError
from pierhead.wire import codec
from pierhead.wire.networks import IPAM, NetworkCreateRequest, NetworkCreateResponse

_BAD_NAME = re.compile(r"[\x00-\x1f\x7f]|^container:")
_ENABLE = "com.docker.network.enable_ipv"


async def create(engine: Engine, request: NetworkCreateRequest) -> NetworkCreateResponse:
    """Make a network. Raises Conflict, Forbidden, InvalidParameter, NotFound; then nothing of it is left."""
    return await engine.finish(_create(engine, request))


async def _create(engine: Engine, request: NetworkCreateRequest) -> NetworkCreateResponse:
    name = request.name
    if name in PREDEFINED or name == "default":
        raise Forbidden(f"operation is not permitted on predefined {name} network ")
    if request.driver == "overlay":
        raise Forbidden("This node is not a swarm manager. There is no swarm in this engine: use a bridge network.")
    if not (request.config_from and request.config_from.network):
        defaults = engine.config.default_network_opts.get(request.driver or "bridge", {})
        request.options = {**defaults, **(request.options or {})}
    ipv4 = _enabled(request, 4, request.enable_ipv4, default=True)
    ipv6 = _enabled(request, 6, request.enable_ipv6, default=False)
    ipam.parse(_subnets(request), ipv6=ipv6)
    if not name.strip():
        raise InvalidParameter("invalid name: name is empty")
    if _BAD_NAME.search(name) or len(name) > 255:
        raise InvalidParameter(f"invalid name: {name!r}")
    if engine.db.first("SELECT 1 FROM network WHERE name = ?", (name,)):
        raise _taken(name)
    _check_configuration(request, ipv4=ipv4, ipv6=ipv6)
    id = secrets.token_hex(32)
    if request.config_only:
        _keep_configuration(engine, Network(id, name, "null", ipv6=ipv6, options=request.options or {}), request, ipv4)
        return NetworkCreateResponse(id=id)
    driver = _driver(engine, request.driver or "bridge")
    if request.ingress:
        raise Forbidden("Ingress network can only be global scope network")
    if request.config_from and request.config_from.network:
        ipv4, ipv6 = _apply_configuration(engine, request)
    if request.scope not in ("", "local"):
        raise Forbidden("cannot create a swarm scoped network when swarm is not active")
    draft = Network(id, name, driver.name, internal=request.internal, ipv6=ipv6, options=dict(request.options or {}))
    driver.validate(draft, others(engine, id))
    async with engine.network_gate.shared():
        # No await from here to the row: two networks made at once must not choose the same subnet.
        with phase("networkdriver: addresses"):
            network = replace(draft, pools=_pools(engine, request, driver, draft, ipv4=ipv4))
        await _make(engine, driver, network, request, ipv4=ipv4)
    engine.events.publish("network", "create", id, {"name": name, "type": network.driver})
    return NetworkCreateResponse(id=id, warning="; ".join(await foreign_rules.of_network(engine, network)))


def _taken(name: str) -> Conflict:
    return Conflict(f"network with name {name} already exists")


def _enabled(request: NetworkCreateRequest, version: int, asked: bool | None, *, default: bool) -> bool:
    """Whether addresses of an IP version are wanted: the field decides (and the option goes), else the option."""
    option = f"{_ENABLE}{version}"
    value = (request.options or {}).get(option)
    if asked is not None:
        if value is not None and request.options:
            request.options = {key: text for key, text in request.options.items() if key != option}
        return asked
    if value is None:
        return default
    if value.lower() in ("1", "t", "true"):
        return True
    if value.lower() in ("0", "f", "false"):
        return False
    raise InvalidParameter(f'driver-opt "{option}" is not a valid bool')


# Configurations ------------------------------------------------------------------------------------------------------


def _check_configuration(request: NetworkCreateRequest, *, ipv4: bool, ipv6: bool) -> None:
    """Refuse what a configuration, or a network made from one, may not say. Pure."""
    from_other = bool(request.config_from and request.config_from.network)
    if request.config_only:
        if request.ingress or request.internal or request.attachable or request.scope:
            raise Forbidden(
                "configuration network can only contain network specific fields. Network operator fields like "
                "[ ingress | internal | attachable | scope ] are not supported."
            )
        if from_other:
            raise Forbidden("a configuration network cannot depend on another configuration network")
    if not from_other:
        return
    given = request.ipam or IPAM()
    if given.driver not in ("", "default") or not ipv4 or ipv6 or request.labels or given.options or given.config:
        raise Forbidden(
            "user specified configurations are not supported if the network depends on a configuration network"
        )
    if request.options:
        raise Forbidden("network driver options are not supported if the network depends on a configuration network")


def _keep_configuration(engine: Engine, network: Network, request: NetworkCreateRequest, ipv4: bool) -> None:
    """Write a configuration: a row that nothing is made for, of driver "null" as in Docker."""
    try:
        with engine.db.transaction(durable=True):
            insert(engine, network, request, ipv4=ipv4, state="ready")
    except IntegrityError as error:
        raise _taken(network.name) from error
    engine.events.publish("network", "create", network.id, {"name": network.name, "type": network.driver})


def _apply_configuration(engine: Engine, request: NetworkCreateRequest) -> tuple[bool, bool]:
    """Put a configuration's content into a request, in place; returns whether it is for IPv4 and for IPv6.

    Raises NotFound.
    """
    wanted = request.config_from.network if request.config_from else ""
    row = engine.db.first("SELECT * FROM network WHERE name = ? AND config_only = 1", (wanted,))
    if row is None:
        raise NotFound(f'configuration network "{wanted}" does not exist')
    request.labels = json.loads(row["labels"])
    request.options = json.loads(row["options"])
    request.ipam = codec.decode(row["ipam"], IPAM)
    return bool(row["ipv4"]), bool(row["ipv6"])


# What a network is made of -------------------------------------------------------------------------------------------


def _driver(engine: Engine, name: str) -> NetworkDriver:
    driver = engine.networks.get(name)
    if driver is None:
        raise NotFound(f'plugin "{name}" not found')
    return driver


def _subnets(request: NetworkCreateRequest) -> list[ipam.SubnetRequest]:
    """The IPAM.Config of a request."""
    config = (request.ipam.config if request.ipam else None) or []
    return [ipam.SubnetRequest(one.subnet, one.ip_range, one.gateway, one.auxiliary_addresses) for one in config]


def _pools(
    engine: Engine, request: NetworkCreateRequest, driver: NetworkDriver, draft: Network, *, ipv4: bool
) -> tuple[Pool, ...]:
    """The network's subnets: as asked for, else free ones. Raises InvalidParameter, Forbidden, NotFound."""
    plugin = request.ipam.driver if request.ipam else ""
    if plugin not in ("", "default"):
        raise NotFound(f'plugin "{plugin}" not found')
    asked = ipam.parse(_subnets(request), ipv6=draft.ipv6)
    known = {
        row["subnet"]: row["name"]
        for row in engine.db.all("SELECT p.subnet, n.name FROM pool p JOIN network n ON n.id = p.network_id")
    }
    host = ipam.occupied(marks.group(engine.db.instance))
    # What the network stands on may be in its subnet: a bridge of the user's with an address on his own wire.
    foreign = () if driver.wired else [one for one in host if one.device != driver.device(draft)]
    for pool in asked:
        ipam.refuse_overlap(pool, known, foreign)
    networks = [*map(ip_network, known), *(pool.subnet for pool in asked)]
    versions = {pool.subnet.version for pool in asked}
    pools = [pool for pool in asked if ipv4 or pool.subnet.version == 6]
    if ipv4 and 4 not in versions:
        pools.insert(0, Pool(free_subnet(engine, 4, networks, host)))
    if draft.ipv6 and 6 not in versions:
        pools.append(Pool(free_subnet(engine, 6, networks, host)))
    if not pools:
        raise InvalidParameter("IPv4 or IPv6 must be enabled")
    return tuple(ipam.complete(pool) if driver.gated(draft) else pool for pool in pools)


async def _make(
    engine: Engine, driver: NetworkDriver, network: Network, request: NetworkCreateRequest, *, ipv4: bool
) -> None:
    """The row first, then what it stands for."""
    try:
        with engine.db.transaction(durable=True):
            insert(engine, network, request, ipv4=ipv4, state="making")
    except IntegrityError as error:
        if "network.name" in str(error):
            raise _taken(network.name) from error
        raise Forbidden("invalid pool request: Pool overlaps with other one on this address space") from error
    try:
        with phase("networkdriver: create"):
            await blocking(driver.create, network)
        with engine.db.transaction(durable=True):
            engine.db.execute("UPDATE network SET state = 'ready' WHERE id = ?", (network.id,))
    except BaseException as error:
        await blocking(driver.delete, network, [*others(engine, network.id)])
        engine.db.execute("DELETE FROM network WHERE id = ?", (network.id,))
        if isinstance(error, OSError):
            raise PierheadError(f"failed to create network {network.name}: {plain(error)}") from error
        raise
