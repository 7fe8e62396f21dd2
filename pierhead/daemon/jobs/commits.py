"""A container as it is now: its files as an archive (``export``), and as an image (``commit``)."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.jobs import image_names, lifecycle
from pierhead.daemon.jobs.changes import apply_change, instructions
from pierhead.daemon.jobs.creation import merge
from pierhead.daemon.jobs.describe import attributes, config_of
from pierhead.daemon.jobs.pipes import Outflow, on_loop, pour, stream
from pierhead.driver.graphdriver.pack import pack_tree
from pierhead.errors import Conflict, PierheadError
from pierhead.graph import committing
from pierhead.graph.containers import Container
from pierhead.graph.state import State
from pierhead.reference import Reference
from pierhead.wire import codec
from pierhead.wire.containers import ContainerConfig


def _present(engine: Engine, name: str, verb: str) -> Container:
    """The container. Raises NoSuchContainer, and Conflict for one that is going away."""
    container = engine.containers.find(name)
    _refuse_removed(container, verb)
    return container


def _refuse_removed(container: Container, verb: str) -> None:
    if container.state is State.DEAD:
        raise Conflict(f"You cannot {verb} container {container.id} which is Dead")
    if container.state is State.REMOVING:
        raise Conflict(f"You cannot {verb} container {container.id} which is being removed")


async def export(engine: Engine, name: str) -> AsyncIterator[bytes]:
    """Its root file system as an archive, without what is mounted in it. Raises NoSuchContainer, Conflict."""
    container = _present(engine, name, "export")

    async def told(_: None) -> None:
        engine.events.publish("container", "export", container.id, attributes(container))

    done = on_loop(told)

    def work(out: Outflow[bytes]) -> None:
        root = engine.layers.open_root(container.layer_id, places=True)
        try:
            pour(pack_tree(root), out)
        finally:
            os.close(root)
        done(None)

    return stream(work, "container export")


async def commit(
    engine: Engine,
    name: str,
    repo: str,
    tag: str,
    author: str,
    comment: str,
    changes: Sequence[str],
    config: ContainerConfig | None,
    pause: bool,
) -> str:
    """Make an image of it; its id. config: instead of the container's; pause: no process of it runs meanwhile.

    Raises NoSuchContainer, NoSuchImage, InvalidParameter, Conflict.
    """
    reference = image_names.parse_target(repo, tag)
    container = _present(engine, name, "commit")
    before = config_of(container)
    wanted = codec.copy(config or before)
    command_set = False
    for change in instructions(changes):
        apply_change(wanted, change)
        word = change.split(maxsplit=1)[0].upper()
        command_set = command_set or word == "CMD"
        if word == "ENTRYPOINT" and not command_set:
            wanted.cmd = None  # it was for the other entry point
    merge(wanted, before)
    made = committing.Commit(
        container.id, codec.encode(wanted), codec.encode(before), before.cmd or [], author, comment
    )
    return await engine.finish(_commit(engine, container, made, reference, pause))


async def _commit(
    engine: Engine, container: Container, made: committing.Commit, reference: Reference | None, pause: bool
) -> str:
    parent = engine.graph.image(container.image_id)
    paused = False
    if pause:
        with suppress(Conflict):  # it does not run, or is paused already
            await lifecycle.pause(engine, container.id)
            paused = True

    def whole() -> None:
        _refuse_removed(engine.containers.get(container.id), "commit")

    try:
        image = await blocking(committing.commit, engine.graph, parent, container.layer_id, made, reference, whole)
        if reference is not None:
            image_names.event(engine, "tag", image, reference.familiar)
        told = {"comment": made.comment, "imageID": image.id, "imageRef": reference.familiar if reference else ""}
        engine.events.publish("container", "commit", container.id, {**attributes(container), **told})
        return image.id
    finally:
        if paused:
            with suppress(PierheadError):  # it has ended, or somebody else was faster
                await lifecycle.unpause(engine, container.id)
