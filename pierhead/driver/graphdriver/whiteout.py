"""Whiteouts: how a layer says that something of the layers below is gone.

In an archive (OCI image-spec, layer.md) ``.wh.<name>`` hides one name and ``.wh..wh..opq`` everything below the
directory it is in.  On an overlay the first is a character device 0:0, the second the attribute
``trusted.overlay.opaque``; where layers are copies (vfs), both are done at once, by deleting.

A whiteout concerns the layers below only: what the same archive has under that name stays, whichever comes first.
"""

import contextlib
import errno
import os
import stat
from typing import BinaryIO

from pierhead.driver.graphdriver.api import Applied, Record
from pierhead.driver.graphdriver.extract import Extractor
from pierhead.driver.graphdriver.remove import remove_at
from pierhead.driver.graphdriver.tar import CHARACTER, DIRECTORY, BadArchive, Budget, Entry
from pierhead.driver.graphdriver.tree import open_directory

PREFIX = b".wh."
META = b".wh..wh."
OPAQUE = b".wh..wh..opq"
OPAQUE_XATTR = "trusted.overlay.opaque"


def is_whiteout(found: os.stat_result) -> bool:
    """Whether a node of an overlay's layer is a whiteout."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def is_opaque(fd: int) -> bool:
    """Whether a directory of an overlay's layer hides what is below it."""
    try:
        return os.getxattr(fd, OPAQUE_XATTR) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise


class LayerExtractor(Extractor):
    """Knows whiteouts by name; what they do is the subclass's."""

    def _check_parent(self, path: bytes) -> None:
        if path.startswith(PREFIX) or b"/" + PREFIX in path:
            raise BadArchive(f"archive: {os.fsdecode(path)!r}: nothing can be in or linked to a whiteout")

    def _special(self, entry: Entry) -> bool:
        parent, _, base = entry.name.rpartition(b"/")
        if not base.startswith(PREFIX):
            if entry.kind == CHARACTER and not entry.device:
                raise BadArchive(f"archive: {os.fsdecode(entry.name)!r} is a device 0:0: a whiteout to overlayfs")
            return False
        if base == OPAQUE:
            self._opaque(parent)
        elif base.startswith(META):
            pass  # metadata of aufs, which means nothing here
        elif entry.kind == DIRECTORY or base[len(PREFIX) :] in (b"", b".", b".."):
            raise BadArchive(f"archive: {os.fsdecode(entry.name)!r} is an invalid whiteout")
        else:
            name = base[len(PREFIX) :]
            self._hide(parent, name, parent + b"/" + name if parent else name)
        return True

    def _opaque(self, path: bytes) -> None:
        raise NotImplementedError

    def _hide(self, parent: bytes, base: bytes, path: bytes) -> None:
        raise NotImplementedError


class OverlayExtractor(LayerExtractor):
    """Into a layer's own directory, which the kernel will put on top of the parent's.

    The parent is not asked: what a directory has to inherit from it is told in the end (``Applied.inherits``).
    """

    def __init__(self, root: int, *, budget: Budget | None = None, record: Record | None = None) -> None:
        super().__init__(root, budget=budget, record=record)
        self._inherits = {b"": None}  # in the order of the archive
        self._root_opaque = False

    def run(self, stream: BinaryIO) -> Applied:
        """As the base's."""
        applied = super().run(stream)
        return Applied(applied.size, applied.entries, tuple(self._inherits), self._root_opaque)

    def _mark(self, above: int, base: bytes) -> None:
        fd = open_directory(above, base)
        try:
            os.setxattr(fd, OPAQUE_XATTR, b"y")
        finally:
            os.close(fd)

    def _opaque(self, path: bytes) -> None:
        self._mark(self._directory(path), b".")
        if not path:
            self._root_opaque = True

    def _hide(self, parent: bytes, base: bytes, path: bytes) -> None:
        above = self._directory(parent)
        try:
            os.mknod(base, stat.S_IFCHR, os.makedev(0, 0), dir_fd=above)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(base, dir_fd=above, follow_symlinks=False).st_mode):
                self._mark(above, base)

    def _give_way(self, above: int, base: bytes, path: bytes) -> bool:
        if not is_whiteout(os.stat(base, dir_fd=above, follow_symlinks=False)):
            return False
        os.unlink(base, dir_fd=above)
        os.mkdir(base, 0o700, dir_fd=above)
        self._mark(above, base)
        self._forget()
        return True

    def _clear(self, above: int, base: bytes, path: bytes, *, directory: bool) -> None:
        if not directory or not self._give_way(above, base, path):
            super()._clear(above, base, path, directory=directory)

    def _implied(self, fd: int, path: bytes) -> None:
        """It will be as in the layers below, which it would hide the attributes of."""
        super()._implied(fd, path)
        self._inherits[path] = None

    def _directory_metadata(self, fd: int, entry: Entry) -> None:
        super()._directory_metadata(fd, entry)
        self._inherits.pop(entry.name, None)


class CopyExtractor(LayerExtractor):
    """Into a copy of the parent: what is there and not of this archive is the parent's, and gives way."""

    def __init__(self, root: int, *, budget: Budget | None = None, record: Record | None = None) -> None:
        super().__init__(root, budget=budget, record=record)
        self._ours: dict[bytes, bool] = {}  # every path of this archive; False: only as a parent of another
        self._emptied: set[bytes] = set()
        self._first = False

    def _special(self, entry: Entry) -> bool:
        if super()._special(entry):
            return True
        self._first = not self._ours.get(entry.name, False)
        self._ours[entry.name] = True
        path = entry.name.rpartition(b"/")[0]
        while path and path not in self._ours:
            self._ours[path] = False
            path = path.rpartition(b"/")[0]
        return False

    def _opaque(self, path: bytes) -> None:
        """Once for each directory: a hostile archive may say it fifty thousand times (CVE-2026-95838)."""
        if path in self._emptied:
            return
        self._emptied.add(path)
        fd = open_directory(self._directory(path), b".")
        try:
            self._empty(fd, path)
        finally:
            os.close(fd)
        self._forget()

    def _empty(self, fd: int, path: bytes) -> None:
        """Delete what is not this archive's below a directory."""
        for name in os.listdir(fd):
            base = os.fsencode(name)
            self._drop(fd, base, path + b"/" + base if path else base)

    def _drop(self, above: int, base: bytes, path: bytes) -> None:
        if path not in self._ours:
            remove_at(above, base)
            return
        if not stat.S_ISDIR(os.stat(base, dir_fd=above, follow_symlinks=False).st_mode):
            return
        fd = open_directory(above, base)
        try:
            self._empty(fd, path)
        finally:
            os.close(fd)

    def _hide(self, parent: bytes, base: bytes, path: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._drop(self._directory(parent), base, path)
        self._forget()

    def _give_way(self, above: int, base: bytes, path: bytes) -> bool:
        if self._ours.get(path, False):
            return False
        os.unlink(base, dir_fd=above)
        os.mkdir(base, 0o700, dir_fd=above)
        self._forget()
        return True

    def _clear(self, above: int, base: bytes, path: bytes, *, directory: bool) -> None:
        if not self._first:
            super()._clear(above, base, path, directory=directory)
        elif directory and stat.S_ISDIR(os.stat(base, dir_fd=above, follow_symlinks=False).st_mode):
            fd = open_directory(above, base)
            try:
                for key in os.listxattr(fd):  # the entry says what the directory has from now on
                    os.removexattr(fd, key)
            finally:
                os.close(fd)
        else:
            remove_at(above, base)
            self._forget()
