"""How a container goes: its run is ended, its layer, folder and anonymous volumes are given back, its row deleted."""

from contextlib import suppress

from pierhead.daemon.engine.engine import Engine, blocking, phase
from pierhead.daemon.engine.waiters import Condition
from pierhead.daemon.jobs import launch, lifecycle, networks, restarts, space, volumes
from pierhead.daemon.jobs.describe import attributes
from pierhead.daemon.jobs.files import own_folder
from pierhead.driver.graphdriver.remove import remove_tree
from pierhead.errors import Conflict, NoSuchContainer
from pierhead.graph.containers import Container
from pierhead.graph.state import State
from pierhead.wire.space import Released

WITH_VOLUMES = "remove with volumes"
"""The intent of a removal that takes the anonymous volumes along: after a crash it is finished as it was meant."""


async def remove(
    engine: Engine, name: str, force: bool = False, with_volumes: bool = False, link: bool = False
) -> Released | None:
    """Remove a container and give its bytes back. Raises Conflict for one that runs, unless forced.

    link: not a container but a link, "container/alias".
    """
    if link:
        await networks.unlink(engine, name)
        return None
    container = engine.containers.find(name)
    if container.state is State.REMOVING:
        raise Conflict(f"removal of container {name} is already in progress")
    if not force:
        _refuse_running(container)
    before = space.free(engine)
    freed = await engine.finish(_remove(engine, container.id, with_volumes, force))
    return space.released(engine, freed, before)


def _refuse_running(container: Container) -> None:
    if container.live or container.state is State.RESTARTING:
        advice = (
            "paused and must be unpaused first"
            if container.state is State.PAUSED
            else f"{container.state}: stop the container before removing or force remove"
        )
        raise Conflict(f'cannot remove container "/{container.name}": container is {advice}')


async def _remove(engine: Engine, id: str, with_volumes: bool, force: bool) -> int:
    if force:
        restarts.hold(engine, id)
    try:
        async with engine.locks.hold(id):
            try:
                container = engine.containers.get(id)
            except NoSuchContainer:
                return 0
            if not force:
                _refuse_running(container)  # asked anew: a start may have had the lock
            restarts.forget_restart(engine, id)
            if container.live:
                with phase("execdriver: kill"):
                    await lifecycle.end(engine, container, "SIGKILL", 10)
            await launch.settled(engine, id)
            if engine.containers.get(id).state is State.RESTARTING:
                engine.containers.update(id, state=State.EXITED)
            return await erase(engine, id, with_volumes)
    finally:
        if force:
            restarts.unhold(engine, id)


async def discard(engine: Engine, id: str, with_volumes: bool) -> None:
    """Remove what is left of a container that does not run: half made, auto-removed, or found at the daemon's start."""
    async with engine.locks.hold(id):
        if id not in engine.running:  # else it was started again by who had the lock: that run's end comes here, too
            await erase(engine, id, with_volumes)


def _remove_files(engine: Engine, container: Container) -> int:
    freed = engine.graph.remove_writable(container.layer_id)
    return freed + remove_tree(own_folder(engine, container.id))


async def erase(engine: Engine, id: str, with_volumes: bool) -> int:
    """Take it off the disk and out of GraphDB; the caller holds its lock. Returns the bytes that were given back."""
    try:
        container = engine.containers.get(id)
    except NoSuchContainer:
        return 0
    with engine.db.transaction():
        engine.containers.update(id, state=State.REMOVING, intent=WITH_VOLUMES if with_volumes else "remove")
    try:
        freed = await _give_back(engine, container, with_volumes)
    except BaseException:
        # It can be removed again: by its user, by fsck, and at the daemon's next start.
        with suppress(OSError), engine.db.transaction():
            engine.db.execute(
                "UPDATE container SET state = ? WHERE id = ? AND state = ?", (State.DEAD, id, State.REMOVING)
            )
        raise
    engine.events.publish("container", "destroy", id, attributes(container))
    engine.waiters.wake(id, container.exit_code, *Condition)
    return freed


async def _give_back(engine: Engine, container: Container, with_volumes: bool) -> int:
    id = container.id
    for stream in engine.waiting.pop(id, []):
        stream.connection.close()
    await networks.release(engine, id)
    with phase("graphdriver: remove"):
        freed = await blocking(_remove_files, engine, container)
    names = volumes.of_container(engine, id)
    for exec_id in [key for key, instance in engine.execs.items() if instance.container_id == id]:
        del engine.execs[exec_id]
    with engine.db.transaction(durable=True):
        engine.containers.remove(id)
        condemned = volumes.condemn(engine, names) if with_volumes else []
    return freed + await volumes.remove_condemned(engine, condemned)
