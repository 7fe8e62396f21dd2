"""The btrfs graph driver: every layer is a snapshot of its parent. Nothing is copied, and nothing is stacked.

<data_root>/btrfs/<id>/root      a subvolume: the layer with everything below it; read-only once it is unpacked
<data_root>/btrfs/<id>/parent    the parent's id
<data_root>/btrfs/<id>/mark      as with vfs

As with vfs a layer is a whole tree, so what differs is found by comparing; and a chain may be as long as one likes.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from typing import BinaryIO

from pierhead.driver.graphdriver.api import Applied, Record, Unpack, Usage
from pierhead.driver.graphdriver.remove import remove_tree
from pierhead.driver.graphdriver.usage import blocks
from pierhead.driver.graphdriver.vfs import VfsDriver
from pierhead.errors import InvalidParameter
from pierhead.linux import btrfs
from pierhead.linux.mountapi import file_system

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_QUOTAS = (errno.ENOTCONN, errno.EINVAL, errno.ENOENT)
"""What kernels say to a limit where quotas are off, or not counted for this subvolume."""


class BtrfsDriver(VfsDriver):
    """``GraphDriver`` on btrfs."""

    name = "btrfs"

    def probe(self) -> None:
        """Make a subvolume and delete it."""
        place = self._home if os.path.isdir(self._home) else os.path.dirname(self._home)
        fd = os.open(place, _DIRECTORY)
        try:
            if file_system(fd) != btrfs.MAGIC:
                raise OSError(
                    errno.ENOTSUP,
                    f"the storage driver btrfs does not work in {place}, which is on another file system: it needs its "
                    "data root on btrfs",
                )
        finally:
            os.close(fd)
        self._prepare()
        name = f"probe-{secrets.token_hex(8)}"
        fd = os.open(self._home, _DIRECTORY)
        try:
            btrfs.create(fd, name)
            btrfs.destroy(fd, name)
        except OSError as error:
            raise OSError(
                error.errno,
                f"the storage driver btrfs does not work in {self._home}: {error.strerror}. It needs root, who may "
                "make and delete subvolumes there",
            ) from error
        finally:
            os.close(fd)

    def _prepare(self) -> None:
        os.makedirs(self._home, mode=0o710, exist_ok=True)

    def create(
        self, id: str, parent: str | None, *, writable: bool = False, large: bool = False, limit: int = 0
    ) -> None:
        """Take a snapshot; a limit is for what it does not share with its parent."""
        self._prepare()
        os.mkdir(self._dir(id), 0o710)
        above = os.open(self._dir(id), _DIRECTORY)
        try:
            if parent is None:
                btrfs.create(above, "root")
                os.chown("root", 0, 0, dir_fd=above)
                os.chmod("root", 0o755, dir_fd=above)
            else:
                with open(self._dir(id, "parent"), "x") as file:
                    file.write(parent)
                source = self.open_layer(parent)
                try:
                    btrfs.snapshot(above, "root", source)
                finally:
                    os.close(source)
            if limit:
                self._limit(id, limit)
            if writable:
                self._mark(id)
        finally:
            os.close(above)

    def _limit(self, id: str, limit: int) -> None:
        fd = self.open_layer(id)
        try:
            btrfs.limit(fd, limit)
        except OSError as error:
            if error.errno not in _NO_QUOTAS:
                raise
            raise InvalidParameter(
                "--storage-opt size is supported on btrfs only where quotas are enabled: "
                f"btrfs quota enable {self._home}"
            ) from error
        finally:
            os.close(fd)

    def apply(self, id: str, tar: BinaryIO | Unpack, record: Record | None = None) -> Applied:
        """Unpack onto the snapshot, and let nobody change it any more."""
        applied = super().apply(id, tar, record)
        fd = self.open_layer(id)
        try:
            btrfs.set_readonly(fd, True)
        finally:
            os.close(fd)
        return applied

    @contextlib.contextmanager
    def mending(self, id: str) -> Iterator[int]:
        """Which can be changed meanwhile, if it is a subvolume."""
        with super().mending(id) as fd:
            subvolume = os.fstat(fd).st_ino == btrfs.ROOT_INODE
            if subvolume:
                btrfs.set_readonly(fd, False)
            try:
                yield fd
            finally:
                if subvolume:
                    btrfs.set_readonly(fd, True)

    def remove(self, id: str) -> int:
        """Delete the snapshot: what it shares with others stays theirs. The kernel frees the rest in the background."""
        freed = 0
        try:
            above = os.open(self._dir(id), _DIRECTORY)
        except FileNotFoundError:
            return 0
        try:
            if self._is_subvolume(above):
                fd = self.open_layer(id)
                try:
                    freed = self._written(id, fd).disk
                    number = btrfs.look(fd).id
                finally:
                    os.close(fd)
                btrfs.destroy(above, "root")
                btrfs.forget_limit(above, number)
                with contextlib.suppress(OSError):
                    btrfs.sync(above, wait=False)
        finally:
            os.close(above)
        return freed + remove_tree(self._dir(id))

    @staticmethod
    def _is_subvolume(above: int) -> bool:
        """Or a plain directory: a data root that was copied here from somewhere."""
        try:
            return os.stat("root", dir_fd=above, follow_symlinks=False).st_ino == btrfs.ROOT_INODE
        except FileNotFoundError:
            return False

    def _written(self, id: str, fd: int) -> btrfs.Written:
        """What the layer has of its own."""
        btrfs.sync(fd)
        parent = self.parent(id)
        if parent is None:
            return btrfs.written(fd, 0, None)
        made = btrfs.look(fd).made
        try:
            source = self.open_layer(parent)
        except FileNotFoundError:
            return btrfs.written(fd, made, None)  # both are being removed
        try:
            return btrfs.written(fd, made, btrfs.look(source).id)
        finally:
            os.close(source)

    def measure(self, id: str) -> Usage:
        """Asked of the file system's own tree: what a snapshot shares with its parent is the parent's, also on disk."""
        try:
            above = os.open(self._dir(id), _DIRECTORY)
        except FileNotFoundError:
            return Usage(0, 0)
        try:
            if not self._is_subvolume(above):
                return super().measure(id)
        finally:
            os.close(above)
        try:
            fd = self.open_layer(id)
        except FileNotFoundError:
            return Usage(0, 0)  # it is just being removed
        try:
            own = self._written(id, fd)
        finally:
            os.close(fd)
        return Usage(own.size, own.disk + blocks(self._dir(id)) + blocks(self._dir(id, "parent")))

    def status(self) -> tuple[tuple[str, str], ...]:
        """As dockerd's."""
        return (("Btrfs", ""),)
