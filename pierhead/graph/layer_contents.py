"""A layer's files held against the archive that they came from, as it is written again out of them.

The archive's digest tells whether the files' content is what it was; what it cannot tell, for headers are kept beside
the layer, is whether everything that has no content (folders, links, empty files) is there, and nothing else; and
whether all of it has the owner, mode, time and attributes that its header says.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Set
from typing import BinaryIO, cast

from pierhead.driver.graphdriver.pack import read_xattrs
from pierhead.driver.graphdriver.tar import (
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    Budget,
    Entry,
    TarReader,
    clean,
)
from pierhead.driver.graphdriver.tree import walk
from pierhead.driver.graphdriver.whiteout import META, PREFIX, is_whiteout
from pierhead.errors import PierheadError, plain
from pierhead.graph.committing import Pieces
from pierhead.graph.graph import Graph, Layer
from pierhead.linux.openat import open_in_root

_KINDS = {
    DIRECTORY: stat.S_ISDIR,
    REGULAR: stat.S_ISREG,
    SYMLINK: stat.S_ISLNK,
    CHARACTER: stat.S_ISCHR,
    BLOCK_DEVICE: stat.S_ISBLK,
    FIFO: stat.S_ISFIFO,
}
_CAPABILITY = b"security.capability"
_MARKS = (b"user.overlay.", b"user.fuseoverlayfs.")
"""Of those who stack layers: not every driver takes them out of an archive, and none tells them."""
_LISTED = 3


def wrong(graph: Graph, layer: Layer, tell: Callable[[int], None]) -> str:
    """Read all of a layer: what is wrong with it, in words, or "". tell: of bytes read; raises to give it up."""
    pieces = graph.archive(layer)
    try:
        descriptor = graph.driver.open_layer(layer.cache_id)
        try:
            entries, hidden = _entries(_counted(pieces, tell))
            found = list(compare(entries, descriptor, alone=graph.driver.stacks, hidden=hidden))
        finally:
            os.close(descriptor)
    except (OSError, ValueError, EOFError, PierheadError) as error:
        if isinstance(error, _Stopped):
            raise error.__cause__ or error from None
        return plain(error)
    finally:
        if (end := getattr(pieces, "close", None)) is not None:
            end()
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return "; ".join(found[:_LISTED]) + more


class _Stopped(PierheadError):
    """What ``tell`` has raised: no matter of the layer's."""


def _counted(pieces: Iterator[bytes], tell: Callable[[int], None]) -> Iterator[bytes]:
    count = 0
    for piece in pieces:
        count += len(piece)
        try:
            tell(count)
        except Exception as error:
            raise _Stopped(str(error)) from error
        yield piece


def _entries(pieces: Iterator[bytes]) -> tuple[dict[bytes, Entry], set[bytes]]:
    """What must be there by its name, and the names below that are hidden.

    Reads to the very end, where the digest is compared.
    """
    source = Pieces(pieces)
    wanted: dict[bytes, Entry] = {}
    hidden = set()
    for entry in TarReader(cast("BinaryIO", source), Budget()):
        above, slash, base = entry.name.rpartition(b"/")
        if not base.startswith(PREFIX):
            wanted[entry.name] = entry
        elif not base.startswith(META):
            hidden.add(above + slash + base.removeprefix(PREFIX))
    while source.read(1 << 20):
        pass
    return wanted, hidden


def compare(wanted: dict[bytes, Entry], layer: int, *, alone: bool, hidden: Set[bytes] = frozenset()) -> Iterator[str]:
    """alone: the layer's folder has nothing but what is its own.  hidden: of the layers below, by whiteouts."""
    seen: set[tuple[int, int]] = set()
    for name, entry in wanted.items():
        found = _at(layer, name)
        if found is None:
            yield f"{os.fsdecode(name)} is missing"
            continue
        seen.add((found.st_dev, found.st_ino))
        if (kind := _KINDS.get(entry.kind)) is not None and not kind(found.st_mode):
            yield f"{os.fsdecode(name)} has become something else"
        elif entry.kind == HARD_LINK:
            target = _at(layer, clean(entry.link, "link"))
            if target is not None and not os.path.samestat(found, target):
                yield f"{os.fsdecode(name)} is not {os.fsdecode(entry.link)} under another name any more"
        elif name:
            yield from (f"{os.fsdecode(name)} {text}" for text in _changed(layer, entry, found, alone=alone))
    if alone:
        for name in sorted(hidden - wanted.keys()):
            above = _at(layer, name.rpartition(b"/")[0])
            if _at(layer, name) is None and above is not None and stat.S_ISDIR(above.st_mode):
                yield f"{os.fsdecode(name)} of the layers below is not hidden any more"
        for _, _, path, found in walk(layer):
            if is_whiteout(found) and path not in hidden:
                yield f"{os.fsdecode(path)} of the layers below is hidden, and was not in the archive"
            # Folders that are in no header were made for what is in them.
            if not stat.S_ISDIR(found.st_mode) and not is_whiteout(found) and (found.st_dev, found.st_ino) not in seen:
                yield f"{os.fsdecode(path)} was not in the archive"


def _changed(layer: int, entry: Entry, found: os.stat_result, *, alone: bool) -> Iterator[str]:
    """Of what is there and of the right kind: what is not as the archive has it."""
    mode, wanted = stat.S_IMODE(found.st_mode), stat.S_IMODE(entry.mode)
    if entry.kind != SYMLINK and mode != wanted:
        yield f"has mode {mode:o}, not {wanted:o}"
    if (found.st_uid, found.st_gid) != (entry.uid, entry.gid):
        yield f"is owned by {found.st_uid}:{found.st_gid}, not {entry.uid}:{entry.gid}"
    # To the second, as archives have it as a rule; what lies beyond 2038 not every file system can keep.
    seconds = entry.mtime // 1_000_000_000
    if 0 <= seconds < 1 << 31 and found.st_mtime_ns // 1_000_000_000 != seconds:
        yield f"was changed at {_moment(found.st_mtime_ns // 1_000_000_000)}, not {_moment(seconds)}"
    if found.st_rdev != entry.device and entry.kind in (CHARACTER, BLOCK_DEVICE):
        yield "is another device"
    parent, _, base = entry.name.rpartition(b"/")
    above = open_in_root(layer, os.fsdecode(parent) or ".", os.O_PATH | os.O_DIRECTORY)
    try:
        if entry.kind == SYMLINK and (link := os.readlink(base, dir_fd=above)) != entry.link:
            yield f"leads to {os.fsdecode(link)}, not {os.fsdecode(entry.link)}"
        if entry.kind in (REGULAR, DIRECTORY):
            node = b"/proc/self/fd/%d/%s" % (above, base)
            # A folder may have had them before, of its parent layer or of an earlier entry.
            for key in _other(node, entry.xattrs, added=alone and entry.kind == REGULAR):
                yield f"has another attribute {os.fsdecode(key)}"
    finally:
        os.close(above)


def _other(node: bytes, wanted: dict[bytes, bytes], *, added: bool) -> Iterator[bytes]:
    """Which extended attributes are not as the archive has them; added: nor may there be any more.

    Only such as a driver writes and tells, and where it is sure that they were taken away: a false alarm is worse.
    """
    there = read_xattrs(node)
    for key in sorted(there.keys() | wanted.keys() if added else wanted):
        if key != _CAPABILITY and (not key.startswith(b"user.") or key.startswith(_MARKS)):
            continue
        now, then = there.get(key), wanted.get(key)
        if now is None:
            if _can_have(node, key):
                yield key
        elif then is None or (now != then and (key != _CAPABILITY or len(now) == len(then))):
            yield key  # a capability of another length is another revision: the kernel tells 3 as 2


def _can_have(node: bytes, key: bytes) -> bool:
    """Of an attribute that it has not: without a file system that can, layers are unpacked without."""
    try:
        os.getxattr(node, key, follow_symlinks=False)
    except OSError as error:
        return error.errno == errno.ENODATA
    return False


def _moment(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _at(layer: int, name: bytes) -> os.stat_result | None:
    """What is at a name, found as it was put there: links on the way are the layer's own."""
    parent, _, base = name.rpartition(b"/")
    try:
        above = open_in_root(layer, os.fsdecode(parent) or ".", os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        return os.stat(base or b".", dir_fd=above, follow_symlinks=False)
    except OSError:
        return None
    finally:
        os.close(above)
