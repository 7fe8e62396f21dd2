"""The zygote seen from the daemon: started, asked to fork, started again when it has died."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress

from pierhead.driver.execdriver import protocol
from pierhead.driver.execdriver.protocol import STARTER
from pierhead.linux import const, mountapi

_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "zygote.py")

_SOCKET = 3
"""The descriptor number of its socket in the zygote."""


class Zygote:
    """At most one process. ``pid`` is 0 when there is none."""

    def __init__(self, descriptors: int, program: str = _PROGRAM) -> None:
        """descriptors: the soft limit of open files for it and all that comes of it; 0: the caller's own."""
        self.pid = 0
        self._program = program
        self._descriptors = descriptors
        self._connection: socket.socket | None = None

    def open(self) -> None:
        """Start it (idempotent). It answers nothing: what is sent waits until it has come up."""
        if self._connection is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self.pid = _start(self._program, theirs.fileno(), self._descriptors)
            except BaseException:
                ours.close()
                raise
        self._connection = ours

    def pids(self) -> tuple[int, ...]:
        """The zygote, its spare shim, and the spare's starter."""
        if not self.pid:
            return ()
        pids = [self.pid]
        for shim in _children(self.pid):
            children = _children(shim)
            if all(_name(child) == STARTER for child in children):  # one with a container has that for a child
                pids += [shim, *children]
        return tuple(pids)

    def fork(self, control: socket.socket) -> None:
        """Have a shim forked that serves ``control``; a zygote that has died is replaced. Raises OSError."""
        for attempt in (1, 2):
            self.open()
            assert self._connection is not None
            try:
                poll = select.poll()
                poll.register(self._connection, select.POLLOUT)
                if not poll.poll(5000):  # hundreds of starts are waiting already
                    raise TimeoutError(errno.ETIMEDOUT, "the zygote does not answer")
                protocol.send(self._connection, protocol.FORK, (control.fileno(),))
                return
            except (BrokenPipeError, ConnectionResetError):
                if attempt == 2:
                    raise
                self.close()

    def close(self) -> None:
        """End it; shims go on. Idempotent."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self.pid:
            with suppress(ChildProcessError):
                _wait(self.pid)
            self.pid = 0


def _wait(pid: int) -> None:
    """Reap it; it ends at once, unless something has stopped it."""
    deadline = time.monotonic() + 2
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def _children(pid: int) -> list[int]:
    with suppress(OSError), open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]
    return []


def _name(pid: int) -> str:
    with suppress(OSError), open(f"/proc/{pid}/comm", encoding="ascii", errors="replace") as file:
        return file.read().strip()
    return ""


def _start(program: str, connection: int, descriptors: int) -> int:
    """Execute the interpreter from a read-only copy of its mount; returns the process id.

    What runs in a container could reach the interpreter by /proc/PID/exe of a process that joins it (CVE-2019-5736);
    opened for writing there it gives EROFS.
    """
    interpreter = os.path.realpath(sys.executable)
    tree = mountapi.clone_tree(const.AT_FDCWD, interpreter, recursive=False)
    try:
        mountapi.set_attributes(tree, add=const.MOUNT_ATTR_RDONLY | const.MOUNT_ATTR_NOSUID)
        return os.posix_spawn(
            # Looked up in the child before its descriptors close: execveat(2) of the descriptor.
            f"/proc/self/fd/{tree}",
            [interpreter, "-I", "-S", program, str(_SOCKET), str(descriptors)],
            {},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, connection, _SOCKET),
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_RDWR, 0),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP},
        )
    finally:
        os.close(tree)
