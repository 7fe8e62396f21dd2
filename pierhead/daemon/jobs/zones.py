"""The names that a container can ask for: each network's zone out of GraphDB, and the resolver that answers for it."""

import socket
import zlib
from ipaddress import ip_address

from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.engine.resolver import Scope
from pierhead.daemon.jobs import endpoints
from pierhead.daemon.jobs.describe import dns_names, host_config_of
from pierhead.driver.networkdriver import dns
from pierhead.libcontainer.spec import NetworkSetup
from pierhead.linux import nft


def zone_of(engine: Engine, network_id: str, network_name: str) -> dns.Zone:
    """The names of everything that is joined to a network now."""
    names: dict[str, list[dns.Address]] = {}
    pointers: dict[str, str] = {}
    rows = engine.db.all("SELECT * FROM endpoint WHERE network_id = ? AND active = 1", (network_id,))
    for row in rows:
        container = engine.containers.get(row["container_id"])
        addresses = [ip_address(text.partition("/")[0]) for text in (row["ipv4"], row["ipv6"]) if text]
        for name in dns_names(container, endpoints.asked(row)):
            for form in (name.lower(), f"{name}.{network_name}".lower()):
                names.setdefault(form, []).extend(addresses)
        for address in addresses:
            pointers[dns.pointer_name(address)] = f"{container.name}.{network_name}"
    return dns.Zone({name: tuple(dict.fromkeys(found)) for name, found in names.items()}, pointers)


def resolver_setup(container_id: str) -> NetworkSetup:
    """The resolver's sockets on a high port of 127.0.0.11, outside the ephemeral range, and a rule that leads there.

    A bound :53 would be in the way of containers that serve DNS themselves.
    """
    port = 61000 + zlib.crc32(container_id.encode()) % 4000
    return NetworkSetup(nft=nft.local_redirect("pierhead", dns.ADDRESS, 53, port), resolver=port)


def serve(engine: Engine, container_id: str, sockets: tuple[socket.socket, socket.socket]) -> None:
    """Answer on the container's resolver sockets."""

    def zone() -> dns.Zone:
        rows = [row for row in endpoints.endpoint_rows(engine, container_id) if row["active"]]
        zones = [
            engine.resolvers.zone(
                row["network_id"],
                lambda row=row: zone_of(engine, row["network_id"], row["network_name"]),  # type: ignore[misc]
            )
            for row in rows
            if endpoints.named(engine, row["driver"], row["network_name"])
        ]
        return dns.union(zones)

    def upstreams() -> tuple[str, ...] | None:
        rows = [row for row in endpoints.endpoint_rows(engine, container_id) if row["active"]]
        if not any(endpoints.outward(engine, row) for row in rows):
            return None
        host = host_config_of(engine.containers.get(container_id))
        return tuple(host.dns or engine.config.dns)

    engine.resolvers.serve(container_id, sockets, Scope(zone, upstreams))
