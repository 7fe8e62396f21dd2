"""Files of a container as an archive, and an archive among them: below an open root directory, whatever happens there.

A running container may put a link in the place of anything at any moment.  So a name is looked up by openat2(2) below
the root, or is the last component in a directory that is open, and is not followed there; what is written or read is
what was opened, and nothing is led out of the root.
"""

import errno
import os
import posixpath
import stat
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, replace

from pierhead.driver.graphdriver.extract import IMPLIED_MODE, Extractor
from pierhead.driver.graphdriver.pack import END, Packer
from pierhead.driver.graphdriver.tar import DIRECTORY, HARD_LINK, Entry, TarReader, clean
from pierhead.driver.graphdriver.tree import walk
from pierhead.errors import InvalidParameter, PierheadError
from pierhead.linux import const
from pierhead.linux.mountapi import file_system
from pierhead.linux.openat import open_beneath, open_in_root

MAX_LINKS = 255
_PLACE = os.O_PATH | os.O_DIRECTORY
_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_FILES = frozenset((const.PROC_SUPER_MAGIC, const.SYSFS_MAGIC, const.CGROUP_SUPER_MAGIC, const.CGROUP2_SUPER_MAGIC))
"""File systems whose content is made by the kernel while it is read: nothing to be copied."""

Owner = Callable[[int, int, int], tuple[int, int]]
"""(a descriptor in the file system, uid, gid) of the container's to the ones to be stored there."""


@dataclass(frozen=True, slots=True)
class Path:
    """A path in a container as it was asked for. clean: without "." and ".."; followed: a last link is meant as well.

    name: how Docker calls what is there ("/" for the root, "." for "…/.").
    """

    clean: str
    followed: bool
    name: str


def path(text: str) -> Path:
    """Take a path as Go's filepath does (lexically), with what a trailing "/" or "/." says."""
    found = posixpath.normpath("/" + text.lstrip("/"))
    if found == "/":
        return Path("/", True, "/")
    last = text.rstrip("/").rpartition("/")[2]
    if last == ".":
        return Path(found, True, ".")
    return Path(found, text.endswith("/"), found.rpartition("/")[2])


@dataclass(frozen=True, slots=True)
class Node:
    """What is at a path. above, base: the directory, open, and the name in it ("." for a directory itself)."""

    above: int
    base: bytes
    found: os.stat_result


def find(root: int, wanted: Path) -> Node:
    """Look a path up; ``above`` is the caller's to close. Raises OSError."""
    if not wanted.followed:
        parent, _, name = wanted.clean.rpartition("/")
        above = open_in_root(root, parent or "/", _PLACE)
        try:
            found = os.stat(name, dir_fd=above, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                return Node(above, os.fsencode(name), found)
            directory = os.open(name, _PLACE | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        except BaseException:
            os.close(above)
            raise
        os.close(above)
    else:
        directory = open_in_root(root, wanted.clean, _PLACE)
    return Node(directory, b".", os.fstat(directory))


def link_target(root: int, wanted: Path) -> str:
    """Where a link at a path leads to, followed as far as there is something. Only told: nothing is opened by it."""
    left = wanted.clean.split("/")[::-1]
    at, links = "/", 0
    while left:
        part = left.pop()
        if part in ("", "."):
            continue
        if part == "..":
            at = posixpath.dirname(at)
            continue
        target = ""
        with suppress(OSError):
            above = open_in_root(root, at, _PLACE)
            try:
                target = os.readlink(part, dir_fd=above)
            finally:
                os.close(above)
        if not target:
            at = posixpath.join(at, part)
            continue
        links += 1
        if links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), wanted.clean)
        at = "/" if target.startswith("/") else at
        left += target.split("/")[::-1]
    return at


def _has_files(directory: int) -> bool:
    return file_system(directory) not in _NO_FILES


def check_readable(node: Node) -> None:
    """Raise InvalidParameter for a file that the kernel makes up while it is read."""
    if not stat.S_ISDIR(node.found.st_mode) and not _has_files(node.above):
        raise InvalidParameter(f"{os.fsdecode(node.base)} is in a file system of the kernel's: nothing to be copied")


def pack(
    node: Node, name: str, owner: Callable[[os.stat_result], tuple[int, int]] | None
) -> Generator[bytes, None, None]:
    """An archive of what was found, called ``name`` in it ("/": the root). Closes ``node.above``."""
    try:
        packer = Packer(owner=owner)
        top = b"" if name == "/" else os.fsencode(name)
        yield from packer.node(node.above, node.base, top, node.found)
        if node.base == b"." and _has_files(node.above):
            directory = os.open(".", _READ, dir_fd=node.above)
            try:
                for above, base, path, found in walk(directory, top, _has_files):
                    yield from packer.node(above, base, path if top else b"/" + path, found)
            finally:
                os.close(directory)
        yield END
    finally:
        os.close(node.above)


def open_target(root: int, wanted: Path) -> int:
    """The directory to unpack into. Raises InvalidParameter where it is none or may not be written to, OSError."""
    target = open_in_root(root, wanted.clean)
    try:
        if not stat.S_ISDIR(os.fstat(target).st_mode):
            raise InvalidParameter("extraction point is not a directory")
        if not _has_files(target):
            raise InvalidParameter(f"{wanted.clean} is in a file system of the kernel's, to which nothing is copied")
        if os.fstatvfs(target).f_flag & os.ST_RDONLY:
            what = "container rootfs" if _mount_id(target) == _mount_id(root) else "mounted volume"
            raise InvalidParameter(f"{what} is marked read-only")
    except BaseException:
        os.close(target)
        raise
    return target


def _mount_id(descriptor: int) -> str:
    """Of the mount that the descriptor is in (proc(5), fdinfo)."""
    with open(f"/proc/self/fdinfo/{descriptor}") as file:
        return next(line.split()[1] for line in file if line.startswith("mnt_id:"))


class FileExtractor(Extractor):
    """Unpacks among files that are there: what the archive has takes their place; directories are merged.

    ``root`` is the container's root, for links lead from there; below: the directory to unpack into.  strict: neither
    takes a directory the place of something else nor something else that of a directory.  given: who owns everything
    that the archive has, whatever it says.
    """

    def __init__(
        self, root: int, below: str, owner: Owner, *, strict: bool, given: tuple[int, int] | None = None
    ) -> None:
        super().__init__(root)
        self._below = os.fsencode(below.strip("/"))
        self._owner = owner
        self._strict = strict
        self._given = given

    def _inside(self, name: bytes) -> bytes:
        return self._below + b"/" + name if self._below else name

    def _place(self, reader: TarReader, entry: Entry) -> None:
        if not entry.name and entry.kind == DIRECTORY:
            return  # the place that everything goes to stays as it is
        entry.name = self._inside(entry.name) if entry.name else b""
        if entry.kind == HARD_LINK:
            entry.link = self._inside(clean(entry.link, "link"))
        super()._place(reader, entry)

    def _owned(self, entry: Entry, descriptor: int) -> Entry:
        uid, gid = self._owner(descriptor, *(self._given or (entry.uid, entry.gid)))
        return replace(entry, uid=uid, gid=gid)

    def _regular(self, reader: TarReader, entry: Entry, above: int, base: bytes) -> None:
        super()._regular(reader, self._owned(entry, above), above, base)

    def _directory_metadata(self, fd: int, entry: Entry) -> None:
        super()._directory_metadata(fd, self._owned(entry, fd))

    def _node_metadata(self, entry: Entry, above: int, base: bytes) -> None:
        super()._node_metadata(self._owned(entry, above), above, base)

    def _implied(self, fd: int, path: bytes) -> None:
        os.fchown(fd, *self._owner(fd, 0, 0))
        os.fchmod(fd, IMPLIED_MODE)

    def _clear(self, above: int, base: bytes, path: bytes, *, directory: bool) -> None:
        present = stat.S_ISDIR(os.stat(base, dir_fd=above, follow_symlinks=False).st_mode)
        if present and directory:
            return
        if self._strict and present != directory:
            what, by = ("directory", "non-directory") if present else ("non-directory", "directory")
            raise PierheadError(
                f'cannot overwrite {what} "/{os.fsdecode(path)}" with {by} "/{os.fsdecode(self._below)}"'
            )
        _remove(above, base)
        self._forget()


def _remove(above: int, base: bytes) -> None:
    """Delete a tree, but nothing of what is mounted in it. Raises OSError (EBUSY) where something is."""
    try:
        os.unlink(base, dir_fd=above)
        return
    except IsADirectoryError:
        pass
    try:
        directory = open_beneath(above, os.fsdecode(base), _READ)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), os.fsdecode(base)) from None
    try:
        for name in os.listdir(directory):
            _remove(directory, os.fsencode(name))
    finally:
        os.close(directory)
    os.rmdir(base, dir_fd=above)
