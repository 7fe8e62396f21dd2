"""What the daemon (``unpacking``) and the process that unpacks for it (``unpacker``) say to each other.

A Task goes there, Unpacked or Failed comes back; each is a length, and msgpack.
"""

import socket
import struct
from typing import TypeVar

import msgspec

CONNECTION = 3
"""The descriptor of the socket, in the process."""
_LENGTH = struct.Struct("=I")
T = TypeVar("T")


class Task(msgspec.Struct, frozen=True):
    """Unpack a layer. rules: the extractor, as "module:class"; the rest is ``stream.Limits``."""

    rules: str
    size: int
    ratio: int
    allowance: int


class Unpacked(msgspec.Struct, frozen=True, tag=True):
    """It is. archive: bytes of the plain archive; the rest is ``graphdriver.api.Applied``."""

    diff_id: str
    archive: int
    size: int
    entries: int
    inherits: tuple[bytes, ...]
    opaque: bool


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It is not. errno: of the file system; 0: the blob is bad; -1: a fault of our own."""

    words: str
    errno: int = 0
    path: str = ""


def send(connection: socket.socket, message: object, descriptors: tuple[int, ...] = ()) -> None:
    """Raises OSError when the other one is gone."""
    data = msgspec.msgpack.encode(message)
    head = _LENGTH.pack(len(data))
    if descriptors:
        socket.send_fds(connection, [head], list(descriptors))
    else:
        connection.sendall(head)
    connection.sendall(data)


def receive(connection: socket.socket, kind: type[T], count: int = 0) -> tuple[T, list[int]] | None:
    """The next message, with that many descriptors; None when there is no more."""
    head, descriptors, _, _ = socket.recv_fds(connection, _LENGTH.size, count)
    while len(head) < _LENGTH.size:
        if not (more := connection.recv(_LENGTH.size - len(head))):
            return None
        head += more
    data = bytearray(_LENGTH.unpack(head)[0])
    view = memoryview(data)
    while view:
        if not (got := connection.recv_into(view)):
            return None
        view = view[got:]
    return msgspec.msgpack.decode(data, type=kind), descriptors
