"""Jobs on exec instances: create, start, inspect, resize."""

import asyncio
import errno
import os
import secrets
import time
from contextlib import suppress
from dataclasses import replace

from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.engine.running import ExecInstance, Running
from pierhead.daemon.jobs import checks, confinement, specs
from pierhead.daemon.jobs.describe import attributes, config_of, host_config_of
from pierhead.daemon.jobs.failures import explain_exec
from pierhead.daemon.jobs.streams import Attached, pair
from pierhead.driver.execdriver.api import Stream
from pierhead.errors import Conflict, InvalidParameter, NoSuchExec
from pierhead.graph.containers import Container
from pierhead.graph.state import State
from pierhead.libcontainer import capabilities
from pierhead.libcontainer.spec import Process, SetupFailed
from pierhead.wire.execs import ExecConfig, ExecCreateResponse, ExecInspectResponse, ExecStartConfig, ProcessConfig

REPORT_PATIENCE = 5.0
"""Seconds that the shim's report of an exec's end may be behind the end of its output."""

KEPT = 512
"""Ended exec instances that can still be inspected; the oldest go first."""

MOST_KEPT = 8 * KEPT
"""Exec instances of any kind, except running ones."""


def _live(engine: Engine, container: Container) -> Running:
    if container.state is State.PAUSED:
        raise Conflict(f"container {container.id} is paused, unpause the container before exec")
    running = engine.running.get(container.id)
    if container.state is not State.RUNNING or running is None or running.exited.done():
        raise Conflict(f"container {container.id} is not running")
    if running.pausing:
        raise Conflict(f"container {container.id} is paused, unpause the container before exec")
    return running


async def create(engine: Engine, name: str, request: ExecConfig) -> ExecCreateResponse:
    """Register a command to run in a container; nothing is started yet."""
    container = engine.containers.find(name)
    if not request.cmd:
        raise InvalidParameter("No exec command specified")
    if request.working_dir and not request.working_dir.startswith("/"):
        raise InvalidParameter("Cwd must be an absolute path")
    checks.check_environment(filter(None, request.env or []))  # an empty entry is none, as in Docker
    _live(engine, container)
    config, host = config_of(container), host_config_of(container)
    hostname = specs.hostname_of(engine, container, config, host)
    environment = specs.environment(engine, container, config, hostname)
    base = [entry for entry in environment if request.tty or not entry.startswith("TERM=") or not config.tty]
    if request.tty and not any(entry.startswith("TERM=") for entry in base):
        base.append("TERM=xterm")
    confined = confinement.of(host, engine.config)
    if request.privileged:
        granted = capabilities.resolve((), (), True)
    else:
        granted = capabilities.resolve(tuple(host.cap_add or ()), tuple(host.cap_drop or ()), host.privileged)
    size = request.console_size or [0, 0]
    process = Process(
        args=tuple(request.cmd),
        env=tuple(specs.merge_env(base, request.env or [])),
        cwd=request.working_dir or config.working_dir or "/",
        user=request.user or config.user,
        groups=tuple(host.group_add or ()),
        capabilities=granted,
        seccomp=confinement.program(host, confined),
        no_new_privileges=confined.no_new_privileges,
        apparmor=confined.apparmor,
        rlimits=specs.rlimits(host, engine.config),
        oom_score_adj=host.oom_score_adj,
        terminal=request.tty,
        console_size=(size[0], size[1]) if len(size) == 2 and size[0] and size[1] else None,
        user_maps=specs.user_maps(engine, host),
    )
    instance = ExecInstance(
        id=secrets.token_hex(32),
        container_id=container.id,
        process=process,
        open_stdin=request.attach_stdin,
        open_stdout=request.attach_stdout,
        open_stderr=request.attach_stderr,
        privileged=request.privileged,
        detach_keys=request.detach_keys,
        created=time.monotonic(),
    )
    _forget_old(engine)
    engine.execs[instance.id] = instance
    command = " ".join(request.cmd)
    engine.events.publish(
        "container", f"exec_create: {command}", container.id, {**attributes(container), "execID": instance.id}
    )
    return ExecCreateResponse(id=instance.id)


def _forget_old(engine: Engine) -> None:
    if len(engine.execs) < KEPT:
        return
    ended = [key for key, instance in engine.execs.items() if instance.exit_code is not None]
    if not ended and len(engine.execs) >= MOST_KEPT:  # created again and again, never started
        ended = [key for key, instance in engine.execs.items() if instance.answer is None]
    for key in ended[: len(ended) // 2 + 1]:
        del engine.execs[key]


def find(engine: Engine, id: str) -> ExecInstance:
    """By full id. Raises NoSuchExec."""
    instance = engine.execs.get(id)
    if instance is None:
        raise NoSuchExec(id)
    return instance


async def start(engine: Engine, id: str, request: ExecStartConfig) -> Attached | None:
    """Run the command; None when it was asked to run detached. Raises StartFailed, Conflict."""
    instance = find(engine, id)
    container = engine.containers.get(instance.container_id)
    if instance.started or instance.answer is not None:
        if instance.exit_code is not None:
            raise Conflict(f"exec command has already run: {id}")
        raise Conflict(f"exec command {id} is already running")
    running = _live(engine, container)
    stream = ours = None
    if not request.detach:
        ours, theirs = pair()
        stream = Stream(
            connection=theirs,
            stdin=instance.open_stdin,
            stdout=instance.open_stdout,
            stderr=instance.open_stderr and not request.tty,
            reframed=request.tty != instance.process.terminal,
        )
    if request.console_size and len(request.console_size) == 2 and all(request.console_size):
        instance.process = replace(instance.process, console_size=(request.console_size[0], request.console_size[1]))
    instance.answer = asyncio.get_running_loop().create_future()

    command = " ".join(instance.process.args)
    untold = [{**attributes(container), "execID": id}]

    def begun() -> None:
        while untold:
            engine.events.publish("container", f"exec_start: {command}", container.id, untold.pop())

    def died(code: int) -> None:
        begun()  # both may be told by the shim before we are asked to go on
        told = {**attributes(container), "execID": id, "exitCode": str(code)}
        engine.events.publish("container", "exec_die", container.id, told)

    instance.died = died
    try:
        running.monitor.exec(
            id, instance.process, stream, instance.open_stdin and ours is not None, instance.privileged
        )
        running.execs[id] = instance  # not before: nobody answers what could not be asked, and a pause waits for that
        await instance.answer
    except BaseException as error:
        if ours is not None:
            ours.close()
        if isinstance(error, SetupFailed) and error.errno == errno.ESRCH:
            # There is no process to join: the container's end is told soon.
            await asyncio.wait({running.exited}, timeout=REPORT_PATIENCE)
        if isinstance(error, SetupFailed) and not (error.errno == errno.ESRCH and running.exited.done()):
            failure = explain_exec(error)
            instance.exit_code = failure.exit_code
            instance.started = True
            raise failure from error
        if isinstance(error, OSError):
            instance.exit_code = 128
            raise Conflict(f"container {container.id} is not running") from error
        if isinstance(error, ValueError):  # a Process that cannot be: said before anything is made
            instance.exit_code = 126
            raise InvalidParameter(str(error)) from error
        raise
    begun()
    if ours is None:
        return None

    def detached() -> None:
        engine.events.publish("container", "exec_detach", container.id, {**attributes(container), "execID": id})

    return Attached(ours, instance.process.terminal, None, detached)


async def inspect(engine: Engine, id: str) -> ExecInspectResponse:
    """Everything about an exec instance."""
    instance = find(engine, id)
    if instance.running and not os.path.exists(f"/proc/{instance.pid}"):
        # Its output has ended, so that the client asks for its code, a moment before its report is read here.
        with suppress(TimeoutError):
            await asyncio.wait_for(instance.ended.wait(), REPORT_PATIENCE)
    args = instance.process.args
    return ExecInspectResponse(
        id=id,
        running=instance.running,
        exit_code=instance.exit_code,
        process_config=ProcessConfig(
            tty=instance.process.terminal,
            entrypoint=args[0],
            arguments=list(args[1:]),
            privileged=instance.privileged,
            user=instance.process.user,
        ),
        open_stdin=instance.open_stdin,
        open_stderr=instance.open_stderr,
        open_stdout=instance.open_stdout,
        can_remove=instance.exit_code is not None,
        container_id=instance.container_id,
        detach_keys=instance.detach_keys,
        pid=instance.pid,
    )


async def resize(engine: Engine, id: str, rows: int, columns: int) -> None:
    """Tell an exec's terminal its size."""
    instance = find(engine, id)
    running = engine.running.get(instance.container_id)
    if not instance.running or running is None:
        raise InvalidParameter(f"exec {id} is not running")
    running.monitor.resize(rows, columns, id)
