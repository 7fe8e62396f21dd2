"""Jobs on volumes: list, inspect, create, remove, prune; and what a container's create and remove need of them.

The ``local`` driver: <data_root>/volumes/<name>/_data.  The row is committed before the directory is made, and says
"removing" before it is deleted.
"""

import builtins
import errno
import os
import re
import secrets
import stat
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.jobs import space, volume_mounts
from pierhead.daemon.jobs.describe import mounts_of
from pierhead.daemon.jobs.mounts import check_driver
from pierhead.driver.graphdriver.remove import remove_tree
from pierhead.driver.graphdriver.tree import copy_tree
from pierhead.driver.graphdriver.usage import measure
from pierhead.errors import Conflict, InvalidParameter, NoSuchVolume, NotFound
from pierhead.graph.containers import Container
from pierhead.graph.graphdb import IntegrityError, Row
from pierhead.linux.idmap import IdMaps
from pierhead.linux.openat import open_in_root
from pierhead.wire import codec
from pierhead.wire.filters import Filters
from pierhead.wire.space import Released
from pierhead.wire.time import rfc3339
from pierhead.wire.volumes import UsageData, Volume, VolumeCreateOptions, VolumeListResponse, VolumePruneResponse

LIST_FILTERS = frozenset({"dangling", "name", "driver", "label"})
PRUNE_FILTERS = frozenset({"label", "label!", "all"})
ANONYMOUS_LABEL = "com.docker.volume.anonymous"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class _Found:
    """A row."""

    name: str
    created: int
    anonymous: bool
    labels: dict[str, str]
    options: dict[str, str]


def folder(engine: Engine, name: str) -> str:
    """What is deleted with a volume."""
    return os.path.join(engine.config.data_root, "volumes", name)


def mountpoint(engine: Engine, name: str) -> str:
    """Where a volume's files are."""
    return os.path.join(folder(engine, name), "_data")


def filling(engine: Engine, name: str) -> str:
    """Where what an image has for a volume is copied to, before all of it takes the place of the empty volume."""
    return os.path.join(folder(engine, name), "_filling")


def is_name(name: str) -> bool:
    """Whether a volume may be called so."""
    return _NAME.fullmatch(name) is not None and len(name) <= 255


def _found(row: Row) -> _Found:
    return _Found(
        row["name"],
        row["created"],
        bool(row["anonymous"]),
        codec.decode(row["labels"], dict[str, str]),
        codec.decode(row["options"], dict[str, str]),
    )


def _get(engine: Engine, name: str) -> _Found:
    row = engine.db.first("SELECT * FROM volume WHERE name = ? AND state = 'ready'", (name,))
    if row is None:
        raise NoSuchVolume(name)
    return _found(row)


def _all(engine: Engine) -> builtins.list[_Found]:
    return [_found(row) for row in engine.db.all("SELECT * FROM volume WHERE state = 'ready' ORDER BY name")]


def _users(engine: Engine, name: str) -> builtins.list[str]:
    rows = engine.db.all("SELECT DISTINCT container_id FROM volume_use WHERE volume = ?", (name,))
    return [row["container_id"] for row in rows]


def _volume(engine: Engine, found: _Found) -> Volume:
    return Volume(
        name=found.name,
        driver="local",
        created_at=rfc3339(found.created - found.created % 10**9),
        labels=found.labels or None,
        options=found.options or None,
        mountpoint=mountpoint(engine, found.name),
        scope="local",
    )


async def list(engine: Engine, filters: Filters) -> VolumeListResponse:
    """Every volume, by name."""
    filters.validate(LIST_FILTERS)
    volumes = _all(engine)
    if "dangling" in filters:
        wanted = filters.flag("dangling")
        volumes = [found for found in volumes if (not _users(engine, found.name)) == wanted]
    return VolumeListResponse(
        volumes=[
            _volume(engine, found)
            for found in volumes
            if filters.matches("name", found.name)
            and filters.matches_exact("driver", "local")
            and filters.matches_labels("label", found.labels)
        ]
    )


async def inspect(engine: Engine, name: str) -> Volume:
    """One volume. Raises NoSuchVolume."""
    return _volume(engine, _get(engine, name))


async def create(engine: Engine, request: VolumeCreateOptions) -> Volume:
    """Make a volume; one of the same name that is there already is given back as it is. Raises InvalidParameter."""
    check_driver(request.name, request.driver)
    name = await _ensure(engine, request.name or None, dict(request.labels or {}), dict(request.driver_opts or {}))
    return _volume(engine, _get(engine, name))


async def _ensure(
    engine: Engine,
    name: str | None,
    labels: dict[str, str],
    options: dict[str, str],
    use: tuple[str, str] | None = None,
) -> str:
    """Its name. use: the container and target that have a new one from its first moment on (see ``attach``)."""
    anonymous = name is None
    name = name or secrets.token_hex(32)
    if len(name) == 1:
        raise InvalidParameter(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )
    if not is_name(name):
        raise InvalidParameter(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )
    try:
        volume_mounts.check(options)
    except InvalidParameter as error:
        raise InvalidParameter(f"create {name}: {error}") from None
    if anonymous:
        labels = {**labels, ANONYMOUS_LABEL: ""}
    async with engine.locks.hold(f"volume {name}"):
        row = engine.db.first("SELECT state FROM volume WHERE name = ?", (name,))
        if row is not None and row["state"] == "ready":
            return name
        with engine.db.transaction():
            engine.db.execute(
                "INSERT OR REPLACE INTO volume (name, created, anonymous, labels, options, state) "
                "VALUES (?, ?, ?, ?, ?, 'making')",
                (name, time.time_ns(), anonymous, codec.encode(labels), codec.encode(options)),
            )
        try:
            await blocking(make, engine, name)
            with engine.db.transaction(durable=True):
                engine.db.execute("UPDATE volume SET state = 'ready' WHERE name = ?", (name,))
                if use is not None:
                    # In the same transaction: a crash in between would leave a volume that is nobody's.
                    engine.db.execute("INSERT OR IGNORE INTO volume_use VALUES (?, ?, ?)", (name, *use))
        except OSError:
            await blocking(_unmake, engine, name)
            with engine.db.transaction():
                engine.db.execute("DELETE FROM volume WHERE name = ?", (name,))
            raise
    engine.events.publish("volume", "create", name, {"driver": "local"})
    return name


def make(engine: Engine, name: str) -> None:
    """Make a volume's folders, as far as they are missing."""
    os.makedirs(os.path.join(engine.config.data_root, "volumes"), mode=0o701, exist_ok=True)
    os.makedirs(folder(engine, name), mode=0o701, exist_ok=True)
    os.makedirs(mountpoint(engine, name), mode=0o755, exist_ok=True)
    if engine.config.id_maps is not None:
        os.chown(mountpoint(engine, name), *engine.config.id_maps.root)


def _unmake(engine: Engine, name: str) -> None:
    """Of a volume that could not be made, what there is; not what was in its place before, and has files in it."""
    for path in (mountpoint(engine, name), folder(engine, name)):
        with suppress(OSError):
            os.rmdir(path)


async def remove(engine: Engine, name: str, force: bool = False) -> Released:
    """Delete a volume and what is in it. Raises NoSuchVolume (unless forced), Conflict while a container has it."""
    try:
        _get(engine, name)
    except NoSuchVolume:
        if force:
            return Released()
        raise
    before = space.free(engine)
    freed = await engine.finish(_remove(engine, name))
    return space.released(engine, freed, before)


async def _remove(engine: Engine, name: str, states: tuple[str, str] = ("ready", "removing")) -> int:
    """states: from which it may go."""
    async with engine.locks.hold(f"volume {name}"):
        with engine.db.transaction():
            users = _users(engine, name)
            if users:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            if not engine.db.execute(
                "UPDATE volume SET state = 'removing' WHERE name = ? AND state IN (?, ?)", (name, *states)
            ):
                return 0
        try:
            freed = await blocking(remove_tree, folder(engine, name))
            with engine.db.transaction(durable=True):
                engine.db.execute("DELETE FROM volume WHERE name = ?", (name,))
        except OSError:
            if "ready" in states:  # it is shown again, and can be removed again
                with engine.db.transaction():
                    engine.db.execute("UPDATE volume SET state = 'ready' WHERE name = ?", (name,))
            raise
    engine.events.publish("volume", "destroy", name, {"driver": "local"})
    return freed


def prunable(engine: Engine, filters: Filters, without: Set[str] = frozenset()) -> builtins.list[str]:
    """Names of the volumes that no container has: the anonymous ones, with the filter ``all`` every one. without:
    containers that do not count. Raises InvalidParameter."""
    filters.validate(PRUNE_FILTERS)
    everything = filters.flag("all")
    names = []
    for found in _all(engine):
        if not (everything or found.anonymous) or not filters.matches_labels("label", found.labels):
            continue
        if "label!" in filters and filters.matches_labels("label!", found.labels):
            continue
        if not set(_users(engine, found.name)) - without:
            names.append(found.name)
    return names


async def prune(engine: Engine, filters: Filters) -> VolumePruneResponse:
    """Delete the volumes that no container has: the anonymous ones, with the filter ``all`` every one."""
    deleted: builtins.list[str] = []
    reclaimed, before = 0, space.free(engine)
    for name in prunable(engine, filters):
        try:
            reclaimed += await engine.finish(_remove(engine, name))
        except Conflict:
            continue
        deleted.append(name)
    engine.events.publish("volume", "prune", "", {"reclaimed": str(reclaimed)})
    change = space.free(engine) - before
    return VolumePruneResponse(volumes_deleted=deleted or None, space_reclaimed=reclaimed, free_space_change=change)


def usage(engine: Engine) -> builtins.list[Volume]:
    """Every volume with its size and the number of its users (blocking: it walks them)."""
    users = Counter(row["volume"] for row in engine.db.all("SELECT DISTINCT volume, container_id FROM volume_use"))
    result = []
    for found in _all(engine):
        volume = _volume(engine, found)
        used = measure(folder(engine, found.name))
        there = os.path.isdir(volume.mountpoint)
        volume.usage_data = UsageData(size=used.content if there else -1, ref_count=users[found.name], disk=used.disk)
        result.append(volume)
    return result


# -- for the container jobs -------------------------------------------------------------------------------------------


async def attach(
    engine: Engine,
    container_id: str,
    name: str | None,
    target: str,
    labels: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
) -> tuple[str, str]:
    """Give a container a volume, made if it is missing (None: an anonymous one): (its name, its path on the host).

    Idempotent. Raises InvalidParameter.
    """
    while True:
        name = await _ensure(engine, name, dict(labels or {}), dict(options or {}), (container_id, target))
        try:
            with engine.db.transaction():
                if engine.db.first("SELECT 1 FROM volume WHERE name = ? AND state = 'ready'", (name,)) is None:
                    continue  # removed in between
                engine.db.execute("INSERT OR IGNORE INTO volume_use VALUES (?, ?, ?)", (name, container_id, target))
            return name, mountpoint(engine, name)
        except IntegrityError:
            if engine.db.first("SELECT 1 FROM container WHERE id = ?", (container_id,)) is None:
                raise NotFound(f"No such container: {container_id}") from None


def release(engine: Engine, container_id: str) -> builtins.list[str]:
    """Take all volumes from a container: their names. The container's removal does the same by itself."""
    names = of_container(engine, container_id)
    with engine.db.transaction():
        engine.db.execute("DELETE FROM volume_use WHERE container_id = ?", (container_id,))
    return names


def of_container(engine: Engine, container_id: str) -> builtins.list[str]:
    """The names of a container's volumes."""
    rows = engine.db.all("SELECT DISTINCT volume FROM volume_use WHERE container_id = ?", (container_id,))
    return [row["volume"] for row in rows]


def condemn(engine: Engine, names: Iterable[str]) -> builtins.list[str]:
    """Mark those of the volumes that are anonymous and nobody's any more as to be removed: their names.

    Within the transaction that takes their user away: after a crash ``reconcile`` finishes what ``remove_condemned``
    has not done.
    """
    return [
        name
        for name in names
        if engine.db.execute(
            "UPDATE volume SET state = 'removing' WHERE name = ? AND state = 'ready' AND anonymous "
            "AND name NOT IN (SELECT volume FROM volume_use)",
            (name,),
        )
    ]


async def finish_removal(engine: Engine, name: str) -> None:
    """Remove a volume that was half made or half removed when somebody was interrupted. One made anew stays."""
    await engine.finish(_remove(engine, name, ("making", "removing")))


async def adopt(engine: Engine, name: str) -> None:
    """Take a folder that is there for a volume, unless there is one of the name by now."""
    async with engine.locks.hold(f"volume {name}"):
        made = os.stat(mountpoint(engine, name)).st_mtime_ns
        with engine.db.transaction(durable=True):
            engine.db.execute(
                "INSERT OR IGNORE INTO volume (name, created, anonymous, labels, options, state) "
                "VALUES (?, ?, 0, ?, ?, 'ready')",
                (name, made, codec.encode({}), codec.encode({})),
            )
    engine.events.publish("volume", "create", name, {"driver": "local"})


async def remove_condemned(engine: Engine, names: Iterable[str]) -> int:
    """Delete volumes marked by ``condemn``; the bytes given back. One made anew under its name meanwhile stays."""
    freed = 0
    names = [*names]
    engine.condemned_volumes.update(names)
    try:
        for name in names:
            try:
                freed += await engine.finish(_remove(engine, name, ("removing", "removing")))
            except Conflict:
                continue
    finally:
        engine.condemned_volumes.difference_update(names)
    return freed


async def fill(engine: Engine, container_id: str, layer_id: str, name: str, target: str) -> None:
    """Fill an empty volume with what the container's root has at the target. Raises PierheadError."""
    found = _get(engine, name)
    if not volume_mounts.needed(found.options):
        async with engine.locks.hold(f"volume {name}"):
            alone = _users(engine, name) == [container_id]  # else another container may have it mounted
            await blocking(_copy_up, engine, layer_id, name, target, at_once=alone)
        return
    path = mountpoint(engine, name)
    await volume_mounts.hold(engine, name, path, found.options, container_id)
    try:
        await blocking(_copy_up, engine, layer_id, name, target, at_once=False)
    finally:
        await volume_mounts.release(engine, name, path, container_id)


def _mounted_ones(engine: Engine, container: Container) -> builtins.list[_Found]:
    """A container's volumes that are mounts."""
    names = {point.name for point in mounts_of(container) if point.type == "volume"}
    found = []
    for name in sorted(names):
        row = engine.db.first("SELECT * FROM volume WHERE name = ? AND options <> '{}'", (name,))
        if row is not None and volume_mounts.needed(_found(row).options):
            found.append(_found(row))
    return found


async def mount(engine: Engine, container: Container) -> None:
    """Before a container's start: mount those of its volumes that are mounts. Raises PierheadError; then none is."""
    try:
        for found in _mounted_ones(engine, container):
            await volume_mounts.hold(engine, found.name, mountpoint(engine, found.name), found.options, container.id)
    except BaseException:
        await unmount(engine, container)
        raise


async def unmount(engine: Engine, container: Container) -> None:
    """After its end. Idempotent."""
    for found in _mounted_ones(engine, container):
        await volume_mounts.release(engine, found.name, mountpoint(engine, found.name), container.id)


def meet(engine: Engine, live: Iterable[Container]) -> None:
    """At the daemon's start: know who uses which mount."""
    for container in live:
        for found in _mounted_ones(engine, container):
            engine.mounted_volumes.setdefault(found.name, set()).add(container.id)


def _copy_up(engine: Engine, layer_id: str, name: str, target: str, *, at_once: bool) -> None:
    """Confined: the target is looked up inside the root, nothing is followed out of it.

    at_once: all or nothing of it comes to be there, whatever happens; for a folder that nobody has mounted.
    """
    there = mountpoint(engine, name)
    if os.listdir(there):
        return
    root = engine.layers.open_root(layer_id)
    try:
        source = _directory_in(root, target)
        if source is None:
            return
        try:
            if at_once:
                _replace(filling(engine, name), there, source, engine.config.id_maps)
            else:
                _copy(source, there, engine.config.id_maps)
        finally:
            os.close(source)
    finally:
        os.close(root)


def _copy(source: int, target: str, maps: IdMaps | None) -> None:
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        copy_tree(source, fd, maps)
    finally:
        os.close(fd)


def _replace(aside: str, there: str, source: int, maps: IdMaps | None) -> None:
    """Into a folder that then takes the empty one's place: half of it would never be completed, not being empty."""
    remove_tree(aside)
    try:
        os.mkdir(aside, 0o700)
        _copy(source, aside, maps)
        os.rename(aside, there)
    except BaseException:
        remove_tree(aside)
        raise


def _directory_in(root: int, path: str) -> int | None:
    try:
        fd = open_in_root(root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    return fd if stat.S_ISDIR(os.fstat(fd).st_mode) else None
