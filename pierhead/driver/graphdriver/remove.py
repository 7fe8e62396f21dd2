"""Delete directory trees by descriptor, and say how many bytes that gave back."""

import os
import stat

from pierhead.driver.graphdriver.tree import open_directory

_DEEP = 64


def remove_tree(path: str) -> int:
    """``remove_at`` for an absolute host path of our own."""
    parent, base = os.path.split(path)
    try:
        above = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        return remove_at(above, os.fsencode(base))
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
        freed = _empty(top, top, 0)
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
