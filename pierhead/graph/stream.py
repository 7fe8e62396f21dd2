"""A layer's bytes on their way from a blob to the disk: decompressed, digested and unpacked at the same time.

    blob ── thread: read, decompress ── bounded queue ── caller: unpack
                                                     └── bounded queue ── thread: sha256

isal, zstd and hashlib release the GIL, so that two cores are kept busy, and memory is bounded by the queues.
"""

import bz2
import hashlib
import io
import lzma
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, Protocol, cast

from isal import igzip_lib

from pierhead.errors import InvalidParameter

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CHUNK = 1 << 20
DEPTH = 6
USTAR = 257
"""Where every archive of today says that it is one: a name in it may begin like compressed data."""
SNIFF = USTAR + 5
_MEMORY = 128 << 20
_DAMAGED: Any = (
    OSError,
    EOFError,
    ValueError,
    lzma.LZMAError,
    zstd.ZstdError,
    igzip_lib.IsalError,
)


class Decompressor(Protocol):
    """What bz2, lzma, igzip and zstd have in common."""

    @property
    def eof(self) -> bool:
        """The end of one compressed file was reached."""

    @property
    def needs_input(self) -> bool:
        """All that was given has been used."""

    @property
    def unused_data(self) -> bytes:
        """What followed the end."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """At most max_length bytes of output; keeps what it has not used."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a compressed stream may unpack to; 0: whatever there is room for.

    size: bytes.  ratio: times the bytes that were read, as soon as it is more than ``allowance`` bytes.
    """

    size: int = 0
    ratio: int = 0
    allowance: int = 1 << 30

    def check(self, size: int, read: int) -> None:
        """Raises BadStream when it is too much."""
        if self.size and size > self.size:
            raise BadStream(f"the archive unpacks to more than {self.size} bytes (--max-unpacked-size)")
        if self.ratio and size > self.allowance and size > self.ratio * read:
            raise BadStream(f"the archive unpacks to more than {self.ratio} times its size (--max-unpack-ratio)")


NO_LIMITS = Limits()


class BadStream(InvalidParameter):
    """Compressed data that is damaged or cut off."""


def _gzip() -> Decompressor:
    decompressor: Decompressor = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return decompressor


def _zstd() -> Decompressor:
    # A frame may ask for a window of 2 GiB; 128 MiB is what every decoder must allow and what zstd(1) allows.
    decompressor: Decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 27})
    return decompressor


def _xz() -> Decompressor:
    return lzma.LZMADecompressor(memlimit=_MEMORY)


_MAGIC: tuple[tuple[bytes, str, Callable[[], Decompressor]], ...] = (
    (b"\x1f\x8b\x08", "gzip", _gzip),
    (b"\x28\xb5\x2f\xfd", "zstd", _zstd),
    (b"BZh", "bzip2", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\x00", "xz", _xz),
)


def sniff(head: bytes) -> str:
    """Which compression data begins with: "gzip", "zstd", "bzip2", "xz", or "" for none."""
    for magic, name, _ in _MAGIC:
        if head.startswith(magic):
            return name
    return ""


def decompressed(source: BinaryIO) -> Iterator[bytes]:
    """The plain bytes of a stream that may be compressed, in pieces of at most CHUNK. Raises BadStream."""
    head = b""
    while len(head) < SNIFF:
        more = source.read(CHUNK)
        if not more:
            break
        head += more
    for magic, name, make in _MAGIC:
        if head.startswith(magic) and head[USTAR : USTAR + 5] != b"ustar":
            yield from _members(source, head, name, make)
            return
    while head:
        yield head
        head = source.read(CHUNK)


def _members(source: BinaryIO, data: bytes, name: str, make: Callable[[], Decompressor]) -> Iterator[bytes]:
    """A file may be several compressed ones, one after the other (pigz, estargz)."""
    decompressor = make()
    while True:
        try:
            piece = decompressor.decompress(data, CHUNK)
        except _DAMAGED as error:
            raise BadStream(f"{name}: invalid data: {error}") from error
        data = b""
        if piece:
            yield piece
        if decompressor.eof:
            data = decompressor.unused_data.lstrip(b"\0")
            while not data:
                more = source.read(CHUNK)
                if not more:
                    return
                data = more.lstrip(b"\0")
            decompressor = make()
        elif not piece and decompressor.needs_input:
            data = source.read(CHUNK)
            if not data:
                raise BadStream(f"{name}: unexpected EOF")


class _Counted:
    """A source, with the bytes that were read of it."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        piece = self._source.read(size)
        self.count += len(piece)
        return piece


def limited(source: BinaryIO, limits: Limits) -> Iterator[bytes]:
    """``decompressed``, as far as the limits go. Raises BadStream."""
    counted = _Counted(source)
    size = 0
    for piece in decompressed(cast("BinaryIO", counted)):
        size += len(piece)
        limits.check(size, counted.count)
        yield piece


class _Digest(threading.Thread):
    """sha256 in a thread of its own."""

    def __init__(self) -> None:
        super().__init__(name="layer digest", daemon=True)
        self.queue: queue.Queue[bytes | None] = queue.Queue(DEPTH)
        self.digest = hashlib.sha256()
        self.size = 0
        self.start()

    def run(self) -> None:
        while (piece := self.queue.get()) is not None:
            self.digest.update(piece)
            self.size += len(piece)


class PlainStream(io.RawIOBase):
    """What ``LayerStream`` is, in the thread that reads: for a process that has other layers' beside it."""

    def __init__(self, source: BinaryIO, limits: Limits = NO_LIMITS) -> None:
        super().__init__()
        self._pieces = limited(source, limits)
        self._digest = hashlib.sha256()
        self._size = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """The next piece, never more than CHUNK, whatever was asked for; b"" at the end. Raises what reading raises."""
        piece = next(self._pieces, b"")
        self._digest.update(piece)
        self._size += len(piece)
        return piece

    def finish(self) -> tuple[str, int]:
        """Read what is left; the DiffID and the number of plain bytes."""
        while self.read():
            pass
        return "sha256:" + self._digest.hexdigest(), self._size


class LayerStream(io.RawIOBase):
    """The plain bytes of a layer blob, to be read once from beginning to end; then ``diff_id`` is known.

    Used as a context manager, which ends both threads, whatever happened.
    """

    def __init__(self, source: BinaryIO, limits: Limits = NO_LIMITS) -> None:
        super().__init__()
        self._limits = limits
        self._pieces: queue.Queue[bytes | BaseException | None] = queue.Queue(DEPTH)
        self._stopped = threading.Event()
        self._rest = b""
        self._ended = False
        self._digest = _Digest()
        self._reader = threading.Thread(target=self._read, args=(source,), name="layer decompress", daemon=True)
        self._reader.start()

    def _read(self, source: BinaryIO) -> None:
        end: BaseException | None = None
        try:
            for piece in limited(source, self._limits):
                self._pieces.put(piece)
                if self._stopped.is_set():
                    break
        except BaseException as error:
            # Told to whoever reads: this thread has nobody to tell.
            end = error
        self._pieces.put(end)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """The next piece (never more than CHUNK, maybe less than size); b"" at the end. Raises what reading raised."""
        if not self._rest and not self._ended:
            piece = self._pieces.get()
            if piece is None:
                self._ended = True
            elif isinstance(piece, BaseException):
                self._ended = True
                raise piece
            else:
                self._digest.queue.put(piece)
                self._rest = piece
        if size < 0 or size >= len(self._rest):
            taken, self._rest = self._rest, b""
        else:
            taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def finish(self) -> tuple[str, int]:
        """Read what is left; the DiffID and the number of plain bytes."""
        while self.read():
            pass
        self._digest.queue.put(None)
        self._digest.join()
        return "sha256:" + self._digest.digest.hexdigest(), self._digest.size

    def __enter__(self) -> "LayerStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        while not self._ended:  # the reading thread may wait for a free place
            piece = self._pieces.get()
            self._ended = not isinstance(piece, bytes)
        self._reader.join()
        if self._digest.is_alive():
            self._digest.queue.put(None)
            self._digest.join()
        self.close()
