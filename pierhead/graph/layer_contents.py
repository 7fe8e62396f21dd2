"""A layer's files held against the archive that they came from, as it is written again out of them.

The archive's digest tells whether the files' content is what it was; what it cannot tell, for headers are kept beside
the layer, is whether everything that has no content (folders, links, empty files) is there, and nothing else; and
whether all of it has the owner, mode, time and attributes that its header says.
"""

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import BinaryIO, cast

from pierhead.driver.graphdriver.extract import Extractor
from pierhead.driver.graphdriver.pack import read_xattrs
from pierhead.driver.graphdriver.tar import (
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    REGULAR,
    SYMLINK,
    Entry,
    clean,
)
from pierhead.driver.graphdriver.tree import walk
from pierhead.driver.graphdriver.whiteout import is_whiteout
from pierhead.errors import PierheadError, plain
from pierhead.graph.committing import Pieces
from pierhead.graph.graph import Graph, Layer
from pierhead.graph.layer_folders import Flaw, Folders, owned, shown, told
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


@dataclass(frozen=True, slots=True)
class Wrong:
    """What is wrong with a layer, in words. mend: puts all of it right; None: that cannot be."""

    text: str
    mend: Callable[[], None] | None = None


def wrong(graph: Graph, layer: Layer, folders: Folders, tell: Callable[[int], None]) -> Wrong | None:
    """Read all of a layer. folders: of those below it, and then of this one, too. tell: of bytes read; raises to give
    it up."""
    pieces = graph.archive(layer)
    below = None if layer.parent is None else graph.layer(layer.parent).cache_id
    try:
        descriptor = graph.driver.open_layer(layer.cache_id)
        try:
            said = told(cast("BinaryIO", Pieces(_counted(pieces, tell))))  # the digest is compared at the very end
            found = list(compare(said.wanted, descriptor, alone=graph.driver.stacks, hidden=said.hidden))
            found += folders.compare(layer.cache_id, below, said, descriptor, sound=not found)
        finally:
            os.close(descriptor)
    except (OSError, ValueError, EOFError, PierheadError) as error:
        if isinstance(error, _Stopped):
            raise error.__cause__ or error from None
        return Wrong(plain(error))
    finally:
        if (end := getattr(pieces, "close", None)) is not None:
            end()
    if not found:
        return None
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    mends = [flaw.mend for flaw in found if flaw.mend is not None]
    mend = partial(_mend, graph, layer.cache_id, mends) if len(mends) == len(found) else None
    return Wrong("; ".join(flaw.text for flaw in found[:_LISTED]) + more, mend)


def _mend(graph: Graph, cache_id: str, mends: Sequence[Callable[[int], None]]) -> None:
    with graph.driver.mending(cache_id) as layer:
        for mend in mends:
            mend(layer)


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


def compare(wanted: dict[bytes, Entry], layer: int, *, alone: bool, hidden: Set[bytes] = frozenset()) -> Iterator[Flaw]:
    """alone: the layer's folder has nothing but what is its own.  hidden: of the layers below, by whiteouts."""
    seen: set[tuple[int, int]] = set()
    for name, entry in wanted.items():
        found = _at(layer, name)
        if found is None:
            yield Flaw(f"{os.fsdecode(name)} is missing")
            continue
        seen.add((found.st_dev, found.st_ino))
        if (kind := _KINDS.get(entry.kind)) is not None and not kind(found.st_mode):
            yield Flaw(f"{os.fsdecode(name)} has become something else")
        elif entry.kind == HARD_LINK:
            target = _at(layer, clean(entry.link, "link"))
            if target is not None and not os.path.samestat(found, target):
                yield Flaw(f"{os.fsdecode(name)} is not {os.fsdecode(entry.link)} under another name any more")
        else:
            for text, mend in _changed(layer, entry, found, alone=alone):
                yield Flaw(f"{shown(name)} {text}", mend)
    if alone:
        for name in sorted(hidden - wanted.keys()):
            above = _at(layer, name.rpartition(b"/")[0])
            if _at(layer, name) is None and above is not None and stat.S_ISDIR(above.st_mode):
                yield Flaw(f"{os.fsdecode(name)} of the layers below is not hidden any more")
        hiding = {(found.st_dev, found.st_ino) for name in hidden if (found := _at(layer, name)) is not None}
        for _, _, path, found in walk(layer):
            if is_whiteout(found) and (found.st_dev, found.st_ino) not in hiding:
                yield Flaw(f"{os.fsdecode(path)} of the layers below is hidden, and was not in the archive")
            # Folders that are in no header were made for what is in them: see ``layer_folders``.
            if not stat.S_ISDIR(found.st_mode) and not is_whiteout(found) and (found.st_dev, found.st_ino) not in seen:
                yield Flaw(f"{os.fsdecode(path)} was not in the archive")


def _changed(
    layer: int, entry: Entry, found: os.stat_result, *, alone: bool
) -> Iterator[tuple[str, Callable[[int], None] | None]]:
    """Of what is there and of the right kind: what is not as the archive has it, and what puts it right."""
    # A folder may have had attributes before, of its parent layer or of an earlier entry.
    added = alone and entry.kind == REGULAR
    mend = partial(_restore, entry, added)
    for text in owned(found, None if entry.kind == SYMLINK else stat.S_IMODE(entry.mode), entry.uid, entry.gid):
        yield text, mend
    # To the second, as archives have it as a rule; what lies beyond 2038 not every file system can keep.
    seconds = entry.mtime // 1_000_000_000
    if 0 <= seconds < 1 << 31 and found.st_mtime_ns // 1_000_000_000 != seconds:
        yield f"was changed at {_moment(found.st_mtime_ns // 1_000_000_000)}, not {_moment(seconds)}", mend
    if found.st_rdev != entry.device and entry.kind in (CHARACTER, BLOCK_DEVICE):
        yield "is another device", None
    with _above(layer, entry.name) as (above, base):
        if entry.kind == SYMLINK and (link := os.readlink(base, dir_fd=above)) != entry.link:
            yield f"leads to {os.fsdecode(link)}, not {os.fsdecode(entry.link)}", None
        if entry.kind in (REGULAR, DIRECTORY):
            for key in _other(b"/proc/self/fd/%d/%s" % (above, base), entry.xattrs, added=added):
                yield f"has another attribute {os.fsdecode(key)}", mend


def _restore(entry: Entry, added: bool, layer: int) -> None:
    """Owner, mode and time of something, and those of its attributes that are compared."""
    wanted = {}
    if entry.kind in (REGULAR, DIRECTORY):
        with _above(layer, entry.name) as (above, base):
            node = b"/proc/self/fd/%d/%s" % (above, base)
            for key in list(_other(node, entry.xattrs, added=added)):
                if key in entry.xattrs:
                    wanted[key] = entry.xattrs[key]
                else:
                    os.removexattr(node, key, follow_symlinks=False)
    if _CAPABILITY in entry.xattrs:  # goes with a change of the owner
        wanted[_CAPABILITY] = entry.xattrs[_CAPABILITY]
    Extractor(layer).restore(replace(entry, xattrs=wanted))


@contextmanager
def _above(layer: int, name: bytes) -> Iterator[tuple[int, bytes]]:
    """What something is in, found as it was put there (links on the way are the layer's own), and its name in that."""
    parent, _, base = name.rpartition(b"/")
    above = open_in_root(layer, os.fsdecode(parent) or ".", os.O_PATH | os.O_DIRECTORY)
    try:
        yield above, base or b"."
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
    """What is at a name."""
    try:
        with _above(layer, name) as (above, base):
            return os.stat(base, dir_fd=above, follow_symlinks=False)
    except OSError:
        return None
