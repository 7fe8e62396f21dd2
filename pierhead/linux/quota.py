"""Project quotas: how much of a file system a folder and all that is made below it may take.

ext4 (feature "project", mounted with prjquota) and xfs (mounted with pquota) count the blocks of a project: a number
that folders hand down to what is made in them.  Source: quotactl(2), FS_IOC_FSSETXATTR in linux/fs.h, dqblk_xfs.h.
"""

import ctypes
import fcntl
import struct

from pierhead.linux import const
from pierhead.linux.calls import failure, syscall

_FSXATTR = struct.Struct("=5I8x")  # xflags, extsize, nextents, projid, cowextsize
_HANDED_DOWN = 0x200  # FS_XFLAG_PROJINHERIT
_DISK_QUOTA = struct.Struct("=bbHI6Q56x")  # version, flags, fieldmask, id, hard and soft blocks, inodes, counts
_VERSION = 1
_PROJECT = 2  # FS_PROJ_QUOTA
_BLOCK = 512
_LIMITS = 0x4 | 0x8  # FS_DQ_BSOFT, FS_DQ_BHARD
_GET, _SET = 0x5803, 0x5804  # Q_XGETQUOTA, Q_XSETQLIM


def set_project(descriptor: int, project: int) -> None:
    """Count an open folder, and what will be made in it, to a project. Raises OSError where no projects are counted."""
    held = bytearray(_FSXATTR.size)
    try:
        fcntl.ioctl(descriptor, const.FS_IOC_FSGETXATTR, held)
        flags, extent, extents, _, cow = _FSXATTR.unpack(held)
        held = bytearray(_FSXATTR.pack(flags | _HANDED_DOWN, extent, extents, project, cow))
        fcntl.ioctl(descriptor, const.FS_IOC_FSSETXATTR, held)
    except OSError as error:
        raise failure("ioctl(FS_IOC_FSSETXATTR)", code=error.errno or 0) from error


def limit(descriptor: int, project: int, size: int) -> None:
    """Let a project of the file system that the descriptor is on have that many bytes; 0: no limit."""
    blocks = -(-size // _BLOCK)
    wanted = _DISK_QUOTA.pack(_VERSION, _PROJECT, _LIMITS, project, blocks, blocks, 0, 0, 0, 0)
    _quotactl(descriptor, _SET, project, ctypes.create_string_buffer(wanted, len(wanted)))


def inodes(descriptor: int, project: int) -> int:
    """How many files and folders a project has; 0 for one that is not in use."""
    found = ctypes.create_string_buffer(_DISK_QUOTA.size)
    try:
        _quotactl(descriptor, _GET, project, found)
    except FileNotFoundError:
        return 0
    return int(_DISK_QUOTA.unpack(found.raw)[9])


def _quotactl(descriptor: int, command: int, project: int, argument: object) -> None:
    syscall("quotactl", const.SYS_QUOTACTL_FD, descriptor, command << 8 | _PROJECT, project, argument)
