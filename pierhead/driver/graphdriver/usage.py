"""How much a tree takes, in one walk: the content of its files, and its blocks on the disk.

The content is what Docker calls the size: of all but directories, so that a symbolic link counts by its length.

The blocks are those of everything in it, its folders and long symbolic links included (st_blocks, in units of 512 bytes
whatever the file system's are), so that the figures of parts that share nothing add up to the figure of the whole.  A
file with several names counts once, a sparse one by what is written of it.
"""

import errno
import os
import stat
from contextlib import suppress

from pierhead.driver.graphdriver.api import Usage
from pierhead.linux.openat import open_in_root

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KIND = 0o170000
_FAR = 3000
"""Bytes of a path below a descriptor, after which the walk goes on from the directory that it has come to."""
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)
"""What a directory says that was replaced while the walk was on its way to it."""


class Tally:
    """Adds up what is met on a walk. device: where blocks count; what is mounted from elsewhere has but content."""

    def __init__(self, device: int) -> None:
        self.device = device
        self._seen: dict[tuple[int, int], bool] = {}
        self.content = 0
        self.blocks = 0

    def add(self, found: os.stat_result, *, content: bool = True) -> None:
        """Something that was met (``_level`` does the same in fewer steps). content: whether what is in it counts."""
        seen = counted = False
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            key = found.st_dev, found.st_ino
            seen, counted = key in self._seen, self._seen.get(key, False)
            self._seen[key] = counted or content
        if not seen and found.st_dev == self.device:
            self.blocks += found.st_blocks
        if content and not counted and not stat.S_ISDIR(found.st_mode):
            self.content += found.st_size

    @property
    def usage(self) -> Usage:
        """All of it."""
        return Usage(self.content, self.blocks * 512)


def blocks(path: str) -> int:
    """Bytes on disk of one thing itself, whatever is below it; 0 where nothing is."""
    try:
        return os.lstat(path).st_blocks * 512
    except FileNotFoundError:
        return 0


def measure(path: str, *, across: bool = True) -> Usage:
    """All of what is at a path of our own; nothing where nothing is. across: as for ``measure_tree``."""
    try:
        found = os.lstat(path)
        if stat.S_ISDIR(found.st_mode):
            fd = os.open(path, _DIRECTORY)
            try:
                return measure_tree(fd, across=across)
            finally:
                os.close(fd)
    except FileNotFoundError:
        return Usage(0, 0)
    tally = Tally(found.st_dev)
    tally.add(found)
    return tally.usage


def measure_tree(top: int, *, across: bool = True) -> Usage:
    """A directory with everything below it.

    across: other file systems that are mounted in it add their content, and no blocks; else they are left alone.
    Whoever writes there meanwhile is not in the way, and a tree may be of any depth.
    """
    found = os.fstat(top)
    tally = Tally(found.st_dev)
    tally.add(found)
    waiting: list[tuple[int, bytes | None]] = [(top, b"./" + name) for name in _level(top, tally, across)]
    try:
        while waiting:
            anchor, path = waiting.pop()
            if path is None:  # all that was to be reached through it has been
                os.close(anchor)
                continue
            try:
                fd = open_in_root(anchor, os.fsdecode(path), _DIRECTORY, links=False)
            except OSError as error:
                if error.errno not in _GONE:
                    raise
                continue
            far = len(path) > _FAR
            if far:
                waiting.append((fd, None))
                anchor, path = fd, b"."
            try:
                waiting += [(anchor, path + b"/" + name) for name in _level(fd, tally, across)]
            finally:
                if not far:
                    os.close(fd)
        return tally.usage
    finally:
        for anchor, path in waiting:
            if path is None:
                os.close(anchor)


def _level(fd: int, tally: Tally, across: bool) -> list[bytes]:
    """Count what is in a directory: the names of those in it."""
    below = []
    with suppress(FileNotFoundError), os.scandir(fd) as listing:  # a directory that is deleted meanwhile has no list
        for entry in listing:
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # a running container has just deleted it
            if found.st_dev != tally.device and not across:
                continue
            kind = found.st_mode & _KIND
            if kind == stat.S_IFDIR:
                below.append(os.fsencode(entry.name))
            elif found.st_nlink > 1:
                tally.add(found)
                continue
            else:
                tally.content += found.st_size
            if found.st_dev == tally.device:
                tally.blocks += found.st_blocks
    return below
