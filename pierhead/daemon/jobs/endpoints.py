"""Networks and endpoints as GraphDB knows them, as the drivers want them, and as the API shows them."""

import hashlib
import json
from collections.abc import Iterable
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.jobs import memberships
from pierhead.daemon.jobs.describe import config_of, dns_names, host_config_of
from pierhead.daemon.jobs.network_rows import PREDEFINED, pools_of
from pierhead.driver.networkdriver import endpointoptions
from pierhead.driver.networkdriver import ports as port_rules
from pierhead.driver.networkdriver.api import Endpoint, Network, PortBinding
from pierhead.driver.networkdriver.reservations import dual_stack
from pierhead.graph.containers import Container
from pierhead.graph.graphdb import Row
from pierhead.wire import codec
from pierhead.wire.containers import NetworkSettings, Port, PortMap
from pierhead.wire.containers import PortBinding as WireBinding
from pierhead.wire.filters import Filters
from pierhead.wire.networks import EndpointIPAMConfig, EndpointSettings

# Rows and driver values ----------------------------------------------------------------------------------------------


def endpoint_rows(engine: Engine, container_id: str) -> list[Row]:
    """A container's endpoints with what ``network_at`` reads: first the network mode's own, then by name."""
    rows = engine.db.all(
        "SELECT e.*, n.name AS network_name, n.driver, n.internal, n.ipv6 AS network_ipv6, n.options "
        "FROM endpoint e JOIN network n ON n.id = e.network_id "
        "WHERE e.container_id = ? ORDER BY n.name",
        (container_id,),
    )
    if len(rows) < 2:
        return rows
    mode = host_config_of(engine.containers.get(container_id)).network_mode or "bridge"
    return sorted(rows, key=lambda row: mode not in (row["network_name"], row["network_id"]))


def network_at(engine: Engine, row: Row) -> Network:
    """The network of one of ``endpoint_rows``."""
    return Network(
        id=row["network_id"],
        name=row["network_name"],
        driver=row["driver"],
        pools=pools_of(engine, row["network_id"]),
        internal=bool(row["internal"]),
        ipv6=bool(row["network_ipv6"]),
        options=json.loads(row["options"]),
    )


def outward(engine: Engine, row: Row) -> bool:
    """Whether one of ``endpoint_rows`` can be its container's way out."""
    return engine.networks[row["driver"]].outward(network_at(engine, row))


def gateway_of(engine: Engine, rows: list[Row]) -> str | None:
    """The endpoint that gives the default route and carries published ports: highest priority, then by name."""
    able = [row for row in rows if outward(engine, row)]
    return str(min(able, key=_precedence)["id"]) if able else None


def _precedence(row: Row) -> tuple[int, str]:
    return -asked(row).gw_priority, row["network_name"]


def _second_way_out(engine: Engine, rows: list[Row]) -> tuple[str, int]:
    """Of active endpoints the one that gives the default route of the IP version that the gateway has no address of,
    and that version; ("", 0) where there is none."""
    gateway = next((row for row in rows if row["gateway"]), None)
    if gateway is None:
        return "", 0
    for version in (4, 6):
        if not gateway[f"ipv{version}"]:
            able = [row for row in rows if row is not gateway and row[f"ipv{version}"] and outward(engine, row)]
            if able:
                return str(min(able, key=_precedence)["id"]), version
    return "", 0


def named(engine: Engine, driver: str, network_name: str) -> bool:
    """Whether containers find each other by name in a network."""
    if network_name in PREDEFINED:
        return network_name == "bridge" and engine.config.default_bridge_names
    return engine.networks[driver].named


def asked(row: Row) -> EndpointSettings:
    """What the user asked for of an endpoint."""
    return codec.decode(row["settings"], EndpointSettings)


def bindings_of(engine: Engine, container_id: str) -> tuple[PortBinding, ...]:
    """The published ports of a running container."""
    return tuple(
        PortBinding(
            row["proto"],
            row["container_low"],
            row["container_low"] + row["high"] - row["low"],
            row["ip"],
            row["low"],
            row["high"],
            bool(row["direct"]),
        )
        for row in engine.db.all("SELECT * FROM port WHERE container_id = ? ORDER BY proto, low, ip", (container_id,))
    )


def endpoint_of(row: Row, ports: tuple[PortBinding, ...], second: int = 0) -> Endpoint:
    """An active endpoint's row as the drivers see it; its ports only if it is the gateway."""
    wanted = asked(row)
    return Endpoint(
        id=row["id"],
        network_id=row["network_id"],
        container_id=row["container_id"],
        interface=row["interface"],
        number=row["number"],
        mac=row["mac"],
        ipv4=IPv4Interface(row["ipv4"]) if row["ipv4"] else None,
        ipv6=IPv6Interface(row["ipv6"]) if row["ipv6"] else None,
        gateway=bool(row["gateway"]),
        ports=ports if row["gateway"] else (),
        link_local=_link_local(wanted.ipam_config),
        second=second,
        sysctls=endpointoptions.sysctls(wanted.driver_opts or {}, row["interface"]),
    )


def _link_local(config: EndpointIPAMConfig | None) -> tuple[IPv4Interface | IPv6Interface, ...]:
    """With the prefix lengths that Docker gives them."""
    given = config.link_local_ips if config is not None else None
    return tuple(ip_interface(f"{text}/{64 if ':' in text else 16}") for text in given or ())


def active(engine: Engine, container_id: str) -> list[tuple[Network, Endpoint]]:
    """Where a container is joined now."""
    rows = [row for row in endpoint_rows(engine, container_id) if row["active"]]
    ports = bindings_of(engine, container_id) if rows else ()
    second, version = _second_way_out(engine, rows) if len(rows) > 1 else ("", 0)
    return [(network_at(engine, row), endpoint_of(row, ports, version if row["id"] == second else 0)) for row in rows]


# What the API shows --------------------------------------------------------------------------------------------------


def endpoint_settings(engine: Engine, container: Container) -> dict[str, EndpointSettings]:
    """A container's networks by name."""
    shown: dict[str, EndpointSettings] = {}
    for row in endpoint_rows(engine, container.id):
        settings = asked(row)
        settings.network_id = row["network_id"]
        if row["network_name"] not in PREDEFINED:
            settings.dns_names = dns_names(container, settings)
        if row["active"]:
            settings.endpoint_id = row["id"]
            settings.mac_address = row["mac"]
            _addresses(engine, row, settings)
        shown[row["network_name"]] = settings
    for row in memberships.awaited(engine, container.id):
        shown[row["network"]] = asked(row)
    return shown


def _addresses(engine: Engine, row: Row, settings: EndpointSettings) -> None:
    hops = engine.networks[row["driver"]].next_hops(network_at(engine, row), endpoint_of(row, ()))
    gateways = {hop.version: str(hop) for hop in hops}
    if row["ipv4"]:
        address, _, length = row["ipv4"].partition("/")
        settings.ip_address, settings.ip_prefix_len, settings.gateway = address, int(length), gateways.get(4, "")
    if row["ipv6"]:
        address, _, length = row["ipv6"].partition("/")
        settings.global_ipv6_address, settings.global_ipv6_prefix_len = address, int(length)
        settings.ipv6_gateway = gateways.get(6, "")


def _shown_ips(ip: str) -> list[str]:
    """Docker shows a port of every address once for each family."""
    if ip:
        return [ip]
    return ["0.0.0.0", "::"] if dual_stack() else ["0.0.0.0"]


def exposed(container: Container) -> set[tuple[str, int]]:
    """(protocol, port) of what a container offers, published or not."""
    found: set[tuple[str, int]] = set()
    keys = [*(config_of(container).exposed_ports or {}), *(host_config_of(container).port_bindings or {})]
    for key in keys:
        proto, low, high = port_rules.container_ports(key)
        found |= {(proto, port) for port in range(low, high + 1)}
    return found


def _shows_ports(engine: Engine, container: Container) -> bool:
    """Whether its way out is a network where ports can be published; else Docker does not show exposed ones either."""
    if not container.live:
        return False
    drivers = engine.db.all(
        "SELECT n.driver FROM endpoint e JOIN network n ON n.id = e.network_id "
        "WHERE e.container_id = ? AND e.active AND e.gateway",
        (container.id,),
    )
    return any(engine.networks[row["driver"]].publishes for row in drivers)


def port_map(engine: Engine, container: Container) -> PortMap:
    """NetworkSettings.Ports: what is published now; null for what is only exposed."""
    if not _shows_ports(engine, container):
        return {}
    shown: PortMap = {f"{port}/{proto}": None for proto, port in sorted(exposed(container))}
    for binding in bindings_of(engine, container.id):
        for offset in range(binding.host_high - binding.host_low + 1):
            key = f"{binding.container_low + offset}/{binding.proto}"
            found = shown.get(key) or []
            if binding.direct:  # as Docker: the family that it is open in, and no port of the host's
                found.append(WireBinding(host_ip="::" if ":" in binding.host_ip else "0.0.0.0", host_port=""))
            else:
                port = str(binding.host_low + offset)
                found += [WireBinding(host_ip=ip, host_port=port) for ip in _shown_ips(binding.host_ip)]
            shown[key] = found
    return shown


def ports(engine: Engine, container: Container) -> list[Port]:
    """The Ports of a listed container."""
    if not _shows_ports(engine, container):
        return []
    published: set[tuple[str, int]] = set()
    shown: list[Port] = []
    for binding in bindings_of(engine, container.id):
        if binding.direct:
            continue  # none of the host's: shown as one that is exposed
        ips = _shown_ips(binding.host_ip)
        for offset in range(binding.host_high - binding.host_low + 1):
            inner = binding.container_low + offset
            published.add((binding.proto, inner))
            shown += [
                Port(ip=ip, private_port=inner, public_port=binding.host_low + offset, type=binding.proto) for ip in ips
            ]
    shown += [Port(private_port=port, type=proto) for proto, port in sorted(exposed(container) - published)]
    return shown


def settings(engine: Engine, container: Container) -> NetworkSettings:
    """NetworkSettings of container inspect."""
    networks = endpoint_settings(engine, container)
    answer = NetworkSettings(ports=port_map(engine, container), networks=networks)
    if container.live:
        answer.sandbox_id = hashlib.sha256(f"{container.id} {container.started}".encode()).hexdigest()
        answer.sandbox_key = f"/proc/{container.pid}/ns/net"
    bridge = networks.get("bridge")
    if bridge is not None:
        answer.endpoint_id = bridge.endpoint_id
        answer.gateway = bridge.gateway
        answer.ip_address, answer.ip_prefix_len = bridge.ip_address, bridge.ip_prefix_len
        answer.mac_address = bridge.mac_address if container.live else ""
        answer.ipv6_gateway = bridge.ipv6_gateway
        answer.global_ipv6_address = bridge.global_ipv6_address
        answer.global_ipv6_prefix_len = bridge.global_ipv6_prefix_len
    return answer


def is_member(engine: Engine, container: Container, wanted: Iterable[str]) -> bool:
    """The list's "network" filter: a name, an id or its beginning."""
    rows = endpoint_rows(engine, container.id)
    return any(
        value == row["network_name"] or (value and row["network_id"].startswith(value))
        for value in wanted
        for row in rows
    )


def matches_ports(engine: Engine, container: Container, filters: Filters) -> bool:
    """The list's "publish" and "expose" filters ("80", "80/tcp", "8000-8010/udp"). Raises InvalidParameter."""
    if filters.values_of("publish"):
        public = {(port.type, port.public_port) for port in ports(engine, container) if port.public_port}
        if not _any_port(public, filters.values_of("publish")):
            return False
    return not filters.values_of("expose") or _any_port(exposed(container), filters.values_of("expose"))


def _any_port(have: set[tuple[str, int]], wanted: Iterable[str]) -> bool:
    for text in wanted:
        proto, low, high = port_rules.container_ports(text)
        if any(proto == kind and low <= port <= high for kind, port in have):
            return True
    return False
