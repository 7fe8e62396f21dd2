"""What the host's own firewall keeps from networks of ours, in words: for who makes a container, and for the log."""

import contextlib
import logging
from collections.abc import Iterable

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.jobs.network_rows import find_row, network_of
from pierhead.driver.networkdriver.api import Network
from pierhead.driver.networkdriver.bridgeoptions import bridge_name
from pierhead.driver.networkdriver.hostbridge import bridged_frames_are_filtered
from pierhead.driver.networkdriver.obstacles import Obstacle
from pierhead.errors import PierheadError

log = logging.getLogger("pierd")


async def warnings(engine: Engine, names: Iterable[str]) -> list[str]:
    """Who stops what these networks (names or ids) forward, and which command opens it; a sentence each.

    Microseconds where nobody else filters what is forwarded.
    """
    found: list[str] = []
    for name in names:
        with contextlib.suppress(PierheadError):  # a network that is not there: the start says so
            found += await of_network(engine, network_of(engine, find_row(engine, name)))
    return found


async def of_network(engine: Engine, network: Network) -> list[str]:
    """The same of one network."""
    if network.driver != "bridge" or engine.host_firewall.quiet():
        return []
    try:
        return [str(one) for one in await blocking(_look, engine, network)]
    except OSError as error:
        log.warning("the rules of other firewalls cannot be read: %s", error)
        return []


def _look(engine: Engine, network: Network) -> list[Obstacle]:
    # An address that a container could have: the one after the gateway's, or the second.
    addresses = [(pool.gateway or pool.subnet.network_address + 1) + 1 for pool in network.pools]
    return engine.host_firewall.forwarding(
        bridge_name(network), addresses, internal=network.internal, filtered=bridged_frames_are_filtered()
    )


async def tell(engine: Engine) -> None:
    """Say in the log what stops our networks now and did not at the last time."""
    found: dict[str, None] = {}
    for row in engine.db.all("SELECT * FROM network WHERE state = 'ready' AND driver = 'bridge'"):
        if engine.host_firewall.quiet():
            break
        found |= dict.fromkeys(await of_network(engine, network_of(engine, row)))
    for text in found.keys() - engine.obstacles:
        log.warning("%s", text)
    engine.obstacles = frozenset(found)
