"""Which networks a container is a member of: an endpoint for each that exists, a name for each that is awaited.

A container may be made before its network, and outlives it: the start needs the network, by its name.
"""

import secrets
from ipaddress import ip_network

from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.jobs.endpoint_requests import Target, accepted
from pierhead.daemon.jobs.network_rows import PREDEFINED, find_row, pools_of
from pierhead.errors import Forbidden, InvalidParameter, NoSuchNetwork
from pierhead.graph.graphdb import IntegrityError, Row
from pierhead.wire import codec
from pierhead.wire.networks import IPAM, EndpointSettings

CONFIG_ONLY = "cannot create endpoint on configuration-only network"


def requested(engine: Engine, name: str, settings: EndpointSettings) -> EndpointSettings:
    """What is kept of what a create request asks of an endpoint. Raises Forbidden, InvalidParameter."""
    try:
        row = find_row(engine, name)
    except NoSuchNetwork:
        return accepted(Target(name), settings)
    return acceptable(engine, row, settings)


def acceptable(engine: Engine, row: Row, settings: EndpointSettings) -> EndpointSettings:
    """What is kept of what is asked of an endpoint in a network. Raises Forbidden, InvalidParameter."""
    if row["config_only"]:
        raise Forbidden(CONFIG_ONLY)
    if settings.ipam_config is None:
        return accepted(Target(row["name"]), settings)
    subnets = [pool.subnet for pool in pools_of(engine, row["id"])]
    chosen = subnets
    if row["name"] not in PREDEFINED:
        wanted = codec.decode(row["ipam"], IPAM).config or ()
        # Those of a version that is not enabled, too: as Docker, the address is accepted there and not given.
        chosen = [ip_network(config.subnet, strict=False) for config in wanted if config.subnet]
    versions = frozenset(subnet.version for subnet in chosen)
    return accepted(Target(row["name"], subnets + chosen, versions), settings)


def assign(engine: Engine, container_id: str, name: str, settings: EndpointSettings | None) -> None:
    """Make a container a member of a network; it joins when it starts. To be called within a transaction.

    Raises Forbidden, InvalidParameter.
    """
    given = settings or EndpointSettings()
    try:
        row = find_row(engine, name)
    except NoSuchNetwork:
        kept = accepted(Target(name), given)
        engine.db.execute("INSERT INTO awaited_network VALUES (?, ?, ?)", (container_id, name, codec.encode(kept)))
        return
    _join(engine, container_id, row, acceptable(engine, row, given))


def _join(engine: Engine, container_id: str, row: Row, settings: EndpointSettings) -> None:
    for name in (row["name"], row["id"]):
        forget_awaited(engine, container_id, name)
    try:
        engine.db.execute(
            "INSERT INTO endpoint (id, network_id, container_id, settings) VALUES (?, ?, ?, ?)",
            (secrets.token_hex(32), row["id"], container_id, codec.encode(settings)),
        )
    except IntegrityError as error:
        raise InvalidParameter(f'network "{row["name"]}" is specified multiple times') from error


def awaited(engine: Engine, container_id: str) -> list[Row]:
    """The networks that a container waits for: ``network``, ``settings``."""
    return engine.db.all("SELECT * FROM awaited_network WHERE container_id = ? ORDER BY network", (container_id,))


def resolve(engine: Engine, container_id: str) -> None:
    """For a start: the awaited networks must be there now. To be called within a transaction.

    Raises NoSuchNetwork, Forbidden, InvalidParameter.
    """
    for waiting in awaited(engine, container_id):
        row = find_row(engine, waiting["network"])
        settings = codec.decode(waiting["settings"], EndpointSettings)
        forget_awaited(engine, container_id, waiting["network"])
        _join(engine, container_id, row, acceptable(engine, row, settings))


def forget(engine: Engine, container_id: str, network_id: str) -> None:
    """End a membership."""
    engine.db.execute("DELETE FROM endpoint WHERE network_id = ? AND container_id = ?", (network_id, container_id))


def forget_awaited(engine: Engine, container_id: str, network: str) -> bool:
    """Wait for a network no longer; returns whether it was waited for."""
    changed = engine.db.execute(
        "DELETE FROM awaited_network WHERE container_id = ? AND network = ?", (container_id, network)
    )
    return bool(changed)


def outlive(engine: Engine, row: Row) -> None:
    """A network is removed: its members wait for one of its name. To be called within a transaction."""
    engine.db.execute(
        "INSERT OR REPLACE INTO awaited_network SELECT container_id, ?, settings FROM endpoint WHERE network_id = ?",
        (row["name"], row["id"]),
    )
    engine.db.execute("DELETE FROM endpoint WHERE network_id = ?", (row["id"],))
