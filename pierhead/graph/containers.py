"""Containers as GraphDB knows them: rows in, rows out.

Config and HostConfig are kept as the JSON that the API shows; what the engine itself asks for has a column.
"""

import re
from dataclasses import dataclass
from typing import Any

from pierhead.errors import Conflict, InvalidParameter, NoSuchContainer
from pierhead.graph.graphdb import GraphDB, IntegrityError, Row
from pierhead.graph.state import State

_ID = re.compile(r"[0-9a-f]{1,64}")


@dataclass(frozen=True, slots=True)
class Container:
    """One row; times are ns since the epoch, 0 = never. config, host_config, mounts and args are JSON."""

    id: str
    name: str
    state: State
    image_id: str
    image_name: str
    layer_id: str
    driver: str
    config: bytes
    host_config: bytes
    mounts: bytes
    path: str
    args: bytes
    created: int
    started: int
    finished: int
    pid: int
    exit_code: int
    error: str
    oom: bool
    restarts: int
    stopped: bool
    intent: str
    reason: str = ""

    @property
    def live(self) -> bool:
        """Whether it has a process now."""
        return self.state in (State.RUNNING, State.PAUSED)


def _container(row: Row) -> Container:
    # Not dict(row): that looks for each column by its name among all.
    values: dict[str, Any] = dict(zip(row.keys(), row, strict=True))
    values["state"] = State(values["state"])
    values["oom"] = bool(values["oom"])
    values["stopped"] = bool(values["stopped"])
    return Container(**values)


class Containers:
    """The container table. Uniqueness of names and legal state transitions are the database's own constraints."""

    def __init__(self, db: GraphDB) -> None:
        self._db = db

    def add(self, container: Container) -> None:
        """Insert. Raises Conflict, naming the holder, where the name is taken."""
        columns = list(Container.__dataclass_fields__)
        try:
            self._db.execute(
                f"INSERT INTO container ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
                [getattr(container, name) for name in columns],
            )
        except IntegrityError as error:
            if "container.name" not in str(error):
                raise
            raise self._name_taken(container.name) from error

    def _name_taken(self, name: str) -> Conflict:
        holder = self._db.one("SELECT id FROM container WHERE name = ?", (name,))["id"]
        return Conflict(
            f'Conflict. The container name "/{name}" is already in use by container "{holder}". '
            "You have to remove (or rename) that container to be able to reuse that name."
        )

    def get(self, id: str) -> Container:
        """By full id. Raises NoSuchContainer."""
        row = self._db.first("SELECT * FROM container WHERE id = ?", (id,))
        if row is None:
            raise NoSuchContainer(id)
        return _container(row)

    def named(self, name: str) -> Container:
        """By name alone, for one that was noted: an id may begin like it. Raises NoSuchContainer."""
        row = self._db.first("SELECT * FROM container WHERE name = ?", (name,))
        if row is None:
            raise NoSuchContainer(name)
        return _container(row)

    def find(self, name: str) -> Container:
        """By full id, name (with or without "/"), or unique id prefix, in this order, as Docker does."""
        row = self._db.first("SELECT * FROM container WHERE id = ?", (name,)) or self._db.first(
            "SELECT * FROM container WHERE name = ?", (name.removeprefix("/"),)
        )
        if row is not None:
            return _container(row)
        if not name:
            raise InvalidParameter("No container name or ID supplied")
        if not _ID.fullmatch(name):
            raise NoSuchContainer(name)
        rows = self._db.all("SELECT * FROM container WHERE id >= ? AND id < ? LIMIT 2", (name, name + "g"))
        if not rows:
            raise NoSuchContainer(name)
        if len(rows) > 1:
            raise InvalidParameter(f"Multiple IDs found with provided prefix: {name}")
        return _container(rows[0])

    def all(self) -> list[Container]:
        """Every container, newest first."""
        return [_container(row) for row in self._db.all("SELECT * FROM container ORDER BY created DESC, id")]

    def update(self, id: str, **columns: object) -> None:
        """Write some columns. Raises IntegrityError for a state transition that is not allowed."""
        assignments = ", ".join(f"{name} = ?" for name in columns)
        self._db.execute(f"UPDATE container SET {assignments} WHERE id = ?", (*columns.values(), id))

    def rename(self, id: str, name: str) -> None:
        """Give it another name. Raises Conflict where that is taken."""
        try:
            self.update(id, name=name)
        except IntegrityError as error:
            raise self._name_taken(name) from error

    def remove(self, id: str) -> None:
        """Forget it; its memberships, ports and volume uses go with it."""
        self._db.execute("DELETE FROM container WHERE id = ?", (id,))
