"""The starter: a child of a spare shim that makes one container and ends.

It waits beside its shim, the pages that it will write to its own already, and takes the START message in the shim's
place.  What it writes to while it makes the container (it would be a third of the shim's memory) goes with it; the shim
is handed what it must keep: the connection, the folder, the process and its stdio.  The container's PID 1 is the
starter's sibling: a child of the shim.

The zygote imports this.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]
import _socket as socket
import os
import time

from pierhead.driver.execdriver import protocol
from pierhead.driver.execdriver.job import close_all, failure, with_stdio
from pierhead.libcontainer import container
from pierhead.linux import calls, const

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pierhead.linux.pages import Written

QUIET = 0.05
"""Seconds without a start before a starter makes pages its own: the one before it is still at work."""


def fork(connection: socket.socket, written: Written) -> socket.socket:
    """Fork one that serves ``connection`` (from the zygote); returns our end of the handover's. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid, pidfd = calls.clone3(0)
    if pid:
        os.close(pidfd)
        theirs.close()
        return ours
    try:
        ours.close()
        calls.prctl(const.PR_SET_PDEATHSIG, signal.SIGKILL)  # of no use without its shim
        calls.name_process(protocol.STARTER)
        _serve(connection, theirs, written)
    finally:
        os._exit(0)


def _serve(connection: socket.socket, shim: socket.socket, written: Written) -> None:
    connection.settimeout(QUIET)
    try:
        message, descriptors = protocol.receive(connection, 4)
    except TimeoutError:
        written.own()
        connection.settimeout(None)
        message, descriptors = protocol.receive(connection, 4)
    connection.close()
    if message:
        start(socket.socket(fileno=descriptors[0]), shim)
        written.note()


def start(control: socket.socket, shim: socket.socket) -> None:
    """Take the START message, make the container, hand it over; or tell the daemon why it could not be made."""
    message, descriptors = protocol.receive(control)
    if not message:
        return  # the daemon has given up before it said what to start
    kind, settings, _ = protocol.decode(message)
    if kind != protocol.START:
        raise ValueError(f"first message is of kind {kind}")
    try:
        handover, kept = _made(settings, descriptors)
    except Exception as error:  # whatever it is, the daemon must hear of it: it waits for this start
        # Whoever hears of the failure may use the same ports and streams again.
        close_all(descriptors)
        for _ in range(settings[-1]):
            close_all(protocol.receive(control)[1])
        protocol.send(control, protocol.encode(protocol.START_ERROR, failure(error)))
        return
    kept = [control.fileno(), *kept]
    protocol.send(shim, protocol.encode(protocol.START, (settings, handover), len(kept)), kept)


def _made(settings: tuple[Any, ...], descriptors: list[int]) -> tuple[tuple[Any, ...], list[int]]:
    """Make the container; what the shim is to know, and the descriptors that it is to have (see ``Shim.take``)."""
    _, _, open_stdin, terminal, _, _, _, namespaces, _, _ = settings
    plan, folder = descriptors[:2]
    streams = 2 + len(namespaces)
    listener = bind(folder)
    joins = dict(zip(namespaces, descriptors[2:streams], strict=True))
    program = os.pread(plan, os.fstat(plan).st_size, 0)
    child, stdio = with_stdio(lambda stdio: container.spawn(program, joins, stdio, sibling=True), terminal, open_stdin)
    cgroup = container.cgroup_of(program)
    del cgroup["steps"]
    resolver = child.resolver or ()
    handover = child.pid, time.time_ns(), cgroup, len(stdio), len(resolver)
    return handover, [folder, listener, child.pidfd, *stdio, *resolver, *descriptors[streams:]]


def bind(folder: int) -> int:
    """The shim's socket in its folder: the first thing that is made, which tells that the start has begun."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path = f"/proc/self/fd/{folder}/{protocol.SOCKET}"  # short enough, whatever the exec root
    listener.bind(path)
    return listener.detach()
