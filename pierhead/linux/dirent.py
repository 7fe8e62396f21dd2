"""What a directory says of its entries (getdents64(2)) that Python does not tell."""

import ctypes

from pierhead.linux import const
from pierhead.linux.calls import syscall

_TYPE = 18  # behind the inode, the offset (64 bits each) and the length (16 bits)


def knows_types(descriptor: int) -> bool:
    """Whether entries of an open directory come with their types (d_type): xfs may be made without (ftype=0), ext4 too.

    Reads on from where the descriptor is.
    """
    buffer = ctypes.create_string_buffer(4096)
    if not syscall("getdents64", const.SYS_GETDENTS64, descriptor, buffer, len(buffer)):
        return True
    return buffer.raw[_TYPE] != 0  # DT_UNKNOWN
