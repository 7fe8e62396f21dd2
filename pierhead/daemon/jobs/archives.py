"""``docker cp``: what is at a path of a container, files out of it, and files into it, whether it runs or not.

A container that runs is seen as its processes see it, with volumes, binds and tmpfs; one that does not is put together
for the purpose, with its volumes and binds, and cannot start meanwhile.  Compressed archives are unpacked here, in
front of the container's root (see ``libcontainer.view`` and ``graphdriver.archiving`` for how nothing leads out of it).
"""

import asyncio
import os
import stat as modes
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import BinaryIO, TypeVar, cast

from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.jobs import launch, specs, volumes
from pierhead.daemon.jobs.describe import attributes, config_of, host_config_of
from pierhead.daemon.jobs.pipes import Inflow, Outflow, pour, stream
from pierhead.driver.graphdriver import archiving
from pierhead.errors import Conflict, NotFound, PierheadError, plain
from pierhead.graph.committing import Pieces
from pierhead.graph.containers import Container
from pierhead.graph.stream import decompressed
from pierhead.libcontainer import user, view
from pierhead.libcontainer.spec import Mount
from pierhead.linux.calls import use_files_as
from pierhead.linux.idmap import IdMaps
from pierhead.linux.mount import Root
from pierhead.wire.containers import PathStat
from pierhead.wire.time import rfc3339

T = TypeVar("T")

_KINDS = {
    modes.S_IFDIR: 1 << 31,
    modes.S_IFLNK: 1 << 27,
    modes.S_IFBLK: 1 << 26,
    modes.S_IFIFO: 1 << 25,
    modes.S_IFSOCK: 1 << 24,
    modes.S_IFCHR: 1 << 26 | 1 << 21,
}
_BITS = {modes.S_ISUID: 1 << 23, modes.S_ISGID: 1 << 22, modes.S_ISVTX: 1 << 20}


@dataclass(frozen=True, slots=True)
class Assembly:
    """What the files of a container that does not run are put together from."""

    root: Root
    mounts: tuple[Mount, ...]
    readonly: bool


@dataclass(frozen=True, slots=True)
class Files:
    """A container's files, open. maps: whose numbers are those of the host; apart: only in what is mounted."""

    root: int
    maps: IdMaps | None
    apart: bool

    def _mapped(self, device: int) -> IdMaps | None:
        return None if self.apart and device == os.fstat(self.root).st_dev else self.maps

    def owner(self, found: os.stat_result) -> tuple[int, int]:
        """Who owns a node, as the container's processes see it."""
        maps = self._mapped(found.st_dev)
        return (found.st_uid, found.st_gid) if maps is None else maps.inside(found.st_uid, found.st_gid)

    def stored(self, descriptor: int, uid: int, gid: int) -> tuple[int, int]:
        """How a user and a group of the container's are written down where the descriptor is. Raises OSError."""
        maps = self._mapped(os.fstat(descriptor).st_dev) if self.maps is not None else None
        return (uid, gid) if maps is None else (maps.uid(uid), maps.gid(gid))


async def _with_files(
    engine: Engine,
    name: str,
    path: str,
    work: Callable[[Files, Outflow[T]], None],
    on_cancel: Callable[[], None] | None = None,
) -> AsyncIterator[T]:
    """Run ``work`` in a thread of its own, with the container's files."""
    container = engine.containers.find(name)
    maps = specs.user_maps(engine, host_config_of(container))
    async with AsyncExitStack() as stack:
        root, assembly = _running(container), None
        if root < 0:
            await stack.enter_async_context(engine.locks.hold(container.id))
            await launch.settled(engine, container.id)
            container = engine.containers.get(container.id)
            if container.live and (root := _running(container)) < 0 and (run := engine.running.get(container.id)):
                await run.settled.wait()  # it has ended a moment ago
            if root < 0:
                await volumes.mount(engine, container)
                stack.push_async_callback(volumes.unmount, engine, container)
                readonly = host_config_of(container).readonly_rootfs
                files = stack.enter_context(engine.layers.mounted(container.layer_id))
                assembly = Assembly(files, specs.file_mounts(engine, container), readonly)

        def run_it(out: Outflow[T]) -> None:
            top = root
            if assembly is not None:
                top = view.assembled(assembly.root, assembly.mounts, readonly=assembly.readonly)
            elif maps is not None:
                use_files_as(*maps.root)  # the host's root is nobody in these file systems
            try:
                work(Files(top, maps, assembly is not None), out)
            finally:
                if assembly is not None:
                    os.close(top)

        if assembly is None:
            stack.callback(os.close, root)
        try:
            # Closed before what it works on: a reader that goes away leaves us in the middle, the thread still at it.
            async with aclosing(stream(run_it, "container files", on_cancel)) as items:
                async for item in items:
                    yield item
        except FileNotFoundError:
            raise NotFound(f"Could not find the file {path} in container {name}") from None
        except OSError as error:
            raise PierheadError(plain(error)) from None


def _running(container: Container) -> int:
    if not container.live or not container.pid:
        return -1
    try:
        return view.running(container.pid, container.id)
    except PermissionError as error:
        raise Conflict(str(error)) from None


def _mode(mode: int) -> int:
    """As Go's os.FileMode."""
    bits = sum(number for bit, number in _BITS.items() if mode & bit)
    return (mode & 0o777) | _KINDS.get(modes.S_IFMT(mode), 0) | bits


def _stat(root: int, wanted: archiving.Path, found: os.stat_result) -> PathStat:
    target = archiving.link_target(root, wanted) if modes.S_ISLNK(found.st_mode) else ""
    return PathStat(wanted.name, found.st_size, _mode(found.st_mode), rfc3339(found.st_mtime_ns), target)


async def stat(engine: Engine, name: str, path: str) -> PathStat:
    """What is at a path. Raises NoSuchContainer, NotFound."""
    wanted = archiving.path(path)

    def work(files: Files, out: Outflow[PathStat]) -> None:
        node = archiving.find(files.root, wanted)
        os.close(node.above)
        out.put(_stat(files.root, wanted, node.found))

    (found,) = [item async for item in _with_files(engine, name, path, work)]
    return found


async def read(engine: Engine, name: str, path: str) -> tuple[PathStat, AsyncIterator[bytes]]:
    """What is at a path, and an archive of it. Raises NoSuchContainer, NotFound."""
    wanted = archiving.path(path)
    container = engine.containers.find(name)
    told: list[PathStat] = []

    def work(files: Files, out: Outflow[bytes]) -> None:
        node = archiving.find(files.root, wanted)
        archiving.check_readable(node)
        told.append(_stat(files.root, wanted, node.found))
        out.put(b"")  # from here on it is an answer
        pour(archiving.pack(node, wanted.name, files.owner if files.maps is not None else None), out)

    pieces = _with_files(engine, name, path, work)
    await anext(pieces)
    engine.events.publish("container", "archive-path", container.id, attributes(container))
    return told[0], pieces


async def write(
    engine: Engine, name: str, path: str, source: AsyncIterator[bytes], strict: bool = False, own: bool = False
) -> None:
    """Unpack an archive into the directory at a path.

    strict: no directory takes another thing's place, nor the other way round.  own: everything belongs to the
    container's user.  Raises NoSuchContainer, NotFound, InvalidParameter, PierheadError.
    """
    wanted = archiving.path(path)
    container = engine.containers.find(name)
    flow = Inflow(source, asyncio.get_running_loop())

    def work(files: Files, _: Outflow[None]) -> None:
        target = archiving.open_target(files.root, wanted)
        os.close(target)
        given = _user(files.root, config_of(container).user) if own else None
        extractor = archiving.FileExtractor(files.root, wanted.clean, files.stored, strict=strict, given=given)
        extractor.run(cast("BinaryIO", Pieces(decompressed(cast("BinaryIO", flow)))))

    async for _ in _with_files(engine, name, path, work, flow.cancel):
        pass
    engine.events.publish("container", "extract-to-dir", container.id, attributes(container))


def _user(root: int, text: str) -> tuple[int, int] | None:
    if not text:
        return None
    try:
        identity = user.resolve(root, text)
    except user.UserError as error:
        raise PierheadError(str(error)) from None
    return identity.uid, identity.gid
