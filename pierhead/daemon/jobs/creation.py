"""The create job: a request is checked, completed with the image's configuration, and becomes a container."""

import os
import secrets
import time
from dataclasses import replace

from pierhead.daemon.config import Config
from pierhead.daemon.engine.engine import Engine, phase
from pierhead.daemon.jobs import (
    checks,
    foreign_rules,
    images,
    links,
    mounts,
    names,
    networks,
    port_warnings,
    removal,
    specs,
    volumes,
)
from pierhead.daemon.jobs.describe import attributes, host_config_of, mounts_of, network_kind
from pierhead.daemon.jobs.files import container_folder
from pierhead.daemon.jobs.log_drivers import log_config
from pierhead.errors import Conflict, InvalidParameter, NoSuchContainer, NoSuchImage, PierheadError, listed
from pierhead.graph.containers import Container
from pierhead.graph.state import State
from pierhead.manifest import Platform
from pierhead.wire import codec
from pierhead.wire.containers import (
    ContainerConfig,
    ContainerCreateRequest,
    ContainerCreateResponse,
    HealthConfig,
    HostConfig,
    LogConfig,
    MountPoint,
    RestartPolicy,
)
from pierhead.wire.networks import EndpointSettings


def merge(config: ContainerConfig, image: ContainerConfig) -> None:
    """Complete a request's Config with the image's, as Docker does (in place)."""
    if not config.user:
        config.user = image.user
    config.exposed_ports = {**(image.exposed_ports or {}), **(config.exposed_ports or {})} or None
    present = {entry.partition("=")[0] for entry in config.env or []}
    inherited = [entry for entry in image.env or [] if entry and entry.partition("=")[0] not in present]
    config.env = [*(config.env or []), *inherited]
    labels = {**(image.labels or {}), **(config.labels or {})}
    config.labels = labels
    if config.entrypoint is None:
        if not config.cmd:
            config.cmd = image.cmd
        config.entrypoint = image.entrypoint
    elif config.entrypoint == [""]:
        config.entrypoint = None
    config.healthcheck = _merge_health(config.healthcheck, image.healthcheck)
    config.shell = config.shell or image.shell
    if not config.working_dir:
        config.working_dir = image.working_dir
    config.volumes = {**(image.volumes or {}), **(config.volumes or {})} or None
    if not config.stop_signal:
        config.stop_signal = image.stop_signal


def _merge_health(asked: HealthConfig | None, image: HealthConfig | None) -> HealthConfig | None:
    """What a request does not say of the check, the image does."""
    if asked is None or image is None:
        return asked or image
    return HealthConfig(
        test=asked.test or image.test,
        interval=asked.interval or image.interval,
        timeout=asked.timeout or image.timeout,
        start_period=asked.start_period or image.start_period,
        start_interval=asked.start_interval or image.start_interval,
        retries=asked.retries or image.retries,
    )


def _complete(host: HostConfig, settings: Config) -> None:
    """The defaults that Docker writes into a HostConfig."""
    if not host.network_mode or host.network_mode == "default":
        host.network_mode = "bridge"
    log = host.log_config or LogConfig()
    host.log_config = LogConfig(type=log.type or "json-file", config=log.config or {})
    if not host.shm_size:
        host.shm_size = settings.default_shm_size
    if not host.ipc_mode:
        host.ipc_mode = settings.default_ipc_mode
    if not host.cgroupns_mode:
        host.cgroupns_mode = _cgroup_namespace(host, settings)
    if host.init is None and settings.init:
        host.init = True
    if host.restart_policy is None or not host.restart_policy.name:
        host.restart_policy = RestartPolicy(name="no")
    if host.privileged:
        host.masked_paths, host.readonly_paths = host.masked_paths or [], host.readonly_paths or []
    else:
        host.masked_paths = list(specs.masked_paths()) if host.masked_paths is None else host.masked_paths
        host.readonly_paths = list(specs.READONLY) if host.readonly_paths is None else host.readonly_paths
    if host.console_size is None:
        host.console_size = [0, 0]


def _cgroup_namespace(host: HostConfig, settings: Config) -> str:
    """Docker gives a privileged container the host's with cgroup v1, whatever is the default."""
    unified = specs.cgroup_layout().version == 2
    if host.privileged and not unified:
        return "host"
    return settings.default_cgroupns_mode or ("private" if unified else "host")


def _name_by_id(engine: Engine, host: HostConfig) -> None:
    """Containers whose namespaces are joined are known by their ids: they may be renamed.

    As in Docker a network's may come later. Raises InvalidParameter for the others'.
    """
    for field in ("network_mode", "ipc_mode", "pid_mode"):
        kind, _, name = getattr(host, field).partition(":")
        if kind != "container":
            continue
        try:
            setattr(host, field, f"container:{engine.containers.find(name).id}")
        except NoSuchContainer as error:
            if field != "network_mode":
                raise InvalidParameter(str(error)) from None


async def create(
    engine: Engine, name: str, request: ContainerCreateRequest, platform: str = ""
) -> ContainerCreateResponse:
    """Make a container. Raises InvalidParameter, NoSuchImage, Conflict; then nothing of it is left."""
    return await engine.finish(_create(engine, name, request, platform))


async def _create(engine: Engine, name: str, request: ContainerCreateRequest, platform: str) -> ContainerCreateResponse:
    warnings: list[str] = []
    given = names.validate(name) if name else ""
    host = request.host_config or HostConfig()
    config = ContainerConfig(**{name: getattr(request, name) for name in ContainerConfig.__struct_fields__})
    checks.check_modes(host, config)
    with phase("graph: image"):
        image = await images.resolve(engine, config.image)
    checks.check_platform(config.image, Platform(image.os, image.architecture, image.variant), platform, warnings)
    merge(config, image.config)
    checks.check_config(config)
    command = _command(config)
    checks.check_host(host, engine.config, warnings)
    checks.check_users(host, engine.config.id_maps is not None)
    networks.check(config, host)
    _complete(host, engine.config)
    if not host.runtime:
        host.runtime = engine.exec.default
    elif host.runtime not in engine.exec.runtimes():
        raise InvalidParameter(f"unknown or invalid runtime name: {host.runtime}")
    wanted = mounts.wanted(config, host, engine.containers.find, mounts_of)
    for at, item in enumerate(wanted):
        if item.kind == "image":
            mounted = await images.resolve(engine, item.name)
            if mounted.layer is None:
                raise InvalidParameter(f"image {item.name} has no layers that could be mounted")
            wanted[at] = replace(item, source=item.name, name=mounted.id)
    endpoints = _endpoints(engine, request, host)
    warnings += await port_warnings.of_request(engine, config, host, endpoints)
    linked = links.targets(engine, host)
    _name_by_id(engine, host)
    id = secrets.token_hex(32)
    if not config.hostname and network_kind(host.network_mode) != "container" and host.uts_mode != "host":
        config.hostname = os.uname().nodename if host.network_mode == "host" else id[:12]
    elif network_kind(host.network_mode) == "container":
        config.hostname = ""
    container = _row(engine, id, given, image.id, config, host, command)
    log_config(engine, container, host)
    # Whoever finds the container by its name from here on (rm -f, start, prune) waits until it is whole.
    async with engine.locks.hold(id):
        container = _reserve_name(engine, container)
        try:
            await _make(engine, container, image.layer, wanted, endpoints, linked, checks.storage_limit(host))
        except BaseException:
            await removal.erase(engine, id, with_volumes=True)
            raise
    engine.events.publish("container", "create", id, attributes(container))
    if network_kind(host.network_mode) in ("default", "user"):
        warnings += await foreign_rules.warnings(engine, endpoints)
    return ContainerCreateResponse(id=id, warnings=warnings)


def _command(config: ContainerConfig) -> list[str]:
    command = [*(config.entrypoint or []), *(config.cmd or [])]
    if not command or not command[0]:
        raise InvalidParameter("no command specified")
    return command


def _row(
    engine: Engine,
    id: str,
    name: str,
    image_id: str,
    config: ContainerConfig,
    host: HostConfig,
    command: list[str],
) -> Container:
    return Container(
        id=id,
        name=name,
        state=State.CREATED,
        image_id=image_id,
        image_name=config.image,
        layer_id=secrets.token_hex(32),
        driver=engine.layers.name,
        config=codec.encode(config),
        host_config=codec.encode(host),
        mounts=b"[]",
        path=command[0],
        args=codec.encode(command[1:]),
        created=time.time_ns(),
        started=0,
        finished=0,
        pid=0,
        exit_code=0,
        error="",
        oom=False,
        restarts=0,
        stopped=False,
        intent="create",
    )


async def _make(
    engine: Engine,
    container: Container,
    parent: str | None,
    wanted: list[mounts.Wanted],
    endpoints: dict[str, EndpointSettings],
    linked: dict[str, Container],
    limit: int,
) -> None:
    """What belongs to a container whose row is there: layer (of limited size, or 0), folder, volumes, endpoints, links.

    The caller holds its lock.
    """
    with phase("graphdriver: layer"):
        engine.layers.create(container.layer_id, parent, writable=True, limit=limit)
        container_folder(engine, container.id)
    points = await _make_mounts(engine, container, wanted)
    with engine.db.transaction(durable=True):
        for network, settings in endpoints.items():
            networks.assign(engine, container.id, network, settings)
        for point in points:
            if point.type == "image" and not engine.graph.has(point.name):
                raise NoSuchImage(point.source)  # removed since it was found: from here on it cannot be
        links.register(engine, container.id, linked)
        engine.containers.update(container.id, intent="", mounts=codec.encode(points))


def _endpoints(engine: Engine, request: ContainerCreateRequest, host: HostConfig) -> dict[str, EndpointSettings]:
    """Settings by network: of those that are asked for, else of the network mode's own. Raises InvalidParameter."""
    asked = (request.networking_config.endpoints_config if request.networking_config else None) or {}
    mode = host.network_mode
    kind = network_kind(mode)
    if kind in ("container", "host", "none") and asked.keys() - {mode}:
        raise InvalidParameter(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
        )
    if kind == "container" or request.network_disabled:
        return {}
    if not asked:
        return {mode: EndpointSettings()}
    result: dict[str, EndpointSettings] = {}
    errors: list[str] = []
    for name, settings in asked.items():
        try:
            if settings is None:
                raise InvalidParameter("EndpointsConfig is nil")
            result[name] = networks.requested(engine, name, settings)
        except InvalidParameter as error:
            errors.append(f"invalid config for network {name}: {error}")
    if errors:
        raise InvalidParameter(listed(errors))
    return result


def _reserve_name(engine: Engine, container: Container) -> Container:
    if container.name:
        _add(engine, container)
        return container
    for attempt in range(20):
        name = names.generate() + (str(attempt) if attempt > 5 else "")
        try:
            _add(engine, replace(container, name=name))
            return replace(container, name=name)
        except Conflict:
            continue
    raise PierheadError("could not find a free name: give one with --name")


def _add(engine: Engine, container: Container) -> None:
    """Its row, if its image is there still: from here on that cannot be removed. Raises NoSuchImage, Conflict."""
    with engine.db.transaction():
        engine.containers.add(container)
        if not engine.graph.has(container.image_id):
            raise NoSuchImage(container.image_name)


async def _make_mounts(engine: Engine, container: Container, wanted: list[mounts.Wanted]) -> list[MountPoint]:
    points = []
    for item in wanted:
        if item.kind == "bind":
            if not os.path.lexists(item.source):
                if not item.make_source:
                    raise InvalidParameter(
                        f'invalid mount config for type "bind": bind source path does not exist: {item.source}'
                    )
                mounts.make_source(item.source, specs.user_maps(engine, host_config_of(container)))
            points.append(
                MountPoint(
                    type="bind",
                    source=item.source,
                    destination=item.target,
                    mode=item.mode,
                    rw=item.writable,
                    propagation=item.propagation or "rprivate",
                )
            )
        elif item.kind == "image":
            points.append(
                MountPoint(type="image", name=item.name, source=item.source, destination=item.target, rw=False)
            )
        elif item.kind == "tmpfs":
            points.append(MountPoint(type="tmpfs", destination=item.target, rw=item.writable))
        else:
            with phase(f"volume {item.name}"):
                name, source = await volumes.attach(
                    engine,
                    container.id,
                    item.name or None,
                    item.target,
                    labels=dict(item.labels),
                    options=dict(item.options),
                )
                if item.copy:
                    await volumes.fill(engine, container.id, container.layer_id, name, item.target)
            points.append(
                MountPoint(
                    type="volume",
                    name=name,
                    source=source,
                    destination=item.target,
                    driver="local",
                    mode=item.mode,
                    rw=item.writable,
                )
            )
    return points
