"""A streaming reader of tar archives: ustar, pax and GNU, read as hostile input.

One pass, forwards only, over a stream that cannot seek.  Every size is bounded before it is used (``Budget``), every
header's checksum is verified, and what is not understood is refused rather than guessed.  Formats: pax(1) of POSIX.1,
tar(5) of FreeBSD for the GNU fields, OCI image-spec layer.md for what images hold.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from pierhead.errors import InvalidParameter

BLOCK = 512
CHUNK = 1 << 20
ZEROS = bytes(BLOCK)

REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_REGULAR_KINDS = (b"0", b"\0", b"7")
_KNOWN = frozenset((REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO))
XATTR_PREFIX = b"SCHILY.xattr."


class BadArchive(InvalidParameter):
    """The archive is damaged, lies about itself, or tries to reach outside of where it may write."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What one archive may ask for. Content has no bound of its own: the disk's is enough (Docker has none either)."""

    entries: int = 4_000_000
    header: int = 1 << 20
    global_headers: int = 64
    depth: int = 512
    name: int = 4096
    xattrs: int = 256


@dataclass(slots=True)
class Entry:
    """One member. name has no leading "/" or "./", no "." or ".." and no trailing slash; b"" is the root itself."""

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: bytes
    device: int
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


def clean(name: bytes, what: str = "entry") -> bytes:
    """A member's name relative to the root, as filepath.Clean makes it. Raises BadArchive where it climbs out."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part in (b"", b"."):
            continue
        if part == b"..":
            if not parts:
                raise BadArchive(f"archive {what} {os.fsdecode(name)!r} points outside of the archive")
            parts.pop()
        else:
            parts.append(part)
    return b"/".join(parts)


_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")


def _number(raw: bytes, what: str) -> int:
    """A numeric field: octal digits, or GNU's base-256 when the top bit is set; only a time may be negative."""
    if (octal := _OCTAL.fullmatch(raw)) is not None:
        return int(octal[1] or b"0", 8)
    if raw[0] == 0xFF and what == "mtime":
        return int.from_bytes(raw, "big", signed=True)
    value = int.from_bytes(raw[1:], "big")
    if raw[0] != 0x80 or value >= 1 << 63:
        raise BadArchive(f"archive header: bad {what}")
    return value


def _decimal(raw: bytes, what: str) -> int:
    if not raw.isdigit() or len(raw) > 18:
        raise BadArchive(f"archive pax header: bad {what}")
    return int(raw)


def _time(raw: bytes) -> int:
    """Seconds with a fraction, as pax writes them, in ns."""
    sign = -1 if raw.startswith(b"-") else 1
    whole, _, fraction = raw.removeprefix(b"-").partition(b".")
    if not whole.isdigit() or len(whole) > 11 or (fraction and not fraction.isdigit()):
        raise BadArchive("archive pax header: bad mtime")
    return sign * (int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0") or b"0"))


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """The records of a pax extended header: "length key=value\\n" each. Raises BadArchive."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        if space < 0 or not data[at:space].isdigit():
            raise BadArchive("archive pax header: bad record length")
        end = at + int(data[at:space])
        equals = data.find(b"=", space + 1, end)
        if end > len(data) or equals < 0 or data[end - 1 : end] != b"\n" or equals == space + 1:
            raise BadArchive("archive pax header: bad record")
        key, value = data[space + 1 : equals], data[equals + 1 : end - 1]
        if b"\0" in key or (b"\0" in value and not key.startswith(XATTR_PREFIX)):
            raise BadArchive("archive pax header: NUL in a record")
        records[key] = value
        at = end
    return records


class TarReader:
    """Iterate over the entries of an uncompressed archive; between two, ``content`` gives the present one's bytes.

    ``raw`` is told every byte that is not regular content (headers, padding, the end), for whoever must be able to
    write the very same archive again.  ``skip`` passes over that many bytes of a stream that can seek.
    """

    def __init__(
        self,
        stream: BinaryIO,
        budget: Budget,
        raw: Callable[[bytes], None] | None = None,
        skip: Callable[[int], None] | None = None,
    ) -> None:
        self._read = stream.read
        self._skip = skip
        self._budget = budget
        self._raw = raw
        self._buffer = memoryview(b"")
        self._left = 0
        self._padding = 0
        self._offset = 0

    @property
    def offset(self) -> int:
        """Where in the archive the next byte to be read is; the beginning of the content while at an entry."""
        return self._offset

    def _fill(self) -> bool:
        self._buffer = memoryview(self._read(CHUNK))
        return len(self._buffer) > 0

    def _take(self, count: int) -> bytes:
        """Exactly count bytes of header or padding."""
        if len(self._buffer) >= count:
            taken = bytes(self._buffer[:count])
            self._buffer = self._buffer[count:]
        else:
            parts = [bytes(self._buffer)]
            missing = count - len(self._buffer)
            while missing:
                if not self._fill():
                    raise BadArchive("archive: unexpected EOF")
                parts.append(bytes(self._buffer[:missing]))
                self._buffer = self._buffer[missing:]
                missing -= len(parts[-1])
            taken = b"".join(parts)
        self._offset += count
        if self._raw is not None:
            self._raw(taken)
        return taken

    def content(self) -> Iterator[memoryview]:
        """The rest of the present entry's content, piece by piece, without copying."""
        while self._left:
            if not self._buffer and not self._fill():
                raise BadArchive("archive: unexpected EOF")
            piece = self._buffer[: self._left]
            self._buffer = self._buffer[len(piece) :]
            self._left -= len(piece)
            self._offset += len(piece)
            yield piece

    def _skip_content(self) -> None:
        """What nobody asked for still belongs to the archive's own bytes."""
        if self._skip is not None and self._left > len(self._buffer):
            self._skip(self._left - len(self._buffer))
            self._offset += self._left
            self._left, self._buffer = 0, memoryview(b"")
        for piece in self.content():
            if self._raw is not None:
                self._raw(bytes(piece))
        if self._padding:
            self._pad(self._padding)
            self._padding = 0

    def _pad(self, count: int) -> None:
        """What fills up the last block of a content. An archive that its writer never closed may end without it."""
        if self._skip is None and len(self._buffer) < count:
            while count and (self._buffer or self._fill()):
                count -= len(self._take(min(count, len(self._buffer))))
        else:
            self._take(count)

    def _extended(self, size: int) -> bytes:
        if size > self._budget.header:
            raise BadArchive(f"archive: extended header of {size} bytes is too large")
        data = self._take(size)
        if size % BLOCK:
            self._take(BLOCK - size % BLOCK)
        return data

    def _header(self) -> bytes | None:
        """The next header block; None at the end: two zero blocks, or no more bytes."""
        if not self._buffer and not self._fill():
            return None
        block = self._take(BLOCK)
        if block == ZEROS:
            self._drain()
            return None
        stored = _number(block[148:156], "checksum")
        if sum(block) - sum(block[148:156]) + 256 != stored:
            raise BadArchive("archive: invalid tar header")
        return block

    def _drain(self) -> None:
        """What follows the end marker is no content, but part of the archive's bytes and digest."""
        while self._buffer or self._fill():
            if self._raw is not None:
                self._raw(bytes(self._buffer))
            self._offset += len(self._buffer)
            self._buffer = memoryview(b"")

    def __iter__(self) -> Iterator[Entry]:
        entries = globals_seen = 0
        pax: dict[bytes, bytes] = {}
        default: dict[bytes, bytes] = {}
        long_name = long_link = None
        while True:
            self._skip_content()
            block = self._header()
            if block is None:
                if pax or long_name is not None or long_link is not None:
                    raise BadArchive("archive: an extended header without its entry")
                return
            entries += 1
            if entries > self._budget.entries:
                raise BadArchive(f"archive: more than {self._budget.entries} entries")
            kind = block[156:157]
            size = _number(block[124:136], "size")
            if kind == b"x":
                pax = parse_pax(self._extended(size))
            elif kind == b"g":
                globals_seen += 1
                if globals_seen > self._budget.global_headers:
                    raise BadArchive("archive: too many global headers")
                default |= parse_pax(self._extended(size))
            elif kind == b"L":
                long_name = self._extended(size).split(b"\0", 1)[0]
            elif kind == b"K":
                long_link = self._extended(size).split(b"\0", 1)[0]
            else:
                entry = self._entry(block, kind, size, {**default, **pax} if default else pax, long_name, long_link)
                pax, long_name, long_link = {}, None, None
                self._left = entry.size
                self._padding = -entry.size % BLOCK
                yield entry

    def _entry(
        self, block: bytes, kind: bytes, size: int, pax: dict[bytes, bytes], name: bytes | None, link: bytes | None
    ) -> Entry:
        """Put a header block and what was said before it together."""
        if name is None:
            name = block[:100].split(b"\0", 1)[0]
            if block[257:263] == b"ustar\0" and block[345]:
                name = block[345:500].split(b"\0", 1)[0] + b"/" + name
        if link is None:
            link = block[157:257].split(b"\0", 1)[0]
        mode = _number(block[100:108], "mode")
        uid, gid = _number(block[108:116], "uid"), _number(block[116:124], "gid")
        mtime = _number(block[136:148], "mtime") * 1_000_000_000
        xattrs: dict[bytes, bytes] = {}
        if pax:
            # An empty value takes a record back.
            name, link = pax.get(b"path") or name, pax.get(b"linkpath") or link
            if value := pax.get(b"size"):
                size = _decimal(value, "size")
            if value := pax.get(b"uid"):
                uid = _decimal(value, "uid")
            if value := pax.get(b"gid"):
                gid = _decimal(value, "gid")
            if value := pax.get(b"mtime"):
                mtime = _time(value)
            xattrs = {key[len(XATTR_PREFIX) :]: value for key, value in pax.items() if key.startswith(XATTR_PREFIX)}
            if any(key.startswith(b"GNU.sparse.") for key in pax):
                kind = b"S"
        if kind in _REGULAR_KINDS:
            # Old archives mark a directory by its trailing slash alone.
            kind = DIRECTORY if kind == b"\0" and name.endswith(b"/") else REGULAR
        if kind == b"S":
            raise BadArchive(f"archive: {os.fsdecode(name)!r} is a sparse file, which is not supported")
        if kind not in _KNOWN:
            raise BadArchive(f"unhandled tar header type {kind!r} of {os.fsdecode(name)!r}")
        self._check(name, link, size, uid, gid, xattrs)
        device = 0
        if kind in (CHARACTER, BLOCK_DEVICE):
            device = os.makedev(_number(block[329:337], "major"), _number(block[337:345], "minor"))
        if kind != REGULAR:
            # Only regular files have content, whatever the field says: every reader must see the same entries as
            # Go's does (CVE-2025-13462 was two readers that disagreed).
            size = 0
        return Entry(clean(name), kind, mode & 0o7777, uid, gid, size, mtime, link, device, xattrs)

    def _check(self, name: bytes, link: bytes, size: int, uid: int, gid: int, xattrs: dict[bytes, bytes]) -> None:
        budget = self._budget
        if not name or len(name) > budget.name or len(link) > budget.name or name.count(b"/") > budget.depth:
            raise BadArchive(f"archive: bad or too long name {os.fsdecode(name[:64])!r}")
        if b"\0" in name or b"\0" in link:
            raise BadArchive("archive: NUL in a name")
        if size >= 1 << 63 or uid > 0xFFFFFFFE or gid > 0xFFFFFFFE or len(xattrs) > budget.xattrs:
            raise BadArchive(f"archive: {os.fsdecode(name)!r}: a field is out of range")
