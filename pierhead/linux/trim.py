"""Tell a device which blocks of a file system are free: the ioctl FITRIM (linux/fs.h, fstrim(8))."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Generator

from pierhead.linux.calls import failure, libc
from pierhead.linux.mountapi import file_system

FITRIM = 0xC0185879
"""_IOWR('X', 121, struct fstrim_range)"""

STEP = 4 << 30
"""Bytes of a file system that are looked through at a time: a call cannot be given up half way."""

_EXT4, _XFS = 0xEF53, 0x58465342
_IN_STEPS = frozenset((_EXT4, _XFS))
"""Those whose addresses are those of the device; of others (btrfs) a stretch means something else."""

_RANGE = struct.Struct("=QQQ")
_ALL = (1 << 64) - 1


def discards(directory: int) -> bool:
    """Whether a directory's device takes discards, as far as it says (sysfs-block); else it must be tried."""
    device = os.fstat(directory).st_dev
    folder = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    for queue in ("queue", "../queue"):  # of a partition: its disk's
        try:
            with open(f"{folder}/{queue}/discard_max_bytes", encoding="ascii") as file:
                return int(file.read()) > 0
        except FileNotFoundError:
            continue
    return True


def settle(directory: int) -> None:
    """Have what was deleted in a directory's file system be free: it is only when that is on the disk (ext4: when its
    transaction has been committed; xfs and btrfs do it later by themselves)."""
    if libc.syncfs(directory):
        raise failure("syncfs")


def trim(directory: int) -> Generator[tuple[int, int, int], None, None]:
    """Discard everything free in a directory's file system: (bytes looked through, of how many, bytes discarded).

    Raises OSError: EOPNOTSUPP where the device or the file system cannot.
    """
    settle(directory)
    about = os.fstatvfs(directory)
    total = about.f_blocks * about.f_frsize
    start = 0
    while file_system(directory) in _IN_STEPS and start + STEP < total:
        discarded = _trim(directory, start, STEP)
        start += STEP
        yield start, total, discarded
    # f_blocks leaves out what the file system has for itself: to the very end, wherever that is.
    yield total, total, _trim(directory, start, _ALL - start)


def _trim(directory: int, start: int, length: int) -> int:
    buffer = bytearray(_RANGE.pack(start, length, 0))
    try:
        fcntl.ioctl(directory, FITRIM, buffer)
    except OSError as error:
        if error.errno == errno.EINVAL and start:
            return 0  # the file system ends before
        raise
    return int(_RANGE.unpack(buffer)[1])
