"""Where ext4 puts new inodes: beside those of the folder above, or in a part of the disk that is little used.

ext4 does not use the number of a deleted file again for a minute or more and looks through all of those one by one, in
the part of the disk (block group) where it begins: what is unpacked just after something as large was deleted takes
several times as long.  Folders that have nothing to do with each other begin in parts of their own.
Source: chattr(1), T; ioctl_iflags(2); the Orlov allocator in fs/ext4/ialloc.c.
"""

import fcntl
import os
from contextlib import suppress

_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
_TOPDIR = 0x00020000  # FS_TOPDIR_FL


def spread(folder: str) -> None:
    """Tell the file system that what is made in a folder is unrelated. One that knows no such hint goes without."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        with suppress(OSError):
            flags = int.from_bytes(fcntl.ioctl(fd, _GET_FLAGS, bytes(8))[:4], "little")
            if not flags & _TOPDIR:
                fcntl.ioctl(fd, _SET_FLAGS, (flags | _TOPDIR).to_bytes(8, "little"))
    finally:
        os.close(fd)
