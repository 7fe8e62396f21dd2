"""The push job: graph → registry, with the messages that Docker's clients show.

What a layer's blob was when it came is remembered (``graph.blobs``), so that the same blob is pushed back; any other
layer is compressed into a file without a name, always to the same bytes.
"""

import json
import tempfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from typing import IO, TYPE_CHECKING, BinaryIO, cast

import msgspec
from isal import isal_zlib

from pierhead import manifest
from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.jobs.pipes import Cancelled, Outflow, on_loop, stream
from pierhead.daemon.jobs.progress import bar, retrying
from pierhead.daemon.jobs.registries import credentials, hosts
from pierhead.errors import InvalidParameter, NotFound
from pierhead.graph.blobs import Blob
from pierhead.graph.graph import Graph, Image, Layer
from pierhead.graph.image import digest_of
from pierhead.manifest import Platform
from pierhead.reference import Reference, parse
from pierhead.wire.images import AuthConfig, JSONMessage, ProgressDetail

if TYPE_CHECKING:
    from pierhead.registry.upload import Uploads

CHECKS = 3
"""How many blobs of other registries a layer is looked for as, before it is compressed."""
SOURCES = 4
"""How many repositories are mounted from at most: each is a scope of the token."""
STEP = 512 << 10
LEVEL = 2


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

    def work(out: Outflow[JSONMessage]) -> None:
        out.put(JSONMessage(status=f"The push refers to repository [{reference.name}]"))
        chosen = _chosen(graph, reference)
        session.connect()
        try:
            for one, id in chosen:
                _Push(graph, uploads, one, out, session.cancel, parallel).run(graph.image(id), platform)
                tell(one)
        finally:
            session.close()

    return stream(work, "image push", session.cancel)


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


class _Push:
    """One tag."""

    def __init__(
        self,
        graph: Graph,
        uploads: "Uploads",
        reference: Reference,
        out: Outflow[JSONMessage],
        cancel: Callable[[], None],
        parallel: int,
    ) -> None:
        self._parallel = parallel
        self._graph = graph
        self._uploads = uploads
        self._reference = reference
        self._put = out.put
        self._out = out
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
            document, kind = _manifest(config, [blobs[layer.diff_id] for layer in chain])
            digest = digest_of(document)
            self._uploads.manifest(name.tag or "latest", document, kind, digest)
            graph.tags.set(name.with_digest(digest), image.id)
        self._put(JSONMessage(status=f"{name.tag}: digest: {digest} size: {len(document)}"))
        aux = msgspec.Raw(msgspec.json.encode({"Tag": name.tag, "Digest": digest, "Size": len(document)}))
        self._put(JSONMessage(progress_detail=ProgressDetail(), aux=aux))

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
        diff_id = layer.diff_id
        known, location = self._known(diff_id)
        if known is None:
            with tempfile.TemporaryFile(dir=self._graph.scratch) as file:
                digest, size = self._compress(layer, file)
                known = Blob(digest, size, manifest.DOCKER_LAYER_GZIP, self._reference.name)
                if self._uploads.exists(digest):
                    self._status(diff_id, "Layer already exists")
                else:
                    self._upload(file, known, diff_id, location)
                    self._status(diff_id, "Pushed")
        self._graph.blobs.add(diff_id, known)
        return known

    def _known(self, diff_id: str) -> tuple[Blob | None, str]:
        """A blob that the layer was before, if the repository has it or gets it from another; else where to upload."""
        here = self._reference.name
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

    def _compress(self, layer: Layer, file: IO[bytes]) -> tuple[str, int]:
        """Its archive as gzip without name and time, so that the same layer is always the same blob: digest, size."""
        digest = sha256()
        size = 0
        compressor = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, 16 + 15)
        for piece in self._graph.archive(layer):
            if self._out.cancelled:
                raise Cancelled
            packed = compressor.compress(piece)
            digest.update(packed)
            size += file.write(packed)
        packed = compressor.flush()
        digest.update(packed)
        size += file.write(packed)
        file.flush()
        return "sha256:" + digest.hexdigest(), size

    def _upload(self, file: IO[bytes], blob: Blob, diff_id: str, location: str) -> None:
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
