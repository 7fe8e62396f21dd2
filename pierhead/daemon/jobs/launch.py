"""One start of a container: network, root file system, files, Spec, exec driver. The seven steps, from the fifth on."""

import os
import signal
import time
from contextlib import ExitStack
from copy import copy

from pierhead.daemon.engine.engine import Engine, log, phase
from pierhead.daemon.engine.running import Running, watch
from pierhead.daemon.jobs import confinement, endings, health, networks, specs, volumes
from pierhead.daemon.jobs.describe import attributes, config_of, host_config_of, mounts_of, network_kind
from pierhead.daemon.jobs.failures import explain
from pierhead.daemon.jobs.files import container_folder, write_files
from pierhead.daemon.jobs.log_drivers import log_config
from pierhead.driver.execdriver.api import Exited, NotBegun, Started, StartRequest
from pierhead.driver.networkdriver import reservations
from pierhead.errors import Conflict, InvalidParameter, NoSuchContainer, NotFound, PierheadError, StartFailed, plain
from pierhead.graph.containers import Container
from pierhead.graph.state import State
from pierhead.libcontainer import view
from pierhead.libcontainer.spec import NamespaceKind, SetupFailed
from pierhead.wire import codec
from pierhead.wire.containers import ContainerConfig, HostConfig

TRIES = 3
"""Of one start, where the driver's processes are killed before they have begun with it."""


async def settled(engine: Engine, id: str) -> None:
    """Wait until the end of an earlier run has been worked off (its state may already say exited)."""
    running = engine.running.get(id)
    if running is not None and running.exited.done():
        await running.settled.wait()


async def launch(engine: Engine, container: Container) -> None:
    """Start it; the caller holds its lock, and it does not run.

    Raises StartFailed and what else the parts raise; then nothing of the start is left.
    """
    id = container.id
    engine.containers.update(id, intent="start")
    try:
        await volumes.mount(engine, container)
        try:
            await _networked(engine, container)
        except BaseException:
            await volumes.unmount(engine, container)
            raise
    except BaseException as error:
        for stream in engine.waiting.pop(id, []):
            stream.connection.close()  # as Docker: who has attached beforehand sees the end
        if isinstance(error, PierheadError):
            code = error.exit_code if isinstance(error, StartFailed) else container.exit_code or 128
            _record_failure(engine, container, str(error), code)
        else:
            engine.containers.update(id, intent="")
        raise


async def _networked(engine: Engine, container: Container) -> None:
    with phase("networkdriver: prepare"):
        joined = await networks.prepare(engine, container.id)
    try:
        await _execute(engine, container, joined)
    except BaseException:
        reservations.release(joined.ports)  # where the exec driver has not come to take them over
        with phase("networkdriver: leave"):
            await networks.release(engine, container.id)
        raise


def _record_failure(engine: Engine, container: Container, error: str, code: int) -> None:
    with engine.db.transaction(durable=True):
        state = State.CREATED if container.state is State.CREATED else State.EXITED
        engine.containers.update(container.id, intent="", error=error, exit_code=code, state=state, pid=0)


async def _execute(engine: Engine, container: Container, joined: networks.Joined) -> None:
    id = container.id
    config, host = config_of(container), host_config_of(container)
    descriptors = _namespaces(engine, container, host)
    with ExitStack() as stack:
        for descriptor in descriptors.values():
            stack.callback(os.close, descriptor)
        with phase("graphdriver: root"):
            folder = container_folder(engine, id)
            if network_kind(host.network_mode) != "container":  # that one sees the other container's files
                hosts, resolv = await networks.files(engine, id)
                hostname = specs.hostname_of(engine, container, config, host)
                write_files(folder, hostname, hosts, resolv, specs.user_maps(engine, host))
            root = stack.enter_context(engine.layers.mounted(container.layer_id))
        with phase("libcontainer: spec"):
            config = _adopted(engine, container, config, host)
            spec = specs.build(engine, container, config, host, root, joined.setup)
            request = StartRequest(
                spec=spec,
                log=log_config(engine, container, host),
                streams=tuple(engine.waiting.pop(id, [])),
                descriptors=descriptors,
                ports=joined.ports,
                open_stdin=bool(config.open_stdin),
                runtime=host.runtime,
            )
        with phase("execdriver: start"):
            running, started = await _begin(engine, container, request)
    try:
        with engine.db.transaction(durable=True):
            engine.containers.update(
                id,
                state=State.RUNNING,
                pid=started.pid,
                started=started.started_at,
                error="",
                exit_code=0,
                intent="",
                oom=0,
                reason="",
            )
        await networks.joined(engine, id, started)
    except BaseException:
        running.monitor.signal(signal.SIGKILL)  # its end is worked off like any other
        raise
    finally:
        running.recorded.set()
    announce_volumes(engine, container, "mount")
    health.begin(engine, container, running)
    engine.events.publish("container", "start", id, attributes(container))
    endings.watch_memory(engine, container, running, known=0)


async def _begin(engine: Engine, container: Container, request: StartRequest) -> tuple[Running, Started]:
    """Hand it to the exec driver until its command runs. Raises StartFailed, InvalidParameter."""
    id = container.id
    for left in reversed(range(TRIES)):
        try:
            monitor = engine.exec.start(request)
        except ValueError as error:  # a Spec that cannot be: said before anything is made
            raise InvalidParameter(str(error)) from error
        running = watch(
            id,
            monitor,
            lambda running, exit: engine.on_ended(running, exit),
            lambda id: engine.exec.collect(id) or Exited(137, 9, time.time_ns()),
        )
        running.owner = specs.network_owner(engine, container, host_config_of(container)).id
        engine.running[id] = running
        try:
            with phase("libcontainer: namespaces, mounts, limits, execve"):
                return running, await running.started
        except NotBegun as error:
            engine.running.pop(id, None)
            if left:
                log.warning("container %s: %s, trying again", id[:12], error.strerror)
                request = error.request
                continue
            error.request.close()
            raise explain(error) from error
        except SetupFailed as error:
            engine.running.pop(id, None)
            raise explain(error) from error
        except OSError as error:
            engine.running.pop(id, None)
            raise StartFailed(f"failed to start container {id}: {plain(error)}") from error
    raise AssertionError("the last try returns or raises")


def _adopted(engine: Engine, container: Container, config: ContainerConfig, host: HostConfig) -> ContainerConfig:
    """A Config with the names of the container whose network is joined; kept, as Docker does, for inspect."""
    owner = specs.network_owner(engine, container, host)
    if owner.id == container.id:
        return config
    theirs = config_of(owner)
    hostname = specs.hostname_of(engine, owner, theirs, host_config_of(owner))
    if (config.hostname, config.domainname) == (hostname, theirs.domainname):
        return config
    config = copy(config)
    config.hostname, config.domainname = hostname, theirs.domainname
    engine.containers.update(container.id, config=codec.encode(config))
    return config


def announce_volumes(engine: Engine, container: Container, action: str) -> None:
    """Docker's events of a container's volumes: "mount" at its start, "unmount" after its end."""
    for point in mounts_of(container):
        if point.type != "volume":
            continue
        told = {"container": container.id, "driver": point.driver}
        if action == "mount":
            told |= {"destination": point.destination, "propagation": "", "read/write": str(point.rw).lower()}
        engine.events.publish("volume", action, point.name, told)


def _not_running(kind: NamespaceKind, other: Container, state: str) -> Conflict:
    """In Docker's words."""
    if kind is NamespaceKind.NETWORK:
        return Conflict(f"cannot join network namespace of a non running container: container {other.name} is {state}")
    return Conflict(f"cannot join {kind} namespace of a non running container: {other.id}")


def _namespaces(engine: Engine, container: Container, host: HostConfig) -> dict[str, int]:
    """Descriptors of the other containers' namespaces that this one joins ("container:NAME")."""
    modes = {
        NamespaceKind.NETWORK: host.network_mode,
        NamespaceKind.PID: host.pid_mode,
        NamespaceKind.IPC: host.ipc_mode,
    }
    descriptors: dict[str, int] = {}
    try:
        for kind, mode in modes.items():
            if not mode or not mode.startswith("container:"):
                continue
            name = mode.removeprefix("container:")
            try:
                other = engine.containers.find(name)
            except NoSuchContainer as error:
                if kind is NamespaceKind.NETWORK:
                    raise NotFound(f"joining network namespace of container: {error}") from None
                raise NoSuchContainer(name) from None
            if kind is NamespaceKind.NETWORK and other.id == container.id:
                raise PierheadError("cannot join own network namespace")
            if not other.live or not other.pid:
                raise _not_running(kind, other, str(other.state))
            wanted = [str(kind)]
            if kind is NamespaceKind.IPC:
                if host_config_of(other).ipc_mode in ("private", "none"):
                    raise InvalidParameter(
                        f"container {other.id}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
                    )
                wanted.append("mnt")
            if specs.user_maps(engine, host) is not None and "ns:user" not in descriptors:
                if specs.user_maps(engine, host_config_of(other)) is None:
                    raise Conflict(
                        f"cannot join the {kind} namespace of container {other.name}, which is in the host's user "
                        "namespace: use --userns=host for this one too"
                    )
                wanted.append("user")
            try:
                opened = view.namespaces(other.pid, other.id, wanted)
            except (ProcessLookupError, PermissionError):  # it has ended, and is only not recorded yet
                raise _not_running(kind, other, "exited") from None
            descriptors |= {f"ns:{name}": descriptor for name, descriptor in zip(wanted, opened, strict=True)}
        confinement.check_joined_sysctls(host, descriptors)
    except BaseException:
        for descriptor in descriptors.values():
            os.close(descriptor)
        raise
    return descriptors
