"""What happens when a container ends, and when the daemon comes back to containers that ran on without it."""

import asyncio
import time
from contextlib import suppress

from pierhead.daemon.engine.engine import Backoff, Engine, blocking, log, phase
from pierhead.daemon.engine.running import Running, watch
from pierhead.daemon.engine.waiters import Condition
from pierhead.daemon.jobs import endings, health, launch, networks, removal, specs, volumes
from pierhead.daemon.jobs.describe import attributes, host_config_of
from pierhead.driver.execdriver.api import Exited
from pierhead.errors import NoSuchContainer, PierheadError
from pierhead.graph.containers import Container
from pierhead.graph.state import State

FIRST_DELAY = 0.1
LONGEST_DELAY = 60.0
STEADY = 10.0
"""Seconds, as Docker: the delay between restarts doubles up to the longest, and starts anew after a steady run."""

LOST_EXIT_CODE = 255
"""What Docker records for a container that ended while nobody could see how."""

PATIENCE = 10.0
"""Seconds that the daemon's start waits for one shim; one that somebody has stopped must not keep it from serving."""


def ended(engine: Engine, running: Running, exit: Exited) -> None:
    """The Monitor's report of a container's end; the rest is done as a job."""
    engine.background(engine.run(settle, running.id, exit), f"settle {running.id[:12]}")


async def settle(engine: Engine, id: str, exit: Exited) -> None:
    """Record an end, give everything of that run back, then restart, remove or leave the container."""
    running = engine.running.get(id)
    if running is not None:
        await running.recorded.wait()
    health.ended(engine, id)
    container = engine.containers.get(id)
    why = endings.reason(container, exit, running)
    # Every step is tried: an end that is not recorded would leave a container that can be neither stopped nor removed.
    errors: list[Exception] = []
    with phase("networkdriver: leave"):
        try:
            await networks.release(engine, id)
        except Exception as error:
            errors.append(error)
    # Asked only now, with its state: whoever has stopped it meanwhile was told that it is stopped.
    again = _restarts(engine, engine.containers.get(id), exit)
    # The report on disk goes with "delete": only when it is in GraphDB.
    with engine.db.transaction(durable=True):
        engine.containers.update(
            id,
            state=State.RESTARTING if again else State.EXITED,
            pid=0,
            exit_code=exit.code,
            finished=exit.at,
            oom=int(exit.oom),
            reason=why,
            restarts=container.restarts + (1 if again else 0),
        )
    for exec_id in [key for key, instance in engine.execs.items() if instance.container_id == id]:
        instance = engine.execs[exec_id]
        if instance.running:
            instance.exit_code = 137
    if exit.oom and not (running is not None and running.out_of_memory):
        engine.events.publish("container", "oom", id, attributes(container))
    if why:
        log.info("container %s: %s", id[:12], why)
    duration = max(0, exit.at - container.started) // 1_000_000_000
    engine.events.publish(
        "container",
        "die",
        id,
        {
            **attributes(container),
            "execDuration": str(duration),
            "exitCode": str(exit.code),
            **({"reason": why} if why else {}),
        },
    )
    launch.announce_volumes(engine, container, "unmount")
    # Who waits need not wait for the shim's own end as well; another start or a removal does (``launch.settled``).
    # One that will be started again has ended, too: `docker wait` of a container that always restarts would never end.
    engine.waiters.wake(id, exit.code, Condition.NEXT_EXIT, Condition.NOT_RUNNING)
    with phase("execdriver: delete"):
        try:
            await blocking(engine.exec.delete, id)
        except OSError as error:
            errors.append(error)
    try:
        await volumes.unmount(engine, container)
    except OSError as error:
        errors.append(error)
    if engine.running.get(id) is running:
        engine.running.pop(id, None)
    if running is not None:
        running.settled.set()
    if again:
        _schedule(engine, container, exit)
    elif host_config_of(container).auto_remove and id not in engine.held:
        await removal.discard(engine, id, with_volumes=True)
    if errors:
        raise ExceptionGroup(f"container {id}: not everything of its run could be given back", errors)


def _restarts(engine: Engine, container: Container, exit: Exited) -> bool:
    if container.stopped or container.id in engine.held or engine.closing:
        return False
    policy = host_config_of(container).restart_policy
    match policy.name if policy else "":
        case "always" | "unless-stopped":
            return True
        case "on-failure":
            limit = policy.maximum_retry_count if policy else 0
            return exit.code != 0 and (not limit or container.restarts < limit)
        case _:
            return False


def _schedule(engine: Engine, container: Container, exit: Exited) -> None:
    steady = (exit.at - container.started) / 1e9 >= STEADY
    before = engine.backoff.get(container.id)
    delay = FIRST_DELAY if before is None or steady else min(LONGEST_DELAY, before.delay * 2)
    task = engine.background(engine.run(_restart_later, container.id, delay), f"restart {container.id[:12]}")
    engine.backoff[container.id] = Backoff(delay, task)


async def _restart_later(engine: Engine, id: str, delay: float) -> None:
    await asyncio.sleep(delay)
    async with engine.locks.hold(id):
        try:
            container = engine.containers.get(id)
        except NoSuchContainer:
            return  # it was being removed when its time came
        if container.state is not State.RESTARTING:
            return
        if id in engine.backoff:
            engine.backoff[id].task = None  # from here on it is a start like any other, not to be cancelled
        try:
            await launch.launch(engine, container)
        except (PierheadError, OSError) as error:
            # A start that fails (an address or mount that is not there yet) is tried again, as an exit is.
            log.warning("container %s: restart failed, trying again: %s", id, error)
            failed = engine.containers.get(id)
            with engine.db.transaction():
                engine.containers.update(id, state=State.RESTARTING, restarts=failed.restarts + 1)
            _schedule(engine, failed, Exited(failed.exit_code, 0, failed.started))


async def resume(engine: Engine) -> None:
    """The daemon's start: meet the containers that ran on, and record those that ended meanwhile."""
    for container in engine.containers.all():
        if container.live:
            await _meet(engine, container)


async def _meet(engine: Engine, container: Container) -> None:
    monitor = await blocking(engine.exec.reattach, container.id)
    if monitor is None:
        exit = await blocking(engine.exec.collect, container.id)
        try:
            await engine.run(settle, container.id, exit or Exited(LOST_EXIT_CODE, 0, time.time_ns()))
        except ExceptionGroup as error:  # it is recorded; what is left of it must not keep the daemon from serving
            log.error("%s", error, exc_info=error)
        return
    running = watch(
        container.id,
        monitor,
        lambda running, exit: ended(engine, running, exit),
        lambda id: engine.exec.collect(id) or Exited(LOST_EXIT_CODE, 0, time.time_ns()),
    )
    running.recorded.set()
    running.owner = specs.network_owner(engine, container, host_config_of(container)).id
    engine.running[container.id] = running
    # A daemon that was killed between the freezer and the record: the record decides.
    with suppress(OSError):
        await blocking(engine.exec.freeze if container.state is State.PAUSED else engine.exec.thaw, container.id)
    met = engine.background(_greet(engine, running), f"meet {container.id[:12]}")
    await asyncio.wait({met}, timeout=PATIENCE)
    if not met.done():
        log.warning("container %s: its shim does not answer, going on without it", container.id[:12])


async def _greet(engine: Engine, running: Running) -> None:
    """Hear of a shim that it is there, and serve its container's names again."""
    try:
        started = await running.started
    except OSError as error:
        log.warning("container %s ended while it was met again: %s", running.id[:12], error)
        return
    await networks.reattach(engine, running.id, started)
    container = engine.containers.get(running.id)
    if container.state is State.RUNNING:
        health.go_on(engine, container, running)
    endings.watch_memory(engine, container, running)


async def restart_policies(engine: Engine) -> None:
    """After the daemon's start: start what its policy wants running and what does not run."""
    for container in engine.containers.all():
        policy = host_config_of(container).restart_policy
        name = policy.name if policy else ""
        wanted = (
            container.state is State.RESTARTING
            or (container.state is State.EXITED and name == "always")
            or (container.state is State.EXITED and name == "unless-stopped" and not container.stopped)
            or (
                container.state is State.EXITED
                and name == "on-failure"
                and container.exit_code
                and not container.stopped
            )
        )
        if wanted and container.id not in engine.running:
            with engine.db.transaction():
                engine.containers.update(container.id, state=State.RESTARTING)
            task = engine.background(engine.run(_restart_later, container.id, 0.0), f"restart {container.id[:12]}")
            engine.backoff[container.id] = Backoff(FIRST_DELAY, task)
