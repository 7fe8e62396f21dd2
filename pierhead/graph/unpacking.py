"""Large layers are unpacked by processes of their own (``unpacker``), fed through a pipe by the thread that waits.

A thread has one process, which it keeps for its next layer, until the lease that all of them unpack for ends.
"""

import errno
import fcntl
import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from io import FileIO
from typing import BinaryIO

from pierhead.driver.graphdriver.api import Applied
from pierhead.errors import InvalidParameter
from pierhead.graph.content import write_all
from pierhead.graph.stream import Limits
from pierhead.graph.unpacker_messages import CONNECTION, Failed, Task, Unpacked, receive, send

WORTH = 4 << 20
"""Bytes of a blob from which on it is worth a process: its start takes as long as a few megabytes do."""
_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "unpacker.py")
_PIPE = 1 << 20


class Unpacker:
    """One process. It may only be used by the thread that has made it, and ends with that (PR_SET_PDEATHSIG)."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair()
        with theirs:
            try:
                self.pid = os.posix_spawn(
                    sys.executable,
                    [sys.executable, "-I", _PROGRAM, str(os.getpid())],
                    {},
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, theirs.fileno(), CONNECTION),
                        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0),
                        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_RDWR, 0),
                    ],
                    setsid=True,  # Ctrl-C at the daemon's terminal is the daemon's to answer
                    setsigmask=[],
                    setsigdef=set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP},
                )
            except BaseException:
                self._connection.close()
                raise

    def unpack(self, rules: type, root: int, source: BinaryIO, split: int, limits: Limits) -> Unpacked:
        """All of a blob. Raises what reading it raises, InvalidParameter, OSError; then the process is of no use."""
        task = Task(f"{rules.__module__}:{rules.__qualname__}", limits.size, limits.ratio, limits.allowance)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        with FileIO(writing, "w") as pipe:
            with suppress(OSError):  # above what its user may have; it is slower then
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
            try:
                send(self._connection, task, (reading, root, split))
            finally:
                os.close(reading)
            with suppress(BrokenPipeError):  # it says why
                while piece := source.read(_PIPE):
                    write_all(pipe, piece)
        try:
            answer = receive(self._connection, Unpacked | Failed)  # type: ignore[arg-type]
        except ConnectionResetError:
            answer = None
        if answer is None:
            raise OSError(errno.EIO, "the process that unpacks the layer has ended")
        match answer[0]:
            case Failed(words, 0):
                raise InvalidParameter(words)
            case Failed(words, -1):
                raise RuntimeError(words)
            case Failed(words, number, path):
                raise OSError(number, words, path or None)
            case Unpacked() as done:
                return done
        raise AssertionError

    def end(self) -> None:
        """At once, whatever it does."""
        self._connection.close()
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


class Unpackers:
    """Those of one lease."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: list[Unpacker] = []
        self._mine = threading.local()

    def unpack(self, rules: type, root: int, source: BinaryIO, split: int, limits: Limits) -> tuple[str, int, Applied]:
        """By this thread's process: DiffID, bytes of the plain archive, what the driver says. Raises as its."""
        unpacker: Unpacker | None = getattr(self._mine, "unpacker", None)
        if unpacker is None:
            unpacker = self._mine.unpacker = Unpacker()
            with self._lock:
                self._all.append(unpacker)
        try:
            done = unpacker.unpack(rules, root, source, split, limits)
        except BaseException:
            # Ended before anybody takes the layer away.
            self._mine.unpacker = None
            with self._lock:
                self._all.remove(unpacker)
            unpacker.end()
            raise
        return done.diff_id, done.archive, Applied(done.size, done.entries, done.inherits, done.opaque)

    def end(self) -> None:
        """When no thread unpacks any more."""
        with self._lock:
            ended, self._all = self._all, []
        for unpacker in ended:
            unpacker.end()
