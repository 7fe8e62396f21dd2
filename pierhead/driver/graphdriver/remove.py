"""Delete directory trees by descriptor, and say how many bytes that gave back.

An unlink waits for the file system's journal more than it computes: in large trees four threads take the files away, a
directory each at a time, and what is left (the directories, and what is too deep) goes in one.
"""

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

from pierhead.driver.graphdriver.tree import open_directory
from pierhead.linux.openat import open_in_root

_DEEP = 64
_MANY = 16
_THREADS = 4


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


def remove_at(above: int, base: bytes) -> int:
    """Delete ``base`` and everything below it; bytes given back (st_blocks; a hard link counts when it is the last).

    Does not mind what is gone already. Trees of any depth: what is too far down is moved up first, so that neither
    descriptors nor the stack run out.
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
        freed = _unlink_many(top) + _empty(top, top, 0)
    finally:
        os.close(top)
    os.rmdir(base, dir_fd=above)
    return freed + found.st_blocks * 512


def _empty(fd: int, top: int, depth: int) -> int:
    freed = 0
    again = True
    while again:
        again = False
        with os.scandir(fd) as listing:
            names = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in listing]
        for name, directory in names:
            if not directory:
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                os.unlink(name, dir_fd=fd)
                freed += found.st_blocks * 512 if found.st_nlink == 1 else 0
            elif depth >= _DEEP:
                os.rename(name, b".deep-" + os.urandom(8).hex().encode(), src_dir_fd=fd, dst_dir_fd=top)
            else:
                below = open_directory(fd, name)
                try:
                    freed += os.fstat(below).st_blocks * 512
                    freed += _empty(below, top, depth + 1)
                finally:
                    os.close(below)
                os.rmdir(name, dir_fd=fd)
        # What was moved up to the top while it was being listed is found by listing it once more.
        again = fd == top and bool(os.listdir(fd))
    return freed


def _unlink_many(top: int) -> int:
    """The files of a tree that has many directories."""
    folders = _folders(top)
    if len(folders) < _MANY:
        return 0
    links = threading.Lock()
    with ThreadPoolExecutor(_THREADS, "layer remove") as pool:
        return sum(pool.map(lambda path: _unlink_files(top, path, links), folders))


def _folders(top: int) -> list[bytes]:
    """The directories of a tree by their paths, as far down as a path reaches comfortably."""
    found = [b"."]
    for path in found:
        fd = open_in_root(top, os.fsdecode(path), os.O_RDONLY | os.O_DIRECTORY, links=False)
        try:
            with os.scandir(fd) as listing:
                below = [entry.name for entry in listing if entry.is_dir(follow_symlinks=False)]
        finally:
            os.close(fd)
        if path.count(b"/") < _DEEP and len(path) < 3000:
            found += [path + b"/" + os.fsencode(name) for name in below]
    return found


def _unlink_files(top: int, path: bytes, links: threading.Lock) -> int:
    """links: held around a hard link, of which two threads could otherwise both think that it is not the last."""
    freed = 0
    fd = open_in_root(top, os.fsdecode(path), os.O_RDONLY | os.O_DIRECTORY, links=False)
    try:
        with os.scandir(fd) as listing:
            names = [entry.name for entry in listing if not entry.is_dir(follow_symlinks=False)]
        for name in names:
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if found.st_nlink > 1:
                with links:
                    found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    os.unlink(name, dir_fd=fd)
            else:
                os.unlink(name, dir_fd=fd)
            freed += found.st_blocks * 512 if found.st_nlink == 1 else 0
    finally:
        os.close(fd)
    return freed
