"""Delete directory trees by descriptor, and say how many bytes that gave back.

Each directory is listed once: its files are counted and unlinked by that list, and it goes itself when what is below it
is gone.  Whether that waits is the file system's: ext4 without a journal that is mounted with ``discard`` tells the
disk of each file's blocks and waits for its answer, one with a journal may wait for that.  Where most unlinks wait,
and for long, several threads take files away at once, though they be of one directory: the kernel gives a file's
blocks back after it has let go of the directory (do_unlinkat in fs/namei.c).
"""

import os
import resource
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from pierhead.driver.graphdriver.tree import open_directory
from pierhead.linux.openat import open_in_root

_DEEP = 64
_FAR = 3000
"""Directories and bytes of a path below the top, after which a directory is moved up to it."""
_BATCH = 64
_THREADS = 16
_LONG = 100e-6
"""Seconds that an unlink takes at least if it waits for a disk; the interpreter's lock mostly comes sooner."""


def waits() -> tuple[int, float]:
    """How often this thread has waited for something, be it the interpreter's lock; seconds of a clock."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw, time.monotonic()


def remove_tree(path: str) -> int:
    """``remove_at`` for an absolute host path of our own. Raises OSError, which names it."""
    parent, base = os.path.split(path)
    try:
        above = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        return remove_at(above, os.fsencode(base))
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(above)


def remove_at(above: int, base: bytes, waited: Callable[[], tuple[int, float]] = waits) -> int:
    """Delete ``base`` and everything below it; bytes given back (st_blocks; a hard link counts when it is the last).

    Does not mind what is gone already. Trees of any depth: what is too far down is moved up first, so that neither
    descriptors nor paths run out.  waited: as ``waits``.
    """
    try:
        found = os.stat(base, dir_fd=above, follow_symlinks=False)
    except FileNotFoundError:
        return 0
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(base, dir_fd=above)
        return found.st_blocks * 512 if found.st_nlink == 1 else 0
    top = open_directory(above, base)
    try:
        freed = _clear(top, waited)
        while os.listdir(top):  # what was moved up
            freed += _clear(top, waited)
    finally:
        os.close(top)
    os.rmdir(base, dir_fd=above)
    return freed + found.st_blocks * 512


def _clear(top: int, waited: Callable[[], tuple[int, float]]) -> int:
    """Delete what is in a directory, but for what is too far down: that is in it afterwards. Returns bytes."""
    freed = 0
    levels: list[tuple[bytes, list[str]]] = []
    with _Unlinking(top, waited) as unlinking:
        folders = [b"."]
        for path in folders:
            below: list[str] = []
            files: list[str] = []
            fd = _open(top, path)
            try:
                if levels:  # the top itself is the caller's
                    freed += os.fstat(fd).st_blocks * 512
                far = path.count(b"/") >= _DEEP or len(path) > _FAR
                with os.scandir(fd) as listing:
                    for entry in listing:
                        (below if entry.is_dir(follow_symlinks=False) else files).append(entry.name)
                unlinking.take(fd, path, files)
                for name in below if far else ():
                    os.rename(name, f".deep-{os.urandom(8).hex()}", src_dir_fd=fd, dst_dir_fd=top)
            finally:
                os.close(fd)
            levels.append((path, [] if far else below))
            folders += [path + b"/" + os.fsencode(name) for name in levels[-1][1]]
    for path, below in reversed(levels):
        if below:
            fd = _open(top, path)
            try:
                for name in below:
                    os.rmdir(name, dir_fd=fd)
            finally:
                os.close(fd)
    return freed + unlinking.freed


def _open(top: int, path: bytes) -> int:
    return open_in_root(top, os.fsdecode(path), os.O_RDONLY | os.O_DIRECTORY, links=False)


class _Unlinking:
    """Takes the files of a tree away: at once, or by threads as soon as that has been seen to wait.

    After the ``with`` all are gone, and ``freed`` says how many bytes they were. Raises OSError there, too.
    """

    def __init__(self, top: int, waited: Callable[[], tuple[int, float]]) -> None:
        self.freed = 0
        self._waited = waited
        self._top = top
        self._links = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._parts: list[Future[int]] = []
        self._seen, self._waits, self._took = 0, 0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=error is not None)
            self.freed += sum(part.result() for part in self._parts if error is None)

    def take(self, fd: int, path: bytes, names: list[str]) -> None:
        """The files of an open directory. path: the same from the top."""
        for at in range(0, len(names), _BATCH):
            batch = names[at : at + _BATCH]
            if self._pool is not None:
                self._parts.append(self._pool.submit(self._below, path, batch))
                continue
            before, start = self._waited()
            self.freed += self._unlink(fd, batch)
            self._seen += len(batch)
            after, end = self._waited()
            self._waits += after - before
            self._took += end - start
            if self._seen >= _BATCH:
                if self._waits > self._seen / 2 and self._took > self._seen * _LONG:
                    self._pool = ThreadPoolExecutor(_THREADS, "layer remove")
                self._seen, self._waits, self._took = 0, 0, 0.0

    def _below(self, path: bytes, names: list[str]) -> int:
        fd = _open(self._top, path)
        try:
            return self._unlink(fd, names)
        finally:
            os.close(fd)

    def _unlink(self, fd: int, names: list[str]) -> int:
        freed = 0
        for name in names:
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if found.st_nlink == 1:
                os.unlink(name, dir_fd=fd)
                freed += found.st_blocks * 512
                continue
            with self._links:  # two threads could otherwise both think that theirs is not the last
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                os.unlink(name, dir_fd=fd)
            freed += found.st_blocks * 512 if found.st_nlink == 1 else 0
        return freed
