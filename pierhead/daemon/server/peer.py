"""What the kernel tells of the other end of a connection: has it gone, has it read."""

import asyncio
import fcntl
import select
import socket
import sys
import termios
from typing import cast

HEAD_READ = 0.05
"""Seconds that a client has to read the head of a hijacked answer before output follows it all the same."""
TCP_PAUSE = 0.003


def _socket(transport: asyncio.BaseTransport) -> socket.socket | None:
    return cast(socket.socket | None, transport.get_extra_info("socket"))


def has_closed(transport: asyncio.BaseTransport, *, doubt: bool) -> bool:
    """After the peer's end of file: whether it reads no more either.

    A unix socket tells (POLLHUP: both directions are shut).  TCP does not: there the answer is ``doubt`` (dockerd takes
    a client that ends its side to have left).
    """
    sock = _socket(transport)
    if transport.is_closing() or sock is None or sock.fileno() < 0:
        return True
    if sock.family != socket.AF_UNIX and doubt:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), 0)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))


async def wait_until_read(transport: asyncio.BaseTransport) -> None:
    """Wait a moment until the peer has read what was written.

    docker-py reads the head of a hijacked answer through a buffer and the stream past it: output that arrives together
    with the head is lost to it.  dockerd starts processes too slowly for that to happen.
    """
    sock = _socket(transport)
    if sock is None or sock.family != socket.AF_UNIX:
        await asyncio.sleep(TCP_PAUSE)
        return
    loop = asyncio.get_running_loop()
    deadline = loop.time() + HEAD_READ
    pause = 0.0
    while not transport.is_closing() and loop.time() < deadline:
        # Of a unix socket TIOCOUTQ tells what the peer has not taken out of its queue yet.
        if not int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder):
            return
        await asyncio.sleep(pause)
        pause = min(pause + 0.0001, 0.001)
