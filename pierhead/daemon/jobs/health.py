"""Health checks: an image's or user's command, run again and again in a container while it runs.

What they have found is in GraphDB and not here, so that a restarted daemon goes on where the one before it was: a
healthy container stays healthy.  Rules, defaults and texts are Docker's.
"""

import asyncio
import time
from contextlib import suppress

from pierhead.daemon.engine.engine import Engine, log
from pierhead.daemon.engine.running import ExecInstance, Running
from pierhead.daemon.jobs import execs
from pierhead.daemon.jobs.describe import attributes, config_of
from pierhead.errors import PierheadError
from pierhead.graph.containers import Container
from pierhead.wire import codec, stdcopy
from pierhead.wire.containers import ContainerConfig, Health, HealthcheckResult, HealthConfig
from pierhead.wire.durations import go_duration
from pierhead.wire.execs import ExecConfig, ExecStartConfig
from pierhead.wire.time import rfc3339

SECOND = 10**9
INTERVAL = 30 * SECOND
TIMEOUT = 30 * SECOND
START_INTERVAL = 5 * SECOND
RETRIES = 3

LONGEST_OUTPUT = 4096
"""Bytes of a check's output that are kept."""

MOST_RESULTS = 5

KILL_PATIENCE = 10.0
"""Seconds until a check that was killed is given up."""

STARTING, HEALTHY, UNHEALTHY, NONE = "starting", "healthy", "unhealthy", "none"


def command(config: ContainerConfig) -> list[str] | None:
    """What is to be run to check a container; None: nothing."""
    test = (config.healthcheck.test if config.healthcheck else None) or []
    match test[:1]:
        case ["CMD"] if len(test) > 1:
            return test[1:]
        case ["CMD-SHELL"]:
            return [*(config.shell or ["/bin/sh", "-c"]), *test[1:]]
        case _:
            return None


def of(engine: Engine, id: str) -> Health | None:
    """What inspect shows of a container's health; None where nothing checks it."""
    row = engine.db.first("SELECT status, streak, log FROM health WHERE container_id = ?", (id,))
    if row is None:
        return None
    return Health(
        status=row["status"], failing_streak=row["streak"], log=codec.decode(row["log"], list[HealthcheckResult])
    )


def statuses(engine: Engine) -> dict[str, str]:
    """By the ids of the containers that are checked: "starting", "healthy" or "unhealthy"."""
    return {row["container_id"]: row["status"] for row in engine.db.all("SELECT container_id, status FROM health")}


def begin(engine: Engine, container: Container, running: Running) -> None:
    """A container has been started: it is "starting", and checked from now on."""
    config = config_of(container)
    if config.healthcheck is None or command(config) is None:
        return
    with engine.db.transaction():
        engine.db.execute(
            "INSERT INTO health (container_id, status) VALUES (?, ?) "
            "ON CONFLICT (container_id) DO UPDATE SET status = excluded.status, streak = 0, probe = ''",
            (container.id, STARTING),
        )
    go_on(engine, container, running)


def go_on(engine: Engine, container: Container, running: Running) -> None:
    """Check a running container (again): after its start, after a pause, by a new daemon. Idempotent."""
    row = engine.db.first("SELECT probe FROM health WHERE container_id = ?", (container.id,))
    if row is None or container.id in engine.health_checks:
        return
    if row["probe"]:
        with suppress(OSError):  # a check of a daemon that was killed, which nobody waits for any more
            running.monitor.signal(9, row["probe"])
    task = engine.background(_check(engine, container.id, running), f"health of {container.id[:12]}")
    engine.health_checks[container.id] = task


def stop(engine: Engine, id: str) -> None:
    """Check it no longer: it is paused or has ended, and as in Docker counts as unhealthy. Idempotent."""
    task = engine.health_checks.pop(id, None)
    if task is None:
        return
    task.cancel()
    with engine.db.transaction():
        engine.db.execute("UPDATE health SET status = ?, probe = '' WHERE container_id = ?", (UNHEALTHY, id))


def ended(engine: Engine, id: str) -> None:
    """A container has ended, seen by this daemon or not."""
    stop(engine, id)
    if engine.db.first("SELECT 1 FROM health WHERE container_id = ? AND status <> ?", (id, UNHEALTHY)) is not None:
        with engine.db.transaction():
            engine.db.execute("UPDATE health SET status = ?, probe = '' WHERE container_id = ?", (UNHEALTHY, id))


async def _check(engine: Engine, id: str, running: Running) -> None:
    container = engine.containers.get(id)
    config = config_of(container)
    asked = config.healthcheck or HealthConfig()
    words = command(config) or []
    while not running.exited.done():
        await asyncio.sleep(_pause(engine, container, asked) / SECOND)
        start = time.time_ns()
        try:
            code, output = await _probe(engine, id, running, words, asked.timeout or TIMEOUT)
        except (PierheadError, OSError) as error:
            code, output = -1, str(error)
        result = HealthcheckResult(start=rfc3339(start), end=rfc3339(time.time_ns()), exit_code=code, output=output)
        if running.exited.done():
            return
        if not running.pausing:
            _record(engine, container, asked, start, result)


def _pause(engine: Engine, container: Container, asked: HealthConfig) -> int:
    """ns until the next check."""
    interval = asked.interval or INTERVAL
    if time.time_ns() - container.started >= asked.start_period:
        return interval
    found = of(engine, container.id)
    return (asked.start_interval or START_INTERVAL) if found is not None and found.status == STARTING else interval


async def _probe(engine: Engine, id: str, running: Running, words: list[str], timeout: int) -> tuple[int, str]:
    """Run the check once: its exit code (-1: it took too long) and the beginning of its output."""
    made = await execs.create(engine, id, ExecConfig(cmd=words, attach_stdout=True, attach_stderr=True))
    instance = execs.find(engine, made.id)
    with engine.db.transaction():
        engine.db.execute("UPDATE health SET probe = ? WHERE container_id = ?", (made.id, id))
    output = bytearray()
    try:
        attached = await execs.start(engine, made.id, ExecStartConfig())
        assert attached is not None and attached.connection is not None
        with attached.connection as connection:
            try:
                async with asyncio.timeout(timeout / SECOND):
                    loop = asyncio.get_running_loop()
                    reader = stdcopy.Reader()
                    while data := await loop.sock_recv(connection, 65536):
                        for _, piece in reader.feed(data):
                            output += piece[: LONGEST_OUTPUT + 1 - len(output)]
                    await instance.ended.wait()
            except TimeoutError:
                await _kill(running, instance)
                said = _text(output)
                return -1, f"Health check exceeded timeout ({go_duration(timeout)})" + (said and f": {said}")
        code = instance.exit_code
        return (-1 if code is None else code), _text(output)
    except asyncio.CancelledError:
        if instance.running and not engine.closing:
            with suppress(OSError):
                running.monitor.signal(9, instance.id)
        raise
    finally:
        engine.execs.pop(made.id, None)


def _text(output: bytearray) -> str:
    more = "..." if len(output) > LONGEST_OUTPUT else ""
    return output[:LONGEST_OUTPUT].decode(errors="replace") + more


async def _kill(running: Running, instance: ExecInstance) -> None:
    """End a check and wait for that, lest they pile up."""
    with suppress(OSError, TimeoutError):
        running.monitor.signal(9, instance.id)
        async with asyncio.timeout(KILL_PATIENCE):
            await instance.ended.wait()


def _record(engine: Engine, container: Container, asked: HealthConfig, start: int, result: HealthcheckResult) -> None:
    found = of(engine, container.id)
    if found is None:
        return
    before = found.status
    found.log = [*found.log[1 - MOST_RESULTS :], result]
    if result.exit_code == 0:
        found.status, found.failing_streak = HEALTHY, 0
    elif before != STARTING or start - container.started >= asked.start_period:
        found.failing_streak += 1
        if found.failing_streak >= (asked.retries or RETRIES):
            found.status = UNHEALTHY
    with engine.db.transaction():
        engine.db.execute(
            "UPDATE health SET status = ?, streak = ?, log = ?, probe = '' WHERE container_id = ?",
            (found.status, found.failing_streak, codec.encode(found.log), container.id),
        )
    if found.status != before:
        log.info("container %s is %s", container.id[:12], found.status)
        told = attributes(engine.containers.get(container.id))
        engine.events.publish("container", f"health_status: {found.status}", container.id, told)
