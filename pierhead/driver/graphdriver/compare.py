"""What differs between a layer and its parent, by Docker's rules (pkg/archive/changes_unix.go).

A node is modified if its mode, owner, device or file capabilities differ, and, unless it is a directory, its time or
size; a directory also if anything below it differs.
"""

import errno
import os
import stat
from collections.abc import Callable

from pierhead.driver.graphdriver.api import Change
from pierhead.driver.graphdriver.tree import open_directory
from pierhead.driver.graphdriver.whiteout import is_opaque, is_whiteout

MODIFIED, ADDED, DELETED = 0, 1, 2
_CAPABILITY = "security.capability"


Met = Callable[[os.stat_result, bool], None]


def compare(layer: int, parent: int | None, *, overlay: bool, met: Met = lambda found, differs: None) -> list[Change]:
    """Everything that differs, in path order.

    overlay: ``layer`` holds only what differs, with whiteouts as overlayfs writes them; else it is a whole tree.
    ``parent`` is the parent's whole tree.  met: told of everything in ``layer``, and whether it differs of itself.
    """
    found: list[Change] = []
    _level(layer, parent, "", found, overlay, not overlay, met)
    return found


def _level(new: int, old: int | None, path: str, found: list[Change], overlay: bool, complete: bool, met: Met) -> None:
    """One directory. complete: what the old one has and the new one does not is deleted."""
    complete = complete or is_opaque(new)
    try:
        names = set(map(os.fsencode, os.listdir(new)))
    except FileNotFoundError:
        return  # a running container has just deleted it
    gone = set(map(os.fsencode, os.listdir(old))) - names if complete and old is not None else set()
    for name in sorted(names | gone):
        full = f"{path}/{os.fsdecode(name)}"
        if name in gone:
            found.append(Change(full, DELETED))
            continue
        try:
            after = os.stat(name, dir_fd=new, follow_symlinks=False)
        except FileNotFoundError:
            continue
        before = _lstat(old, name)
        if overlay and is_whiteout(after):
            if before is not None:
                found.append(Change(full, DELETED))
            continue
        at = len(found)
        if before is None:
            found.append(Change(full, ADDED))
        elif _differs(new, old, name, before, after):
            found.append(Change(full, MODIFIED))
        listed = len(found) > at
        met(after, listed)
        if stat.S_ISDIR(after.st_mode):
            below = before is not None and stat.S_ISDIR(before.st_mode)
            _enter(new, old if below else None, name, full, found, overlay, complete, met)
            if not listed and len(found) > at:
                found.insert(at, Change(full, MODIFIED))


def _enter(
    new: int, old: int | None, name: bytes, path: str, found: list[Change], overlay: bool, complete: bool, met: Met
) -> None:
    try:
        new_fd = open_directory(new, name)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        old_fd = None if old is None else open_directory(old, name)
        try:
            _level(new_fd, old_fd, path, found, overlay, complete, met)
        finally:
            if old_fd is not None:
                os.close(old_fd)
    finally:
        os.close(new_fd)


def _lstat(fd: int | None, name: bytes) -> os.stat_result | None:
    if fd is None:
        return None
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _differs(new: int, old: int | None, name: bytes, before: os.stat_result, after: os.stat_result) -> bool:
    if (before.st_mode, before.st_uid, before.st_gid, before.st_rdev) != (
        after.st_mode,
        after.st_uid,
        after.st_gid,
        after.st_rdev,
    ):
        return True
    if not stat.S_ISDIR(after.st_mode) and (
        before.st_size != after.st_size or not _same_time(before.st_mtime_ns, after.st_mtime_ns)
    ):
        return True
    return stat.S_ISREG(after.st_mode) and old is not None and _capability(new, name) != _capability(old, name)


def _same_time(a: int, b: int) -> bool:
    """Equal, or equal in seconds where one of them was cut to seconds by an archive."""
    whole = 1_000_000_000
    return a == b or (a // whole == b // whole and (a % whole == 0 or b % whole == 0))


def _capability(above: int, name: bytes) -> bytes:
    try:
        return os.getxattr(b"/proc/self/fd/%d/%s" % (above, name), _CAPABILITY, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP, errno.ENOENT):
            return b""
        raise
