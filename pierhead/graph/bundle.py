"""A tar archive in a file as a set of members that are read in place: nothing of it is ever unpacked by name."""

import os
import posixpath
from collections.abc import Iterator
from io import RawIOBase
from typing import BinaryIO, cast

from pierhead.driver.graphdriver.tar import HARD_LINK, REGULAR, SYMLINK, BadArchive, Budget, TarReader

BUDGET = Budget(entries=20_000)
CHUNK = 1 << 20
MAX_LINKS = 8


class Part(RawIOBase):
    """A stretch of a file, read with pread(2): several threads may read the same file."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        super().__init__()
        self._fd = fd
        self._at = offset
        self._end = offset + size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """At most CHUNK bytes."""
        left = self._end - self._at
        piece = os.pread(self._fd, min(left, CHUNK if size < 0 else min(size, CHUNK)), self._at)
        if not piece and left:
            raise BadArchive("archive: unexpected EOF")
        self._at += len(piece)
        return piece


class _Whole(RawIOBase):
    """The archive for the reader, which passes over contents instead of reading them."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._at = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """At most 64 KiB: what is looked for are headers."""
        piece = os.pread(self._fd, 64 << 10, self._at)
        self._at += len(piece)
        return piece

    def skip(self, count: int) -> None:
        """Go on so much further."""
        self._at += count


class Bundle:
    """Members by their normalized names. ``fd`` stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._files: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        for name, offset, size, link in _members(fd):
            self._files.pop(name, None)
            self._links.pop(name, None)
            if link:
                self._links[name] = link
            else:
                self._files[name] = (offset, size)

    def __contains__(self, name: str) -> bool:
        return self._place(name) is not None

    def _place(self, name: str) -> tuple[int, int] | None:
        for _ in range(MAX_LINKS):
            if name not in self._links:
                return self._files.get(name)
            name = self._links[name]
        raise BadArchive(f"archive: too many links at {name!r}")

    def _find(self, name: str) -> tuple[int, int]:
        place = self._place(posixpath.normpath(name))
        if place is None:
            raise BadArchive(f"invalid archive: it has no {name}")
        return place

    def size(self, name: str) -> int:
        """Bytes of a member. Raises BadArchive where there is none."""
        return self._find(name)[1]

    def open(self, name: str) -> Part:
        """A member's content."""
        return Part(self._fd, *self._find(name))

    def read(self, name: str, limit: int) -> bytes:
        """The whole of a small member. Raises BadArchive above the limit."""
        offset, size = self._find(name)
        if size > limit:
            raise BadArchive(f"invalid archive: {name} has {size} bytes, more than {limit}")
        data = b""
        while len(data) < size:
            piece = os.pread(self._fd, size - len(data), offset + len(data))
            if not piece:
                raise BadArchive("archive: unexpected EOF")
            data += piece
        return data


def _members(fd: int) -> Iterator[tuple[str, int, int, str]]:
    """(name, offset, size, link target or "") of regular files and links."""
    whole = _Whole(fd)
    reader = TarReader(cast("BinaryIO", whole), BUDGET, skip=whole.skip)
    for entry in reader:
        name = os.fsdecode(entry.name)
        if entry.kind == REGULAR:
            yield name, reader.offset, entry.size, ""
        elif entry.kind == SYMLINK:
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), os.fsdecode(entry.link)))
            yield name, 0, 0, target
        elif entry.kind == HARD_LINK:
            yield name, 0, 0, posixpath.normpath(os.fsdecode(entry.link))
