"""The addresses of endpoints: over stops, restarts and recreations a name keeps its own, as long as there are others.

``address_history`` says who had an address last.  Such an address rests: it is the last to be handed out to another
name, unless the user asks for it.
"""

import time
from ipaddress import ip_address

from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.jobs import endpoints
from pierhead.daemon.jobs.network_rows import pools_of
from pierhead.driver.networkdriver import ipam
from pierhead.driver.networkdriver.api import Endpoint, Network
from pierhead.errors import PierheadError
from pierhead.graph.containers import Container
from pierhead.graph.graphdb import Row

HISTORY = 1024
"""Addresses that a network remembers the last owner of."""


def choose(engine: Engine, container: Container, row: Row, version: int, wanted: str) -> str | None:
    """An address with prefix length, or None where the network has no pool of that version.

    row: one of ``endpoint_rows``.  wanted: what the user asked for, or "".  Raises PierheadError.
    """
    network, column = row["network_id"], f"ipv{version}"
    pools = [pool for pool in pools_of(engine, network) if pool.subnet.version == version]
    if not pools:
        return None
    used = {
        found[column].partition("/")[0]
        for found in engine.db.all(
            f"SELECT {column} FROM endpoint WHERE network_id = ? AND {column} IS NOT NULL", (network,)
        )
    }
    if wanted:
        address = ip_address(wanted)
        return f"{address}/{ipam.claim(pools, used, address).subnet.prefixlen}"
    chosen = None
    if endpoints.named(engine, row["driver"], row["network_name"]):
        own = _own(engine, network, container.name)
        chosen = ipam.allocate(pools, used, own=own, resting=_resting(engine, network, version))
    else:
        chosen = ipam.allocate(pools, used)
    if chosen is None:
        raise PierheadError(
            f"no available IPv{version} addresses on this network's address pools: {row['network_name']} ({network})"
        )
    address, pool = chosen
    return f"{address}/{pool.subnet.prefixlen}"


def _own(engine: Engine, network: str, name: str) -> list[str]:
    """What a name had, the latest first."""
    rows = engine.db.all(
        "SELECT address FROM address_history WHERE network_id = ? AND name = ? ORDER BY released DESC", (network, name)
    )
    return [row["address"] for row in rows]


def _resting(engine: Engine, network: str, version: int) -> dict[str, int]:
    """Addresses that others may want back, and since when they are free. The last are those that a container which
    does not run now has been given by the user: without its address it could not start at all."""
    history = engine.db.all("SELECT address, released FROM address_history WHERE network_id = ?", (network,))
    resting = {row["address"]: int(row["released"]) for row in history}
    reserved = engine.db.all(
        f"SELECT json_extract(CAST(settings AS TEXT), '$.IPAMConfig.IPv{version}Address') AS address FROM endpoint "
        "WHERE network_id = ? AND active = 0",
        (network,),
    )
    now = time.time_ns()
    return resting | {row["address"]: now for row in reserved if row["address"]}


def release(engine: Engine, network: Network, endpoint: Endpoint, name: str) -> None:
    """Write an endpoint as inactive; where names count its addresses rest. Within a transaction."""
    if endpoints.named(engine, network.driver, network.name):
        for interface in (endpoint.ipv4, endpoint.ipv6):
            if interface is not None:
                engine.db.execute(
                    "INSERT OR REPLACE INTO address_history (network_id, address, name, released) VALUES (?, ?, ?, ?)",
                    (network.id, str(interface.ip), name, time.time_ns()),
                )
        _trim_history(engine, network.id)
    engine.db.execute(
        "UPDATE endpoint SET active = 0, interface = '', mac = '', ipv4 = NULL, ipv6 = NULL, gateway = 0 WHERE id = ?",
        (endpoint.id,),
    )


def _trim_history(engine: Engine, network_id: str) -> None:
    count = engine.db.one("SELECT count(*) AS n FROM address_history WHERE network_id = ?", (network_id,))["n"]
    if count > 2 * HISTORY:
        engine.db.execute(
            "DELETE FROM address_history WHERE network_id = ? AND released < (SELECT released FROM address_history "
            "WHERE network_id = ? ORDER BY released DESC LIMIT 1 OFFSET ?)",
            (network_id, network_id, HISTORY),
        )
