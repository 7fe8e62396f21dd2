"""Networks compared with the rules, bridges and links that are there (see ``comparisons``)."""

import asyncio
import os
import time
from collections.abc import Container
from dataclasses import dataclass
from functools import partial

from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.jobs import host_changes, host_networks
from pierhead.difference import Difference, Kind
from pierhead.driver.networkdriver import marks
from pierhead.driver.networkdriver.api import Census, Endpoint
from pierhead.errors import PierheadError
from pierhead.graph.graphdb import Row

PATIENCE = 5.0
"""Seconds that what comes or goes has to do so: a start's link becomes a port, an end's goes with its namespace."""
STEP = 0.1


@dataclass(frozen=True, slots=True)
class _Seen:
    unfinished: list[Row]
    damage: tuple[str, ...]
    links: list[Census]


async def compare(engine: Engine) -> list[Difference]:
    """Every difference. Raises OSError."""
    deadline = time.monotonic() + PATIENCE
    seen = await _look(engine)
    strays = _strays(seen)
    while _moving(engine, seen, strays) and time.monotonic() < deadline:
        await asyncio.sleep(STEP)
        seen = await _look(engine)
        strays = {name: None for name in strays if name in _strays(seen)}
    found = [_unfinished(engine, row) for row in seen.unfinished]
    # What is half made or half removed is not as it should be, either: it goes first.
    if not found:
        found += [_wrong(engine, Kind.DAMAGED, text) for text in seen.damage]
        found += [_wrong(engine, Kind.MISSING, text) for census in seen.links for text in census.missing]
    found += [_stray(engine, name) for name in strays]
    lost = [endpoint for census in seen.links for endpoint in census.lost if _lives(engine, endpoint)]
    return found + [_lost(engine, endpoint) for endpoint in lost]


async def _look(engine: Engine) -> _Seen:
    async with engine.network_gate.alone(host_changes.PATIENCE) as alone:
        links = await host_changes.census(engine, host_changes.known(engine, unfinished=True))
        if not alone:  # somebody is long at something: what is half done is not wrong
            return _Seen([], (), links)
        damage = await host_changes.damage(engine, host_changes.known(engine), rules=True)
        return _Seen(host_networks.unfinished(engine), damage, links)


def _strays(seen: _Seen) -> dict[str, None]:
    return dict.fromkeys(name for census in seen.links for name in census.strays)


def _moving(engine: Engine, seen: _Seen, strays: Container[str]) -> bool:
    """Whether another look may find less."""
    if seen.damage and any(container.intent == "start" for container in engine.containers.all()):
        return True
    return any(name in strays for census in seen.links for name in census.leaving)


def _lives(engine: Engine, endpoint: Endpoint) -> bool:
    """Whether a container runs and has its network namespace still: an end takes the links first, then is heard of."""
    if endpoint.container_id not in engine.running or engine.locks.held(endpoint.container_id):
        return False
    return os.path.exists(f"/proc/{engine.containers.get(endpoint.container_id).pid}/ns/net")


def _unfinished(engine: Engine, row: Row) -> Difference:
    doing = "making" if row["state"] == "making" else "removal"
    return _mendable(
        engine,
        Kind.UNFINISHED,
        "network",
        row["name"],
        f"the {doing} of network {row['name']} was not finished",
        "it is removed, with what there is of it on the host",
    )


def _wrong(engine: Engine, kind: Kind, text: str) -> Difference:
    return _mendable(engine, kind, "network", text, text, "it is put right; containers' connections go on")


def _stray(engine: Engine, name: str) -> Difference:
    found = f"interface {name} of the host has this daemon's mark, and no network or container has it"
    return _mendable(engine, Kind.LEFTOVER, "interface", name, found, "it is deleted")


def _mendable(engine: Engine, kind: Kind, area: str, subject: str, found: str, repair: str) -> Difference:
    return Difference(kind, area, subject, found, repair, partial(_mend, engine, found))


async def _mend(engine: Engine, found: str) -> None:
    """All of them are mended at once, as at the daemon's start."""
    if await _still(engine, found):
        await host_networks.restore(engine)
        if await _still(engine, found):
            raise PierheadError("that has not helped; the daemon's log may say why")


async def _still(engine: Engine, found: str) -> bool:
    return any(difference.found == found for difference in await compare(engine))


def _lost(engine: Engine, endpoint: Endpoint) -> Difference:
    name = engine.containers.get(endpoint.container_id).name
    network = engine.db.one("SELECT name FROM network WHERE id = ?", (endpoint.network_id,))["name"]
    return Difference(
        Kind.MISSING,
        "endpoint",
        endpoint.id,
        f"{marks.host_link(endpoint.id)}, the link of container {name} to network {network}, was deleted: nothing "
        "reaches it there",
        f"it cannot be made again while the container runs: pier restart {name}",
    )
