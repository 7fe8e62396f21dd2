"""``docker load``: the images of an archive, docker-save's or an OCI layout, checked to the last byte beforehand.

manifest.json (docker save) is preferred where both are present, as Docker 25 and later write them.
"""

import os
import posixpath
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from io import FileIO, RawIOBase
from typing import BinaryIO, cast

import msgspec

from pierhead import manifest
from pierhead.errors import InvalidParameter
from pierhead.graph.bundle import Bundle
from pierhead.graph.content import Copied
from pierhead.graph.graph import Graph, Image, Lease, Unpacked
from pierhead.graph.image import CONFIG_LIMIT, chain_id, digest_of, follows, parse_config
from pierhead.graph.importing import host_architecture
from pierhead.graph.stream import SNIFF, sniff
from pierhead.reference import Reference, parse

MAX_IMAGES = 1000
MANIFEST_LIMIT = 16 << 20

_BLOB = re.compile(r"(?:.*/)?blobs/sha256/([0-9a-f]{64})")
_HEX = re.compile(r"([0-9a-f]{64})(?:\.json)?")
_KINDS = {"gzip": manifest.DOCKER_LAYER_GZIP, "zstd": manifest.OCI_LAYER + "+zstd"}
"""Compressions that a registry has a media type for."""
_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"


class _Saved(msgspec.Struct, rename="pascal"):
    """One element of manifest.json."""

    config: str
    layers: list[str] | None = None
    repo_tags: list[str] | None = None
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """An image of the archive: where its parts are, and what they must be. parent: the id of one, "" where none is."""

    config: bytes
    layers: tuple[str, ...]
    sizes: tuple[int | None, ...]
    names: tuple[Reference, ...]
    parent: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of it. moved: its names that were another image's until now, with that image's id."""

    image: Image
    names: tuple[Reference, ...]
    moved: tuple[tuple[Reference, str], ...]


Progress = Callable[[str, int, int], None]
"""Told: DiffID, bytes read of the layer, bytes in all."""


class _Checked(RawIOBase):
    """A blob that must have a digest; what was read is digested on the way."""

    def __init__(self, part: RawIOBase, tell: Callable[[int], None], digest: str | None) -> None:
        super().__init__()
        self._part = part
        self._tell = tell
        self._digest = sha256() if digest else None
        self._wanted = digest
        self._count = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        piece = self._part.read(size)
        if self._digest is not None:
            self._digest.update(piece)
        self._count += len(piece)
        self._tell(self._count)
        return piece

    def check(self) -> None:
        """Raises InvalidParameter if the blob was another."""
        while self.read():
            pass
        if self._digest is not None and self._digest.hexdigest() != self._wanted:
            raise InvalidParameter(f"invalid archive: blob sha256:{self._wanted} has another digest")


def load(
    graph: Graph,
    fd: int,
    progress: Progress,
    parallel: int = 1,
    most: int = 0,
    platform: manifest.Platform | None = None,
) -> list[Loaded]:
    """Load every image of the archive in a file. Raises InvalidParameter; then nothing has changed.

    parallel: how many layers are unpacked at a time, where the driver can.  most: how many an image may have; 0: any.
    platform: images of other ones are passed over, of an index that one is taken.
    """
    bundle = Bundle(fd)
    if "manifest.json" in bundle:
        found = _docker(bundle)
    elif "index.json" in bundle:
        found = _oci(bundle, platform or manifest.Platform("linux", host_architecture()))
    else:
        raise InvalidParameter("invalid archive: it has neither manifest.json nor index.json")
    if not found:
        raise InvalidParameter("invalid archive: no image in it")
    if platform is not None:
        found = [image for image in found if _is_of(image, platform)]
    for image in found:
        if (system := parse_config(image.config).os) != "linux":
            raise InvalidParameter(f"cannot load {system} image on linux")
    if most and any(len(image.layers) > most for image in found):
        raise InvalidParameter("max depth exceeded")
    parents = _parents(found)
    with graph.lease() as lease:
        _Unpacking(graph, lease, bundle, progress, parallel).run(_planned(bundle, found))
        with graph.db.transaction(durable=True):
            loaded = [_commit(graph, image) for image in found]
            for id, parent in parents.items():
                graph.set_parent(id, parent)
            return loaded


def _parents(found: list[Found]) -> dict[str, str]:
    """Which image of the archive was committed from which other one of it. Raises InvalidParameter for a lie."""
    images = {digest_of(image.config): image for image in found}
    parents = {}
    for id, image in images.items():
        if image.parent == id or image.parent not in images:
            continue
        if not follows(parse_config(image.config), parse_config(images[image.parent].config)):
            raise InvalidParameter(f"image {image.parent} is not a valid parent for {id}")
        parents[id] = image.parent
    return parents


def _commit(graph: Graph, found: Found) -> Loaded:
    image = graph.put_image(found.config)
    moved = []
    for name in found.names:
        before = graph.tags.set(name, image.id)
        if before is not None:
            moved.append((name, before))
    return Loaded(image, found.names, tuple(moved))


@dataclass(frozen=True, slots=True)
class _Planned:
    """A layer of the archive. parent: chain id; blob: the digest that its bytes must have, "" where it is the DiffID.

    total: bytes in the archive.
    """

    diff_id: str
    parent: str | None
    path: str
    total: int
    blob: str


def _planned(bundle: Bundle, found: list[Found]) -> dict[str, _Planned]:
    """Every layer once, by its chain id, parents first. Raises InvalidParameter."""
    planned: dict[str, _Planned] = {}
    for image in found:
        parent: str | None = None
        for diff_id, path, size in zip(parse_config(image.config).diff_ids, image.layers, image.sizes, strict=True):
            total = bundle.size(path)
            if size is not None and size != total:
                raise InvalidParameter(f"invalid archive: {path} has {total} bytes, its descriptor says {size}")
            chain = chain_id(parent, diff_id)
            if chain not in planned:
                named = _BLOB.fullmatch(posixpath.normpath(path))
                # An uncompressed blob's digest is the DiffID, which is checked anyway.
                blob = named[1] if named is not None and "sha256:" + named[1] != diff_id else ""
                planned[chain] = _Planned(diff_id, parent, path, total, blob)
            parent = chain
    return planned


class _Unpacking:
    """The layers of one archive, several at a time where the graph driver can."""

    def __init__(self, graph: Graph, lease: Lease, bundle: Bundle, progress: Progress, parallel: int) -> None:
        self._graph = graph
        self._lease = lease
        self._bundle = bundle
        self._progress = progress
        self._parallel = parallel if graph.driver.stacks else 1
        self._failing = threading.Lock()
        self._failed: BaseException | None = None
        """What went wrong first: the others end because of it."""

    def run(self, planned: Mapping[str, _Planned]) -> None:
        """All of them become layers. Raises what was wrong first."""
        missing = {chain: one for chain, one in planned.items() if self._lease.find_chain(chain) is None}
        with ThreadPoolExecutor(self._parallel, "layer unpack") as pool, ExitStack() as copies:
            coming = {}
            if self._parallel > 1 and len(missing) > 1:
                coming = {chain: pool.submit(self._unpack, one, copies) for chain, one in missing.items()}
            try:
                for chain, one in missing.items():
                    if chain in coming:
                        unpacked, copy = coming[chain].result()
                        self._lease.stack(unpacked, one.parent)
                    else:
                        source, copy = self._source(one, copies)
                        self._lease.register(cast("BinaryIO", source), one.parent, one.diff_id, source.check, one.total)
                    if copy is not None and os.fstat(copy.fileno()).st_size == one.total:
                        kind = _KINDS[sniff(self._bundle.open(one.path).read(SNIFF))]
                        self._graph.content.keep(copy, "sha256:" + one.blob, one.diff_id, kind)
            except BaseException as error:
                self._fail(error)
                raise self._failed or error from None
            finally:
                for left in coming.values():
                    left.cancel()

    def _fail(self, error: BaseException) -> None:
        with self._failing:
            self._failed = self._failed or error

    def _unpack(self, one: _Planned, copies: ExitStack) -> tuple[Unpacked, FileIO | None]:
        """In a thread of its own."""
        try:
            source, copy = self._source(one, copies)
            return self._lease.unpack(cast("BinaryIO", source), one.diff_id, source.check, one.total), copy
        except BaseException as error:
            self._fail(error)
            raise

    def _source(self, one: _Planned, copies: ExitStack) -> tuple["_Checked", FileIO | None]:
        """What a layer is read from, and where a compressed blob is copied to meanwhile."""
        copy = None
        part = self._bundle.open(one.path)
        if one.blob and self._graph.content.keeps and sniff(part.read(SNIFF)) in _KINDS:
            copy = copies.enter_context(self._graph.content.begin())
        part = self._bundle.open(one.path)
        raw = cast("RawIOBase", part if copy is None else Copied(cast("BinaryIO", part), copy))

        def tell(count: int) -> None:
            if self._failed is not None:
                raise self._failed
            self._progress(one.diff_id, count, one.total)

        return _Checked(raw, tell, one.blob or None), copy


def _decode(data: bytes, what: str) -> list[_Saved]:
    try:
        return msgspec.json.decode(data, type=list[_Saved])
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidParameter(f"invalid archive: {what}: {error}") from error


def _docker(bundle: Bundle) -> list[Found]:
    """manifest.json of ``docker save``."""
    saved = _decode(bundle.read("manifest.json", MANIFEST_LIMIT), "manifest.json")
    if len(saved) > MAX_IMAGES:
        raise InvalidParameter(f"invalid archive: more than {MAX_IMAGES} images")
    found = []
    for item in saved:
        config = bundle.read(item.config, CONFIG_LIMIT)
        named = _HEX.fullmatch(posixpath.basename(item.config))
        if named is not None and digest_of(config) != "sha256:" + named[1]:
            raise InvalidParameter(f"invalid archive: {item.config} has another digest")
        layers = tuple(item.layers or ())
        expected = len(parse_config(config).diff_ids)
        if len(layers) != expected:
            raise InvalidParameter(f"invalid manifest, layers length mismatch: expected {expected}, got {len(layers)}")
        names = []
        for text in item.repo_tags or ():
            name = parse(text)
            if name.tag is None or name.digest is not None:
                raise InvalidParameter(f'invalid tag "{text}"')
            names.append(name)
        found.append(Found(config, layers, (None,) * len(layers), tuple(names), item.parent or ""))
    return found


def _is_of(image: Found, platform: manifest.Platform) -> bool:
    config = parse_config(image.config)
    own = manifest.Platform(config.os or "", config.architecture or "", config.variant or "")
    return manifest.provides(own, platform)


def _oci(bundle: Bundle, platform: manifest.Platform) -> list[Found]:
    """index.json of an OCI image layout."""
    try:
        layout = msgspec.json.decode(bundle.read("oci-layout", 4096))
    except (msgspec.DecodeError, ValueError) as error:
        raise InvalidParameter(f"invalid archive: oci-layout: {error}") from error
    if not isinstance(layout, dict) or not str(layout.get("imageLayoutVersion", "")).startswith("1."):
        raise InvalidParameter("invalid archive: an OCI image layout of unknown version")
    index = manifest.parse(bundle.read("index.json", manifest.LIMIT))
    if not isinstance(index, manifest.Index):
        raise InvalidParameter("invalid archive: index.json is no index")
    found = []
    for entry in index.manifests:
        image = None if entry.attests else _resolve(bundle, entry, platform)
        if image is not None:
            found.append(_oci_image(bundle, image, _names(entry)))
    return found


def _blob(bundle: Bundle, entry: manifest.Descriptor, limit: int) -> bytes:
    path = "blobs/sha256/" + entry.digest.removeprefix("sha256:")
    data = bundle.read(path, limit)
    if len(data) != entry.size or digest_of(data) != entry.digest:
        raise InvalidParameter(f"invalid archive: {path} is not what its descriptor says")
    return data


def _resolve(bundle: Bundle, entry: manifest.Descriptor, platform: manifest.Platform) -> manifest.Manifest | None:
    """The image that an entry of index.json means for a platform: itself, or one of the index that it names."""
    document = manifest.parse(_blob(bundle, entry, manifest.LIMIT), entry.media_type)
    if isinstance(document, manifest.Manifest):
        return document
    chosen = manifest.choose(document, platform)
    if chosen is None:
        return None
    document = manifest.parse(_blob(bundle, chosen, manifest.LIMIT), chosen.media_type)
    if isinstance(document, manifest.Index):
        raise InvalidParameter("invalid archive: an index in an index in an index")
    return document


def _oci_image(bundle: Bundle, image: manifest.Manifest, names: tuple[Reference, ...]) -> Found:
    config = _blob(bundle, image.config, CONFIG_LIMIT)
    expected = len(parse_config(config).diff_ids)
    if len(image.layers) != expected:
        raise InvalidParameter(
            f"invalid manifest, layers length mismatch: expected {expected}, got {len(image.layers)}"
        )
    paths = tuple("blobs/sha256/" + layer.digest.removeprefix("sha256:") for layer in image.layers)
    return Found(config, paths, tuple(layer.size for layer in image.layers), names)


def _names(entry: manifest.Descriptor) -> tuple[Reference, ...]:
    """The name that the tool gave it: containerd's annotation is a whole reference, the OCI's often only a tag."""
    for key in (_NAME, _REF_NAME):
        text = entry.annotations.get(key, "")
        if key == _NAME or ":" in text or "/" in text:
            try:
                name = parse(text)
            except InvalidParameter:
                continue
            if name.digest is None:
                return (name.tagged(),)
    return ()
