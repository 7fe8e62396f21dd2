"""Unpack a tar archive below a directory descriptor, whatever the archive holds, without ever leaving it.

Every name is taken apart into its parent, which is opened with openat2(2) and RESOLVE_IN_ROOT (a symlink of the archive
is followed as a chroot would, so it cannot lead outside) and kept in a small cache, and a last component, which is
never followed: files are made with O_EXCL, owners and times set through the new descriptor.  Devices are made, never
opened.  This class takes whiteouts as plain names; ``whiteout`` has those that know layers.
"""

import errno
import os
import stat
from collections.abc import Iterable
from typing import BinaryIO

from pierhead.driver.graphdriver.api import Applied, Record
from pierhead.driver.graphdriver.tar import (
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    BadArchive,
    Budget,
    Entry,
    TarReader,
    clean,
)
from pierhead.linux.openat import open_in_root

IMPLIED_MODE = 0o755
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLACES = 192
_HOLE = 4096
"""Bytes of zeros in one piece from which on a file gets a hole: archives do not say where theirs had one."""
_SPECIAL = {CHARACTER: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}


def open_in(root: int, path: bytes, flags: int) -> int:
    """Open a path below ``root`` as if it were the root directory; symlinks cannot lead out of it."""
    return open_in_root(root, os.fsdecode(path), flags)


class Extractor:
    """One archive into one directory. ``root`` stays the caller's; everything else that is opened is closed again."""

    steering: tuple[bytes, ...] = (b"trusted.overlay.",)
    """What extended attributes begin with that mean something to whoever puts layers on top of each other."""

    def __init__(self, root: int, *, budget: Budget | None = None, record: Record | None = None) -> None:
        self._root = root
        self._budget = budget or Budget()
        self._record = record
        self._places: dict[bytes, int] = {}
        self._times: dict[bytes, int] = {}
        self._size = 0
        self._entries = 0

    def run(self, stream: BinaryIO) -> Applied:
        """Unpack everything. Raises BadArchive, or OSError of the file system (ENOSPC); what was unpacked stays."""
        reader = TarReader(stream, self._budget, self._record.raw if self._record else None)
        try:
            for entry in reader:
                self._entries += 1
                self._place(reader, entry)
            self._finish()
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EXDEV):
                raise BadArchive(f"archive: {error}") from error
            # A user is to know which disk is full: the place is known by a descriptor alone.
            raise OSError(error.errno, error.strerror, os.readlink(f"/proc/self/fd/{self._root}")) from error
        finally:
            self._forget()
        return Applied(self._size, self._entries)

    def restore(self, entry: Entry) -> None:
        """Give what an entry has made, and is there, its owner, mode, attributes and time again. Raises OSError."""
        parent, _, base = entry.name.rpartition(b"/")
        above = open_in(self._root, parent, os.O_PATH | os.O_DIRECTORY)
        try:
            self._node_metadata(entry, above, base or b".")
        finally:
            os.close(above)

    # -- where things go ------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        """Drop every cached directory: what a name leads to may have changed."""
        for fd in self._places.values():
            os.close(fd)
        self._places.clear()

    def _keep(self, path: bytes, fd: int) -> int:
        if len(self._places) >= _PLACES:
            self._forget()
        self._places[path] = fd
        return fd

    def _directory(self, path: bytes) -> int:
        """A descriptor of a directory of the tree, made where it is missing. Valid until the next call."""
        missing: list[bytes] = []
        while (fd := self._known(path)) is None:
            missing.append(path)
            path = path.rpartition(b"/")[0]
        for path in reversed(missing):  # one after the other, not one within the other: there may be hundreds
            fd = self._made(path)
        return fd

    def _known(self, path: bytes) -> int | None:
        """The descriptor of one that is there."""
        fd = self._places.get(path)
        if fd is not None:
            return fd
        self._check_parent(path)
        try:
            return self._keep(path, open_in(self._root, path, os.O_PATH | os.O_DIRECTORY))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _made(self, path: bytes) -> int:
        """Make one in its parent, which is there."""
        above, base = self._split(path)
        try:
            os.mkdir(base, IMPLIED_MODE, dir_fd=above)
        except FileExistsError:
            if not self._give_way(above, base, path):
                raise BadArchive(f"archive: {os.fsdecode(path)!r} is used as a directory, which it is not") from None
            above, base = self._split(path)
        fd = os.open(base, _OPEN_DIRECTORY, dir_fd=above)
        self._implied(fd, path)
        return self._keep(path, fd)

    def _split(self, path: bytes) -> tuple[int, bytes]:
        """The parent's descriptor and the last component."""
        parent, _, base = path.rpartition(b"/")
        return self._directory(parent), base

    # -- what layers do differently ---------------------------------------------------------------------------------

    def _check_parent(self, path: bytes) -> None:
        """Refuse a directory name that nothing may be below."""

    def _special(self, entry: Entry) -> bool:
        """Whether the entry is no file but an instruction, and has been followed."""
        return False

    def _implied(self, fd: int, path: bytes) -> None:
        """Give a directory that the archive does not have its owner and mode."""
        os.fchown(fd, 0, 0)
        os.fchmod(fd, IMPLIED_MODE)

    def _give_way(self, above: int, base: bytes, path: bytes) -> bool:
        """Put a directory in the place of something else, if that may go; cached descriptors are closed then."""
        return False

    def _clear(self, above: int, base: bytes, path: bytes, *, directory: bool) -> None:
        """Take away what is in an entry's place; a directory stays for a directory. Raises BadArchive."""
        present = os.stat(base, dir_fd=above, follow_symlinks=False)
        if stat.S_ISDIR(present.st_mode):
            if directory:
                return
            try:
                os.rmdir(base, dir_fd=above)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                raise BadArchive(f"archive: {os.fsdecode(path)!r} would replace a directory that is in use") from None
        else:
            if self._record is not None and stat.S_ISREG(present.st_mode) and present.st_size:
                # The first content would be lost, and with it the way to write the same archive again.
                raise BadArchive(f"duplicates of file paths not supported: {os.fsdecode(path)!r}")
            os.unlink(base, dir_fd=above)
        self._forget()

    # -- entries ----------------------------------------------------------------------------------------------------

    def _place(self, reader: TarReader, entry: Entry) -> None:
        if not entry.name:
            if entry.kind != DIRECTORY:
                raise BadArchive("archive: an entry that is no directory has the root's name")
            self._directory_metadata(self._directory(b""), entry)
            return
        if self._special(entry):
            return
        above, base = self._split(entry.name)
        try:
            self._make(reader, entry, above, base)
        except FileExistsError:
            if entry.kind == HARD_LINK and clean(entry.link, "link") == entry.name:
                raise BadArchive(f"archive: {os.fsdecode(entry.name)!r} is a hard link to itself") from None
            self._clear(above, base, entry.name, directory=entry.kind == DIRECTORY)
            above, base = self._split(entry.name)
            self._make(reader, entry, above, base, again=True)

    def _make(self, reader: TarReader, entry: Entry, above: int, base: bytes, *, again: bool = False) -> None:
        if entry.kind == REGULAR:
            self._regular(reader, entry, above, base)
        elif entry.kind == DIRECTORY:
            try:
                os.mkdir(base, 0o700, dir_fd=above)
            except FileExistsError:
                if not again:
                    raise
            fd = os.open(base, _OPEN_DIRECTORY, dir_fd=above)
            self._directory_metadata(fd, entry)
            old = self._places.pop(entry.name, None)
            if old is not None:
                os.close(old)
            self._keep(entry.name, fd)
        elif entry.kind == HARD_LINK:
            self._hard_link(entry, above, base)
        else:
            if entry.kind == SYMLINK:
                os.symlink(entry.link, base, dir_fd=above)
                self._size += len(entry.link)
            else:
                os.mknod(base, _SPECIAL[entry.kind] | 0o600, entry.device, dir_fd=above)
            self._node_metadata(entry, above, base)

    def _regular(self, reader: TarReader, entry: Entry, above: int, base: bytes) -> None:
        fd = os.open(base, _CREATE, 0o600, dir_fd=above)
        try:
            if entry.size:
                hole = False
                for piece in reader.content():
                    if not piece[0] and len(piece) >= _HOLE and piece == bytes(len(piece)):
                        os.lseek(fd, len(piece), os.SEEK_CUR)
                        hole = True
                        continue
                    hole = False
                    written = os.write(fd, piece)
                    while written < len(piece):
                        written += os.write(fd, piece[written:])
                if hole:
                    os.ftruncate(fd, entry.size)  # it ends with one
                if self._record is not None:
                    self._record.content(entry.name, entry.size)
            os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
            if entry.xattrs:
                self._xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
            self._size += entry.size
        finally:
            os.close(fd)

    def _hard_link(self, entry: Entry, above: int, base: bytes) -> None:
        target = clean(entry.link, "link")
        parent, _, name = target.rpartition(b"/")
        self._check_parent(target)
        if not name:
            raise BadArchive(f"archive: {os.fsdecode(entry.name)!r} is a hard link to the root")
        try:
            # Not through the cache: it may be emptied by the look-up, and ``above`` is one of its descriptors.
            fd = open_in(self._root, parent, os.O_PATH | os.O_DIRECTORY)
            try:
                os.link(name, base, src_dir_fd=fd, dst_dir_fd=above, follow_symlinks=False)
            finally:
                os.close(fd)
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise BadArchive(
                f"archive: {os.fsdecode(entry.name)!r} is a hard link to {os.fsdecode(entry.link)!r}: {error.strerror}"
            ) from error

    # -- owners, modes, times ---------------------------------------------------------------------------------------

    def _directory_metadata(self, fd: int, entry: Entry) -> None:
        """fd may be an O_PATH one (the root's): it is opened again for what needs a real one."""
        real = os.open(b".", _OPEN_DIRECTORY, dir_fd=fd)
        try:
            os.fchown(real, entry.uid, entry.gid)
            os.fchmod(real, entry.mode)
            self._xattrs(real, entry)
        finally:
            os.close(real)
        # What comes below it later would change the time: set at the end.
        self._times[entry.name] = entry.mtime

    def _node_metadata(self, entry: Entry, above: int, base: bytes) -> None:
        """A node that is not opened: *at calls, and for mode and xattrs the parent's descriptor in /proc."""
        os.chown(base, entry.uid, entry.gid, dir_fd=above, follow_symlinks=False)
        if entry.kind != SYMLINK:
            # fchmodat(2) follows symlinks, and a running container may put one there at any time (CVE-2021-41089).
            node = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
            try:
                if not stat.S_ISLNK(os.fstat(node).st_mode):
                    os.chmod(b"/proc/self/fd/%d" % node, entry.mode)
            finally:
                os.close(node)
        for key, value in self._wanted(entry):
            self._xattr(b"/proc/self/fd/%d/%s" % (above, base), key, value)
        os.utime(base, ns=(entry.mtime, entry.mtime), dir_fd=above, follow_symlinks=False)

    def _wanted(self, entry: Entry) -> Iterable[tuple[bytes, bytes]]:
        """The entry's extended attributes without those that would steer overlayfs itself."""
        return (item for item in entry.xattrs.items() if not item[0].startswith(self.steering))

    def _xattrs(self, fd: int, entry: Entry) -> None:
        for key, value in self._wanted(entry):
            self._xattr(fd, key, value)

    @staticmethod
    def _xattr(target: int | bytes, key: bytes, value: bytes) -> None:
        try:
            if isinstance(target, int):
                os.setxattr(target, key, value)
            else:
                os.setxattr(target, key, value, follow_symlinks=False)
        except OSError as error:
            # As Docker: a file system or a node that cannot have it goes without.
            if error.errno not in (errno.ENOTSUP, errno.EPERM):
                raise

    def _finish(self) -> None:
        """Directories' times, now that nothing is written below them any more."""
        for path, mtime in self._times.items():
            try:
                fd = open_in(self._root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except (FileNotFoundError, NotADirectoryError):
                continue  # replaced by a later entry
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                continue
            try:
                os.utime(fd, ns=(mtime, mtime))
            finally:
                os.close(fd)
