"""The overlay2 graph driver: a layer holds only what it adds; the kernel's overlayfs puts layers on top of each other.

What is where on the disk: ``overlaylayout``.
"""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

from pierhead.driver.graphdriver.api import Applied, Change, Record, Unpack
from pierhead.driver.graphdriver.compare import compare
from pierhead.driver.graphdriver.detached import open_overlay
from pierhead.driver.graphdriver.notes import write_note
from pierhead.driver.graphdriver.overlaylayout import SKELETON, OverlayLayout, opened
from pierhead.driver.graphdriver.pack import END, Packer
from pierhead.driver.graphdriver.projects import confine
from pierhead.driver.graphdriver.remove import remove_tree
from pierhead.driver.graphdriver.tree import copy_attributes, inherit, walk
from pierhead.driver.graphdriver.whiteout import OPAQUE, OPAQUE_XATTR, PREFIX, OverlayExtractor, is_opaque, is_whiteout
from pierhead.linux.dirent import knows_types
from pierhead.linux.mount import OverlayRoot, Root

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class OverlayDriver(OverlayLayout):
    """``GraphDriver`` on overlayfs."""

    name = "overlay2"
    stacks = True
    extractor = OverlayExtractor
    opaque_marks: tuple[str, ...] = (OPAQUE_XATTR,)
    marks = False
    """Whether files named ``.wh.…`` in a layer are notes of whoever stacks the layers."""
    needs = (
        "It needs root, the kernel module overlay (modprobe overlay) and a file system such as ext4, xfs with ftype=1 "
        "or btrfs; else use --storage-driver vfs"
    )

    def probe(self) -> None:
        """Mount one and delete a file through it: whiteouts need mknod, opaque directories trusted attributes."""
        self._prepare()
        trial = os.path.join(self._home, f"probe-{secrets.token_hex(8)}")
        try:
            for part in ("", "lower", "upper", "work"):
                os.mkdir(os.path.join(trial, part), 0o700)
            with open(os.path.join(trial, "lower", "file"), "x"):
                pass
            os.setxattr(os.path.join(trial, "lower"), "trusted.overlay.opaque", b"y")
            root = OverlayRoot((f"{trial}/lower", f"{self._home}/empty"), f"{trial}/upper", f"{trial}/work")
            fd = self._open_overlay(root, readonly=False)
            try:
                os.unlink("file", dir_fd=fd)
            finally:
                os.close(fd)
            if not is_whiteout(os.lstat(os.path.join(trial, "upper", "file"))):
                raise OSError(errno.ENOTSUP, "no whiteout was left")
            with opened(trial) as fd:
                if not knows_types(fd):
                    raise OSError(errno.ENOTSUP, "directories do not say of what type their entries are (d_type)")
        except OSError as error:
            raise OSError(
                error.errno, f"{self.name} does not work in {self._home}: {error.strerror}. {self.needs}"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                remove_tree(trial)

    def create(
        self, id: str, parent: str | None, *, writable: bool = False, large: bool = False, limit: int = 0
    ) -> None:
        """Make the layer's directory and its short name."""
        if not os.path.isdir(os.path.join(self._home, "empty")):
            self._prepare()
        lower = "" if parent is None else self._on(parent)
        if large:
            self._places.take(self._dir(id))
        else:
            os.mkdir(self._dir(id), 0o710)
        os.mkdir(self._dir(id, "diff"), 0o755)
        if parent is not None:
            self._write(id, "parent", parent)
            self._like(self._dir(parent, "diff"), self._dir(id, "diff"))
        elif not writable:
            # Whatever the data root hands down to new folders (set-group-ID, a default ACL).
            os.chown(self._dir(id, "diff"), 0, 0)
            os.chmod(self._dir(id, "diff"), 0o755)
        if writable:
            # Nothing is ever stacked on a container's layer: it needs no short name, and its chain is its parent's.
            os.mkdir(self._dir(id, "work"), 0o700)
            if limit:
                confine((self._dir(id, "diff"), self._dir(id, "work")), limit)
            return
        self._write(id, "lower", lower)
        short = self._shorten(id)
        try:
            self._write(id, "link", short)
        except OSError:
            os.unlink(os.path.join(self._home, "l", short))  # nothing else knows of it
            raise

    @staticmethod
    def _like(source: str, target: str, *, opaque: bool = False) -> None:
        """The merged root directory looks like the topmost layer's: begin with the parent's.

        opaque: the target hides what is below it, and goes on doing so.
        """
        found = os.stat(source)
        os.chown(target, found.st_uid, found.st_gid)
        os.chmod(target, stat.S_IMODE(found.st_mode))
        to_fd = os.open(target, _DIRECTORY)
        from_fd = os.open(source, _DIRECTORY)
        try:
            copy_attributes(from_fd, to_fd)
            if not opaque:
                with contextlib.suppress(OSError):
                    os.removexattr(to_fd, "trusted.overlay.opaque")
            os.utime(to_fd, ns=(found.st_atime_ns, found.st_mtime_ns))
        finally:
            os.close(from_fd)
            os.close(to_fd)

    def apply(self, id: str, tar: BinaryIO | Unpack, record: Record | None = None) -> Applied:
        """Unpack into ``diff``."""
        parent = self.parent(id)
        fd = self.open_layer(id)
        try:
            applied = tar(self.extractor, fd) if callable(tar) else self.extractor(fd, record=record).run(tar)
        finally:
            os.close(fd)
        if applied.opaque:
            # overlayfs does not ask the roots of its layers whether they are opaque: cut the chain here.
            write_note(self._dir(id, "lower"), "")
        if parent is not None:
            self._inherit(id, parent, applied)
            self._merge_long(id)
        return applied

    def stack(self, id: str, parent: str, applied: Applied) -> None:
        """Nothing of the unpacked files depends on the parent but the attributes of what the archive does not have."""
        lower = self._on(parent)
        self._write(id, "parent", parent)
        if not applied.opaque:
            write_note(self._dir(id, "lower"), lower)
        self._inherit(id, parent, applied)
        self._merge_long(id)

    def _inherit(self, id: str, parent: str, applied: Applied) -> None:
        """Directories that the archive does not have hide those of the layers below: they get their attributes."""
        wanted = [path for path in applied.inherits if path]
        if len(wanted) < len(applied.inherits):
            self._like(self._dir(parent, "diff"), self._dir(id, "diff"), opaque=applied.opaque)
        if not wanted:
            return
        fd = self.open_layer(id)
        try:
            below = self.open_root(parent)
            try:
                for path in wanted:
                    inherit(below, fd, path)
            finally:
                os.close(below)
        finally:
            os.close(fd)

    def root(self, id: str) -> OverlayRoot:
        """A writable layer is the upper directory; any other is the topmost of a read-only view."""
        if os.path.isdir(self._dir(id, "work")):
            parent = self.parent(id)
            chain = "" if parent is None else self._chain_through(parent)
            below = [f"{self._home}/l/{short}" for short in chain.split(":") if short]
            return OverlayRoot(
                (*below, os.path.join(self._home, SKELETON)), self._dir(id, "diff"), self._dir(id, "work")
            )
        lower = [f"{self._home}/l/{short}" for short in self._read(id, "lower").split(":") if short]
        own = f"{self._home}/l/{self._read(id, 'link')}"
        return OverlayRoot((own, *(lower or [f"{self._home}/empty"])))

    def mounted(self, id: str) -> AbstractContextManager[Root]:
        """The kernel mounts it where it is wanted."""
        return contextlib.nullcontext(self.root(id))

    def open_root(self, id: str, *, readonly: bool = True, places: bool = False) -> int:
        """A detached overlay mount. readonly leaves a writable layer's upper directory out of use for others to use."""
        root = self.root(id)
        if root.upper is not None:
            # Where nothing is to be mounted there is no skeleton.
            lower = root.lower if places else (*root.lower[:-1], os.path.join(self._home, "empty"))
            root = OverlayRoot((root.upper, *lower)) if readonly else OverlayRoot(lower, root.upper, root.work)
        return self._open_overlay(root, readonly=readonly)

    def _open_overlay(self, root: OverlayRoot, *, readonly: bool) -> int:
        return open_overlay(root, readonly=readonly)

    def open_layer(self, id: str) -> int:
        """``diff``."""
        return os.open(self._dir(id, "diff"), _DIRECTORY)

    @contextlib.contextmanager
    def mending(self, id: str) -> Iterator[int]:
        """The chain is cut or goes on, as the root's mark says then."""
        with opened(self._dir(id, "diff")) as fd:
            yield fd
            parent = self.parent(id)
            if parent is not None:
                write_note(self._dir(id, "lower"), "" if is_opaque(fd) else self._on(parent))

    def diff(self, id: str) -> Iterator[bytes]:
        """``diff`` with its whiteouts translated."""
        packer = Packer()
        fd = self.open_layer(id)
        try:
            if is_opaque(fd):
                yield packer.marker(OPAQUE)
            for above, base, path, found in walk(fd):
                if self.marks and base.startswith(PREFIX):
                    continue
                if is_whiteout(found):
                    parent, slash, name = path.rpartition(b"/")
                    yield packer.marker(parent + slash + PREFIX + name)
                    continue
                yield from packer.node(above, base, path, found)
                if stat.S_ISDIR(found.st_mode) and self._opaque_at(above, base):
                    yield packer.marker(path + b"/" + OPAQUE)
            yield END
        finally:
            os.close(fd)

    @staticmethod
    def _opaque_at(above: int, base: bytes) -> bool:
        try:
            fd = os.open(base, _DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            return is_opaque(fd)
        finally:
            os.close(fd)

    def changes(self, id: str) -> Iterator[Change]:
        """``diff`` against the parent's assembled root, and the skeleton below a container's."""
        below: int | None
        root, parent = self.root(id), self.parent(id)
        if root.upper is not None:
            below = self._open_overlay(OverlayRoot((*root.lower, os.path.join(self._home, "empty"))), readonly=True)
        else:
            below = None if parent is None else self.open_root(parent)
        try:
            fd = self.open_layer(id)
            try:
                yield from compare(fd, below, overlay=True)
            finally:
                os.close(fd)
        finally:
            if below is not None:
                os.close(below)

    def status(self) -> tuple[tuple[str, str], ...]:
        """As dockerd's."""
        return (
            ("Backing Filesystem", _backing(self._home)),
            ("Supports d_type", "true"),
            ("Using metacopy", "false"),
            ("Native Overlay Diff", "true"),
            ("userxattr", "false"),
        )


def _backing(path: str) -> str:
    """The name of the file system that a directory is on, by /proc/self/mountinfo (proc(5))."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields = line.split()
            if fields[2] == wanted:
                kind = fields[fields.index("-") + 1]
                return {"ext2": "extfs", "ext3": "extfs", "ext4": "extfs"}.get(kind, kind)
    return "<unknown>"
