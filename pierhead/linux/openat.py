"""Look-ups below a container's root: the one place where a path of a container meets the file system.

``openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)`` treats the open root as "/": absolute links and ".." stay inside,
and the kernel keeps that promise against renames by others.  What is made is made by ``mkdirat``/``openat`` in a
directory that was opened so; nothing here ever joins path strings of root and container.
"""

from __future__ import annotations

import os
import stat
import struct

from pierhead.linux import const
from pierhead.linux.calls import syscall

_IN_ROOT = const.RESOLVE_IN_ROOT | const.RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_MAX_LINKS = 40  # as in the kernel's own walk


def openat2(directory: int, path: str, flags: int, resolve: int, named: str = "") -> int:
    """openat2(2), close-on-exec, repeated when a rename somewhere made the kernel unsure (EAGAIN).

    named: how an error calls the path.
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    left = 128
    while True:
        left -= 1
        try:
            number = const.SYS_OPENAT2
            return syscall("openat2", number, directory, os.fsencode(path), how, len(how), path=named or path)
        except BlockingIOError:
            if not left:
                raise


def open_in_root(root: int, path: str, flags: int = os.O_PATH, links: bool = True) -> int:
    """Open an existing path below ``root``; ``links`` False refuses symbolic links anywhere in it (ELOOP)."""
    resolve = _IN_ROOT if links else _IN_ROOT | const.RESOLVE_NO_SYMLINKS
    return openat2(root, path.lstrip("/") or ".", flags, resolve, path)


def open_beneath(directory: int, path: str, flags: int) -> int:
    """Open a path that may not leave the directory's file system, and has no links (procfs, cgroupfs)."""
    resolve = const.RESOLVE_BENEATH | const.RESOLVE_NO_SYMLINKS | const.RESOLVE_NO_XDEV
    return openat2(directory, path, flags, resolve)


def ensure_directory(root: int, path: str, links: bool = True, mode: int = 0o755, depth: int = 0) -> int:
    """An O_PATH descriptor of the directory ``path`` below ``root``, made with its parents where missing.

    A dangling link is followed, inside the root, and its target made, as Docker does for mount points.
    """
    if depth > _MAX_LINKS:
        raise OSError(40, os.strerror(40), path)
    try:
        return open_in_root(root, path, _DIRECTORY, links)
    except FileNotFoundError:
        pass
    parent, name = _split(path)
    directory = ensure_directory(root, parent, links, mode, depth + 1)
    try:
        try:
            os.mkdir(name, mode, dir_fd=directory)
        except FileExistsError:
            target = _dangling(directory, parent, name, links)
            if target:
                return ensure_directory(root, target, links, mode, depth + 1)
    finally:
        os.close(directory)
    return open_in_root(root, path, _DIRECTORY, links)


def ensure_file(root: int, path: str, mode: int = 0o644, depth: int = 0) -> int:
    """An O_PATH descriptor of something at ``path`` that is not a directory; an empty file is made if it is missing."""
    if depth > _MAX_LINKS:
        raise OSError(40, os.strerror(40), path)
    try:
        found = open_in_root(root, path)
    except FileNotFoundError:
        pass
    else:
        if stat.S_ISDIR(os.fstat(found).st_mode):
            os.close(found)
            raise IsADirectoryError(21, os.strerror(21), path)
        return found
    parent, name = _split(path)
    directory = ensure_directory(root, parent)
    try:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(name, flags, mode, dir_fd=directory))
        except FileExistsError:
            target = _dangling(directory, parent, name, True)
            if target:
                return ensure_file(root, target, mode, depth + 1)
    finally:
        os.close(directory)
    return open_in_root(root, path)


def _split(path: str) -> tuple[str, str]:
    parent, _, name = path.rstrip("/").rpartition("/")
    if name in ("", ".", ".."):
        raise FileNotFoundError(2, os.strerror(2), path)
    return parent or "/", name


def _dangling(directory: int, parent: str, name: str, links: bool) -> str:
    """Where the symbolic link ``name`` leads, as a path from the root; empty if it is no link."""
    try:
        target = os.readlink(name, dir_fd=directory)
    except OSError:
        return ""
    if not links:
        raise OSError(40, os.strerror(40), f"{parent}/{name}")
    return target if target.startswith("/") else f"{parent}/{target}"


def open_regular(root: int, path: str) -> int:
    """Open a regular file for reading. Raises OSError (EINVAL) for anything else.

    The type is seen on an O_PATH descriptor first, so that a device is never opened; O_NONBLOCK and the second look
    are for someone who swaps the file in between.
    """
    for flags in (os.O_PATH, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY):
        found = open_in_root(root, path, flags)
        if not stat.S_ISREG(os.fstat(found).st_mode):
            os.close(found)
            raise OSError(22, "not a regular file", path)
        if flags == os.O_PATH:
            os.close(found)
    return found
