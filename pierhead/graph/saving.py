"""``docker save``: an archive as Docker 25 and later write it, docker-save's manifest.json and an OCI layout in one.

Layers are uncompressed, byte for byte as they came, so that every digest and every image id is the same again.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import msgspec

from pierhead import manifest
from pierhead.driver.graphdriver.pack import END, header
from pierhead.driver.graphdriver.tar import BLOCK, DIRECTORY, REGULAR, Entry
from pierhead.errors import NotFound
from pierhead.graph.graph import Graph, Image, Layer
from pierhead.graph.image import digest_of
from pierhead.reference import Reference


@dataclass(slots=True)
class Chosen:
    """An image to save, and under which names."""

    image: Image
    names: list[Reference]


def _path(digest: str) -> str:
    return "blobs/sha256/" + digest.removeprefix("sha256:")


def _directory(name: str) -> bytes:
    return header(Entry(name.encode(), DIRECTORY, 0o755, 0, 0, 0, 0, b"", 0))


def _file(name: str, data: bytes) -> bytes:
    return _head(name, len(data)) + data + bytes(-len(data) % BLOCK)


def _head(name: str, size: int) -> bytes:
    return header(Entry(name.encode(), REGULAR, 0o644, 0, 0, size, 0, b"", 0))


def _descriptor(kind: str, data: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}


def _layer_descriptor(layer: Layer) -> dict[str, object]:
    return {"mediaType": manifest.OCI_LAYER, "digest": layer.diff_id, "size": layer.archive}


def save(graph: Graph, images: list[Chosen]) -> Generator[bytes, None, None]:
    """The archive, piece by piece; the layers stay for as long as it is read, even if the images are deleted."""
    with graph.lease() as lease:
        for chosen in images:
            parent: str | None = None
            for layer in graph.chain(chosen.image):
                lease.find(layer.diff_id, parent)
                parent = layer.chain_id
        yield from _archive(graph, images)


def _archive(graph: Graph, images: list[Chosen]) -> Iterator[bytes]:
    blobs: dict[str, bytes] = {}
    layers: dict[str, Layer] = {}
    saved: list[dict[str, object]] = []
    index: list[dict[str, object]] = []
    repositories: dict[str, dict[str, str]] = {}
    saving = {chosen.image.id for chosen in images}
    for chosen in images:
        image = chosen.image
        chain = graph.chain(image)
        layers |= {layer.diff_id: layer for layer in chain}
        blobs[image.id] = image.raw
        document = msgspec.json.encode(
            {
                "schemaVersion": 2,
                "mediaType": manifest.OCI_MANIFEST,
                "config": _descriptor(manifest.OCI_CONFIG, image.raw),
                "layers": [_layer_descriptor(layer) for layer in chain],
            }
        )
        blobs[digest_of(document)] = document
        index += _index_entries(document, chosen.names)
        saved.append(
            {
                "Config": _path(image.id),
                "RepoTags": [name.familiar for name in chosen.names] or None,
                "Layers": [_path(layer.diff_id) for layer in chain],
                "LayerSources": {layer.diff_id: _layer_descriptor(layer) for layer in chain},
                **({"Parent": image.parent} if image.parent in saving else {}),
            }
        )
        for name in chosen.names:
            top = chain[-1].diff_id if chain else image.id
            repositories.setdefault(name.familiar_name, {})[name.tag or ""] = top.removeprefix("sha256:")
    yield _directory("blobs") + _directory("blobs/sha256")
    for digest in sorted({*blobs, *layers}):
        if digest in blobs:
            yield _file(_path(digest), blobs[digest])
        else:
            layer = layers[digest]
            yield _head(_path(digest), layer.archive)
            yield from graph.archive(layer)
            yield bytes(-layer.archive % BLOCK)
    yield _file(
        "index.json",
        msgspec.json.encode({"schemaVersion": 2, "mediaType": manifest.OCI_INDEX, "manifests": index}),
    )
    yield _file("manifest.json", msgspec.json.encode(saved))
    yield _file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    if repositories:
        yield _file("repositories", msgspec.json.encode(repositories))
    yield END


def _index_entries(document: bytes, names: list[Reference]) -> list[dict[str, object]]:
    plain = _descriptor(manifest.OCI_MANIFEST, document)
    if not names:
        return [plain]
    return [
        plain
        | {
            "annotations": {
                "io.containerd.image.name": str(name),
                "org.opencontainers.image.ref.name": name.tag or "",
            }
        }
        for name in names
    ]


def choose(graph: Graph, names: list[tuple[str, Reference | None]]) -> list[Chosen]:
    """What the arguments of ``docker save`` mean, as (image id, reference) each; several names of an image are one.

    An id (no reference) saves no name, a name without a tag all its tags, whichever images they are.
    Raises NotFound where such a name is gone.
    """
    chosen: dict[str, Chosen] = {}
    for id, reference in names:
        if reference is None:
            chosen.setdefault(id, Chosen(graph.image(id), []))
            continue
        if reference.is_name_only:
            tags = [
                (owner, name)
                for owner, known in graph.tags.all().items()
                for name in known
                if name.name == reference.name and name.digest is None
            ]
        else:
            tags = [(id, name) for name in graph.tags.of(id) if str(name) == str(reference)]
        if not tags and reference.digest is None:
            raise NotFound("reference does not exist")
        chosen.setdefault(id, Chosen(graph.image(id), []))
        for owner, name in tags:
            one = chosen.setdefault(owner, Chosen(graph.image(owner), []))
            if name.digest is None and name not in one.names:
                one.names.append(name)
    return list(chosen.values())
