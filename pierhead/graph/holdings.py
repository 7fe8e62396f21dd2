"""What images and their layers take, on the disk and as Docker counts it: from two queries, however many there are.

What a layer takes was measured when it was unpacked, and nobody writes to it afterwards.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from pierhead.graph.graph import Graph


@dataclass(frozen=True, slots=True)
class HeldLayer:
    """A layer. size: bytes of file content; disk: bytes on the disk; images: how many have it; ready: it is whole."""

    chain_id: str
    parent: str | None
    cache_id: str
    driver: str
    ready: bool
    size: int
    disk: int
    images: int


@dataclass(frozen=True, slots=True)
class HeldImage:
    """An image, in bytes of file content and on the disk; of each how much other images have too."""

    size: int
    shared: int
    disk: int
    disk_shared: int


@dataclass(frozen=True, slots=True)
class Holdings:
    """Every layer, and every image by its id."""

    layers: tuple[HeldLayer, ...]
    images: Mapping[str, HeldImage]

    @property
    def size(self) -> int:
        """Bytes of file content of all layers, shared ones once."""
        return sum(layer.size for layer in self.layers if layer.ready)


def holdings(graph: Graph, fresh: bool = False) -> Holdings:
    """All of it. fresh: the layers are measured again."""
    rows = graph.db.all("SELECT chain_id, parent, cache_id, driver, state, size, disk FROM layer")
    tops = {row["id"]: row["top"] for row in graph.db.all("SELECT id, top FROM image")}
    parents = {row["chain_id"]: row["parent"] for row in rows}
    users = Counter(chain for top in tops.values() for chain in _down(parents, top))
    layers = {
        row["chain_id"]: HeldLayer(
            row["chain_id"],
            row["parent"],
            row["cache_id"],
            row["driver"],
            row["state"] == "ready",
            row["size"],
            row["disk"],
            users[row["chain_id"]],
        )
        for row in rows
    }
    unknown = [layer for layer in layers.values() if layer.ready and layer.driver == graph.driver.name]
    layers |= _measured(graph, [layer for layer in unknown if fresh or layer.disk < 0])
    images = {}
    for id, top in tops.items():
        chain = [layers[chain] for chain in _down(parents, top)]
        common = [layer for layer in chain if layer.images > 1]
        images[id] = HeldImage(
            sum(layer.size for layer in chain),
            sum(layer.size for layer in common),
            sum(layer.disk for layer in chain),
            sum(layer.disk for layer in common),
        )
    return Holdings(tuple(layers.values()), images)


def _down(parents: Mapping[str, str | None], chain: str | None) -> Iterator[str]:
    """A layer and those below it."""
    while chain is not None and chain in parents:
        yield chain
        chain = parents[chain]


def _measured(graph: Graph, layers: list[HeldLayer]) -> dict[str, HeldLayer]:
    """The layers with what they take now, which is written down."""
    found = {layer.chain_id: replace(layer, disk=graph.on_disk(layer.cache_id)) for layer in layers}
    if found:
        with graph.db.transaction():
            for layer in found.values():
                graph.db.execute("UPDATE layer SET disk = ? WHERE cache_id = ?", (layer.disk, layer.cache_id))
    return found
