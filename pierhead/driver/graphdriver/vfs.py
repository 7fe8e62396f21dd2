"""The vfs graph driver: every layer is a whole copy of its parent. Slow and large, and it works on any file system.

<data_root>/vfs/<id>/root      the layer with everything below it
<data_root>/vfs/<id>/parent    the parent's id
<data_root>/vfs/<id>/mark      empty, beside a container's: its /.dockerenv was made with it
"""

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import BinaryIO

from pierhead.difference import Difference
from pierhead.driver.graphdriver.api import MARK, Applied, Change, Kept, Record, Remainder, Unpack, Usage
from pierhead.driver.graphdriver.compare import ADDED, DELETED, compare
from pierhead.driver.graphdriver.detached import open_directory_mount
from pierhead.driver.graphdriver.notes import check_note, check_parent, lost
from pierhead.driver.graphdriver.pack import END, Packer
from pierhead.driver.graphdriver.projects import confine
from pierhead.driver.graphdriver.remove import remove_tree
from pierhead.driver.graphdriver.tree import copy_tree
from pierhead.driver.graphdriver.usage import Tally, blocks, measure
from pierhead.driver.graphdriver.whiteout import PREFIX, CopyExtractor
from pierhead.linux.mount import DirectoryRoot, Root
from pierhead.linux.openat import open_in_root
from pierhead.linux.placement import spread

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class VfsDriver:
    """``GraphDriver`` on plain directories."""

    name = "vfs"
    stacks = False
    """A layer begins as a copy of its parent."""
    opaque_marks: tuple[str, ...] = ()

    def __init__(self, data_root: str) -> None:
        self._home = os.path.join(data_root, self.name)

    def _dir(self, id: str, *parts: str) -> str:
        return os.path.join(self._home, id, *parts)

    def probe(self) -> None:
        """All it needs is a directory."""
        os.makedirs(self._home, mode=0o710, exist_ok=True)
        spread(self._home)

    def create(
        self, id: str, parent: str | None, *, writable: bool = False, large: bool = False, limit: int = 0
    ) -> None:
        """Copy the parent; a limit is for the copy as a whole."""
        os.makedirs(self._home, mode=0o710, exist_ok=True)
        os.mkdir(self._dir(id), 0o710)
        os.mkdir(self._dir(id, "root"), 0o755)
        if limit:
            confine((self._dir(id, "root"),), limit)
        if parent is None:
            # Whatever the data root hands down to new folders (set-group-ID, a default ACL).
            os.chown(self._dir(id, "root"), 0, 0)
            os.chmod(self._dir(id, "root"), 0o755)
        else:
            with open(self._dir(id, "parent"), "x") as file:
                file.write(parent)
            source = self.open_layer(parent)
            try:
                target = self.open_layer(id)
                try:
                    copy_tree(source, target)
                finally:
                    os.close(target)
            finally:
                os.close(source)
        if writable:
            self._mark(id)

    def _mark(self, id: str) -> None:
        """Make a container's MARK, where its image has none of its own."""
        fd = self.open_layer(id)
        try:
            # Exclusively: a link that an image has there is not followed.
            os.close(os.open(MARK, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755, dir_fd=fd))
        except FileExistsError:
            return
        finally:
            os.close(fd)
        with open(self._dir(id, "mark"), "x"):
            pass

    def _has_mark(self, id: str) -> bool:
        """Whether MARK is there as ``_mark`` makes it."""
        found = self._at_mark(id)
        return found is not None and stat.S_ISREG(found.st_mode) and not found.st_size

    def _at_mark(self, id: str) -> os.stat_result | None:
        fd = self.open_layer(id)
        try:
            return os.stat(MARK, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        finally:
            os.close(fd)

    def parent(self, id: str) -> str | None:
        """As ``create`` was told."""
        try:
            with open(self._dir(id, "parent")) as file:
                return file.read()
        except FileNotFoundError:
            return None

    def apply(self, id: str, tar: BinaryIO | Unpack, record: Record | None = None) -> Applied:
        """Unpack onto the copy; whiteouts delete."""
        fd = self.open_layer(id)
        try:
            return tar(CopyExtractor, fd) if callable(tar) else CopyExtractor(fd, record=record).run(tar)
        finally:
            os.close(fd)

    def stack(self, id: str, parent: str, applied: Applied) -> None:
        """Not possible."""
        raise NotImplementedError

    def remove(self, id: str) -> int:
        """Delete the copy."""
        return remove_tree(self._dir(id))

    def exists(self, id: str) -> bool:
        """Whether there is a directory of the id."""
        return os.path.isdir(self._dir(id))

    def list(self) -> Iterator[str]:
        """Every id."""
        try:
            yield from sorted(os.listdir(self._home))
        except FileNotFoundError:
            return

    def check(self, layers: Sequence[Kept]) -> Iterator[Difference]:
        """The copies are there, and say what they are copies of."""
        for layer in layers:
            if not os.path.isdir(self._dir(layer.id, "root")):
                yield lost(layer, self._dir(layer.id, "root"))
            yield from check_parent(layer, self._dir(layer.id, "parent"))
            if layer.writable:
                yield from self._check_mark(layer)

    def _check_mark(self, layer: Kept) -> Iterator[Difference]:
        """The note is needed where MARK is in a container alone."""
        with contextlib.suppress(FileNotFoundError):  # said of the layer, or of its parent
            if self._has_mark(layer.id) and (layer.parent is None or self._at_mark(layer.parent) is None):
                what = f"/{MARK} is taken for a change that the container of layer {layer.id[:12]} has made"
                yield from check_note(layer, self._dir(layer.id, "mark"), "", what)

    def root(self, id: str) -> DirectoryRoot:
        """The copy itself."""
        return DirectoryRoot(self._dir(id, "root"))

    def mounted(self, id: str) -> AbstractContextManager[Root]:
        """There is nothing to mount."""
        return nullcontext(self.root(id))

    def open_root(self, id: str, *, readonly: bool = True, places: bool = False) -> int:
        """A detached bind mount of the copy."""
        return open_directory_mount(self._dir(id, "root"), readonly=readonly)

    def open_layer(self, id: str) -> int:
        """The copy: what was unpacked is in it."""
        return os.open(self._dir(id, "root"), _DIRECTORY)

    @contextmanager
    def mending(self, id: str) -> Iterator[int]:
        """The copy alone: nothing depends on it any more."""
        fd = self.open_layer(id)
        try:
            yield fd
        finally:
            os.close(fd)

    def diff(self, id: str) -> Iterator[bytes]:
        """What ``changes`` names."""
        packer = Packer()
        fd = self.open_layer(id)
        try:
            for change in self.changes(id):
                path = os.fsencode(change.path[1:])
                parent, slash, base = path.rpartition(b"/")
                if change.kind == DELETED:
                    yield packer.marker(parent + slash + PREFIX + base)
                    continue
                try:
                    above = open_in_root(fd, os.fsdecode(parent), _DIRECTORY, links=False)
                except FileNotFoundError:
                    continue
                try:
                    yield from packer.node(above, base, path, os.stat(base, dir_fd=above, follow_symlinks=False))
                except FileNotFoundError:
                    continue  # a running container has just deleted it
                finally:
                    os.close(above)
            yield END
        finally:
            os.close(fd)

    def changes(self, id: str) -> Iterator[Change]:
        """Two whole trees compared."""
        parent = self.parent(id)
        below = None if parent is None else self.open_layer(parent)
        try:
            fd = self.open_layer(id)
            try:
                ours = Change(f"/{MARK}", ADDED)
                hidden = os.path.exists(self._dir(id, "mark")) and self._has_mark(id)
                yield from (change for change in compare(fd, below, overlay=False) if not (hidden and change == ours))
            finally:
                os.close(fd)
        finally:
            if below is not None:
                os.close(below)

    def measure(self, id: str) -> Usage:
        """Both trees compared, as for ``changes``: what differs is content, all of the copy is on the disk."""
        try:
            return self._measure(id)
        except FileNotFoundError:  # it is not there, or is just being made or removed
            return Usage(0, measure(self._dir(id)).disk)

    def _measure(self, id: str) -> Usage:
        fd = self.open_layer(id)
        try:
            found = os.fstat(fd)
            tally = Tally(found.st_dev)
            tally.add(found)
            parent = self.parent(id)
            below = None if parent is None else self.open_layer(parent)
            try:
                compare(fd, below, overlay=False, met=lambda found, differs: tally.add(found, content=differs))
            except RecursionError:
                # Too deep to be compared: all of it counts as its own.
                return Usage(measure(self._dir(id, "root")).content, measure(self._dir(id)).disk)
            finally:
                if below is not None:
                    os.close(below)
        finally:
            os.close(fd)
        disk = tally.usage.disk + blocks(self._dir(id)) + blocks(self._dir(id, "parent"))
        return Usage(tally.content, disk)

    def remainder(self, known: Set[str]) -> Remainder:
        """Directories of other ids."""
        try:
            present = set(os.listdir(self._home))
        except FileNotFoundError:
            return Remainder(0, (), frozenset(known))
        strays = tuple((self._dir(id), self.measure(id).disk) for id in sorted(present - known))
        return Remainder(blocks(self._home), strays, frozenset(known - present))

    def status(self) -> tuple[tuple[str, str], ...]:
        """As dockerd's: nothing to say."""
        return ()
