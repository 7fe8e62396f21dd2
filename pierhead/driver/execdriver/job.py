"""A process that the shim has started, the container's own or an exec: its stdio, its signals, its end.

The zygote imports this.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import time

from pierhead.driver.execdriver.loop import Loop
from pierhead.driver.execdriver.stdio import Stdio
from pierhead.libcontainer import container
from pierhead.linux import calls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Spawn = Callable[[tuple[int, int, int]], container.Child]

Failure = tuple[int, str, str, str, str]


def failure(error: BaseException) -> Failure:
    """An error as the message has it: errno, text, path, call, stage."""
    stage = getattr(error, "stage", "") or "process"
    if not isinstance(error, OSError):
        return 5, f"{type(error).__name__}: {error}", "", "", stage
    path = error.filename
    call = getattr(error, "call", "") or calls.call_of(error)
    return error.errno or 5, error.strerror or str(error), os.fsdecode(path) if path else "", call, stage


class Job:
    """One process started here: the container's own (``exec_id`` None) or an exec."""

    def __init__(
        self, loop: Loop, exec_id: str | None, reaped: Callable[[Job], None], finished: Callable[[Job], None]
    ) -> None:
        """reaped: called when the process has ended; finished: when its output is out as well."""
        self.exec_id = exec_id
        self.stdio = Stdio(loop, None, lambda: finished(self))
        self.reaped = reaped
        self.pid = 0
        self.pidfd = -1
        self.status = 0
        self.at = 0

    def start(self, spawn: Spawn, terminal: bool, open_stdin: bool) -> container.Child:
        """Make stdio, start the process; raises what ``spawn`` raises, then nothing of it is left open."""
        child, ours = with_stdio(spawn, terminal, open_stdin)
        self.take(child.pid, child.pidfd, terminal, ours)
        return child

    def take(self, pid: int, pidfd: int, terminal: bool, stdio: tuple[int, ...]) -> None:
        """Take over a process that has been started, with its terminal's master or our ends of its pipes: stdout,
        stderr and, where it has one, stdin."""
        self.pid, self.pidfd = pid, pidfd
        if terminal:
            self.stdio.open_terminal(stdio[0])
        else:
            self.stdio.open(stdio[2] if len(stdio) > 2 else -1, stdio[0], stdio[1])

    def signal(self, signum: int) -> None:
        """Signal the process; one that has ended is no error."""
        if self.pidfd >= 0:
            try:
                _signal.pidfd_send_signal(self.pidfd, signum)
            except ProcessLookupError:
                pass

    def ended(self, status: int) -> None:
        """The process has been reaped."""
        self.status = status
        self.at = time.time_ns()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        self.reaped(self)
        self.stdio.process_ended()

    def report(self, oom: int = 0) -> tuple[int, int, int, int, str | None]:
        """(code, signal, time, oom, exec id), the code as Docker's."""
        signum = os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else 0
        code = 128 + signum if signum else os.waitstatus_to_exitcode(self.status)
        return code, signum, self.at, oom, self.exec_id


def with_stdio(spawn: Spawn, terminal: bool, open_stdin: bool) -> tuple[container.Child, tuple[int, ...]]:
    """Start a process with a terminal or pipes; returns it and what ``Job.take`` calls its stdio.

    Raises what ``spawn`` raises, then nothing of it is left open.
    """
    theirs = ours = -1, -1, -1
    try:
        if not terminal:
            theirs, ours = pipes(open_stdin)
        child = spawn(theirs)
    except BaseException:
        close_all(ours)
        raise
    finally:
        close_all(theirs)
    if terminal:
        return child, (child.master,)
    return child, (ours[1], ours[2], ours[0]) if open_stdin else (ours[1], ours[2])


def pipes(open_stdin: bool) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """stdin, stdout, stderr: the process's ends and ours; -1 both where stdin is the container's /dev/null."""
    made: list[int] = []
    try:
        made += os.pipe2(os.O_CLOEXEC) if open_stdin else (-1, -1)
        made += os.pipe2(os.O_CLOEXEC)
        made += os.pipe2(os.O_CLOEXEC)
    except OSError:
        close_all(made)
        raise
    return (made[0], made[3], made[5]), (made[1], made[2], made[4])


def close_all(descriptors: Iterable[int]) -> None:
    """Close those that are not -1."""
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)
