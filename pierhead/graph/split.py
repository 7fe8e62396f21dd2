"""What a layer's archive was, without the files' content: with it and the unpacked files the very same bytes again.

A compressed file per layer, beside the layers, of frames: "R" and a length and that many bytes of the archive (headers,
padding, the end); "C", a size and a path: here was a regular file's content.
(tar-split is Docker's answer to the same.)
"""

import os
import struct
import sys
from collections.abc import Iterator

from pierhead.driver.graphdriver.pack import open_content
from pierhead.linux.openat import open_in_root

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_FRAME = struct.Struct("<cQI")
_GATHER = 256 << 10
CHUNK = 1 << 20


class SplitWriter:
    """``graphdriver.api.Record``, into a file that is complete when ``close`` has returned."""

    def __init__(self, path: str | int) -> None:
        """path: of a file that is made, or the descriptor of one that was."""
        self._file = open(path, "xb")
        self._compress = zstd.ZstdCompressor(level=1)
        self._raw = bytearray()
        self._out = bytearray()

    def raw(self, data: bytes) -> None:
        """Bytes of the archive itself."""
        self._raw += data
        if len(self._raw) >= _GATHER:
            self._flush()

    def content(self, path: bytes, size: int) -> None:
        """A regular file's place."""
        self._flush()
        self._out += _FRAME.pack(b"C", size, len(path)) + path

    def _flush(self) -> None:
        if self._raw:
            self._out += _FRAME.pack(b"R", len(self._raw), 0) + self._raw
            self._raw.clear()
        if len(self._out) >= _GATHER:
            self._file.write(self._compress.compress(bytes(self._out)))
            self._out.clear()

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        self._file.write(self._compress.compress(bytes(self._out)))
        self._file.write(self._compress.flush())
        self._file.close()

    def abandon(self) -> None:
        """Close without completing."""
        self._file.close()


def replay(path: str, layer: int) -> Iterator[bytes]:
    """The archive's bytes; ``layer`` is a descriptor of the layer's own files. Raises OSError for what is not there."""
    with zstd.ZstdFile(path) as file:
        while head := file.read(_FRAME.size):
            kind, size, extra = _FRAME.unpack(head)
            if kind == b"R":
                yield file.read(size)
                continue
            name: bytes = file.read(extra)
            parent, _, base = name.rpartition(b"/")
            above = open_in_root(layer, os.fsdecode(parent), os.O_PATH | os.O_DIRECTORY)
            try:
                fd = open_content(above, base)
            finally:
                os.close(above)
            try:
                left = size
                while left:
                    piece = os.read(fd, min(left, CHUNK))
                    if not piece:
                        raise OSError(f"{os.fsdecode(name)}: {left} bytes are missing in its layer")
                    left -= len(piece)
                    yield piece
            finally:
                os.close(fd)
