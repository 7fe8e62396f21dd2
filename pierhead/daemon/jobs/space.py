"""Every byte of the data root by its owner; and how many a removal has given back.

Layers are known from GraphDB; what containers and volumes have written is walked, once.  What is in the data root and
belongs to none of them, nor to the engine itself, is unaccounted: a defect, or somebody else's.
"""

import os
from collections.abc import Iterable, Set
from dataclasses import dataclass

from pierhead.daemon.engine.engine import Engine
from pierhead.driver.graphdriver.usage import blocks, measure
from pierhead.graph.containers import Container
from pierhead.graph.holdings import HeldLayer, Holdings
from pierhead.wire.space import DiskUsage, Released, Stray

_DATABASE = frozenset({"graph.db", "graph.db-wal", "graph.db-shm", "graph.db-journal"})
_OWN = frozenset({"lock", "lost+found"})
"""The second is the file system's, where the data root is one's top."""


def free(engine: Engine) -> int:
    """Bytes of the data root's file system that nothing has."""
    system = os.statvfs(engine.config.data_root)
    return system.f_bfree * system.f_frsize


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
    folder = os.path.join(engine.config.data_root, "containers", container.id)
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


def account(engine: Engine, held: Holdings, containers: Iterable[ContainerUse], volumes: int) -> DiskUsage:
    """The books (blocking). volumes: bytes on disk of all that are whole."""
    made = _Account(engine.config.data_root)
    usage = made.usage
    for use in containers:
        usage.containers.writable += use.writable
        usage.containers.logs += use.logs
        usage.containers.files += use.files
    usage.volumes = volumes
    rows = engine.containers.all()
    driver = engine.layers.name
    layers = [layer for layer in held.layers if layer.driver == driver]
    writable = {container.layer_id for container in rows if container.driver == driver}
    rest = engine.layers.remainder({layer.cache_id for layer in layers} | writable)
    usage.engine += rest.own
    for path, size in rest.strays:
        made.stray(path, size)
    for layer in layers:
        _add_layer(engine, usage, layer, missing=layer.cache_id in rest.missing)
    drivers = {layer.driver for layer in held.layers} | {container.driver for container in rows}
    _add_folders(engine, made, held, {container.id for container in rows}, drivers)
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


def _add_folders(engine: Engine, made: _Account, held: Holdings, containers: Set[str], drivers: Set[str]) -> None:
    """Whatever is in the data root but for the storage driver's folder."""
    usage = made.usage
    volumes = engine.db.all("SELECT name, state FROM volume")
    for name in sorted(os.listdir(made.home)):
        path = made.path(name)
        if name in _DATABASE:
            usage.database += blocks(path)
        elif name in _OWN:
            usage.engine += measure(path).disk
        elif name == "containers":
            made.folder(name, containers)
        elif name == "split":
            made.folder(name, {layer.cache_id for layer in held.layers})
        elif name == "volumes":
            made.folder(name, {row["name"] for row in volumes})
            unfinished = [row["name"] for row in volumes if row["state"] != "ready"]
            usage.scratch += sum(measure(os.path.join(path, volume)).disk for volume in unfinished)
        elif name == "tmp":
            usage.engine += blocks(path)
            usage.scratch += measure(path).disk - blocks(path)
        elif name == "blobs":
            usage.engine += blocks(path)
            kept = {row["hex"] for row in engine.db.all("SELECT substr(digest, 8) AS hex FROM content")}
            made.folder("blobs/sha256", kept)
            usage.blobs += sum(blocks(made.path("blobs/sha256", blob)) for blob in kept)
        elif name == engine.layers.name:
            continue
        elif name in drivers or os.path.exists(os.path.join(path, "graph.db")):
            usage.elsewhere += measure(path).disk
        else:
            made.stray(path, measure(path).disk)
