"""The Graph: images and the layers they share, by content.

An image's id is the digest of its configuration file, a layer's the chain id of it and all below.  A layer exists for
as long as an image, a layer above it, a container's writable layer or a ``Lease`` needs it; then its bytes are given
back.  Intent before effect: a layer's row says "making" before its directory is made and "removing" before it is
deleted; what a crash leaves behind is found by that and by listing what is on disk (``graph.comparison``).
"""

import contextlib
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from hashlib import sha256
from typing import BinaryIO, cast

from pierhead.driver.graphdriver.api import Applied, GraphDriver
from pierhead.driver.graphdriver.usage import blocks
from pierhead.errors import Conflict, InvalidParameter, NoSuchImage
from pierhead.graph.blobs import Blobs
from pierhead.graph.claims import Claims, Releases
from pierhead.graph.content import Content
from pierhead.graph.graphdb import GraphDB, Row
from pierhead.graph.image import ConfigFile, chain_id, chain_ids, digest_of, parse_config
from pierhead.graph.pins import Pins
from pierhead.graph.split import SplitWriter, replay
from pierhead.graph.stream import NO_LIMITS, LayerStream, Limits
from pierhead.graph.tagstore import TagStore
from pierhead.graph.unpacking import WORTH, Unpackers
from pierhead.reference import Reference


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer. size: bytes of file content; disk: all that its removal gives back; archive: of its plain archive."""

    chain_id: str
    diff_id: str
    parent: str | None
    cache_id: str
    size: int
    disk: int
    archive: int


@dataclass(frozen=True, slots=True)
class Image:
    """One image. created and loaded are ns since the epoch; top is the chain id of its topmost layer.

    parent: the image that the container was of that this one was committed from, here or where it was loaded from.
    """

    id: str
    raw: bytes
    config: ConfigFile
    created: int
    loaded: int
    size: int
    top: str | None
    parent: str | None


CHILDREN = "image has dependent child images"
STOPPED = "image is being used by stopped container {}"


class Renamed(Conflict):
    """An image has not the names any more that it had when somebody began to look at it."""


def undeletable(id: str, why: str, *, forced: bool = False) -> Conflict:
    """Why an image stays, in Docker's words. forced: whoever insists can have it deleted all the same."""
    how = "must be forced" if forced else "cannot be forced"
    return Conflict(f"conflict: unable to delete {id.removeprefix('sha256:')[:12]} ({how}) - {why}")


def _layer(row: Row) -> Layer:
    keys = ("chain_id", "diff_id", "parent", "cache_id", "size", "disk", "archive")
    return Layer(*(row[key] for key in keys))


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The files of a layer that is none yet, for its place in a chain is still to be taken (``Lease.stack``)."""

    cache_id: str
    diff_id: str
    archive: int
    applied: Applied


@dataclass(frozen=True, slots=True)
class _Blob:
    """What a layer is made of; the fields are ``Lease.register``'s."""

    source: BinaryIO
    diff_id: str | None
    check: Callable[[], None] | None
    size: int


class Lease:
    """Keeps layers that no image needs yet, while one is being put together. Several threads may use it."""

    def __init__(self, graph: "Graph") -> None:
        self._graph = graph
        self.held: list[str] = []
        self.unpacked: set[str] = set()
        self.unpackers = Unpackers()

    def find(self, diff_id: str, parent: str | None) -> Layer | None:
        """A layer that is here already; it stays for as long as the lease."""
        return self._graph._find(self, chain_id(parent, diff_id))

    def find_chain(self, chain: str) -> Layer | None:
        """The same by its chain id."""
        return self._graph._find(self, chain)

    def register(
        self,
        source: BinaryIO,
        parent: str | None,
        diff_id: str | None = None,
        check: Callable[[], None] | None = None,
        size: int = 0,
    ) -> Layer:
        """Unpack a layer's blob, compressed or not, on top of a layer that the lease holds.

        diff_id: what the image says it is.  check: called when every byte was read, to raise if the blob's own digest
        is wrong.  size: its bytes, where they are known.  Raises InvalidParameter where the bytes are not what was
        said; nothing of the layer is left then.
        """
        return self._graph._register(self, _Blob(source, diff_id, check, size), parent)

    def unpack(
        self,
        source: BinaryIO,
        diff_id: str | None = None,
        check: Callable[[], None] | None = None,
        size: int = 0,
    ) -> Unpacked:
        """Unpack a blob whose parent may not be there yet; only where the driver ``stacks``. Raises as ``register``."""
        return self._graph._unpack(self, _Blob(source, diff_id, check, size), None)

    def stack(self, unpacked: Unpacked, parent: str | None) -> Layer:
        """Make it a layer on top of one that the lease holds. What never becomes one goes at the end of the lease."""
        return self._graph._stack(self, unpacked, parent)


class Graph:
    """The images and layers of one data root. Every method may be called from any thread."""

    def __init__(
        self, db: GraphDB, driver: GraphDriver, data_root: str, *, keep_blobs: bool = True, limits: Limits = NO_LIMITS
    ) -> None:
        self.db = db
        self.driver = driver
        self.limits = limits
        self.tags = TagStore(db)
        self.blobs = Blobs(db)
        self.content = Content(db, data_root, keeps=keep_blobs)
        self.pins = Pins(db)
        self.claims = Claims()
        self.scratch = os.path.join(data_root, "tmp")
        self.splits = os.path.join(data_root, "split")
        self.working: set[str] = set()
        """Cache ids of the layers that are being made or removed at this moment."""
        self.releases = Releases()
        self._lock = threading.Lock()
        self._leased: Counter[str] = Counter()
        self._busy: dict[str, tuple[threading.Lock, int]] = {}
        self.make_folders()

    @property
    def folders(self) -> tuple[str, ...]:
        """What it works in, beside the driver's."""
        return self.scratch, self.splits, self.content.folder

    def make_folders(self) -> None:
        """Those of them that are not there."""
        os.makedirs(self.scratch, mode=0o700, exist_ok=True)
        os.makedirs(self.splits, mode=0o710, exist_ok=True)
        self.content.make_folder()

    # -- layers -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lease(self) -> Iterator[Lease]:
        """Layers found or registered inside are kept until the end, then only if an image needs them by now."""
        lease = Lease(self)
        try:
            yield lease
        finally:
            lease.unpackers.end()
            with self.releases.one():
                with self._lock:
                    self._leased.subtract(lease.held)
                    self._leased += Counter()
                for cache_id in lease.unpacked:
                    self.discard(cache_id)
                    self.working.discard(cache_id)
                for chain in reversed(lease.held):
                    self.collect(chain)

    def _hold(self, lease: Lease, chain: str) -> None:
        self._leased[chain] += 1
        lease.held.append(chain)

    def _find(self, lease: Lease, chain: str) -> Layer | None:
        with self._lock:
            row = self.db.first("SELECT * FROM layer WHERE chain_id = ? AND state = 'ready'", (chain,))
            if row is None:
                return None
            self._hold(lease, chain)
        return _layer(row)

    @contextlib.contextmanager
    def _alone(self, chain: str) -> Iterator[None]:
        """Two pulls of the same layer: the second waits, and finds it done."""
        with self._lock:
            lock, users = self._busy.get(chain, (threading.Lock(), 0))
            self._busy[chain] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                users = self._busy[chain][1] - 1
                if users:
                    self._busy[chain] = (lock, users)
                else:
                    del self._busy[chain]

    def _register(self, lease: Lease, blob: _Blob, parent: str | None) -> Layer:
        expected = chain_id(parent, blob.diff_id) if blob.diff_id is not None else ""
        with self._alone(expected) if expected else contextlib.nullcontext():
            if expected and (layer := self._find(lease, expected)) is not None:
                return layer
            return self._stack(lease, self._unpack(lease, blob, parent), parent)

    def _unpack(self, lease: Lease, blob: _Blob, parent: str | None) -> Unpacked:
        """The parent counts only where the driver does not stack."""
        cache_id = secrets.token_hex(32)
        above = None if parent is None or self.driver.stacks else self.layer(parent).cache_id
        self.working.add(cache_id)
        lease.unpacked.add(cache_id)
        with self.db.transaction():
            # A name of its own until the content's is known.
            self.db.execute(
                "INSERT INTO layer (chain_id, diff_id, cache_id, driver, state) VALUES (?, '', ?, ?, 'making')",
                (f"sha256:making-{cache_id}", cache_id, self.driver.name),
            )
        large = blob.size >= WORTH
        self.driver.create(cache_id, above, large=large)
        if large:
            made, archive, applied = self._apply_elsewhere(lease, cache_id, blob.source)
        else:
            made, archive, applied = self._apply(cache_id, blob.source)
        if blob.check is not None:
            blob.check()
        if blob.diff_id is not None and made != blob.diff_id:
            raise InvalidParameter(f"invalid diffID for layer: expected {blob.diff_id!r}, got {made!r}")
        return Unpacked(cache_id, made, archive, applied)

    def _stack(self, lease: Lease, unpacked: Unpacked, parent: str | None) -> Layer:
        applied = unpacked.applied
        if parent is not None and self.driver.stacks:
            self.driver.stack(unpacked.cache_id, self.layer(parent).cache_id, applied)
        chain, id = chain_id(parent, unpacked.diff_id), unpacked.cache_id
        disk = self.on_disk(id)
        return self._ready(lease, Layer(chain, unpacked.diff_id, parent, id, applied.size, disk, unpacked.archive))

    def _apply(self, cache_id: str, source: BinaryIO) -> tuple[str, int, Applied]:
        """DiffID, bytes of the plain archive, what the driver says."""
        split = SplitWriter(self.split(cache_id))
        try:
            with LayerStream(source, self.limits) as stream:
                applied = self.driver.apply(cache_id, cast("BinaryIO", stream), split)
                diff_id, archive = stream.finish()
            split.close()
        finally:
            split.abandon()
        return diff_id, archive, applied

    def _apply_elsewhere(self, lease: Lease, cache_id: str, source: BinaryIO) -> tuple[str, int, Applied]:
        """The same, unpacked by a process of its own (``graph.unpacking``), which writes the split, too."""
        split = os.open(self.split(cache_id), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        told: list[tuple[str, int]] = []

        def unpack(rules: type, root: int) -> Applied:
            diff_id, archive, applied = lease.unpackers.unpack(rules, root, source, split, self.limits)
            told.append((diff_id, archive))
            return applied

        try:
            applied = self.driver.apply(cache_id, unpack)
        finally:
            os.close(split)
        return *told[0], applied

    def _ready(self, lease: Lease, layer: Layer) -> Layer:
        """The layer exists from here on; where the same was made meanwhile, that one is taken."""
        with self._lock, self.db.transaction():
            row = self.db.first("SELECT * FROM layer WHERE chain_id = ?", (layer.chain_id,))
            if row is None:
                self.db.execute(
                    "UPDATE layer SET chain_id = ?, diff_id = ?, parent = ?, size = ?, disk = ?, archive = ?, "
                    "state = 'ready' WHERE cache_id = ?",
                    (
                        *(layer.chain_id, layer.diff_id, layer.parent),
                        *(layer.size, layer.disk, layer.archive, layer.cache_id),
                    ),
                )
            self._hold(lease, layer.chain_id)
        if row is not None:
            return _layer(row)
        lease.unpacked.discard(layer.cache_id)
        self.working.discard(layer.cache_id)
        return layer

    def split(self, cache_id: str) -> str:
        """Where it says what a layer's archive was."""
        return os.path.join(self.splits, cache_id)

    def on_disk(self, cache_id: str) -> int:
        """Bytes on the disk that a layer's removal gives back; walks it."""
        return self.driver.measure(cache_id).disk + blocks(self.split(cache_id))

    def discard(self, cache_id: str) -> int:
        """Delete a layer that nothing refers to, its row last."""
        freed = self.driver.remove(cache_id) + blocks(self.split(cache_id))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.split(cache_id))
        with self.db.transaction():
            self.db.execute("DELETE FROM layer WHERE cache_id = ?", (cache_id,))
            self.blobs.tidy()
        return freed + self.content.tidy()

    def collect(self, chain: str | None) -> tuple[list[str], int]:
        """Delete a layer and those below it as far as nothing needs them: (chain ids, topmost first; bytes)."""
        removed: list[str] = []
        freed = 0
        while chain is not None:
            with self._lock, self.db.transaction():
                row = self.db.first("SELECT * FROM layer WHERE chain_id = ? AND state = 'ready'", (chain,))
                if row is None or self.needed(row):
                    break
                self.working.add(row["cache_id"])
                # Under another name, so that the same layer can be made again at once.
                self.db.execute(
                    "UPDATE layer SET chain_id = ?, state = 'removing' WHERE chain_id = ?",
                    (f"sha256:removing-{row['cache_id']}", chain),
                )
            try:
                freed += self.discard(row["cache_id"])
            finally:
                self.working.discard(row["cache_id"])
            removed.append(chain)
            chain = row["parent"]
        return removed, freed

    def needed(self, row: Row) -> bool:
        """Whether an image, a layer above it, a container or a lease has a layer."""
        chain = row["chain_id"]
        if self._leased[chain] or self.db.first(
            "SELECT 1 FROM image WHERE top = :chain UNION ALL SELECT 1 FROM layer WHERE parent = :chain LIMIT 1",
            {"chain": chain},
        ):
            return True
        writable = self.db.all("SELECT layer_id FROM container")
        return any(self.driver.parent(other["layer_id"]) == row["cache_id"] for other in writable)

    def layer(self, chain: str) -> Layer:
        """A layer that is here. Raises LookupError."""
        return _layer(self.db.one("SELECT * FROM layer WHERE chain_id = ? AND state = 'ready'", (chain,)))

    def chain(self, image: Image) -> list[Layer]:
        """An image's layers, lowest first."""
        return [self.layer(chain) for chain in chain_ids(image.config.diff_ids)]

    def archive(self, layer: Layer) -> Iterator[bytes]:
        """A layer's archive, byte for byte as it came. Raises OSError if what is on disk is not that any more."""
        digest = sha256()
        fd = self.driver.open_layer(layer.cache_id)
        try:
            for piece in replay(self.split(layer.cache_id), fd):
                digest.update(piece)
                yield piece
        finally:
            os.close(fd)
        if "sha256:" + digest.hexdigest() != layer.diff_id:
            raise OSError(f"layer {layer.diff_id} on disk is not what it was when it was unpacked")

    # -- images -----------------------------------------------------------------------------------------------------

    def put_image(self, raw: bytes, name: Reference | None = None, parent: str | None = None) -> Image:
        """Make the image that a configuration file describes; all its layers must be there (and leased).

        name: is its from the same moment on. parent: see ``Image``. Raises InvalidParameter.
        """
        config = parse_config(raw)
        id = digest_of(raw)
        chain = chain_ids(config.diff_ids)
        with self.db.transaction(durable=True):
            if self.db.first("SELECT 1 FROM image WHERE id = ?", (id,)) is None:
                try:
                    size = sum(self.layer(part).size for part in chain)
                except LookupError as error:
                    raise InvalidParameter(f"image {id} needs a layer that is not here") from error
                self.db.execute(
                    "INSERT INTO image VALUES (?, ?, ?, ?, ?, ?, (SELECT id FROM image WHERE id = ?))",
                    (id, raw, config.created_ns, time.time_ns(), size, chain[-1] if chain else None, parent),
                )
            if name is not None:
                self.tags.set(name, id)
        return self.image(id)

    def set_parent(self, id: str, parent: str) -> None:
        """What an archive says of an image; what is known of it already stays."""
        with self.db.transaction():
            self.db.execute("UPDATE image SET parent = ? WHERE id = ? AND parent IS NULL", (parent, id))

    @staticmethod
    def _image(row: Row) -> Image:
        return Image(
            row["id"],
            row["config"],
            parse_config(row["config"]),
            row["created"],
            row["loaded"],
            row["size"],
            row["top"],
            row["parent"],
        )

    def has(self, id: str) -> bool:
        """Whether an image of this full id is there."""
        return self.db.first("SELECT 1 FROM image WHERE id = ?", (id,)) is not None

    def image(self, id: str) -> Image:
        """By its full id. Raises NoSuchImage."""
        row = self.db.first("SELECT * FROM image WHERE id = ?", (id,))
        if row is None:
            raise NoSuchImage(id)
        return self._image(row)

    def images(self) -> list[Image]:
        """All of them, the youngest first."""
        return [self._image(row) for row in self.db.all("SELECT * FROM image ORDER BY created DESC, id")]

    def has_children(self, id: str) -> bool:
        """Whether an image was committed from a container of this one."""
        return self.db.first("SELECT 1 FROM image WHERE parent = ? LIMIT 1", (id,)) is not None

    def by_prefix(self, prefix: str) -> str | None:
        """The id that begins with these hex digits, if exactly one does."""
        rows = self.db.all("SELECT id FROM image WHERE id >= ? AND id < ? LIMIT 2", (prefix, prefix + "g"))
        return rows[0]["id"] if len(rows) == 1 else None

    def delete_image(
        self,
        id: str,
        despite: Set[str] = frozenset(),
        *,
        parents: bool = False,
        names: Sequence[Reference] | None = None,
    ) -> tuple[list[str], int]:
        """Delete an image and its names, and the layers that nothing else needs: (their chain ids, bytes on disk).

        parents: with those of its parents that have neither name nor pin, container nor another child; each one's id
        is then in the list, before its layers.
        despite: the containers of it that the caller knows of, and deletes it all the same.  Raises Conflict for any
        other (it has been made meanwhile), while one is being made, and for an image that has children.
        names: all that the caller knows of (None: whatever they are).  Raises Renamed where it has others by now.
        """
        with self.releases.one():
            with self.db.transaction(durable=True):
                users = "SELECT id, layer_id FROM container WHERE image_id = :id OR instr(mounts, :id)"
                for row in self.db.all(users, {"id": id}):
                    if not self.driver.exists(row["layer_id"]):
                        raise Conflict(f"container {row['id'][:12]} is just being made of this image")
                    if row["id"] not in despite:
                        raise undeletable(id, STOPPED.format(row["id"][:12]), forced=True)
                if self.has_children(id):
                    raise undeletable(id, CHILDREN)
                image = self.db.first("SELECT * FROM image WHERE id = ?", (id,))
                if image is None:
                    return [], 0
                if names is not None and self.tags.of(id) != [*names]:
                    raise Renamed(f"image {id} has got another name")
                going = [image]
                self._forget(id)
                while parents and (above := self._idle(going[-1]["parent"])) is not None:
                    going.append(above)
                    self._forget(above["id"])
            removed: list[str] = []
            freed = 0
            for image in going:
                chains, more = self.collect(image["top"])
                removed += [image["id"], *chains]
                freed += more
            return removed[1:], freed

    def _forget(self, id: str) -> None:
        self.db.execute("DELETE FROM tag WHERE image_id = ?", (id,))
        self.db.execute("DELETE FROM image WHERE id = ?", (id,))

    def _idle(self, id: str | None) -> Row | None:
        """The row of an image that nobody has a name or another use for; None for any other."""
        return self.db.first(
            "SELECT * FROM image WHERE id = :id AND NOT EXISTS (SELECT 1 FROM tag WHERE image_id = :id) "
            "AND NOT EXISTS (SELECT 1 FROM image WHERE parent = :id) "
            "AND NOT EXISTS (SELECT 1 FROM pin WHERE name = :id) "
            "AND NOT EXISTS (SELECT 1 FROM container WHERE image_id = :id OR instr(mounts, :id))",
            {"id": id},
        )

    def remove_writable(self, cache_id: str) -> int:
        """Delete a container's own layer, and of the image's layers those that were kept for it alone; the bytes."""
        with self.releases.one():
            parent = self.driver.parent(cache_id)
            freed = self.driver.remove(cache_id)
            row = self.db.first("SELECT chain_id FROM layer WHERE cache_id = ? AND state = 'ready'", (parent,))
            return freed if row is None else freed + self.collect(row["chain_id"])[1]

    def unneeded(self) -> list[str]:
        """Chain ids of layers that nothing needs; none while some are just being let go of."""
        before = self.releases.state
        with self._lock:
            leaves = self.db.all(
                "SELECT * FROM layer WHERE state = 'ready' "
                "AND chain_id NOT IN (SELECT parent FROM layer WHERE parent IS NOT NULL)"
            )
            found = [row["chain_id"] for row in leaves if not self.needed(row)]
        return found if before == self.releases.state and not self.releases.state[0] else []
