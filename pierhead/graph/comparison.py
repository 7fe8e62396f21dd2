"""The graph compared with what is on disk: scratch files, layers and their archives' recipes, images, kept blobs.

The daemon's start mends what this finds, ``pier system fsck`` tells it.  It may run beside everything else: cache ids
are never used twice, and their row is there before anything of them is on disk and until nothing is.  So what is on
disk was listed first, has no row, and is still on disk, is nobody's; and what is being made or removed is in
``Graph.working``.
"""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from functools import partial

from pierhead.difference import Difference, Kind, Tell, quiet
from pierhead.driver.graphdriver.api import Kept
from pierhead.driver.graphdriver.remove import remove_tree
from pierhead.graph.content import listed
from pierhead.graph.content_comparison import blob_contents, blobs
from pierhead.graph.graph import Graph, Image
from pierhead.graph.graphdb import Row
from pierhead.graph.image import chain_ids, digest_of
from pierhead.graph.layer_contents import wrong
from pierhead.graph.layer_folders import Folders

_GONE_BY, _PAUSE = 5.0, 0.02
"""Seconds: by then a process has died that was killed, asked so often."""
_RESTORED = "it is made what it was; containers that run see it when they are started again"


def compare(graph: Graph, tell: Tell = quiet, *, deep: bool = False) -> Iterator[Difference]:
    """Every difference; one that is mended before the next is asked for may make further ones visible.

    deep: read every layer and compare digests.
    """
    for part in (
        *(_folders, _scratch, _unfinished, _unknown_layers, _unknown_splits, _unneeded),
        *(_missing, _structure, _images, blobs),
    ):
        tell(part.__name__.strip("_").replace("_", " "), 0, 0)
        yield from part(graph)
    if deep:
        yield from _contents(graph, tell)
        yield from blob_contents(graph, tell)


def _short(id: str) -> str:
    return id.rpartition(":")[2][:12]


def _ready(graph: Graph) -> list[Row]:
    """The rows of this driver's layers, each after the one below it."""
    rows = graph.db.all("SELECT * FROM layer WHERE state = 'ready' AND driver = ?", (graph.driver.name,))
    below = {row["chain_id"]: row["parent"] for row in rows}

    def depth(chain: str | None) -> int:
        count = 0
        while chain is not None:
            count, chain = count + 1, below.get(chain)
        return count

    return sorted(rows, key=lambda row: (depth(row["chain_id"]), row["chain_id"]))


def _known(graph: Graph) -> set[str]:
    """Cache ids of all layers, those of containers among them."""
    rows = graph.db.all("SELECT cache_id AS id FROM layer UNION ALL SELECT layer_id FROM container")
    return {row["id"] for row in rows}


def _folders(graph: Graph) -> Iterator[Difference]:
    for path in graph.folders:
        if not os.path.isdir(path):
            yield Difference(
                Kind.MISSING,
                "folder",
                path,
                f"{path} is missing: no image can be pulled or loaded",
                "it is made again",
                graph.make_folders,
            )


# -- what nothing needs -----------------------------------------------------------------------------------------------


def _scratch(graph: Graph) -> Iterator[Difference]:
    for name in sorted(listed(graph.scratch)):
        path = os.path.join(graph.scratch, name)
        if not _open_here(path) and os.path.lexists(path):
            yield Difference(
                Kind.LEFTOVER,
                "scratch",
                path,
                f"{path} is left from something that was interrupted; nothing uses it",
                "it is deleted",
                partial(remove_tree, path),
            )


def _open_here(path: str) -> bool:
    """Whether this process has a file open, or one below a folder."""
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            if target == path or target.startswith((f"{path}/", f"{path} (deleted)")):
                return True
    return False


def _unfinished(graph: Graph) -> Iterator[Difference]:
    rows = graph.db.all("SELECT * FROM layer WHERE state <> 'ready' AND driver = ?", (graph.driver.name,))
    for row in rows:
        cache_id = row["cache_id"]
        if cache_id not in graph.working and _still_unfinished(graph, cache_id):
            doing = "making" if row["state"] == "making" else "removal"
            yield Difference(
                Kind.UNFINISHED,
                "layer",
                cache_id,
                f"the {doing} of layer {_short(cache_id)} was not finished: what there is of it is of no use",
                "it is removed from the disk and from the database",
                partial(_finish, graph, row),
            )


def _still_unfinished(graph: Graph, cache_id: str) -> bool:
    row = graph.db.first("SELECT state FROM layer WHERE cache_id = ?", (cache_id,))
    return row is not None and row["state"] != "ready" and cache_id not in graph.working


def _finish(graph: Graph, row: Row) -> None:
    if _still_unfinished(graph, row["cache_id"]):
        with graph.releases.one():
            _discard(graph, row["cache_id"])
            graph.collect(row["parent"])


def _discard(graph: Graph, cache_id: str) -> None:
    """Although the process that unpacked it for a daemon that was killed may still be dying: it can make or take away
    a name meanwhile, after its folder was listed."""
    until = time.monotonic() + _GONE_BY
    while True:
        try:
            graph.discard(cache_id)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT) or time.monotonic() > until:
                raise
        time.sleep(_PAUSE)


def _unknown_layers(graph: Graph) -> Iterator[Difference]:
    there = list(graph.driver.list())
    known = _known(graph)
    for cache_id in there:
        if cache_id not in known and graph.driver.exists(cache_id):
            yield Difference(
                Kind.LEFTOVER,
                "layer",
                cache_id,
                f"layer {_short(cache_id)} is on the disk ({graph.driver.name}), and no image or container has it",
                "it is deleted",
                partial(graph.driver.remove, cache_id),
            )


def _unknown_splits(graph: Graph) -> Iterator[Difference]:
    there = listed(graph.splits)
    known = {row["cache_id"] for row in graph.db.all("SELECT cache_id FROM layer")}
    for name in sorted(there):
        if name not in known and os.path.lexists(graph.split(name)):
            yield Difference(
                Kind.LEFTOVER,
                "layer",
                name,
                f"{graph.split(name)} says what the archive of a layer was that is not here any more",
                "it is deleted",
                partial(remove_tree, graph.split(name)),
            )


def _unneeded(graph: Graph) -> Iterator[Difference]:
    for chain in graph.unneeded():
        yield Difference(
            Kind.LEFTOVER,
            "layer",
            chain,
            f"layer {_short(chain)} is kept although no image, container or layer above it needs it",
            "it is removed, and those below it that nothing else needs",
            partial(_collect, graph, chain),
        )


def _collect(graph: Graph, chain: str) -> None:
    with graph.releases.one():
        graph.collect(chain)


# -- what is missing or not as it was ---------------------------------------------------------------------------------


def _concerned(graph: Graph, chain: str) -> tuple[str, str]:
    """Who has a layer, in words, and what to do about its loss; empty words: nobody has it."""
    images = [_name(graph, image) for image in graph.images() if chain in chain_ids(image.config.diff_ids)]
    containers = [
        row["name"] for row in graph.db.all("SELECT name, layer_id FROM container") if _has(graph, row, chain)
    ]
    who = [
        f"{what}{'s' if len(names) > 1 else ''} {', '.join(names)}"
        for what, names in (("image", images), ("container", containers))
        if names
    ]
    commands = [f"pier rm {' '.join(containers)}"] if containers else []
    commands += (
        [f"pier rmi {' '.join(images)}", *(f"pier pull {name}" for name in images if ":" in name)] if images else []
    )
    return " and ".join(who), f"it cannot be made here again; fetch it anew: {'; '.join(commands)}"


def _has(graph: Graph, container: Row, chain: str) -> bool:
    """Whether a layer is below a container's own. Its image may have been deleted: the driver knows its layers."""
    row = graph.db.first("SELECT * FROM layer WHERE cache_id = ?", (graph.driver.parent(container["layer_id"]),))
    while row is not None and row["chain_id"] != chain:
        row = graph.db.first("SELECT * FROM layer WHERE chain_id = ?", (row["parent"],))
    return row is not None


def _name(graph: Graph, image: Image) -> str:
    names = graph.tags.of(image.id)
    return names[0].familiar if names else _short(image.id)


def _still_ready(graph: Graph, row: Row) -> bool:
    found = graph.db.first("SELECT state FROM layer WHERE cache_id = ?", (row["cache_id"],))
    return found is not None and found["state"] == "ready"


def _missing(graph: Graph) -> Iterator[Difference]:
    for row in _ready(graph):
        chain, split = row["chain_id"], graph.split(row["cache_id"])
        there = graph.driver.exists(row["cache_id"])
        if (there and os.path.lexists(split)) or not _still_ready(graph, row):
            continue
        who, advice = _concerned(graph, chain)
        if who:  # else it is not needed, and said to be
            found = (
                f"{split} is missing, without which the archive of layer {_short(chain)} cannot be written: {who} can "
                "be used, but neither saved nor pushed"
                if there
                else f"the files of layer {_short(chain)} ({row['cache_id'][:12]}) are not on the disk: {who} cannot "
                "be used"
            )
            yield Difference(Kind.MISSING, "layer", chain, found, advice)


def _structure(graph: Graph) -> Iterator[Difference]:
    """What the driver itself has to say of the layers that are there."""
    rows = _ready(graph)
    cache_ids = {row["chain_id"]: row["cache_id"] for row in rows}
    kept = [Kept(row["cache_id"], cache_ids.get(row["parent"])) for row in rows]
    for row in _whole_containers(graph):
        # The image of a container may have been deleted: its layers were not, and only the driver knows which.
        below = cache_ids.get(row["top"]) if row["image"] else graph.driver.parent(row["layer_id"])
        kept.append(Kept(row["layer_id"], below, writable=True))
    there = [one for one in kept if graph.driver.exists(one.id)]
    named = {one.id for one in there}
    for difference in graph.driver.check(there):
        if difference.subject not in named or difference.subject in _whole(graph):
            yield difference


def _whole_containers(graph: Graph) -> list[Row]:
    """Containers that are neither being made nor being removed, with the top of their image."""
    return graph.db.all(
        "SELECT c.layer_id, i.id AS image, i.top FROM container c LEFT JOIN image i ON i.id = c.image_id "
        "WHERE c.state NOT IN ('removing', 'dead') AND c.intent <> 'create' AND c.driver = ?",
        (graph.driver.name,),
    )


def _whole(graph: Graph) -> set[str]:
    """Cache ids of the layers that are all there, or must be."""
    return {row["cache_id"] for row in _ready(graph)} | {row["layer_id"] for row in _whole_containers(graph)}


def _images(graph: Graph) -> Iterator[Difference]:
    images = graph.images()
    there = {row["chain_id"] for row in graph.db.all("SELECT chain_id FROM layer WHERE state = 'ready'")}
    for image in images:
        lost = [chain for chain in chain_ids(image.config.diff_ids) if chain not in there]
        if lost and graph.db.first("SELECT 1 FROM image WHERE id = ?", (image.id,)) is not None:
            name = _name(graph, image)
            yield Difference(
                Kind.MISSING,
                "image",
                image.id,
                f"image {name} needs {len(lost)} layer{'s' if len(lost) > 1 else ''} of which the database knows "
                f"nothing ({', '.join(map(_short, lost))}): it cannot be used",
                f"fetch it anew: pier rmi {name}; pier pull {name}",
            )


# -- digests ----------------------------------------------------------------------------------------------------------


def _contents(graph: Graph, tell: Tell) -> Iterator[Difference]:
    for image in graph.images():
        if digest_of(image.raw) != image.id:
            name = _name(graph, image)
            yield Difference(
                Kind.DAMAGED,
                "image",
                image.id,
                f"the configuration of image {name} in the database has another digest than its id",
                f"fetch it anew: pier rmi {name}; pier pull {name}",
            )
    rows = _ready(graph)
    total = sum(row["archive"] for row in rows)
    done = 0
    folders = Folders(graph.driver)
    for row in rows:
        with graph.lease() as lease:  # it stays for as long as it is read
            layer = lease.find_chain(row["chain_id"])
            readable = graph.driver.exists(row["cache_id"]) and os.path.lexists(graph.split(row["cache_id"]))
            if layer is not None and readable:
                found = wrong(graph, layer, folders, partial(_counted, tell, done, total))
                if found is not None:
                    who, advice = _concerned(graph, layer.chain_id)
                    yield Difference(
                        Kind.DAMAGED,
                        "layer",
                        layer.chain_id,
                        f"layer {_short(layer.chain_id)} ({layer.cache_id[:12]}) is not what was unpacked: "
                        f"{found.text}; concerned: {who}",
                        advice if found.mend is None else _RESTORED,
                        found.mend,
                    )
        done += row["archive"]


def _counted(tell: Tell, done: int, total: int, count: int) -> None:
    tell("layer contents", done + count, total)
