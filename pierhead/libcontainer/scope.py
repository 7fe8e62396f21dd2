"""Asking systemd for a scope: one call over its own socket, from the process that is to be the scope's first.

The message comes prepared (``scopes``); here it is sent and its answer awaited.  D-Bus as the specification
has it: a line-based hello, then messages in little-endian.  The zygote imports this.
"""

from __future__ import annotations

import _socket as socket
import os
import struct
import time

ADDRESS = "/run/systemd/private"
"""PID 1's own socket, for root alone; no message bus need run."""

PATIENCE = 30.0
"""Seconds that a call and what it began may take."""

ATTEMPTS, PAUSE = 40, 0.05
"""While a scope of this name is still being cleared away."""

_RETURN, _ERROR, _SIGNAL = 2, 3, 4
_MEMBER, _ERROR_NAME, _REPLY = 3, 4, 5


def start(address: str, prepared: bytes) -> None:
    """Have the scope started with this very process in it. Raises OSError with what systemd says.

    prepared: the place of our process id in the message (4 bytes), and the message.
    """
    at = struct.unpack_from("=I", prepared)[0]
    message = bytearray(prepared[4:])
    struct.pack_into("<I", message, at, os.getpid())
    for left in reversed(range(ATTEMPTS)):
        try:
            call(address, bytes(message), awaited=True)
            return
        except FileExistsError:
            if not left:
                raise
        time.sleep(PAUSE)


def call(address: str, message: bytes, awaited: bool = False) -> None:
    """One method call. awaited: it begins a job, whose end is waited for. Raises OSError."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        line.settimeout(PATIENCE)
        line.connect(address)
        _hello(line)
        line.sendall(message)
        job = ""
        ended: dict[str, str] = {}
        while True:
            kind, fields, body = _message(line)
            if kind == _ERROR:
                said = _texts(body, 1)[0] if body else ""
                name = fields.get(_ERROR_NAME, "").rpartition(".")[2]
                code = {"UnitExists": 17, "NoSuchUnit": 2}.get(name, 5)
                raise OSError(code, f"systemd: {said or name}", address)
            if kind == _RETURN:
                if not awaited:
                    return
                job = _texts(body, 1)[0]
            elif kind == _SIGNAL and fields.get(_MEMBER) == "JobRemoved":
                path, _, result = _texts(body, 3, 4)  # behind the job's number
                ended[path] = result
            if job in ended:
                if ended[job] != "done":
                    raise OSError(5, f"systemd: the scope's job ended with {ended[job]!r}", address)
                return
    except OSError as error:
        raise OSError(error.errno or 110, error.strerror or str(error), address) from None
    finally:
        line.close()


def _hello(line: socket.socket) -> None:
    """SASL's EXTERNAL: who we are is seen by the socket."""
    line.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
    answer = b""
    while not answer.endswith(b"\r\n"):
        part = line.recv(256)
        if not part:
            break
        answer += part
    if not answer.startswith(b"OK "):
        raise OSError(13, "systemd does not let us in")
    line.sendall(b"BEGIN\r\n")


def _message(line: socket.socket) -> tuple[int, dict[int, str], bytes]:
    """The next one: its kind, the header's fields that are texts, its body."""
    head = _exactly(line, 16)
    order = "<" if head[:1] == b"l" else ">"
    length, _, fields = struct.unpack(f"{order}3I", head[4:])
    rest = _exactly(line, (fields + 7 & ~7) + length)
    return head[1], _fields(order, rest[:fields]), rest[fields + 7 & ~7 :]


def _exactly(line: socket.socket, count: int) -> bytes:
    parts = b""
    while len(parts) < count:
        part = line.recv(count - len(parts))
        if not part:
            raise OSError(104, "systemd has closed the connection")
        parts += part
    return parts


def _fields(order: str, data: bytes) -> dict[int, str]:
    """Of a header: each is a code, a signature of one letter, and its value (a text, a signature or a number)."""
    found: dict[int, str] = {}
    at = 0
    while at < len(data):
        code, kind = data[at], data[at + 2 : at + 3]
        at += 4
        if kind in (b"s", b"o"):
            length = struct.unpack_from(f"{order}I", data, at)[0]
            found[code] = data[at + 4 : at + 4 + length].decode()
            at += 4 + length + 1
        elif kind == b"g":
            at += 1 + data[at] + 1
        else:
            at += 4
        at = at + 7 & ~7
    return found


def _texts(body: bytes, count: int, at: int = 0) -> list[str]:
    """Texts that follow each other in a body (little-endian, as systemd sends)."""
    found = []
    for _ in range(count):
        at = at + 3 & ~3
        length = struct.unpack_from("<I", body, at)[0]
        found.append(body[at + 4 : at + 4 + length].decode())
        at += 4 + length + 1
    return found
