"""Networks in GraphDB: found, read as the drivers want them, written."""

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network

from pierhead.daemon.engine.engine import Engine
from pierhead.driver.networkdriver import ipam
from pierhead.driver.networkdriver.api import Network, Pool
from pierhead.errors import InvalidParameter, NoSuchNetwork
from pierhead.graph.graphdb import Row
from pierhead.wire import codec
from pierhead.wire.networks import IPAM, NetworkCreateRequest

PREDEFINED = ("bridge", "host", "none")
_HEX = re.compile(r"[0-9a-f]{1,64}")


def find_row(engine: Engine, name: str) -> Row:
    """A network by full id, name or unique id prefix ("" and "default" are the default bridge).

    Raises NoSuchNetwork, InvalidParameter for an ambiguous prefix.
    """
    if name in ("", "default"):
        name = "bridge"
    row = engine.db.first("SELECT * FROM network WHERE id = ?", (name,)) or engine.db.first(
        "SELECT * FROM network WHERE name = ?", (name,)
    )
    if row is not None:
        return row
    if not _HEX.fullmatch(name):
        raise NoSuchNetwork(name)
    rows = engine.db.all("SELECT * FROM network WHERE id >= ? AND id < ?", (name, name + "g"))
    if not rows:
        raise NoSuchNetwork(name)
    if len(rows) > 1:
        raise InvalidParameter(f"network {name} is ambiguous ({len(rows)} matches found based on ID prefix)")
    return rows[0]


def still(engine: Engine, row: Row) -> Row:
    """A network's row as it is now, for who has waited since it was read. Raises NoSuchNetwork: it has been removed."""
    found = engine.db.first("SELECT * FROM network WHERE id = ?", (row["id"],))
    if found is None:
        raise NoSuchNetwork(row["name"])
    return found


@lru_cache(maxsize=1024)
def _pool(subnet: str, gateway: str | None, ip_range: str | None, aux: str) -> Pool:
    return Pool(
        ip_network(subnet),
        ip_address(gateway) if gateway else None,
        ip_network(ip_range) if ip_range else None,
        {name: ip_address(value) for name, value in json.loads(aux).items()},
    )


def pools_of(engine: Engine, network_id: str) -> tuple[Pool, ...]:
    """A network's subnets, IPv4 first."""
    rows = engine.db.all("SELECT * FROM pool WHERE network_id = ? ORDER BY subnet LIKE '%:%', subnet", (network_id,))
    return tuple(_pool(row["subnet"], row["gateway"], row["ip_range"], row["aux"]) for row in rows)


def pools_of_all(engine: Engine) -> dict[str, tuple[Pool, ...]]:
    """The same of every network that has some, by its id: one question where there are hundreds of networks."""
    found: dict[str, tuple[Pool, ...]] = {}
    for row in engine.db.all("SELECT * FROM pool ORDER BY subnet LIKE '%:%', subnet"):
        pool = _pool(row["subnet"], row["gateway"], row["ip_range"], row["aux"])
        found[row["network_id"]] = (*found.get(row["network_id"], ()), pool)
    return found


def network_of(engine: Engine, row: Row, pools: Mapping[str, tuple[Pool, ...]] | None = None) -> Network:
    """A network's row as the drivers see it. pools: ``pools_of_all``, for who wants many networks."""
    return Network(
        id=row["id"],
        name=row["name"],
        driver=row["driver"],
        pools=pools_of(engine, row["id"]) if pools is None else pools.get(row["id"], ()),
        internal=bool(row["internal"]),
        ipv6=bool(row["ipv6"]),
        options=json.loads(row["options"]),
    )


def others(engine: Engine, network_id: str) -> Iterator[Network]:
    """Every network but one, also those that are being made or removed; no mere configurations."""
    pools = pools_of_all(engine)
    for row in engine.db.all("SELECT * FROM network WHERE id <> ? AND config_only = 0", (network_id,)):
        yield network_of(engine, row, pools)


def free_subnet(
    engine: Engine, version: int, networks: Iterable[ipam.Prefix], host: Sequence[ipam.Occupied]
) -> ipam.Prefix:
    """A subnet for a new network out of the daemon's pools, of an IP version. Raises InvalidParameter.

    networks: what this engine's networks have; host: what else is in use here.
    """
    pools = [pool for pool in engine.config.default_address_pools if pool.base.version == version]
    if not pools and version == 6:
        pools = [ipam.unique_local_pool(engine.db.instance)]
    elif not pools:
        pools = [*ipam.DOCKER_POOLS, *ipam.SMALL_POOLS]
    known = list(networks)
    found = ipam.choose([*known, *(one.prefix for one in host)], pools)
    if found is None:
        raise ipam.exhausted(pools, known, host)
    return found


def members(engine: Engine, network_id: str) -> list[Row]:
    """Endpoints that are joined to a network now, with their containers' names."""
    return engine.db.all(
        "SELECT e.*, c.name FROM endpoint e JOIN container c ON c.id = e.container_id "
        "WHERE e.network_id = ? AND e.active = 1",
        (network_id,),
    )


def insert(engine: Engine, network: Network, request: NetworkCreateRequest, *, ipv4: bool, state: str) -> None:
    """Write a network with its pools. Within a transaction. Raises IntegrityError for a taken name or subnet."""
    engine.db.execute(
        "INSERT INTO network "
        "(id, name, driver, created, internal, ipv4, ipv6, attachable, options, labels, ipam, state, config_only, "
        "config_from) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            network.id,
            network.name,
            network.driver,
            time.time_ns(),
            int(network.internal),
            int(ipv4),
            int(network.ipv6),
            int(request.attachable),
            json.dumps(dict(network.options)),
            json.dumps(request.labels or {}),
            codec.encode(request.ipam or IPAM(driver="default")),
            state,
            int(request.config_only),
            request.config_from.network if request.config_from else "",
        ),
    )
    for pool in network.pools:
        insert_pool(engine, network.id, pool)


def insert_pool(engine: Engine, network_id: str, pool: Pool) -> None:
    """Write one subnet of a network."""
    engine.db.execute(
        "INSERT INTO pool (network_id, subnet, gateway, ip_range, aux) VALUES (?, ?, ?, ?, ?)",
        (
            network_id,
            str(pool.subnet),
            str(pool.gateway) if pool.gateway is not None else None,
            str(pool.ip_range) if pool.ip_range is not None else None,
            json.dumps({name: str(address) for name, address in pool.aux.items()}),
        ),
    )
