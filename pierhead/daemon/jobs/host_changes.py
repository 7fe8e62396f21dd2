"""What others do to the host's network while the daemon runs: noticed, said, and put right.

The rows say what should be there; the drivers say what is not, and make it again.
"""

import asyncio
import logging

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.engine.hostwatch import HostWatch, Reactions, Seen
from pierhead.daemon.jobs import endpoints, foreign_rules, links, zones
from pierhead.daemon.jobs.network_rows import members, network_of, pools_of_all
from pierhead.driver.networkdriver import marks
from pierhead.driver.networkdriver.api import Census, Endpoint, Network
from pierhead.errors import PierheadError
from pierhead.wire.networks import NetworkReloadResponse

log = logging.getLogger("pierd")

PATIENCE = 2.0
"""Seconds that mending waits for containers and networks that are just leaving."""

TRIES = 5
"""How often it does, letting in those that have come meanwhile, before it goes on beside one that hangs: once where
rules have been taken away, which everybody's ports need."""

Known = dict[str, list[tuple[Network, list[Endpoint]]]]


def watch(engine: Engine) -> None:
    """Begin to watch, unless the daemon is to leave what others change as it is. Raises OSError."""
    if not engine.config.mend_networks:
        return
    reactions = Reactions(
        guard=lambda: _guard(engine),
        foreign=engine.host_firewall.stale,
        drifted=lambda: any(driver.drifted() for driver in engine.networks.values()),
        legacy=lambda: _legacy_changed(engine),
        look=lambda seen: _look(engine, seen),
    )
    instance = engine.db.instance
    engine.host_watch = HostWatch(marks.table(instance), marks.group(instance), reactions)
    engine.host_firewall.watched = True


def _guard(engine: Engine) -> None:
    """On the event loop, and at once: the rest follows in a moment."""
    try:
        for driver in engine.networks.values():
            driver.guard()
    except OSError as error:
        log.error("firewall rules were removed, and cannot be put back at once: %s", error)


def _look(engine: Engine, seen: Seen) -> None:
    if engine.closing:
        return
    if engine.mending:
        # One is at work: what has been seen since is looked at after it.
        engine.seen_meanwhile = seen if engine.seen_meanwhile is None else engine.seen_meanwhile.with_(seen)
        return
    engine.mending = True
    engine.background(_mend_until_quiet(engine, seen), "mend the host's network")


async def _mend_until_quiet(engine: Engine, seen: Seen | None) -> None:
    try:
        while seen is not None and not engine.closing:
            if seen.rules or seen.links or seen.settings:
                try:
                    await mend(engine, seen)
                except (OSError, PierheadError) as error:  # what has been seen meanwhile is still to be looked at
                    log.error("the host's network could not be restored: %s", error, exc_info=error)
            if seen.foreign or seen.links:
                await admit(engine)
            seen, engine.seen_meanwhile = engine.seen_meanwhile, None
    finally:
        engine.mending = False


def _legacy_changed(engine: Engine) -> bool:
    try:
        return engine.host_firewall.legacy_changed()
    except OSError as error:
        log.debug("rules of iptables cannot be read: %s", error)
        return False


async def admit(engine: Engine) -> None:
    """Other engines' bridges, for which their own rules let the host forward, are no strangers to ours; and what their
    rules stop of ours is said."""
    try:
        neighbours = await blocking(engine.host_firewall.neighbours)
        for driver in engine.networks.values():
            await blocking(driver.admit, neighbours)
        await foreign_rules.tell(engine)
    except OSError as error:
        log.warning("the rules of other firewalls cannot be read: %s", error)


async def mend(engine: Engine, seen: Seen) -> None:
    """Look at what of ours may have been changed, and make again what is not as it should be."""
    for left in reversed(range(TRIES)):
        async with engine.network_gate.alone(PATIENCE) as alone:
            if alone or seen.rules or not left:  # else what somebody is just taking away would be put back
                networks = known(engine)
                found = await damage(engine, networks, rules=seen.rules)
                if found:
                    log.warning("the host's network was changed by %s: %s: restoring it", seen.who, "; ".join(found))
                    await _reconcile(engine, networks)
                return
        if engine.seen_meanwhile is not None and engine.seen_meanwhile.rules:
            engine.seen_meanwhile = seen.with_(engine.seen_meanwhile)
            return
        await asyncio.sleep(0)  # those that have come meanwhile pass: they wait for whoever wants to be alone


async def reload(engine: Engine) -> NetworkReloadResponse:
    """Apply everything again, whether or not something is missing; says what was."""
    async with engine.network_gate.alone(PATIENCE):
        networks = known(engine)
        found = [*await damage(engine, networks, rules=True)]
        await _reconcile(engine, networks)
    found += await zones.lead_again(engine)
    engine.host_firewall.stale()
    log.info("networks were applied again; before: %s", "; ".join(found) or "nothing was missing")
    return NetworkReloadResponse(restored=found)


async def damaged_rules(engine: Engine) -> tuple[str, ...]:
    """What others have done to the firewall's rules, in words. Only looks. Raises OSError."""
    if not await _damaged_rules(engine):
        return ()
    # It may be a container that is just joining: its rows come before its rules.
    async with engine.network_gate.alone(PATIENCE):
        return await _damaged_rules(engine)


async def _damaged_rules(engine: Engine) -> tuple[str, ...]:
    networks = known(engine)
    others = await damage(engine, networks, rules=False)
    return tuple(one for one in await damage(engine, networks, rules=True) if one not in others)


async def heal(engine: Engine) -> None:
    """Make exactly what the database says exist, in every driver; nothing is being made meanwhile. Raises OSError."""
    await _reconcile(engine, known(engine), sweep=True)


def known(engine: Engine, *, unfinished: bool = False) -> Known:
    """The networks by their drivers, with the endpoints that live in them. unfinished: those, too, that are being made
    or removed."""
    found: Known = {name: [] for name in engine.networks}
    pools = pools_of_all(engine)
    for row in engine.db.all("SELECT * FROM network WHERE config_only = 0 ORDER BY created"):
        if row["state"] == "ready" or unfinished:
            joined = [
                endpoints.endpoint_of(member, endpoints.bindings_of(engine, member["container_id"]))
                for member in members(engine, row["id"])
            ]
            found[row["driver"]].append((network_of(engine, row, pools), joined))
    return found


async def damage(engine: Engine, networks: Known, *, rules: bool) -> tuple[str, ...]:
    """What others have done to them, in words; see ``NetworkDriver.damage``."""
    found: list[str] = []
    for name, ones in networks.items():
        found += await blocking(engine.networks[name].damage, ones, rules=rules)
    return tuple(found)


async def census(engine: Engine, networks: Known) -> list[Census]:
    """Each driver's links on the host compared with them."""
    return [
        await blocking(engine.networks[name].census, ones, _others(networks, name)) for name, ones in networks.items()
    ]


async def _reconcile(engine: Engine, networks: Known, *, sweep: bool = False) -> None:
    links.open_ports(engine)
    for name, ones in networks.items():
        await blocking(engine.networks[name].reconcile, ones, _others(networks, name), sweep=sweep)


def _others(networks: Known, name: str) -> list[Network]:
    """Those of the other drivers."""
    return [network for other, found in networks.items() if other != name for network, _ in found]
