"""Messages between the daemon, the zygote and the shims: datagrams on AF_UNIX SOCK_SEQPACKET.

Daemon to zygote: one fixed-size message (``FORK``) with one descriptor, the shim's end of its control connection.
Daemon to shim and back: a header (version, kind, number of descriptors, length of the payload) and the payload, a tuple
of builtins in marshal's version 2, with the descriptors alongside (SCM_RIGHTS).  What can be large (the plan of a
process) travels in a sealed memory file whose descriptor is sent.

A shim outlives its daemon, so a daemon speaks the versions in ``SPOKEN``; a shim knows its own alone and is told which
one by the daemon's messages.

The zygote imports this: no typing, no dataclasses; and here as in all modules of the shim ``_socket`` and ``_signal``
instead of their public fronts.  Their numbers are plain integers: enumerations are Python code, and every page of it
that a shim touches becomes memory of its own.
"""

from __future__ import annotations

import marshal
import struct
from _socket import (
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    MSG_CTRUNC,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    MSG_TRUNC,
    SCM_RIGHTS,
    SOL_SOCKET,
    socket,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = 1
SPOKEN = (1,)

FORK = struct.pack("=BBHI", VERSION, 0, 1, 0)
"""The one message that a zygote takes."""

# Daemon to shim.
START = 1  # (settings, …): see shim.Settings; descriptors: plan, folder, null, namespaces, streams
ATTACH = 2  # (flags,); the connection
EXEC = 3  # (exec id, open stdin, flags or None); plan, connection?
RESIZE = 4  # (rows, columns, exec id or None)
SIGNAL = 5  # (signal, exec id or None)
JOIN = 6  # (serial, host, inside, nft, sysctls, resolver)
LEAVE = 7  # (serial, inside)
HOLD = 8  # (target of a socket that is to be served or None, …); the sockets
OPEN = 9  # (serial, ((family, type, protocol), …))
KEEP = 10  # ((protocol number, address, port, target or None), …): what of the held sockets is to stay
TRUNCATE = 11  # (serial,): delete what has been logged

# Shim to daemon.
STARTED = 17  # (pid, time); resolver's two sockets, or none
START_ERROR = 18  # (errno, text, path, call, stage)
EXITED = 19  # (code, signal, time, oom, exec id or None); oom: 0, or the bytes at most used, or 1 if not known
EXEC_STARTED = 20  # (exec id, pid)
EXEC_ERROR = 21  # (exec id, error as in START_ERROR)
JOINED = 22  # (serial, error as in START_ERROR or None); resolver's two sockets, or none
OPENED = 23  # (serial, error as in START_ERROR or None); the sockets
TRUNCATED = 24  # (serial, error as in START_ERROR or None, bytes on disk that were deleted)

# Flags of a stream.
STDIN = 1
STDOUT = 2
STDERR = 4
CLOSE_STDIN = 8
REFRAMED = 16  # a terminal's output in frames, what is no terminal's without

# A container's run-time folder, see ``shim``.
SOCKET = "s"
EXIT = "exit"
CRASH = "crash"
RUNTIME = "runtime"

STARTER = "pierhead-start"
"""What ps shows of a starter."""

MOST_DESCRIPTORS = 250
"""The kernel takes 253 in one message (SCM_MAX_FD)."""

LONGEST = 1 << 17
"""Bytes of one message; the kernel's default for a socket's buffer is 208 KiB."""

_HEADER = struct.Struct("=BBHI")


def encode(kind: int, payload: tuple[Any, ...], descriptors: int = 0) -> bytes:
    """A message as bytes; ValueError if it is longer than a datagram may be."""
    body = marshal.dumps(payload, 2)
    if len(body) > LONGEST:
        raise ValueError(f"message of {len(body)} bytes")
    return _HEADER.pack(VERSION, kind, descriptors, len(body)) + body


def decode(message: bytes, spoken: tuple[int, ...] = SPOKEN) -> tuple[int, tuple[Any, ...], int]:
    """(kind, payload, number of descriptors) of a message; ValueError if it is not one that we speak."""
    if len(message) < _HEADER.size:
        raise ValueError("message without a header")
    version, kind, descriptors, length = _HEADER.unpack_from(message)
    if version not in spoken:
        raise ValueError(f"message of protocol version {version}")
    if len(message) != _HEADER.size + length:
        raise ValueError(f"message of {len(message) - _HEADER.size} bytes that says {length}")
    payload = marshal.loads(memoryview(message)[_HEADER.size :])
    if type(payload) is not tuple:
        raise ValueError("message whose payload is no tuple")
    return kind, payload, descriptors


def send(connection: socket, message: bytes, descriptors: tuple[int, ...] | list[int] = ()) -> None:
    """Send one message with descriptors; never waits (BlockingIOError when the peer does not read)."""
    ancillary = [(SOL_SOCKET, SCM_RIGHTS, struct.pack(f"={len(descriptors)}i", *descriptors))] if descriptors else []
    connection.sendmsg([message], ancillary, MSG_DONTWAIT | MSG_NOSIGNAL)


def receive(connection: socket, most: int = MOST_DESCRIPTORS) -> tuple[bytes, list[int]]:
    """One message and its descriptors (close-on-exec): (b"", []) at the end of the connection; may wait."""
    message, ancillary, flags, _ = connection.recvmsg(LONGEST + _HEADER.size, CMSG_SPACE(most * 4), MSG_CMSG_CLOEXEC)
    descriptors: list[int] = []
    for level, kind, data in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            count = len(data) // 4
            descriptors += struct.unpack_from(f"={count}i", data)
    if flags & (MSG_CTRUNC | MSG_TRUNC):
        raise ValueError("message cut short")
    return message, descriptors
