"""Pseudo-terminals of a container's own devpts, and their size."""

from __future__ import annotations

import ctypes
import os
import struct

from pierhead.linux import const
from pierhead.linux.calls import failure, libc
from pierhead.linux.mountapi import file_system
from pierhead.linux.openat import open_in_root

_PTMX = os.makedev(5, 2)


def _ioctl(descriptor: int, request: int, argument: object, call: str) -> int:
    result: int = libc.ioctl(descriptor, ctypes.c_ulong(request), argument)
    if result < 0:
        raise failure(call)
    return result


def open_pair(root: int) -> tuple[int, int]:
    """A new terminal (master, peer) of the devpts mounted at /dev/pts below ``root``.

    No path is trusted: the multiplexer must be character device 5:2 on a devpts, and the peer comes from the master
    itself (TIOCGPTPEER), not from a name like /dev/pts/0.
    """
    probe = open_in_root(root, "/dev/pts/ptmx", os.O_PATH | os.O_NOFOLLOW)
    try:
        if os.fstat(probe).st_rdev != _PTMX or file_system(probe) != const.DEVPTS_SUPER_MAGIC:
            raise OSError(19, "not a pseudo-terminal multiplexer", "/dev/pts/ptmx")
    finally:
        os.close(probe)
    master = open_in_root(root, "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NOFOLLOW)
    try:
        if os.fstat(master).st_rdev != _PTMX or file_system(master) != const.DEVPTS_SUPER_MAGIC:
            raise OSError(19, "not a pseudo-terminal multiplexer", "/dev/pts/ptmx")
        _ioctl(master, const.TIOCSPTLCK, ctypes.byref(ctypes.c_int(0)), "ioctl(TIOCSPTLCK)")
        peer = _ioctl(
            master,
            const.TIOCGPTPEER,
            ctypes.c_long(os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC),
            "ioctl(TIOCGPTPEER)",
        )
    except OSError:
        os.close(master)
        raise
    return master, peer


def set_size(descriptor: int, rows: int, columns: int) -> None:
    """Tell a terminal its size (TIOCSWINSZ); its foreground processes get SIGWINCH."""
    _ioctl(descriptor, const.TIOCSWINSZ, struct.pack("=4H", rows, columns, 0, 0), "ioctl(TIOCSWINSZ)")


def size(descriptor: int) -> tuple[int, int]:
    """A terminal's (rows, columns)."""
    buffer = ctypes.create_string_buffer(8)
    _ioctl(descriptor, const.TIOCGWINSZ, buffer, "ioctl(TIOCGWINSZ)")
    rows, columns = struct.unpack_from("=HH", buffer.raw)
    return rows, columns


def make_controlling(descriptor: int) -> None:
    """Make the terminal this session's controlling one (TIOCSCTTY). The process must lead a session without one."""
    _ioctl(descriptor, const.TIOCSCTTY, ctypes.c_long(0), "ioctl(TIOCSCTTY)")
