"""Every byte of the data root by its owner; and how many a removal has given back.

Layers are known from GraphDB; what containers and volumes have written is walked, once.  What is in the data root and
belongs to none of them, nor to the engine itself, is unaccounted: a defect, or somebody else's.
"""

import os
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.jobs.files import own_folder
from pierhead.driver.graphdriver.usage import blocks, measure
from pierhead.graph.containers import Container
from pierhead.graph.holdings import HeldLayer, Holdings, holdings
from pierhead.wire.space import DiskUsage, Released, Stray

_DATABASE = frozenset({"graph.db", "graph.db-wal", "graph.db-shm", "graph.db-journal"})
_OWN = frozenset({"lock", "lost+found"})
"""The second is the file system's, where the data root is one's top."""


def free(engine: Engine) -> int:
    """Bytes of the data root's file system that nothing has."""
    system = os.statvfs(engine.config.data_root)
    return system.f_bfree * system.f_frsize


def layers_and_images(engine: Engine) -> Holdings:
    """What all of them take."""
    return holdings(engine.graph)


def released(engine: Engine, freed: int, before: int) -> Released:
    """What a removal has given back. before: ``free`` at its beginning."""
    return Released(space_reclaimed=freed, free_space_change=free(engine) - before)


@dataclass(frozen=True, slots=True)
class ContainerUse:
    """A container, in bytes. content: of the files it has written (Docker's SizeRw); on disk: its writable layer, its
    logs, its own few files."""

    content: int
    writable: int
    logs: int
    files: int


def container_use(engine: Engine, container: Container) -> ContainerUse:
    """One container, in one walk of what it has written (blocking)."""
    layer = engine.layers.measure(container.layer_id)
    folder = own_folder(engine, container.id)
    logs, files = 0, blocks(folder)
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        names = []
    for name in names:
        size = measure(os.path.join(folder, name)).disk
        if name.startswith(f"{container.id}-json.log"):
            logs += size
        else:
            files += size
    return ContainerUse(layer.content, layer.disk, logs, files)


class _Account:
    """The books while they are being made."""

    def __init__(self, home: str) -> None:
        self.home = home
        self.usage = DiskUsage(root=home)

    def path(self, *parts: str) -> str:
        return os.path.join(self.home, *parts)

    def stray(self, path: str, size: int) -> None:
        """Something that is nobody's."""
        self.usage.strays.append(Stray(path=path, size=size))
        self.usage.unaccounted += size

    def folder(self, name: str, known: Set[str]) -> None:
        """A folder of the engine's, of things that are known by their names and counted already."""
        self.usage.engine += blocks(self.path(name))
        for entry in sorted(os.listdir(self.path(name))):
            if entry not in known:
                self.stray(self.path(name, entry), measure(self.path(name, entry)).disk)


@dataclass(frozen=True, slots=True)
class _Owners:
    """Whose what GraphDB knows is, by the names that it has on the disk.

    layers: images' and, without being a ``HeldLayer``, containers' own; both of the driver in use.  split: of all
    drivers.  drivers: that something is of.  unfinished: volumes that are being filled or removed.
    """

    held: tuple[HeldLayer, ...]
    layers: Set[str]
    split: Set[str]
    drivers: Set[str]
    containers: Set[str]
    volumes: Set[str]
    unfinished: Sequence[str]
    blobs: Set[str]


def _owners(engine: Engine) -> _Owners:
    held = engine.derived(layers_and_images)
    rows = engine.db.all("SELECT id, layer_id, driver FROM container")
    volumes = {row["name"]: row["state"] for row in engine.db.all("SELECT name, state FROM volume")}
    driver = engine.layers.name
    own = tuple(layer for layer in held.layers if layer.driver == driver)
    return _Owners(
        held=own,
        layers={layer.cache_id for layer in own} | {row["layer_id"] for row in rows if row["driver"] == driver},
        split={layer.cache_id for layer in held.layers},
        drivers={layer.driver for layer in held.layers} | {row["driver"] for row in rows},
        containers={row["id"] for row in rows},
        volumes=volumes.keys(),
        unfinished=[name for name, state in volumes.items() if state != "ready"],
        blobs={row["hex"] for row in engine.db.all("SELECT substr(digest, 8) AS hex FROM content")},
    )


def account(engine: Engine, containers: Iterable[ContainerUse], volumes: int) -> DiskUsage:
    """The books (blocking). volumes: bytes on disk of all that are whole."""
    made = _Account(engine.config.data_root)
    usage = made.usage
    owners = engine.derived(_owners)
    for use in containers:
        usage.containers.writable += use.writable
        usage.containers.logs += use.logs
        usage.containers.files += use.files
    usage.volumes = volumes
    rest = engine.layers.remainder(owners.layers)
    usage.engine += rest.own
    for path, size in rest.strays:
        made.stray(path, size)
    for layer in owners.held:
        _add_layer(engine, usage, layer, missing=layer.cache_id in rest.missing)
    _add_folders(engine, made, owners)
    _look_again(engine, usage)
    usage.engine += blocks(made.home)
    usage.total = sum(
        (
            *(usage.layers.shared, usage.layers.unique, usage.layers.kept),
            *(usage.containers.writable, usage.containers.logs, usage.containers.files),
            *(usage.volumes, usage.blobs, usage.database, usage.engine, usage.scratch, usage.elsewhere),
            usage.unaccounted,
        )
    )
    system = os.statvfs(made.home)
    usage.capacity, usage.free = system.f_blocks * system.f_frsize, system.f_bavail * system.f_frsize
    return usage


def _look_again(engine: Engine, usage: DiskUsage) -> None:
    """What was made since the rows were read has its row by now, and what was being removed is gone: no strays."""
    if not usage.strays:
        return
    rows = engine.db.all(
        "SELECT cache_id AS id FROM layer UNION SELECT id FROM container UNION SELECT layer_id FROM container "
        "UNION SELECT name FROM volume UNION SELECT substr(digest, 8) FROM content"
    )
    known = {row["id"] for row in rows}
    strays, usage.strays, usage.unaccounted = usage.strays, [], 0
    for stray in strays:
        if _names(stray.path) & known:
            usage.scratch += stray.size
        elif os.path.lexists(stray.path):
            usage.strays.append(stray)
            usage.unaccounted += stray.size


def _names(path: str) -> set[str]:
    """What something may be of, by its name or, if it is a link, by where it leads."""
    try:
        return {os.path.basename(path), *os.readlink(path).split("/")}
    except OSError:
        return {os.path.basename(path)}


def _add_layer(engine: Engine, usage: DiskUsage, layer: HeldLayer, *, missing: bool) -> None:
    if not layer.ready:  # it is being unpacked or removed
        usage.scratch += engine.graph.on_disk(layer.cache_id)
        return
    disk = engine.graph.on_disk(layer.cache_id) if missing else layer.disk
    if layer.images > 1:
        usage.layers.shared += disk
    elif layer.images:
        usage.layers.unique += disk
    else:
        usage.layers.kept += disk


def _add_folders(engine: Engine, made: _Account, owners: _Owners) -> None:
    """Whatever is in the data root but for the storage driver's folder."""
    usage = made.usage
    for name in sorted(os.listdir(made.home)):
        path = made.path(name)
        if name in _DATABASE:
            usage.database += blocks(path)
        elif name in _OWN:
            usage.engine += measure(path).disk
        elif name == "containers":
            made.folder(name, owners.containers)
        elif name == "split":
            made.folder(name, owners.split)
        elif name == "volumes":
            made.folder(name, owners.volumes)
            usage.scratch += sum(measure(os.path.join(path, volume)).disk for volume in owners.unfinished)
        elif name == "tmp":
            usage.engine += blocks(path)
            usage.scratch += measure(path).disk - blocks(path)
        elif name == "blobs":
            usage.engine += blocks(path)
            made.folder("blobs/sha256", owners.blobs)
            usage.blobs += sum(blocks(made.path("blobs/sha256", blob)) for blob in owners.blobs)
        elif name == engine.layers.name:
            continue
        elif name in owners.drivers or os.path.exists(os.path.join(path, "graph.db")):
            usage.elsewhere += measure(path).disk
        else:
            made.stray(path, measure(path).disk)
