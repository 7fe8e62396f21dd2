"""The host's side of all networks, from the daemon's start to its end: the predefined ones, and what a crash left."""

import json
import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface, ip_network

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.jobs import host_changes, memberships
from pierhead.daemon.jobs.network_rows import free_subnet, insert, insert_pool, members, network_of
from pierhead.driver.networkdriver import ipam, marks
from pierhead.driver.networkdriver.api import DEFAULT_GATEWAYS, Network, Pool
from pierhead.errors import Forbidden, InvalidParameter, PierheadError
from pierhead.graph.graphdb import Row
from pierhead.wire.networks import IPAM, NetworkCreateRequest

log = logging.getLogger("pierd")

_BRIDGE = "com.docker.network.bridge"
MTU = "com.docker.network.driver.mtu"


async def default_networks(engine: Engine) -> None:
    """The rows of bridge, host and none. Raises OSError; PierheadError for settings that cannot be (--bip, …)."""
    with engine.db.transaction(durable=True):
        for name, driver in (("host", "host"), ("none", "null")):
            if not engine.db.first("SELECT 1 FROM network WHERE name = ?", (name,)):
                network = Network(secrets.token_hex(32), name, driver)
                insert(engine, network, NetworkCreateRequest(), ipv4=True, state="ready")
        row = engine.db.first("SELECT * FROM network WHERE name = 'bridge'")
        if row is None:
            network = default_bridge(engine, secrets.token_hex(32))
            request = NetworkCreateRequest(ipam=IPAM(driver="default"))
            insert(engine, network, request, ipv4=True, state="ready")
            return
        present = network_of(engine, row)
        network = default_bridge(engine, row["id"], present.pools)
        if network == present:
            return
        if members(engine, row["id"]):
            log.warning("the default bridge stays as it was: containers are on it, and its settings wait until none is")
            return
        # Nothing uses it: it follows its settings, and moves out of the way of what has come to the host since.
        engine.db.execute("DELETE FROM pool WHERE network_id = ?", (row["id"],))
        for pool in network.pools:
            insert_pool(engine, row["id"], pool)
        engine.db.execute(
            "UPDATE network SET options = ?, ipv6 = ? WHERE id = ?",
            (json.dumps(dict(network.options)), int(network.ipv6), row["id"]),
        )


def default_bridge(engine: Engine, id: str, present: Sequence[Pool] = ()) -> Network:
    """The default bridge as the settings want it; present: its pools, kept where nothing speaks against it."""
    config = engine.config
    name = marks.default_bridge(engine.db.instance)
    if name != marks.DEFAULT_BRIDGES[0]:
        log.warning("there is a docker0 that is not ours: the default bridge is %s", name)
    options = {
        f"{_BRIDGE}.default_bridge": "true",
        f"{_BRIDGE}.enable_icc": str(config.icc).lower(),
        f"{_BRIDGE}.enable_ip_masquerade": str(config.ip_masq).lower(),
        f"{_BRIDGE}.host_binding_ipv4": config.ip or "0.0.0.0",
        f"{_BRIDGE}.name": name,
    }
    if config.mtu:  # else it follows the way out's
        options[MTU] = str(config.mtu)
    settings = [_Settings(4, config.bip, config.fixed_cidr, config.default_gateway)]
    if config.ipv6:
        settings.append(_Settings(6, config.bip6, config.fixed_cidr_v6, config.default_gateway_v6))
    host = ipam.occupied(marks.group(engine.db.instance))
    pools = tuple(_default_pool(engine, id, one, host, present) for one in settings)
    return Network(id, "bridge", "bridge", pools, ipv6=config.ipv6, options=options)


@dataclass(frozen=True, slots=True)
class _Settings:
    """What is said about one IP version of the default bridge; empty: nothing."""

    version: int
    address: str
    range: str
    gateway: str


def _default_pool(
    engine: Engine, id: str, settings: _Settings, host: Sequence[ipam.Occupied], present: Iterable[Pool]
) -> Pool:
    rows = engine.db.all(
        "SELECT p.subnet, n.name FROM pool p JOIN network n ON n.id = p.network_id WHERE n.id <> ?", (id,)
    )
    range = ip_network(settings.range, strict=False) if settings.range else None
    if settings.address:
        interface = ip_interface(settings.address)
        pool = Pool(interface.network, interface.ip)
        ipam.refuse_overlap(pool, {row["subnet"]: row["name"] for row in rows}, ())
    else:
        pool = ipam.complete(Pool(_default_subnet(engine, settings.version, range, rows, host, present)))
    if range is not None:
        if not (range.prefixlen >= pool.subnet.prefixlen and range.overlaps(pool.subnet)):
            raise InvalidParameter(f"the default bridge's subnet {pool.subnet} does not contain --fixed-cidr {range}")
        pool = replace(pool, ip_range=range)
    if settings.gateway:
        name, address = DEFAULT_GATEWAYS[settings.version], ip_address(settings.gateway)
        if address not in pool.subnet:
            raise InvalidParameter(
                f"auxiliary address: ({name}:{address}) must belong to the master pool: {pool.subnet}"
            )
        pool = replace(pool, aux={name: address})
    return ipam.complete(pool)


def _default_subnet(
    engine: Engine,
    version: int,
    range: ipam.Prefix | None,
    rows: Iterable[Row],
    host: Sequence[ipam.Occupied],
    present: Iterable[Pool],
) -> ipam.Prefix:
    """Where no address was given: the subnet that it has if that is free, else one of the pools; around the range."""
    networks = [ip_network(row["subnet"]) for row in rows]
    taken = [*networks, *(one.prefix for one in host)]
    kept = [pool.subnet for pool in present if pool.subnet.version == version]
    free = [subnet for subnet in kept if not any(subnet.version == p.version and subnet.overlaps(p) for p in taken)]
    subnet = free[0] if free else free_subnet(engine, version, networks, host)
    if range is not None and not (range.prefixlen >= subnet.prefixlen and range.overlaps(subnet)):
        return range
    return subnet


async def reconcile(engine: Engine) -> None:
    """At the daemon's start: make what the database knows exist, and nothing else of ours. Raises OSError."""
    await default_networks(engine)
    host_changes.watch(engine)  # first: what others change in the middle of it is looked at after it
    try:
        await restore(engine)
    except Forbidden as error:  # another engine that starts at this moment has just taken the default bridge's name
        log.warning("%s: looking for another one", error)
        await default_networks(engine)
        await restore(engine)
    await host_changes.admit(engine)


def unfinished(engine: Engine) -> list[Row]:
    """Networks that are being made or removed."""
    return engine.db.all("SELECT * FROM network WHERE state <> 'ready' ORDER BY created")


async def restore(engine: Engine) -> None:
    """Make what the database knows exist, and nothing else of ours; what was not finished goes. Raises OSError,
    PierheadError."""
    async with engine.network_gate.alone(host_changes.PATIENCE) as alone:
        if not alone:
            raise PierheadError("networks are being made or removed at the moment: try it again")
        with engine.db.transaction(durable=True):
            for row in unfinished(engine):
                memberships.outlive(engine, row)
                engine.db.execute("DELETE FROM network WHERE id = ?", (row["id"],))
        await host_changes.heal(engine)


async def shutdown(engine: Engine, idle: bool) -> None:
    """The daemon ends. idle: no container runs, and nothing of ours stays on the host."""
    await engine.resolvers.close()
    if engine.host_watch is not None:
        engine.host_watch.close()
    engine.host_firewall.close()
    for driver in engine.networks.values():
        if idle:
            await blocking(driver.clear)
        driver.close()
