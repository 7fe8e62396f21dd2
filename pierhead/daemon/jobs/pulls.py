"""The pull job: registry → graph, with the messages that Docker's clients show.

Layers are unpacked in order. The first is unpacked while it is downloaded; those after it are downloaded at the same
time, into files without a name.
"""

import tempfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, BinaryIO, cast

from pierhead import manifest
from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.jobs.pipes import Outflow, on_loop, stream
from pierhead.daemon.jobs.progress import bar, retrying
from pierhead.daemon.jobs.registries import credentials, hosts
from pierhead.errors import InvalidParameter, NotFound
from pierhead.graph.blobs import Blob
from pierhead.graph.graph import Graph, Lease
from pierhead.graph.image import ConfigFile, chain_ids, parse_config
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
    downloads = engine.config.max_concurrent_downloads

    def work(out: Outflow[JSONMessage]) -> None:
        with registry:
            tags = registry.tags() if wanted.is_name_only else []
            for one in [wanted.with_tag(tag) for tag in tags] or [wanted]:
                _Pull(engine.graph, registry, one, out, downloads).run(target, exact=bool(platform))
                tell(one)

    return stream(work, "image pull", registry.cancel)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A layer that is not here. chain: its chain id."""

    blob: Descriptor
    diff_id: str
    chain: str


class _Pull:
    """One image."""

    def __init__(
        self,
        graph: Graph,
        registry: "Registry",
        reference: Reference,
        out: Outflow[JSONMessage],
        downloads: int,
    ) -> None:
        self._downloads = downloads
        self._graph = graph
        self._registry = registry
        self._reference = reference
        self._put = out.put
        self._verified: set[str] = set()
        """Blobs whose bytes had their digest and unpacked to their DiffID."""
        self._claimed: list[str] = []
        """Layers that others wait for."""

    def run(self, platform: Platform, *, exact: bool) -> None:
        """Everything, to the last message. Raises NotFound, InvalidParameter, RegistryError, OSError."""
        name = self._reference
        found = self._registry.resolve(name, platform)
        config = parse_config(found.config)
        if len(config.diff_ids) != len(found.manifest.layers):
            raise InvalidParameter("invalid image: its manifest and its configuration differ in the number of layers")
        if exact and (config.os, config.architecture) != (platform.os, platform.architecture):
            raise NotFound(
                f"image with reference {name.familiar} was found but does not provide the specified platform "
                f"({platform})"
            )
        self._put(JSONMessage(status=f"Pulling from {name.path}", id=name.tag or name.digest or ""))
        changed = self._store(found, config)
        self._put(JSONMessage(status=f"Digest: {found.digest}"))
        outcome = "Downloaded newer image" if changed else "Image is up to date"
        self._put(JSONMessage(status=f"Status: {outcome} for {name.familiar}"))

    def _store(self, found: "Resolved", config: ConfigFile) -> bool:
        """Layers, image, names; whether the name means something new."""
        graph, name = self._graph, self._reference
        with graph.lease() as lease:
            self._layers(lease, found.manifest.layers, config.diff_ids)
            with graph.db.transaction(durable=True):
                before = graph.tags.get(name)
                image = graph.put_image(found.config)
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

    def _layers(self, lease: Lease, blobs: tuple[Descriptor, ...], diff_ids: list[str]) -> None:
        parent: str | None = None
        at = 0
        for diff_id in diff_ids:
            layer = lease.find(diff_id, parent)
            if layer is None:
                break
            self._status(blobs[at], "Already exists")
            parent = layer.chain_id
            at += 1
        wanted = [
            _Wanted(blob, diff_id, chain)
            for blob, diff_id, chain in zip(blobs[at:], diff_ids[at:], chain_ids(diff_ids)[at:], strict=True)
        ]
        for one in wanted:
            self._status(one.blob, "Pulling fs layer")
        # The layer that is next is unpacked while it comes; those after it wait in files.
        ahead = wanted[1:] if self._downloads > 1 else []
        with ThreadPoolExecutor(max(1, self._downloads - 1), "layer download") as pool:
            spools: list[Future[IO[bytes] | None]] = []
            try:
                for one in ahead:
                    spools.append(pool.submit(self._spool, lease, one))
                for index, one in enumerate(wanted):
                    parent = self._unpack(lease, one, parent, spools[index - 1] if index and ahead else None)
            except BaseException:
                self._registry.cancel()
                raise
            finally:
                for left in spools:
                    left.cancel()
                    if not left.cancelled() and left.exception() is None and (file := left.result()) is not None:
                        file.close()
                for chain in self._claimed:
                    self._graph.claims.release(chain)
                self._claimed.clear()

    def _claim(self, lease: Lease, one: "_Wanted") -> bool:
        """Whether this pull is to fetch a layer; else another one has done so. Raises RegistryError when cancelled."""
        while (other := self._graph.claims.take(one.chain)) is not None:
            self._status(one.blob, "Waiting")
            while not other.wait(PATIENCE):
                self._registry.check_cancelled()
            if lease.find_chain(one.chain) is not None:
                return False
        self._claimed.append(one.chain)
        return True

    def _unpack(
        self, lease: Lease, one: "_Wanted", parent: str | None, spool: "Future[IO[bytes] | None] | None"
    ) -> str:
        blob = one.blob
        read = 0
        if spool is not None:
            file = spool.result()
            if file is not None:
                with file:
                    file.seek(0)
                    reading = _Counting(file, self._bar(blob, "Extracting"))
                    lease.register(cast("BinaryIO", reading), parent, one.diff_id)
                    read = reading.count
        elif self._claim(lease, one):
            source = self._registry.blob(blob, self._bar(blob, "Downloading"), self._retrying(blob))
            try:
                lease.register(cast("BinaryIO", source), parent, one.diff_id, source.check)
                read = source.count
            finally:
                source.close()
            self._status(blob, "Download complete")
        if read:  # else another pull was quicker
            self._verified.add(blob.digest)
        if one.chain in self._claimed:
            self._claimed.remove(one.chain)
            self._graph.claims.release(one.chain)
        self._status(blob, "Pull complete")
        return one.chain

    def _spool(self, lease: Lease, one: "_Wanted") -> IO[bytes] | None:
        return self._download(one.blob) if self._claim(lease, one) else None

    def _download(self, blob: Descriptor) -> IO[bytes]:
        """A blob in a file without a name, verified."""
        file = tempfile.TemporaryFile(dir=self._graph.scratch)  # closed by who unpacks it
        try:
            source = self._registry.blob(blob, self._bar(blob, "Downloading"), self._retrying(blob))
            try:
                while piece := source.read():
                    file.write(piece)
                self._status(blob, "Verifying Checksum")
                source.check()
            finally:
                source.close()
            file.flush()
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

    def __init__(self, file: IO[bytes], tell: Callable[[int], None]) -> None:
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
