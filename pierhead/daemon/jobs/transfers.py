"""Jobs that move images as archives: import, load, save. Each runs in a thread of its own, fed and read by the loop."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import BinaryIO, cast

from pierhead import manifest
from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.jobs.changes import apply_change, instructions
from pierhead.daemon.jobs.image_names import event, find, names_id, parse_target
from pierhead.daemon.jobs.pipes import Cancelled, Inflow, Outflow, on_loop, pour, stream
from pierhead.daemon.jobs.progress import bar
from pierhead.daemon.jobs.progress import size as size_of
from pierhead.daemon.jobs.registries import hosts
from pierhead.errors import InvalidParameter, NoSuchImage, NotFound
from pierhead.graph import loading, saving
from pierhead.graph.graph import Image
from pierhead.graph.importing import host_architecture, import_rootfs
from pierhead.graph.stream import limited
from pierhead.reference import Reference, parse
from pierhead.registry.fetch import Download, Fetch
from pierhead.wire import codec
from pierhead.wire.containers import ContainerConfig
from pierhead.wire.images import JSONMessage, ProgressDetail

STEP = 4 << 20
"""Bytes between two progress messages of one layer."""


# -- import -----------------------------------------------------------------------------------------------------------


async def import_(
    engine: Engine,
    source: AsyncIterator[bytes],
    origin: str,
    repo: str,
    tag: str,
    message: str,
    changes: Sequence[str],
    platform: str,
) -> AsyncIterator[JSONMessage]:
    """A root file system archive becomes an image. Raises InvalidParameter before anything is read.

    origin: "-" for what the client sends, else where the daemon is to get it from (http, https).
    """
    reference = parse_target(repo, tag)
    config = ContainerConfig()
    for change in instructions(changes):
        apply_change(config, change)
    wanted = manifest.parse_platform(platform, manifest.Platform("linux", host_architecture()))
    if wanted.os != "linux":
        raise InvalidParameter(f'operating system "{wanted.os}" is not supported')

    async def imported(image: Image) -> None:
        event(engine, "import", image, reference.familiar if reference else "")

    done = on_loop(imported)

    def make(archive: BinaryIO, out: Outflow[JSONMessage]) -> None:
        image = import_rootfs(
            engine.graph,
            archive,
            codec.encode(config),
            message or f"Imported from {origin}",
            wanted.architecture,
            wanted.variant,
            reference,
        )
        done(image)
        out.put(JSONMessage(status=image.id))

    if origin == "-":
        flow = Inflow(source, asyncio.get_running_loop())
        return stream(lambda out: make(cast("BinaryIO", flow), out), "image import", flow.cancel)
    fetch = Fetch(origin, hosts(engine))

    def download(out: Outflow[JSONMessage]) -> None:
        with fetch.answer() as found:
            out.put(JSONMessage(status=f"Downloading from {fetch.url}"))
            make(cast("BinaryIO", _Told(found, out)), out)

    return stream(download, "image import", fetch.cancel)


class _Told:
    """What is downloaded, said while it is read."""

    def __init__(self, found: Download, out: Outflow[JSONMessage]) -> None:
        self._found = found
        self._out = out
        self._count = self._told = 0

    def read(self, size: int = -1, /) -> bytes:
        piece = self._found.read(size)
        self._count += len(piece)
        if self._count - self._told >= STEP or not piece:
            self._told, total = self._count, self._found.total
            shown = bar(self._count, total) if total else size_of(self._count)
            detail = ProgressDetail(current=self._count, total=total)
            self._out.put(JSONMessage(status="Importing", progress=shown, progress_detail=detail))
        return piece


# -- load -------------------------------------------------------------------------------------------------------------


async def load(
    engine: Engine, source: AsyncIterator[bytes], quiet: bool, platform: manifest.Platform | None = None
) -> AsyncIterator[JSONMessage]:
    """Every image of an archive, all or none; with a platform: those that are of it."""
    flow = Inflow(source, asyncio.get_running_loop())

    async def told(image: Image) -> None:
        event(engine, "load", image)

    loaded = on_loop(told)
    parallel, most = engine.config.max_concurrent_unpacks, engine.config.max_layers

    def work(out: Outflow[JSONMessage]) -> None:
        told: dict[str, int] = {}

        def progress(diff_id: str, count: int, total: int) -> None:
            if out.cancelled:
                raise Cancelled
            if quiet or (count < total and count - told.get(diff_id, 0) < STEP) or told.get(diff_id) == count:
                return
            told[diff_id] = count
            out.put(
                JSONMessage(
                    status="Loading layer",
                    id=diff_id[7:19],
                    progress=bar(count, total),
                    progress_detail=ProgressDetail(current=count, total=total),
                )
            )

        # Without a name: nothing is left of it, whatever ends this process.
        with tempfile.TemporaryFile(dir=engine.graph.scratch) as spool:
            for piece in limited(cast("BinaryIO", flow), replace(engine.graph.limits, size=0)):
                spool.write(piece)
            spool.flush()
            for found in loading.load(engine.graph, spool.fileno(), progress, parallel, most, platform):
                for name, before in found.moved:
                    out.put(
                        JSONMessage(
                            stream=f"The image {name.familiar} already exists, renaming the old one with ID {before} "
                            "to empty string\n"
                        )
                    )
                loaded(found.image)
                for name in found.names:
                    out.put(JSONMessage(stream=f"Loaded image: {name.familiar}\n"))
                if not found.names:
                    out.put(JSONMessage(stream=f"Loaded image ID: {found.image.id}\n"))

    return stream(work, "image load", flow.cancel)


# -- save -------------------------------------------------------------------------------------------------------------


async def save(engine: Engine, names: Sequence[str], platform: manifest.Platform | None = None) -> AsyncIterator[bytes]:
    """Images as one archive. platform: what each must be of. Raises NotFound before it begins."""
    if platform is not None:
        for name in names:
            find(engine, name, platform)
    chosen = await blocking(lambda: saving.choose(engine.graph, [_chosen(engine, name) for name in names]))
    for item in chosen:
        event(engine, "save", item.image)

    def work(out: Outflow[bytes]) -> None:
        pour(saving.save(engine.graph, chosen), out)

    return stream(work, "image save")


def _chosen(engine: Engine, name: str) -> tuple[str, Reference | None]:
    try:
        image = find(engine, name)
    except NoSuchImage:
        reference = parse(name)
        if reference.is_name_only:  # there may be other tags than "latest"
            for id, known in engine.graph.tags.all().items():
                if any(other.name == reference.name and other.digest is None for other in known):
                    return id, reference
            raise NotFound(f"No such image: {name}") from None
        raise NotFound("reference does not exist") from None
    return image.id, None if names_id(image.id, name) else parse(name)
