"""What a create or update request may not say, refused in Docker's words before anything is made."""

import os
from collections.abc import Iterable

from pierhead.daemon.config import Config
from pierhead.daemon.jobs import confinement, limits, specs
from pierhead.daemon.jobs.lifecycle import signal_number
from pierhead.errors import InvalidParameter, NotFound, PierheadError
from pierhead.graph.importing import host_architecture
from pierhead.libcontainer import scopes
from pierhead.linux import const
from pierhead.manifest import Platform, parse_platform
from pierhead.wire.containers import ContainerConfig, DeviceRequest, HealthConfig, HostConfig, RestartPolicy, Ulimit
from pierhead.wire.sizes import size

LEAST_HEALTH_TIME = 1_000_000


def check_platform(image: str, has: Platform, wanted: str, warnings: list[str]) -> None:
    """Refuse an image of another platform than the one asked for; where none was, warn of one that is not the host's.

    wanted: as the request has it.  Raises InvalidParameter, NotFound (clients then pull it for that platform).
    """
    host = Platform("linux", host_architecture())
    platform = parse_platform(wanted, host)
    variants = {has.variant, platform.variant}
    if (has.os, has.architecture) == (platform.os, platform.architecture) and ("" in variants or len(variants) == 1):
        return
    if wanted:
        raise NotFound(
            f"image with reference {image} was found but does not match the specified platform: "
            f"wanted {platform}, actual: {has}"
        )
    warnings.append(
        f"The requested image's platform ({has}) does not match the detected host platform ({host}) "
        "and no specific platform was requested"
    )


def check_config(config: ContainerConfig) -> None:
    """Refuse a Config that cannot be; a working directory is cleaned in place. Raises InvalidParameter."""
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidParameter(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
        )
    if config.working_dir:
        config.working_dir = os.path.normpath(config.working_dir)
    check_environment(config.env or [])
    if config.stop_signal:
        signal_number(config.stop_signal)
    if len(config.hostname) > 63:
        raise InvalidParameter(f"invalid hostname: {config.hostname}: longer than 63 characters")
    for what, name in (("hostname", config.hostname), ("domainname", config.domainname)):
        # They become part of lines in the container's /etc/hosts.
        if any(character.isspace() or not character.isprintable() for character in name):
            raise InvalidParameter(f"invalid {what} format: {name!r}")
    for port in config.exposed_ports or {}:
        number, _, proto = port.partition("/")
        if not _port_range(number) or proto.lower() not in ("", "tcp", "udp", "sctp"):
            raise InvalidParameter(f"invalid port specification: {port!r}".replace("'", '"'))

    check_health(config.healthcheck or HealthConfig())


def check_environment(entries: Iterable[str]) -> None:
    """Refuse an entry that has no name, or no end. Raises InvalidParameter."""
    for entry in entries:
        if not entry or entry.startswith("="):
            raise InvalidParameter(f"invalid environment variable: {entry}")
        if "\0" in entry:
            raise InvalidParameter("invalid environment variable: it holds a NUL byte")


def check_health(health: HealthConfig) -> None:
    """Refuse times that are too short, and less than no retries. Raises InvalidParameter."""
    for name, value in (
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ):
        if value and value < LEAST_HEALTH_TIME:
            raise InvalidParameter(f"{name} in Healthcheck cannot be less than 1ms")
    if health.retries < 0:
        raise InvalidParameter("Retries in Healthcheck cannot be negative")


def _port_range(text: str) -> bool:
    low, _, high = text.partition("-")
    return all(part.isascii() and part.isdigit() and 0 < int(part) < 65536 for part in (low, high or low))


def check_modes(host: HostConfig, config: ContainerConfig) -> None:
    """Refuse what does not go with the network or UTS mode. Raises InvalidParameter.

    config: as asked for: what an image exposes is no conflict.
    """
    if host.network_mode.split(":")[0] == "container":
        if not host.network_mode.partition(":")[2]:
            raise InvalidParameter("Invalid network mode: invalid container format container:<name|id>")
        if config.hostname:
            raise InvalidParameter("conflicting options: hostname and the network mode")
        if host.links:
            raise InvalidParameter(
                "conflicting options: container type network can't be used with links. "
                "This would result in undefined behavior"
            )
        if host.dns:
            raise InvalidParameter("conflicting options: dns and the network mode")
        if host.extra_hosts:
            raise InvalidParameter("conflicting options: custom host-to-IP mapping and the network mode")
        if config.mac_address:
            raise InvalidParameter("conflicting options: mac-address and the network mode")
        if host.port_bindings or host.publish_all_ports:
            raise InvalidParameter("conflicting options: port publishing and the container type network mode")
        if config.exposed_ports:
            raise InvalidParameter("conflicting options: port exposing and the container type network mode")
    if host.network_mode == "host" and host.links:
        raise InvalidParameter(
            "conflicting options: host type networking can't be used with links. "
            "This would result in undefined behavior"
        )
    if host.uts_mode == "host" and config.hostname:
        raise InvalidParameter("conflicting options: hostname and the UTS mode")
    if host.uts_mode == "host" and config.domainname:
        raise InvalidParameter("conflicting options: domainname and the UTS mode")


def check_users(host: HostConfig, remapped: bool) -> None:
    """Refuse what does not go with a user namespace, where the container would have one. Raises InvalidParameter."""
    if not remapped or host.userns_mode == "host":
        return
    if host.privileged:
        raise InvalidParameter(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace "
            "when running privileged mode"
        )
    if host.network_mode == "host":
        raise InvalidParameter("cannot share the host's network namespace when user namespaces are enabled")
    if host.pid_mode == "host":
        raise InvalidParameter("cannot share the host PID namespace when user namespaces are enabled")


def check_host(host: HostConfig, settings: Config, warnings: list[str]) -> None:
    """Refuse a HostConfig that cannot be. Raises InvalidParameter, PierheadError."""
    check_restart(host)
    limits.check(host, warnings)
    limits.complete(host)
    for kind, mode in (("IPC", host.ipc_mode), ("PID", host.pid_mode), ("UTS", host.uts_mode)):
        if mode in ("", "host", "private", "shareable", "none") or (
            len(mode) > 10 and mode.startswith("container:") and kind != "UTS"
        ):
            continue
        raise InvalidParameter(f"invalid {kind} mode: {mode}")
    if settings.cgroup_driver == "systemd" and host.cgroup_parent and not scopes.valid_slice(host.cgroup_parent):
        raise InvalidParameter('cgroup-parent for systemd cgroup should be a valid slice named as "xxx.slice"')
    if ".." in host.cgroup_parent.split("/") or "\0" in host.cgroup_parent:
        raise InvalidParameter(f"invalid cgroup parent: {host.cgroup_parent}: it leads out of the hierarchy")
    if host.userns_mode not in ("", "host"):
        raise InvalidParameter(f"invalid user namespace mode: {host.userns_mode}")
    if host.cgroupns_mode not in ("", "host", "private"):
        raise InvalidParameter(f"invalid cgroup namespace mode: {host.cgroupns_mode}")
    if host.cgroup:
        raise InvalidParameter(f"invalid cgroup: {host.cgroup}: a container has its own, below CgroupParent")
    if host.isolation.lower() not in ("", "default"):
        raise InvalidParameter(f"Invalid isolation: \"{host.isolation}\" - linux only supports 'default'")
    storage_limit(host)
    for request in host.device_requests or []:
        _check_device_request(request)
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidParameter(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if host.shm_size < 0:
        raise InvalidParameter("SHM size can not be less than 0")
    for key in host.annotations or {}:
        if not key:
            raise InvalidParameter("invalid Annotations: the empty string is not permitted as an annotation key")
    for limit in host.ulimits or []:
        _check_ulimit(limit)
    confinement.check_sysctls(host)
    confinement.program(host, confinement.of(host, settings))
    specs.devices(host)


def _check_device_request(request: DeviceRequest) -> None:
    """No driver for GPUs nor a CDI specification is known here; Docker says so when it starts the container."""
    if request.driver == "cdi":
        devices = ", ".join(request.device_ids or [])
        raise PierheadError(f"CDI device injection failed: unresolvable CDI devices {devices}")
    wanted = " ".join(f"[{' '.join(group)}]" for group in request.capabilities or [])
    raise PierheadError(f'could not select device driver "{request.driver}" with capabilities: [{wanted}]')


def _check_ulimit(limit: Ulimit) -> None:
    if limit.name not in const.RLIMITS:
        raise InvalidParameter(f"invalid ulimit type: {limit.name}")
    if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
        raise InvalidParameter(
            f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}"
        )


def storage_limit(host: HostConfig) -> int:
    """What ``--storage-opt size=…`` lets a container's layer come to have, in bytes; 0: no limit."""
    limit = 0
    for key, value in (host.storage_opt or {}).items():
        if key.lower() != "size":
            raise InvalidParameter(f"Unknown option {key}")
        found = size(value)
        if found is None:
            raise InvalidParameter(f"invalid size: '{value}'")
        limit = found
    return limit


def check_restart(host: HostConfig) -> None:
    """Refuse a restart policy that cannot be. Raises InvalidParameter."""
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
