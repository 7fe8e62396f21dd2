"""The graph driver's Protocol: where layers live and how a root file system is put together from them."""

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from pierhead.difference import Difference
from pierhead.linux.mount import Root

MARK = ".dockerenv"
"""How programs know that they are in a container: in every container's root, and in no difference."""


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs from the parent, Docker's kinds: 0 modified, 1 added, 2 deleted. path is absolute."""

    path: str
    kind: int


@dataclass(frozen=True, slots=True)
class Applied:
    """What ``apply`` did: bytes of content (symbolic links by their length), number of entries.

    inherits: directories that the archive uses and says nothing of (b"": the root), which are as the parent has them.
    opaque: nothing of what is below it shows through the layer.
    """

    size: int
    entries: int
    inherits: tuple[bytes, ...] = ()
    opaque: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """A layer that is known to the caller, with what ``create`` was told of it."""

    id: str
    parent: str | None
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What something takes, hard links once: bytes of content, directories' apart; on disk, st_blocks × 512 of all."""

    content: int
    disk: int


@dataclass(frozen=True, slots=True)
class Remainder:
    """What a driver's folder has beside layers: bytes on disk of the driver's own, strays (path, bytes on disk) that
    belong to nothing, and which of the layers are not there."""

    own: int
    strays: tuple[tuple[str, int], ...]
    missing: frozenset[str]


class Record(Protocol):
    """Told, in order, what an archive consists of, for whoever must be able to write the very same bytes again."""

    def raw(self, data: bytes) -> None:
        """Bytes of the archive that are no file content: headers, padding, the end."""

    def content(self, path: bytes, size: int) -> None:
        """Here belongs the content of a regular file of the layer."""


Unpack = Callable[[type, int], Applied]
"""Unpacks an archive that it knows of by some rules (an ``extract.Extractor``) below a folder's descriptor."""


class GraphDriver(Protocol):
    """Layers are named by cache ids (random hex, chosen by the caller and committed to GraphDB beforehand)."""

    name: str
    stacks: bool
    """Whether a layer can be unpacked before its parent: ``create`` without one, ``apply``, in the end ``stack``."""
    opaque_marks: tuple[str, ...]
    """Attributes by which a folder of a layer hides what the layers below have in it: the one that ``apply`` sets (to
    "y"), then others that do the same. None of them where layers are whole trees."""

    def probe(self) -> None:
        """Raise OSError that says what is missing and what would fix it, where this driver cannot work."""

    def create(
        self, id: str, parent: str | None, *, writable: bool = False, large: bool = False, limit: int = 0
    ) -> None:
        """Make an empty layer on top of ``parent``. writable: it is a container's own.

        large: many files are to come. A driver may take some time to find where on the disk they are made quickly.
        limit: the bytes that it may come to have; 0: as many as there are. Raises InvalidParameter where the file
        system cannot limit a folder.
        """

    def apply(self, id: str, tar: BinaryIO | Unpack, record: Record | None = None) -> Applied:
        """Unpack an uncompressed layer tar (whiteouts included) into an empty layer, or have it unpacked.

        record: told of what is read from ``tar``. An ``Unpack`` reads by itself and records what it likes: ``record``
        means nothing beside it.

        Never touches anything outside the layer, whatever the archive holds; raises InvalidParameter for an archive
        that tries, leaving the layer to be removed by the caller.
        """

    def stack(self, id: str, parent: str, applied: Applied) -> None:
        """Put a layer that was made without a parent, and unpacked, on top of one: the same as if it had been given to
        ``create``. Called once, before anything is made of the layer; only where ``stacks``."""

    def remove(self, id: str) -> int:
        """Give the layer's bytes back; returns how many (st_blocks, hard links once). Idempotent."""

    def exists(self, id: str) -> bool:
        """Whether anything of the layer is on disk."""

    def parent(self, id: str) -> str | None:
        """What ``create`` was given; None also where there is no such layer."""

    def list(self) -> Iterator[str]:
        """All ids on disk, for reconciliation."""

    def check(self, layers: Sequence[Kept]) -> Iterator[Difference]:
        """What is not as ``create`` has left it of layers that exist (each after its parent), and of what the driver
        keeps beside them. Nothing is changed unless a difference is mended; layers may come and go meanwhile."""

    def root(self, id: str) -> Root:
        """Describe the root file system of a layer and its parents; mounts nothing."""

    def mounted(self, id: str) -> AbstractContextManager[Root]:
        """The same for whoever puts it into a mount namespace of its own, which it must have done at the exit: what
        the kernel cannot mount there is mounted on the host meanwhile. Raises OSError."""

    def open_root(self, id: str, *, readonly: bool = True, places: bool = False) -> int:
        """A directory descriptor of the assembled root (a detached mount, gone when it is closed).

        places: with what a container finds below all its layers, MARK and what is mounted on; where nothing is below,
        MARK is always there.
        """

    def open_layer(self, id: str) -> int:
        """A directory descriptor below which the files are that ``apply`` unpacked, at their own names."""

    def mending(self, id: str) -> AbstractContextManager[int]:
        """``open_layer`` for whoever puts right what somebody has changed there behind the driver's back."""

    def diff(self, id: str) -> Iterator[bytes]:
        """The layer as an uncompressed tar stream against its parent."""

    def changes(self, id: str) -> Iterator[Change]:
        """What differs from the parent, in path order; of a container's, from what it found when it was made."""

    def measure(self, id: str) -> Usage:
        """One layer, in one walk. content: of what it adds to its parent; disk: of everything that is there because of
        it, as ``remove`` gives it back. Nothing for a layer that is not there."""

    def remainder(self, known: Set[str]) -> Remainder:
        """Everything in the driver's folder that ``measure`` of these layers leaves out. Changes nothing."""

    def status(self) -> tuple[tuple[str, str], ...]:
        """What ``docker info`` shows under Storage Driver."""
