"""Volumes compared with what is there: their folders, and the mounts of those that are one (see ``comparisons``)."""

import os
import stat
from collections.abc import Iterator
from functools import partial

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.jobs import volume_mounts, volumes
from pierhead.difference import Difference, Kind
from pierhead.driver.graphdriver.remove import remove_tree
from pierhead.wire import codec


def compare(engine: Engine) -> Iterator[Difference]:
    """Folders and rows."""
    home = os.path.join(engine.config.data_root, "volumes")
    there = sorted(os.listdir(home)) if os.path.isdir(home) else []
    rows = {row["name"]: row["state"] for row in engine.db.all("SELECT name, state FROM volume")}
    for name, state in rows.items():
        if engine.locks.held(f"volume {name}") or name in engine.condemned_volumes:
            continue
        if state != "ready":
            doing = "making" if state == "making" else "removal"
            yield Difference(
                Kind.UNFINISHED,
                "volume",
                name,
                f"the {doing} of volume {name} was not finished",
                "it is removed with what is in it" if doing == "removal" else "it is removed: nobody has had it yet",
                partial(volumes.finish_removal, engine, name),
            )
        elif not os.path.isdir(volumes.mountpoint(engine, name)):
            yield Difference(
                Kind.MISSING,
                "volume",
                name,
                f"{volumes.mountpoint(engine, name)} is not there: what was in volume {name} is gone",
                "an empty folder is made, so that its containers can start",
                partial(_make, engine, name),
            )
        elif os.path.lexists(volumes.filling(engine, name)):
            yield Difference(
                Kind.UNFINISHED,
                "volume",
                name,
                f"what the image of a container has for volume {name} was not all copied",
                "what was is deleted; the volume is as empty as it was",
                partial(_empty, engine, name),
            )
    for name in there:
        if name not in rows and not engine.locks.held(f"volume {name}"):
            yield _unknown(engine, name)


def _unknown(engine: Engine, name: str) -> Difference:
    """What is in the volumes' folder and no volume may be somebody's data: it is never deleted unless it is empty."""
    folder, files = volumes.folder(engine, name), volumes.mountpoint(engine, name)
    if not _is_folder(files) or not volumes.is_name(name):
        return Difference(
            Kind.LEFTOVER,
            "volume",
            folder,
            f"{folder} is not a volume of this daemon's",
            "it is not touched: move it elsewhere if it is needed, or delete it",
        )
    if os.listdir(folder) == ["_data"] and not os.listdir(files):
        return Difference(
            Kind.LEFTOVER,
            "volume",
            folder,
            f"{folder} is the folder of a volume that the database does not know, and empty",
            "it is deleted",
            partial(_delete_empty, engine, name),
        )
    return Difference(
        Kind.LEFTOVER,
        "volume",
        folder,
        f"{folder} is the folder of a volume that the database does not know, and has files in it",
        f"it becomes volume {name} again, as nothing says that it was to be removed",
        partial(volumes.adopt, engine, name),
    )


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _row(engine: Engine, name: str) -> bool:
    return engine.db.first("SELECT 1 FROM volume WHERE name = ?", (name,)) is not None


async def _make(engine: Engine, name: str) -> None:
    async with engine.locks.hold(f"volume {name}"):
        if _row(engine, name):
            await blocking(volumes.make, engine, name)


async def _empty(engine: Engine, name: str) -> None:
    async with engine.locks.hold(f"volume {name}"):
        await blocking(remove_tree, volumes.filling(engine, name))


async def _delete_empty(engine: Engine, name: str) -> None:
    async with engine.locks.hold(f"volume {name}"):
        if not _row(engine, name):
            os.rmdir(volumes.mountpoint(engine, name))  # fails where something is in it by now
            await blocking(remove_tree, volumes.folder(engine, name))


def compare_mounts(engine: Engine, points: set[str]) -> Iterator[Difference]:
    """Volumes that are mounts are mounted while a container that has them runs. points: where something is mounted."""
    for row in engine.db.all("SELECT name, options, state FROM volume"):
        name, options = row["name"], codec.decode(row["options"], dict[str, str])
        path = volumes.mountpoint(engine, name)
        users = engine.mounted_volumes.get(name, set())
        if not volume_mounts.needed(options) or engine.locks.held(f"volume {name}"):
            continue
        mounted = os.path.realpath(path) in points
        if mounted and not users:
            yield Difference(
                Kind.LEFTOVER,
                "mount",
                path,
                f"volume {name} is mounted on {path}, and no container that runs has it",
                "it is unmounted",
                partial(volume_mounts.release, engine, name, path, ""),
            )
        elif users and not mounted and row["state"] == "ready":
            yield Difference(
                Kind.MISSING,
                "mount",
                path,
                f"volume {name} is in use and not mounted on {path}: containers that start now would see its empty "
                "folder",
                "it is mounted again",
                partial(volume_mounts.hold, engine, name, path, options, min(users)),
            )
