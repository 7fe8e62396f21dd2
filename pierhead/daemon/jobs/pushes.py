"""The push job: graph → registry, with the messages that Docker's clients show.

What a layer's blob was when it came is remembered (``graph.blobs``), and the blob itself kept (``graph.content``) or
fetched again, so that the same blobs are pushed, with the manifest that they came with; any other layer is compressed
into a file without a name, always to the same bytes.
"""

import json
import logging
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from io import FileIO
from typing import TYPE_CHECKING, BinaryIO, cast

import msgspec
from isal import isal_zlib

from pierhead import manifest
from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.jobs.pipes import Cancelled, Outflow, on_loop, stream
from pierhead.daemon.jobs.progress import bar, retrying
from pierhead.daemon.jobs.registries import credentials, hosts
from pierhead.errors import InvalidParameter, NotFound, PierheadError
from pierhead.graph.blobs import Blob
from pierhead.graph.content import write_all
from pierhead.graph.graph import Graph, Image, Layer
from pierhead.graph.image import digest_of
from pierhead.manifest import Descriptor, Platform
from pierhead.reference import Reference, parse
from pierhead.registry.auth import Credentials
from pierhead.registry.hosts import Hosts
from pierhead.wire.images import AuthConfig, JSONMessage, ProgressDetail

if TYPE_CHECKING:
    from pierhead.registry.client import Registry
    from pierhead.registry.upload import Uploads

CHECKS = 3
"""How many blobs of other registries a layer is looked for as, before it is compressed."""
SOURCES = 4
"""How many repositories are mounted from at most: each is a scope of the token."""
STEP = 512 << 10
LEVEL = 2

log = logging.getLogger("pierd")


async def push(
    engine: Engine, name: str, tag: str, platform: Platform | None, auth: AuthConfig | None
) -> AsyncIterator[JSONMessage]:
    """Upload an image, of a name without a tag every tag. Raises InvalidParameter before anything is asked."""
    reference = parse(name)
    if tag:
        reference = replace(reference, tag=None, digest=None).with_tag(tag)
    elif reference.digest is not None:
        raise InvalidParameter("cannot push a digest reference")
    from pierhead.registry.repository import Repository  # urllib3 with it: memory that most daemons save
    from pierhead.registry.session import Session
    from pierhead.registry.upload import Uploads

    graph = engine.graph
    parallel = engine.config.max_concurrent_uploads
    scopes = [f"repository:{reference.path}:pull,push"]
    scopes += [f"repository:{source}:pull" for source in _sources(graph, reference)]
    session = Session(reference.domain, credentials(auth), hosts(engine), tuple(scopes))
    uploads = Uploads(Repository(session, reference))

    async def told(one: Reference) -> None:
        engine.events.publish("image", "push", one.familiar, {"name": one.familiar_name})

    tell = on_loop(told)
    elsewhere = _Elsewhere(reference.domain, credentials(auth), hosts(engine))

    def cancel() -> None:
        session.cancel()
        elsewhere.cancel()

    def work(out: Outflow[JSONMessage]) -> None:
        out.put(JSONMessage(status=f"The push refers to repository [{reference.name}]"))
        chosen = _chosen(graph, reference)
        session.connect()
        try:
            for one, id in chosen:
                _Push(graph, uploads, one, out, elsewhere.fetch, cancel, parallel).run(graph.image(id), platform)
                tell(one)
        finally:
            session.close()

    return stream(work, "image push", cancel)


def _chosen(graph: Graph, reference: Reference) -> list[tuple[Reference, str]]:
    """The tags that are to be pushed, and their images. Raises NotFound."""
    here = [
        (name, id)
        for id, names in graph.tags.all().items()
        for name in names
        if name.name == reference.name and name.digest is None
    ]
    if not here:
        raise NotFound(f"An image does not exist locally with the tag: {reference.familiar_name}")
    if reference.is_name_only:
        return sorted(here, key=lambda pair: str(pair[0]))
    chosen = [(name, id) for name, id in here if name.tag == reference.tag]
    if not chosen:
        raise NotFound(f"tag does not exist: {reference.familiar}")
    return chosen


def _sources(graph: Graph, reference: Reference) -> list[str]:
    """Other repositories of the same registry that have layers of what is pushed."""
    found: dict[str, None] = {}
    try:
        chosen = _chosen(graph, reference)
    except NotFound:
        return []
    for _, id in chosen:
        for layer in graph.chain(graph.image(id)):
            for blob in graph.blobs.of(layer.diff_id):
                domain, _, path = blob.repository.partition("/")
                if domain == reference.domain and path != reference.path:
                    found[path] = None
    return list(found)[:SOURCES]


class _Elsewhere:
    """Where blobs came from that are not kept. Other registries than the one that is pushed to get no credentials."""

    def __init__(self, domain: str, credentials: Credentials | None, hosts: Hosts) -> None:
        self._domain = domain
        self._credentials = credentials
        self._hosts = hosts
        self._lock = threading.Lock()
        self._under_way: set[Registry] = set()
        self._cancelled = False

    def fetch(self, blob: Blob, file: FileIO) -> bool:
        """Get a blob into a file, verified; whether that has worked. Raises Cancelled."""
        from pierhead.registry.client import Registry

        reference = parse(blob.repository)
        known = self._credentials if reference.domain == self._domain else None
        registry = Registry(reference, known, self._hosts)
        with self._lock:
            self._under_way.add(registry)
        try:
            if self._cancelled:
                raise Cancelled
            with registry:
                source = registry.blob(Descriptor(blob.media_type, blob.digest, blob.size), lambda count: None)
                try:
                    while piece := source.read():
                        write_all(file, piece)
                    source.check()
                finally:
                    source.close()
            return True
        except PierheadError as error:
            if self._cancelled:
                raise Cancelled from error
            log.info("blob %s cannot be fetched from %s: %s", blob.digest, blob.repository, error)
            return False
        finally:
            with self._lock:
                self._under_way.discard(registry)

    def cancel(self) -> None:
        """From another thread: end every transfer."""
        with self._lock:
            self._cancelled = True
            for registry in self._under_way:
                registry.cancel()


Fetch = Callable[[Blob, FileIO], bool]


class _Push:
    """One tag."""

    def __init__(
        self,
        graph: Graph,
        uploads: "Uploads",
        reference: Reference,
        out: Outflow[JSONMessage],
        fetch: "Fetch",
        cancel: Callable[[], None],
        parallel: int,
    ) -> None:
        self._parallel = parallel
        self._graph = graph
        self._uploads = uploads
        self._reference = reference
        self._here = reference.name
        self._put = out.put
        self._out = out
        self._fetch = fetch
        self._cancel = cancel

    def run(self, image: Image, platform: Platform | None) -> None:
        """Layers, configuration, manifest. Raises NotFound, RegistryError, Unauthorized, Forbidden, OSError."""
        graph, name = self._graph, self._reference
        own = Platform(image.config.os or "", image.config.architecture or "", image.config.variant or "")
        if platform is not None and (platform.os, platform.architecture) != (own.os, own.architecture):
            raise NotFound(
                f"image with reference {name.familiar} was found but does not provide the specified platform "
                f"({platform})"
            )
        with graph.lease() as lease:
            chain = graph.chain(image)
            for layer in chain:
                lease.find(layer.diff_id, layer.parent)
            blobs = self._layers(chain)
            config = self._config(image.raw)
            parts = [blobs[layer.diff_id] for layer in chain]
            document, kind = self._as_pulled(image, parts) or _manifest(config, parts)
            digest = digest_of(document)
            self._uploads.manifest(name.tag or "latest", document, kind, digest)
            graph.tags.set(name.with_digest(digest), image.id)
        self._put(JSONMessage(status=f"{name.tag}: digest: {digest} size: {len(document)}"))
        aux = msgspec.Raw(msgspec.json.encode({"Tag": name.tag, "Digest": digest, "Size": len(document)}))
        self._put(JSONMessage(progress_detail=ProgressDetail(), aux=aux))

    def _as_pulled(self, image: Image, layers: list[Blob]) -> tuple[bytes, str] | None:
        """The manifest that the image was pulled with, if it names these very blobs."""
        wanted = [(layer.digest, layer.size) for layer in layers]
        for document, kind in self._graph.blobs.manifests(image.id):
            found = manifest.parse(document, kind)
            if isinstance(found, manifest.Manifest) and [(one.digest, one.size) for one in found.layers] == wanted:
                return document, kind
        return None

    def _layers(self, chain: list[Layer]) -> dict[str, Blob]:
        """Every layer's blob in the repository, by DiffID; the topmost goes first, as in Docker."""
        layers = {layer.diff_id: layer for layer in reversed(chain)}
        for diff_id in layers:
            self._status(diff_id, "Preparing")
        with ThreadPoolExecutor(self._parallel, "layer upload") as pool:
            pushed = {diff_id: pool.submit(self._layer, layer) for diff_id, layer in layers.items()}
            try:
                return {diff_id: one.result() for diff_id, one in pushed.items()}
            except BaseException:
                self._cancel()
                for one in pushed.values():
                    one.cancel()
                raise

    def _layer(self, layer: Layer) -> Blob:
        known, location = self._known(layer.diff_id)
        if known is None:
            known = self._send(layer, location)
        self._graph.blobs.add(layer.diff_id, known)
        return known

    def _send(self, layer: Layer, location: str) -> Blob:
        """The blob that the layer came as: kept, or fetched from where it came; else a new one."""
        diff_id = layer.diff_id
        for kept in self._graph.content.of(diff_id):
            if (file := self._graph.content.open(kept.digest)) is not None:
                with file:
                    return self._put_file(file, kept.digest, kept.size, kept.media_type, diff_id, location)
        came = [blob for blob in self._graph.blobs.of(diff_id) if blob.verified and blob.repository != self._here]
        for blob in came[:CHECKS]:
            with self._graph.content.begin() as file:
                self._status(diff_id, f"Fetching from {blob.repository}")
                if self._fetch(blob, file):
                    self._graph.content.keep(file, blob.digest, diff_id, blob.media_type)
                    return self._put_file(file, blob.digest, blob.size, blob.media_type, diff_id, location)
        if came:
            self._status(diff_id, "Compressing: the blob that was pulled is not to be had, this will be another one")
        with self._graph.content.begin() as file:
            digest, size = self._compress(layer, file)
            return self._put_file(file, digest, size, manifest.DOCKER_LAYER_GZIP, diff_id, location)

    def _put_file(self, file: FileIO, digest: str, size: int, kind: str, diff_id: str, location: str) -> Blob:
        blob = Blob(digest, size, kind, self._here)
        if self._uploads.exists(digest):
            self._status(diff_id, "Layer already exists")
        else:
            self._upload(file, blob, diff_id, location)
            self._status(diff_id, "Pushed")
        return blob

    def _known(self, diff_id: str) -> tuple[Blob | None, str]:
        """A blob that the layer was before, if the repository has it or gets it from another; else where to upload."""
        here = self._here
        domain = self._reference.domain
        blobs = [blob for blob in self._graph.blobs.of(diff_id) if blob.verified or blob.repository == here]
        blobs.sort(key=lambda blob: blob.repository != here)
        near = [blob for blob in blobs if blob.repository.partition("/")[0] == domain]
        far = [blob for blob in blobs if blob not in near]
        seen: set[str] = set()
        for blob in [*near, *far[:CHECKS]]:
            if blob.digest in seen:
                continue
            seen.add(blob.digest)
            if self._uploads.exists(blob.digest):
                self._status(diff_id, "Layer already exists")
                return replace(blob, repository=here), ""
            if blob.repository == here:
                self._graph.blobs.forget(diff_id, blob)
        for blob in near:
            source = blob.repository.partition("/")[2]
            if blob.repository == here:
                continue
            mounted, location = self._uploads.mount(blob.digest, source)
            if mounted:
                self._status(diff_id, f"Mounted from {source}")
                return replace(blob, repository=here), ""
            if location:
                return None, location
        return None, ""

    def _compress(self, layer: Layer, file: FileIO) -> tuple[str, int]:
        """Its archive as gzip without name and time, so that the same layer is always the same blob: digest, size."""
        digest = sha256()
        size = 0
        compressor = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, 16 + 15)
        for piece in self._graph.archive(layer):
            if self._out.cancelled:
                raise Cancelled
            packed = compressor.compress(piece)
            digest.update(packed)
            write_all(file, packed)
            size += len(packed)
        packed = compressor.flush()
        digest.update(packed)
        write_all(file, packed)
        size += len(packed)
        return "sha256:" + digest.hexdigest(), size

    def _upload(self, file: FileIO, blob: Blob, diff_id: str, location: str) -> None:
        last = 0

        def tell(sent: int) -> None:
            nonlocal last
            if sent - last >= STEP or sent == blob.size or sent < last:
                last = sent
                detail = ProgressDetail(current=sent, total=blob.size)
                progress = bar(sent, blob.size)
                self._put(JSONMessage(status="Pushing", progress_detail=detail, progress=progress, id=diff_id[7:19]))

        def again(seconds: float) -> None:
            self._status(diff_id, retrying(seconds))

        self._uploads.put(cast("BinaryIO", file), blob.digest, blob.size, tell, again, location)

    def _config(self, raw: bytes) -> Blob:
        blob = Blob(digest_of(raw), len(raw), manifest.DOCKER_CONFIG, self._reference.name)
        if not self._uploads.exists(blob.digest):
            with tempfile.TemporaryFile(dir=self._graph.scratch) as file:
                file.write(raw)
                file.flush()
                self._uploads.put(
                    cast("BinaryIO", file), blob.digest, blob.size, lambda sent: None, lambda seconds: None
                )
        return blob

    def _status(self, diff_id: str, status: str) -> None:
        self._put(JSONMessage(status=status, progress_detail=ProgressDetail(), id=diff_id[7:19]))


def _manifest(config: Blob, layers: list[Blob]) -> tuple[bytes, str]:
    """The manifest and its media type: Docker's schema 2, laid out as Docker does; the OCI's for layers of zstd."""
    oci = any(layer.media_type.endswith("zstd") for layer in layers)

    def descriptor(blob: Blob, kind: str) -> dict[str, object]:
        return {"mediaType": kind, "size": blob.size, "digest": blob.digest}

    def layer_kind(media_type: str) -> str:
        compressed = media_type.endswith("gzip")
        if oci:
            return media_type if media_type.endswith("zstd") else manifest.OCI_LAYER + ("+gzip" if compressed else "")
        return manifest.DOCKER_LAYER_GZIP if compressed else manifest.DOCKER_LAYER

    kind = manifest.OCI_MANIFEST if oci else manifest.DOCKER_MANIFEST
    document = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": descriptor(config, manifest.OCI_CONFIG if oci else manifest.DOCKER_CONFIG),
        "layers": [descriptor(layer, layer_kind(layer.media_type)) for layer in layers],
    }
    return json.dumps(document, indent=3).encode(), kind
