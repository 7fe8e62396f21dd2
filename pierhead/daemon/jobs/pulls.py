"""The pull job: registry → graph, with the messages that Docker's clients show.

Several layers come at a time, each unpacked and digested while it is downloaded, and take their places in the chain one
after the other.  Where the graph driver needs a layer's parent first (vfs) they wait in files without a name.
"""

import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import FileIO
from typing import TYPE_CHECKING, BinaryIO, cast

from pierhead import manifest
from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.jobs.pipes import Outflow, on_loop, stream
from pierhead.daemon.jobs.progress import bar, retrying
from pierhead.daemon.jobs.registries import credentials, hosts
from pierhead.errors import InvalidParameter, NotFound
from pierhead.graph.blobs import Blob
from pierhead.graph.content import Copied, write_all
from pierhead.graph.graph import Graph, Lease, Unpacked
from pierhead.graph.image import ConfigFile, chain_ids, digest_of, parse_config
from pierhead.graph.importing import host_architecture
from pierhead.manifest import Descriptor, Platform
from pierhead.reference import Reference, parse
from pierhead.wire.images import AuthConfig, JSONMessage, ProgressDetail

if TYPE_CHECKING:
    from pierhead.registry.client import Registry, Resolved

STEP = 512 << 10
PATIENCE = 0.5
"""Seconds after which a pull that waits for another one looks whether it is cancelled."""


async def pull(engine: Engine, reference: str, platform: str, auth: AuthConfig | None) -> AsyncIterator[JSONMessage]:
    """Fetch an image, of a name without tag or digest every tag. Raises InvalidParameter before anything is asked."""
    wanted = parse(reference.removesuffix(":"))
    if wanted.digest is not None:
        wanted = replace(wanted, tag=None)
    default = Platform("linux", host_architecture())
    target = manifest.parse_platform(platform, default)
    from pierhead.registry.client import Registry  # and urllib3 with it: 10 MB that a daemon without pulls saves

    registry = Registry(wanted, credentials(auth), hosts(engine))

    async def told(name: Reference) -> None:
        engine.events.publish("image", "pull", name.familiar, {"name": name.familiar_name})

    tell = on_loop(told)
    downloads, most = engine.config.max_concurrent_downloads, engine.config.max_layers

    def work(out: Outflow[JSONMessage]) -> None:
        with registry:
            tags = registry.tags() if wanted.is_name_only else []
            changed = False
            for one in [wanted.with_tag(tag) for tag in tags] or [wanted]:
                changed |= _Pull(engine.graph, registry, one, out, downloads, most).run(target, exact=bool(platform))
                tell(one)
            outcome = "Downloaded newer image" if changed else "Image is up to date"
            out.put(JSONMessage(status=f"Status: {outcome} for {wanted.familiar}"))

    return stream(work, "image pull", registry.cancel)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A layer that is not here. chain: its chain id."""

    blob: Descriptor
    diff_id: str
    chain: str


@dataclass(frozen=True, slots=True)
class _Arrived:
    """A layer that has come. unpacked: its files, where the driver takes them without the parent; file: its blob."""

    unpacked: Unpacked | None
    file: FileIO | None

    def close(self) -> None:
        """The blob is needed no more."""
        if self.file is not None:
            self.file.close()


class _Pull:
    """One image."""

    def __init__(
        self,
        graph: Graph,
        registry: "Registry",
        reference: Reference,
        out: Outflow[JSONMessage],
        downloads: int,
        most: int,
    ) -> None:
        self._downloads = downloads
        self._most = most
        self._graph = graph
        self._registry = registry
        self._reference = reference
        self._put = out.put
        self._verified: set[str] = set()
        """Blobs whose bytes had their digest and unpacked to their DiffID."""
        self._claimed: set[str] = set()
        """Layers that others wait for."""
        self._failing = threading.Lock()
        self._failed: BaseException | None = None
        """What went wrong first: the rest is only its consequence."""

    def run(self, platform: Platform, *, exact: bool) -> bool:
        """Everything; whether the name means something new now.

        Raises NotFound, InvalidParameter, RegistryError, OSError.
        """
        name = self._reference
        found = self._registry.resolve(name, platform)
        config = parse_config(found.config)
        if len(config.diff_ids) != len(found.manifest.layers):
            raise InvalidParameter("invalid image: its manifest and its configuration differ in the number of layers")
        if self._most and len(config.diff_ids) > self._most:
            raise InvalidParameter("max depth exceeded")
        if config.os != "linux":
            raise InvalidParameter(f'image operating system "{config.os}" cannot be used on this platform')
        if exact and (config.os, config.architecture) != (platform.os, platform.architecture):
            raise NotFound(
                f"image with reference {name.familiar} was found but does not provide the specified platform "
                f"({platform})"
            )
        self._put(JSONMessage(status=f"Pulling from {name.path}", id=name.tag or name.digest or ""))
        changed = self._store(found, config)
        self._put(JSONMessage(status=f"Digest: {found.digest}"))
        return changed

    def _store(self, found: "Resolved", config: ConfigFile) -> bool:
        """Layers, image, names; whether the name means something new."""
        graph, name = self._graph, self._reference
        with graph.lease() as lease:
            self._layers(lease, found.manifest.layers, config.diff_ids, whole=graph.has(digest_of(found.config)))
            with graph.db.transaction(durable=True):
                before = graph.tags.get(name)
                image = graph.put_image(found.config)
                graph.blobs.put_manifest(image.id, found.descriptor.digest, found.descriptor.media_type, found.document)
                graph.tags.set(name.with_digest(found.digest), image.id)
                if name.tag is not None:
                    graph.tags.set(name, image.id)
                for diff_id, blob in zip(config.diff_ids, found.manifest.layers, strict=True):
                    seen = Blob(blob.digest, blob.size, blob.media_type, name.name)
                    if blob.digest in self._verified:
                        graph.blobs.add(diff_id, seen)
                    else:
                        graph.blobs.claimed(diff_id, seen)
        return before != image.id

    def _layers(self, lease: Lease, blobs: tuple[Descriptor, ...], diff_ids: list[str], *, whole: bool) -> None:
        """whole: the image is here already; then nothing is said of its layers."""
        parent: str | None = None
        at = 0
        for diff_id in diff_ids:
            layer = lease.find(diff_id, parent)
            if layer is None:
                break
            if not whole:
                self._status(blobs[at], "Already exists")
            parent = layer.chain_id
            at += 1
        wanted = [
            _Wanted(blob, diff_id, chain)
            for blob, diff_id, chain in zip(blobs[at:], diff_ids[at:], chain_ids(diff_ids)[at:], strict=True)
        ]
        for one in wanted:
            self._status(one.blob, "Pulling fs layer")
        with ThreadPoolExecutor(self._downloads, "layer download") as pool:
            coming = [pool.submit(self._fetch, lease, one) for one in wanted]
            try:
                for one, arrived in zip(wanted, coming, strict=True):
                    self._settle(lease, one, parent, arrived.result())
                    parent = one.chain
            except BaseException:
                self._registry.cancel()
                if self._failed is not None:
                    raise self._failed from None
                raise
            finally:
                for left in coming:
                    if not left.cancel() and left.exception() is None and (unused := left.result()) is not None:
                        unused.close()
                for chain in tuple(self._claimed):
                    self._release(chain)

    def _fetch(self, lease: Lease, one: "_Wanted") -> "_Arrived | None":
        """In a thread of its own; None where another pull has got the layer."""
        try:
            return self._come(lease, one) if self._claim(lease, one) else None
        except BaseException as error:
            with self._failing:
                self._failed = self._failed or error
            self._registry.cancel()
            raise

    def _claim(self, lease: Lease, one: "_Wanted") -> bool:
        """Whether this pull is to fetch a layer; else another one has done so. Raises RegistryError when cancelled."""
        while (other := self._graph.claims.take(one.chain)) is not None:
            self._status(one.blob, "Waiting")
            while not other.wait(PATIENCE):
                self._registry.check_cancelled()
        self._claimed.add(one.chain)
        if lease.find_chain(one.chain) is None:
            return True
        self._release(one.chain)
        return False

    def _release(self, chain: str) -> None:
        self._claimed.discard(chain)
        self._graph.claims.release(chain)

    def _come(self, lease: Lease, one: "_Wanted") -> "_Arrived":
        """In one pass: downloaded, digested, decompressed, unpacked, and its blob kept."""
        content = self._graph.content
        stacks = self._graph.driver.stacks
        file = content.open(one.blob.digest)  # of another layer with the same content
        if file is None and not stacks:
            file = self._download(one.blob)
        if file is not None:
            if not stacks:
                return _Arrived(None, file)
            with file:
                return _Arrived(lease.unpack(cast("BinaryIO", file), one.diff_id, size=one.blob.size), None)
        source = self._registry.blob(one.blob, self._bar(one.blob, "Downloading"), self._retrying(one.blob))
        copy = content.begin() if content.keeps else None
        try:
            reading = source if copy is None else Copied(cast("BinaryIO", source), copy)
            unpacked = lease.unpack(cast("BinaryIO", reading), one.diff_id, source.check, one.blob.size)
        except BaseException:
            if copy is not None:
                copy.close()
            raise
        finally:
            source.close()
        self._status(one.blob, "Download complete")
        return _Arrived(unpacked, copy)

    def _settle(self, lease: Lease, one: "_Wanted", parent: str | None, arrived: "_Arrived | None") -> None:
        """The layer is one from here on; its parent is."""
        if arrived is not None:
            blob, file = one.blob, arrived.file
            verified = True
            if arrived.unpacked is not None:
                lease.stack(arrived.unpacked, parent)
            elif file is not None:
                file.seek(0)
                reading = _Counting(file, self._bar(blob, "Extracting"))
                lease.register(cast("BinaryIO", reading), parent, one.diff_id, size=blob.size)
                verified = reading.count > 0  # else it has come from elsewhere meanwhile
            if verified:
                self._verified.add(blob.digest)
                if file is not None and os.fstat(file.fileno()).st_size == blob.size:
                    self._graph.content.keep(file, blob.digest, one.diff_id, blob.media_type)
            arrived.close()
        if one.chain in self._claimed:
            self._release(one.chain)
        self._status(one.blob, "Pull complete")

    def _download(self, blob: Descriptor) -> FileIO:
        """A blob in a file without a name, verified."""
        file = self._graph.content.begin()
        try:
            source = self._registry.blob(blob, self._bar(blob, "Downloading"), self._retrying(blob))
            try:
                while piece := source.read():
                    write_all(file, piece)
                self._status(blob, "Verifying Checksum")
                source.check()
            finally:
                source.close()
        except BaseException:
            file.close()
            raise
        self._status(blob, "Download complete")
        return file

    def _status(self, blob: Descriptor, status: str) -> None:
        self._put(JSONMessage(status=status, progress_detail=ProgressDetail(), id=blob.digest[7:19]))

    def _retrying(self, blob: Descriptor) -> Callable[[float], None]:
        return lambda seconds: self._status(blob, retrying(seconds))

    def _bar(self, blob: Descriptor, status: str) -> Callable[[int], None]:
        """Tell how far a layer is, now and then."""
        last = 0

        def tell(count: int) -> None:
            nonlocal last
            if count - last >= STEP or count == blob.size:
                last = count
                self._put(
                    JSONMessage(
                        status=status,
                        progress_detail=ProgressDetail(current=count, total=blob.size),
                        progress=bar(count, blob.size),
                        id=blob.digest[7:19],
                    )
                )

        return tell


class _Counting:
    """A file that says how much of it was read."""

    def __init__(self, file: FileIO, tell: Callable[[int], None]) -> None:
        self._file = file
        self._tell = tell
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        """As the file's."""
        piece = self._file.read(size)
        if piece:
            self.count += len(piece)
            self._tell(self.count)
        return piece
