"""Layers of an overlay merged into one directory: for chains that are longer than the kernel stacks.

What is no directory is a hard link to the layer's own file, so that a merged tree takes the space of its directories
alone; whiteouts have been followed and are not in it.
"""

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress

from pierhead.driver.graphdriver.remove import remove_at
from pierhead.driver.graphdriver.tree import copy_attributes, copy_node, walk
from pierhead.driver.graphdriver.usage import blocks
from pierhead.driver.graphdriver.whiteout import OPAQUE_XATTR, is_opaque, is_whiteout
from pierhead.linux.openat import open_in_root

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CANNOT_LINK = (errno.EMLINK, errno.EXDEV, errno.EPERM)

Times = dict[bytes, tuple[int, int]]


def merge(layers: Sequence[str], target: int) -> None:
    """Put layers, the lowest first, into an empty directory, as overlayfs would show them."""
    times: Times = {}
    for path in layers:
        source = os.open(path, _DIRECTORY)
        try:
            _add(source, target, times)
        finally:
            os.close(source)
    _finish(target, times)


def _add(source: int, target: int, times: Times) -> None:
    """One layer on top of what is there. Its paths are those of an archive: none is longer than the kernel takes."""
    paths = [b"."]
    for path in paths:
        from_fd = open_in_root(source, os.fsdecode(path), _DIRECTORY, links=False)
        try:
            to_fd = open_in_root(target, os.fsdecode(path), _DIRECTORY, links=False)
            try:
                paths += [path + b"/" + name for name in _directory(from_fd, to_fd)]
            finally:
                os.close(to_fd)
            found = os.fstat(from_fd)
            times[path] = found.st_atime_ns, found.st_mtime_ns
        finally:
            os.close(from_fd)


def _directory(source: int, target: int) -> list[bytes]:
    """One directory without what is below it; the names of the directories in it."""
    if is_opaque(source):
        for name in os.listdir(target):
            remove_at(target, os.fsencode(name))
    _like(source, target)
    below = []
    for name in os.listdir(source):
        base = os.fsencode(name)
        found = os.stat(base, dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            below.append(base)
            _make_directory(target, base)
            continue
        remove_at(target, base)
        if not is_whiteout(found):
            _link(source, target, base, found)
    return below


def _make_directory(target: int, base: bytes) -> None:
    try:
        os.mkdir(base, 0o700, dir_fd=target)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(base, dir_fd=target, follow_symlinks=False).st_mode):
            os.unlink(base, dir_fd=target)
            os.mkdir(base, 0o700, dir_fd=target)


def _link(source: int, target: int, base: bytes, found: os.stat_result) -> None:
    """A copy, sharing its bytes where the file system can, where there can be no more links (ext4 has 65000)."""
    try:
        os.link(base, base, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        copy_node(source, target, base, found, (found.st_uid, found.st_gid))


def _like(source: int, target: int) -> None:
    found = os.fstat(source)
    os.fchown(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    for key in os.listxattr(target):
        os.removexattr(target, key)
    copy_attributes(source, target)
    with suppress(OSError):
        os.removexattr(target, OPAQUE_XATTR)


def _finish(target: int, times: Times) -> None:
    """The directories' times, now that nothing is made in them any more."""
    for path, ns in times.items():
        try:
            fd = open_in_root(target, os.fsdecode(path), _DIRECTORY | os.O_NOFOLLOW, links=False)
        except (FileNotFoundError, NotADirectoryError):
            continue  # of a lower layer, and gone
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            continue
        try:
            os.utime(fd, ns=ns)
        finally:
            os.close(fd)


def unshared(merged: str) -> int:
    """Bytes on disk of a merged tree without those of the layers: its directories, and what could not be linked."""
    taken = blocks(merged)
    fd = os.open(merged, _DIRECTORY)
    try:
        for _, _, _, found in walk(fd):
            if stat.S_ISDIR(found.st_mode) or found.st_nlink == 1:
                taken += found.st_blocks * 512
    finally:
        os.close(fd)
    return taken
