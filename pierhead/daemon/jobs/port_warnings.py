"""What is to be said about the ports that a container publishes, though nothing forbids them."""

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.jobs import endpoints, port_allocation
from pierhead.daemon.jobs.describe import network_kind
from pierhead.daemon.jobs.network_rows import network_of
from pierhead.driver.networkdriver import ports, reservations
from pierhead.driver.networkdriver.api import PortBinding, PublishPolicy
from pierhead.driver.networkdriver.obstacles import Obstacle
from pierhead.driver.networkdriver.packetpath import INPUT, PREROUTING
from pierhead.graph.graphdb import Row
from pierhead.wire.containers import ContainerConfig, HostConfig
from pierhead.wire.network_map import PastFirewall

log = logging.getLogger("pierd")

DISCARDED = "Published ports are discarded when using host network mode"
INCOMING = (PREROUTING, INPUT)
"""Where a host decides about what outsiders send to its own programs."""
ASKED = 32
"""Of one container: more ports are not asked about, for each is a walk through all rules of the host."""


@dataclass(frozen=True, slots=True)
class Passing:
    """A published port or range that outsiders reach past the host's input rules, and the rule that would stop them."""

    binding: PortBinding
    obstacle: Obstacle

    @property
    def ports(self) -> str:
        """ "8080/tcp" or "8000-8010/tcp"."""
        low, high = self.binding.host_low, self.binding.host_high
        return f"{low}/{self.binding.proto}" if low == high else f"{low}-{high}/{self.binding.proto}"

    @property
    def stopped_by(self) -> str:
        """Who would stop it, in words."""
        found = self.obstacle
        what = f"the rule `{found.rule}` in {found.where}" if found.rule else f"the policy of {found.where}"
        return f"{found.owner} ({what})" if found.owner else what


async def of_request(engine: Engine, config: ContainerConfig, host: HostConfig, networks: Iterable[str]) -> list[str]:
    """At a container's creation or change. networks: names of those that it is to be in."""
    kind = network_kind(host.network_mode)
    if kind == "host" and host.port_bindings:
        return [DISCARDED]
    found = port_allocation.requests(config, host)
    if kind not in ("default", "user") or not found:
        return []
    said = [text] if (text := _beyond(found, engine.config.publish_policy)) else []
    if engine.host_firewall.quiet(*INCOMING):
        return said
    dynamic = ports.dynamic_range()[0]
    bindings = ports.coalesce(
        PortBinding(one.proto, one.port, one.port, one.ip, low, low) for one in found if (low := one.low or dynamic)
    )
    wanted = set(networks)
    versions = _translated(engine, [row for row in engine.db.all("SELECT * FROM network") if row["name"] in wanted])
    passing = await blocking(past_firewall, engine, bindings, versions)
    if passing:
        named = ", ".join(one.ports if one.binding.host_low != dynamic else "a port" for one in passing)
        said.append(
            f"{named} is published past the host's firewall: everybody outside gets there, though "
            f"{passing[0].stopped_by} would {passing[0].obstacle.verdict} it. Publish on 127.0.0.1, or start pierd "
            "with --publish-policy firewall (or local)"
        )
    return said


def _translated(engine: Engine, rows: Sequence[Row]) -> set[int]:
    """The IP versions in which networks, given by their rows, have published ports at the host's addresses."""
    if not rows:
        return {4}
    return {
        version
        for row in rows
        for version in engine.networks[row["driver"]].hosts(network_of(engine, row))
        if version == 4 or row["ipv6"]
    }


def _beyond(found: list[ports.PortRequest], policy: PublishPolicy) -> str:
    """For a container that publishes more ports than sockets are worth."""
    fixed = [PortBinding(one.proto, one.port, one.port, one.ip, one.low, one.low) for one in found if one.fixed]
    single = [PortBinding(one.proto, one.port, one.port, one.ip, 1, 1) for one in found if not one.fixed]
    _, beyond = reservations.split([*ports.coalesce(fixed), *single])
    if not beyond:
        return ""
    ranges = ", ".join(f"{one.host_low}-{one.host_high}/{one.proto}" for one in beyond if one not in single)
    unserved = "to clients from outside, " if policy is PublishPolicy.FIREWALL else ""
    return (
        f"More than {reservations.SOCKETS} ports are published: {ranges or 'those beyond'} cannot be kept from other "
        f"programs while the container runs, and are not served {unserved}on ::1 or from IPv6 to IPv4"
    )


def past_firewall(engine: Engine, bindings: Sequence[PortBinding], versions: Collection[int]) -> list[Passing]:
    """Which of them outsiders reach though the host's input rules would keep them away. May wait.

    versions: of IP, those in which the kernel translates to the container.
    """
    if engine.config.publish_policy is not PublishPolicy.ANY:
        return []
    found: list[Passing] = []
    for binding in bindings[:ASKED]:
        address = ip_address(binding.host_ip) if binding.host_ip else None
        if binding.direct:
            continue
        if address is not None and (address.is_loopback or address.version not in versions):
            continue
        exact = None if address is None or address.is_unspecified else address
        asked = versions if address is None else {address.version}
        try:
            obstacle = engine.host_firewall.entering(binding.proto, binding.host_low, exact, asked)
        except OSError as error:
            log.warning("the host's firewall cannot be read: %s", error)
            return found
        if obstacle is not None and obstacle.certain:
            found.append(Passing(binding, obstacle))
    return found


async def show(engine: Engine) -> list[PastFirewall]:
    """Of every running container."""
    found = []
    for container in engine.containers.all():
        if not container.live:
            continue
        carrier = next((one for _, one in endpoints.active(engine, container.id) if one.gateway and one.ports), None)
        if carrier is None:
            continue
        versions = {one.version for one in (carrier.ipv4, carrier.ipv6) if one is not None}
        for passing in await blocking(past_firewall, engine, carrier.ports, versions):
            found.append(
                PastFirewall(id=container.id, name=container.name, ports=passing.ports, stopped_by=passing.stopped_by)
            )
    return found
