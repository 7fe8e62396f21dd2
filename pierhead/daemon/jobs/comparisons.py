"""Containers, their run-time folders and volumes compared with what is there; and how a difference is mended.

These run on the event loop, where no job is half way through a step.  What a job is at is left alone: it holds the
object's lock, or the container's end is being worked off.
"""

import os
from collections.abc import Iterable, Iterator
from functools import partial

from pierhead.daemon.engine.engine import Engine, blocking, log
from pierhead.daemon.jobs import networks, removal, volume_comparison
from pierhead.daemon.jobs.describe import host_config_of
from pierhead.daemon.jobs.files import container_folder, own_folder
from pierhead.difference import Difference, Kind
from pierhead.driver.graphdriver.remove import remove_tree
from pierhead.errors import PierheadError, plain
from pierhead.graph.containers import Container
from pierhead.graph.content import listed
from pierhead.graph.state import State
from pierhead.linux import const
from pierhead.linux.mount import mount_points
from pierhead.linux.mountapi import umount


async def mend(difference: Difference) -> None:
    """Mend one that can be mended. Raises OSError, PierheadError."""
    assert difference.mend is not None
    work = await blocking(difference.mend)
    if work is not None and hasattr(work, "__await__"):
        await work


async def reconcile(differences: Iterable[Difference]) -> None:
    """At the daemon's start: mend what there is, say what cannot be."""
    following = iter(differences)
    while (difference := await blocking(next, following, None)) is not None:
        if difference.mend is None:
            log.error("%s; %s", difference.found, difference.repair)
            continue
        log.info("%s: %s", difference.found, difference.repair)
        try:
            await mend(difference)
        except (OSError, PierheadError) as error:
            log.error("%s: %s", difference.subject, plain(error))


def _busy(engine: Engine, id: str) -> bool:
    """Whether something is being done with a container at the moment, or its end is being worked off."""
    return engine.locks.held(id) or id in engine.held or id in engine.running or id in engine.backoff


# -- mounts -----------------------------------------------------------------------------------------------------------


def mounts(engine: Engine) -> Iterator[Difference]:
    """What is mounted below the roots: volumes that are mounts while a container has them, and nothing else."""
    points = mount_points()
    data, run = os.path.realpath(engine.config.data_root), os.path.realpath(engine.config.exec_root)
    folders = [os.path.join(data, name) for name in ("containers", "split", "tmp")]
    folders.append(os.path.join(run, "containers"))
    home, layers = os.path.join(data, engine.layers.name, ""), frozenset(engine.layers.list())
    for point in points:
        # Beside the layers a driver may have mounts of its own.
        in_layer = point.startswith(home) and point[len(home) :].partition("/")[0] in layers
        if in_layer or any(point.startswith(f"{folder}/") for folder in folders):
            yield Difference(
                Kind.LEFTOVER,
                "mount",
                point,
                f"something is mounted on {point}, where this daemon mounts nothing: the folder cannot be removed",
                "it is unmounted",
                partial(_unmount, point),
            )
    yield from volume_comparison.compare_mounts(engine, set(points))


def _unmount(point: str) -> None:
    if point in mount_points():
        umount(point, const.MNT_DETACH)


# -- run-time folders -------------------------------------------------------------------------------------------------


def runs(engine: Engine) -> Iterator[Difference]:
    """What the exec driver has under its mark: containers that run, and nothing else."""
    there = engine.exec.existing()
    live = {container.id for container in engine.containers.all() if container.live}
    for id in there:
        if id not in live and not _busy(engine, id):
            yield Difference(
                Kind.LEFTOVER,
                "run",
                id,
                f"there is a run-time folder or control group of container {id[:12]}, which is not known to run",
                "its processes are ended, folder and group are removed",
                partial(_end_run, engine, id),
            )


async def _end_run(engine: Engine, id: str) -> None:
    async with engine.locks.hold(id):
        live = any(container.id == id and container.live for container in engine.containers.all())
        if not live and id not in engine.running:
            await blocking(engine.exec.delete, id)


# -- containers -------------------------------------------------------------------------------------------------------


def containers(engine: Engine) -> Iterator[Difference]:
    """Containers whose making, removal or start nobody is at any more; their folders and layers."""
    joined = {row["id"] for row in engine.db.all("SELECT container_id AS id FROM endpoint WHERE active = 1")}
    for container in engine.containers.all():
        if not _busy(engine, container.id) and not container.live:
            yield from _unfinished(engine, container, joined=container.id in joined)
    home = os.path.join(engine.config.data_root, "containers")
    there = sorted(listed(home))
    known = {container.id: container for container in engine.containers.all()}
    for name in there:
        path = os.path.join(home, name)
        if name not in known and not engine.locks.held(name):
            yield Difference(
                Kind.LEFTOVER,
                "container",
                path,
                f"{path} is the folder of a container that does not exist",
                "it is deleted, with the log in it",
                partial(remove_tree, path),
            )
    for container in known.values():
        if not engine.locks.held(container.id) and container.state not in (State.REMOVING, State.DEAD):
            yield from _incomplete(engine, container)


def _unfinished(engine: Engine, container: Container, *, joined: bool) -> Iterator[Difference]:
    """joined: it has addresses in its networks."""
    id, name = container.id, container.name
    if container.state in (State.REMOVING, State.DEAD):
        found = f"the removal of container {name} was not finished"
    elif container.intent == "create":
        found = f"the making of container {name} was not finished; nobody was told that it exists"
    elif host_config_of(container).auto_remove and (container.state is State.EXITED or container.error):
        # Its run has ended (or its start failed), and it could not be removed then.
        found = f"container {name} was to be removed at its end, and is still there"
    elif container.intent or joined:
        doing = f"a start of container {name}" if container.intent else f"the end of container {name}'s run"
        yield Difference(
            Kind.UNFINISHED,
            "container",
            id,
            f"{doing} was not finished",
            "what it has taken of its networks is given back",
            partial(_forget_start, engine, id),
        )
        return
    else:
        return
    yield Difference(
        Kind.UNFINISHED,
        "container",
        id,
        found,
        "its layer, folder and row are removed",
        partial(_discard, engine, id),
    )


async def _discard(engine: Engine, id: str) -> None:
    for container in engine.containers.all():
        if container.id == id and not container.live and id not in engine.running:
            taken = container.state not in (State.REMOVING, State.DEAD) or container.intent == removal.WITH_VOLUMES
            await removal.discard(engine, id, with_volumes=taken)


async def _forget_start(engine: Engine, id: str) -> None:
    async with engine.locks.hold(id):
        live = any(container.id == id and container.live for container in engine.containers.all())
        if not live and id not in engine.running:
            await networks.release(engine, id)
            engine.containers.update(id, intent="")


def _incomplete(engine: Engine, container: Container) -> Iterator[Difference]:
    id, name = container.id, container.name
    if container.intent == "create":
        return
    if not os.path.isdir(own_folder(engine, id)):
        yield Difference(
            Kind.MISSING,
            "container",
            id,
            f"the folder of container {name} is not there: what it has logged until now is gone",
            "an empty one is made, so that the container can start",
            partial(_make_folder, engine, id),
        )
    if container.driver == engine.layers.name and not engine.layers.exists(container.layer_id):
        yield Difference(
            Kind.MISSING,
            "container",
            id,
            f"the files of container {name} (layer {container.layer_id[:12]}) are not on the disk: what it had written "
            "is gone, and it cannot start",
            f"it cannot be made here again; remove it and create it anew: pier rm {name}",
        )


def _make_folder(engine: Engine, id: str) -> None:
    if any(container.id == id for container in engine.containers.all()):
        container_folder(engine, id)
