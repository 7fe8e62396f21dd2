"""What a create or update request may not say, refused in Docker's words before anything is made."""

import os

from pierhead.daemon.jobs import specs
from pierhead.daemon.jobs.lifecycle import signal_number
from pierhead.errors import InvalidParameter, NotFound, PierheadError
from pierhead.graph.importing import host_architecture
from pierhead.manifest import Platform, parse_platform
from pierhead.wire.containers import ContainerConfig, HealthConfig, HostConfig, RestartPolicy

LEAST_MEMORY = 6 * 1024 * 1024
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

    _check_health(config.healthcheck or HealthConfig())


def _check_health(health: HealthConfig) -> None:
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


def check_host(host: HostConfig, warnings: list[str]) -> None:
    """Refuse a HostConfig that cannot be. Raises InvalidParameter, PierheadError."""
    check_restart(host)
    check_limits(host, warnings)
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
    if host.cgroupns_mode not in ("", "host", "private"):
        raise InvalidParameter(f"invalid cgroup namespace mode: {host.cgroupns_mode}")
    if host.isolation.lower() not in ("", "default"):
        raise InvalidParameter(f"Invalid isolation: \"{host.isolation}\" - linux only supports 'default'")
    if host.storage_opt:
        raise InvalidParameter("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")
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


def check_limits(host: HostConfig, warnings: list[str]) -> None:
    """Refuse limits out of range; a swap limit that was not given is set in place. Raises InvalidParameter."""
    if host.memory and host.memory < LEAST_MEMORY:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if host.memory_swap > 0 and not host.memory:
        raise InvalidParameter("You should always set the Memory limit when using Memoryswap limit, see usage")
    if host.memory > 0 and 0 < host.memory_swap < host.memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")
    unified = specs.cgroup_layout().version == 2
    if unified and host.memory_swappiness is not None and host.memory_swappiness >= 0:
        host.memory_swappiness = None
        warnings.append(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. "
            "Memory swappiness discarded."
        )
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
    if unified and host.oom_kill_disable is not None:
        if host.oom_kill_disable:
            warnings.append("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
        host.oom_kill_disable = None
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
