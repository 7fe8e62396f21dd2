"""The host's side of all networks, from the daemon's start to its end: the predefined ones, and what a crash left."""

import json
import logging
import secrets
from ipaddress import IPv4Interface, ip_network

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.engine.rulewatch import RulesetWatch
from pierhead.daemon.jobs import endpoints, memberships
from pierhead.daemon.jobs.network_rows import insert, insert_pool, members, network_of, pools_of
from pierhead.driver.networkdriver import ipam, marks
from pierhead.driver.networkdriver.api import Endpoint, Network, Pool
from pierhead.errors import InvalidParameter
from pierhead.wire.networks import IPAM, NetworkCreateRequest

log = logging.getLogger("pierd")

_BRIDGE = "com.docker.network.bridge"


async def default_networks(engine: Engine) -> None:
    """The rows of bridge, host and none. Raises OSError, InvalidParameter (--bip)."""
    with engine.db.transaction(durable=True):
        for name, driver in (("host", "host"), ("none", "null")):
            if not engine.db.first("SELECT 1 FROM network WHERE name = ?", (name,)):
                network = Network(secrets.token_hex(32), name, driver)
                insert(engine, network, NetworkCreateRequest(), ipv4=True, state="ready")
        row = engine.db.first("SELECT * FROM network WHERE name = 'bridge'")
        if row is None:
            network = _default_bridge(engine, secrets.token_hex(32))
            request = NetworkCreateRequest(ipam=IPAM(driver="default"))
            insert(engine, network, request, ipv4=True, state="ready")
        elif not members(engine, row["id"]):
            # Nothing uses it: it may move out of the way of what has come to the host since.
            network = _default_bridge(engine, row["id"], pools_of(engine, row["id"]))
            engine.db.execute("DELETE FROM pool WHERE network_id = ?", (row["id"],))
            for pool in network.pools:
                insert_pool(engine, row["id"], pool)
            engine.db.execute(
                "UPDATE network SET options = ? WHERE id = ?", (json.dumps(dict(network.options)), row["id"])
            )


def _default_bridge(engine: Engine, id: str, present: "tuple[Pool, ...]" = ()) -> Network:
    name = marks.default_bridge(engine.db.instance)
    if name != marks.DEFAULT_BRIDGES[0]:
        log.warning("there is a docker0 that is not ours: the default bridge is %s", name)
    options = {
        f"{_BRIDGE}.default_bridge": "true",
        f"{_BRIDGE}.enable_icc": "true",
        f"{_BRIDGE}.enable_ip_masquerade": "true",
        f"{_BRIDGE}.host_binding_ipv4": "0.0.0.0",
        f"{_BRIDGE}.name": name,
        "com.docker.network.driver.mtu": "1500",
    }
    return Network(id, "bridge", "bridge", (_default_pool(engine, id, present),), options=options)


def _default_pool(engine: Engine, id: str, present: "tuple[Pool, ...]") -> Pool:
    if engine.config.bip:
        try:
            interface = IPv4Interface(engine.config.bip)
        except ValueError as error:
            raise InvalidParameter(f"invalid --bip {engine.config.bip}: {error}") from error
        return Pool(interface.network, interface.ip)
    rows = engine.db.all("SELECT subnet FROM pool WHERE network_id <> ?", (id,))
    host = [one.prefix for one in ipam.occupied(marks.group(engine.db.instance))]
    taken = [*host, *(ip_network(row["subnet"]) for row in rows)]
    for pool in present:
        if not any(pool.subnet.version == prefix.version and pool.subnet.overlaps(prefix) for prefix in taken):
            return pool
    return ipam.complete(Pool(ipam.choose(taken)))


async def reconcile(engine: Engine) -> None:
    """At the daemon's start: make what the database knows exist, and nothing else of ours. Raises OSError."""
    await default_networks(engine)
    with engine.db.transaction(durable=True):
        for row in engine.db.all("SELECT * FROM network WHERE state <> 'ready'"):
            memberships.outlive(engine, row)
            engine.db.execute("DELETE FROM network WHERE id = ?", (row["id"],))
    await heal(engine)
    engine.ruleset_watch = RulesetWatch(lambda: _look(engine))


def _look(engine: Engine) -> None:
    """Somebody has changed the host's ruleset: if ours is gone, it comes back."""
    if not engine.closing and not all(driver.intact() for driver in engine.networks.values()):
        log.warning("our firewall rules were removed by somebody else: restoring them")
        engine.background(heal(engine), "restore firewall rules")


async def heal(engine: Engine) -> None:
    """Make every driver's networks, rules and ports exist as the database says; what is there is not disturbed."""
    known: dict[str, list[tuple[Network, list[Endpoint]]]] = {name: [] for name in engine.networks}
    for row in engine.db.all("SELECT * FROM network WHERE state = 'ready' AND config_only = 0"):
        joined = [
            endpoints.endpoint_of(found, endpoints.bindings_of(engine, found["container_id"]))
            for found in members(engine, row["id"])
        ]
        known[row["driver"]].append((network_of(engine, row), joined))
    for name, networks in known.items():
        others = [network for other, found in known.items() if other != name for network, _ in found]
        await blocking(engine.networks[name].reconcile, networks, others)


async def shutdown(engine: Engine, idle: bool) -> None:
    """The daemon ends. idle: no container runs, and nothing of ours stays on the host."""
    await engine.resolvers.close()
    if engine.ruleset_watch is not None:
        engine.ruleset_watch.close()
    for driver in engine.networks.values():
        if idle:
            await blocking(driver.clear)
        driver.close()
