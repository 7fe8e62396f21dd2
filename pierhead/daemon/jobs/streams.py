"""Jobs that move bytes: attach, logs, resize, stats."""

import asyncio
import fcntl
import os
import select
import socket
import sys
import termios
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from urllib.parse import quote_plus

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.jobs import figures
from pierhead.daemon.jobs import logs as logfile
from pierhead.daemon.jobs.describe import attributes, config_of, host_config_of
from pierhead.daemon.jobs.files import log_path
from pierhead.driver.execdriver.api import Stream
from pierhead.errors import Conflict, InvalidParameter, NotImplementedHere, PierheadError
from pierhead.graph.containers import Container
from pierhead.graph.state import State
from pierhead.wire import stdcopy
from pierhead.wire.system import ContainerStatsResponse
from pierhead.wire.time import parse_rfc3339, rfc3339_fixed

FOLLOW_PAUSE = 0.05
"""Seconds between two looks at a log that is followed."""

MOST_WAITING = 200
"""Clients that may be attached before a container starts: they are handed over with it, in one message."""


@dataclass(frozen=True, slots=True)
class AttachOptions:
    """The query of an attach request."""

    logs: bool = False
    stream: bool = False
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False


@dataclass(frozen=True, slots=True)
class LogOptions:
    """The query of a logs request. since and until in ns, 0 = open; tail -1 = all."""

    stdout: bool = True
    stderr: bool = True
    follow: bool = False
    timestamps: bool = False
    details: bool = False
    since: int = 0
    until: int = 0
    tail: int = -1


@dataclass(slots=True)
class Attached:
    """A client's way to a process's stdio.

    connection: the daemon's end (see ``execdriver.api.Stream``); None where only the history was asked for.
    history: what comes first (logs=1), framed like the rest.  detached: to be called when the client's detach keys
    were typed.
    """

    connection: socket.socket | None
    terminal: bool
    history: AsyncIterator[bytes] | None = None
    detached: Callable[[], None] = lambda: None


@dataclass(slots=True)
class Logs:
    """A log on its way out: raw chunks of a terminal, else stdcopy frames."""

    terminal: bool
    chunks: AsyncIterator[bytes]


def pair() -> tuple[socket.socket, socket.socket]:
    """The daemon's end (non-blocking) and the driver's end of a stream."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)
    return ours, theirs


async def attach(engine: Engine, name: str, options: AttachOptions) -> Attached:
    """Give a client a container's stdio; one that does not run yet gives it from its start on."""
    container = engine.containers.find(name)
    config = config_of(container)
    if container.state is State.PAUSED:
        raise Conflict(f"container {container.id} is paused, unpause the container before attach")
    if container.state is State.RESTARTING:
        raise Conflict(f"container {container.id} is restarting, wait until the container is running")
    history = None
    if options.logs:
        span = logfile.Span(options.stdout, options.stderr)
        history = _frames(logfile.read(log_path(engine, container.id), span, None), LogOptions(), config.tty)
    if not options.stream:
        return Attached(None, config.tty, history)
    ours, theirs = pair()
    stream = Stream(
        connection=theirs,
        stdin=options.stdin and config.open_stdin,
        stdout=options.stdout,
        stderr=options.stderr and not config.tty,
        close_stdin=config.stdin_once,
    )
    running = engine.running.get(container.id)
    try:
        if running is not None and not running.exited.done():  # one that is just being started, too
            running.monitor.attach(stream)
        else:
            _wait_for_start(engine, container.id, stream)
    except OSError:
        ours.close()
        theirs.close()
        raise Conflict(f"container {container.id} is not running") from None
    except Conflict:
        ours.close()
        raise
    engine.events.publish("container", "attach", container.id, attributes(container))

    def detached() -> None:
        engine.events.publish("container", "detach", container.id, attributes(container))

    return Attached(ours, config.tty, history, detached)


def _wait_for_start(engine: Engine, id: str, stream: Stream) -> None:
    """Keep a stream for the container's start. Those of clients that have left meanwhile are let go of."""
    waiting = engine.waiting.setdefault(id, [])
    for other in [other for other in waiting if _is_left(other.connection)]:
        other.connection.close()
        waiting.remove(other)
    if len(waiting) >= MOST_WAITING:
        stream.connection.close()
        raise Conflict(f"container {id}: {MOST_WAITING} clients are waiting for its start already")
    waiting.append(stream)


def _is_left(connection: socket.socket) -> bool:
    """Whether the other end is closed, and has left no input for the process."""
    poll = select.poll()
    poll.register(connection.fileno(), 0)
    if not any(event & select.POLLHUP for _, event in poll.poll(0)):
        return False
    return not int.from_bytes(fcntl.ioctl(connection.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)


async def _frames(records: AsyncIterator[logfile.Record], options: LogOptions, terminal: bool) -> AsyncIterator[bytes]:
    async for record in records:
        text = record.log.encode("utf-8", "surrogatepass")
        if options.details and record.attrs is not None:
            details = ",".join(sorted(f"{quote_plus(key)}={quote_plus(value)}" for key, value in record.attrs.items()))
            text = details.encode() + b" " + text
        if options.timestamps:
            text = rfc3339_fixed(parse_rfc3339(record.time)).encode() + b" " + text
        if terminal:
            yield text
        else:
            yield stdcopy.frame(stdcopy.STDOUT if record.stream == "stdout" else stdcopy.STDERR, text)


async def logs(engine: Engine, name: str, options: LogOptions) -> Logs:
    """The container's log. Raises InvalidParameter where no stream was chosen, NotImplementedHere for ``none``."""
    if not (options.stdout or options.stderr):
        raise InvalidParameter("Bad parameters: you must choose at least one stream")
    container = engine.containers.find(name)
    host = host_config_of(container)
    if host.log_config is not None and host.log_config.type == "none":
        raise NotImplementedHere("configured logging driver does not support reading")
    terminal = config_of(container).tty
    span = logfile.Span(options.stdout, options.stderr, options.since, options.until, options.tail)

    running = engine.running.get(container.id)

    async def follow() -> bool:
        # To the end of this start: who follows a container through its restarts asks again for each, as Compose does.
        if running is None or running.settled.is_set():
            return False
        try:
            await asyncio.wait_for(running.settled.wait(), FOLLOW_PAUSE)
        except TimeoutError:
            return True
        return False

    records = logfile.read(log_path(engine, container.id), span, follow if options.follow else None)
    return Logs(terminal, _frames(records, options, terminal))


async def resize(engine: Engine, name: str, rows: int, columns: int) -> None:
    """Tell the container's terminal its size."""
    container = engine.containers.find(name)
    running = engine.running.get(container.id)
    if not container.live or running is None:
        raise Conflict(f"container {container.id} is not running")
    running.monitor.resize(rows, columns)
    engine.events.publish(
        "container", "resize", container.id, {**attributes(container), "height": str(rows), "width": str(columns)}
    )


async def stats(
    engine: Engine, name: str, stream: bool = True, one_shot: bool = False
) -> AsyncIterator[ContainerStatsResponse]:
    """Samples a second apart; one with the one before it (``stream`` off), or a single one (``one_shot``)."""
    container = engine.containers.find(name)
    return _samples(engine, container, stream, one_shot)


async def _samples(
    engine: Engine, container: Container, stream: bool, one_shot: bool
) -> AsyncIterator[ContainerStatsResponse]:
    before: ContainerStatsResponse | None = None
    while True:
        try:
            current = engine.containers.get(container.id)
        except PierheadError:
            return
        sample = await blocking(_sample, engine, current)
        if before is not None:
            sample.preread = before.read
            sample.precpu_stats = before.cpu_stats
        if stream or one_shot or before is not None or not current.live:
            yield sample
            if not stream:
                return
        before = sample
        await asyncio.sleep(1.0)


def _sample(engine: Engine, container: Container) -> ContainerStatsResponse:
    sample = ContainerStatsResponse(name=f"/{container.name}", id=container.id)
    if not container.live:
        return sample
    try:
        figures.fill(sample, engine.exec.figures(container.id))
        figures.fill_networks(sample, _interfaces(container.pid))
    except FileNotFoundError:
        return ContainerStatsResponse(name=f"/{container.name}", id=container.id)  # it has just ended
    sample.read = rfc3339_fixed(time.time_ns())
    return sample


def _interfaces(pid: int) -> dict[str, tuple[int, ...]]:
    """The counters of /proc/PID/net/dev by interface, without lo."""
    path = f"/proc/{pid}/net/dev"
    if not os.path.exists(path):
        return {}
    result = {}
    with open(path, encoding="ascii") as file:
        for line in file.readlines()[2:]:
            name, _, numbers = line.partition(":")
            if name.strip() != "lo":
                result[name.strip()] = tuple(int(number) for number in numbers.split())
    return result
