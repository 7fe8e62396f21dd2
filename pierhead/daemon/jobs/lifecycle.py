"""Jobs that move a container from one state to another: start, stop, restart, kill, pause, unpause, wait."""

import asyncio
import re
import signal as signals
from collections.abc import Awaitable
from contextlib import suppress

from pierhead.daemon.engine.engine import Engine, blocking
from pierhead.daemon.engine.running import Running
from pierhead.daemon.engine.waiters import Condition
from pierhead.daemon.jobs import health, launch, removal, restarts
from pierhead.daemon.jobs.describe import attributes, config_of, host_config_of
from pierhead.errors import Conflict, InvalidParameter, NotModified, PierheadError
from pierhead.graph.containers import Container
from pierhead.graph.state import State
from pierhead.wire.containers import ContainerWaitResponse

KILL_PATIENCE = 10
"""Seconds that Docker waits for a killed container before it says so."""

DEFAULT_STOP_TIMEOUT = 10


def signal_number(name: str) -> int:
    """ "SIGTERM", "term" or "15" as a number. Raises InvalidParameter with Docker's words."""
    text = name.strip().upper()
    if text.isascii() and text.isdigit():
        number = int(text)
        if 1 <= number <= signals.SIGRTMAX:
            return number
        raise InvalidParameter(f"invalid signal: {name}")
    text = text.removeprefix("SIG")
    if found := re.fullmatch(r"RTMIN(?:\+(\d{1,2}))?|RTMAX(?:-(\d{1,2}))?", text, re.ASCII):
        least = text.startswith("RTMIN")
        number = signals.SIGRTMIN + int(found[1] or 0) if least else signals.SIGRTMAX - int(found[2] or 0)
        if signals.SIGRTMIN <= number <= signals.SIGRTMAX:
            return int(number)
    try:
        return int(signals.Signals[f"SIG{text}"])
    except KeyError:
        raise InvalidParameter(f"invalid signal: {name}") from None


def _not_running(container: Container) -> Conflict:
    return Conflict(f"container {container.id} is not running")


async def start(engine: Engine, name: str) -> None:
    """Run the container's command. Raises NotModified where it runs already, StartFailed, Conflict."""
    await engine.finish(_start(engine, engine.containers.find(name).id))


async def _start(engine: Engine, id: str) -> None:
    async with engine.locks.hold(id):
        await launch.settled(engine, id)
        container = engine.containers.get(id)
        if container.state is State.PAUSED:
            raise Conflict("cannot start a paused container, try unpause instead")
        if container.state is State.RUNNING:
            raise NotModified("container already started")
        if container.state in (State.REMOVING, State.DEAD):
            raise Conflict("container is marked for removal and cannot be started")
        restarts.forget_restart(engine, id)
        with engine.db.transaction():
            engine.containers.update(id, restarts=0, stopped=0)
        try:
            await launch.launch(engine, engine.containers.get(id))
        except Exception:
            # As Docker: a container that was to be removed after its run goes after a start that failed, too.
            if host_config_of(container).auto_remove:
                await removal.erase(engine, id, with_volumes=True)
            raise


async def stop(engine: Engine, name: str, signal: str | None = None, timeout: int | None = None) -> None:
    """Stop signal, then SIGKILL after ``timeout`` seconds (-1: never; None: the container's own, else 10)."""
    container = engine.containers.find(name)
    if container.state is State.RESTARTING:
        # Not in the middle of the start that is due: it would run on, recorded as stopped.
        async with engine.locks.hold(container.id):
            container = engine.containers.get(container.id)
            if container.state is State.RESTARTING:
                _end_restarting(engine, container)
                engine.events.publish("container", "stop", container.id, attributes(container))
                return
    if not container.live:
        raise NotModified("container already stopped")
    await end(engine, container, signal, timeout)
    engine.events.publish("container", "stop", container.id, attributes(container))


def _end_restarting(engine: Engine, container: Container) -> None:
    restarts.forget_restart(engine, container.id)
    with engine.db.transaction(durable=True):
        engine.containers.update(container.id, state=State.EXITED, stopped=1)
    engine.waiters.wake(container.id, container.exit_code, Condition.NEXT_EXIT, Condition.NOT_RUNNING)


async def end(engine: Engine, container: Container, signal: str | None, timeout: int | None) -> None:
    """Bring a live container to its end, and wait until everything of its run is released."""
    config = config_of(container)
    number = signal_number(signal or config.stop_signal or "SIGTERM")
    patience = timeout if timeout is not None else config.stop_timeout
    if patience is None:
        patience = DEFAULT_STOP_TIMEOUT
    engine.containers.update(container.id, stopped=1)
    running = engine.running.get(container.id)
    if running is None:
        return
    if container.state is State.PAUSED:
        await _thaw(engine, container)
    _send(engine, container, running, number, "sent to stop it")
    try:
        await asyncio.wait_for(running.settled.wait(), None if patience < 0 else patience)
        return
    except TimeoutError:
        late = f"sent because it had not stopped after {patience} s"
        _send(engine, container, running, signals.SIGKILL, late)
    await _await_death(engine, container, running)


async def _thaw(engine: Engine, container: Container) -> None:
    """Let a paused container go on, so that it can end."""
    with suppress(OSError):  # it has just ended
        await blocking(engine.exec.thaw, container.id)


async def _await_death(engine: Engine, container: Container, running: Running) -> None:
    for _ in range(KILL_PATIENCE):
        try:
            await asyncio.wait_for(running.settled.wait(), 1.0)
            return
        except TimeoutError:
            # Paused in the same moment: for the frozen of cgroup v1 even SIGKILL has to wait.
            if engine.containers.get(container.id).state is State.PAUSED:
                await _thaw(engine, container)
            # The shim may be busy with a process that the container's own keep from getting on.
            await blocking(engine.exec.kill, container.id)
    raise PierheadError(
        f"tried to kill container {container.id}, but did not receive an exit event within {KILL_PATIENCE} s"
    )


def _send(engine: Engine, container: Container, running: Running, number: int, why: str) -> None:
    """Signal this run of it: never the one that a restart has begun meanwhile. why: for the reason of its end."""
    if running.exited.done():
        return
    try:
        running.monitor.signal(number)
        running.sent[int(number)] = why
    except OSError:
        return  # it has just ended: its exit event is on the way
    engine.events.publish("container", "kill", container.id, {**attributes(container), "signal": str(int(number))})


async def kill(engine: Engine, name: str, signal: str = "SIGKILL") -> None:
    """Send a signal to the container's PID 1; SIGKILL also waits for its end."""
    container = engine.containers.find(name)
    number = signal_number(signal or "SIGKILL")
    if not container.live:
        raise Conflict(f"cannot kill container: {name}: {_not_running(container)}")
    stop_signal = config_of(container).stop_signal
    if number == signals.SIGKILL or not stop_signal or signal_number(stop_signal) == number:
        engine.containers.update(container.id, stopped=1)
    running = engine.running.get(container.id)
    if running is None:
        return  # its end is being recorded
    if container.state is State.PAUSED and number == signals.SIGKILL:
        await _thaw(engine, container)
    _send(engine, container, running, number, "sent by a kill request")
    if number == signals.SIGKILL:
        await _await_death(engine, container, running)


async def restart(engine: Engine, name: str, signal: str | None = None, timeout: int | None = None) -> None:
    """Stop where it runs, then start."""
    container = engine.containers.find(name)
    try:
        await engine.finish(_restart(engine, container.id, signal, timeout))
    except PierheadError as error:
        error.args = (f"Cannot restart container {name}: {error}",)  # as Docker; class and status stay
        raise
    engine.events.publish("container", "restart", container.id, attributes(container))


async def _restart(engine: Engine, id: str, signal: str | None, timeout: int | None) -> None:
    async with engine.locks.hold(id):
        restarts.forget_restart(engine, id)
        container = engine.containers.get(id)
        if container.live:
            # An auto-remove container must live through its own restart, and no policy may start it meanwhile.
            restarts.hold(engine, container.id)
            try:
                await end(engine, container, signal, timeout)
            finally:
                restarts.unhold(engine, container.id)
            engine.events.publish("container", "stop", container.id, attributes(container))
        await launch.settled(engine, container.id)
        engine.containers.update(container.id, stopped=0, restarts=0)
        await launch.launch(engine, engine.containers.get(container.id))


async def pause(engine: Engine, name: str) -> None:
    """Freeze every process of the container."""
    id = engine.containers.find(name).id
    async with engine.locks.hold(id):
        container = engine.containers.get(id)
        if container.state is State.PAUSED:
            raise Conflict(f"Container {container.id} is already paused")
        if container.state is State.RESTARTING:
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        if container.state is not State.RUNNING:
            raise Conflict(f"Container {container.id} is not running")
        running = engine.running.get(id)
        if running is None:
            raise Conflict(f"Container {container.id} is not running")
        running.pausing = True
        try:
            await running.quiet()
            await blocking(engine.exec.freeze, id)
            _record(engine, container, State.PAUSED)
        except OSError as error:
            if isinstance(error, ProcessLookupError):
                with suppress(TimeoutError):  # its end is about to be recorded
                    await asyncio.wait_for(running.settled.wait(), KILL_PATIENCE)
            _must_be(engine, container)
            raise
        finally:
            running.pausing = False
        health.stop(engine, id)
    engine.events.publish("container", "pause", id, attributes(container))


def _record(engine: Engine, before: Container, state: State) -> None:
    """Write a state, unless the container has ended since ``before`` was read (nothing holds off a kill)."""
    with engine.db.transaction(durable=True):
        _must_be(engine, before)
        engine.containers.update(before.id, state=state)


def _must_be(engine: Engine, before: Container) -> None:
    """Raise Conflict if the container has ended since ``before`` was read."""
    if engine.containers.get(before.id).state is not before.state:
        raise Conflict(f"Container {before.id} is not running")


async def unpause(engine: Engine, name: str) -> None:
    """Let a paused container go on."""
    id = engine.containers.find(name).id
    async with engine.locks.hold(id):
        container = engine.containers.get(id)
        if container.state is not State.PAUSED:
            raise Conflict(f"Container {container.id} is not paused")
        await blocking(engine.exec.thaw, id)
        _record(engine, container, State.RUNNING)
        if (running := engine.running.get(id)) is not None:
            health.go_on(engine, container, running)
    engine.events.publish("container", "unpause", id, attributes(container))


async def wait(engine: Engine, name: str, condition: str = "") -> Awaitable[ContainerWaitResponse]:
    """Something to await for the exit code; the caller answers the request's head before that."""
    try:
        wanted = Condition(condition or Condition.NOT_RUNNING)
    except ValueError:
        raise InvalidParameter(f'invalid condition: "{condition}"') from None
    container = engine.containers.find(name)
    if wanted is Condition.NOT_RUNNING and not container.live and container.state is not State.RESTARTING:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        future.set_result(container.exit_code)
    else:
        future = engine.waiters.add(container.id, wanted)

    async def answer() -> ContainerWaitResponse:
        return ContainerWaitResponse(status_code=await future)

    return answer()
