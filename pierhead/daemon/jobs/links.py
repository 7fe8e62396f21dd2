"""Legacy links (``--link`` on the default bridge): a container knows others by names of its own, in /etc/hosts and in
its environment. On networks of the user's links are names that the resolver answers (see ``zones``).
"""

from dataclasses import dataclass
from ipaddress import IPv4Interface

from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.jobs import endpoints
from pierhead.daemon.jobs.describe import config_of, host_config_of, network_kind
from pierhead.daemon.jobs.endpoint_requests import parse_link
from pierhead.driver.networkdriver.api import Passage
from pierhead.driver.networkdriver.ports import container_ports, runs
from pierhead.errors import Conflict, InvalidParameter, NoSuchContainer, PierheadError
from pierhead.graph.containers import Container
from pierhead.graph.graphdb import Row
from pierhead.wire.containers import HostConfig

HOST_AND_LINKS = (
    "conflicting options: host type networking can't be used with links. This would result in undefined behavior"
)


@dataclass(frozen=True, slots=True)
class Link:
    """What a container calls another one. addresses: of the default bridge, while the other is on it."""

    alias: str
    target: Container
    addresses: tuple[str, ...]

    @property
    def line(self) -> str:
        """Its lines of /etc/hosts: alias, hostname and name, at each address."""
        names = dict.fromkeys((self.alias, config_of(self.target).hostname, self.target.name))
        return "".join(f"{address}\t{' '.join(name for name in names if name)}\n" for address in self.addresses)


# Making, ending ------------------------------------------------------------------------------------------------------


def targets(engine: Engine, host: HostConfig) -> dict[str, Container]:
    """Whom a create request links to, by alias; the first of an alias counts. Raises InvalidParameter."""
    found: dict[str, Container] = {}
    if network_kind(host.network_mode) == "user":
        return found
    for text in host.links or ():
        name, alias = parse_link(text)
        target = _target(engine, name)
        while host_config_of(target).network_mode.startswith("container:"):
            target = _target(engine, host_config_of(target).network_mode.removeprefix("container:"))
        if network_kind(host_config_of(target).network_mode) == "host":
            raise InvalidParameter(HOST_AND_LINKS)
        found.setdefault(alias, target)
    return found


def _target(engine: Engine, name: str) -> Container:
    try:
        return engine.containers.find(name)
    except NoSuchContainer as error:
        raise InvalidParameter(f"could not get container for {name}: {error}") from None


def register(engine: Engine, container_id: str, found: dict[str, Container]) -> None:
    """Write a new container's links. To be called within a transaction. Raises InvalidParameter."""
    for alias, target in found.items():
        _target(engine, target.id)  # it may have been removed since it was found
        engine.db.execute(
            "INSERT INTO link (container_id, alias, target_id, target_name) VALUES (?, ?, ?, ?)",
            (container_id, alias, target.id, target.name),
        )


def remove(engine: Engine, path: str) -> Container:
    """End the link "container/alias"; returns the container. Raises NoSuchContainer, Conflict."""
    name, slash, alias = path.strip("/").rpartition("/")
    if not slash:
        engine.containers.find(alias)
        raise Conflict("Conflict, cannot remove the default link name of the container")
    try:
        container = engine.containers.find(name)
    except NoSuchContainer:
        raise NoSuchContainer(path) from None
    with engine.db.transaction(durable=True):
        gone = engine.db.execute("DELETE FROM link WHERE container_id = ? AND alias = ?", (container.id, alias))
    if not gone:
        raise NoSuchContainer(path)
    return container


# Using ---------------------------------------------------------------------------------------------------------------


def _rows(engine: Engine, container_id: str) -> list[Row]:
    return engine.db.all("SELECT * FROM link WHERE container_id = ? ORDER BY rowid", (container_id,))


def resolve(engine: Engine, container: Container) -> None:
    """For a start: the linked containers must run, on the default bridge. One that was made anew under the name of
    one that is gone takes its place. Raises PierheadError."""
    rows = _rows(engine, container.id)
    if not rows or not _on_bridge(engine, container.id):
        return
    for row in rows:
        path = f"/{row['target_name']} AS /{container.name}/{row['alias']}"
        try:
            target = engine.containers.get(row["target_id"] or engine.containers.named(row["target_name"]).id)
        except NoSuchContainer:
            raise PierheadError(f"Cannot link to a non running container: {path}") from None
        if not _on_bridge(engine, target.id):
            raise PierheadError(f"Cannot link to /{target.name}, as it does not belong to the default network")
        if not target.live:
            raise PierheadError(
                f"Cannot link to a non running container: /{target.name} AS /{container.name}/{row['alias']}"
            )
        if target.id != row["target_id"]:
            engine.db.execute(
                "UPDATE link SET target_id = ? WHERE container_id = ? AND alias = ?",
                (target.id, container.id, row["alias"]),
            )


def _on_bridge(engine: Engine, container_id: str) -> bool:
    return any(row["network_name"] == "bridge" for row in endpoints.endpoint_rows(engine, container_id))


def of(engine: Engine, container_id: str) -> list[Link]:
    """A container's links to others that exist."""
    found = []
    for row in _rows(engine, container_id):
        if row["target_id"]:
            found.append(
                Link(row["alias"], engine.containers.get(row["target_id"]), _addresses(engine, row["target_id"]))
            )
    return found


def _addresses(engine: Engine, container_id: str) -> tuple[str, ...]:
    for row in endpoints.endpoint_rows(engine, container_id):
        if row["network_name"] == "bridge" and row["active"]:
            return tuple(text.partition("/")[0] for text in (row["ipv4"], row["ipv6"]) if text)
    return ()


def open_ports(engine: Engine) -> None:
    """Let containers reach what those offer that they have links to, where the default bridge keeps them apart. For
    whenever a link, or an address of the default bridge, is new or gone. Raises OSError."""
    found = _passages(engine)
    for driver in engine.networks.values():
        driver.link(found)


def _passages(engine: Engine) -> list[Passage]:
    rows = engine.db.all(
        "SELECT DISTINCT l.target_id, s.ipv4 AS source, t.ipv4 AS target FROM link l "
        "JOIN endpoint s ON s.container_id = l.container_id JOIN endpoint t ON t.container_id = l.target_id "
        "JOIN network n ON n.id = s.network_id AND n.id = t.network_id "
        "WHERE n.name = 'bridge' AND s.active = 1 AND t.active = 1 AND s.ipv4 IS NOT NULL AND t.ipv4 IS NOT NULL "
        "ORDER BY source, target"
    )
    return [
        Passage(IPv4Interface(row["source"]).ip, IPv4Interface(row["target"]).ip, proto, low, high)
        for row in rows
        for proto, low, high in runs(endpoints.exposed(engine.containers.get(row["target_id"])))
    ]


def linked_by(engine: Engine, container_id: str) -> list[str]:
    """The ids of the containers that have a link to this one."""
    rows = engine.db.all("SELECT DISTINCT container_id FROM link WHERE target_id = ?", (container_id,))
    return [row["container_id"] for row in rows]


# What is shown -------------------------------------------------------------------------------------------------------


def shown(engine: Engine, container: Container) -> list[str] | None:
    """HostConfig.Links of an inspected container: "/target:/container/alias"."""
    rows = engine.db.all(
        "SELECT l.alias, coalesce(c.name, l.target_name) AS name FROM link l LEFT JOIN container c "
        "ON c.id = l.target_id WHERE l.container_id = ? ORDER BY l.rowid",
        (container.id,),
    )
    return [f"/{row['name']}:/{container.name}/{row['alias']}" for row in rows] or None


def names(engine: Engine, container_id: str) -> list[str]:
    """What others call a container: "/other/alias"."""
    rows = engine.db.all(
        "SELECT c.name, l.alias FROM link l JOIN container c ON c.id = l.container_id WHERE l.target_id = ? "
        "ORDER BY c.name, l.alias",
        (container_id,),
    )
    return [f"/{row['name']}/{row['alias']}" for row in rows]


def environment(engine: Engine, container: Container) -> list[str]:
    """What a container's environment says of its links: the variables that Docker sets, ports with TCP first."""
    found: list[str] = []
    for link in of(engine, container.id):
        if not link.addresses:
            continue
        address, name = link.addresses[0], link.alias.upper().replace("-", "_")
        found += _port_variables(name, address, link.target)
        found.append(f"{name}_NAME=/{container.name}/{link.alias}")
        for entry in config_of(link.target).env or ():
            key, equals, value = entry.partition("=")
            if equals and key not in ("HOME", "PATH"):
                found.append(f"{name}_ENV_{key}={value}")
    return found


def _port_variables(name: str, address: str, target: Container) -> list[str]:
    exposed = [container_ports(key) for key in config_of(target).exposed_ports or ()]
    ports = sorted(
        {(proto != "tcp", proto, port) for proto, low, high in exposed for port in range(low, high + 1)},
    )
    found: list[str] = []
    for _, proto, port in ports:
        if not found:
            found.append(f"{name}_PORT={proto}://{address}:{port}")
        one = f"{name}_PORT_{port}_{proto.upper()}"
        found += [f"{one}={proto}://{address}:{port}", f"{one}_ADDR={address}", f"{one}_PORT={port}"]
        found.append(f"{one}_PROTO={proto}")
    for proto, low, high in sorted(runs((proto, port) for _, proto, port in ports), key=lambda run: run[0] != "tcp"):
        if low < high:
            one = f"{name}_PORT_{low}_{proto.upper()}"
            found += [f"{one}_START={proto}://{address}:{low}", f"{one}_PORT_START={low}"]
            found += [f"{one}_END={proto}://{address}:{high}", f"{one}_PORT_END={high}"]
    return found
