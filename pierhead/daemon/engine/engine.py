"""The Engine: what a job is given, and what runs it.

A Job is an async function that takes the Engine first: ``await engine.run(containers.create, name, request)``.
``Engine.run`` gives each job an id, a span (its parent job, phases, durations), a log line at its beginning and end,
cancellation, and a place in ``pier jobs``.
"""

import asyncio
import contextvars
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from pierhead.daemon.config import Config
from pierhead.daemon.engine.events import Events
from pierhead.daemon.engine.gate import Gate
from pierhead.daemon.engine.hostwatch import HostWatch, Seen
from pierhead.daemon.engine.resolver import Resolvers
from pierhead.daemon.engine.running import ExecInstance, Running
from pierhead.daemon.engine.waiters import Waiters
from pierhead.driver.execdriver.api import ExecDriver, Exited, Stream
from pierhead.driver.graphdriver.api import GraphDriver
from pierhead.driver.networkdriver.api import NetworkDriver
from pierhead.driver.networkdriver.hostfirewall import HostFirewall
from pierhead.errors import Unavailable
from pierhead.graph.containers import Containers
from pierhead.graph.graph import Graph
from pierhead.graph.graphdb import GraphDB

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("pierd")
HISTORY = 200


@dataclass(slots=True)
class Span:
    """One job's life, or one phase of it. Times are monotonic ns; ended is 0 while it runs."""

    id: int
    name: str
    parent: "Span | None"
    started: int
    ended: int = 0
    outcome: str = ""
    subject: str = ""
    children: "list[Span]" = field(default_factory=list)


current: contextvars.ContextVar[Span | None] = contextvars.ContextVar("span", default=None)
_ids = itertools.count(1)


@contextmanager
def phase(name: str) -> Iterator[Span]:
    """A named part of the current job, for its waterfall: ``with phase("networkdriver: join"): …``."""
    parent = current.get()
    span = Span(next(_ids), name, parent, time.monotonic_ns())
    if parent is not None:
        parent.children.append(span)
    token = current.set(span)
    try:
        yield span
    except BaseException as error:
        span.outcome = f"{type(error).__name__}: {error}"
        raise
    finally:
        span.ended = time.monotonic_ns()
        current.reset(token)


class Locks:
    """One asyncio.Lock per object id, made on demand and gone when nobody holds or awaits it."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    def held(self, id: str) -> bool:
        """Whether somebody holds or awaits it: something is being done with that object."""
        return id in self._locks

    @asynccontextmanager
    async def hold(self, id: str) -> AsyncIterator[None]:
        """Exclude every other job that holds the same id. Not re-entrant."""
        lock, users = self._locks.get(id, (asyncio.Lock(), 0))
        self._locks[id] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            users = self._locks[id][1] - 1
            if users:
                self._locks[id] = (lock, users)
            else:
                del self._locks[id]


@dataclass(slots=True)
class Backoff:
    """A container between two starts of its restart policy: the delay in s, and the task that sleeps it."""

    delay: float
    task: "asyncio.Task[None] | None" = None


@dataclass(slots=True)
class Engine:
    """The parts that jobs work with, and the running of jobs itself. Made once, by ``daemon.main``."""

    config: Config
    db: GraphDB
    containers: Containers
    graph: Graph
    layers: GraphDriver
    networks: Mapping[str, NetworkDriver]
    exec: ExecDriver
    host_firewall: HostFirewall
    events: Events = field(default_factory=Events)
    locks: Locks = field(default_factory=Locks)
    running: dict[str, Running] = field(default_factory=dict)
    execs: dict[str, ExecInstance] = field(default_factory=dict)
    waiting: dict[str, list[Stream]] = field(default_factory=dict)
    """Attached before the start: handed over with it, so that no output is missed."""
    waiters: Waiters = field(default_factory=Waiters)
    resolvers: Resolvers = field(default_factory=Resolvers)
    host_watch: HostWatch | None = None
    network_gate: Gate = field(default_factory=Gate)
    """Passed by who takes networks or endpoints away; closed while what is on the host is compared and mended."""
    obstacles: frozenset[str] = frozenset()
    """What of other people's firewalls stops our networks, as last told in the log."""
    mending: bool = False
    seen_meanwhile: Seen | None = None
    backoff: dict[str, Backoff] = field(default_factory=dict)
    mounted_volumes: dict[str, set[str]] = field(default_factory=dict)
    """Who needs the mounts of which volumes (see ``jobs.volume_mounts``)."""
    condemned_volumes: set[str] = field(default_factory=set)
    """Names of those that are going to be removed at once: their containers are gone already."""
    health_checks: "dict[str, asyncio.Task[None]]" = field(default_factory=dict)
    """By the ids of the containers that are checked (see ``jobs.health``)."""
    jobs: dict[int, Span] = field(default_factory=dict)
    past: deque[Span] = field(default_factory=lambda: deque(maxlen=HISTORY))
    closing: bool = False
    started_jobs: int = 0
    tasks: "dict[int, asyncio.Task[object]]" = field(default_factory=dict)
    chores: "set[asyncio.Task[Any]]" = field(default_factory=set)
    derivations: dict[Callable[["Engine"], Any], tuple[int, Any]] = field(default_factory=dict)
    """What ``derived`` has made, with what it was made of (``GraphDB.changes``)."""
    held: set[str] = field(default_factory=set)
    """Ids of containers whose end is neither answered by a restart policy nor by auto-remove (see supervise)."""
    on_ended: Callable[[Running, Exited], None] = lambda running, exit: None

    def derived(self, make: Callable[["Engine"], T]) -> T:
        """What a function makes of GraphDB's content alone: made anew only when that has changed.

        It is everybody's, so only the one who writes the function writes to it; and not for use within a transaction.
        """
        changes = self.db.changes  # first: what changes while it is made is in the next one
        at, made = self.derivations.get(make, (-1, None))
        if at != changes:
            made = make(self)
            self.derivations[make] = changes, made
        return cast(T, made)

    @contextmanager
    def request(self, name: str) -> Iterator[None]:
        """A request of the API: the root of the jobs that it becomes, in ``pier jobs`` and traces.

        Raises Unavailable once the daemon is closing; what is under way then goes on, and so do ends of containers.
        """
        if self.closing:
            raise Unavailable("the daemon is shutting down")
        span = Span(next(_ids), name, None, time.monotonic_ns())
        token = current.set(span)
        try:
            yield
        finally:
            span.ended = time.monotonic_ns()
            current.reset(token)
            if span.children:
                span.outcome = span.children[-1].outcome
                self.past.append(span)

    async def run(
        self, job: Callable[Concatenate["Engine", P], Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a job to its end. Raises what the job raises."""
        name = f"{job.__module__.rpartition('.')[2]}.{job.__name__}"
        subject = args[0] if args and isinstance(args[0], str) else ""
        parent = current.get()
        span = Span(next(_ids), name, parent, time.monotonic_ns(), subject=subject)
        if parent is not None:
            parent.children.append(span)
        self.jobs[span.id] = span
        self.started_jobs += 1
        task = asyncio.current_task()
        if task is not None:
            self.tasks[span.id] = task
        token = current.set(span)
        log.debug("+job %s(%s)", name, subject)
        try:
            result = await job(self, *args, **kwargs)
            span.outcome = "OK"
            return result
        except asyncio.CancelledError:
            span.outcome = "cancelled"
            raise
        except Exception as error:
            span.outcome = f"{type(error).__name__}: {error}"
            raise
        finally:
            span.ended = time.monotonic_ns()
            current.reset(token)
            del self.jobs[span.id]
            self.tasks.pop(span.id, None)
            if parent is None:
                self.past.append(span)
            log.debug("-job %s(%s) = %s %.1f ms", name, subject, span.outcome, (span.ended - span.started) / 1e6)

    async def finish(self, work: Coroutine[object, object, T]) -> T:
        """Run something to its end even if the one who asked goes away: half a start or removal helps nobody."""
        task = asyncio.get_running_loop().create_task(work)
        self.chores.add(task)
        task.add_done_callback(self.chores.discard)
        return await asyncio.shield(task)

    def background(self, work: Coroutine[object, object, None], name: str) -> "asyncio.Task[None]":
        """Run something that no request waits for; what it raises is logged, never lost."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.chores.add(task)

        def done(finished: "asyncio.Task[None]") -> None:
            self.chores.discard(finished)
            if not finished.cancelled() and (error := finished.exception()) is not None:
                log.error("%s: %s", name, error, exc_info=error)

        task.add_done_callback(done)
        return task


async def blocking(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run plain blocking code (everything below the daemon) in a thread, with the job's span."""
    return await asyncio.to_thread(function, *args, **kwargs)
