"""Write tar archives: from entries, from directory trees. ustar, with a pax header where that is not enough."""

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterator

from pierhead.driver.graphdriver.tar import (
    BLOCK,
    BLOCK_DEVICE,
    CHARACTER,
    CHUNK,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    XATTR_PREFIX,
    Entry,
)
from pierhead.driver.graphdriver.tree import walk

END = bytes(2 * BLOCK)
_KINDS = {
    stat.S_IFREG: REGULAR,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHARACTER,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFIFO: FIFO,
}
_NUMBER = 0o7777777
_SIZE = 0o77777777777


def _record(key: bytes, value: bytes) -> bytes:
    """One pax record; its length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _block(name: bytes, entry: Entry, kind: bytes, size: int, seconds: int) -> bytes:
    """One ustar header block. Fields that do not fit are cut: the pax header has them."""
    fields = [
        name[:100].ljust(100, b"\0"),
        b"%07o\0" % entry.mode,
        b"%07o\0" % (entry.uid if entry.uid <= _NUMBER else 0),
        b"%07o\0" % (entry.gid if entry.gid <= _NUMBER else 0),
        b"%011o\0" % (size if size <= _SIZE else 0),
        b"%011o\0" % (seconds if 0 <= seconds <= _SIZE else 0),
        b"        ",
        kind,
        entry.link[:100].ljust(100, b"\0"),
        b"ustar\x0000",
        bytes(64),
        b"%07o\0%07o\0" % (os.major(entry.device), os.minor(entry.device)),
    ]
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _fits(text: bytes) -> bool:
    return len(text) <= 100 and text.isascii()


def header(entry: Entry, *, exact: bool = False) -> bytes:
    """The header blocks of an entry. exact: times to the nanosecond, else to the second as Docker writes them."""
    name = entry.name + b"/" if entry.kind == DIRECTORY else entry.name
    seconds, fraction = divmod(entry.mtime, 1_000_000_000)
    records = [] if _fits(name) else [_record(b"path", name)]
    if not _fits(entry.link):
        records.append(_record(b"linkpath", entry.link))
    if entry.size > _SIZE:
        records.append(_record(b"size", b"%d" % entry.size))
    if entry.uid > _NUMBER:
        records.append(_record(b"uid", b"%d" % entry.uid))
    if entry.gid > _NUMBER:
        records.append(_record(b"gid", b"%d" % entry.gid))
    if (exact and fraction) or not 0 <= seconds <= _SIZE:
        sign, whole, rest = (b"", seconds, fraction) if seconds >= 0 else (b"-", *divmod(-entry.mtime, 1_000_000_000))
        records.append(_record(b"mtime", b"%s%d.%09d" % (sign, whole, rest if exact else 0)))
    records += [_record(XATTR_PREFIX + key, value) for key, value in sorted(entry.xattrs.items())]
    main = _block(name, entry, entry.kind, entry.size, seconds)
    if not records:
        return main
    data = b"".join(records)
    extended = Entry(b"", b"x", 0o644, 0, 0, len(data), 0, b"", 0)
    place = b"PaxHeaders.0/" + entry.name.rpartition(b"/")[2][:80]
    return _block(place, extended, b"x", len(data), 0) + data + bytes(-len(data) % BLOCK) + main


def read_entry(above: int, base: bytes, path: bytes, found: os.stat_result, *, xattrs: bool = True) -> Entry | None:
    """What is at a name, as an entry; None for what an archive cannot hold (a socket)."""
    kind = _KINDS.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        return None
    entry = Entry(
        path,
        kind,
        stat.S_IMODE(found.st_mode),
        found.st_uid,
        found.st_gid,
        found.st_size if kind == REGULAR else 0,
        found.st_mtime_ns,
        os.readlink(base, dir_fd=above) if kind == SYMLINK else b"",
        found.st_rdev if kind in (CHARACTER, BLOCK_DEVICE) else 0,
    )
    if xattrs:
        entry.xattrs = read_xattrs(b"/proc/self/fd/%d/%s" % (above, base))
    return entry


def read_xattrs(node: bytes) -> dict[bytes, bytes]:
    """Extended attributes that belong into an archive: not those of overlayfs, nor what the host's LSM put there."""
    found: dict[bytes, bytes] = {}
    try:
        keys = os.listxattr(node, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENOENT):
            raise
        return found
    for key in keys:
        if key.startswith(("trusted.overlay.", "user.fuseoverlayfs.")) or key == "security.selinux":
            continue
        try:
            found[os.fsencode(key)] = os.getxattr(node, key, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOENT):
                raise
    return found


def content(fd: int, size: int) -> Iterator[bytes]:
    """Exactly size bytes of a file and the padding after them, whatever happens to the file meanwhile."""
    left = size
    while left:
        piece = os.read(fd, min(left, CHUNK))
        if not piece:
            break
        left -= len(piece)
        yield piece
    while left:
        piece = bytes(min(left, CHUNK))
        left -= len(piece)
        yield piece
    if size % BLOCK:
        yield bytes(-size % BLOCK)


def open_content(above: int, base: bytes) -> int:
    """Open a regular file for reading. Raises OSError if it is anything else by now."""
    node = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        if not stat.S_ISREG(os.fstat(node).st_mode):
            raise OSError(errno.EINVAL, "no regular file", base)
        # The very node that was looked at: a running container may have put a device under the name meanwhile.
        return os.open(f"/proc/self/fd/{node}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(node)


class Packer:
    """Puts nodes into an archive one by one and remembers hard links."""

    def __init__(
        self, *, exact: bool = False, owner: Callable[[os.stat_result], tuple[int, int]] | None = None
    ) -> None:
        """owner: who owns a node, other than what lstat says."""
        self._exact = exact
        self._owner = owner
        self._links: dict[tuple[int, int], bytes] = {}

    def node(self, above: int, base: bytes, path: bytes, found: os.stat_result) -> Iterator[bytes]:
        """The blocks of one node."""
        try:
            entry = read_entry(above, base, path, found)
            if entry is None:
                return
            if self._owner is not None:
                entry.uid, entry.gid = self._owner(found)
            if entry.kind != DIRECTORY and found.st_nlink > 1:
                first = self._links.setdefault((found.st_dev, found.st_ino), path)
                if first != path:
                    entry.kind, entry.link, entry.size = HARD_LINK, first, 0
            fd = open_content(above, base) if entry.kind == REGULAR and entry.size else -1
        except FileNotFoundError:
            return  # a running container has just deleted it
        try:
            yield header(entry, exact=self._exact)
            if fd >= 0:
                yield from content(fd, entry.size)
        finally:
            if fd >= 0:
                os.close(fd)

    def marker(self, path: bytes) -> bytes:
        """An empty file: a whiteout."""
        return header(Entry(path, REGULAR, 0, 0, 0, 0, 0, b"", 0))


def pack_tree(fd: int, *, exact: bool = False) -> Generator[bytes, None, None]:
    """Everything below a directory as an archive; the directory itself is not an entry."""
    packer = Packer(exact=exact)
    for above, base, path, found in walk(fd):
        yield from packer.node(above, base, path, found)
    yield END
