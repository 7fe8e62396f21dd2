"""The framing of multiplexed output: 1 byte stream, 3 zero bytes, 4 bytes length (big-endian), payload."""

import struct
from collections.abc import Iterator

STDIN, STDOUT, STDERR, SYSTEM_ERROR = 0, 1, 2, 3
HEADER = struct.Struct(">BxxxI")


def frame(stream: int, payload: bytes) -> bytes:
    """One frame."""
    return HEADER.pack(stream, len(payload)) + payload


class Reader:
    """Takes the stream apart, however it was cut by the transport.

    Payload is handed out as it comes; a frame is not held back until it is complete.
    """

    __slots__ = ("_header", "_left", "_stream")

    def __init__(self) -> None:
        self._header = b""
        self._stream = 0
        self._left = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(stream, payload) pieces of ``data``. Raises ValueError where it is no such stream."""
        position = 0
        while position < len(data):
            if self._left == 0:
                needed = HEADER.size - len(self._header)
                self._header += data[position : position + needed]
                position += needed
                if len(self._header) < HEADER.size:
                    return
                if self._header[1:4] != b"\0\0\0" or self._header[0] > SYSTEM_ERROR:
                    raise ValueError(f"Unrecognized input header: {self._header[0]}")
                self._stream, self._left = HEADER.unpack(self._header)
                self._header = b""
                continue
            piece = data[position : position + self._left]
            position += len(piece)
            self._left -= len(piece)
            yield self._stream, piece

    @property
    def whole(self) -> bool:
        """Nothing of a frame is outstanding."""
        return not self._left and not self._header
