"""What the daemon knows of a live container beyond GraphDB: its Monitor, its execs, and who waits for what."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pierhead.driver.execdriver.api import (
    ExecError,
    ExecStarted,
    Exited,
    LogTruncated,
    Lost,
    Monitor,
    NetworkJoined,
    SocketsOpened,
    Started,
    StartError,
)
from pierhead.libcontainer.spec import Process

ResolverSockets = tuple[socket.socket, socket.socket]

PATIENCE = 5.0
"""Seconds that a shim has to open sockets, to truncate the log, or to start an exec."""


@dataclass(slots=True)
class ExecInstance:
    """One ``exec create``, kept until its container is gone or (ended) for a while. exit_code None: not ended."""

    id: str
    container_id: str
    process: Process
    open_stdin: bool
    open_stdout: bool
    open_stderr: bool
    privileged: bool
    detach_keys: str
    created: float
    entrypoint: str = ""
    pid: int = 0
    started: bool = False
    exit_code: int | None = None
    answer: "asyncio.Future[int] | None" = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when its exit code is known."""
    died: Callable[[int], None] = lambda code: None
    """Told the exit code of one that has been started."""

    def finish(self, code: int) -> None:
        """It has ended."""
        self.exit_code = code
        self.ended.set()
        self.died(code)

    @property
    def running(self) -> bool:
        """Its process has been started and has not ended."""
        return self.started and self.exit_code is None


@dataclass(slots=True)
class Running:
    """A container that is being started or runs. Made by ``watch``; everything happens on the loop's thread."""

    id: str
    monitor: Monitor
    started: "asyncio.Future[Started]"
    exited: "asyncio.Future[Exited]"
    owner: str = ""
    """The container whose network namespace it is in; set by whoever began to watch it."""
    recorded: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the start is in GraphDB: an end that comes sooner is worked off only then."""
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the end has been recorded and everything of this run is released."""
    execs: dict[str, ExecInstance] = field(default_factory=dict)
    """Those that are being started or run."""
    answers: "dict[int, asyncio.Future[ResolverSockets | None]]" = field(default_factory=dict)
    opening: "dict[int, asyncio.Future[tuple[socket.socket, ...]]]" = field(default_factory=dict)
    truncating: "dict[int, asyncio.Future[int]]" = field(default_factory=dict)
    serial: int = 0
    sent: dict[int, str] = field(default_factory=dict)
    """Signals that its PID 1 was sent, and on whose behalf."""
    pausing: bool = False
    """It is about to be frozen: nothing new is started in it."""
    out_of_memory: bool = False
    """It has been told that the kernel has run out of its memory."""
    at_end: list[Callable[[], None]] = field(default_factory=list)
    """Called once when it is watched no longer."""

    def let_go(self) -> None:
        """Hear no more of it; it goes on. Idempotent."""
        if self.monitor.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.monitor.fileno())
        self.monitor.close()
        self.finish_watches()

    def finish_watches(self) -> None:
        """Stop what goes on beside it. Idempotent."""
        while self.at_end:
            self.at_end.pop()()

    async def quiet(self) -> None:
        """Wait until no exec is just being started: its shim waits for that, in a frozen container for ever."""
        starting = [one.answer for one in self.execs.values() if one.answer is not None and not one.answer.done()]
        if starting:
            await asyncio.wait(starting, timeout=PATIENCE)

    def expect(self) -> "tuple[int, asyncio.Future[ResolverSockets | None]]":
        """A serial number for a request to the Monitor, and the future of its answer."""
        self.serial += 1
        future = asyncio.get_running_loop().create_future()
        self.answers[self.serial] = future
        return self.serial, future

    async def open_sockets(self, kinds: Sequence[tuple[int, int, int]]) -> tuple[socket.socket, ...]:
        """Sockets (family, type, protocol) of the container's network namespace. Raises OSError, SetupFailed.

        TimeoutError: its shim does not answer (an older one, which cannot).
        """
        self.serial += 1
        serial = self.serial
        future: asyncio.Future[tuple[socket.socket, ...]] = asyncio.get_running_loop().create_future()
        self.opening[serial] = future
        try:
            self.monitor.open_sockets(kinds, serial)
            async with asyncio.timeout(PATIENCE):
                return await future
        finally:
            del self.opening[serial]

    async def truncate_log(self) -> int:
        """Delete what has been logged: the bytes on disk. Raises and TimeoutError as ``open_sockets``."""
        self.serial += 1
        serial = self.serial
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.truncating[serial] = future
        try:
            self.monitor.truncate_log(serial)
            async with asyncio.timeout(PATIENCE):
                return await future
        finally:
            del self.truncating[serial]


def watch(
    id: str, monitor: Monitor, ended: Callable[[Running, Exited], None], lost: Callable[[str], Exited]
) -> Running:
    """Follow a Monitor on the running loop.

    ended: called once, when a container that was started has ended.
    lost: asked for an exit report when the driver's process is gone without one.
    """
    loop = asyncio.get_running_loop()
    running = Running(id, monitor, loop.create_future(), loop.create_future())

    def end(exit: Exited) -> None:
        loop.remove_reader(monitor.fileno())
        monitor.close()
        running.finish_watches()
        for instance in running.execs.values():
            if instance.running:
                instance.finish(137)
            if instance.answer is not None and not instance.answer.done():
                instance.answer.set_exception(ProcessLookupError(f"container {id} is not running"))
        for waiting in (running.answers, running.opening, running.truncating):
            for answer in waiting.values():
                if not answer.done():
                    answer.set_exception(ProcessLookupError(f"container {id} is not running"))
                    answer.exception()  # marked as seen: the question may not even have been sent
        if not running.started.done():
            running.started.set_exception(ProcessLookupError(f"container {id} ended while it was started"))
            running.started.exception()  # marked as seen: a re-attachment may have no one who awaits it
        if not running.exited.done():
            running.exited.set_result(exit)
            ended(running, exit)

    def readable() -> None:
        for event in monitor.events():
            match event:
                case Started():
                    if not running.started.done():
                        running.started.set_result(event)
                case StartError(error):
                    loop.remove_reader(monitor.fileno())
                    monitor.close()
                    if not running.started.done():
                        running.started.set_exception(error)
                case Exited(exec_id=None):
                    end(event)
                case Exited():
                    finished = running.execs.pop(event.exec_id or "", None)
                    if finished is not None:
                        finished.finish(event.code)
                case ExecStarted(exec_id, pid):
                    instance = running.execs.get(exec_id)
                    if instance is not None:
                        instance.pid, instance.started = pid, True
                        if instance.answer is not None and not instance.answer.done():
                            instance.answer.set_result(pid)
                case ExecError(exec_id, error):
                    instance = running.execs.pop(exec_id, None)
                    if instance is not None and instance.answer is not None and not instance.answer.done():
                        instance.answer.set_exception(error)
                case NetworkJoined(serial, failure, sockets):
                    answer = running.answers.pop(serial, None)
                    if answer is not None and not answer.done():
                        if failure is None:
                            answer.set_result(sockets)
                        else:
                            answer.set_exception(failure)
                case SocketsOpened(serial, failure, opened):
                    opening = running.opening.get(serial)
                    if opening is None or opening.done():
                        for one in opened:
                            one.close()  # whoever asked has given up
                    elif failure is None:
                        opening.set_result(opened)
                    else:
                        opening.set_exception(failure)
                case LogTruncated(serial, failure, freed):
                    truncating = running.truncating.get(serial)
                    if truncating is not None and not truncating.done():
                        if failure is None:
                            truncating.set_result(freed)
                        else:
                            truncating.set_exception(failure)
                case Lost():
                    end(lost(id))

    loop.add_reader(monitor.fileno(), readable)
    return running
