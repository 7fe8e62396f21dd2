"""btrfs: subvolumes, snapshots, their limits, and what was written since a snapshot was taken, by ioctl(2).

A subvolume is a tree of files of its own; a snapshot is a subvolume that begins with all the files of another and
shares their bytes.  Source: linux/btrfs.h, linux/btrfs_tree.h, btrfs-subvolume(8), btrfs-quota(8).  What is here needs
root; every call raises ``OSError`` with its name (``calls.call_of``).
"""

import ctypes
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from pierhead.linux.calls import failure, libc

MAGIC = 0x9123683E
"""What fstatfs(2) says of a file system that is btrfs."""

ROOT_INODE = 256
"""The inode number of every subvolume's own directory (BTRFS_FIRST_FREE_OBJECTID)."""

_ARGUMENTS = struct.Struct("=q4088s")  # btrfs_ioctl_vol_args: fd, name
_ARGUMENTS_2 = struct.Struct("=qQQ32x4040s")  # btrfs_ioctl_vol_args_v2: fd, transid, flags, name or subvolid
_CREATE = 0x5000940E
_DESTROY = 0x5000940F
_SNAPSHOT = 0x50009417  # SNAP_CREATE_V2
_DESTROY_2 = 0x5000943F
_GET_FLAGS, _SET_FLAGS = 0x80089419, 0x4008941A
_SYNC, _START_SYNC = 0x9408, 0x80089418
_INFO = 0x81F8943C  # GET_SUBVOL_INFO
_CHILDREN = 0xD000943D  # GET_SUBVOL_ROOTREF
_SEARCH = 0xC0709411  # TREE_SEARCH_V2
_GROUP, _LIMIT = 0x4010942A, 0x8030942B  # QGROUP_CREATE, QGROUP_LIMIT
_READONLY = 1 << 1  # BTRFS_SUBVOL_RDONLY
_BY_ID = 1 << 4  # BTRFS_SUBVOL_SPEC_BY_ID
_MOST_EXCLUSIVE = 1 << 1  # BTRFS_QGROUP_LIMIT_MAX_EXCL
_MOST_CHILDREN = 255
_EVERYTHING = (1 << 64) - 1
_INODE_ITEM, _EXTENT_DATA = 1, 108
_BUFFER = 1 << 18
_KEY = struct.Struct("=7Q4I32x")  # tree, object, offset and transaction from and to, type from and to, how many
_ITEM = struct.Struct("=QQQII")  # transaction, object, offset, type, length
_INODE = struct.Struct("=5Q4I3Q32x12xQIQI")  # to the times: generation … mode … sequence; ctime and mtime
_EXTENT = struct.Struct("=QQBBHBQQ")  # generation, ram bytes, compression, …, type, where and how much on disk
_INLINE = 0


def _ioctl(name: str, descriptor: int, request: int, argument: bytearray | int = 0, path: str = "") -> None:
    try:
        if isinstance(argument, int):
            fcntl.ioctl(descriptor, request, argument)
        else:
            fcntl.ioctl(descriptor, request, argument, True)
    except OSError as error:
        raise failure(f"ioctl({name})", path, error.errno or 0) from error


def create(above: int, name: str) -> None:
    """Make an empty subvolume in an open directory."""
    _ioctl("BTRFS_IOC_SUBVOL_CREATE", above, _CREATE, bytearray(_ARGUMENTS.pack(0, os.fsencode(name))), name)


def snapshot(above: int, name: str, source: int) -> None:
    """Make a writable snapshot of the subvolume that ``source`` is the directory of."""
    arguments = bytearray(_ARGUMENTS_2.pack(source, 0, 0, os.fsencode(name)))
    _ioctl("BTRFS_IOC_SNAP_CREATE_V2", above, _SNAPSHOT, arguments, name)


def set_readonly(subvolume: int, readonly: bool) -> None:
    """Let nothing be written in a subvolume any more, or again."""
    flags = bytearray(8)
    _ioctl("BTRFS_IOC_SUBVOL_GETFLAGS", subvolume, _GET_FLAGS, flags)
    had = int.from_bytes(flags, "little")
    wanted = had | _READONLY if readonly else had & ~_READONLY
    if wanted != had:
        _ioctl("BTRFS_IOC_SUBVOL_SETFLAGS", subvolume, _SET_FLAGS, bytearray(wanted.to_bytes(8, "little")))


def destroy(above: int, name: str) -> None:
    """Delete a subvolume of an open directory, and those that were made in it. The bytes come back in the background.

    Anyone may make subvolumes in his own directories, a container too, and btrfs deletes none that holds another.
    """
    arguments = bytearray(_ARGUMENTS.pack(0, os.fsencode(name)))
    try:
        _ioctl("BTRFS_IOC_SNAP_DESTROY", above, _DESTROY, arguments, name)
        return
    except OSError as error:
        if error.errno != 39:  # ENOTEMPTY
            raise
    top = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        _destroy_below(top)
    finally:
        os.close(top)
    _ioctl("BTRFS_IOC_SNAP_DESTROY", above, _DESTROY, arguments, name)


def _destroy_below(top: int) -> None:
    """By number, not by name: they may be at any depth, with any name."""
    found = _children(top)
    set_readonly(top, False)
    for number in found:  # grows meanwhile: what is in them comes behind them
        fd = _open(top, number)
        try:
            set_readonly(fd, False)
            found += _children(fd)
        finally:
            os.close(fd)
    for number in reversed(found):
        argument = bytearray(_ARGUMENTS_2.pack(0, 0, _BY_ID, number.to_bytes(8, "little")))
        _ioctl("BTRFS_IOC_SNAP_DESTROY_V2", top, _DESTROY_2, argument)


def _children(subvolume: int) -> list[int]:
    """The numbers of the subvolumes that are somewhere below this one, without those that are in these."""
    found: list[int] = []
    while True:
        answer = bytearray(4096)
        answer[:8] = ((found[-1] + 1) if found else 0).to_bytes(8, "little")
        try:
            _ioctl("BTRFS_IOC_GET_SUBVOL_ROOTREF", subvolume, _CHILDREN, answer)
        except OSError as error:
            if error.errno != 75:  # EOVERFLOW: there are more of them
                raise
        count = answer[8 + _MOST_CHILDREN * 16]
        found += [struct.unpack_from("=Q", answer, 8 + 16 * at)[0] for at in range(count)]
        if count < _MOST_CHILDREN:
            return found


def _open(somewhere: int, number: int) -> int:
    """The directory of a subvolume by its number (open_by_handle_at(2); the handle is FILEID_BTRFS_WITHOUT_PARENT)."""
    place = ROOT_INODE, _INODE_ITEM
    found = [data for _, _, data in _items(somewhere, number, place, place, 0, 1)]
    generation = struct.unpack_from("=Q", found[0])[0] if found else 0
    handle = struct.pack("=IiQQI", 20, 0x4D, ROOT_INODE, number, generation & 0xFFFFFFFF)
    buffer = ctypes.create_string_buffer(handle, len(handle))
    fd: int = libc.open_by_handle_at(somewhere, buffer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if fd < 0:
        raise failure("open_by_handle_at", f"subvolume {number}")
    return fd


@dataclass(frozen=True, slots=True)
class Subvolume:
    """id: its number. made: the transaction it was made in: what was written since has a higher one."""

    id: int
    made: int


def look(subvolume: int) -> Subvolume:
    """Who the subvolume of an open file is (BTRFS_IOC_GET_SUBVOL_INFO)."""
    answer = bytearray(504)
    _ioctl("BTRFS_IOC_GET_SUBVOL_INFO", subvolume, _INFO, answer)
    # treeid u64, name[256], parent_id, dirid, generation, flags (u64); three uuids; ctransid, otransid (u64) …
    return Subvolume(struct.unpack_from("=Q", answer, 0)[0], struct.unpack_from("=Q", answer, 8 + 256 + 32 + 48 + 8)[0])


def sync(descriptor: int, wait: bool = True) -> None:
    """Write everything out, so that the trees say all that is known; or only begin to (which wakes the cleaner too)."""
    if wait:
        _ioctl("BTRFS_IOC_SYNC", descriptor, _SYNC)
    else:
        _ioctl("BTRFS_IOC_START_SYNC", descriptor, _START_SYNC, bytearray(8))


def limit(subvolume: int, size: int) -> None:
    """Let a subvolume have that many bytes that it shares with no other. OSError (ENOTCONN) where quotas are off."""
    _ioctl(
        "BTRFS_IOC_QGROUP_LIMIT", subvolume, _LIMIT, bytearray(struct.pack("=6Q", 0, _MOST_EXCLUSIVE, 0, size, 0, 0))
    )


def forget_limit(descriptor: int, id: int) -> None:
    """Delete the quota group of a subvolume that is gone; newer kernels (6.12) do it themselves."""
    with suppress(OSError):
        _ioctl("BTRFS_IOC_QGROUP_CREATE", descriptor, _GROUP, bytearray(struct.pack("=QQ", 0, id)))


# -- what is written where -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Written:
    """What a snapshot has that its source had not.

    size: the content of what differs, directories apart, bytes. disk: what was written for them, bytes on the disk:
    compressed as it is, shared extents once; small files, which btrfs keeps in its tree, by their length there.
    """

    size: int
    disk: int


def written(subvolume: int, made: int, source: int | None) -> Written:
    """By one search through the tree, which skips what is older than the snapshot. ``sync`` first.

    made: the transaction in which it became one; 0 for what is no snapshot. source: the number of the subvolume that it
    is one of, if that is there.
    """
    size = inline = 0
    extents: dict[int, int] = {}
    for number, kind, data in _items(subvolume, 0, (0, 0), (_EVERYTHING, 255), made + 1):
        if kind == _INODE_ITEM and struct.unpack_from("=Q", data, 8)[0] > made:
            found = _Inode.read(data)
            if not stat.S_ISDIR(found.mode) and found.links and not _same(subvolume, source, number, found):
                size += found.size
        elif kind == _EXTENT_DATA:
            generation, _, _, _, _, how, at, length = _EXTENT.unpack_from(data.ljust(_EXTENT.size, b"\0"))
            if generation > made and how == _INLINE:
                inline += len(data) - 21
            elif generation > made and at:
                extents[at] = length
    return Written(size, inline + sum(extents.values()))


@dataclass(frozen=True, slots=True)
class _Inode:
    size: int
    links: int
    uid: int
    gid: int
    mode: int
    mtime: tuple[int, int]

    @classmethod
    def read(cls, data: bytes) -> "_Inode":
        unpacked = _INODE.unpack_from(data)
        return cls(unpacked[2], unpacked[5], unpacked[6], unpacked[7], unpacked[8], (unpacked[14], unpacked[15]))


def _same(subvolume: int, source: int | None, number: int, found: _Inode) -> bool:
    """Whether a file is as it was: a snapshot keeps the numbers of inodes. (It may only have been read: its atime.)"""
    if source is None:
        return False
    for _, _, data in _items(subvolume, source, (number, _INODE_ITEM), (number, _INODE_ITEM), 0, 1):
        before = _Inode.read(data)
        return (before.size, before.uid, before.gid, before.mode, before.mtime) == (
            found.size,
            found.uid,
            found.gid,
            found.mode,
            found.mtime,
        )
    return False


def _items(
    descriptor: int, tree: int, first: tuple[int, int], last: tuple[int, int], since: int, most: int = 1 << 31
) -> Iterator[tuple[int, int, bytes]]:
    """(object, type, data) of a tree (0: the descriptor's subvolume), from blocks written in transaction ``since`` on.

    A block holds older items beside the new ones.
    """
    at = (*first, 0)
    while True:
        key = _KEY.pack(tree, at[0], last[0], at[2], _EVERYTHING, since, _EVERYTHING, at[1], last[1], most, 0)
        answer = bytearray(key + _BUFFER.to_bytes(8, "little") + bytes(_BUFFER))
        _ioctl("BTRFS_IOC_TREE_SEARCH_V2", descriptor, _SEARCH, answer)
        count = struct.unpack_from("=I", answer, 64)[0]
        place = 112
        for _ in range(count):
            _, number, offset, kind, length = _ITEM.unpack_from(answer, place)
            place += _ITEM.size
            yield number, kind, bytes(answer[place : place + length])
            place += length
            at = (number, kind, offset)
        if not count or most == 1:
            return
        if at[2] < _EVERYTHING:
            at = (at[0], at[1], at[2] + 1)
        elif at[1] < 255:
            at = (at[0], at[1] + 1, 0)
        else:
            at = (at[0] + 1, 0, 0)
