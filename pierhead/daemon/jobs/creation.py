"""The create job: a request is checked, completed with the image's configuration, and becomes a container."""

import os
import secrets
import time
from dataclasses import replace

from pierhead.daemon.engine.engine import Engine, blocking, phase
from pierhead.daemon.jobs import images, mounts, names, networks, removal, specs, volumes
from pierhead.daemon.jobs.describe import attributes, host_config_of, mounts_of, network_kind
from pierhead.daemon.jobs.files import container_folder, log_config
from pierhead.daemon.jobs.lifecycle import signal_number
from pierhead.errors import Conflict, InvalidParameter, NoSuchNetwork, PierheadError
from pierhead.graph.containers import Container
from pierhead.graph.state import State
from pierhead.wire import codec
from pierhead.wire.containers import (
    ContainerConfig,
    ContainerCreateRequest,
    ContainerCreateResponse,
    HostConfig,
    LogConfig,
    MountPoint,
    RestartPolicy,
)
from pierhead.wire.networks import EndpointSettings

LEAST_MEMORY = 6 * 1024 * 1024
DISCARDED_PORTS = "Published ports are discarded when using host network mode"


def _merge(config: ContainerConfig, image: ContainerConfig) -> None:
    """Complete a request's Config with the image's, as Docker does (in place)."""
    if not config.user:
        config.user = image.user
    config.exposed_ports = {**(image.exposed_ports or {}), **(config.exposed_ports or {})} or None
    present = {entry.partition("=")[0] for entry in config.env or []}
    inherited = [entry for entry in image.env or [] if entry.partition("=")[0] not in present]
    config.env = [*(config.env or []), *inherited]
    labels = {**(image.labels or {}), **(config.labels or {})}
    config.labels = labels
    if config.entrypoint is None:
        if not config.cmd:
            config.cmd = image.cmd
        config.entrypoint = image.entrypoint
    elif config.entrypoint == [""]:
        config.entrypoint = None
    if config.healthcheck is None:
        config.healthcheck = image.healthcheck
    if not config.working_dir:
        config.working_dir = image.working_dir
    config.volumes = {**(image.volumes or {}), **(config.volumes or {})} or None
    if not config.stop_signal:
        config.stop_signal = image.stop_signal


def _check_config(config: ContainerConfig) -> None:
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidParameter(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
        )
    if config.working_dir:
        config.working_dir = os.path.normpath(config.working_dir)
    for entry in config.env or []:
        if not entry or entry.startswith("="):
            raise InvalidParameter(f"invalid environment variable: {entry}")
        if "\0" in entry:
            raise InvalidParameter("invalid environment variable: it holds a NUL byte")
    if config.stop_signal:
        signal_number(config.stop_signal)
    if len(config.hostname) > 63:
        raise InvalidParameter(f"invalid hostname: {config.hostname}: longer than 63 characters")
    for port in config.exposed_ports or {}:
        number, _, proto = port.partition("/")
        if not _port_range(number) or proto.lower() not in ("", "tcp", "udp", "sctp"):
            raise InvalidParameter(f"invalid port specification: {port!r}".replace("'", '"'))


def _port_range(text: str) -> bool:
    low, _, high = text.partition("-")
    return all(part.isascii() and part.isdigit() and 0 < int(part) < 65536 for part in (low, high or low))


def _check_host(host: HostConfig, config: ContainerConfig, warnings: list[str]) -> None:
    _check_restart(host)
    check_limits(host, warnings)
    if host.network_mode.startswith("container:"):
        if host.port_bindings:
            raise InvalidParameter("conflicting options: port publishing and the container type network mode")
        if config.exposed_ports:
            raise InvalidParameter("conflicting options: port exposing and the container type network mode")
        if config.hostname:
            raise InvalidParameter("conflicting options: hostname and the network mode")
        if host.links:
            raise InvalidParameter("conflicting options: container type network can't be used with links")
        if host.dns:
            raise InvalidParameter("conflicting options: dns and the network mode")
        if host.extra_hosts:
            raise InvalidParameter("conflicting options: custom host-to-IP mapping and the network mode")
        if config.mac_address:
            raise InvalidParameter("conflicting options: mac-address and the network mode")
    if host.network_mode == "host" and host.links:
        raise InvalidParameter(
            "conflicting options: host type networking can't be used with links. "
            "This would result in undefined behavior"
        )
    if host.uts_mode == "host" and config.hostname:
        raise InvalidParameter("conflicting options: hostname and the UTS mode")
    for kind, mode in (("IPC", host.ipc_mode), ("PID", host.pid_mode), ("UTS", host.uts_mode)):
        if mode in ("", "host", "private", "shareable", "none") or (mode.startswith("container:") and kind != "UTS"):
            continue
        raise InvalidParameter(f"invalid {kind} mode: {mode}")
    if host.cgroup_parent:
        raise InvalidParameter("cgroup-parent is not supported by this version of Pierhead")
    if host.runtime not in ("", "pierhead", "runc", "io.containerd.runc.v2"):
        raise InvalidParameter(f"unknown or invalid runtime name: {host.runtime}")
    if host.userns_mode not in ("", "host"):
        raise InvalidParameter(f"invalid user namespace mode: {host.userns_mode}")
    if host.device_requests:
        raise PierheadError('could not select device driver "" with capabilities: [[gpu]]')
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidParameter(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if host.shm_size < 0:
        raise InvalidParameter("SHM size can not be less than 0")
    for name in host.sysctls or {}:
        _check_sysctl(name, host)
    specs.security(host)
    specs.devices(host)


def _check_sysctl(name: str, host: HostConfig) -> None:
    kernel = {"msgmnb", "msgmni", "msgmax", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"}
    plain = name.replace("/", ".")
    known = (plain.startswith("kernel.") and plain[7:] in kernel) or plain.startswith("fs.mqueue.")
    if plain.startswith("net.") and ".." not in plain and "\n" not in name:
        if host.network_mode == "host":
            raise InvalidParameter(f"sysctl '{name}' not allowed in host network namespace")
        known = True
    if not known or "+" in name or "\n" in name:
        raise InvalidParameter(f"sysctl '{name}' is not allowed: it is not in a namespace of its own")


def _check_restart(host: HostConfig) -> None:
    policy = host.restart_policy or RestartPolicy()
    if policy.name not in ("", "no", "always", "on-failure", "unless-stopped"):
        raise InvalidParameter(
            f"invalid restart policy: unknown policy '{policy.name}'; "
            "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    if policy.name in ("always", "unless-stopped", "no") and policy.maximum_retry_count > 0:
        raise InvalidParameter("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    if policy.maximum_retry_count < 0:
        raise InvalidParameter("invalid restart policy: maximum retry count cannot be negative")
    if host.auto_remove and policy.name not in ("", "no"):
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")


def check_limits(host: HostConfig, warnings: list[str]) -> None:
    if 0 < host.memory < LEAST_MEMORY:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if host.memory_swap > 0 and not host.memory:
        raise InvalidParameter("You should always set the Memory limit when using Memoryswap limit, see usage")
    if host.memory > 0 and 0 < host.memory_swap < host.memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")
    if host.memory_swappiness is not None and not -1 <= host.memory_swappiness <= 100:
        raise InvalidParameter(f"Invalid value: {host.memory_swappiness}, valid memory swappiness range is 0-100")
    if host.memory_reservation and host.memory and host.memory < host.memory_reservation:
        raise InvalidParameter("Minimum memory limit can not be less than memory reservation limit, see usage")
    if 0 < host.memory_reservation < LEAST_MEMORY:
        raise InvalidParameter("Minimum memory reservation allowed is 6MB")
    if host.nano_cpus and (host.cpu_period or host.cpu_quota):
        which = "CPU Period" if host.cpu_period else "CPU Quota"
        raise InvalidParameter(f"Conflicting options: Nano CPUs and {which} cannot both be set")
    cpus = os.cpu_count() or 1
    if host.nano_cpus < 0 or host.nano_cpus > cpus * 10**9:
        raise InvalidParameter(f"range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available")
    if host.cpu_period and not 1000 <= host.cpu_period <= 1_000_000:
        raise InvalidParameter("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < host.cpu_quota < 1000:
        raise InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidParameter("Range of blkio weight is from 10 to 1000")
    for text, what in ((host.cpuset_cpus, "cpus"), (host.cpuset_mems, "mems")):
        _check_cpuset(text, what, cpus)
    if host.memory and not host.memory_swap:
        host.memory_swap = host.memory * 2
    if host.oom_kill_disable and not host.memory:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, "
            "this can result in the system running out of resources."
        )


def _check_cpuset(text: str, what: str, cpus: int) -> None:
    if not text:
        return
    limit = cpus if what == "cpus" else 1024
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if (
            not (low.isascii() and low.isdigit() and (not dash or (high.isascii() and high.isdigit())))
            or len(part) > 20
        ):
            raise InvalidParameter(f"Invalid value {text} for cpuset {what}")
        if int(high or low) >= limit:
            available = f"0-{limit - 1}" if limit > 1 else "0"
            kind = "CPUs" if what == "cpus" else "memory nodes"
            raise InvalidParameter(f"Requested {kind} are not available - requested {text}, available: {available}")


def _complete(host: HostConfig) -> None:
    """The defaults that Docker writes into a HostConfig."""
    if not host.network_mode or host.network_mode == "default":
        host.network_mode = "bridge"
    if host.log_config is None or not host.log_config.type:
        host.log_config = LogConfig(
            type="json-file", config=(host.log_config.config if host.log_config else None) or {}
        )
    if not host.shm_size:
        host.shm_size = specs.DEFAULT_SHM
    if not host.ipc_mode:
        host.ipc_mode = "private"
    if not host.cgroupns_mode:
        host.cgroupns_mode = "private" if specs.cgroup_layout().version == 2 else "host"
    if not host.runtime:
        host.runtime = "pierhead"
    if host.restart_policy is None or not host.restart_policy.name:
        host.restart_policy = RestartPolicy(name="no")
    if host.privileged:
        host.masked_paths, host.readonly_paths = host.masked_paths or [], host.readonly_paths or []
    else:
        host.masked_paths = list(specs.MASKED) if host.masked_paths is None else host.masked_paths
        host.readonly_paths = list(specs.READONLY) if host.readonly_paths is None else host.readonly_paths
    if host.console_size is None:
        host.console_size = [0, 0]


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
    with phase("graph: image"):
        image = await images.resolve(engine, config.image)
    _merge(config, image.config)
    _check_config(config)
    command = [*(config.entrypoint or []), *(config.cmd or [])]
    if not command:
        raise InvalidParameter("no command specified")
    if command == [""] or not command[0]:
        raise InvalidParameter("no command specified")
    _check_host(host, config, warnings)
    networks.check(config, host)
    _complete(host)
    if network_kind(host.network_mode) == "host" and host.port_bindings:
        warnings.append(DISCARDED_PORTS)
    wanted = mounts.wanted(config, host, engine.containers.find, mounts_of)
    endpoints = _endpoints(engine, request, host)
    id = secrets.token_hex(32)
    if not config.hostname and network_kind(host.network_mode) != "container" and host.uts_mode != "host":
        config.hostname = os.uname().nodename if host.network_mode == "host" else id[:12]
    elif network_kind(host.network_mode) == "container":
        config.hostname = ""
    container = Container(
        id=id,
        name=given,
        state=State.CREATED,
        image_id=image.id,
        image_name=request.image,
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
    log_config(engine, container, host)
    # Whoever finds the container by its name from here on (rm -f, start, prune) waits until it is whole.
    async with engine.locks.hold(id):
        container = _reserve_name(engine, container)
        try:
            await _make(engine, container, image.layer, wanted, endpoints)
        except BaseException:
            await removal.erase(engine, id, with_volumes=True)
            raise
    engine.events.publish("container", "create", id, attributes(container))
    return ContainerCreateResponse(id=id, warnings=warnings)


async def _make(
    engine: Engine,
    container: Container,
    parent: str | None,
    wanted: list[mounts.Wanted],
    endpoints: dict[str, EndpointSettings],
) -> None:
    """What belongs to a container whose row is there: layer, folder, volumes, endpoints. The caller holds its lock."""
    with phase("graphdriver: layer"):
        engine.layers.create(container.layer_id, parent, writable=True)
        container_folder(engine, container.id)
    points = await _make_mounts(engine, container, wanted)
    with engine.db.transaction(durable=True):
        for network, settings in endpoints.items():
            try:
                networks.assign(engine, container.id, network, settings)
            except NoSuchNetwork:
                if network != host_config_of(container).network_mode:
                    raise
        engine.containers.update(container.id, intent="", mounts=codec.encode(points))


def _endpoints(engine: Engine, request: ContainerCreateRequest, host: HostConfig) -> dict[str, EndpointSettings]:
    """Settings by network name; the network mode's own is always among them."""
    asked = (request.networking_config.endpoints_config if request.networking_config else None) or {}
    kind = network_kind(host.network_mode)
    if kind == "container":
        if asked.keys() - {host.network_mode}:
            raise InvalidParameter(
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
            )
        return {}
    result: dict[str, EndpointSettings] = {}
    mode = host.network_mode
    for name, settings in asked.items():
        key = "bridge" if name == "default" else name
        result[key] = settings if settings is not None else EndpointSettings()
    if mode not in result:
        try:
            same = networks.find_row(engine, mode)["id"]
        except NoSuchNetwork:
            same = ""  # Docker, too, lets a network be made after its container
        if not any(networks.find_row(engine, name)["id"] == same for name in result):
            result = {mode: EndpointSettings(), **result}
    if len(result) > 1 and kind in ("host", "none"):
        raise InvalidParameter(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
        )
    return result


def _reserve_name(engine: Engine, container: Container) -> Container:
    if container.name:
        with engine.db.transaction():
            engine.containers.add(container)
        return container
    for attempt in range(20):
        name = names.generate() + (str(attempt) if attempt > 5 else "")
        try:
            with engine.db.transaction():
                engine.containers.add(replace(container, name=name))
            return replace(container, name=name)
        except Conflict:
            continue
    raise PierheadError("could not find a free name: give one with --name")


async def _make_mounts(engine: Engine, container: Container, wanted: list[mounts.Wanted]) -> list[MountPoint]:
    points = []
    for item in wanted:
        if item.kind == "bind":
            if not os.path.lexists(item.source):
                if not item.make_source:
                    raise InvalidParameter(
                        f'invalid mount config for type "bind": bind source path does not exist: {item.source}'
                    )
                os.makedirs(item.source, 0o755, exist_ok=True)
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
                    await blocking(volumes.copy_up, engine, container.layer_id, name, item.target)
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
